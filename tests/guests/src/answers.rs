//! Answers made of nothing but the request: the proper ones, and those that break off.

use std::fmt::Write;

use wasip2::http::types::{Fields, IncomingRequest, Method, OutgoingResponse, ResponseOutparam, Scheme};

use crate::bodies::{Writer, begin};
use crate::failure::Failure;

/// The period of what `/stream` writes: a prime, so that a lost or doubled piece of a round size is seen.
const STREAM_PERIOD: u8 = 251;

pub(crate) fn text(out: ResponseOutparam, status: u16, text: &str) -> Result<(), Failure> {
    let writer = begin_text(out, status);
    writer.write(text.as_bytes())?;
    writer.finish(None)
}

/// With its length told before, as a client that keeps its connection likes it.
pub(crate) fn whole(out: ResponseOutparam, text: &str) -> Result<(), Failure> {
    let length = text.len().to_string();
    let headers = fields(&[("content-type", "text/plain"), ("content-length", &length)]);
    let writer = begin(out, 200, headers);
    writer.write(text.as_bytes())?;
    writer.finish(None)
}

pub(crate) fn begin_text(out: ResponseOutparam, status: u16) -> Writer {
    begin(out, status, fields(&[("content-type", "text/plain")]))
}

pub(crate) fn fields(list: &[(&str, &str)]) -> Fields {
    let list: Vec<_> =
        list.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    Fields::from_list(&list).expect("subjects that want it refused do it themselves")
}

/// Calls back with each field as `name: value`, in order of the lines.
pub(crate) fn list(fields: &Fields, mut each: impl FnMut(&str)) {
    let mut lines: Vec<String> = fields
        .entries()
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
        .collect();
    lines.sort();
    lines.iter().for_each(|line| each(line));
}

/// So many bytes, each of them its position modulo [`STREAM_PERIOD`].
pub(crate) fn stream(out: ResponseOutparam, bytes: u64) -> Result<(), Failure> {
    let writer = begin(out, 200, fields(&[("content-type", "application/octet-stream")]));
    let block: Vec<u8> = (0..STREAM_PERIOD).cycle().take(usize::from(STREAM_PERIOD) * 256).collect();
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        writer.write(&block[..now])?;
        left -= now as u64;
    }
    writer.finish(None)
}

/// A body with the sum of its bytes behind it.
pub(crate) fn trailers(out: ResponseOutparam) -> Result<(), Failure> {
    let body = b"the sum of these bytes follows\n";
    let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
    let writer = begin(out, 200, fields(&[("content-type", "text/plain"), ("trailer", "x-sum")]));
    writer.write(body)?;
    writer.finish(Some(fields(&[("x-sum", &sum.to_string())])))
}

/// The head of the request as the guest sees it.
pub(crate) fn head(request: &IncomingRequest, out: ResponseOutparam) -> Result<(), Failure> {
    let mut lines = String::new();
    let _ = writeln!(lines, "method {}", method_name(&request.method()));
    let _ = writeln!(lines, "path {}", request.path_with_query().as_deref().unwrap_or("(none)"));
    let _ = writeln!(lines, "scheme {}", request.scheme().map_or("(none)".to_owned(), scheme_name));
    let _ = writeln!(lines, "authority {}", request.authority().as_deref().unwrap_or("(none)"));
    list(&request.headers(), |line| {
        let _ = writeln!(lines, "{line}");
    });
    text(out, 200, &lines)
}

fn method_name(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => name,
    }
}

fn scheme_name(scheme: Scheme) -> String {
    match scheme {
        Scheme::Http => "http".to_owned(),
        Scheme::Https => "https".to_owned(),
        Scheme::Other(name) => name,
    }
}

/// A response whose body is never taken.
pub(crate) fn status(out: ResponseOutparam, status: u16) -> Result<(), Failure> {
    let response = OutgoingResponse::new(Fields::new());
    match response.set_status_code(status) {
        Ok(()) => ResponseOutparam::set(out, Ok(response)),
        Err(()) => return text(out, 500, "the host refuses this status\n"),
    }
    Ok(())
}

/// Five bytes, and no end.
pub(crate) fn abandon(out: ResponseOutparam) -> Result<(), Failure> {
    let writer = begin_text(out, 200);
    writer.write(b"five!")?;
    writer.flush()?;
    drop(writer);
    Ok(())
}

pub(crate) fn trap_late(out: ResponseOutparam) -> Result<(), Failure> {
    let writer = begin_text(out, 200);
    writer.write(b"partial")?;
    writer.flush()?;
    panic!("after a part of the answer, as the path asks");
}

/// Promises one length and writes another. What the host thinks of it goes to stderr.
pub(crate) fn length(out: ResponseOutparam, promised: u64, written: usize) -> Result<(), Failure> {
    let writer = begin(out, 200, fields(&[("content-length", &promised.to_string())]));
    let write = writer.write(&vec![b'x'; written]).map_err(Failure::from);
    let finish = writer.finish(None);
    if let Err(failure) = write {
        eprintln!("/length: write: {failure}");
    }
    if let Err(failure) = finish {
        eprintln!("/length: finish: {failure}");
    }
    Ok(())
}
