//! The static table of QPACK (RFC 9204, appendix A): names and values that need not be sent.

use std::sync::LazyLock;

use http::HeaderName;

/// The fields, by their number.
pub(super) const FIELDS: [(&str, &str); 99] = [
    (":authority", ""),
    (":path", "/"),
    ("age", "0"),
    ("content-disposition", ""),
    ("content-length", "0"),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("referer", ""),
    ("set-cookie", ""),
    (":method", "CONNECT"),
    (":method", "DELETE"),
    (":method", "GET"),
    (":method", "HEAD"),
    (":method", "OPTIONS"),
    (":method", "POST"),
    (":method", "PUT"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "103"),
    (":status", "200"),
    (":status", "304"),
    (":status", "404"),
    (":status", "503"),
    ("accept", "*/*"),
    ("accept", "application/dns-message"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-ranges", "bytes"),
    ("access-control-allow-headers", "cache-control"),
    ("access-control-allow-headers", "content-type"),
    ("access-control-allow-origin", "*"),
    ("cache-control", "max-age=0"),
    ("cache-control", "max-age=2592000"),
    ("cache-control", "max-age=604800"),
    ("cache-control", "no-cache"),
    ("cache-control", "no-store"),
    ("cache-control", "public, max-age=31536000"),
    ("content-encoding", "br"),
    ("content-encoding", "gzip"),
    ("content-type", "application/dns-message"),
    ("content-type", "application/javascript"),
    ("content-type", "application/json"),
    ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "image/gif"),
    ("content-type", "image/jpeg"),
    ("content-type", "image/png"),
    ("content-type", "text/css"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-type", "text/plain"),
    ("content-type", "text/plain;charset=utf-8"),
    ("range", "bytes=0-"),
    ("strict-transport-security", "max-age=31536000"),
    ("strict-transport-security", "max-age=31536000; includesubdomains"),
    ("strict-transport-security", "max-age=31536000; includesubdomains; preload"),
    ("vary", "accept-encoding"),
    ("vary", "origin"),
    ("x-content-type-options", "nosniff"),
    ("x-xss-protection", "1; mode=block"),
    (":status", "100"),
    (":status", "204"),
    (":status", "206"),
    (":status", "302"),
    (":status", "400"),
    (":status", "403"),
    (":status", "421"),
    (":status", "425"),
    (":status", "500"),
    ("accept-language", ""),
    ("access-control-allow-credentials", "FALSE"),
    ("access-control-allow-credentials", "TRUE"),
    ("access-control-allow-headers", "*"),
    ("access-control-allow-methods", "get"),
    ("access-control-allow-methods", "get, post, options"),
    ("access-control-allow-methods", "options"),
    ("access-control-expose-headers", "content-length"),
    ("access-control-request-headers", "content-type"),
    ("access-control-request-method", "get"),
    ("access-control-request-method", "post"),
    ("alt-svc", "clear"),
    ("authorization", ""),
    ("content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"),
    ("early-data", "1"),
    ("expect-ct", ""),
    ("forwarded", ""),
    ("if-range", ""),
    ("origin", ""),
    ("purpose", "prefetch"),
    ("server", ""),
    ("timing-allow-origin", "*"),
    ("upgrade-insecure-requests", "1"),
    ("user-agent", ""),
    ("x-forwarded-for", ""),
    ("x-frame-options", "deny"),
    ("x-frame-options", "sameorigin"),
];

/// The names of the fields; `None` for pseudo-headers.
static NAMES: LazyLock<[Option<HeaderName>; 99]> =
    LazyLock::new(|| FIELDS.map(|(name, _)| (!name.starts_with(':')).then(|| HeaderName::from_static(name))));

/// The numbers of the fields, ordered by name and then by number.
const BY_NAME: [u8; 99] = {
    let mut order = [0; 99];
    let mut count = 0;
    while count < order.len() {
        let mut at = count;
        while at > 0 && is_less(FIELDS[count].0, FIELDS[order[at - 1] as usize].0) {
            order[at] = order[at - 1];
            at -= 1;
        }
        order[at] = count as u8;
        count += 1;
    }
    order
};

const fn is_less(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() {
        if a[at] != b[at] {
            return a[at] < b[at];
        }
        at += 1;
    }
    a.len() < b.len()
}

/// What the table has of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Name and value.
    Field(u8),
    /// The name.
    Name(u8),
    /// Neither.
    Nothing,
}

/// Looks a field up.
pub(super) fn find(name: &str, value: &[u8]) -> Found {
    let first = BY_NAME.partition_point(|&number| FIELDS[usize::from(number)].0 < name);
    let same = BY_NAME[first..].iter().copied().take_while(|&number| FIELDS[usize::from(number)].0 == name);
    let mut found = Found::Nothing;
    for number in same {
        if FIELDS[usize::from(number)].1.as_bytes() == value {
            return Found::Field(number);
        }
        if found == Found::Nothing {
            found = Found::Name(number);
        }
    }
    found
}

/// The name of a field as a header's; `None` for pseudo-headers.
pub(super) fn header_name(number: usize) -> Option<HeaderName> {
    NAMES.get(number).cloned().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_name_and_value() {
        for (number, (name, value)) in FIELDS.iter().enumerate() {
            assert_eq!(find(name, value.as_bytes()), Found::Field(number as u8), "{name}: {value}");
            assert!(
                matches!(find(name, b"another"), Found::Name(other) if FIELDS[usize::from(other)].0 == *name)
            );
        }
        for name in ["", "a", "zzz", ":", "content-typf", "x-frame-option"] {
            assert_eq!(find(name, b""), Found::Nothing, "{name}");
        }
    }

    /// Some numbers of the table in the RFC, so that a slipped line would be seen.
    #[test]
    fn the_numbers_are_those_of_the_rfc() {
        for (number, field) in [
            (0, (":authority", "")),
            (17, (":method", "GET")),
            (25, (":status", "200")),
            (31, ("accept-encoding", "gzip, deflate, br")),
            (53, ("content-type", "text/plain")),
            (71, (":status", "500")),
            (98, ("x-frame-options", "sameorigin")),
        ] {
            assert_eq!(FIELDS[number], field);
        }
        assert_eq!(header_name(92), Some(http::header::SERVER));
        assert_eq!((header_name(0), header_name(99)), (None, None));
    }
}
