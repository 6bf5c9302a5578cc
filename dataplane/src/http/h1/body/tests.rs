//! Bodies: the table of framings, and every way to cut them into pieces.

use proptest::prelude::*;

use super::super::response::{CHUNK_END, ChunkHead, LAST_CHUNK, end_chunks};
use super::*;

const LIMITS: BodyLimits = BodyLimits { bytes: 100, trailers: HeaderLimits { bytes: 128, count: 2 } };

/// A body as a handler gets it, and what was left in the buffer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Whole {
    data: Vec<u8>,
    trailers: HeaderMap,
    rest: Vec<u8>,
}

/// Decodes a body that comes in the pieces; `None` if it is cut off.
fn decode<'a>(
    length: BodyLength,
    limits: BodyLimits,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<Whole>, BodyError> {
    let mut decoder = BodyDecoder::new(length, limits)?;
    let mut buffer = BytesMut::new();
    let mut whole = Whole::default();
    let mut done = false;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while !done {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(data) => whole.data.extend_from_slice(&data),
                Decoded::Trailers(trailers) => whole.trailers = trailers,
                Decoded::Done => done = true,
                Decoded::NeedMore => break,
            }
        }
    }
    whole.rest = buffer.to_vec();
    Ok(done.then_some(whole))
}

/// Decodes chunks whole and byte by byte, which must be the same.
fn decode_chunks(bytes: &[u8]) -> Result<Option<Whole>, BodyError> {
    let whole = decode(BodyLength::Chunked, LIMITS, [bytes].into_iter());
    assert_eq!(decode(BodyLength::Chunked, LIMITS, bytes.chunks(1)), whole, "{}", bytes.escape_ascii());
    whole
}

#[test]
fn a_sized_body_ends_where_the_head_said() {
    let read = |length, bytes: &'static [u8]| decode(length, LIMITS, [bytes].into_iter()).unwrap();
    let whole = |data: &[u8], rest: &[u8]| {
        Some(Whole { data: data.to_vec(), trailers: HeaderMap::new(), rest: rest.to_vec() })
    };
    assert_eq!(read(BodyLength::Sized(5), b"helloGET /"), whole(b"hello", b"GET /"));
    assert_eq!(read(BodyLength::Sized(5), b"hell"), None);
    assert_eq!(read(BodyLength::None, b"GET /"), whole(b"", b"GET /"));
    assert_eq!(read(BodyLength::Sized(0), b"GET /"), whole(b"", b"GET /"));
}

#[test]
fn chunks_that_are_accepted() {
    let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(usize::from(EXTENSION_BYTES_MAX) - 1));
    let table: [(&str, &[u8], &[u8]); 11] = [
        ("no chunk", b"0\r\n\r\n", b""),
        ("a chunk", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("data that look like framing", b"6\r\n0\r\n\r\n!\r\n0\r\n\r\n", b"0\r\n\r\n!"),
        ("upper and lower case", b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
        ("leading zeros", b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("many zeros at the end", b"0000000000000000\r\n\r\n", b""),
        ("an extension", b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello"),
        ("an empty extension", b"1;\r\na\r\n0\r\n\r\n", b"a"),
        ("a quoted extension", b"1; a=\"b;\t\xe9\"\r\na\r\n0\r\n\r\n", b"a"),
        ("the longest extension", long_extension.as_bytes(), b"a"),
        ("a size line in the data", b"3\r\n5\r\n\r\n0\r\n\r\n", b"5\r\n"),
    ];
    for (name, bytes, data) in table {
        let whole = decode_chunks(bytes).unwrap().unwrap_or_else(|| panic!("{name} does not end"));
        assert_eq!((whole.data.as_slice(), whole.rest.as_slice()), (data, &b""[..]), "{name}");
    }
}

#[test]
fn chunks_that_are_refused_and_why() {
    let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(usize::from(EXTENSION_BYTES_MAX)));
    let table: [(&str, &[u8], BodyError); 33] = [
        ("0x10", b"0x10\r\n", BodyError::ChunkSize),
        ("+5", b"+5\r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize),
        ("-1", b"-1\r\n", BodyError::ChunkSize),
        ("no digit", b"\r\n\r\n", BodyError::ChunkSize),
        ("no digit before an extension", b";a\r\n", BodyError::ChunkSize),
        ("a letter that is no digit", b"g\r\n", BodyError::ChunkSize),
        ("a space before the size", b" 5\r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize),
        ("a space behind the size", b"5 \r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize),
        ("a tab behind the size", b"5\t\r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize),
        ("a space before an extension", b"5 ;a\r\nhello\r\n0\r\n\r\n", BodyError::ChunkSize),
        ("a space inside the size", b"1 0\r\n", BodyError::ChunkSize),
        ("an underscore in the size", b"1_0\r\n", BodyError::ChunkSize),
        ("a comma in the size", b"5,5\r\n", BodyError::ChunkSize),
        ("NUL behind the size", b"5\0\r\n", BodyError::ChunkSize),
        ("a digit beyond ASCII", b"\xd9\xa5\r\n", BodyError::ChunkSize),
        ("seventeen digits", b"00000000000000005\r\n", BodyError::ChunkSize),
        ("2^64 + 5", b"10000000000000005\r\n", BodyError::ChunkSize),
        ("2^64 - 1", b"ffffffffffffffff\r\n", BodyError::TooLarge),
        ("LF behind the size", b"5\nhello\r\n0\r\n\r\n", BodyError::BareLineFeed),
        ("LF behind an extension", b"5;a\nhello\r\n0\r\n\r\n", BodyError::BareLineFeed),
        ("LF in a quoted extension", b"5;a=\"\n\"\r\nhello\r\n0\r\n\r\n", BodyError::BareLineFeed),
        ("CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n", BodyError::BareCarriageReturn),
        ("CR behind the size", b"5\rhello\r\n0\r\n\r\n", BodyError::BareCarriageReturn),
        ("NUL in an extension", b"5;a\0\r\nhello\r\n0\r\n\r\n", BodyError::ExtensionByte),
        ("a long extension", long_extension.as_bytes(), BodyError::ExtensionTooLong),
        ("data that end with LF", b"5\r\nhello\n0\r\n\r\n", BodyError::ChunkEnd),
        ("data that end with CR CR", b"5\r\nhello\r\r\n0\r\n\r\n", BodyError::ChunkEnd),
        ("data that end with nothing", b"5\r\nhello0\r\n\r\n", BodyError::ChunkEnd),
        ("data that are longer", b"5\r\nhello!\r\n0\r\n\r\n", BodyError::ChunkEnd),
        ("LF behind the last chunk", b"0\r\n\n", BodyError::Trailers(HeaderError::BareLineFeed)),
        ("a folded trailer", b"0\r\na: b\r\n c\r\n\r\n", BodyError::Trailers(HeaderError::Folded)),
        ("a space before a trailer's colon", b"0\r\na : b\r\n\r\n", BodyError::Trailers(HeaderError::Name)),
        ("NUL in a trailer", b"0\r\na: \0\r\n\r\n", BodyError::Trailers(HeaderError::Value)),
    ];
    for (name, bytes, reason) in table {
        assert_eq!(decode_chunks(bytes), Err(reason), "{name}");
    }
}

#[test]
fn trailers_are_read_and_do_not_reach_into_the_next_request() {
    let whole = decode_chunks(b"1\r\na\r\n0\r\nX-Sum: 7\r\nx-sum: 8\r\n\r\nGET /").unwrap().unwrap();
    assert_eq!(whole.trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["7", "8"]);
    assert_eq!(whole.rest, b"GET /");
}

#[test]
fn trailers_have_the_limits_of_headers() {
    let three = b"0\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n";
    assert_eq!(decode_chunks(three), Err(BodyError::Trailers(HeaderError::TooMany)));
    let large = format!("0\r\na: {}\r\n\r\n", "x".repeat(LIMITS.trailers.bytes));
    let error = decode_chunks(large.as_bytes()).unwrap_err();
    assert_eq!(error, BodyError::Trailers(HeaderError::TooLarge));
    assert_eq!(error.status(), 431);
}

#[test]
fn a_trailer_changes_nothing_that_was_decided() {
    for name in ["Transfer-Encoding", "content-length", "HOST", "connection", "authorization", "keep-alive"] {
        let bytes = format!("0\r\n{name}: x\r\n\r\n");
        assert_eq!(decode_chunks(bytes.as_bytes()), Err(BodyError::ForbiddenTrailer), "{name}");
    }
}

#[test]
fn a_body_above_the_limit_is_refused_before_it_is_read() {
    let new = |length| BodyDecoder::new(length, LIMITS).map(|_| ());
    assert_eq!(new(BodyLength::Sized(LIMITS.bytes)), Ok(()));
    assert_eq!(new(BodyLength::Sized(LIMITS.bytes + 1)), Err(BodyError::TooLarge));
    assert_eq!(BodyError::TooLarge.status(), 413);

    let exactly = [b"60\r\n", [b'x'; 96].as_slice(), b"\r\n4\r\nxxxx\r\n0\r\n\r\n"].concat();
    assert_eq!(decode_chunks(&exactly).unwrap().unwrap().data.len(), 100);
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, LIMITS).unwrap();
    let mut buffer = BytesMut::from(&exactly[..]);
    buffer[b"60\r\n".len() + 96 + 2] = b'5';
    assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::Data(_))));
    assert_eq!(decoder.decode(&mut buffer), Err(BodyError::TooLarge));
    assert_eq!(decoder.decode(&mut buffer), Err(BodyError::TooLarge), "an error is final");
}

#[test]
fn long_extensions_on_tiny_chunks_run_out() {
    let limits = BodyLimits { bytes: u64::MAX, ..LIMITS };
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, limits).unwrap();
    let chunk = format!("1;{}\r\na\r\n", "x".repeat(127));
    let mut chunks = 0;
    let error = loop {
        let mut buffer = BytesMut::from(chunk.as_str());
        match decoder.decode(&mut buffer) {
            Ok(_) => chunks += 1,
            Err(error) => break error,
        }
        decoder.decode(&mut buffer).unwrap();
    };
    assert_eq!((error, chunks), (BodyError::ExtensionTooLong, EXTENSIONS_BYTES_MAX / 128));
}

/// What was decoded is a slice of the buffer and no copy.
#[test]
fn data_are_not_copied() {
    for (length, bytes) in [(BodyLength::Sized(5), &b"hello"[..]), (BodyLength::Chunked, b"5\r\nhello")] {
        let mut buffer = BytesMut::from(bytes);
        let expected = buffer[bytes.len() - 5..].as_ptr();
        let mut decoder = BodyDecoder::new(length, LIMITS).unwrap();
        let Ok(Decoded::Data(data)) = decoder.decode(&mut buffer) else { panic!("there are data") };
        assert_eq!(data.as_ptr(), expected);
    }
}

proptest! {
    #[test]
    fn what_we_encode_is_what_we_decode(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        trailers in prop::collection::vec(("x-[a-z]{1,4}", "[!-~]{0,8}"), 0..3),
        cut in 1usize..50,
    ) {
        let fields: HeaderMap = trailers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        let mut wire = BytesMut::new();
        for chunk in &chunks {
            wire.extend_from_slice(ChunkHead::new(chunk.len().try_into().unwrap()).as_ref());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(CHUNK_END);
        }
        if fields.is_empty() {
            wire.extend_from_slice(LAST_CHUNK);
        } else {
            end_chunks(&mut wire, &fields);
        }
        let limits = BodyLimits { bytes: 10_000, ..LIMITS };
        let whole = decode(BodyLength::Chunked, limits, wire.chunks(cut)).unwrap().unwrap();
        prop_assert_eq!(whole, Whole { data: chunks.concat(), trailers: fields, rest: vec![] });
    }
}
