//! Requests and responses: plain data, whose bodies are whole.

use std::fmt;

use crate::Socket;
use crate::world::berth::object::types;

/// Names in lower case, values as bytes. What belongs to a connection is neither shown nor taken.
pub type Headers = Vec<(String, Vec<u8>)>;

/// A request: one that the object got, or one for [`Context::fetch`](crate::Context::fetch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// The whole of it: `https://counter.example/add?by=2`.
    pub url: String,
    /// Its fields.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
    socket: Option<Socket>,
}

impl Request {
    /// A request without fields and body.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            url: url.into(),
            headers: Headers::new(),
            body: Vec::new(),
            socket: None,
        }
    }

    /// `GET` of a URL.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// `POST` to a URL.
    pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", url).with_body(body)
    }

    /// With one more field.
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this body.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The first field of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The path of its URL: `/add`. Escapes stay as they came.
    pub fn path(&self) -> &str {
        let target = self.target();
        let path = target.split(['?', '#']).next().unwrap_or_default();
        if path.is_empty() { "/" } else { path }
    }

    /// What stands behind the question mark of its URL: `by=2`.
    pub fn query(&self) -> Option<&str> {
        let target = self.target().split('#').next().unwrap_or_default();
        target.split_once('?').map(|(_, query)| query)
    }

    /// Its body as text, if it is one.
    pub fn text(&self) -> Option<&str> {
        str::from_utf8(&self.body).ok()
    }

    /// The WebSocket that it asks for. It opens if the answer is [`Response::accept`]; what this turn sends on it arrives
    /// then.
    pub fn socket(&self) -> Option<Socket> {
        self.socket
    }

    /// All of the URL behind its authority.
    fn target(&self) -> &str {
        let after_scheme = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        after_scheme.find(['/', '?', '#']).map_or("", |at| &after_scheme[at..])
    }

    pub(crate) fn of_host(request: types::Request, upgrade: Option<u64>) -> Self {
        let types::Request { method, url, headers, body } = request;
        Self { method, url, headers, body, socket: upgrade.map(Socket) }
    }
}

impl From<Request> for types::Request {
    fn from(Request { method, url, headers, body, socket: _ }: Request) -> Self {
        Self { method, url, headers, body }
    }
}

/// A response: the object's answer, or somebody's reply to [`Context::fetch`](crate::Context::fetch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// From 200 to 599; 101 if it takes a WebSocket.
    pub status: u16,
    /// Its fields.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
    accept: Option<Accept>,
}

impl Response {
    /// A response without fields and body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Headers::new(), body: Vec::new(), accept: None }
    }

    /// 200 with text of anything that can be shown.
    pub fn text(text: impl fmt::Display) -> Self {
        let body = text.to_string();
        Self::new(200).with_header("content-type", "text/plain; charset=utf-8").with_body(body)
    }

    /// 200 with these bytes.
    pub fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200).with_header("content-type", "application/octet-stream").with_body(body)
    }

    /// Takes the WebSocket that the request asked for ([`Request::socket`]).
    pub fn accept(accept: Accept) -> Self {
        Self { accept: Some(accept), ..Self::new(101) }
    }

    /// With this status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With one more field.
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this body.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The first field of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

impl From<types::Response> for Response {
    fn from(types::Response { status, headers, body }: types::Response) -> Self {
        Self { status, headers, body, accept: None }
    }
}

impl From<Response> for types::Answer {
    fn from(Response { status, headers, body, accept }: Response) -> Self {
        match accept {
            None => Self::Response(types::Response { status, headers, body }),
            Some(Accept { tags, attachment, protocol }) => {
                Self::Accept(types::Accept { tags, attachment, protocol })
            }
        }
    }
}

/// How a WebSocket is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accept {
    tags: Vec<String>,
    attachment: Vec<u8>,
    protocol: Option<String>,
}

impl Accept {
    /// Without tags, attachment and subprotocol.
    pub fn new() -> Self {
        Self::default()
    }

    /// By a tag it is found again. At most 8, of 128 bytes.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// What the node keeps beside it for the object: at most 2,048 bytes.
    pub fn attachment(mut self, attachment: impl Into<Vec<u8>>) -> Self {
        self.attachment = attachment.into();
        self
    }

    /// The subprotocol, one of those that the client offered.
    pub fn protocol(mut self, protocol: impl Into<String>) -> Self {
        self.protocol = Some(protocol.into());
        self
    }
}

/// Names are in lower case; whoever asks may not know that.
fn header<'h>(headers: &'h [(String, Vec<u8>)], name: &str) -> Option<&'h str> {
    let (_, value) = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    str::from_utf8(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_its_parts() {
        for (url, path, query) in [
            ("https://counter.example/add?by=2", "/add", Some("by=2")),
            ("http://h:80/a/%2F?x?y#f?z", "/a/%2F", Some("x?y")),
            ("http://h", "/", None),
            ("http://h?q", "/", Some("q")),
            ("http://h/#a?b", "/", None),
            ("http://h/a://b/c", "/a://b/c", None),
            ("", "/", None),
        ] {
            let request = Request::get(url);
            assert_eq!((request.path(), request.query()), (path, query), "{url}");
        }
    }

    #[test]
    fn a_request_of_the_host_is_whole() {
        let host = types::Request {
            method: "PUT".to_owned(),
            url: "http://h/".to_owned(),
            headers: vec![("a".to_owned(), b"1".to_vec()), ("b".to_owned(), vec![255])],
            body: b"text".to_vec(),
        };
        let request = Request::of_host(host, Some(7));
        assert_eq!((request.socket(), request.text()), (Some(Socket(7)), Some("text")));
        assert_eq!((request.header("A"), request.header("b"), request.header("c")), (Some("1"), None, None));
        let again = types::Request::from(request);
        assert_eq!((again.method.as_str(), again.headers.len(), again.body.len()), ("PUT", 2, 4));
    }

    #[test]
    fn a_response_is_an_answer_or_takes_a_socket() {
        let response = Response::text(5).with_status(201);
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
        let types::Answer::Response(answer) = response.into() else { panic!("it takes no socket") };
        assert_eq!((answer.status, answer.body), (201, b"5".to_vec()));
        let accept = Accept::new().tag("room").attachment("ada").protocol("chat");
        let types::Answer::Accept(accept) = Response::accept(accept).into() else { panic!("it takes one") };
        assert_eq!(accept.tags, ["room"]);
        assert_eq!((accept.attachment, accept.protocol), (b"ada".to_vec(), Some("chat".to_owned())));
    }
}
