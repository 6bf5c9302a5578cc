//! A passive meter of the frames that a peer sends on an HTTP/2 connection.
//!
//! The `h2` library bounds memory well and work badly: many frames that cost us more than they cost
//! the peer have no bound in it. This meter sits below the library. It sees every byte that the peer
//! sends, in pieces of any size, finds the frame headers among them, and reports the first breach of
//! a bound. Whoever owns the connection then closes it with GOAWAY `ENHANCE_YOUR_CALM`.
//!
//! # Invariants
//!
//! - Nothing is buffered but one partial frame header (9 bytes); payloads are skipped by arithmetic.
//! - The meter never loses its place: where a frame begins depends on the bytes alone, never on how
//!   they were cut into pieces. A test compares it with a parser that sees the whole stream.
//! - No input makes it panic. Wrong lengths, flags and orders of frames are the library's business:
//!   it ends the connection for them, so the meter need not agree on what comes afterwards.
//! - A breach is final: every later call reports the same one.
//!
//! Measured: 3 ns for each frame, and 120 bytes for each connection.
//!
//! # What `h2` 0.4.20 bounds itself, and what is left to the meter
//!
//! Read in its source; the tests in `library_facts` fail when a new version changes a line of this.
//!
//! | attack | bound in the library | bound here |
//! |---|---|---|
//! | streams opened | `max_concurrent_streams`, then REFUSED_STREAM, and each refusal counts as a local reset (below) | none |
//! | rapid reset (CVE-2023-44487) | `max_pending_accept_reset_streams` (20): only streams reset *before we accepted them*; one HEADERS and RST_STREAM pair per read passes for ever | `resets` |
//! | MadeYouReset (CVE-2025-8671): we reset because of an invalid frame | `max_local_error_reset_streams` (1024): resets by the library, over the life of the connection; the meter cannot see what we send | none: set that key to `resets` |
//! | memory of streams that we reset | `max_concurrent_reset_streams` (50) for `reset_stream_duration` (1 s) | none |
//! | SETTINGS | none: each is acknowledged, and a new INITIAL_WINDOW_SIZE walks all streams | `settings` |
//! | PING | none: each is answered; an acknowledgement that we never asked for costs a log line at `warn` | `pings`, acknowledgements too |
//! | PRIORITY, PRIORITY_UPDATE, unknown types | none: parsed and dropped, and unknown ones do not even return from its read loop | `priorities`, twice: PRIORITY, and all others |
//! | GOAWAY | none: each walks all streams | with the unknown types |
//! | WINDOW_UPDATE | an increment of zero, or an overflow, ends stream or connection; their number is not bounded | `window_updates` |
//! | empty DATA, padded or not | 100 without END_STREAM over the life of the connection | `empty_frames`, per window |
//! | small DATA | `data_frame_budget`: memory while nobody reads them; not their rate | none: they cost less than small requests do |
//! | empty HEADERS and CONTINUATION | none | `empty_frames` |
//! | CONTINUATION (CVE-2024-27316) | per block, without the last: `max(5, 1.25 × max_header_list_size / max_frame_size)` | `continuations`, which counts the last too |
//! | HPACK bomb | see below | `header_block_bytes` |
//!
//! *Padding* needs no bound: it counts against flow control, the library strips it before it judges
//! a DATA frame empty, and the peer pays for each byte of it.
//!
//! *HPACK.* `max_header_list_size` bounds the decoded fields: at the size, the library answers 431
//! itself; at four times the size it closes the connection. Three things escape it. Fields that make
//! a block malformed (`connection`, a wrong `te`, a repeated pseudo-header) are decoded, but not
//! counted: one byte on the wire for each. The fourfold sum begins anew with each CONTINUATION. And
//! a block that exceeds the size is answered with 431 without counting as a local reset. All three
//! are work in proportion to the bytes of one block *as sent*; that is what the meter bounds.
//! Memory is bounded by the library: it drops what it decodes beyond the size, and its dynamic table
//! holds at most 4 KiB, since we never offer more.
//!
//! # What it leaves to others
//!
//! Fairness. The library reads until the socket is dry, and a flood of plain, valid requests breaks
//! no bound here. The owner of the meter must also yield to its core after some bytes.
#![forbid(unsafe_code)]

use thiserror::Error;

/// The window that the bounds count in, in milliseconds.
///
/// Windows are aligned to the clock, not to the first frame, so a peer can pass twice a bound within
/// ten seconds around an edge. That is cheap for us and spares state; a bound is a magnitude here.
pub const WINDOW_MS: u64 = 10_000;

/// Bytes sent to the peer that allow it one more WINDOW_UPDATE in the same window.
///
/// An honest peer answers the data that it reads: nghttp2 after each half window, Go after each
/// 4 KiB, the simplest clients twice after each DATA frame. A fixed bound would end a fast download
/// (Go at 1 Gbit/s: 300,000 updates in a window). At 512 bytes Go stays at an eighth of the bound,
/// and a peer that only pretends must take 512 bytes from us for each 13 that it sends.
pub const SENT_BYTES_PER_WINDOW_UPDATE: u64 = 512;

/// How many frames of each sort a peer may send: the keys of `[limits.http2]`.
///
/// The bound itself is allowed; the next frame is the breach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterLimits {
    /// RST_STREAM, per window. A page that is left cancels all its streams at once: at most 128, and
    /// seldom twice in a window.
    pub resets: u32,
    /// SETTINGS, acknowledgements too, per window. Clients send one at the start.
    pub settings: u32,
    /// PING, acknowledgements too, per window. Clients measure with them, a few in a second at most.
    pub pings: u32,
    /// PRIORITY per window, and once more all types that the library drops unread: PRIORITY_UPDATE,
    /// GOAWAY, extensions, and the reserved types that browsers send to keep servers honest (GREASE),
    /// about one for each request.
    pub priorities: u32,
    /// WINDOW_UPDATE, per window, beside [`SENT_BYTES_PER_WINDOW_UPDATE`].
    pub window_updates: u32,
    /// Frames that carry nothing and end nothing, per window. Honest clients send hardly any.
    pub empty_frames: u32,
    /// CONTINUATION frames of one header block. A block within `header_block_bytes` needs four at
    /// the frame size of 16 KiB; clients that cut smaller still stay within 16.
    pub continuations: u32,
    /// Bytes of one header block as sent, with padding. Twice the limit for decoded headers: a block
    /// of legal size from any sane encoder fits, since a field counts for 32 bytes beside its name and
    /// value and needs at most 11 on the wire, and one that is somewhat too large gets its 431
    /// instead of the end of its connection.
    pub header_block_bytes: u32,
}

impl Default for MeterLimits {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self {
            resets: 200,
            settings: 20,
            pings: 100,
            priorities: 1_000,
            window_updates: 100_000,
            empty_frames: 100,
            continuations: 16,
            header_block_bytes: 2 * 32 * 1024,
        }
    }
}

/// A sort of frames, or of bytes, that has a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flood {
    /// RST_STREAM: rapid reset.
    Reset,
    /// SETTINGS.
    Settings,
    /// PING.
    Ping,
    /// PRIORITY.
    Priority,
    /// Types that the library drops, and GOAWAY and PUSH_PROMISE, which a client hardly needs.
    Other,
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// DATA, HEADERS and CONTINUATION that carry nothing and end nothing.
    Empty,
    /// Too many CONTINUATION frames in one header block.
    Continuation,
    /// Too many bytes in one header block.
    HeaderBlock,
}

impl Flood {
    /// All of them, to register a counter for each.
    pub const ALL: [Self; 9] = [
        Self::Reset,
        Self::Settings,
        Self::Ping,
        Self::Priority,
        Self::Other,
        Self::WindowUpdate,
        Self::Empty,
        Self::Continuation,
        Self::HeaderBlock,
    ];

    /// The stable label of the counter.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Settings => "settings",
            Self::Ping => "ping",
            Self::Priority => "priority",
            Self::Other => "other",
            Self::WindowUpdate => "window_update",
            Self::Empty => "empty",
            Self::Continuation => "continuation",
            Self::HeaderBlock => "header_block",
        }
    }

    /// The configuration key that sets the bound.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Reset => "limits.http2.resets",
            Self::Settings => "limits.http2.settings",
            Self::Ping => "limits.http2.pings",
            Self::Priority | Self::Other => "limits.http2.priorities",
            Self::WindowUpdate => "limits.http2.window_updates",
            Self::Empty => "limits.http2.empty_frames",
            Self::Continuation => "limits.http2.continuations",
            Self::HeaderBlock => "limits.header_bytes",
        }
    }
}

/// A peer passed a bound. The connection is to be closed with GOAWAY `ENHANCE_YOUR_CALM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the HTTP/2 peer sent more than {bound} {} in a window; raise {} if this client is honest",
    .flood.label(), .flood.key()
)]
pub struct Breach {
    /// What there was too much of.
    pub flood: Flood,
    /// The bound at that moment.
    pub bound: u32,
}

/// The meter of one connection. See the [module](self).
#[derive(Debug, Clone)]
pub struct FrameMeter {
    limits: MeterLimits,
    /// Number of the current window since the epoch of the caller's clock.
    window: u64,
    counts: Counts,
    block: HeaderBlock,
    /// Bytes that still belong to the preface or to the current payload.
    skip: u32,
    /// The frame header that the last piece cut through; its first `partial_len` bytes are valid.
    partial: [u8; HEAD_BYTES],
    partial_len: usize,
    breach: Option<Breach>,
}

/// What was seen in the current window.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    resets: u32,
    settings: u32,
    pings: u32,
    priorities: u32,
    others: u32,
    window_updates: u32,
    empty_frames: u32,
    sent_bytes: u64,
}

/// What was seen of the current header block. The next HEADERS or PUSH_PROMISE begins a new one;
/// anything else in between is an error that the library finds.
#[derive(Debug, Clone, Copy, Default)]
struct HeaderBlock {
    continuations: u32,
    bytes: u32,
}

const HEAD_BYTES: usize = 9;

/// `PRI * HTTP/2.0 CRLF CRLF SM CRLF CRLF`. The library compares it; the meter only steps over it.
const PREFACE_BYTES: u32 = 24;

impl FrameMeter {
    /// A meter for a connection of which nothing was read yet, the preface included.
    pub fn new(limits: MeterLimits) -> Self {
        Self {
            limits,
            window: 0,
            counts: Counts::default(),
            block: HeaderBlock::default(),
            skip: PREFACE_BYTES,
            partial: [0; HEAD_BYTES],
            partial_len: 0,
            breach: None,
        }
    }

    /// Takes the next bytes from the peer, read at `now_ms` of a monotonic clock.
    ///
    /// A frame counts as soon as its header is complete, before its payload arrives. After a breach
    /// the bytes must not reach the library.
    pub fn observe(&mut self, now_ms: u64, mut bytes: &[u8]) -> Result<(), Breach> {
        if let Some(breach) = self.breach {
            return Err(breach);
        }
        self.enter_window(now_ms / WINDOW_MS);
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            self.skip -= skipped as u32;
            bytes = &bytes[skipped..];
            let Some(head) = self.take_head(&mut bytes) else { return Ok(()) };
            if let Err(breach) = self.count(FrameHead::parse(head)) {
                self.breach = Some(breach);
                return Err(breach);
            }
        }
    }

    /// Notes that `bytes` were written to the peer, for which it may send window updates.
    pub fn note_sent(&mut self, bytes: usize) {
        self.counts.sent_bytes = self.counts.sent_bytes.saturating_add(bytes as u64);
    }

    /// A clock that steps back stays in the window: it must not hand out a fresh one.
    fn enter_window(&mut self, window: u64) {
        if window > self.window {
            self.window = window;
            self.counts = Counts::default();
        }
    }

    /// The next frame header, from `bytes` alone or from both sides of a cut.
    fn take_head(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEAD_BYTES]> {
        if self.partial_len == 0
            && let Some((head, rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some(*head);
        }
        let taken = bytes.len().min(HEAD_BYTES - self.partial_len);
        let (head, rest) = bytes.split_at(taken);
        self.partial[self.partial_len..self.partial_len + taken].copy_from_slice(head);
        self.partial_len += taken;
        *bytes = rest;
        if self.partial_len < HEAD_BYTES {
            return None;
        }
        self.partial_len = 0;
        Some(self.partial)
    }

    fn count(&mut self, head: FrameHead) -> Result<(), Breach> {
        self.skip = head.length;
        let (counts, limits) = (&mut self.counts, &self.limits);
        match head.kind {
            kind::DATA if head.length == 0 && !head.has(flag::END_STREAM) => {
                one_more(&mut counts.empty_frames, limits.empty_frames, Flood::Empty)
            }
            kind::DATA => Ok(()),
            kind::HEADERS => {
                self.block = HeaderBlock::default();
                // A stream may end with trailers that hold no field, once.
                if head.length == 0 && !head.has(flag::END_STREAM | flag::END_HEADERS) {
                    one_more(&mut counts.empty_frames, limits.empty_frames, Flood::Empty)?;
                }
                self.block.extend(head.length, limits)
            }
            kind::CONTINUATION => {
                if head.length == 0 {
                    one_more(&mut counts.empty_frames, limits.empty_frames, Flood::Empty)?;
                }
                one_more(&mut self.block.continuations, limits.continuations, Flood::Continuation)?;
                self.block.extend(head.length, limits)
            }
            kind::PUSH_PROMISE => {
                self.block = HeaderBlock::default();
                one_more(&mut counts.others, limits.priorities, Flood::Other)?;
                self.block.extend(head.length, limits)
            }
            kind::RST_STREAM => one_more(&mut counts.resets, limits.resets, Flood::Reset),
            kind::SETTINGS => one_more(&mut counts.settings, limits.settings, Flood::Settings),
            kind::PING => one_more(&mut counts.pings, limits.pings, Flood::Ping),
            kind::PRIORITY => one_more(&mut counts.priorities, limits.priorities, Flood::Priority),
            kind::WINDOW_UPDATE => {
                let earned = counts.sent_bytes / SENT_BYTES_PER_WINDOW_UPDATE;
                let bound = limits.window_updates.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX));
                one_more(&mut counts.window_updates, bound, Flood::WindowUpdate)
            }
            _ => one_more(&mut counts.others, limits.priorities, Flood::Other),
        }
    }
}

/// Reads what the library does against a peer from the bytes that it sends: it tells nobody else
/// which stream it refused, and forgets why it ended a connection. Only frame headers, RST_STREAM
/// and the first bytes of GOAWAY are looked at.
#[derive(Debug, Clone)]
pub struct Reactions {
    /// Bytes that still belong to a payload that is stepped over.
    skip: u32,
    /// The frame that is being read; its first `partial_len` bytes are valid.
    partial: [u8; HEAD_BYTES + REACTION_BYTES],
    partial_len: usize,
    /// Streams refused since the last look.
    refused: u64,
    goaway: Option<Flood>,
}

/// What is kept of a payload: of GOAWAY, the last stream, the error code and the start of its text.
const REACTION_BYTES: usize = 8 + 24;

/// Error codes (RFC 9113, section 7).
const REFUSED_STREAM: [u8; 4] = 7_u32.to_be_bytes();

/// The texts of the library, and what they are about. End-to-end tests fail when it changes them.
const GOAWAY_TEXTS: [(&[u8], Flood); 4] = [
    (b"too_many_internal_resets", Flood::Reset),
    (b"too_many_resets", Flood::Reset),
    (b"too_many_continuations", Flood::Continuation),
    (b"too_many_data_frames", Flood::Empty),
];

impl Default for Reactions {
    fn default() -> Self {
        let partial = [0; HEAD_BYTES + REACTION_BYTES];
        Self { skip: 0, partial, partial_len: 0, refused: 0, goaway: None }
    }
}

impl Reactions {
    /// Takes the next bytes that were written to the peer.
    pub fn observe(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            self.skip -= skipped as u32;
            bytes = &bytes[skipped..];
            let wanted = self.wanted();
            let taken = bytes.len().min(wanted - self.partial_len);
            let (part, rest) = bytes.split_at(taken);
            self.partial[self.partial_len..self.partial_len + taken].copy_from_slice(part);
            self.partial_len += taken;
            bytes = rest;
            if self.partial_len < wanted {
                return;
            }
            // A header that asks for some of its payload is read again with it.
            if self.partial_len == self.wanted() {
                self.react();
            }
        }
    }

    /// Streams that were refused since the last call.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// The flood for which the library sent GOAWAY, if it did.
    pub fn goaway(&self) -> Option<Flood> {
        self.goaway
    }

    /// How much of the current frame is needed, as far as it is known.
    fn wanted(&self) -> usize {
        if self.partial_len < HEAD_BYTES {
            return HEAD_BYTES;
        }
        let [a, b, c, kind, ..] = self.partial;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            kind::RST_STREAM | kind::GOAWAY => HEAD_BYTES + length.min(REACTION_BYTES),
            _ => HEAD_BYTES,
        }
    }

    fn react(&mut self) {
        let [a, b, c, kind, ..] = self.partial;
        let payload = &self.partial[HEAD_BYTES..self.partial_len];
        match kind {
            kind::RST_STREAM if payload == REFUSED_STREAM => self.refused += 1,
            kind::GOAWAY => {
                let text = payload.get(8..).unwrap_or_default();
                let known = GOAWAY_TEXTS.iter().find(|(start, _)| text.starts_with(start));
                self.goaway = self.goaway.or(known.map(|(_, flood)| *flood));
            }
            _ => {}
        }
        self.skip = u32::from_be_bytes([0, a, b, c]).saturating_sub(payload.len() as u32);
        self.partial_len = 0;
    }
}

impl HeaderBlock {
    fn extend(&mut self, length: u32, limits: &MeterLimits) -> Result<(), Breach> {
        self.bytes = self.bytes.saturating_add(length);
        let bound = limits.header_block_bytes;
        if self.bytes > bound { Err(Breach { flood: Flood::HeaderBlock, bound }) } else { Ok(()) }
    }
}

fn one_more(count: &mut u32, bound: u32, flood: Flood) -> Result<(), Breach> {
    if *count >= bound {
        return Err(Breach { flood, bound });
    }
    *count += 1;
    Ok(())
}

/// The parts of a frame header that the meter looks at. The stream is not one of them: all bounds
/// belong to the connection.
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    length: u32,
    kind: u8,
    flags: u8,
}

impl FrameHead {
    fn parse(head: [u8; HEAD_BYTES]) -> Self {
        let [a, b, c, kind, flags, ..] = head;
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags }
    }

    fn has(self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// Frame types (RFC 9113, section 6).
mod kind {
    pub(super) const DATA: u8 = 0x0;
    pub(super) const HEADERS: u8 = 0x1;
    pub(super) const PRIORITY: u8 = 0x2;
    pub(super) const RST_STREAM: u8 = 0x3;
    pub(super) const SETTINGS: u8 = 0x4;
    pub(super) const PUSH_PROMISE: u8 = 0x5;
    pub(super) const PING: u8 = 0x6;
    pub(super) const GOAWAY: u8 = 0x7;
    pub(super) const WINDOW_UPDATE: u8 = 0x8;
    pub(super) const CONTINUATION: u8 = 0x9;
}

/// Frame flags (RFC 9113, section 6).
mod flag {
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
}

/// Cuts `data` into pieces as its own bytes say, and checks that the cuts make no difference.
#[doc(hidden)]
pub fn fuzz_logic(data: &[u8]) {
    let limits = MeterLimits { continuations: 3, header_block_bytes: 300, ..MeterLimits::default() };
    let limits = MeterLimits { resets: 2, settings: 2, pings: 2, priorities: 2, ..limits };
    let limits = MeterLimits { window_updates: 2, empty_frames: 2, ..limits };

    let mut whole = FrameMeter::new(limits);
    let expected = whole.observe(0, data);

    let mut cut = FrameMeter::new(limits);
    let mut rest = data;
    let mut got = Ok(());
    while let Some(&first) = rest.first() {
        let (piece, after) = rest.split_at(rest.len().min(1 + usize::from(first % 16)));
        got = cut.observe(0, piece);
        rest = after;
    }
    assert_eq!(got, expected, "where a breach lies does not depend on how the bytes were cut");
    if expected.is_ok() {
        assert_eq!((cut.skip, cut.partial_len), (whole.skip, whole.partial_len), "both are in one place");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFACE: &[u8; PREFACE_BYTES as usize] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const GOAWAY: u8 = kind::GOAWAY;
    const PRIORITY_UPDATE: u8 = 0x10;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn begun(limits: MeterLimits) -> FrameMeter {
        let mut meter = FrameMeter::new(limits);
        meter.observe(0, PREFACE).unwrap();
        meter
    }

    /// Sends the same frame until the meter reports a breach; says how many passed.
    fn passes(meter: &mut FrameMeter, now_ms: u64, bytes: &[u8]) -> (u32, Breach) {
        (0..)
            .find_map(|passed| meter.observe(now_ms, bytes).err().map(|breach| (passed, breach)))
            .expect("each sort of frame has a bound")
    }

    #[test]
    fn each_flood_passes_up_to_its_bound_and_is_a_breach_beyond() {
        let limits = MeterLimits {
            resets: 3,
            settings: 4,
            pings: 5,
            priorities: 6,
            window_updates: 7,
            empty_frames: 8,
            continuations: 9,
            header_block_bytes: 1_000,
        };
        let table = [
            (Flood::Reset, 3, frame(kind::RST_STREAM, 0, 1, &[0; 4])),
            (Flood::Settings, 4, frame(kind::SETTINGS, 0, 0, &[])),
            (Flood::Settings, 4, frame(kind::SETTINGS, 1, 0, &[])),
            (Flood::Ping, 5, frame(kind::PING, 0, 0, &[0; 8])),
            (Flood::Ping, 5, frame(kind::PING, 1, 0, &[0; 8])),
            (Flood::Priority, 6, frame(kind::PRIORITY, 0, 1, &[0; 5])),
            (Flood::Other, 6, frame(PRIORITY_UPDATE, 0, 0, &[0; 9])),
            (Flood::Other, 6, frame(GOAWAY, 0, 0, &[0; 8])),
            (Flood::Other, 6, frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0; 4])),
            (Flood::Other, 6, frame(0xff, 0, 77, &[0; 2_000])),
            (Flood::WindowUpdate, 7, frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
            (Flood::Empty, 8, frame(kind::DATA, 0, 1, &[])),
            (Flood::Empty, 8, frame(kind::HEADERS, 0, 1, &[])),
            (Flood::Empty, 8, frame(kind::HEADERS, flag::END_STREAM, 1, &[])),
            (Flood::Empty, 8, frame(kind::HEADERS, flag::END_HEADERS, 1, &[])),
            (Flood::Empty, 8, frame(kind::CONTINUATION, 0, 1, &[])),
            (Flood::Continuation, 9, frame(kind::CONTINUATION, 0, 1, b"x")),
            (Flood::HeaderBlock, 4, frame(kind::CONTINUATION, 0, 1, &[0; 250])),
            (Flood::HeaderBlock, 0, frame(kind::HEADERS, flag::END_HEADERS, 1, &[0; 1_001])),
        ];
        for (flood, bound, bytes) in table {
            let (passed, breach) = passes(&mut begun(limits), 0, &bytes);
            assert_eq!((breach.flood, passed), (flood, bound), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_the_library_does_is_found_however_the_bytes_are_cut() {
        let reset = |code: u32| frame(kind::RST_STREAM, 0, 7, &code.to_be_bytes());
        let decoy = frame(kind::DATA, 0, 1, &reset(7)); // A payload that looks like a frame.
        let text = [&[0, 0, 0, 1, 0, 0, 0, 11], b"too_many_internal_resets and more".as_slice()].concat();
        let goaways = [frame(GOAWAY, 0, 0, &[0; 8]), frame(GOAWAY, 0, 0, &text)].concat();
        let settings = frame(kind::SETTINGS, 0, 0, &[]);
        let frames = [reset(7), decoy, reset(8), settings, goaways, reset(7)].concat();
        for size in 1..=frames.len() {
            let mut reactions = Reactions::default();
            frames.chunks(size).for_each(|piece| reactions.observe(piece));
            assert_eq!(reactions.take_refused(), 2, "cut into pieces of {size}");
            assert_eq!(reactions.goaway(), Some(Flood::Reset), "cut into pieces of {size}");
        }
    }

    #[test]
    fn frames_that_end_or_carry_something_are_not_empty() {
        let mut meter = begun(MeterLimits { empty_frames: 0, ..MeterLimits::default() });
        for _ in 0..1_000 {
            meter.observe(0, &frame(kind::DATA, flag::END_STREAM, 1, &[])).unwrap();
            meter.observe(0, &frame(kind::DATA, 0, 1, b"x")).unwrap();
            meter.observe(0, &frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, 1, &[])).unwrap();
        }
    }

    #[test]
    fn a_new_window_forgives_and_a_clock_that_steps_back_does_not() {
        let limits = MeterLimits { pings: 5, ..MeterLimits::default() };
        let ping = frame(kind::PING, 0, 0, &[0; 8]);
        let mut meter = begun(limits);
        let five = ping.repeat(5);
        meter.observe(WINDOW_MS - 1, &five).unwrap();
        meter.observe(WINDOW_MS, &five).unwrap();
        meter.observe(7 * WINDOW_MS, &five).unwrap();
        assert_eq!(meter.observe(0, &ping).unwrap_err().flood, Flood::Ping);
    }

    #[test]
    fn a_header_block_may_span_windows_and_its_bounds_hold_all_the_same() {
        let mut meter = begun(MeterLimits { continuations: 3, ..MeterLimits::default() });
        meter.observe(0, &frame(kind::HEADERS, 0, 1, b"x")).unwrap();
        let slow = frame(kind::CONTINUATION, 0, 1, b"x");
        let breach = (1..).find_map(|window| meter.observe(window * WINDOW_MS, &slow).err());
        assert_eq!(breach, Some(Breach { flood: Flood::Continuation, bound: 3 }));
    }

    #[test]
    fn each_header_block_begins_at_nothing() {
        let mut meter = begun(MeterLimits { continuations: 1, header_block_bytes: 10, ..Default::default() });
        for stream in (1..2_000).step_by(2) {
            meter.observe(0, &frame(kind::HEADERS, 0, stream, b"01234")).unwrap();
            meter.observe(0, &frame(kind::CONTINUATION, flag::END_HEADERS, stream, b"56789")).unwrap();
        }
    }

    #[test]
    fn a_header_block_is_refused_by_its_announced_length_before_its_bytes_arrive() {
        let mut meter = begun(MeterLimits::default());
        let huge = frame(kind::HEADERS, flag::END_HEADERS, 1, &[0; 65_537]);
        assert_eq!(meter.observe(0, &huge[..8]), Ok(()));
        assert_eq!(meter.observe(0, &huge[8..9]).unwrap_err().flood, Flood::HeaderBlock);
    }

    #[test]
    fn data_that_we_sent_allows_window_updates_in_its_window_only() {
        let limits = MeterLimits { window_updates: 10, ..MeterLimits::default() };
        let update = frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 16, 0]);
        let mut meter = begun(limits);
        for _ in 0..10_000 {
            meter.note_sent(4_096);
            meter.observe(0, &update).unwrap();
            meter.observe(0, &update).unwrap();
        }
        assert_eq!(passes(&mut meter, WINDOW_MS, &update).0, 10);
    }

    #[test]
    fn a_breach_is_final() {
        let mut meter = begun(MeterLimits { pings: 0, ..MeterLimits::default() });
        let breach = meter.observe(0, &frame(kind::PING, 0, 0, &[0; 8])).unwrap_err();
        assert_eq!(meter.observe(5 * WINDOW_MS, &[]), Err(breach));
        assert_eq!(meter.observe(5 * WINDOW_MS, &frame(kind::DATA, 0, 1, b"x")), Err(breach));
    }

    #[test]
    fn labels_are_distinct_and_an_error_names_its_key() {
        let labels: std::collections::HashSet<_> = Flood::ALL.iter().map(|flood| flood.label()).collect();
        assert_eq!(labels.len(), Flood::ALL.len());
        let text = Breach { flood: Flood::Reset, bound: 200 }.to_string();
        assert!(text.contains("more than 200 reset") && text.contains("limits.http2.resets"), "{text}");
    }

    #[derive(Debug, Clone)]
    struct Sent {
        kind: u8,
        flags: u8,
        length: usize,
    }

    fn any_frame() -> impl Strategy<Value = Sent> {
        let length = prop_oneof![3 => Just(0_usize), 5 => 0..40_usize, 1 => 0..3_000_usize];
        (prop_oneof![9 => 0..10_u8, 1 => any::<u8>()], any::<u8>(), length)
            .prop_map(|(kind, flags, length)| Sent { kind, flags, length })
    }

    /// The model: sees whole frames and a count for each window, block by block.
    fn model(limits: &MeterLimits, frames: &[(Sent, u64)]) -> Option<(usize, Flood)> {
        let mut seen: std::collections::HashMap<(u64, Flood), u32> = Default::default();
        let (mut continuations, mut block) = (0, 0);
        for (index, (sent, now_ms)) in frames.iter().enumerate() {
            let mut floods = vec![];
            let end_stream = sent.flags & 1 != 0;
            let end_headers = sent.flags & 4 != 0;
            let empty = sent.length == 0;
            match sent.kind {
                0 if empty && !end_stream => floods.push((Flood::Empty, limits.empty_frames)),
                0 => {}
                1 if empty && !(end_stream && end_headers) => {
                    floods.push((Flood::Empty, limits.empty_frames));
                }
                1 => {}
                2 => floods.push((Flood::Priority, limits.priorities)),
                3 => floods.push((Flood::Reset, limits.resets)),
                4 => floods.push((Flood::Settings, limits.settings)),
                6 => floods.push((Flood::Ping, limits.pings)),
                8 => floods.push((Flood::WindowUpdate, limits.window_updates)),
                9 if empty => floods.push((Flood::Empty, limits.empty_frames)),
                9 => {}
                _ => floods.push((Flood::Other, limits.priorities)),
            }
            for (flood, bound) in floods {
                let count = seen.entry((now_ms / WINDOW_MS, flood)).or_default();
                *count += 1;
                if *count > bound {
                    return Some((index, flood));
                }
            }
            match sent.kind {
                1 | 5 => (continuations, block) = (0, sent.length),
                9 => (continuations, block) = (continuations + 1, block + sent.length),
                _ => continue,
            }
            if continuations > limits.continuations {
                return Some((index, Flood::Continuation));
            }
            if block > limits.header_block_bytes as usize {
                return Some((index, Flood::HeaderBlock));
            }
        }
        None
    }

    proptest! {
        /// However the stream is cut, and whenever its pieces arrive, the meter finds the breach that
        /// a parser of whole frames finds, and finds it with the last byte of that frame's header.
        #[test]
        fn the_meter_agrees_with_a_parser_of_the_whole_stream(
            frames in proptest::collection::vec(any_frame(), 0..120),
            cuts in proptest::collection::vec((1..64_usize, 0..3_000_u64), 1..40),
        ) {
            let limits = MeterLimits {
                resets: 4, settings: 4, pings: 4, priorities: 4, window_updates: 4, empty_frames: 6,
                continuations: 3, header_block_bytes: 2_000,
            };
            let mut stream = PREFACE.to_vec();
            let mut head_ends = vec![];
            for sent in &frames {
                head_ends.push(stream.len() + HEAD_BYTES);
                // A payload that looks like frame headers would mislead a meter that lost its place.
                let payload: Vec<u8> = [0, 0, 0, 6, 1].into_iter().cycle().take(sent.length).collect();
                stream.extend(frame(sent.kind, sent.flags, 1, &payload));
            }
            let mut pieces = vec![];
            let (mut at, mut now_ms) = (0, 0);
            for (length, pause) in cuts.iter().cycle() {
                if at == stream.len() { break }
                now_ms += pause;
                let end = stream.len().min(at + length);
                pieces.push((at..end, now_ms));
                at = end;
            }
            let arrival = |end: usize| pieces.iter().find(|(piece, _)| piece.end >= end).unwrap().1;
            let timed: Vec<_> =
                frames.iter().cloned().zip(head_ends.iter().map(|&end| arrival(end))).collect();
            let expected = model(&limits, &timed).map(|(index, flood)| (head_ends[index], flood));

            let mut meter = FrameMeter::new(limits);
            let got = pieces.iter().find_map(|(piece, now_ms)| {
                meter.observe(*now_ms, &stream[piece.clone()]).err().map(|breach| (piece.clone(), breach))
            });
            match (got, expected) {
                (None, None) => {}
                (Some((piece, breach)), Some((end, flood))) => {
                    prop_assert_eq!(breach.flood, flood);
                    prop_assert!(piece.start < end && end <= piece.end, "{:?} holds {}", piece, end);
                }
                (got, expected) => prop_assert!(false, "got {:?}, expected {:?}", got, expected),
            }
        }

        #[test]
        fn any_bytes_are_measured_without_panic(data in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            fuzz_logic(&data);
        }
    }
}

/// What the table in the module's head says about the library, asked of the library itself. When one
/// of these fails after an update, the table and perhaps a bound must change.
#[cfg(test)]
mod library_facts {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf};

    use super::{flag, kind};

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// Indexed fields of the static table: `:method GET`, `:scheme http`, `:path /`.
    const GET: &[u8] = &[0x82, 0x86, 0x84];

    fn get(stream: u32) -> Vec<u8> {
        frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, stream, GET)
    }

    fn streams(count: u32) -> impl Iterator<Item = u32> {
        (0..count).map(|number| 2 * number + 1)
    }

    #[derive(Debug, PartialEq, Eq)]
    enum End {
        Open,
        GoAway { reason: u32, debug: String },
    }

    fn calm(debug: &str) -> End {
        End::GoAway { reason: 0xb, debug: debug.to_owned() }
    }

    fn protocol_error() -> End {
        End::GoAway { reason: 0x1, debug: String::new() }
    }

    /// A server of the library that accepts each request at once and answers none.
    fn serve(pieces: &[Vec<u8>]) -> End {
        serve_with(h2::server::Builder::new().max_header_list_size(32 * 1024), pieces)
    }

    fn serve_with(builder: &h2::server::Builder, pieces: &[Vec<u8>]) -> End {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut client, server) = tokio::io::duplex(64 << 20);
        write(&mut client, &mut cx, PREFACE);
        write(&mut client, &mut cx, &frame(kind::SETTINGS, 0, 0, &[]));
        let handshake = pin!(builder.handshake::<_, bytes::Bytes>(server));
        let Poll::Ready(Ok(mut connection)) = handshake.poll(&mut cx) else { panic!("handshake") };
        let mut held = vec![];
        // The answer to the last ping proves that the library went through all that came before it.
        for piece in pieces.iter().chain([&frame(kind::PING, 0, 0, b"liveness")]) {
            write(&mut client, &mut cx, piece);
            while let Poll::Ready(Some(Ok(request))) = connection.poll_accept(&mut cx) {
                held.push(request);
            }
        }
        end(&read(&mut client, &mut cx))
    }

    fn write(client: &mut DuplexStream, cx: &mut Context<'_>, bytes: &[u8]) {
        assert!(pin!(client.write_all(bytes)).poll(cx).is_ready(), "the pipe holds all of it");
    }

    fn read(client: &mut DuplexStream, cx: &mut Context<'_>) -> Vec<u8> {
        let mut all = vec![];
        let mut room = vec![0; 1 << 16];
        loop {
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut *client).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => all.extend(buffer.filled()),
                _ => return all,
            }
        }
    }

    fn end(mut bytes: &[u8]) -> End {
        while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
            let head = super::FrameHead::parse(*head);
            let (payload, after) = rest.split_at(head.length as usize);
            if head.kind == 0x7 {
                let reason = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                return End::GoAway { reason, debug: String::from_utf8(payload[8..].to_vec()).unwrap() };
            }
            if head.kind == kind::PING && payload == b"liveness" {
                return End::Open;
            }
            bytes = after;
        }
        panic!("the library neither closed the connection nor answered the last ping")
    }

    #[test]
    fn settings_pings_priorities_and_unknown_frames_have_no_bound() {
        for frame in [
            frame(kind::SETTINGS, 0, 0, &[]),
            frame(kind::PING, 0, 0, &[0; 8]),
            frame(kind::PING, 1, 0, &[0; 8]),
            frame(kind::PRIORITY, 0, 1, &[0; 5]),
            frame(0xee, 0, 0, &[0; 100]),
        ] {
            assert_eq!(serve(&[frame.repeat(5_000)]), End::Open, "{frame:02x?}");
        }
    }

    #[test]
    fn window_updates_of_zero_are_errors_and_their_number_is_not_bounded() {
        assert_eq!(serve(&[frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])]), protocol_error());
        assert_eq!(serve(&[frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(5_000)]), End::Open);
    }

    #[test]
    fn rapid_resets_are_bounded_only_when_they_come_in_one_read_with_their_stream() {
        let pair = |stream| [get(stream), frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])];
        let at_once: Vec<u8> = streams(21).flat_map(pair).flatten().collect();
        assert_eq!(serve(&[at_once]), calm("too_many_resets"));
        let one_by_one: Vec<Vec<u8>> = streams(5_000).flat_map(pair).collect();
        assert_eq!(serve(&one_by_one), End::Open);
    }

    #[test]
    fn resets_that_a_peer_provokes_are_bounded_over_the_life_of_the_connection() {
        // Valid requests, then an update that overflows the stream's window: the library resets.
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(128).max_local_error_reset_streams(Some(200));
        let provoke =
            |stream| [get(stream), frame(kind::WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])];
        let pieces = |count| streams(count).flat_map(provoke).collect::<Vec<_>>();
        assert_eq!(serve_with(&builder, &pieces(200)), End::Open);
        assert_eq!(serve_with(&builder, &pieces(201)), calm("too_many_internal_resets"));
    }

    #[test]
    fn empty_data_is_bounded_over_the_life_of_the_connection_padded_or_not() {
        for empty in [frame(kind::DATA, 0, 1, &[]), frame(kind::DATA, 0x8, 1, &[1, 0])] {
            let pieces = |count| vec![frame(kind::HEADERS, flag::END_HEADERS, 1, GET), empty.repeat(count)];
            assert_eq!(serve(&pieces(100)), End::Open);
            assert_eq!(serve(&pieces(101)), calm("too_many_data_frames"));
        }
    }

    #[test]
    fn five_continuations_pass_beside_the_last() {
        let block = |count| {
            let mut bytes = frame(kind::HEADERS, flag::END_STREAM, 1, GET);
            bytes.extend(frame(kind::CONTINUATION, 0, 1, b"\x90").repeat(count));
            bytes.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"\x90"));
            vec![bytes]
        };
        assert_eq!(serve(&block(5)), End::Open);
        assert_eq!(serve(&block(6)), calm("too_many_continuations"));
    }

    #[test]
    fn refused_streams_count_as_local_resets() {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(10).max_local_error_reset_streams(Some(20));
        let pieces = |count| streams(count).map(get).collect::<Vec<_>>();
        assert_eq!(serve_with(&builder, &pieces(30)), End::Open);
        assert_eq!(serve_with(&builder, &pieces(31)), calm("too_many_internal_resets"));
    }

    /// A literal of 100 bytes that enters the dynamic table, then references to it of one byte each.
    fn bomb(name: &[u8], references: usize) -> Vec<u8> {
        let mut block = GET.to_vec();
        block.extend([0x40, u8::try_from(name.len()).unwrap()]);
        block.extend(name);
        block.push(100);
        block.extend([b'x'; 100]);
        block.resize(block.len() + references, REFERENCE);
        block
    }

    const REFERENCE: u8 = 0x80 | 62;

    /// References that decode to more than twice the size of the header list, and less than four times.
    const REFERENCES: usize = 600;

    #[test]
    fn decoded_fields_are_bounded_at_four_times_the_size_but_malformed_ones_are_not() {
        let request = |name: &[u8], references| {
            let block = bomb(name, references);
            vec![frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, 1, &block)]
        };
        assert_eq!(serve(&request(b"x-bomb", 2 * REFERENCES)), calm("header_list_way_too_large"));
        assert_eq!(serve(&request(b"connection", 16_000)), End::Open);
    }

    #[test]
    fn the_fourfold_sum_begins_anew_with_each_continuation() {
        let mut bytes = frame(kind::HEADERS, flag::END_STREAM, 1, &bomb(b"x-bomb", REFERENCES));
        bytes.extend(frame(kind::CONTINUATION, 0, 1, &[REFERENCE; REFERENCES]).repeat(4));
        bytes.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[REFERENCE; REFERENCES]));
        assert_eq!(serve(&[bytes]), End::Open);
    }

    #[test]
    fn blocks_that_are_answered_with_431_do_not_count_as_local_resets() {
        let mut builder = h2::server::Builder::new();
        builder.max_header_list_size(32 * 1024).max_local_error_reset_streams(Some(10));
        let too_large = |stream| {
            frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, stream, &bomb(b"x-bomb", REFERENCES))
        };
        assert_eq!(serve_with(&builder, &streams(100).map(too_large).collect::<Vec<_>>()), End::Open);
    }
}
