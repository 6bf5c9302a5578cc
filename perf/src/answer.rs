//! The little HTTP/1.1 that the harness speaks itself: one request, and knowing when its answer is complete.
//!
//! Enough for a load generator on loopback against servers that we start: an answer without `content-length` is
//! refused, because then its end could not be known on a connection that stays open.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Serialize;

use crate::quic::swarm::SwarmError;

/// What one answer weighs. Two peers are compared fairly only when these are about equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line, headers and the empty line; the field section in HTTP/3; nothing in the bare dialect.
    pub(crate) head_bytes: usize,
    pub(crate) body_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("could not ask {address} for /")]
    Io { address: SocketAddr, source: std::io::Error },
    #[error("{address} did not answer with HTTP/1.1, a status and a content-length: {head:?}")]
    NotHttp { address: SocketAddr, head: String },
    #[error("could not ask {address} for / over QUIC")]
    Quic { address: SocketAddr, source: SwarmError },
}

/// The request of all our clients: what wrk sends, so that probes see the same answer.
pub(crate) fn request(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// `Ok(None)` while bytes are missing; an error when the bytes are no answer that we understand.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Answer>, ()> {
    let Some(head_end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head_bytes = head_end + 4;
    let head = std::str::from_utf8(&bytes[..head_end]).map_err(drop)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or(())?;
    let status = status.get(..3).and_then(|code| code.parse().ok()).ok_or(())?;
    let body_bytes = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or(())?;
    Ok((bytes.len() - head_bytes >= body_bytes).then_some(Answer { status, head_bytes, body_bytes }))
}

/// Asks once, over a fresh plain connection.
pub(crate) fn probe(address: SocketAddr, path: &str) -> Result<Answer, AnswerError> {
    let io = |source| AnswerError::Io { address, source };
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(io)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(io)?;
    stream.write_all(&request(&address.to_string(), path)).map_err(io)?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let not_http = |bytes: &[u8]| AnswerError::NotHttp {
            address,
            head: String::from_utf8_lossy(bytes).into_owned(),
        };
        match parse(&bytes) {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(()) => return Err(not_http(&bytes)),
        }
        match stream.read(&mut chunk).map_err(io)? {
            0 => return Err(not_http(&bytes)),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\nx: y\r\n\r\nhello";

    #[test]
    fn an_answer_is_complete_with_its_last_byte_and_not_before() {
        for cut in 0..ANSWER.len() {
            assert_eq!(parse(&ANSWER[..cut]), Ok(None), "cut at {cut}");
        }
        let answer = Answer { status: 200, head_bytes: ANSWER.len() - 5, body_bytes: 5 };
        assert_eq!(parse(ANSWER), Ok(Some(answer)));
    }

    #[test]
    fn what_we_do_not_understand_is_an_error_and_never_a_hang() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"), Err(()));
        assert_eq!(parse(b"SSH-2.0-x\r\n\r\n"), Err(()));
        assert_eq!(parse(b"HTTP/1.1 2\r\ncontent-length: 0\r\n\r\n"), Err(()));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"), Err(()));
    }
}
