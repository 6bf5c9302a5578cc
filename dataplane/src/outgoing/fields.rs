//! Which header fields cross this node, and which belong to one connection only.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Fields that belong to a connection (RFC 9110, 7.6.1), whether `connection` names them or not.
const OF_A_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Fields that say how a message is framed or routed, which no trailer may (RFC 9110, 6.5.1).
const NO_TRAILERS: [HeaderName; 4] = [header::CONTENT_LENGTH, header::HOST, header::TRAILER, header::EXPECT];

/// Takes out what belongs to one connection: the fields that `connection` names as well.
fn remove_connection_fields(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = fields
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // What frames or routes a message is not for its sender to take out of it.
        .filter(|name| !NO_TRAILERS.contains(name))
        .collect();
    for name in named.iter().chain(&OF_A_CONNECTION) {
        fields.remove(name);
    }
}

/// Prepares the fields of a request: `host` is set, and what hyper sets from the body is taken out.
pub(super) fn prepare_request(fields: &mut HeaderMap, host: HeaderValue) {
    let takes_trailers = fields.get_all(header::TE).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|one| one.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    remove_connection_fields(fields);
    // It would be ours to keep: nobody here waits for the 100 (Continue) that it asks for.
    fields.remove(header::EXPECT);
    fields.remove(header::CONTENT_LENGTH);
    fields.insert(header::HOST, host);
    if takes_trailers {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
        fields.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Prepares the fields of a reply.
pub(super) fn prepare_reply(fields: &mut HeaderMap) {
    // With a transfer coding the length is a contradiction, and the coding has won (RFC 9112, 6.3).
    if fields.contains_key(header::TRANSFER_ENCODING) {
        fields.remove(header::CONTENT_LENGTH);
    }
    remove_connection_fields(fields);
}

/// Prepares trailers, of either direction.
pub(super) fn prepare_trailers(fields: &mut HeaderMap) {
    remove_connection_fields(fields);
    for name in &NO_TRAILERS {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter();
        fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn fields_of_a_connection_do_not_cross_and_neither_do_those_that_it_names() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("connection", "Keep-Alive, X-Secret"),
            ("connection", "x-other , close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("expect", "100-continue"),
            ("content-length", "17"),
            ("host", "client.test"),
            ("accept", "*/*"),
            ("trailer", "x-sum"),
        ] {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        prepare_request(&mut fields, HeaderValue::from_static("origin.test"));
        assert_eq!(fields, map(&[("accept", "*/*"), ("trailer", "x-sum"), ("host", "origin.test")]));
    }

    #[test]
    fn a_wish_for_trailers_is_passed_on_as_ours() {
        let mut fields = map(&[("te", "deflate, Trailers")]);
        prepare_request(&mut fields, HeaderValue::from_static("a"));
        assert_eq!(fields, map(&[("te", "trailers"), ("connection", "te"), ("host", "a")]));
    }

    #[test]
    fn a_connection_field_does_not_take_out_what_frames_or_routes() {
        let mut fields = map(&[("connection", "content-length, host"), ("content-length", "5")]);
        prepare_reply(&mut fields);
        assert_eq!(fields, map(&[("content-length", "5")]));
    }

    #[test]
    fn a_length_beside_a_transfer_coding_is_taken_out() {
        let mut fields = map(&[("transfer-encoding", "chunked"), ("content-length", "5"), ("x", "y")]);
        prepare_reply(&mut fields);
        assert_eq!(fields, map(&[("x", "y")]));
    }

    #[test]
    fn trailers_carry_no_framing() {
        let mut fields =
            map(&[("content-length", "5"), ("host", "a"), ("transfer-encoding", "x"), ("x-sum", "1")]);
        prepare_trailers(&mut fields);
        assert_eq!(fields, map(&[("x-sum", "1")]));
    }
}
