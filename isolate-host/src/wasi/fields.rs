//! `wasi:http/types.fields`: headers and trailers as guests hold them.
//!
//! What the connection itself decides (framing, the host, upgrades) is hidden from guests and refused from them.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use wasmtime::component::Resource;

use crate::bindings::wasi::http::types::{HeaderError, HostFields};
use crate::guest::{Guest, LimitFell};
use crate::limits::{Limit, Limits};

/// Headers or trailers. Copies share the map until one of them is changed.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    map: Arc<HeaderMap>,
    /// Bytes of names and values.
    bytes: usize,
    frozen: bool,
}

/// Fields that are not a guest's business: they belong to a connection, or say what the target says already.
pub(crate) fn is_forbidden(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::HOST
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == header::PROXY_AUTHENTICATE
        || *name == header::PROXY_AUTHORIZATION
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Why fields are not changed.
#[derive(Clone, Copy)]
enum Refusal {
    Told(HeaderError),
    Limit,
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::Told(error)
    }
}

type Change = Result<(), Refusal>;

impl Fields {
    /// What came from outside, without what is forbidden. It cannot be changed.
    pub(crate) fn received(mut map: HeaderMap) -> Self {
        let forbidden: Vec<HeaderName> = map.keys().filter(|name| is_forbidden(name)).cloned().collect();
        for name in forbidden {
            map.remove(name);
        }
        Self { map: Arc::new(map), bytes: 0, frozen: true }
    }

    /// The same fields, for a guest that may only look at them.
    pub(crate) fn frozen(mut self) -> Self {
        self.frozen = true;
        self
    }

    #[cfg(test)]
    pub(crate) fn map(&self) -> &HeaderMap {
        &self.map
    }

    pub(crate) fn into_map(self) -> HeaderMap {
        Arc::unwrap_or_clone(self.map)
    }

    /// The content length that these fields announce. It was checked when it came in.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.map.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    fn append(&mut self, name: &str, value: &[u8], limits: &Limits) -> Change {
        if self.frozen {
            return Err(HeaderError::Immutable.into());
        }
        let name = read_name(name)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| HeaderError::InvalidSyntax)?;
        if name == header::CONTENT_LENGTH {
            let digits = value.as_bytes();
            let is_number = !digits.is_empty() && digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit);
            if !is_number || self.map.contains_key(&name) {
                return Err(HeaderError::InvalidSyntax.into());
            }
        }
        let bytes = self.bytes + name.as_str().len() + value.len();
        if bytes > limits.header_bytes || self.map.len() >= limits.header_count {
            return Err(Refusal::Limit);
        }
        self.bytes = bytes;
        Arc::make_mut(&mut self.map).append(name, value);
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Change {
        if self.frozen {
            return Err(HeaderError::Immutable.into());
        }
        let name = read_name(name)?;
        for value in self.map.get_all(&name) {
            self.bytes -= name.as_str().len() + value.len();
        }
        Arc::make_mut(&mut self.map).remove(name);
        Ok(())
    }

    /// All values, or none: a mistake in the last leaves the fields as they were.
    fn set(&mut self, name: &str, values: &[Vec<u8>], limits: &Limits) -> Change {
        let mut changed = self.clone();
        changed.delete(name)?;
        for value in values {
            changed.append(name, value, limits)?;
        }
        *self = changed;
        Ok(())
    }
}

/// What entries make.
pub(crate) enum Built {
    /// Fields.
    Fields(HeaderMap),
    /// Nothing, because of the field of this name.
    Wrong(String),
    /// Nothing: they are too many or too large.
    Limit,
}

impl Fields {
    /// Fields of plain entries, under the rules that fields of guests have.
    pub(crate) fn build(entries: Vec<(String, Vec<u8>)>, limits: &Limits) -> Built {
        let mut fields = Self::default();
        for (name, value) in entries {
            match fields.append(&name, &value, limits) {
                Ok(()) => {}
                Err(Refusal::Told(_)) => return Built::Wrong(name),
                Err(Refusal::Limit) => return Built::Limit,
            }
        }
        Built::Fields(fields.into_map())
    }

    /// As plain entries.
    pub(crate) fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let entry = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.as_str().to_owned(), value.as_bytes().to_vec())
        };
        self.map.iter().map(entry).collect()
    }
}

fn read_name(name: &str) -> Result<HeaderName, HeaderError> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderError::InvalidSyntax)?;
    if is_forbidden(&name) { Err(HeaderError::Forbidden) } else { Ok(name) }
}

impl Guest {
    /// What the guest is told of a change. Too many fields end it: the interface has no word for that.
    fn told(change: Change) -> wasmtime::Result<Result<(), HeaderError>> {
        match change {
            Ok(()) => Ok(Ok(())),
            Err(Refusal::Told(error)) => Ok(Err(error)),
            Err(Refusal::Limit) => Err(LimitFell(Limit::Headers).into()),
        }
    }
}

impl HostFields for Guest {
    fn new(&mut self) -> wasmtime::Result<Resource<Fields>> {
        self.push(Fields::default())
    }

    fn from_list(
        &mut self,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<Resource<Fields>, HeaderError>> {
        let mut fields = Fields::default();
        for (name, value) in entries {
            let change = fields.append(&name, &value, &self.limits);
            if let Err(error) = Self::told(change)? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(self.push(fields)?))
    }

    fn get(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        let fields = self.table.get(&fields)?;
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return Ok(Vec::new()) };
        Ok(fields.map.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect())
    }

    fn has(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<bool> {
        let fields = self.table.get(&fields)?;
        Ok(HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| fields.map.contains_key(name)))
    }

    fn set(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        values: Vec<Vec<u8>>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        let change = self.table.get_mut(&fields)?.set(&name, &values, &self.limits);
        Self::told(change)
    }

    fn delete(
        &mut self,
        fields: Resource<Fields>,
        name: String,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        let change = self.table.get_mut(&fields)?.delete(&name);
        Self::told(change)
    }

    fn append(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        let change = self.table.get_mut(&fields)?.append(&name, &value, &self.limits);
        Self::told(change)
    }

    fn entries(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        Ok(self.table.get(&fields)?.entries())
    }

    fn clone(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        let mut copy = self.table.get(&fields)?.clone();
        if copy.frozen {
            copy.frozen = false;
            copy.bytes = copy.map.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        }
        self.push(copy)
    }

    fn drop(&mut self, fields: Resource<Fields>) -> wasmtime::Result<()> {
        self.table.delete(fields)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(fields: &mut Fields, name: &str, value: &[u8]) -> Result<(), &'static str> {
        fields.append(name, value, &Limits::default()).map_err(word)
    }

    fn word(refusal: Refusal) -> &'static str {
        match refusal {
            Refusal::Told(HeaderError::InvalidSyntax) => "syntax",
            Refusal::Told(HeaderError::Forbidden) => "forbidden",
            Refusal::Told(HeaderError::Immutable) => "immutable",
            Refusal::Limit => "limit",
        }
    }

    #[test]
    fn what_would_split_a_message_or_belongs_to_a_connection_is_refused() {
        let mut fields = Fields::default();
        for value in ["a\r\nb: c", "a\nb", "a\rb", "a\0b"] {
            assert_eq!(append(&mut fields, "x-one", value.as_bytes()), Err("syntax"), "{value:?}");
        }
        for name in ["", "x y", "x:", "x\r\n", "ä"] {
            assert_eq!(append(&mut fields, name, b"v"), Err("syntax"), "{name:?}");
        }
        for name in [
            "Connection",
            "host",
            "transfer-encoding",
            "upgrade",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "http2-settings",
        ] {
            assert_eq!(append(&mut fields, name, b"v"), Err("forbidden"), "{name}");
        }
        assert!(fields.map().is_empty());
    }

    #[test]
    fn a_content_length_is_one_number() {
        for value in ["", "-1", "+1", "1 ", "0x1", "1,1", "99999999999999999999"] {
            assert_eq!(
                append(&mut Fields::default(), "content-length", value.as_bytes()),
                Err("syntax"),
                "{value:?}"
            );
        }
        let mut fields = Fields::default();
        assert_eq!(append(&mut fields, "Content-Length", b"12"), Ok(()));
        assert_eq!(append(&mut fields, "content-length", b"12"), Err("syntax"), "one is enough");
        assert_eq!(fields.content_length(), Some(12));
    }

    #[test]
    fn limits_count_names_and_values_and_what_is_deleted_is_given_back() {
        let limits = Limits { header_bytes: 20, header_count: 3, ..Limits::default() };
        let mut fields = Fields::default();
        let add = |fields: &mut Fields, value: &[u8]| fields.append("abcd", value, &limits).map_err(word);
        assert_eq!(add(&mut fields, b"0123456789abcdef"), Ok(()), "twenty bytes");
        assert_eq!(add(&mut fields, b""), Err("limit"));
        assert_eq!(fields.delete("abcd").map_err(word), Ok(()));
        for _ in 0..3 {
            assert_eq!(add(&mut fields, b""), Ok(()));
        }
        assert_eq!(add(&mut fields, b""), Err("limit"), "a fourth");
        let values = [b"one".to_vec(), b"bad\n".to_vec()];
        assert_eq!(fields.set("abcd", &values, &limits).map_err(word), Err("syntax"));
        assert_eq!(fields.map().len(), 3, "all or nothing");
    }

    #[test]
    fn what_came_from_outside_cannot_be_changed_and_lacks_what_is_forbidden() {
        let mut map = HeaderMap::new();
        map.insert(header::HOST, HeaderValue::from_static("h"));
        map.insert(header::ACCEPT, HeaderValue::from_static("a"));
        let mut fields = Fields::received(map);
        assert_eq!(fields.map().len(), 1);
        assert_eq!(append(&mut fields, "x", b"y"), Err("immutable"));
        assert_eq!(fields.delete("accept").map_err(word), Err("immutable"));
    }
}
