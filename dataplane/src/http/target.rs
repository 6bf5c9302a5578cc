//! The request target: the bytes that the peer sent, kept unchanged, and the *normal form* of its path, which
//! exists only to be matched against routes.
//!
//! Why two forms: a proxy that rewrites paths breaks signatures and keys, and a proxy that matches what it happens
//! to receive can be walked around with a different spelling of the same path. So what we pass on is exactly what
//! came, and what we decide on is one agreed spelling. `docs/ROUTING.md` has the rules as a table, beside what nginx
//! and browsers do.
//!
//! The normal form of a path:
//! - an escape of an unreserved character (letter, digit, `-`, `.`, `_`, `~`) is decoded;
//! - every other escape stays, with upper-case digits: `%2f` is `%2F`, and never a separator;
//! - a byte that a URI path may not hold as it is (`"`, `<`, `^`, `\`, `#`, bytes from 0x80, ...) is escaped, so that
//!   a raw `é` and `%C3%A9` are one path;
//! - `/./` and `/../` are resolved as RFC 3986 says;
//! - repeated slashes stay: an empty segment is a segment.
//!
//! Invariants:
//! - the raw bytes never change, and the normal form is a valid RFC 3986 path: ASCII, starting with `/`;
//! - the normal form of a normal form is itself;
//! - an accepted path holds no dot segment about which two servers could disagree: whoever receives the raw bytes
//!   resolves them to the path that we matched. Paths where that does not hold are refused ([`DotAmbiguity`]).
//!
//! Left to others: the length of a target (the header limits bound it; all work here is linear), the query (its
//! bytes pass, its escapes are not looked at), and CONNECT, whose target is an authority and not a path.

mod host;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

pub use host::{HOST_BYTES_MAX, Host, HostError, LABEL_BYTES_MAX};

/// A request target: raw bytes, and the normal form of the path.
#[derive(Clone, Debug)]
pub struct Target {
    raw: Bytes,
    form: Form,
    /// Within `raw`; empty unless the form is absolute.
    authority: Range<usize>,
    /// Within `raw`; empty for `http://host`, whose path is `/`.
    path: Range<usize>,
    /// Within `raw`, after the `?`.
    query: Option<Range<usize>>,
    /// `None` where the raw path already is its own normal form: then nothing was allocated.
    normal: Option<Box<str>>,
}

/// How the target was written (RFC 9112, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`: what clients send to servers, and `:path` in HTTP/2.
    Origin,
    /// `http://host/path?query`: what clients send to proxies. Its host overrides the `Host` header.
    Absolute,
    /// `*`: `OPTIONS` for the server as a whole. It has no path, so no route matches it.
    Asterisk,
}

/// Why a target is refused. The answer to the client is 400; offsets count bytes from the start of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There is nothing.
    #[error("the request target is empty; send at least \"/\"")]
    Empty,
    /// Neither `/...`, `http(s)://...` nor `*`.
    #[error("the request target is neither a path, an http or https URL, nor \"*\"; start it with \"/\"")]
    UnknownForm,
    /// The authority of an absolute-form target is not a host.
    #[error("the host in the request target is not valid")]
    Host(#[from] HostError),
    /// NUL, a control character, or a space, which would end the target when passed on over HTTP/1.1.
    #[error("byte {byte:#04x} at offset {at} may not stand in a request target; escape it")]
    ForbiddenByte {
        /// The byte.
        byte: u8,
        /// Where it stands.
        at: usize,
    },
    /// `%` without two hexadecimal digits, in the path.
    #[error("the escape at offset {at} lacks two hexadecimal digits; write a percent sign itself as %25")]
    BrokenEscape {
        /// Where its `%` stands.
        at: usize,
    },
    /// `%00` in the path: behind us it may end a C string, and with it the path.
    #[error("the escape at offset {at} is a NUL; no path may hold one")]
    EncodedNul {
        /// Where its `%` stands.
        at: usize,
    },
    /// Dots that servers resolve differently.
    #[error("the path segment at offset {at} is ambiguous: {why}; send the resolved path")]
    AmbiguousDots {
        /// Where the segment starts.
        at: usize,
        /// What servers disagree about.
        why: DotAmbiguity,
    },
}

/// What makes a dot segment ambiguous: each variant names readers that would serve another path than the one
/// that we would match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DotAmbiguity {
    /// `%2e%2e`, `.%2e`, `%2e`: a name for who resolves first, a dot segment for who decodes first.
    #[error("its dots are percent-encoded")]
    Encoded,
    /// `..;x`, `..%3b`, `..#`: dots for who cuts path parameters (servlet containers) or fragments, a name for others.
    #[error("its dots are followed by a parameter or a fragment")]
    Parameter,
    /// `..%2fx`, `..\x`: dots for who takes an escaped slash or a backslash as a separator, a name for others.
    #[error("its dots stand beside an encoded slash or a backslash")]
    Separator,
    /// `/a%2fb/..`: one segment is removed, or only its last half.
    #[error("it removes a segment that holds an encoded slash or a backslash")]
    OverSeparator,
    /// `/a//..`: who merges slashes removes `a`, others remove the empty segment.
    #[error("it removes an empty segment")]
    OverEmpty,
    /// `/..`: some stop at the root, others refuse, a file system goes on.
    #[error("it leads above the root")]
    AboveRoot,
}

impl Target {
    /// Splits and checks a request target. `raw` is kept as it is.
    pub fn parse(raw: Bytes) -> Result<Self, TargetError> {
        if let Some(at) = raw.iter().position(|&byte| byte <= b' ' || byte == 0x7f) {
            return Err(TargetError::ForbiddenByte { byte: raw[at], at });
        }
        let (form, authority) = split_form(&raw)?;
        let start = authority.end;
        let path_end = raw[start..].iter().position(|&byte| byte == b'?').map_or(raw.len(), |n| start + n);
        let query = (path_end < raw.len()).then(|| path_end + 1..raw.len());
        let path = start..path_end;
        let normal = match form {
            Form::Asterisk => None,
            Form::Absolute if path.is_empty() => None,
            Form::Origin | Form::Absolute => normal_form(&raw[path.clone()], start)?,
        };
        Ok(Self { raw, form, authority, path, query, normal })
    }

    /// The whole target, byte for byte as it came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// How the target was written.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The host of an absolute-form target, which overrides the `Host` header (RFC 9112, section 3.2.2).
    pub fn host(&self) -> Option<Host<'_>> {
        // `parse` has accepted these bytes, and refuses an empty authority.
        Host::parse(&self.raw[self.authority.clone()]).ok()
    }

    /// The path, byte for byte as it came. `http://host` has the path `/`; the asterisk form has `*`.
    pub fn raw_path(&self) -> &[u8] {
        if self.path.is_empty() { b"/" } else { &self.raw[self.path.clone()] }
    }

    /// The query, byte for byte as it came, without its `?`. `None` where there is no `?`.
    pub fn raw_query(&self) -> Option<&[u8]> {
        self.query.clone().map(|query| &self.raw[query])
    }

    /// The path in its normal form. For the asterisk form, `*`.
    pub fn normal_path(&self) -> &str {
        match &self.normal {
            Some(normal) => normal,
            None => {
                std::str::from_utf8(self.raw_path()).expect("a path that is its own normal form is ASCII")
            }
        }
    }

    /// The segments of the normal path: `/` has one, which is empty; `/a/` has `a` and an empty one. The asterisk
    /// form has none.
    pub fn segments(&self) -> Segments<'_> {
        Segments { rest: self.normal_path().strip_prefix('/') }
    }
}

/// Iterates over the segments of a normal path, left to right. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    /// What follows the slash that was read last; `None` after the last segment.
    rest: Option<&'a str>,
}

impl<'a> Segments<'a> {
    /// What has not been read yet, slashes included; `None` after the last segment.
    pub fn rest(&self) -> Option<&'a str> {
        self.rest
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        match rest.split_once('/') {
            Some((segment, rest)) => {
                self.rest = Some(rest);
                Some(segment)
            }
            None => {
                self.rest = None;
                Some(rest)
            }
        }
    }
}

/// Decodes all escapes of a segment in normal form, as for the name of an object. The result may hold any byte but
/// NUL, slashes included; it never holds a dot segment.
pub fn percent_decode(normal: &str) -> Cow<'_, [u8]> {
    let bytes = normal.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        match escape(rest) {
            Some(byte) => {
                decoded.push(byte);
                rest = &rest[ESCAPE_LENGTH..];
            }
            None => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    Cow::Owned(decoded)
}

/// The form, and where its authority stands; the path follows the authority.
fn split_form(raw: &[u8]) -> Result<(Form, Range<usize>), TargetError> {
    match raw {
        [] => Err(TargetError::Empty),
        [b'/', ..] => Ok((Form::Origin, 0..0)),
        b"*" => Ok((Form::Asterisk, 0..0)),
        _ => {
            let scheme = raw.iter().position(|&byte| byte == b':').ok_or(TargetError::UnknownForm)?;
            let known =
                raw[..scheme].eq_ignore_ascii_case(b"http") || raw[..scheme].eq_ignore_ascii_case(b"https");
            if !known || !raw[scheme..].starts_with(b"://") {
                return Err(TargetError::UnknownForm);
            }
            let start = scheme + b"://".len();
            let end = raw[start..]
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?'))
                .map_or(raw.len(), |n| start + n);
            Host::parse(&raw[start..end])?;
            Ok((Form::Absolute, start..end))
        }
    }
}

/// The normal form of a path that starts with `/`; `None` where the path already is it. `offset` is where the path
/// stands in its target.
fn normal_form(path: &[u8], offset: usize) -> Result<Option<Box<str>>, TargetError> {
    if is_plain(path) {
        return Ok(None);
    }
    check_escapes(path, offset)?;
    let mut normal = String::with_capacity(path.len() + path.len() / 2);
    let mut at = offset + 1;
    let mut segments = path[1..].split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let start = normal.len();
        normal.push('/');
        push_normal(&mut normal, segment);
        let ambiguous = |why| TargetError::AmbiguousDots { at, why };
        let dots = dots(segment, &normal[start + 1..]).map_err(ambiguous)?;
        if dots != Dots::Name {
            normal.truncate(start);
            if dots == Dots::Up {
                remove_last_segment(&mut normal).map_err(ambiguous)?;
            }
            // RFC 3986, section 5.2.4: `/a/b/..` is the folder `/a/`.
            if segments.peek().is_none() {
                normal.push('/');
            }
        }
        at += segment.len() + 1;
    }
    let unchanged = normal.as_bytes() == path;
    Ok((!unchanged).then(|| normal.into_boxed_str()))
}

/// Whether a glance shows that the path is its own normal form: no escapes, nothing to escape, and no segment that
/// starts with a dot. Nearly every path is.
fn is_plain(path: &[u8]) -> bool {
    path.iter().all(|&byte| PLAIN[usize::from(byte)]) && !path.windows(2).any(|pair| pair == b"/.")
}

fn check_escapes(path: &[u8], offset: usize) -> Result<(), TargetError> {
    for (n, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'%') {
        let at = offset + n;
        match escape(&path[n..]) {
            None => return Err(TargetError::BrokenEscape { at }),
            Some(0) => return Err(TargetError::EncodedNul { at }),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Appends the normal form of one segment, whose escapes are well formed; dots are not resolved.
fn push_normal(normal: &mut String, segment: &[u8]) {
    let mut rest = segment;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, was_escape) = match escape(rest) {
            Some(byte) => (byte, true),
            None => (first, false),
        };
        if is_unreserved(byte) || (!was_escape && is_path_character(byte)) {
            normal.push(char::from(byte));
        } else {
            normal.push('%');
            normal.push(char::from(HEX_DIGITS[usize::from(byte >> 4)]));
            normal.push(char::from(HEX_DIGITS[usize::from(byte & 15)]));
        }
        rest = if was_escape { &rest[ESCAPE_LENGTH..] } else { after };
    }
}

/// What a segment does to the path before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dots {
    Name,
    Here,
    Up,
}

fn dots(raw: &[u8], normal: &str) -> Result<Dots, DotAmbiguity> {
    match raw {
        b"." => return Ok(Dots::Here),
        b".." => return Ok(Dots::Up),
        _ if is_dots(normal) => return Err(DotAmbiguity::Encoded),
        _ => {}
    }
    // An escape starts at each `%`, so that these strings cannot be found across two escapes.
    let pieces = normal.split("%2F").flat_map(|piece| piece.split("%5C"));
    if pieces.map(without_parameters).any(is_dots) {
        let why = if holds_separator(normal) { DotAmbiguity::Separator } else { DotAmbiguity::Parameter };
        return Err(why);
    }
    Ok(Dots::Name)
}

fn remove_last_segment(normal: &mut String) -> Result<(), DotAmbiguity> {
    let slash = normal.rfind('/').ok_or(DotAmbiguity::AboveRoot)?;
    let removed = &normal[slash + 1..];
    if holds_separator(removed) {
        return Err(DotAmbiguity::OverSeparator);
    }
    if without_parameters(removed).is_empty() {
        return Err(DotAmbiguity::OverEmpty);
    }
    normal.truncate(slash);
    Ok(())
}

fn is_dots(text: &str) -> bool {
    matches!(text, "." | "..")
}

fn holds_separator(normal: &str) -> bool {
    normal.contains("%2F") || normal.contains("%5C")
}

/// The segment as a reader sees it that cuts `;parameters`, or at `#`.
fn without_parameters(normal: &str) -> &str {
    let end = [";", "%3B", "%23"].iter().filter_map(|mark| normal.find(mark)).min();
    end.map_or(normal, |end| &normal[..end])
}

const ESCAPE_LENGTH: usize = 3;
const HEX_DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// The byte that the escape at the start of `bytes` stands for; `None` where no well-formed escape starts.
fn escape(bytes: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// RFC 3986, section 2.3: characters whose escape means the same as themselves.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986, section 3.3: `pchar` without escapes.
const fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

/// Which bytes of a path need no second look. A table, because every byte of every path is asked.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        plain[byte as usize] = byte == b'/' || is_path_character(byte);
        byte += 1;
    }
    plain
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(raw: &[u8]) -> Result<Target, TargetError> {
        Target::parse(Bytes::copy_from_slice(raw))
    }

    fn normal(raw: &[u8]) -> String {
        parse(raw).unwrap().normal_path().to_owned()
    }

    fn ambiguity(raw: &[u8]) -> Option<DotAmbiguity> {
        match parse(raw) {
            Err(TargetError::AmbiguousDots { why, .. }) => Some(why),
            Err(other) => panic!("{:?} is refused for another reason: {other}", String::from_utf8_lossy(raw)),
            Ok(_) => None,
        }
    }

    #[test]
    fn a_plain_path_is_borrowed_and_split() {
        let target = parse(b"/static/app.js?v=1&w=%zz").unwrap();
        assert!(target.normal.is_none());
        assert_eq!(target.normal_path(), "/static/app.js");
        assert_eq!(target.normal_path().as_ptr(), target.raw().as_ptr());
        assert_eq!(target.raw_path(), b"/static/app.js");
        assert_eq!(target.raw_query(), Some(&b"v=1&w=%zz"[..]));
        assert_eq!(target.segments().collect::<Vec<_>>(), ["static", "app.js"]);
        assert_eq!(target.form(), Form::Origin);
        assert_eq!(target.host(), None);
    }

    #[test]
    fn a_segment_that_starts_with_a_dot_is_still_borrowed() {
        assert!(parse(b"/.well-known/acme-challenge/x").unwrap().normal.is_none());
    }

    #[test]
    fn segments_tell_slashes_apart() {
        let segments = |raw| parse(raw).unwrap().segments().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(segments(b"/"), [""]);
        assert_eq!(segments(b"/a"), ["a"]);
        assert_eq!(segments(b"/a/"), ["a", ""]);
        assert_eq!(segments(b"//a//b"), ["", "a", "", "b"]);
        assert_eq!(segments(b"*"), Vec::<String>::new());
    }

    #[test]
    fn a_query_may_be_missing_or_empty() {
        assert_eq!(parse(b"/a").unwrap().raw_query(), None);
        assert_eq!(parse(b"/a?").unwrap().raw_query(), Some(&b""[..]));
        assert_eq!(parse(b"/a?b?/../c").unwrap().raw_query(), Some(&b"b?/../c"[..]));
    }

    #[test]
    fn the_normal_form_follows_its_table() {
        // The rows of docs/ROUTING.md, "The normal form".
        for (raw, expected) in [
            (&b"/%7Euser/%61%2D%2e%5Fb"[..], "/~user/a-._b"),
            (b"/a%2fb", "/a%2Fb"),
            (b"/a%3bb%21!", "/a%3Bb%21!"),
            (b"/a\\b", "/a%5Cb"),
            (b"/caf\xc3\xa9", "/caf%C3%A9"),
            (b"/caf%c3%a9", "/caf%C3%A9"),
            (b"/\xff", "/%FF"),
            (b"/<\"{^|`}>[]", "/%3C%22%7B%5E%7C%60%7D%3E%5B%5D"),
            (b"/a#b", "/a%23b"),
            (b"/a%0Ab%20c%2520", "/a%0Ab%20c%2520"),
            (b"/a%252e%252e/b", "/a%252e%252e/b"),
            (b"/a/./b", "/a/b"),
            (b"/a/../b", "/b"),
            (b"/a/b/..", "/a/"),
            (b"/a/.", "/a/"),
            (b"/.", "/"),
            (b"/a/..", "/"),
            (b"/a//b", "/a//b"),
            (b"/a/.//b", "/a//b"),
            (b"/.../..a/a../.a", "/.../..a/a../.a"),
            (b"/a..%2Fb", "/a..%2Fb"),
            (b"/a;x/../b", "/b"),
            (b"http://host", "/"),
            (b"http://host?q", "/"),
            (b"HTTPS://Host:8080/%61", "/a"),
            (b"*", "*"),
        ] {
            assert_eq!(normal(raw), expected, "{:?}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn ambiguous_dots_are_refused_with_their_reason() {
        use DotAmbiguity::{AboveRoot, Encoded, OverEmpty, OverSeparator, Parameter, Separator};
        // The rows of docs/ROUTING.md, "Dot segments".
        for (raw, why) in [
            (&b"/a/%2e%2e/b"[..], Encoded),
            (b"/a/.%2E/b", Encoded),
            (b"/a/%2e/b", Encoded),
            (b"/%2e%2e", Encoded),
            (b"/a/..;/b", Parameter),
            (b"/a/..;x=1/b", Parameter),
            (b"/a/.;/b", Parameter),
            (b"/a/%2e%2e;/b", Parameter),
            (b"/a/..%3b/b", Parameter),
            (b"/a/..#/b", Parameter),
            (b"/a/..%2fb", Separator),
            (b"/a/b%2F..", Separator),
            (b"/a/b%2F%2e%2e%2Fc", Separator),
            (b"/a/..%5cb", Separator),
            (b"/a/..\\b", Separator),
            (b"/a/b\\.\\c", Separator),
            (b"/a/b\\..;x\\c", Separator),
            (b"/a%2fb/../c", OverSeparator),
            (b"/a\\b/../c", OverSeparator),
            (b"/a//../b", OverEmpty),
            (b"/a/;x/../b", OverEmpty),
            (b"/..", AboveRoot),
            (b"/../a", AboveRoot),
            (b"/a/../../b", AboveRoot),
            (b"/./..", AboveRoot),
        ] {
            assert_eq!(ambiguity(raw), Some(why), "{:?}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn an_ambiguous_segment_is_named_by_its_offset() {
        let error = parse(b"http://host/a/%2e%2e/b").unwrap_err();
        assert_eq!(error, TargetError::AmbiguousDots { at: 14, why: DotAmbiguity::Encoded });
    }

    #[test]
    fn every_byte_either_passes_or_is_refused_by_name() {
        for byte in 0..=u8::MAX {
            let raw = [b'/', b'x', byte, b'y'];
            match byte {
                0..=b' ' | 0x7f => {
                    assert_eq!(parse(&raw).unwrap_err(), TargetError::ForbiddenByte { byte, at: 2 });
                }
                b'%' => assert_eq!(parse(&raw).unwrap_err(), TargetError::BrokenEscape { at: 2 }),
                _ => assert_eq!(parse(&raw).unwrap().raw(), &raw[..]),
            }
        }
    }

    #[test]
    fn every_escape_passes_but_nul() {
        for byte in 1..=u8::MAX {
            let raw = format!("/x%{byte:02x}y");
            let expected = if is_unreserved(byte) {
                format!("/x{}y", char::from(byte))
            } else {
                format!("/x%{byte:02X}y")
            };
            assert_eq!(normal(raw.as_bytes()), expected);
        }
        assert_eq!(parse(b"/x%00y").unwrap_err(), TargetError::EncodedNul { at: 2 });
    }

    #[test]
    fn broken_escapes_are_refused_in_the_path_only() {
        for raw in [&b"/%"[..], b"/%4", b"/%g0", b"/%0g", b"/a%%41", b"/%+1", b"/a%/b"] {
            assert!(matches!(parse(raw), Err(TargetError::BrokenEscape { .. })), "{raw:?}");
        }
        assert!(parse(b"/?%").is_ok());
        assert!(parse(b"/?%00").is_ok());
        assert_eq!(parse(b"/?\n").unwrap_err(), TargetError::ForbiddenByte { byte: b'\n', at: 2 });
    }

    #[test]
    fn absolute_form_gives_its_host_and_keeps_its_path() {
        let target = parse(b"http://Shop.Example.:8080/a%2fb?c").unwrap();
        assert_eq!(target.form(), Form::Absolute);
        assert_eq!(target.host().unwrap().as_str(), "shop.example");
        assert_eq!(target.raw_path(), b"/a%2fb");
        assert_eq!(target.raw_query(), Some(&b"c"[..]));
        let bare = parse(b"http://host?c").unwrap();
        assert_eq!((bare.raw_path(), bare.raw_query()), (&b"/"[..], Some(&b"c"[..])));
    }

    #[test]
    fn other_forms_are_refused() {
        assert_eq!(parse(b"").unwrap_err(), TargetError::Empty);
        for raw in
            [&b"a"[..], b"host:443", b"ftp://host/", b"http:/host", b"http:host/", b"*/", b"?a", b"://h/"]
        {
            assert_eq!(parse(raw).unwrap_err(), TargetError::UnknownForm, "{raw:?}");
        }
        for raw in [&b"http://"[..], b"http:///a", b"http://user@host/", b"http://host\\a/", b"http://h#/"] {
            assert!(matches!(parse(raw), Err(TargetError::Host(_))), "{raw:?}");
        }
    }

    #[test]
    fn decoding_undoes_every_escape_once() {
        assert_eq!(percent_decode("a%20b%2F%252F").as_ref(), b"a b/%2F");
        assert!(matches!(percent_decode("plain"), Cow::Borrowed(b"plain")));
    }

    /// A server behind us, or a proxy before us: how it reads a path. The reference for what "ambiguous" means.
    #[derive(Clone, Copy, Debug)]
    struct Reader {
        decodes_dots: bool,
        /// Takes `%2F`, `%5C` and `\` for slashes.
        decodes_separators: bool,
        cuts_parameters: bool,
        merges_slashes: bool,
    }

    impl Reader {
        fn all() -> impl Iterator<Item = Self> {
            (0..16).map(|bits| Self {
                decodes_dots: bits & 1 != 0,
                decodes_separators: bits & 2 != 0,
                cuts_parameters: bits & 4 != 0,
                merges_slashes: bits & 8 != 0,
            })
        }

        /// The path that this reader serves. It stops at the root.
        fn resolve(self, path: &[u8]) -> Vec<String> {
            // Bytes 0x80 and above become characters one to one: the reference only compares.
            let mut text: String = path.iter().copied().map(char::from).collect();
            if self.decodes_separators {
                for separator in ["%2f", "%2F", "%5c", "%5C", "\\"] {
                    text = text.replace(separator, "/");
                }
            }
            let mut segments: Vec<String> = text[1..].split('/').map(str::to_owned).collect();
            if self.cuts_parameters {
                for segment in &mut segments {
                    let end = segment.replace("%3b", ";  ").replace("%3B", ";  ").find(';');
                    segment.truncate(end.unwrap_or(segment.len()));
                }
            }
            if self.decodes_dots {
                for segment in &mut segments {
                    *segment = segment.replace("%2e", ".").replace("%2E", ".");
                }
            }
            if self.merges_slashes {
                let last = segments.pop().unwrap_or_default();
                segments.retain(|segment| !segment.is_empty());
                segments.push(last);
            }
            let mut resolved: Vec<String> = Vec::new();
            let count = segments.len();
            for (index, segment) in segments.into_iter().enumerate() {
                let is_dots = segment == "." || segment == "..";
                if segment == ".." {
                    resolved.pop();
                }
                if !is_dots {
                    resolved.push(one_spelling(&segment));
                } else if index + 1 == count {
                    resolved.push(String::new());
                }
            }
            resolved
        }
    }

    /// Decodes all that can be decoded, keeping apart what was reserved and escaped from what was not.
    fn one_spelling(segment: &str) -> String {
        let mut spelled = String::new();
        let mut rest = segment;
        while let Some(first) = rest.chars().next() {
            let escaped = (first == '%').then(|| u8::from_str_radix(&rest[1..3], 16).unwrap());
            let character = escaped.map_or(first, char::from);
            let reserved = "!$&'()*+,;=:@/%".contains(character);
            spelled.push_str(if escaped.is_some() && reserved { "escaped " } else { "" });
            spelled.push(character);
            rest = &rest[escaped.map_or(first.len_utf8(), |_| 3)..];
        }
        spelled
    }

    /// Paths made of the pieces that matter, so that every rule meets every other.
    fn spiky_path() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            &b"/"[..],
            b"/",
            b"/",
            b"/",
            b"a",
            b"b",
            b".",
            b"/..",
            b"/;",
            b"/.",
            b"..",
            b"%2e",
            b"%2E",
            b"%2f",
            b"%5C",
            b"\\",
            b";",
            b"%3b",
            b"#",
            b"%61",
            b"%c3%a9",
            b"\xc3\xa9",
            b"%25",
            b"%2",
            b"%00",
            b"!",
            b"%21",
            b"\"",
        ]);
        prop::collection::vec(piece, 0..14).prop_map(|pieces| [&b"/"[..], &pieces.concat()].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

        /// The heart of the matter: whatever server is behind us, the raw bytes that it receives mean to it what the
        /// path that we matched means to it.
        #[test]
        fn every_reader_agrees_on_an_accepted_path(raw in spiky_path()) {
            if let Ok(target) = parse(&raw) {
                for reader in Reader::all() {
                    prop_assert_eq!(
                        reader.resolve(target.raw_path()),
                        reader.resolve(target.normal_path().as_bytes()),
                        "{:?} reads {:?} otherwise than {:?}",
                        reader, String::from_utf8_lossy(&raw), target.normal_path()
                    );
                }
            }
        }

        #[test]
        fn without_dots_nothing_is_ambiguous(raw in spiky_path()) {
            let text = String::from_utf8_lossy(&raw).to_lowercase();
            let ambiguous = matches!(parse(&raw), Err(TargetError::AmbiguousDots { .. }));
            prop_assert!(!ambiguous || text.contains('.') || text.contains("%2e"));
        }

        #[test]
        fn normalising_twice_is_normalising_once(raw in spiky_path()) {
            if let Ok(target) = parse(&raw) {
                let again = parse(target.normal_path().as_bytes()).unwrap();
                prop_assert_eq!(again.normal_path(), target.normal_path());
                prop_assert!(again.normal.is_none());
            }
        }

        #[test]
        fn decoded_segments_hide_no_dot_segment(raw in spiky_path()) {
            if let Ok(target) = parse(&raw) {
                for segment in target.segments() {
                    let decoded = percent_decode(segment).into_owned();
                    for piece in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
                        prop_assert!(piece != b"." && piece != b"..");
                    }
                }
            }
        }

        #[test]
        fn any_bytes_are_parsed_or_refused_and_never_changed(raw in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(target) = parse(&raw) {
                prop_assert_eq!(target.raw(), &raw[..]);
                let mut rebuilt = target.raw_path().to_vec();
                if let Some(query) = target.raw_query() {
                    rebuilt.push(b'?');
                    rebuilt.extend_from_slice(query);
                }
                if target.form() != Form::Absolute {
                    prop_assert_eq!(rebuilt, raw);
                }
            }
        }
    }
}
