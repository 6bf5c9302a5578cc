//! Watches the frames of HTTP/3 streams below the library, for what it does not bound or refuse itself.
//!
//! The library collects a frame that is not DATA until it is whole, at the length that the peer declares. So the
//! declared length is judged here, when it is read and before a byte of the frame is kept. It also takes no notice of
//! a client's push stream, and of what a client writes into our QPACK table, which has no room.
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

// Types of frames and of unidirectional streams.
const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;
const CONTROL_STREAM: u64 = 0x00;
const PUSH_STREAM: u64 = 0x01;
const ENCODER_STREAM: u64 = 0x02;
/// The one instruction that fits a table without room: that it shall have none (RFC 9204, 4.3.1).
const CAPACITY_ZERO: u8 = 0x20;

/// What ends a stream, or its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// HEADERS with more than `limits.header_bytes` allows.
    LongHeaders,
    /// Another frame that is longer than it may be.
    LongFrame,
    /// Only servers push.
    PushStream,
    /// Something for a table that has no room.
    TableUse,
}

impl Refusal {
    /// The error code that says so (RFC 9114, 8.1; RFC 9204, 6).
    pub(super) fn code(self) -> u64 {
        match self {
            Self::LongHeaders | Self::LongFrame => 0x107,
            Self::PushStream => 0x103,
            Self::TableUse => 0x201,
        }
    }
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
    /// Instructions for our table.
    Encoder,
    /// Bytes that are no frames: of a stream type that is ignored.
    Unframed,
    /// Nothing that matters any more.
    Refused(Refusal),
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
    pub(super) fn observe(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while let Some((first, rest)) = bytes.split_first() {
            match self.at {
                At::Refused(_) => break,
                At::Unframed => return Ok(()),
                At::Payload(stream, left) => {
                    let skipped = left.min(bytes.len() as u64);
                    bytes = &bytes[skipped as usize..];
                    self.at = match left - skipped {
                        0 => At::Type(stream),
                        left => At::Payload(stream, left),
                    };
                }
                At::Encoder => {
                    bytes = rest;
                    if *first != CAPACITY_ZERO {
                        self.at = At::Refused(Refusal::TableUse);
                    }
                }
                At::StreamType | At::Type(_) | At::Length(..) => {
                    bytes = rest;
                    if let Some(value) = self.take(*first) {
                        self.step(value);
                    }
                }
            }
        }
        match self.at {
            At::Refused(why) => Err(why),
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

    fn step(&mut self, value: u64) {
        self.at = match (self.at, value) {
            (At::StreamType, CONTROL_STREAM) => At::Type(Stream::Control),
            (At::StreamType, PUSH_STREAM) => At::Refused(Refusal::PushStream),
            (At::StreamType, ENCODER_STREAM) => At::Encoder,
            (At::StreamType, _) => At::Unframed,
            (At::Type(stream), kind) => At::Length(stream, kind),
            (At::Length(stream, kind), length) => self.judge(stream, kind, length),
            (other, _) => other,
        };
    }

    fn judge(&self, stream: Stream, kind: u64, length: u64) -> At {
        let (max, why) = match (stream, kind) {
            (Stream::Request, DATA) => (u64::MAX, Refusal::LongFrame),
            (Stream::Request, HEADERS) => (self.headers_max, Refusal::LongHeaders),
            (Stream::Request, _) => (UNKNOWN_MAX, Refusal::LongFrame),
            (Stream::Control, _) => (CONTROL_MAX, Refusal::LongFrame),
        };
        match length {
            length if length > max => At::Refused(why),
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
        assert_eq!(verdict(&head(HEADERS, 1001)), Err(Refusal::LongHeaders));
        assert_eq!(verdict(&head(0x21, UNKNOWN_MAX)), Ok(()));
        assert_eq!(verdict(&head(0x21, UNKNOWN_MAX + 1)), Err(Refusal::LongFrame));
        assert_eq!(verdict(&head(DATA, (1 << 62) - 1)), Ok(()), "bodies have a limit of their own");
        let later = [frame(HEADERS, 10), frame(DATA, 500), frame(DATA, 0), head(HEADERS, 5000)].concat();
        assert_eq!(verdict(&later), Err(Refusal::LongHeaders), "trailers count as well");
    }

    #[test]
    fn control_streams_have_a_limit_and_others_are_no_frames() {
        let control = [varint(CONTROL_STREAM), frame(4, 40)].concat();
        assert_eq!(FrameGuard::unidirectional().observe(&control), Ok(()));
        let long = [control, head(7, CONTROL_MAX + 1)].concat();
        assert_eq!(FrameGuard::unidirectional().observe(&long), Err(Refusal::LongFrame));
        let decoder = [varint(3), vec![0xff; 100_000]].concat();
        assert_eq!(FrameGuard::unidirectional().observe(&decoder), Ok(()));
    }

    #[test]
    fn a_client_neither_pushes_nor_fills_a_table_without_room() {
        let verdict = |bytes: &[u8]| FrameGuard::unidirectional().observe(bytes);
        assert_eq!(verdict(&varint(PUSH_STREAM)), Err(Refusal::PushStream));
        assert_eq!(verdict(&[ENCODER_STREAM as u8, CAPACITY_ZERO, CAPACITY_ZERO]), Ok(()));
        assert_eq!(verdict(&[ENCODER_STREAM as u8, CAPACITY_ZERO | 1]), Err(Refusal::TableUse));
        assert_eq!(verdict(&[ENCODER_STREAM as u8, 0xc0]), Err(Refusal::TableUse), "an insert");
    }

    #[test]
    fn a_verdict_is_final() {
        let mut guard = FrameGuard::request(10);
        assert_eq!(guard.observe(&head(HEADERS, 11)), Err(Refusal::LongHeaders));
        assert_eq!(guard.observe(&[]), Err(Refusal::LongHeaders));
        assert_eq!(guard.observe(&frame(DATA, 1)), Err(Refusal::LongHeaders));
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
                    expected = Err(if found.0 == HEADERS { Refusal::LongHeaders } else { Refusal::LongFrame });
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
