//! Why a request that was sent out has no reply, or no whole one.

use std::error::Error as StdError;
use std::io;

use http::StatusCode;

use super::resolve::ResolveError;
use crate::enforce::Denied;

/// Why there is no reply, or why its body ended early. The cases are those of `wasi:http`'s error codes.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The name was not resolved within the time to connect.
    #[error(
        "the name of the host was not resolved in time; try again, or look at the resolver of this machine"
    )]
    DnsTimeout,
    /// The resolver failed.
    #[error("resolving the name of the host failed: {0}; try again, or look at the resolver of this machine")]
    DnsError(String),
    /// There is no such host.
    #[error("no host has this name; check how it is written")]
    DestinationNotFound,
    /// The connection failed for a reason of this machine.
    #[error("connecting failed: {0}")]
    DestinationUnavailable(#[source] io::Error),
    /// The address, or the request as such, is not allowed.
    #[error(transparent)]
    DestinationIpProhibited(#[from] Denied),
    /// No way leads to the address.
    #[error("no way leads to the address of the host: {0}")]
    DestinationIpUnroutable(#[source] io::Error),
    /// Nobody listens there.
    #[error("the host refused the connection; is its server running, and on this port?")]
    ConnectionRefused,
    /// The connection ended before a byte of the reply came.
    #[error("the connection ended before a reply came; the request may have been acted upon")]
    ConnectionTerminated,
    /// There was no connection within the time to connect.
    #[error("there was no connection within the time for it")]
    ConnectionTimeout,
    /// The body of the reply paused for too long.
    #[error("no byte of the reply's body came within the time between two")]
    ConnectionReadTimeout,
    /// Too many connections are open, or wait for one.
    #[error("too many connections to this destination, or of this zone, are in use; try again later")]
    ConnectionLimitReached,
    /// TLS failed.
    #[error("TLS failed: {0}")]
    TlsProtocolError(String),
    /// The certificate of the host is not good.
    #[error("the certificate of the host is refused: {0}; is its issuer trusted by this machine?")]
    TlsCertificateError(String),
    /// The method has no meaning here.
    #[error("the method {0} cannot be sent; tunnels are not offered")]
    HttpRequestMethodInvalid(http::Method),
    /// The host, port or path cannot be sent.
    #[error("the destination is not one: {0}")]
    HttpRequestUriInvalid(&'static str),
    /// The body of the request failed, at its other end.
    #[error("the body of the request ended early: {0}")]
    HttpRequestBody(String),
    /// The reply ended within its head or body.
    #[error("the reply was cut off")]
    HttpResponseIncomplete,
    /// The head of the reply did not come.
    #[error("the reply did not begin within the time for it")]
    HttpResponseTimeout,
    /// The head of the reply is too large.
    #[error("the head of the reply is larger than allowed, or has too many fields")]
    HttpResponseHeaderSectionSize,
    /// The host switched protocols, which nobody asked for.
    #[error("the host switched to another protocol, which was not asked for")]
    HttpUpgradeFailed,
    /// What came is not HTTP/1.1.
    #[error("the reply is not valid HTTP/1.1: {0}")]
    HttpProtocolError(String),
    /// A mistake of ours.
    #[error("{0}; please report this")]
    InternalError(String),
}

impl SendError {
    /// The status that a client gets whose request was passed on: 504 when time ran out, else 502. A request whose own
    /// body failed is the client's fault, as are a method or target that cannot be sent.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::DnsTimeout
            | Self::ConnectionTimeout
            | Self::ConnectionReadTimeout
            | Self::HttpResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::HttpRequestMethodInvalid(_) => StatusCode::NOT_IMPLEMENTED,
            Self::HttpRequestBody(_) | Self::HttpRequestUriInvalid(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whether time ran out.
    pub fn is_timeout(&self) -> bool {
        self.status() == StatusCode::GATEWAY_TIMEOUT
    }

    pub(super) fn from_resolve(error: ResolveError) -> Self {
        match error {
            ResolveError::NotFound => Self::DestinationNotFound,
            ResolveError::Failed(why) => Self::DnsError(why.to_string()),
            error @ ResolveError::Busy => Self::DnsError(error.to_string()),
        }
    }

    pub(super) fn from_connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::TimedOut => Self::ConnectionTimeout,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied => Self::DestinationIpUnroutable(error),
            _ => Self::DestinationUnavailable(error),
        }
    }

    pub(super) fn from_handshake(error: &io::Error) -> Self {
        match find::<rustls::Error>(error) {
            Some(error @ rustls::Error::InvalidCertificate(_)) => {
                Self::TlsCertificateError(error.to_string())
            }
            Some(error) => Self::TlsProtocolError(error.to_string()),
            None => Self::ConnectionTerminated,
        }
    }

    /// Why an exchange failed. `began` tells whether bytes of the reply had come.
    pub(super) fn from_exchange(error: &hyper::Error, began: Began) -> Self {
        if error.is_parse_too_large() {
            Self::HttpResponseHeaderSectionSize
        } else if error.is_parse() {
            Self::HttpProtocolError(error.to_string())
        } else if let Some(error) = find::<rustls::Error>(error) {
            Self::TlsProtocolError(error.to_string())
        } else if began == Began::Yes {
            Self::HttpResponseIncomplete
        } else {
            Self::ConnectionTerminated
        }
    }

    /// Why the body of a reply failed.
    pub(super) fn from_body(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            Self::HttpResponseHeaderSectionSize
        } else if let Some(error) = find::<rustls::Error>(error) {
            Self::TlsProtocolError(error.to_string())
        } else {
            Self::HttpResponseIncomplete
        }
    }
}

/// Whether bytes of the reply have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Began {
    Yes,
    No,
}

/// Looks through an error, what it was caused by, and what I/O errors wrap.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // The source of an I/O error is that of the error which it wraps, and skips that one.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}
