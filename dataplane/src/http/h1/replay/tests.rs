//! Streams of pipelined requests, whole and in pieces, beside a model of their sender.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A request that is right, as its sender thinks of it.
#[derive(Clone, Debug)]
struct Sent {
    method: &'static str,
    target: String,
    fields: Vec<(String, String)>,
    body: SentBody,
    /// Empty lines before it.
    empty_lines: usize,
}

#[derive(Clone, Debug)]
enum SentBody {
    None,
    Sized(String),
    Chunked { chunks: Vec<String>, extension: &'static str, trailer: Option<String> },
}

impl Sent {
    fn write(&self, out: &mut String) {
        let Self { method, target, .. } = self;
        out.push_str(&"\r\n".repeat(self.empty_lines));
        write!(out, "{method} {target} HTTP/1.1\r\nHost: a.example\r\n").unwrap();
        for (name, value) in &self.fields {
            write!(out, "{name}: {value}\r\n").unwrap();
        }
        match &self.body {
            SentBody::None => out.push_str("\r\n"),
            SentBody::Sized(data) => write!(out, "Content-Length: {}\r\n\r\n{data}", data.len()).unwrap(),
            SentBody::Chunked { chunks, extension, trailer } => {
                out.push_str("Transfer-Encoding: chunked\r\n\r\n");
                for chunk in chunks {
                    write!(out, "{:X}{extension}\r\n{chunk}\r\n", chunk.len()).unwrap();
                }
                let trailer =
                    trailer.as_ref().map_or_else(String::new, |value| format!("x-sum: {value}\r\n"));
                write!(out, "0\r\n{trailer}\r\n").unwrap();
            }
        }
    }
}

/// What a connection gets, in the terms of the sender.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    data: String,
    trailer: Option<String>,
}

impl From<&Sent> for Got {
    fn from(sent: &Sent) -> Self {
        let (data, trailer) = match &sent.body {
            SentBody::None => (String::new(), None),
            SentBody::Sized(data) => (data.clone(), None),
            SentBody::Chunked { chunks, trailer, .. } => (chunks.concat(), trailer.clone()),
        };
        Self {
            method: sent.method.into(),
            target: sent.target.clone(),
            fields: sent.fields.clone(),
            data,
            trailer,
        }
    }
}

/// Reads all requests of the pieces.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Got> {
    let (mut heads, mut body, mut buffer) = (HeadParser::default(), None::<BodyDecoder>, BytesMut::new());
    let mut all: Vec<Got> = vec![];
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let Some(decoder) = &mut body else {
                let Some(head) = heads.parse(&mut buffer, LIMITS.trailers).unwrap() else { break };
                let fields = head.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-"));
                all.push(Got {
                    method: head.method.to_string(),
                    target: String::from_utf8(head.target.to_vec()).unwrap(),
                    fields: fields.map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect(),
                    ..Got::default()
                });
                body = Some(BodyDecoder::new(head.body, LIMITS).unwrap());
                continue;
            };
            let got = all.last_mut().unwrap();
            match decoder.decode(&mut buffer).unwrap() {
                Decoded::Data(data) => got.data.push_str(std::str::from_utf8(&data).unwrap()),
                Decoded::Trailers(fields) => got.trailer = Some(fields["x-sum"].to_str().unwrap().to_owned()),
                Decoded::Done => body = None,
                Decoded::NeedMore => break,
            }
        }
    }
    assert!(body.is_none() && buffer.is_empty(), "all was read");
    all
}

fn sent() -> impl Strategy<Value = Sent> {
    let data = || "[ -~\r\n]{1,40}";
    let body = prop_oneof![
        Just(SentBody::None),
        data().prop_map(SentBody::Sized),
        (
            vec(data(), 0..4),
            prop_oneof![Just(""), Just(";a=\"b\""), Just("; c")],
            prop::option::of("[a-z]{1,5}")
        )
            .prop_map(|(chunks, extension, trailer)| SentBody::Chunked {
                chunks,
                extension,
                trailer
            }),
    ];
    let field = ("x-[a-z]{1,3}", "([!-~]([ \t!-~]{0,6}[!-~])?)?");
    (
        prop_oneof![Just("GET"), Just("POST"), Just("PUT"), Just("x-own")],
        "/[!-~]{0,12}",
        vec(field, 0..4).prop_map(|fields| in_order_of_first_name(&fields)),
        body,
        0usize..=2,
    )
        .prop_map(|(method, target, fields, body, empty_lines)| Sent {
            method,
            target,
            fields,
            body,
            empty_lines,
        })
}

/// As a header map iterates: all values of a name together.
fn in_order_of_first_name(fields: &[(String, String)]) -> Vec<(String, String)> {
    let mut names: Vec<String> = vec![];
    for (name, _) in fields {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let of = |name: &String| fields.iter().filter(|field| field.0 == *name).cloned().collect::<Vec<_>>();
    names.iter().flat_map(of).collect()
}

/// Cuts bytes at the positions, which may be in any order and too large.
fn cut(bytes: &[u8], mut positions: Vec<usize>) -> Vec<&[u8]> {
    positions.iter_mut().for_each(|position| *position %= bytes.len() + 1);
    positions.extend([0, bytes.len()]);
    positions.sort_unstable();
    positions.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// One change to a stream, as an attacker would try.
fn spoil(bytes: &mut Vec<u8>, at: usize, with: &[u8], instead_of: usize) {
    let start = at % (bytes.len() + 1);
    let end = (start + instead_of).min(bytes.len());
    bytes.splice(start..end, with.iter().copied());
}

/// What makes parsers stumble, rather than any byte.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 28] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\0",
        b":",
        b",",
        b";",
        b"0",
        b"5",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"GET / HTTP/1.1\r\n",
        b"POST /x HTTP/1.0\r\n",
        b"host: a\r\n",
        b"content-length: 5\r\n",
        b"\r\n\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"expect: 100-continue\r\n",
        b"x: y\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"hello",
        b"ffffffffffffffff",
        b"\xe9",
        b"http://b",
        b" folded\r\n",
    ];
    prop_oneof![8 => prop::sample::select(&PIECES[..]).prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..4)]
}

proptest! {
    #[test]
    fn pipelined_requests_are_read_the_same_however_they_are_cut(
        all in vec(sent(), 1..6),
        positions in vec(any::<usize>(), 0..20),
    ) {
        let mut wire = String::new();
        all.iter().for_each(|sent| sent.write(&mut wire));
        let expected: Vec<_> = all.iter().map(Got::from).collect();
        prop_assert_eq!(&read(cut(wire.as_bytes(), positions).into_iter()), &expected);
        prop_assert_eq!(&read(wire.as_bytes().chunks(1)), &expected);
    }

    #[test]
    fn spoilt_requests_are_refused_the_same_however_they_are_cut(
        all in vec(sent(), 1..4),
        spoilt in vec((any::<usize>(), piece(), 0usize..3), 1..4),
        seed in any::<u8>(),
    ) {
        let mut wire = String::new();
        all.iter().for_each(|sent| sent.write(&mut wire));
        let mut bytes = wire.into_bytes();
        spoilt.iter().for_each(|(at, with, instead_of)| spoil(&mut bytes, *at, with, *instead_of));
        bytes.insert(0, seed);
        fuzz_logic(&bytes);
    }

    #[test]
    fn no_bytes_panic(pieces in vec(piece(), 0..40), seed in any::<u8>()) {
        fuzz_logic(&[&[seed], pieces.concat().as_slice()].concat());
    }

    /// A reader that we did not write, and a laxer one, sees the same requests in what we accept.
    #[test]
    fn httparse_agrees_about_every_head_that_is_accepted(
        sent in sent(),
        spoilt in vec((any::<usize>(), piece(), 0usize..3), 0..3),
    ) {
        let mut wire = String::new();
        Sent { empty_lines: 0, ..sent }.write(&mut wire);
        let mut bytes = wire.into_bytes();
        spoilt.iter().for_each(|(at, with, instead_of)| spoil(&mut bytes, *at, with, *instead_of));
        let mut buffer = BytesMut::from(&bytes[..]);
        if let Ok(Some(head)) = HeadParser::default().parse(&mut buffer, LIMITS.trailers)
            && head.target.is_ascii()
        {
            let mut slots = [httparse::EMPTY_HEADER; 16];
            let mut request = httparse::Request::new(&mut slots);
            let length = bytes.len() - buffer.len();
            prop_assert_eq!(request.parse(&bytes), Ok(httparse::Status::Complete(length)));
            prop_assert_eq!(request.method, Some(head.method.as_str()));
            prop_assert_eq!(request.path.map(str::as_bytes), Some(&head.target[..]));
            prop_assert_eq!(request.headers.len(), head.headers.len());
        }
    }
}

#[test]
fn the_ends_of_a_stream() {
    let told = |bytes: &[u8]| replay([bytes].into_iter());
    assert!(told(b"GET / HTTP/1.0\r\n\r\nGET /").ends_with("\nclosed\n"), "what follows is not looked at");
    assert!(told(b"GET / HTTP/1.1\r\n\r\n").ends_with("\nhost_missing\n"));
    assert!(
        told(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 201\r\n\r\n").ends_with("\nbody_too_large\n")
    );
    assert_eq!(told(b"GET / HTTP/1.1\r\nhost"), "");
    fuzz_logic(b"");
    fuzz_logic(b"\0");
}
