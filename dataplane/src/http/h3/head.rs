//! Heads of requests and replies: fields with the rules of HTTP/3 (RFC 9114, 4.2 and 4.3).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::frames;
use super::qpack::{self, Ended, Text};
use super::static_table;

/// What a field costs beside its bytes, for `limits.header_bytes`: as the colon and the ends of a line of HTTP/1.1.
const FIELD_EXTRA: usize = 4;

/// The head of a request. The bytes of target, authority and values are those of the client.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    /// `:path`; empty for a CONNECT without it.
    pub(super) target: Bytes,
    pub(super) authority: Option<Bytes>,
    /// `:protocol` of an extended CONNECT (RFC 9220).
    pub(super) protocol: Option<Bytes>,
    pub(super) headers: HeaderMap,
    /// The length that is declared.
    pub(super) length: Option<u64>,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its section cannot be read.
    Undecodable,
    /// It breaks a rule of HTTP.
    Malformed,
    /// Its fields are more than `limits.header_bytes` allows.
    TooLarge,
}

impl From<Ended<Refused>> for Refused {
    fn from(ended: Ended<Refused>) -> Self {
        match ended {
            Ended::Undecodable => Refused::Undecodable,
            Ended::By(refused) => refused,
        }
    }
}

/// Reads the head of a request whose fields have at most `max` bytes.
pub(super) fn request(section: &[u8], max: usize) -> Result<Head, Refused> {
    let mut pseudo = Pseudo::default();
    let mut fields = Fields::new(max);
    qpack::decode(section, |name, value| {
        let text = text(name, |field| field.0);
        match text.strip_prefix(b":") {
            // Pseudo-headers come first.
            Some(_) if !fields.headers.is_empty() => Err(Refused::Malformed),
            Some(name) => {
                fields.take_room(name.len() + 1, &value)?;
                pseudo.take(name, &value)
            }
            None => fields.take(&name, &value),
        }
    })?;
    pseudo.finish(fields.headers)
}

/// Reads trailers.
pub(super) fn trailers(section: &[u8], max: usize) -> Result<HeaderMap, Refused> {
    let mut fields = Fields::new(max);
    qpack::decode(section, |name, value| fields.take(&name, &value))?;
    Ok(fields.headers)
}

fn text<'a>(text: Text<'a>, of: impl FnOnce((&'static str, &'static str)) -> &'static str) -> &'a [u8] {
    match text {
        Text::Static(number) => of(static_table::FIELDS[number]).as_bytes(),
        Text::Sent(bytes) => bytes,
    }
}

fn value_bytes<'a>(value: &Text<'a>) -> &'a [u8] {
    text(*value, |field| field.1)
}

/// The fields that are no pseudo-headers.
struct Fields {
    headers: HeaderMap,
    room: usize,
}

impl Fields {
    fn new(max: usize) -> Self {
        Self { headers: HeaderMap::new(), room: max }
    }

    fn take_room(&mut self, name: usize, value: &Text<'_>) -> Result<(), Refused> {
        let size = name + value_bytes(value).len() + FIELD_EXTRA;
        self.room = self.room.checked_sub(size).ok_or(Refused::TooLarge)?;
        Ok(())
    }

    fn take(&mut self, name: &Text<'_>, value: &Text<'_>) -> Result<(), Refused> {
        self.take_room(text(*name, |field| field.0).len(), value)?;
        let name = match name {
            Text::Static(number) => static_table::header_name(*number),
            // Upper case is refused here too.
            Text::Sent(name) => HeaderName::from_lowercase(name).ok(),
        };
        let value = match value {
            Text::Static(number) => Ok(HeaderValue::from_static(static_table::FIELDS[*number].1)),
            Text::Sent(value) => HeaderValue::from_bytes(value),
        };
        let (Some(name), Ok(value)) = (name, value) else { return Err(Refused::Malformed) };
        let banned = CONNECTION_FIELDS.contains(&name) || (name == header::TE && value != "trailers");
        if banned {
            return Err(Refused::Malformed);
        }
        self.headers.try_append(name, value).map_err(|_| Refused::TooLarge)?;
        Ok(())
    }
}

/// Fields that speak of a connection and must not come (RFC 9114, 4.2).
const CONNECTION_FIELDS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The pseudo-headers of a request.
#[derive(Default)]
struct Pseudo {
    method: Option<Method>,
    scheme: Option<()>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
}

impl Pseudo {
    fn take(&mut self, name: &[u8], value: &Text<'_>) -> Result<(), Refused> {
        match name {
            b"method" => {
                let method = Method::from_bytes(value_bytes(value)).map_err(|_| Refused::Malformed)?;
                once(&mut self.method, method)
            }
            // What it says is not asked: the connection is protected, whatever a proxy before us spoke.
            b"scheme" => once(&mut self.scheme, ()),
            b"authority" => once(&mut self.authority, owned(value)),
            b"path" => once(&mut self.path, owned(value)),
            b"protocol" => once(&mut self.protocol, owned(value)),
            _ => Err(Refused::Malformed),
        }
    }

    fn finish(self, headers: HeaderMap) -> Result<Head, Refused> {
        let Self { method, scheme, authority, path, protocol } = self;
        let method = method.ok_or(Refused::Malformed)?;
        let is_connect = method == Method::CONNECT;
        let complete = if is_connect && protocol.is_none() {
            authority.is_some() && scheme.is_none() && path.is_none()
        } else {
            let named = authority.is_some() || headers.contains_key(header::HOST);
            let extended = protocol.is_none() || is_connect;
            scheme.is_some() && named && extended && path.as_ref().is_some_and(|path| !path.is_empty())
        };
        let mut hosts = headers.get_all(header::HOST).iter();
        let one_host = match (&authority, hosts.next()) {
            (Some(authority), Some(host)) => host.as_bytes() == authority,
            _ => true,
        } && hosts.next().is_none();
        if !complete || !one_host {
            return Err(Refused::Malformed);
        }
        let length = declared_length(&headers)?;
        Ok(Head { method, target: path.unwrap_or_default(), authority, protocol, headers, length })
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Refused> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refused::Malformed),
    }
}

fn owned(value: &Text<'_>) -> Bytes {
    match value {
        Text::Static(number) => Bytes::from_static(static_table::FIELDS[*number].1.as_bytes()),
        Text::Sent(value) => Bytes::copy_from_slice(value),
    }
}

/// The length that the head declares; one at most.
fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
    match length.to_str().ok().and_then(|length| length.parse().ok()) {
        Some(length) if digits && lengths.next().is_none() => Ok(Some(length)),
        _ => Err(Refused::Malformed),
    }
}

/// A HEADERS frame with the head of a reply.
pub(super) fn reply(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    frames::headers(out, |out| {
        qpack::begin(out);
        qpack::field(out, ":status", status.as_str().as_bytes(), false);
        add(out, headers);
    });
}

/// A HEADERS frame with trailers.
pub(super) fn trailing(out: &mut Vec<u8>, trailers: &HeaderMap) {
    frames::headers(out, |out| {
        qpack::begin(out);
        add(out, trailers);
    });
}

fn add(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        qpack::field(out, name.as_str(), value.as_bytes(), value.is_sensitive());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 10_000;
    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/x?y")];

    fn section(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        qpack::begin(&mut out);
        fields.iter().for_each(|(name, value)| qpack::field(&mut out, name, value.as_bytes(), false));
        out
    }

    fn read(fields: &[(&str, &str)]) -> Result<Head, Refused> {
        request(&section(fields), MAX)
    }

    fn with(more: &[(&str, &str)]) -> Result<Head, Refused> {
        read(&[&GET, more].concat())
    }

    #[test]
    fn a_head_is_read_as_it_was_sent() {
        let head = with(&[("accept", "*/*"), ("x-a", " b\tc "), ("x-a", "d"), ("content-length", "7")])
            .expect("valid");
        assert_eq!((head.method, &head.target[..], head.length), (Method::GET, b"/x?y".as_slice(), Some(7)));
        assert_eq!(head.authority.as_deref(), Some(b"a.example".as_slice()));
        assert_eq!(head.headers.get_all("x-a").iter().collect::<Vec<_>>(), [" b\tc ", "d"]);
        assert_eq!(head.headers["accept"], "*/*");
    }

    #[test]
    fn what_a_request_must_have() {
        for missing in 0..GET.len() {
            let mut fields = GET.to_vec();
            let (name, _) = fields.remove(missing);
            assert_eq!(read(&fields).err(), Some(Refused::Malformed), "without {name}");
        }
        let with_host = [GET[0], GET[1], GET[3], ("host", "a.example")];
        assert!(read(&with_host).is_ok(), "a Host instead of an authority");
        assert!(with(&[("host", "a.example")]).is_ok());
        assert!(with(&[("host", "b.example")]).is_err());
        assert!(read(&[&with_host[..], &[("host", "a.example")]].concat()).is_err(), "two of them");
        assert!(read(&[GET[0], GET[1], GET[2], (":path", "")]).is_err());
    }

    #[test]
    fn what_no_request_may_have() {
        for more in [
            (":method", "GET"),
            (":path", "/"),
            (":status", "200"),
            (":x", "y"),
            (":protocol", "websocket"),
            ("X-Upper", "v"),
            ("", "v"),
            ("a b", "v"),
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "1"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("x", "a\nb"),
            ("x", "a\0b"),
            ("content-length", "+1"),
            ("content-length", "a"),
            ("content-length", "99999999999999999999"),
        ] {
            assert_eq!(with(&[more]).err(), Some(Refused::Malformed), "{more:?}");
        }
        assert!(with(&[("te", "trailers")]).is_ok());
        assert!(with(&[("content-length", "1"), ("content-length", "1")]).is_err());
        let late = [GET[0], GET[1], GET[2], ("a", "b"), GET[3]];
        assert_eq!(read(&late).err(), Some(Refused::Malformed), "a pseudo-header after a field");
    }

    #[test]
    fn a_connect_has_an_authority_and_perhaps_a_protocol() {
        let (connect, protocol) = ((":method", "CONNECT"), (":protocol", "websocket"));
        assert!(read(&[connect, GET[2]]).is_ok());
        assert!(read(&[connect]).is_err());
        assert!(read(&[connect, GET[1], GET[2], GET[3]]).is_err());
        let extended = read(&[connect, GET[1], GET[2], GET[3], protocol]).expect("valid");
        assert_eq!(extended.protocol.as_deref(), Some(b"websocket".as_slice()));
        assert!(read(&[connect, GET[2], protocol]).is_err());
    }

    #[test]
    fn fields_are_counted_with_what_they_take() {
        let size: usize = GET.iter().map(|(name, value)| name.len() + value.len() + FIELD_EXTRA).sum();
        assert!(request(&section(&GET), size).is_ok());
        assert_eq!(request(&section(&GET), size - 1).err(), Some(Refused::TooLarge));
        let small_but_many = section(&[("accept", "*/*"); 1000]);
        assert_eq!(trailers(&small_but_many, MAX).err(), Some(Refused::TooLarge), "1,000 bytes as sent");
    }

    #[test]
    fn trailers_have_no_pseudo_headers() {
        assert_eq!(trailers(&section(&[("a", "b")]), MAX).expect("valid")["a"], "b");
        assert_eq!(trailers(&section(&[(":path", "/")]), MAX).err(), Some(Refused::Malformed));
        assert_eq!(trailers(&[0xff], MAX).err(), Some(Refused::Undecodable));
    }

    proptest! {
        #[test]
        fn any_section_is_read_without_panic(section in prop::collection::vec(any::<u8>(), 0..300)) {
            let section = [&[0, 0], section.as_slice()].concat();
            let _ = request(&section, MAX);
            let _ = trailers(&section, MAX);
        }
    }
}
