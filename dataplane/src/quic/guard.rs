//! Watches the lengths of HTTP/3 frames below the library.
//!
//! The library collects a frame that is not DATA until it is whole, at the length that the peer declares. So the
//! declared length is judged here, when it is read and before a byte of the frame is kept: a frame that is too long
//! ends its stream.
//!
//! A passive parser: it sees the bytes of one stream in order, as they pass, in pieces of any size, and changes
//! nothing. Invariants: its verdict does not depend on how the bytes are cut, it is final, and it holds 24 bytes
//! however long a frame is.

/// Longest frame of a type that we do not know. Such frames are read and ignored (RFC 9114, 9); they exist to keep
/// that rule alive, and have a few bytes.
const UNKNOWN_MAX: u64 = 4 * 1024;
/// Longest frame of a control stream: SETTINGS with a dozen pairs of 16 bytes, and an update of a priority with its
/// field value.
const CONTROL_MAX: u64 = 4 * 1024;

const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;
const CONTROL_STREAM: u64 = 0x00;

/// A frame is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooLong {
    /// HEADERS: more than `limits.header_bytes` allows.
    Headers,
    /// Any other.
    Other,
}

/// The guard of one stream.
#[derive(Debug)]
pub(super) struct FrameGuard {
    at: At,
    /// The varint that is being read: its bytes so far, big endian, and how many are to come.
    value: u64,
    missing: u8,
    headers_max: u64,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The type of a unidirectional stream.
    StreamType,
    /// The type of a frame.
    Type(Stream),
    /// The length of a frame of this type.
    Length(Stream, u64),
    /// So many bytes of a frame.
    Payload(Stream, u64),
    /// Bytes that are no frames: QPACK instructions, or of a stream type that we do not know.
    Unframed,
    /// Nothing that matters: a frame was too long.
    Broken(TooLong),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Request,
    Control,
}

impl FrameGuard {
    /// Of a request stream whose heads may have so many bytes as sent.
    pub(super) fn request(headers_max: u64) -> Self {
        Self { at: At::Type(Stream::Request), value: 0, missing: 0, headers_max }
    }

    /// Of a unidirectional stream.
    pub(super) fn unidirectional() -> Self {
        Self { at: At::StreamType, value: 0, missing: 0, headers_max: CONTROL_MAX }
    }

    /// Sees the next bytes of the stream.
    pub(super) fn observe(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            match self.at {
                At::Broken(why) => return Err(why),
                At::Unframed => return Ok(()),
                At::Payload(stream, left) => {
                    let skipped = left.min(bytes.len() as u64);
                    bytes = &bytes[skipped as usize..];
                    self.at = match left - skipped {
                        0 => At::Type(stream),
                        left => At::Payload(stream, left),
                    };
                }
                At::StreamType | At::Type(_) | At::Length(..) => {
                    let (first, rest) = (bytes[0], &bytes[1..]);
                    bytes = rest;
                    if let Some(value) = self.take(first) {
                        self.step(value)?;
                    }
                }
            }
        }
        match self.at {
            At::Broken(why) => Err(why),
            _ => Ok(()),
        }
    }

    /// Takes a byte of a varint (RFC 9000, 16); the value when it is whole.
    fn take(&mut self, byte: u8) -> Option<u64> {
        if self.missing == 0 {
            self.missing = 1 << (byte >> 6);
            self.value = u64::from(byte & 0x3f);
        } else {
            self.value = self.value << 8 | u64::from(byte);
        }
        self.missing -= 1;
        (self.missing == 0).then_some(self.value)
    }

    fn step(&mut self, value: u64) -> Result<(), TooLong> {
        self.at = match self.at {
            At::StreamType if value == CONTROL_STREAM => At::Type(Stream::Control),
            At::StreamType => At::Unframed,
            At::Type(stream) => At::Length(stream, value),
            At::Length(stream, kind) => self.judge(stream, kind, value),
            other => other,
        };
        match self.at {
            At::Broken(why) => Err(why),
            _ => Ok(()),
        }
    }

    fn judge(&self, stream: Stream, kind: u64, length: u64) -> At {
        let (max, why) = match (stream, kind) {
            (Stream::Request, DATA) => (u64::MAX, TooLong::Other),
            (Stream::Request, HEADERS) => (self.headers_max, TooLong::Headers),
            (Stream::Request, _) => (UNKNOWN_MAX, TooLong::Other),
            (Stream::Control, _) => (CONTROL_MAX, TooLong::Other),
        };
        match length {
            length if length > max => At::Broken(why),
            0 => At::Type(stream),
            length => At::Payload(stream, length),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn varint(value: u64) -> Vec<u8> {
        match value {
            0..=0x3f => vec![value as u8],
            0x40..=0x3fff => (value as u16 | 0x4000).to_be_bytes().to_vec(),
            0x4000..=0x3fff_ffff => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
            _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
        }
    }

    fn head(kind: u64, length: u64) -> Vec<u8> {
        [varint(kind), varint(length)].concat()
    }

    fn frame(kind: u64, length: u64) -> Vec<u8> {
        [head(kind, length), vec![0xaa; length as usize]].concat()
    }

    #[test]
    fn a_declared_length_is_judged_before_the_frame_comes() {
        let verdict = |bytes: &[u8]| FrameGuard::request(1000).observe(bytes);
        assert_eq!(verdict(&head(HEADERS, 1000)), Ok(()));
        assert_eq!(verdict(&head(HEADERS, 1001)), Err(TooLong::Headers));
        assert_eq!(verdict(&head(0x21, UNKNOWN_MAX)), Ok(()));
        assert_eq!(verdict(&head(0x21, UNKNOWN_MAX + 1)), Err(TooLong::Other));
        assert_eq!(verdict(&head(DATA, (1 << 62) - 1)), Ok(()), "bodies have a limit of their own");
        let later = [frame(HEADERS, 10), frame(DATA, 500), frame(DATA, 0), head(HEADERS, 5000)].concat();
        assert_eq!(verdict(&later), Err(TooLong::Headers), "trailers count as well");
    }

    #[test]
    fn control_streams_have_a_limit_and_others_are_no_frames() {
        let control = [varint(CONTROL_STREAM), frame(4, 40)].concat();
        assert_eq!(FrameGuard::unidirectional().observe(&control), Ok(()));
        let long = [control, head(7, CONTROL_MAX + 1)].concat();
        assert_eq!(FrameGuard::unidirectional().observe(&long), Err(TooLong::Other));
        let encoder = [varint(2), vec![0xff; 100_000]].concat();
        assert_eq!(FrameGuard::unidirectional().observe(&encoder), Ok(()));
    }

    #[test]
    fn a_verdict_is_final() {
        let mut guard = FrameGuard::request(10);
        assert_eq!(guard.observe(&head(HEADERS, 11)), Err(TooLong::Headers));
        assert_eq!(guard.observe(&[]), Err(TooLong::Headers));
        assert_eq!(guard.observe(&frame(DATA, 1)), Err(TooLong::Headers));
    }

    proptest! {
        /// The reference collects the whole stream and walks over it.
        #[test]
        fn the_guard_agrees_with_a_reader_of_the_whole_stream_however_it_is_cut(
            frames in prop::collection::vec((0u64..0x50, 0u64..6000), 0..12),
            cut in 0usize..40_000,
            piece in 1usize..50,
        ) {
            let limit = 3000;
            let too_long = |&(kind, length): &(u64, u64)| match kind {
                DATA => false,
                HEADERS => length > limit,
                _ => length > UNKNOWN_MAX,
            };
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, length)| frame(*kind, *length)).collect();
            let bytes = &bytes[..cut.min(bytes.len())];
            // The first frame that is too long, if its head lies before the cut.
            let mut at = 0;
            let mut expected = Ok(());
            for found in &frames {
                let end = at + head(found.0, found.1).len();
                if end > bytes.len() {
                    break;
                }
                if too_long(found) {
                    expected = Err(if found.0 == HEADERS { TooLong::Headers } else { TooLong::Other });
                    break;
                }
                at = end + found.1 as usize;
            }
            let mut guard = FrameGuard::request(limit);
            let verdicts: Vec<_> = bytes.chunks(piece).map(|piece| guard.observe(piece)).collect();
            prop_assert_eq!(verdicts.last().copied().unwrap_or(Ok(())), expected);
        }

        #[test]
        fn any_bytes_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = FrameGuard::request(100).observe(&bytes);
            let _ = FrameGuard::unidirectional().observe(&bytes);
        }
    }
}
