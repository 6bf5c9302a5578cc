//! Asks the admin API of a running node: one GET over a plain socket, no library needed.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::Failure;

/// An answer takes milliseconds; a node that needs longer has a problem worth an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of `GET {admin}{path}`.
pub(crate) fn get(admin: &str, path: &str) -> Result<String, Failure> {
    let address = admin
        .strip_prefix("http://")
        .ok_or_else(|| {
            format!("--admin {admin}: write http://ADDRESS:PORT; other schemes are not built yet")
        })?
        .trim_end_matches('/');
    let unreachable = |error: std::io::Error| {
        format!("no node answers at {admin}: {error}; is it running, and is --admin (or BERTH_ADMIN) right?")
    };
    let target =
        address.to_socket_addrs().map_err(unreachable)?.next().ok_or("the admin address names nobody")?;
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the node's answer has no head")?;
    let status = head.split(' ').nth(1).unwrap_or("");
    if status != "200" {
        return Err(format!("the node answered {status}: {}", body.trim()).into());
    }
    Ok(body.to_owned())
}
