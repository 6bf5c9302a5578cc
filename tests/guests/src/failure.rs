//! Why a subject could not go on, and the names of error codes as the WIT spells them.

use std::fmt;

use wasip2::http::types::{self, ErrorCode};
use wasip2::io::streams::StreamError;

/// What the host answered instead of doing it.
pub(crate) enum Failure {
    /// A stream is closed or broken, and the host knows no error code for it.
    Stream(String),
    /// The host gave an error code, directly or behind the error of a stream.
    Code(ErrorCode),
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Closed => Self::Stream("closed".to_owned()),
            StreamError::LastOperationFailed(error) => match types::http_error_code(&error) {
                Some(code) => Self::Code(code),
                // Some hosts print their own backtrace after the first line.
                None => Self::Stream(error.to_debug_string().lines().next().unwrap_or_default().to_owned()),
            },
        }
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self::Code(code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(why) => write!(f, "stream: {why}"),
            Self::Code(code) => write!(f, "{}", name(code)),
        }
    }
}

/// What the WIT writes in capitals inside of names.
const ACRONYMS: &[&str] = &["dns", "http", "ip", "tls", "uri"];

/// The name that the WIT gives to a code, without its payload: `HTTP-request-denied`.
pub(crate) fn name(code: &ErrorCode) -> String {
    // The bindings print `ErrorCode::HttpRequestDenied`, followed by a parenthesis if there is a payload.
    let printed = format!("{code:?}");
    let name = printed.trim_start_matches("ErrorCode::").split('(').next().unwrap_or_default();
    let mut words: Vec<String> = Vec::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            words.push(String::new());
        }
        words.last_mut().expect("names begin with a capital").push(letter.to_ascii_lowercase());
    }
    for word in &mut words {
        if ACRONYMS.contains(&word.as_str()) {
            word.make_ascii_uppercase();
        }
    }
    words.join("-")
}
