//! Headers that a host must bound, and those that it must refuse.

use std::fmt::Write;

use wasip2::http::types::{Fields, HeaderError, IncomingRequest, ResponseOutparam};

use crate::answers;
use crate::bodies::begin;
use crate::failure::Failure;

/// What `/split` tries: what the line of the report calls it, a name, and a value.
const TRIES: &[(&str, &str, &[u8])] = &[
    ("plain", "x-plain", b"value"),
    ("crlf-in-value", "x-split", b"a\r\nx-smuggled: 1"),
    ("cr-in-value", "x-split", b"a\rb"),
    ("lf-in-value", "x-split", b"a\nx-smuggled: 1"),
    ("nul-in-value", "x-split", b"a\0b"),
    ("crlf-in-name", "x-split: a\r\nx-smuggled", b"1"),
    ("colon-in-name", "x-split:", b"1"),
    ("space-in-name", "x split", b"1"),
    ("empty-name", "", b"1"),
    ("connection", "connection", b"close"),
    ("keep-alive", "keep-alive", b"timeout=5"),
    ("proxy-connection", "proxy-connection", b"close"),
    ("proxy-authenticate", "proxy-authenticate", b"Basic"),
    ("proxy-authorization", "proxy-authorization", b"Basic YTpi"),
    ("transfer-encoding", "transfer-encoding", b"chunked"),
    ("Transfer-Encoding", "Transfer-Encoding", b"chunked"),
    ("upgrade", "upgrade", b"websocket"),
    ("host", "host", b"elsewhere.example"),
    ("http2-settings", "http2-settings", b"AAMAAABkAAQAAP__"),
];

/// So many headers, `x-0` and on.
pub(crate) fn many(out: ResponseOutparam, count: u32) -> Result<(), Failure> {
    let headers = Fields::new();
    for index in 0..count {
        if let Err(error) = headers.append(&format!("x-{index}"), b"value") {
            return answers::text(out, 500, &format!("header {index}: {}\n", name(error)));
        }
    }
    begin(out, 200, headers).finish(None)
}

/// One header whose value has so many bytes.
pub(crate) fn large(out: ResponseOutparam, bytes: usize) -> Result<(), Failure> {
    let headers = Fields::new();
    if let Err(error) = headers.set("x-large", &[vec![b'x'; bytes]]) {
        return answers::text(out, 500, &format!("{}\n", name(error)));
    }
    begin(out, 200, headers).finish(None)
}

/// Tries all of [`TRIES`] by each way that there is to set a header, then to change the head of the request. What the
/// host took goes into the answer as headers, so that the client sees what became of it.
pub(crate) fn split(request: &IncomingRequest, out: ResponseOutparam) -> Result<(), Failure> {
    let headers = Fields::new();
    let mut report = String::new();
    for (label, name, value) in TRIES {
        let value = value.to_vec();
        let listed = Fields::from_list(&[((*name).to_owned(), value.clone())]).map(drop);
        tell(&mut report, label, "set", headers.set(name, std::slice::from_ref(&value)));
        tell(&mut report, label, "append", headers.append(name, &value));
        tell(&mut report, label, "from-list", listed);
    }
    let frozen = request.headers();
    tell(&mut report, "request-header", "set", frozen.set("x-plain", &[b"value".to_vec()]));
    tell(&mut report, "request-header", "append", frozen.append("x-plain", b"value"));
    tell(&mut report, "request-header", "delete", frozen.delete("x-plain"));

    let writer = begin(out, 200, headers);
    writer.write(report.as_bytes())?;
    writer.finish(None)
}

fn tell(report: &mut String, label: &str, how: &str, result: Result<(), HeaderError>) {
    let _ = writeln!(report, "{label} {how}: {}", result.err().map_or("ok", name));
}

fn name(error: HeaderError) -> &'static str {
    match error {
        HeaderError::InvalidSyntax => "invalid-syntax",
        HeaderError::Forbidden => "forbidden",
        HeaderError::Immutable => "immutable",
    }
}
