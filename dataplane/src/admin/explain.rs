//! `/v1/explain`: where the packets of a flow go, as the agent says, and where a request goes, and why.
//!
//! For requests nothing is decided here: the answer is what [`look_up`] and [`Zone::handler`] say, on which the data path
//! acts, with the patterns that the same walk went by.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use berth_protocol::link::{Question, Transport, with_causes};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use super::refusal::{Outcome, Refusal, json};
use super::{query_bytes, query_value};
use crate::agent_link::{NobodyAnswers, SteeringView};
use crate::http::target::{Target, TargetError};
use crate::outgoing::Destination;
use crate::responder::{Found, Table, look_up};
use crate::router::Explanation;
use crate::zones::{Handler, HostedObject, Hosts, Zone};

/// Asks the agent where a flow or a connection id goes.
pub(super) async fn flow(steering: SteeringView, query: &[u8]) -> Outcome {
    let question = parse_question(query).map_err(|mistake| Refusal::bad_request(&mistake))?;
    match steering.explain(question).await {
        Ok(explanation) => json(&explanation),
        Err(NobodyAnswers) => Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no-agent",
            "No control agent answers",
            &"no control agent answers, and only it knows the table; without one the kernel spreads flows by a hash of \
              its own. Is `berth agent` running?",
        )),
    }
}

/// `id=` and 34 hexadecimal digits, or `source=ADDRESS:PORT&destination=ADDRESS:PORT&transport=tcp|udp`.
fn parse_question(query: &[u8]) -> Result<Question, String> {
    let value = |name: &str| query_value(query, name);
    if let Some(id) = value("id") {
        let id = parse_hex(&id).ok_or_else(|| format!("id={id}: an id is written in hexadecimal digits"))?;
        return Ok(Question::ConnectionId { id });
    }
    let address = |name: &str| -> Result<SocketAddr, String> {
        let text = value(name).ok_or_else(|| format!("{name}= is missing, or id="))?;
        text.parse().map_err(|_| format!("{name}={text}: write ADDRESS:PORT"))
    };
    let transport = value("transport").and_then(|word| Transport::from_word(&word));
    let transport = transport.ok_or("transport= is tcp or udp")?;
    Ok(Question::Flow { source: address("source")?, destination: address("destination")?, transport })
}

/// At most as many bytes as a connection id of any version of QUIC can have.
fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2) && digits.len() <= 2 * 255)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Says where a request would go.
pub(super) fn request(hosts: &Hosts, table: &Table, query: &[u8]) -> Outcome {
    let (method, target) = parse_request(query).map_err(|mistake| Refusal::bad_request(&mistake))?;
    json(&Explained::new(hosts, table, &method, &target))
}

/// Why a request cannot be explained.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Mistake {
    #[error("method= is missing; write a method such as GET")]
    NoMethod,
    #[error("method={0}: that is no method of HTTP; write one such as GET")]
    Method(String),
    #[error("method=CONNECT: nothing is routed by it; a WebSocket goes where GET goes")]
    Connect,
    #[error("url= is missing; write http://HOST/PATH or https://HOST/PATH")]
    NoUrl,
    #[error("url={0}: write http://HOST/PATH or https://HOST/PATH")]
    NotAUrl(String),
    #[error("url={url}: {}; a request for it is answered with 400", with_causes(.error))]
    Target { url: String, error: TargetError },
}

/// A request as a proxy's client would send it: the host and the path are read as those of all requests are. No client
/// sends what follows a `#`.
fn parse_request(query: &[u8]) -> Result<(Method, Target), Mistake> {
    let method = query_value(query, "method").ok_or(Mistake::NoMethod)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Mistake::Method(method))?;
    if method == Method::CONNECT {
        return Err(Mistake::Connect);
    }
    let bytes = query_bytes(query, "url").ok_or(Mistake::NoUrl)?;
    let end = bytes.iter().position(|byte| *byte == b'#').unwrap_or(bytes.len());
    let url = || String::from_utf8_lossy(&bytes).into_owned();
    if matches!(bytes.first(), None | Some(b'/' | b'*')) {
        return Err(Mistake::NotAUrl(url()));
    }
    match Target::parse(Bytes::copy_from_slice(&bytes[..end])) {
        Ok(target) => Ok((method, target)),
        Err(TargetError::UnknownForm | TargetError::Empty) => Err(Mistake::NotAUrl(url())),
        Err(error) => Err(Mistake::Target { url: url(), error }),
    }
}

/// Where a request would go, and why.
#[derive(Debug, Serialize)]
struct Explained {
    method: String,
    /// The normal forms that were looked up.
    host: String,
    path: String,
    rule: Rule,
    /// The rule in a sentence.
    because: String,
    zone: Option<ZoneShown>,
    worker: Option<WorkerShown>,
    /// The object that would have it.
    object: Option<ObjectShown>,
    origin: Option<String>,
    /// The route that won, if one did.
    route: Option<RouteShown>,
    /// What matched too, best first.
    lost: Vec<LostShown>,
    /// Of the answer, where no worker, origin or route gives it.
    status: Option<u16>,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    Worker,
    Object,
    Origin,
    Configuration,
    Nothing,
}

#[derive(Debug, Serialize)]
struct ZoneShown {
    name: String,
    version: u64,
    /// The pattern by which it has the host.
    host: String,
}

#[derive(Debug, Serialize)]
struct WorkerShown {
    name: String,
    script: String,
}

#[derive(Debug, Serialize)]
struct ObjectShown {
    class: String,
    name: String,
}

#[derive(Debug, Serialize)]
struct RouteShown {
    pattern: String,
    parameters: BTreeMap<String, String>,
    /// What the wildcard stands for.
    rest: Option<String>,
    /// What a route of the configuration does, and on which core if it names one.
    action: Option<&'static str>,
    core: Option<u16>,
}

#[derive(Debug, Serialize)]
struct LostShown {
    what: &'static str,
    pattern: String,
    because: String,
}

impl Explained {
    fn new(hosts: &Hosts, table: &Table, method: &Method, target: &Target) -> Self {
        let host = target.host();
        let mut said = Self {
            method: method.to_string(),
            host: host.as_ref().map(ToString::to_string).unwrap_or_default(),
            path: target.normal_path().to_owned(),
            rule: Rule::Nothing,
            because: String::new(),
            zone: None,
            worker: None,
            object: None,
            origin: None,
            route: None,
            lost: Vec::new(),
            status: None,
        };
        match look_up(hosts, table, host.as_ref(), target) {
            Found::Object(object) => said.tell_object(&object),
            Found::Zone(zone) => said.tell_zone(&zone, &hosts.explain(host.as_ref(), target), target),
            Found::Route(found) => {
                said.rule = Rule::Configuration;
                said.because = format!(
                    "no zone has the host, and route {} of the configuration matches",
                    found.pattern()
                );
                said.tell_routes(&table.explain(host.as_ref(), target), ToString::to_string);
                if let Some(route) = &mut said.route {
                    (route.action, route.core) = (Some(found.value().word()), found.value().core());
                }
            }
            Found::Nothing => {
                let tried = table.explain(host.as_ref(), target);
                let tried: Vec<String> = tried.hosts().iter().map(ToString::to_string).collect();
                said.status = Some(StatusCode::NOT_FOUND.as_u16());
                said.because = match tried.join(", ") {
                    none if none.is_empty() => {
                        "no zone and no route of the configuration has the host".into()
                    }
                    tried => format!(
                        "no zone has the host, and no route of the configuration the path, of those for {tried}"
                    ),
                };
            }
        }
        said
    }

    /// The host has said all: no path of it goes elsewhere.
    fn tell_object(&mut self, object: &HostedObject) {
        let HostedObject { zone, class, name, pattern } = object;
        self.rule = Rule::Object;
        self.because = format!(
            "class {} of zone {} has the host by {pattern}, with all of its paths: the object {name}",
            class.code.name, zone.name
        );
        self.zone =
            Some(ZoneShown { name: zone.name.clone(), version: zone.version, host: pattern.to_string() });
        self.object = Some(ObjectShown { class: class.code.name.clone(), name: name.clone() });
    }

    fn tell_zone(&mut self, zone: &Zone, by_host: &Explanation<'_>, target: &Target) {
        let host = by_host.won().map(|won| won.pattern.host().to_string()).unwrap_or_default();
        let has_host = format!("zone {} has the host by {host}", zone.name);
        let lost = by_host.lost().iter().map(|lost| LostShown {
            what: "host",
            pattern: lost.pattern.host().to_string(),
            because: lost.because.to_string(),
        });
        self.lost.extend(lost);
        self.zone = Some(ZoneShown { name: zone.name.clone(), version: zone.version, host });
        self.tell_routes(&zone.explain(target), |pattern| pattern.path().to_string());
        let route = self.route.as_ref().map(|route| &*route.pattern).unwrap_or_default();
        match zone.handler(target) {
            Handler::Worker(worker) => {
                self.rule = Rule::Worker;
                self.because = format!("{has_host}, and its worker {} the path by {route}", worker.name);
                self.worker =
                    Some(WorkerShown { name: worker.name.clone(), script: worker.script.to_string() });
            }
            Handler::Object(class, name) => {
                self.rule = Rule::Object;
                self.because = format!(
                    "{has_host}, and its class {} the path by {route}: the object {name}",
                    class.code.name
                );
                self.object = Some(ObjectShown { class: class.code.name.clone(), name });
            }
            Handler::Origin => {
                self.rule = Rule::Origin;
                self.because = format!("{has_host}, and no worker of it has the path: its origin answers");
                self.origin = zone.origin.as_ref().map(show_origin);
            }
            Handler::Nothing => {
                self.status = Some(StatusCode::NOT_FOUND.as_u16());
                self.because = format!("{has_host}, no worker of it has the path, and it has no origin");
            }
        }
    }

    fn tell_routes(&mut self, explained: &Explanation<'_>, show: impl Fn(&crate::router::Pattern) -> String) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.route = explained.won().map(|won| RouteShown {
            pattern: show(won.pattern),
            parameters: won.parameters.iter().map(owned).collect(),
            rest: won.rest.map(str::to_owned),
            action: None,
            core: None,
        });
        self.lost.extend(explained.lost().iter().map(|lost| LostShown {
            what: "route",
            pattern: show(lost.pattern),
            because: lost.because.to_string(),
        }));
    }
}

fn show_origin(origin: &Destination) -> String {
    let scheme = if origin.https() { "https" } else { "http" };
    format!("{scheme}://{}", String::from_utf8_lossy(origin.authority().as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::Config;
    use crate::responder;
    use crate::zones::{Document, Zones};

    #[test]
    fn questions_are_read_or_their_mistake_is_named() {
        let id = parse_question(b"id=00ff7A");
        assert_eq!(id, Ok(Question::ConnectionId { id: vec![0, 0xff, 0x7a] }));
        let flow = parse_question(b"transport=udp&source=%5B2001:db8::9%5D:1&destination=[2001:db8::1]:443");
        let [source, destination] =
            ["[2001:db8::9]:1", "[2001:db8::1]:443"].map(|text| text.parse().unwrap());
        assert_eq!(flow, Ok(Question::Flow { source, destination, transport: Transport::Udp }));
        for (query, word) in [
            ("", "transport="),
            ("id=0", "hexadecimal"),
            ("id=xy", "hexadecimal"),
            ("transport=sctp", "tcp or udp"),
            ("transport=tcp&source=1.2.3.4:5", "destination="),
            ("transport=tcp&source=1.2.3.4&destination=1.2.3.4:5", "ADDRESS:PORT"),
        ] {
            let mistake = parse_question(query.as_bytes()).unwrap_err();
            assert!(mistake.contains(word), "{query}: {mistake}");
        }
        assert!(parse_question(&[b"id=".as_slice(), &[b'0'; 600]].concat()).is_err());
    }

    #[test]
    fn a_request_is_read_as_all_requests_are_or_its_mistake_is_named() {
        let (method, target) =
            parse_request(b"method=PURGE&url=HTTPS://Shop.example:8443/%2561/%C3%A9?x=1%26y%23top").unwrap();
        assert_eq!((method.as_str(), target.host().unwrap().as_str()), ("PURGE", "shop.example"));
        assert_eq!((target.normal_path(), target.raw_query()), ("/a/%C3%A9", Some(b"x=1&y".as_slice())));
        let (_, target) = parse_request(b"method=GET&url=http://h%23/top").unwrap();
        assert_eq!(target.normal_path(), "/");
        for (query, word) in [
            ("url=http://h/", "method= is missing"),
            ("method=&url=http://h/", "no method of HTTP"),
            ("method=G%20T&url=http://h/", "no method of HTTP"),
            ("method=CONNECT&url=http://h/", "where GET goes"),
            ("method=GET", "url= is missing"),
            ("method=GET&url=", "write http://HOST/PATH"),
            ("method=GET&url=/a", "write http://HOST/PATH"),
            ("method=OPTIONS&url=*", "write http://HOST/PATH"),
            ("method=GET&url=ftp://h/", "write http://HOST/PATH"),
            ("method=GET&url=shop.example/a", "write http://HOST/PATH"),
            ("method=GET&url=http:///a", "the host is empty"),
            ("method=GET&url=http://me@h/a", "may not stand in a host"),
            (
                "method=GET&url=http://h/a/%252e%252e/b",
                "percent-encoded; send the resolved path; a request for it",
            ),
            ("method=GET&url=http://h/a%20b", "byte 0x20 at offset 10"),
        ] {
            let mistake = parse_request(query.as_bytes()).unwrap_err().to_string();
            assert!(mistake.contains(word), "{query}: {mistake}");
        }
    }

    /// Four zones, and two routes of the configuration.
    struct Node {
        zones: Zones,
        table: Table,
        folder: std::path::PathBuf,
    }

    impl Node {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("berth-{name}-{}", std::process::id()));
            let zones = Zones::open(&folder).unwrap();
            let script = "ab".repeat(32);
            for (zone, document) in [
                ("bare", r#"{"hosts": ["bare.example"]}"#.to_owned()),
                ("site", r#"{"hosts": ["*.example"], "origin": "https://origin.test:8443"}"#.to_owned()),
                (
                    "shop",
                    format!(
                        r#"{{"hosts": ["shop.example"], "workers": {{
                            "cart": {{"script": "{script}", "routes": ["/cart/:who/*", "/cart/*"]}},
                            "front": {{"script": "{script}", "routes": ["/", "/caf%C3%A9"]}}}}}}"#
                    ),
                ),
                (
                    "count",
                    format!(
                        r#"{{"hosts": ["count.example"], "objects": {{
                            "Counter": {{"script": "{script}", "hosts": [":name.count.example"]}}}}}}"#
                    ),
                ),
            ] {
                let document = Document::parse(document.as_bytes()).unwrap();
                zones.deploy(zone, document, &|_| true, 1).unwrap();
            }
            let text = "[[listen]]\naddress = \"127.0.0.1:0\"\n\
                [[routes]]\npath = \"/late\"\ndelay = { time = \"1ms\" }\ncore = 1\n\
                [[routes]]\nhost = \"a.test\"\npath = \"/:what\"\nrespond = { body = \"hello\" }\n";
            let table = responder::table(&Config::parse(text).unwrap().routes, 2).unwrap();
            Self { zones, table, folder }
        }

        fn says(&self, url: &str) -> Value {
            let target = Target::parse(Bytes::copy_from_slice(url.as_bytes())).unwrap();
            let said = Explained::new(&self.zones.hosts(), &self.table, &Method::GET, &target);
            serde_json::to_value(said).unwrap()
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn a_zone_answers_for_its_hosts_by_worker_origin_or_404() {
        let node = Node::new("explain-zones");
        let said = node.says("http://SHOP.example:80/c%61rt/ada/x/y?q");
        assert_eq!((&said["rule"], &said["path"]), (&"worker".into(), &"/cart/ada/x/y".into()), "{said}");
        assert_eq!(said["zone"], serde_json::json!({"name": "shop", "version": 1, "host": "shop.example"}));
        assert_eq!(said["worker"], serde_json::json!({"name": "cart", "script": "ab".repeat(32)}));
        let route = &said["route"];
        assert_eq!(route["pattern"], "/cart/:who/*");
        assert_eq!((&route["parameters"]["who"], &route["rest"]), (&"ada".into(), &"x/y".into()));
        let because = "zone shop has the host by shop.example, and its worker cart the path by /cart/:who/*";
        assert_eq!(said["because"], because);
        let lost: Vec<_> = said["lost"].as_array().unwrap().iter().map(|lost| &lost["pattern"]).collect();
        assert_eq!(lost, ["*.example", "/cart/*"]);
        assert_eq!(node.says("http://shop.example/caf\u{e9}")["worker"]["name"], "front");

        let said = node.says("http://shop.example/nothing");
        assert_eq!((&said["rule"], &said["status"]), (&"nothing".into(), &404.into()), "{said}");
        assert_eq!(said["zone"]["name"], "shop", "less specific zones are not asked");
        let said = node.says("http://x.example/any");
        assert_eq!((&said["rule"], &said["origin"]), (&"origin".into(), &"https://origin.test:8443".into()));
        assert_eq!((&said["route"], &said["status"]), (&Value::Null, &Value::Null));
        assert_eq!(node.says("http://bare.example/")["rule"], "nothing");
    }

    #[test]
    fn an_object_answers_for_its_host() {
        let node = Node::new("explain-objects");
        let said = node.says("http://Ada.count.example:80/any/path");
        assert_eq!(
            (&said["rule"], &said["route"], &said["status"]),
            (&"object".into(), &Value::Null, &Value::Null)
        );
        assert_eq!(said["object"], serde_json::json!({"class": "Counter", "name": "ada"}));
        let zone = serde_json::json!({"name": "count", "version": 1, "host": ":name.count.example"});
        assert_eq!(said["zone"], zone);
        assert!(
            said["because"].as_str().unwrap().starts_with("class Counter of zone count has the host"),
            "{said}"
        );
        assert_eq!(node.says("http://count.example/")["rule"], "nothing", "the zone itself");
        assert_eq!(node.says("http://a.b.count.example/")["zone"]["name"], "site", "one label more");
    }

    #[test]
    fn hosts_of_no_zone_have_the_routes_of_the_configuration() {
        let node = Node::new("explain-routes");
        let said = node.says("http://a.test/late");
        assert_eq!((&said["rule"], &said["zone"]), (&"configuration".into(), &Value::Null), "{said}");
        assert_eq!(said["route"]["pattern"], "a.test/:what");
        assert_eq!((&said["route"]["action"], &said["route"]["core"]), (&"respond".into(), &Value::Null));
        assert_eq!(said["lost"][0]["pattern"], "*/late");
        let said = node.says("https://b.test/late");
        assert_eq!(
            (&said["route"]["action"], &said["route"]["core"]),
            (&"delay".into(), &1.into()),
            "{said}"
        );
        let said = node.says("http://b.test/none");
        assert_eq!((&said["rule"], &said["status"]), (&"nothing".into(), &404.into()), "{said}");
        assert!(said["because"].as_str().unwrap().ends_with("of those for *"), "{said}");
    }
}
