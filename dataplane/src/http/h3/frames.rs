//! The frames of HTTP/3 streams (RFC 9114, 6 and 7): which bytes are what, in what order they may come, and how long
//! they may be.
//!
//! Pure: readers take the bytes of one stream in pieces of any size. Invariants: what a reader says does not depend on
//! how the bytes are cut; the declared length of a frame is judged before a byte of it is kept; what is kept is at most
//! one head ([`PartReader`]) or one short frame ([`UniReader`]); a fault is final.

use bytes::{Buf, Bytes, BytesMut};

/// Longest frame of a type that we do not know. Such frames are read and ignored (RFC 9114, 9); they exist to keep
/// that rule alive, and have a few bytes.
const UNKNOWN_MAX: u64 = 4 * 1024;
/// Longest frame of a control stream: SETTINGS with a dozen pairs of 16 bytes, and an update of a priority with its
/// field value.
const CONTROL_MAX: u64 = 4 * 1024;

// Types of frames.
const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;
const CANCEL_PUSH: u64 = 0x03;
const SETTINGS: u64 = 0x04;
const PUSH_PROMISE: u64 = 0x05;
const GOAWAY: u64 = 0x07;
const MAX_PUSH_ID: u64 = 0x0d;
/// Those of HTTP/2 that have no meaning here, and must not come (RFC 9114, 7.2.8).
const RESERVED: [u64; 4] = [0x02, 0x06, 0x08, 0x09];

// Types of unidirectional streams.
const CONTROL_STREAM: u64 = 0x00;
const PUSH_STREAM: u64 = 0x01;
const ENCODER_STREAM: u64 = 0x02;
const DECODER_STREAM: u64 = 0x03;

// Settings.
const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
/// Settings of HTTP/2 that must not come (RFC 9114, 7.2.4.1).
const RESERVED_SETTINGS: [u64; 4] = [0x02, 0x03, 0x04, 0x05];

/// Set Dynamic Table Capacity 0: the one instruction that fits a table without room (RFC 9204, 4.3.1).
const CAPACITY_ZERO: u8 = 0x20;
/// Stream Cancellation: the one thing to say of a table that is not used (RFC 9204, 4.4.2).
const STREAM_CANCELLATION: u8 = 0b0100_0000;

/// Error codes (RFC 9114, 8.1; RFC 9204, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
#[allow(missing_docs, reason = "the names are those of the RFCs")]
pub(crate) enum Code {
    StreamCreationError = 0x103,
    ClosedCriticalStream = 0x104,
    FrameUnexpected = 0x105,
    FrameError = 0x106,
    ExcessiveLoad = 0x107,
    IdError = 0x108,
    SettingsError = 0x109,
    MissingSettings = 0x10a,
    RequestRejected = 0x10b,
    RequestIncomplete = 0x10d,
    MessageError = 0x10e,
    QpackDecompressionFailed = 0x200,
    QpackEncoderStreamError = 0x201,
    QpackDecoderStreamError = 0x202,
}

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The protocol is broken: the connection ends with this code.
    Protocol(Code),
    /// HEADERS with more than `limits.header_bytes` allows.
    LongHeaders,
    /// Another frame that is longer than it may be.
    LongFrame,
}

const UNEXPECTED: Fault = Fault::Protocol(Code::FrameUnexpected);

/// Reads varints (RFC 9000, 16), however they are cut.
#[derive(Debug, Default)]
struct Varint {
    value: u64,
    missing: u8,
}

impl Varint {
    /// The value, when its last byte is there.
    fn read(&mut self, bytes: &mut Bytes) -> Option<u64> {
        while bytes.has_remaining() {
            let byte = bytes.get_u8();
            if self.missing == 0 {
                self.missing = 1 << (byte >> 6);
                self.value = u64::from(byte & 0x3f);
            } else {
                self.value = self.value << 8 | u64::from(byte);
            }
            self.missing -= 1;
            if self.missing == 0 {
                return Some(self.value);
            }
        }
        None
    }

    /// Whether one has begun.
    fn is_begun(&self) -> bool {
        self.missing > 0
    }
}

/// Where in a frame a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Type,
    /// The length of a frame of this type.
    Length(u64),
    /// So many bytes of a body.
    Data(u64),
    /// So many bytes that are ignored.
    Skip(u64),
    /// So many bytes that are kept until they are whole, of a frame of this type.
    Keep(u64, u64),
}

/// Collects a frame that is kept; without a copy when it comes in one piece, as nearly all do.
fn collect(bytes: &mut Bytes, kept: &mut BytesMut, left: u64) -> Result<Bytes, u64> {
    let count = left.min(bytes.len() as u64) as usize;
    let piece = bytes.split_to(count);
    let left = left - count as u64;
    if left == 0 && kept.is_empty() {
        return Ok(piece);
    }
    kept.extend_from_slice(&piece);
    if left == 0 { Ok(kept.split().freeze()) } else { Err(left) }
}

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// The section of the head, then perhaps that of the trailers.
    Headers(Bytes),
    /// Bytes of the body.
    Data(Bytes),
}

/// Which parts may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Head,
    BodyOrTrailers,
    Nothing,
}

/// Reads the frames of a request stream.
#[derive(Debug)]
pub(crate) struct PartReader {
    bytes: Bytes,
    at: At,
    varint: Varint,
    kept: BytesMut,
    order: Order,
    headers_max: u64,
    fault: Option<Fault>,
}

impl PartReader {
    /// Heads and trailers may have so many bytes as sent.
    pub(crate) fn new(headers_max: u64) -> Self {
        Self {
            bytes: Bytes::new(),
            at: At::Type,
            varint: Varint::default(),
            kept: BytesMut::new(),
            order: Order::Head,
            headers_max,
            fault: None,
        }
    }

    /// Takes the next bytes of the stream, when [`Self::next`] has nothing more of the last.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.bytes.is_empty(), "what came before is read");
        self.bytes = bytes;
    }

    /// The next part; `None` when that takes more bytes.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.read().inspect_err(|fault| self.fault = Some(*fault))
    }

    fn read(&mut self) -> Result<Option<Part>, Fault> {
        loop {
            match self.at {
                At::Type => {
                    let Some(kind) = self.varint.read(&mut self.bytes) else { return Ok(None) };
                    self.at = At::Length(kind);
                }
                At::Length(kind) => {
                    let Some(length) = self.varint.read(&mut self.bytes) else { return Ok(None) };
                    self.at = self.judge(kind, length)?;
                }
                At::Data(0) | At::Skip(0) => self.at = At::Type,
                At::Data(_) | At::Skip(_) if self.bytes.is_empty() => return Ok(None),
                At::Data(left) => {
                    let count = left.min(self.bytes.len() as u64);
                    self.at = At::Data(left - count);
                    return Ok(Some(Part::Data(self.bytes.split_to(count as usize))));
                }
                At::Skip(left) => {
                    let count = left.min(self.bytes.len() as u64);
                    self.bytes.advance(count as usize);
                    self.at = At::Skip(left - count);
                }
                At::Keep(kind, left) => match collect(&mut self.bytes, &mut self.kept, left) {
                    Ok(section) => return Ok(Some(self.headers(section))),
                    Err(left) => {
                        self.at = At::Keep(kind, left);
                        return Ok(None);
                    }
                },
            }
        }
    }

    fn headers(&mut self, section: Bytes) -> Part {
        self.at = At::Type;
        self.order = match self.order {
            Order::Head => Order::BodyOrTrailers,
            Order::BodyOrTrailers | Order::Nothing => Order::Nothing,
        };
        Part::Headers(section)
    }

    fn judge(&self, kind: u64, length: u64) -> Result<At, Fault> {
        match (kind, self.order) {
            (HEADERS, Order::Nothing) | (DATA, Order::Head | Order::Nothing) => Err(UNEXPECTED),
            (HEADERS, _) if length > self.headers_max => Err(Fault::LongHeaders),
            (HEADERS, _) => Ok(At::Keep(kind, length)),
            (DATA, Order::BodyOrTrailers) => Ok(At::Data(length)),
            (CANCEL_PUSH | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID, _) => Err(UNEXPECTED),
            (kind, _) if RESERVED.contains(&kind) => Err(UNEXPECTED),
            _ if length > UNKNOWN_MAX => Err(Fault::LongFrame),
            _ => Ok(At::Skip(length)),
        }
    }

    /// Whether all bytes are read and the last frame is whole: so the stream may end.
    pub(crate) fn is_between_frames(&self) -> bool {
        let whole = matches!(self.at, At::Type | At::Data(0) | At::Skip(0));
        whole && self.bytes.is_empty() && !self.varint.is_begun() && self.fault.is_none()
    }
}

/// What the unidirectional streams of a client have told so far, all together.
#[derive(Debug, Default)]
pub(crate) struct Told {
    control: bool,
    encoder: bool,
    decoder: bool,
    max_push_id: Option<u64>,
    goaway: Option<u64>,
}

/// Reads a unidirectional stream.
#[derive(Debug)]
pub(crate) struct UniReader {
    kind: Kind,
    at: At,
    varint: Varint,
    kept: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its type is not read yet.
    Untold,
    /// Control; whether SETTINGS have come.
    Control {
        settings: bool,
    },
    Encoder,
    /// The decoder's; whether the number of an instruction goes on.
    Decoder {
        within: bool,
    },
    /// One that we do not know.
    Ignored,
}

/// What is to be done with a unidirectional stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Read on.
    Some,
    /// It has a type that we do not know: read no more of it.
    None,
}

impl UniReader {
    pub(crate) fn new() -> Self {
        Self { kind: Kind::Untold, at: At::Type, varint: Varint::default(), kept: BytesMut::new() }
    }

    /// Reads the next bytes.
    pub(crate) fn read(&mut self, mut bytes: Bytes, told: &mut Told) -> Result<Interest, Fault> {
        while bytes.has_remaining() {
            match self.kind {
                Kind::Untold => {
                    if let Some(kind) = self.varint.read(&mut bytes) {
                        self.kind = Self::begin(kind, told)?;
                    }
                }
                Kind::Control { settings } => {
                    if let Some((kind, frame)) = self.frame(&mut bytes, settings)? {
                        Self::control(kind, frame, told)?;
                        self.kind = Kind::Control { settings: true };
                    }
                }
                Kind::Encoder => {
                    if bytes.get_u8() != CAPACITY_ZERO {
                        return Err(Fault::Protocol(Code::QpackEncoderStreamError));
                    }
                }
                Kind::Decoder { within } => self.kind = Self::decoder(within, bytes.get_u8())?,
                Kind::Ignored => break,
            }
        }
        Ok(if self.kind == Kind::Ignored { Interest::None } else { Interest::Some })
    }

    /// The stream has ended, or was reset.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        match self.kind {
            Kind::Untold | Kind::Ignored => Ok(()),
            Kind::Control { .. } | Kind::Encoder | Kind::Decoder { .. } => {
                Err(Fault::Protocol(Code::ClosedCriticalStream))
            }
        }
    }

    fn begin(kind: u64, told: &mut Told) -> Result<Kind, Fault> {
        let (seen, kind) = match kind {
            CONTROL_STREAM => (&mut told.control, Kind::Control { settings: false }),
            ENCODER_STREAM => (&mut told.encoder, Kind::Encoder),
            DECODER_STREAM => (&mut told.decoder, Kind::Decoder { within: false }),
            PUSH_STREAM => return Err(Fault::Protocol(Code::StreamCreationError)),
            _ => return Ok(Kind::Ignored),
        };
        if std::mem::replace(seen, true) {
            return Err(Fault::Protocol(Code::StreamCreationError));
        }
        Ok(kind)
    }

    /// The next whole frame of a control stream that matters.
    fn frame(&mut self, bytes: &mut Bytes, settings: bool) -> Result<Option<(u64, Bytes)>, Fault> {
        loop {
            match self.at {
                At::Type => {
                    let Some(kind) = self.varint.read(bytes) else { return Ok(None) };
                    if !settings && kind != SETTINGS {
                        return Err(Fault::Protocol(Code::MissingSettings));
                    }
                    let misplaced = matches!(kind, DATA | HEADERS | PUSH_PROMISE) || RESERVED.contains(&kind);
                    if misplaced || (settings && kind == SETTINGS) {
                        return Err(UNEXPECTED);
                    }
                    self.at = At::Length(kind);
                }
                At::Length(kind) => {
                    let Some(length) = self.varint.read(bytes) else { return Ok(None) };
                    if length > CONTROL_MAX {
                        return Err(Fault::LongFrame);
                    }
                    self.at = At::Keep(kind, length);
                }
                At::Keep(kind, left) => match collect(bytes, &mut self.kept, left) {
                    Ok(frame) => {
                        self.at = At::Type;
                        return Ok(Some((kind, frame)));
                    }
                    Err(left) => {
                        self.at = At::Keep(kind, left);
                        return Ok(None);
                    }
                },
                At::Data(_) | At::Skip(_) => self.at = At::Type, // Of request streams alone.
            }
        }
    }

    fn control(kind: u64, frame: Bytes, told: &mut Told) -> Result<(), Fault> {
        match kind {
            SETTINGS => read_settings(frame),
            // Nothing was promised, so nothing can be cancelled.
            CANCEL_PUSH => {
                number(frame)?;
                Err(Fault::Protocol(Code::IdError))
            }
            // The one may only grow, the other only shrink. We push nothing, so their values do not matter.
            MAX_PUSH_ID => ordered(&mut told.max_push_id, number(frame)?, |new, old| new >= old),
            GOAWAY => ordered(&mut told.goaway, number(frame)?, |new, old| new <= old),
            _ => Ok(()),
        }
    }

    /// Whether the number of an instruction goes on after this byte (RFC 9204, 4.4).
    fn decoder(within: bool, byte: u8) -> Result<Kind, Fault> {
        if within {
            return Ok(Kind::Decoder { within: byte & 0x80 != 0 });
        }
        if byte & 0b1100_0000 != STREAM_CANCELLATION {
            return Err(Fault::Protocol(Code::QpackDecoderStreamError));
        }
        Ok(Kind::Decoder { within: byte & 0x3f == 0x3f })
    }
}

fn read_settings(mut frame: Bytes) -> Result<(), Fault> {
    let mut seen = Vec::new();
    while frame.has_remaining() {
        let mut value = || Varint::default().read(&mut frame).ok_or(Fault::Protocol(Code::FrameError));
        let (id, value) = (value()?, value()?);
        let boolean = id != ENABLE_CONNECT_PROTOCOL || value <= 1;
        if RESERVED_SETTINGS.contains(&id) || seen.contains(&id) || !boolean {
            return Err(Fault::Protocol(Code::SettingsError));
        }
        seen.push(id);
    }
    Ok(())
}

/// The one number that a frame consists of.
fn number(mut frame: Bytes) -> Result<u64, Fault> {
    match Varint::default().read(&mut frame) {
        Some(value) if frame.is_empty() => Ok(value),
        _ => Err(Fault::Protocol(Code::FrameError)),
    }
}

fn ordered(last: &mut Option<u64>, new: u64, fits: impl Fn(u64, u64) -> bool) -> Result<(), Fault> {
    if last.is_some_and(|old| !fits(new, old)) {
        return Err(Fault::Protocol(Code::IdError));
    }
    *last = Some(new);
    Ok(())
}

/// What our control stream begins with: its type, and SETTINGS.
pub(crate) fn preface(field_section_max: u64) -> Vec<u8> {
    let mut settings = Vec::new();
    varint(&mut settings, MAX_FIELD_SECTION_SIZE);
    varint(&mut settings, field_section_max);
    varint(&mut settings, ENABLE_CONNECT_PROTOCOL);
    varint(&mut settings, 1);
    let mut out = vec![CONTROL_STREAM as u8];
    head(&mut out, SETTINGS, settings.len() as u64);
    out.extend_from_slice(&settings);
    out
}

/// A GOAWAY: request streams from this number on are not served.
pub(crate) fn goaway(stream: u64) -> Vec<u8> {
    let (mut number, mut out) = (Vec::new(), Vec::new());
    varint(&mut number, stream);
    head(&mut out, GOAWAY, number.len() as u64);
    out.extend_from_slice(&number);
    out
}

/// A HEADERS frame whose section is written by `section`.
pub(crate) fn headers(out: &mut Vec<u8>, section: impl FnOnce(&mut Vec<u8>)) {
    /// Type, and a length of two bytes, which nearly every section has room in.
    const HEAD: usize = 3;
    let begin = out.len();
    out.extend_from_slice(&[0; HEAD]);
    section(out);
    let length = out.len() - begin - HEAD;
    if let Ok(short @ ..0x4000) = u16::try_from(length) {
        out[begin] = HEADERS as u8;
        out[begin + 1..begin + HEAD].copy_from_slice(&(short | 0x4000).to_be_bytes());
    } else {
        let mut long = Vec::new();
        head(&mut long, HEADERS, length as u64);
        out.splice(begin..begin + HEAD, long);
    }
}

/// The head of a DATA frame.
pub(crate) fn data(out: &mut Vec<u8>, length: u64) {
    head(out, DATA, length);
}

fn head(out: &mut Vec<u8>, kind: u64, length: u64) {
    varint(out, kind);
    varint(out, length);
}

fn varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => out.push(value as u8),
        0x40..=0x3fff => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3fff_ffff => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// All parts of a request stream, the bytes of bodies joined, and how reading it ended: with a fault, or whether it may
/// end there. For tests.
pub(crate) fn read_parts<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    headers_max: u64,
) -> (Vec<Part>, Result<bool, Fault>) {
    let mut reader = PartReader::new(headers_max);
    let mut parts = Vec::new();
    for piece in pieces {
        reader.push(Bytes::copy_from_slice(piece));
        loop {
            match (reader.next(), parts.last_mut()) {
                (Ok(None), _) => break,
                (Ok(Some(Part::Data(more))), Some(Part::Data(bytes))) => {
                    *bytes = [&bytes[..], &more].concat().into();
                }
                (Ok(Some(part)), _) => parts.push(part),
                (Err(fault), _) => return (parts, Err(fault)),
            }
        }
    }
    (parts, Ok(reader.is_between_frames()))
}

/// How reading a unidirectional stream ends. For tests.
pub(crate) fn read_unidirectional<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> Result<Interest, Fault> {
    let (mut reader, mut told) = (UniReader::new(), Told::default());
    pieces.try_fold(Interest::Some, |interest, piece| match interest {
        Interest::Some => reader.read(Bytes::copy_from_slice(piece), &mut told),
        Interest::None => Ok(Interest::None),
    })
}

#[cfg(test)]
mod tests;
