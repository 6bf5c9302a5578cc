//! Asks the admin API of a running node: one request on one plain connection, no library needed.
//!
//! Every question says `connection: close`, so that an answer ends with its connection at the latest. Answers come with
//! a length, in chunks, or up to the end; all of them are bounded here, since the address may be that of anybody.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

use crate::Failure;

/// An answer takes milliseconds; a node that needs longer has a problem worth an error.
const PATIENCE: Duration = Duration::from_secs(10);
/// A script is compiled before the node answers: five minutes at most. An object waits for its turn and for the disk.
const PATIENCE_FOR_WORK: Duration = Duration::from_secs(330);
/// Bytes of a body that are sent between two looks at how far it is.
const PIECE_BYTES: usize = 64 << 10;
/// Longest head of an answer.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// Longest answer. Lists of ten thousand scripts and routes stay below it.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Longest line of an endless answer: a guest logs a mebibyte at most, and an escape in JSON takes up to six bytes.
const LINE_BYTES_MAX: u64 = 8 << 20;
/// Longest line that begins a chunk.
const CHUNK_LINE_BYTES_MAX: u64 = 1 << 10;

/// Which node is asked.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Admin {
    /// The admin address of the node.
    #[arg(
        long = "admin",
        env = "BERTH_ADMIN",
        default_value = "http://127.0.0.1:9090",
        value_name = "URL",
        id = "admin",
        value_parser = |text: &str| address(text).map(|_| text.to_owned())
    )]
    pub(crate) url: String,
}

/// `ADDRESS:PORT` of an admin URL.
fn address(url: &str) -> Result<&str, String> {
    let address = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    let is_whole = |address: &&str| {
        let port = address.rsplit_once(':').map(|(_, port)| port);
        port.is_some_and(|port| port.parse::<u16>().is_ok()) && !address.contains('/')
    };
    address
        .filter(is_whole)
        .ok_or_else(|| format!("{url}: write http://ADDRESS:PORT; other schemes are not built yet"))
}

/// What goes to the node beside method and path.
enum Content<'b> {
    Nothing,
    /// Nothing, for an answer that takes work.
    Order,
    Json(&'b Value),
    /// A document, for an answer that may take any time.
    Long(&'b Value),
    Wasm(&'b [u8]),
    File(&'b [u8]),
}

impl Content<'_> {
    fn patience(&self) -> Option<Duration> {
        match self {
            Content::Wasm(_) | Content::File(_) | Content::Order => Some(PATIENCE_FOR_WORK),
            Content::Nothing | Content::Json(_) => Some(PATIENCE),
            Content::Long(_) => None,
        }
    }
}

/// Whether more lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Line,
    Stop,
}

impl Admin {
    /// The body of `GET path`.
    pub(crate) fn get(&self, path: &str) -> Result<String, Failure> {
        self.ask("GET", path, &Content::Nothing)
    }

    /// What the body of `GET path` says.
    pub(crate) fn read(&self, path: &str) -> Result<Value, Failure> {
        self.understand(&self.get(path)?)
    }

    /// `PUT path` with a document, and the answer.
    pub(crate) fn put(&self, path: &str, document: &Value) -> Result<Value, Failure> {
        self.understand(&self.ask("PUT", path, &Content::Json(document))?)
    }

    /// `POST path` with a document, and the answer.
    pub(crate) fn post(&self, path: &str, document: &Value) -> Result<Value, Failure> {
        self.understand(&self.ask("POST", path, &Content::Json(document))?)
    }

    /// `POST path` with a component, and the answer. `sent` is told how many bytes are on their way.
    pub(crate) fn upload(
        &self,
        path: &str,
        component: &[u8],
        mut sent: impl FnMut(u64),
    ) -> Result<Value, Failure> {
        let reply = self.open("POST", path, &Content::Wasm(component), &mut sent)?;
        self.understand(&self.read_whole(reply)?)
    }

    /// `POST path` with a document, and the answer, which may take as long as it takes.
    pub(crate) fn post_long(&self, path: &str, document: &Value) -> Result<Value, Failure> {
        self.understand(&self.ask("POST", path, &Content::Long(document))?)
    }

    /// `POST path` with a file, and the answer.
    pub(crate) fn send_file(&self, path: &str, file: &[u8]) -> Result<Value, Failure> {
        self.understand(&self.ask("POST", path, &Content::File(file))?)
    }

    /// Writes the body of `GET path`, whatever its size. How many bytes it has.
    pub(crate) fn fetch_file(&self, path: &str, out: &mut dyn Write) -> Result<u64, Failure> {
        let mut body = self.open("GET", path, &Content::Order, &mut |_| {})?.into_body()?;
        let (mut piece, mut bytes) = (vec![0; PIECE_BYTES], 0);
        loop {
            let read = body.read(&mut piece);
            let read =
                read.map_err(|error| format!("the answer of the node at {} breaks off: {error}", self.url))?;
            if read == 0 {
                return Ok(bytes);
            }
            out.write_all(&piece[..read])?;
            bytes += read as u64;
        }
    }

    /// `DELETE path`.
    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        self.ask("DELETE", path, &Content::Nothing).map(drop)
    }

    /// `POST path` without a document, for an answer without one.
    pub(crate) fn order(&self, path: &str) -> Result<(), Failure> {
        self.ask("POST", path, &Content::Nothing).map(drop)
    }

    fn understand(&self, answer: &str) -> Result<Value, Failure> {
        Ok(serde_json::from_str(answer).map_err(|error| {
            format!("the answer of {} is no JSON: {error}; is this the admin address of a node?", self.url)
        })?)
    }

    /// Gives each line of the endless `GET path` to `each`, until that wants no more or the node ends it.
    pub(crate) fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> Result<Next, Failure>,
    ) -> Result<(), Failure> {
        let reply = self.open("GET", path, &Content::Nothing, &mut |_| {})?;
        // Between two lines any time may pass.
        reply.connection.get_ref().set_read_timeout(None)?;
        let mut body = BufReader::new(reply.into_body()?);
        loop {
            let mut line = String::new();
            let bytes = body.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
            if bytes == 0 {
                return Ok(());
            }
            if bytes as u64 == LINE_BYTES_MAX {
                return Err(format!("a line of the node's answer has {LINE_BYTES_MAX} bytes or more").into());
            }
            if !line.trim().is_empty() && each(line.trim_end())? == Next::Stop {
                return Ok(());
            }
        }
    }

    /// Asks, and reads an answer that is good.
    fn ask(&self, method: &str, path: &str, content: &Content<'_>) -> Result<String, Failure> {
        self.read_whole(self.open(method, path, content, &mut |_| {})?)
    }

    fn read_whole(&self, reply: Reply) -> Result<String, Failure> {
        let (mut text, url) = (String::new(), &self.url);
        let bytes = reply
            .into_body()?
            .take(ANSWER_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|error| format!("the answer of the node at {url} breaks off: {error}"))?;
        if bytes as u64 > ANSWER_BYTES_MAX {
            return Err(format!("the answer of the node has more than {ANSWER_BYTES_MAX} bytes").into());
        }
        Ok(text)
    }

    /// Sends a question, and reads the head of the answer.
    fn open(
        &self,
        method: &str,
        path: &str,
        content: &Content<'_>,
        sent: &mut dyn FnMut(u64),
    ) -> Result<Reply, Failure> {
        let url = &self.url;
        let address = address(url)?;
        let unreachable = |error: io::Error| {
            format!(
                "no node answers at {url}: {error}; is it running, and is --admin (or BERTH_ADMIN) right?"
            )
        };
        let target =
            address.to_socket_addrs().map_err(unreachable)?.next().ok_or("the admin address names nobody")?;
        let stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(unreachable)?;
        stream.set_read_timeout(content.patience())?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // A node that refuses may answer before it has read everything: the answer says more than the failed write.
        let outcome = send(&stream, method, path, address, content, sent);
        match (Reply::read(BufReader::new(stream)), outcome) {
            (Ok(reply), _) => Ok(reply),
            (Err(_), Err(error)) => Err(unreachable(error).into()),
            (Err(failure), Ok(())) => Err(format!("the node at {url} does not answer: {failure}").into()),
        }
    }
}

fn send(
    mut stream: &TcpStream,
    method: &str,
    path: &str,
    host: &str,
    content: &Content<'_>,
    sent: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let text;
    let (kind, body): (&str, &[u8]) = match content {
        Content::Nothing | Content::Order => ("", &[]),
        Content::Json(document) | Content::Long(document) => {
            text = document.to_string();
            ("application/json", text.as_bytes())
        }
        Content::Wasm(component) => ("application/wasm", component),
        Content::File(file) => ("application/octet-stream", file),
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    if !kind.is_empty() {
        head += &format!("content-type: {kind}\r\ncontent-length: {}\r\n", body.len());
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    let mut done = 0;
    for piece in body.chunks(PIECE_BYTES) {
        sent(done);
        stream.write_all(piece)?;
        done += piece.len() as u64;
    }
    sent(done);
    Ok(())
}

/// The head of an answer, and the connection that its body is still in.
struct Reply {
    status: u16,
    framing: Framing,
    connection: BufReader<TcpStream>,
}

/// How far a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// Chunks; so many bytes of this one are left. `first` has no end of a chunk before it.
    Chunks { left: u64, first: bool },
    /// Up to the end of the connection.
    ToTheEnd,
    /// It has ended.
    Over,
}

impl Reply {
    /// Reads a head. Heads of interim answers (1xx) are skipped.
    fn read(mut connection: BufReader<TcpStream>) -> Result<Self, Failure> {
        let mut left = HEAD_BYTES_MAX;
        loop {
            let status = head_line(&mut connection, &mut left)?;
            let status: u16 = status
                .strip_prefix("HTTP/1.")
                .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
                .ok_or("its answer is not HTTP/1.1; is this an admin address?")?;
            let mut framing = Framing::ToTheEnd;
            loop {
                let line = head_line(&mut connection, &mut left)?;
                let Some((name, value)) = line.split_once(':') else { break };
                if name.eq_ignore_ascii_case("transfer-encoding") {
                    framing = Framing::Chunks { left: 0, first: true };
                } else if name.eq_ignore_ascii_case("content-length") && framing == Framing::ToTheEnd {
                    framing = Framing::Length(value.trim().parse()?);
                }
            }
            match status {
                100..=199 => {}
                204 => return Ok(Self { status, framing: Framing::Over, connection }),
                _ => return Ok(Self { status, framing, connection }),
            }
        }
    }

    /// The body of a good answer, or what the node has against the question.
    fn into_body(self) -> Result<Body, Failure> {
        let Self { status, framing, connection } = self;
        let body = Body { framing, connection };
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let mut text = Vec::new();
        let _ = body.take(ANSWER_BYTES_MAX).read_to_end(&mut text);
        Err(refusal(status, &String::from_utf8_lossy(&text)).into())
    }
}

/// What the node has against a question, for people. Details of several mistakes have a line each.
fn refusal(status: u16, body: &str) -> String {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    match (problem["detail"].as_str(), problem["title"].as_str()) {
        (Some(detail), _) if detail.trim().contains('\n') => {
            format!("the node refuses ({status}):\n  {}", detail.trim().replace('\n', "\n  "))
        }
        (Some(detail), _) => format!("the node refuses ({status}): {detail}"),
        (None, Some(title)) => format!("the node refuses ({status}): {title}"),
        (None, None) => format!("the node answered {status}: {}", body.trim()),
    }
}

/// A line of a head, without its end.
fn head_line(connection: &mut BufReader<TcpStream>, left: &mut u64) -> Result<String, Failure> {
    let mut line = String::new();
    let bytes = connection.by_ref().take(*left).read_line(&mut line)?;
    *left -= bytes as u64;
    match line.ends_with('\n') {
        true => Ok(line.trim_end().to_owned()),
        false if *left == 0 => Err("the head of its answer is too long".into()),
        false => Err("the connection ended before an answer".into()),
    }
}

/// The body of an answer.
struct Body {
    framing: Framing,
    connection: BufReader<TcpStream>,
}

impl Body {
    /// Goes to the first byte of the next chunk, and tells its size.
    fn begin_chunk(&mut self, first: bool) -> io::Result<u64> {
        let mut line = self.short_line()?;
        if !first && line.trim().is_empty() {
            line = self.short_line()?;
        }
        let size = line.split(';').next().unwrap_or("").trim();
        u64::from_str_radix(size, 16)
            .map_err(|_| io::Error::other(format!("`{size}` is not the size of a chunk")))
    }

    fn short_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.connection.by_ref().take(CHUNK_LINE_BYTES_MAX).read_line(&mut line)?;
        Ok(line)
    }

    /// Reads at most `left` bytes; the end of the connection is an error.
    fn read_some(&mut self, into: &mut [u8], left: u64) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match self.connection.read(&mut into[..most])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => Ok(bytes),
        }
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        match self.framing {
            Framing::Over | Framing::Length(0) => Ok(0),
            Framing::ToTheEnd => self.connection.read(into),
            Framing::Length(left) => {
                let bytes = self.read_some(into, left)?;
                self.framing = Framing::Length(left - bytes as u64);
                Ok(bytes)
            }
            Framing::Chunks { left: 0, first } => match self.begin_chunk(first)? {
                0 => {
                    // Trailers are not read: the connection ends here.
                    self.framing = Framing::Over;
                    Ok(0)
                }
                left => {
                    self.framing = Framing::Chunks { left, first: false };
                    self.read(into)
                }
            },
            Framing::Chunks { left, .. } => {
                let bytes = self.read_some(into, left)?;
                self.framing = Framing::Chunks { left: left - bytes as u64, first: false };
                Ok(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// A node that answers one question with these bytes, and hands out what it was asked.
    fn node(answer: &'static [u8]) -> (Admin, JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut piece = [0; 4096];
            loop {
                let bytes = stream.read(&mut piece).unwrap();
                asked.extend_from_slice(&piece[..bytes]);
                let text = String::from_utf8_lossy(&asked);
                let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                let length: usize = length.map_or(0, |length| length.parse().unwrap());
                if head.len() < text.len() && body.len() >= length {
                    break;
                }
            }
            stream.write_all(answer).unwrap();
            asked
        });
        (Admin { url }, asked)
    }

    #[test]
    fn an_answer_may_have_a_length_chunks_or_an_end() {
        for answer in [
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloXXXX".as_slice(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nhello",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        ] {
            let (admin, asked) = node(answer);
            assert_eq!(admin.get("/v1/x").unwrap(), "hello");
            let asked = String::from_utf8(asked.join().unwrap()).unwrap();
            assert!(asked.starts_with("GET /v1/x HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_with_a_guess() {
        let failure = node(b"HTTP/1.1 200 OK\r\n\r\n<html>").0.read("/v1/zones").unwrap_err().to_string();
        assert!(failure.contains("is no JSON") && failure.contains("is this the admin address"), "{failure}");
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        for (answer, word) in [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell".as_slice(), "breaks off"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhell", "breaks off"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnine\r\nhell", "size of a chunk"),
            (b"HTTP/1.1 200 OK\r\ncontent-le", "ended before an answer"),
            (b"SSH-2.0-hello\r\n", "is this an admin address?"),
            (b"", "ended before an answer"),
        ] {
            let failure = node(answer).0.get("/").unwrap_err().to_string();
            assert!(failure.contains(word), "{failure}");
        }
    }

    #[test]
    fn bodies_go_with_their_type_and_length() {
        let (admin, asked) = node(b"HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\n{\"id\":\"a\"}");
        let mut seen = Vec::new();
        let answer = admin.upload("/v1/scripts", b"\0asm", |sent| seen.push(sent)).unwrap();
        assert_eq!((&answer["id"], seen), (&"a".into(), vec![0, 4]));
        let asked = asked.join().unwrap();
        assert!(asked.ends_with(b"content-type: application/wasm\r\ncontent-length: 4\r\n\r\n\0asm"));

        let (admin, asked) = node(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"version\":2}");
        assert_eq!(admin.put("/v1/zones/a", &serde_json::json!({"hosts": []})).unwrap()["version"], 2);
        assert!(asked.join().unwrap().ends_with(b"content-length: 12\r\n\r\n{\"hosts\":[]}"));

        node(b"HTTP/1.1 204 No Content\r\n\r\n").0.delete("/v1/zones/a").unwrap();
    }

    #[test]
    fn a_refusal_shows_what_the_node_says() {
        let problem = b"HTTP/1.1 409 Conflict\r\ncontent-type: application/problem+json\r\n\r\n\
            {\"title\":\"Conflict\",\"status\":409,\"detail\":\"zone a uses it\"}";
        let failure = node(problem).0.delete("/v1/scripts/0").unwrap_err().to_string();
        assert_eq!(failure, "the node refuses (409): zone a uses it");
        assert_eq!(refusal(422, r#"{"detail":"one\ntwo\n"}"#), "the node refuses (422):\n  one\n  two");
        assert_eq!(refusal(500, "oh"), "the node answered 500: oh");
    }

    #[test]
    fn lines_come_one_by_one_until_no_more_are_wanted() {
        let chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
            7\r\n{\"a\":1}\r\n3\r\n\n\n{\r\n6\r\n\"b\":2}\r\n1\r\n\n\r\n0\r\n\r\n";
        let mut lines = Vec::new();
        let take = |line: &str| {
            lines.push(line.to_owned());
            Ok(Next::Line)
        };
        node(chunks).0.lines("/v1/tail", take).unwrap();
        assert_eq!(lines, ["{\"a\":1}", "{\"b\":2}"]);

        let mut count = 0;
        let stop = |_: &str| {
            count += 1;
            Ok(Next::Stop)
        };
        node(chunks).0.lines("/v1/tail", stop).unwrap();
        assert_eq!(count, 1);
    }

    #[test]
    fn nobody_at_home_says_what_to_do() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let failure = Admin { url: format!("http://{free}") }.get("/").unwrap_err().to_string();
        assert!(failure.contains("is it running"), "{failure}");
        for url in ["https://x:1", "127.0.0.1:9090", "http://127.0.0.1", "http://x:y", "http://x:1/v1", ""] {
            let failure = Admin { url: url.to_owned() }.get("/").unwrap_err().to_string();
            assert!(failure.contains("write http://ADDRESS:PORT"), "{failure}");
        }
        assert_eq!(address("http://[::1]:9090/"), Ok("[::1]:9090"));
    }
}
