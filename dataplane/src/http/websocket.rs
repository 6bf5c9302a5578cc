//! The opening handshake of WebSocket: which requests may become one, and what answers them. What follows is in `talk`.
//!
//! Over HTTP/1.1 the client asks to upgrade a GET request (RFC 6455, section 4), over HTTP/2 and 3 it opens
//! a stream with extended CONNECT (RFC 8441, RFC 9220). This module judges method and headers, and computes the
//! accept key; it owns no connection.
//!
//! # Decisions
//!
//! - No extension and no subprotocol is negotiated: both answers leave those headers out, which the
//!   RFC allows, and clients go on without.
//! - A request for a WebSocket route that asks for no upgrade at all, or for another version than 13,
//!   gets 426 with the version that we speak. In HTTP/2 and 3 there is no upgrade, so there it is 400.
//! - An upgrade request with a body is refused: where the body ends and the first frame begins is
//!   a question that two parsers may answer differently.
//!
//! # What it leaves to others
//!
//! `Host`, `:path` and `:authority` (checked as in each request), `Origin` (policy), that the protocol
//! of the connection is HTTP/1.1 and not 1.0, and frames and messages after the handshake.
#![forbid(unsafe_code)]

use ::http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use ::http::{Method, StatusCode, Version};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use thiserror::Error;

use super::message::{Problem, Reply, Request, UpgradeWish};

/// The one version of the protocol.
pub const VERSION: HeaderValue = HeaderValue::from_static("13");

/// The name of the protocol in `Upgrade` and `:protocol`.
pub const PROTOCOL: &str = "websocket";

/// The value of `Sec-WebSocket-Accept`, which proves that we understood the client's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptKey(HeaderValue);

impl AcceptKey {
    /// Headers of the `101 Switching Protocols` that accepts the upgrade.
    pub fn response_headers(self) -> [(HeaderName, HeaderValue); 3] {
        [
            (CONNECTION, HeaderValue::from_static("upgrade")),
            (UPGRADE, HeaderValue::from_static(PROTOCOL)),
            (::http::header::SEC_WEBSOCKET_ACCEPT, self.0),
        ]
    }

    /// The value alone.
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// Of the key as the client sent it: a keyless hash that only shows that no cache answered.
    fn of(key: &[u8]) -> Self {
        let mut input = key.to_vec();
        input.extend(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
        let hash = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &input));
        Self(HeaderValue::try_from(hash).expect("base64 is made of visible characters"))
    }
}

/// Why a request does not become a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// A plain request for a WebSocket route over HTTP/1.1.
    #[error("the request does not ask for WebSocket; send `connection: upgrade` and `upgrade: websocket`")]
    NoUpgrade,
    /// A plain request, or another protocol, over HTTP/2.
    #[error("the request does not ask for WebSocket; send CONNECT with `:protocol: websocket`")]
    NoConnect,
    /// An upgrade with another method than GET.
    #[error("a WebSocket upgrade must be a GET request")]
    Method,
    /// No version, more than one, or one that we do not speak, over HTTP/1.1.
    #[error("the WebSocket version is not 13; send `sec-websocket-version: 13` once")]
    UpgradeVersion,
    /// The same over HTTP/2.
    #[error("the WebSocket version is not 13; send `sec-websocket-version: 13` once")]
    ConnectVersion,
    /// No key, more than one, or one of the wrong length.
    #[error("the WebSocket key is not 16 bytes in base64; send `sec-websocket-key` once")]
    Key,
    /// A body in the upgrade request.
    #[error("a WebSocket upgrade must not have a body")]
    Body,
}

impl HandshakeError {
    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoUpgrade | Self::UpgradeVersion => StatusCode::UPGRADE_REQUIRED,
            Self::NoConnect | Self::Method | Self::ConnectVersion | Self::Key | Self::Body => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    /// Headers of the answer beside the usual ones. A 426 must name the protocol to upgrade to (RFC
    /// 9110, section 15.5.22), and `connection` must then list `upgrade`: the caller that writes its
    /// own `connection: close` adds it there.
    pub fn response_headers(self) -> Vec<(HeaderName, HeaderValue)> {
        let version = (SEC_WEBSOCKET_VERSION, VERSION);
        match self {
            Self::NoUpgrade | Self::UpgradeVersion => vec![
                version,
                (UPGRADE, HeaderValue::from_static(PROTOCOL)),
                (CONNECTION, HeaderValue::from_static("upgrade")),
            ],
            Self::ConnectVersion => vec![version],
            Self::NoConnect | Self::Method | Self::Key | Self::Body => vec![],
        }
    }
}

/// Whether an HTTP/1.1 request asks for WebSocket, rightly or wrongly.
pub fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    lists(headers, CONNECTION, "upgrade") && lists(headers, UPGRADE, PROTOCOL)
}

/// Judges an HTTP/1.1 request for a WebSocket route. The answer is 101 with the key's headers.
pub fn check_upgrade(method: &Method, headers: &HeaderMap) -> Result<AcceptKey, HandshakeError> {
    if !asks_for_upgrade(headers) {
        return Err(HandshakeError::NoUpgrade);
    }
    if method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if only(headers, SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err(HandshakeError::UpgradeVersion);
    }
    if has_body(headers) {
        return Err(HandshakeError::Body);
    }
    let key = only(headers, SEC_WEBSOCKET_KEY).ok_or(HandshakeError::Key)?;
    match KEY_BASE64.decode(key) {
        Ok(bytes) if bytes.len() == 16 => Ok(AcceptKey::of(key.as_bytes())),
        _ => Err(HandshakeError::Key),
    }
}

/// Judges an HTTP/2 request for a WebSocket route; `protocol` is its `:protocol`. The answer is 200
/// without further headers. Key and accept have no part in HTTP/2; a key is ignored.
pub fn check_connect(
    method: &Method,
    protocol: Option<&str>,
    headers: &HeaderMap,
) -> Result<(), HandshakeError> {
    if method != Method::CONNECT || protocol != Some(PROTOCOL) {
        return Err(HandshakeError::NoConnect);
    }
    if only(headers, SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err(HandshakeError::ConnectVersion);
    }
    Ok(())
}

/// Judges a request for a WebSocket of whichever HTTP version. The reply accepts it, but for what happens then; or says why not.
pub fn answer(request: &Request) -> Result<Reply, Box<Reply>> {
    let judged = if matches!(request.version, Version::HTTP_2 | Version::HTTP_3) {
        let protocol = request.upgrade.map(|UpgradeWish::WebSocket| PROTOCOL);
        check_connect(&request.method, protocol, &request.headers).map(|()| Reply::new(StatusCode::OK, ""))
    } else {
        check_upgrade(&request.method, &request.headers).map(|key| {
            let mut reply = Reply::new(StatusCode::SWITCHING_PROTOCOLS, "");
            reply.headers.extend(key.response_headers());
            reply
        })
    };
    judged.map_err(|error| {
        let mut reply = Reply::problem(Problem::from_status(error.status()));
        reply.headers.extend(error.response_headers());
        Box::new(reply)
    })
}

/// Hand-made keys often have stray bits behind the last byte. They say nothing about the 16 bytes.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The value of a header that stands there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_none() { Some(first) } else { None }
}

/// Whether a header, which may be a list and stand there more than once, has `token` in it.
fn lists(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// A `content-length: 0` is no body; what is not a number at all was refused before.
fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        headers
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    /// The request of RFC 6455, section 1.2, with `changes`: a header replaced, or removed by "".
    /// A header named `+name` is added beside the one that is there.
    fn sample(changes: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = map(&[
            ("host", "server.example.com"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("origin", "http://example.com"),
            ("sec-websocket-protocol", "chat, superchat"),
            ("sec-websocket-version", "13"),
        ]);
        for &(name, value) in changes {
            match name.strip_prefix('+') {
                Some(name) => _ = headers.append(name, HeaderValue::from_str(value).unwrap()),
                None if value.is_empty() => _ = headers.remove(name),
                None => _ = headers.insert(name, HeaderValue::from_str(value).unwrap()),
            }
        }
        headers
    }

    #[test]
    fn keys_and_their_accept_values() {
        // The first is the RFC's, the second the usual example, the others come from another SHA-1.
        let table = [
            ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("x3JJHMbDL1EzLkh9GBhXDw==", "HSmrc0sMlYUkAGmm5OPpG2HaGWk="),
            ("AAAAAAAAAAAAAAAAAAAAAA==", "ICX+Yqv66kxgM0FcWaLWlFLwTAI="),
            ("/////////////////////w==", "XXpj4jYzLM2yUE0C7TIgMwTQh2g="),
        ];
        for (key, accept) in table {
            let answer = check_upgrade(&Method::GET, &sample(&[("sec-websocket-key", key)])).unwrap();
            assert_eq!(answer.value(), accept, "{key}");
        }
    }

    #[test]
    fn the_answer_of_the_rfc() {
        let answer = check_upgrade(&Method::GET, &sample(&[])).unwrap();
        let headers: HeaderMap = answer.response_headers().into_iter().collect();
        let expected = map(&[
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn upgrades_that_are_accepted() {
        let table: [(&str, &[_]); 6] = [
            ("letters in any case", &[("upgrade", "WebSocket"), ("connection", "UPGRADE")]),
            ("a list, as Firefox sends it", &[("connection", "keep-alive, Upgrade")]),
            ("a header in two lines", &[("connection", "keep-alive"), ("+connection", "upgrade")]),
            ("more than one protocol", &[("upgrade", "foo/2 ,\twebsocket")]),
            ("an empty body", &[("content-length", "0")]),
            ("stray bits in the key", &[("sec-websocket-key", "AQIDBAUGBwgJCgsMDQ4PEC==")]),
        ];
        for (what, changes) in table {
            assert!(check_upgrade(&Method::GET, &sample(changes)).is_ok(), "{what}");
        }
    }

    #[test]
    fn upgrades_that_are_refused() {
        use HandshakeError::{Body, Key, NoUpgrade, UpgradeVersion};
        let key = "sec-websocket-key";
        let version = "sec-websocket-version";
        let table: [(&str, &[_], HandshakeError); 19] = [
            ("no upgrade header", &[("upgrade", "")], NoUpgrade),
            ("another protocol", &[("upgrade", "h2c")], NoUpgrade),
            ("a protocol that begins alike", &[("upgrade", "websockets")], NoUpgrade),
            ("no connection header", &[("connection", "")], NoUpgrade),
            ("a connection to keep", &[("connection", "keep-alive")], NoUpgrade),
            ("no version", &[(version, "")], UpgradeVersion),
            ("an old version", &[(version, "8")], UpgradeVersion),
            ("a list of versions", &[(version, "13, 8")], UpgradeVersion),
            ("two versions", &[("+sec-websocket-version", "13")], UpgradeVersion),
            ("no key", &[(key, "")], Key),
            ("two keys", &[("+sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")], Key),
            ("15 bytes", &[(key, "AAAAAAAAAAAAAAAAAAAA")], Key),
            ("17 bytes", &[(key, "AAAAAAAAAAAAAAAAAAAAAAA=")], Key),
            ("no padding", &[(key, "dGhlIHNhbXBsZSBub25jZQ")], Key),
            ("the alphabet of URLs", &[(key, "____________________-w==")], Key),
            ("not base64", &[(key, "the sample nonce, plain!")], Key),
            ("a length", &[("content-length", "5")], Body),
            ("a second length", &[("content-length", "0"), ("+content-length", "5")], Body),
            ("chunks", &[("transfer-encoding", "chunked")], Body),
        ];
        for (what, changes, expected) in table {
            assert_eq!(check_upgrade(&Method::GET, &sample(changes)), Err(expected), "{what}");
        }
        for method in [Method::POST, Method::HEAD, Method::CONNECT] {
            assert_eq!(check_upgrade(&method, &sample(&[])), Err(HandshakeError::Method), "{method}");
        }
    }

    #[test]
    fn connects_over_http2() {
        use HandshakeError::{ConnectVersion, NoConnect};
        let plain = map(&[("sec-websocket-version", "13"), ("origin", "http://example.com")]);
        let connect = |headers: &HeaderMap| check_connect(&Method::CONNECT, Some("websocket"), headers);
        assert_eq!(connect(&plain), Ok(()));
        assert_eq!(connect(&map(&[])), Err(ConnectVersion));
        assert_eq!(connect(&map(&[("sec-websocket-version", "12")])), Err(ConnectVersion));
        assert_eq!(check_connect(&Method::CONNECT, None, &plain), Err(NoConnect));
        assert_eq!(check_connect(&Method::CONNECT, Some("connect-udp"), &plain), Err(NoConnect));
        assert_eq!(check_connect(&Method::GET, None, &plain), Err(NoConnect));
    }

    #[test]
    fn each_error_has_its_status_and_a_426_says_what_to_upgrade_to() {
        use HandshakeError::*;
        for error in [NoUpgrade, NoConnect, Method, UpgradeVersion, ConnectVersion, Key, Body] {
            let headers: HeaderMap = error.response_headers().into_iter().collect();
            let upgrades = matches!(error, NoUpgrade | UpgradeVersion);
            assert_eq!(error.status().as_u16(), if upgrades { 426 } else { 400 }, "{error}");
            assert_eq!(headers.contains_key(UPGRADE), upgrades, "{error}");
            assert_eq!(asks_for_upgrade(&headers), upgrades, "{error}");
            let names_version = upgrades || error == ConnectVersion;
            assert_eq!(headers.get(SEC_WEBSOCKET_VERSION), names_version.then_some(&VERSION), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_key_of_16_bytes_is_accepted_and_no_other(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let headers = sample(&[("sec-websocket-key", &STANDARD.encode(&bytes))]);
            let accepted = check_upgrade(&Method::GET, &headers).is_ok();
            // An empty key removes the header from the sample.
            prop_assert_eq!(accepted, bytes.len() == 16);
        }

        #[test]
        fn any_values_are_judged_without_panic(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 5),
        ) {
            let names = [CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, CONTENT_LENGTH];
            let mut headers = sample(&[]);
            for (name, value) in names.into_iter().zip(values) {
                headers.extend(HeaderValue::from_bytes(&value).ok().map(|value| (name, value)));
            }
            let _ = check_upgrade(&Method::GET, &headers);
            let _ = check_connect(&Method::CONNECT, Some(PROTOCOL), &headers);
        }
    }
}
