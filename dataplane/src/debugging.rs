//! What a client that debugs is told of its request: who answered, where, and after how many hops.
//!
//! A client asks with `berth-debug: 1`, and is told only if it comes from one of the networks of `debug.clients`. From
//! anybody else the field is taken out where the request comes in, so that whoever sees it behind that may answer it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_protocol::object::Epoch;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::Cidr;
use crate::http::message::{Reply, Request};

const ASKS: HeaderName = HeaderName::from_static("berth-debug");
const NODE: HeaderName = HeaderName::from_static("berth-node");
const CORE: HeaderName = HeaderName::from_static("berth-core");
const HOPS: HeaderName = HeaderName::from_static("berth-hops");
const EPOCH: HeaderName = HeaderName::from_static("berth-epoch");
const TURN: HeaderName = HeaderName::from_static("berth-turn-us");

/// Who is told, and by which name of the node.
pub struct Debugging {
    node: HeaderValue,
    clients: Vec<Cidr>,
}

/// Where a request that is no object's was answered. Who has an object says that itself ([`Trace`]).
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// By this core.
    pub core: u16,
    /// After so many hops.
    pub hops: u8,
}

impl Debugging {
    /// For a node of this name.
    pub fn new(node: &str, clients: Vec<Cidr>) -> Self {
        let node = HeaderValue::from_str(node).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { node, clients }
    }

    /// Whether the client of a request asks and may. If it may not, it has not asked.
    pub fn admits(&self, request: &mut Request) -> bool {
        let Some(asks) = request.headers.get(&ASKS) else { return false };
        let client = request.peer.client.ip();
        let admitted = asks == "1" && self.knows(client);
        if !admitted {
            request.headers.remove(&ASKS);
        }
        admitted
    }

    fn knows(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|network| network.contains(client))
    }

    /// Tells what is known here. What an object's core has told stays; without that, guests have not been the node's voice.
    pub fn tell(&self, reply: &mut Reply, answered: Answered, by_object: bool) {
        let headers = &mut reply.headers;
        if !by_object {
            silence(headers);
        }
        headers.insert(NODE, self.node.clone());
        if !headers.contains_key(CORE) {
            headers.insert(CORE, answered.core.into());
            headers.insert(HOPS, u16::from(answered.hops).into());
        }
    }
}

/// Takes out what a guest says in the node's name.
fn silence(headers: &mut HeaderMap) {
    for name in [NODE, CORE, HOPS, EPOCH, TURN] {
        headers.remove(name);
    }
}

/// Whether a client's request, which has come in, asks.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    headers.contains_key(&ASKS)
}

/// What becomes of a message for an object, if its client wants to be told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    wanted: bool,
    turn: Option<Turn>,
}

#[derive(Debug, Clone)]
struct Turn {
    hops: u8,
    epoch: Epoch,
    began: Instant,
    took: Duration,
}

impl Trace {
    /// Of a message whose turn has not begun.
    pub(crate) fn new(wanted: bool) -> Self {
        Self { wanted, turn: None }
    }

    /// Whether somebody wants it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Its turn begins, after so many hops.
    pub(crate) fn begin(&mut self, hops: u8, epoch: Epoch) {
        if self.wanted {
            let (began, took) = (Instant::now(), Duration::ZERO);
            self.turn = Some(Turn { hops, epoch, began, took });
        }
    }

    /// Its turn has ended.
    pub(crate) fn end(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.took = turn.began.elapsed();
        }
    }

    /// Tells it with a reply of this core.
    pub(crate) fn tell(&self, core: u16, headers: &mut HeaderMap) {
        if !self.wanted {
            return;
        }
        silence(headers);
        // Without a turn it was refused, and who waits for it says where that was noticed.
        let Some(Turn { hops, epoch, took, .. }) = &self.turn else { return };
        headers.insert(CORE, core.into());
        headers.insert(HOPS, u16::from(*hops).into());
        headers.insert(EPOCH, epoch.0.into());
        headers.insert(TURN, u64::try_from(took.as_micros()).unwrap_or(u64::MAX).into());
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use http::{Method, StatusCode, Version};

    use super::*;
    use crate::http::body::RequestBody;
    use crate::http::message::{Peer, Security};
    use crate::http::target::Target;

    fn request(client: &str, asks: Option<&'static str>) -> Request {
        let client = (client.parse::<IpAddr>().unwrap(), 1).into();
        let asks = asks.map(|value| (ASKS, HeaderValue::from_static(value)));
        Request {
            method: Method::GET,
            target: Target::parse("/".into()).unwrap(),
            host: None,
            version: Version::HTTP_11,
            headers: asks.into_iter().collect(),
            body: RequestBody::Empty,
            peer: Rc::new(Peer { client, local: client, security: Security::Plain }),
            upgrade: None,
        }
    }

    #[test]
    fn who_is_not_named_has_not_asked() {
        let debugging = Debugging::new("edge-1", vec!["192.0.2.0/28".parse().unwrap()]);
        for (client, asks, admitted) in [
            ("192.0.2.1", Some("1"), true),
            ("::ffff:192.0.2.1", Some("1"), true),
            ("192.0.2.1", Some("yes"), false),
            ("192.0.2.1", None, false),
            ("192.0.2.16", Some("1"), false),
            ("127.0.0.1", Some("1"), false),
        ] {
            let mut request = request(client, asks);
            assert_eq!(debugging.admits(&mut request), admitted, "{client} {asks:?}");
            assert_eq!(is_asked(&request.headers), admitted, "{client} {asks:?}");
        }
        assert!(!Debugging::new("edge-1", Vec::new()).admits(&mut request("127.0.0.1", Some("1"))));
    }

    /// The fields of a reply, as text.
    fn told(reply: &Reply) -> Vec<(String, String)> {
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        let mut all: Vec<_> = reply.headers.iter().map(field).collect();
        all.sort();
        all
    }

    fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_guest_does_not_speak_in_the_name_of_the_node() {
        let debugging = Debugging::new("edge-1", Vec::new());
        let mut reply = Reply::new(StatusCode::OK, "");
        for name in [NODE, CORE, EPOCH, TURN] {
            reply.headers.insert(name, HeaderValue::from_static("77"));
        }
        debugging.tell(&mut reply, Answered { core: 3, hops: 1 }, false);
        assert_eq!(
            told(&reply),
            fields(&[("berth-core", "3"), ("berth-hops", "1"), ("berth-node", "edge-1")])
        );
    }

    #[test]
    fn an_object_is_told_with_its_core_hops_epoch_and_turn() {
        let debugging = Debugging::new("edge-1", Vec::new());
        let answered = Answered { core: 0, hops: 0 };
        let mut trace = Trace::new(true);
        trace.begin(2, Epoch(9));
        trace.end();
        let turn = trace.turn.clone().unwrap().took.as_micros().to_string();
        let mut reply = Reply::new(StatusCode::OK, "").with_header(CORE, HeaderValue::from_static("77"));
        trace.tell(1, &mut reply.headers);
        debugging.tell(&mut reply, answered, true);
        let expected = [
            ("berth-core", "1"),
            ("berth-epoch", "9"),
            ("berth-hops", "2"),
            ("berth-node", "edge-1"),
            ("berth-turn-us", &turn),
        ];
        assert_eq!(told(&reply), fields(&expected));

        let mut refused = Reply::new(StatusCode::OK, "");
        Trace::new(true).tell(1, &mut refused.headers);
        debugging.tell(&mut refused, answered, true);
        let expected = [("berth-core", "0"), ("berth-hops", "0"), ("berth-node", "edge-1")];
        assert_eq!(told(&refused), fields(&expected), "no turn has begun");

        let mut silent = Reply::new(StatusCode::OK, "");
        let mut trace = Trace::new(false);
        trace.begin(2, Epoch(9));
        trace.end();
        trace.tell(1, &mut silent.headers);
        assert!(silent.headers.is_empty(), "nobody wants it");
    }
}
