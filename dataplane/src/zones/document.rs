//! What a deployment says of a zone: a document in JSON, read whole or refused with everything that is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use berth_isolate_host::library::ScriptId;
use berth_isolate_host::{Limits, object};
use http::Uri;
use serde::{Deserialize, Serialize};

use super::object_hosts::ObjectHost;
use crate::config::units::{parse_duration, parse_size, show_duration, show_size};
use crate::objects::{WINDOW_DEFAULT, WINDOW_MOST};
use crate::outgoing::Destination;
use crate::router::{Pattern, Router};

/// Bytes of a name of a zone or worker: those of a label in the DNS.
const NAME_MAX: usize = 63;
/// Host names of one zone, and patterns of hosts of one class.
const HOSTS_MAX: usize = 100;
/// Workers of one zone.
const WORKERS_MAX: usize = 100;
/// Classes of objects of one zone.
const CLASSES_MAX: usize = 100;
/// Variables, and secrets, of one worker; bytes of them all.
const VARIABLES_MAX: usize = 256;
const VARIABLE_BYTES_MAX: usize = 64 << 10;

/// A zone as it is deployed and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Whose zone it is.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// Host names: exact, `*.suffix` or `*`.
    pub hosts: Vec<String>,
    /// Where requests go that no route matches, and what workers fetch of their own zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What answers.
    #[serde(default)]
    pub workers: BTreeMap<String, WorkerDocument>,
    /// Classes of objects, which answer as well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub objects: BTreeMap<String, ClassDocument>,
}

/// A class of objects of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassDocument {
    /// The id of its script.
    pub script: String,
    /// Patterns of the paths that its objects answer; `:name` is the object's name.
    #[serde(default)]
    pub routes: Vec<String>,
    /// Patterns of the hosts that its objects answer; `:name`, the first label, is the object's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The version of what its objects store. When it rises, each object is brought to it at its next start.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub version: u32,
    /// How long an answer is kept for requests that repeat the key of its request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<String>,
    /// What they may read of its configuration.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What they may read if they know the name. `None` in what is shown.
    #[serde(default)]
    pub secrets: BTreeMap<String, Option<String>>,
    /// What a turn may cost.
    #[serde(default)]
    pub limits: LimitsDocument,
}

fn first_version() -> u32 {
    1
}

fn is_first_version(version: &u32) -> bool {
    *version == 1
}

/// A worker of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerDocument {
    /// The id of its script.
    pub script: String,
    /// Patterns of the paths that it answers.
    pub routes: Vec<String>,
    /// What it may read of its configuration.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What it may read if it knows the name. `None` in what is shown.
    #[serde(default)]
    pub secrets: BTreeMap<String, Option<String>>,
    /// What a request may cost.
    #[serde(default)]
    pub limits: LimitsDocument,
}

/// Limits as text; what is not there has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsDocument {
    /// Linear memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Elements of tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_elements: Option<u64>,
    /// Time on a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Time on the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<String>,
    /// Requests that it sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outgoing: Option<u64>,
    /// Things of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handles: Option<u64>,
    /// Bytes of one set of fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<String>,
    /// Fields of one set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_count: Option<u64>,
    /// Bytes of a body that it writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<String>,
    /// Bytes that it logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<String>,
    /// Bytes that one object stores. Workers store nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
}

fn default_tenant() -> String {
    "default".to_owned()
}

/// A document that was read and is right.
#[derive(Debug)]
pub struct Checked {
    /// Whose zone it is.
    pub tenant: String,
    /// Its host names.
    pub hosts: Vec<Pattern>,
    /// Its origin. Being named in a document makes its address an allowed one.
    pub origin: Option<Destination>,
    /// Its workers.
    pub workers: Vec<CheckedWorker>,
    /// Its classes.
    pub classes: Vec<CheckedClass>,
    /// What answers which path.
    pub routes: Router<Place>,
}

/// What a route leads to, by its place in a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A worker.
    Worker(usize),
    /// An object of a class.
    Class(usize),
}

/// A class that is right.
#[derive(Debug)]
pub struct CheckedClass {
    /// Its code, with what a turn may cost.
    pub code: CheckedWorker,
    /// The version of what its objects store.
    pub version: u32,
    /// Bytes that one object may store.
    pub storage: u64,
    /// How long an answer is kept for requests that repeat the key of its request.
    pub idempotency: Duration,
    /// The hosts of its objects.
    pub hosts: Vec<ObjectHost>,
}

/// A worker that is right.
#[derive(Debug)]
pub struct CheckedWorker {
    /// Its name.
    pub name: String,
    /// Its script.
    pub script: ScriptId,
    /// What it may read.
    pub variables: Vec<(String, String)>,
    /// What it may read by name.
    pub secrets: BTreeMap<String, String>,
    /// What a request may cost.
    pub limits: Limits,
}

/// All that is wrong, a sentence each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wrong(pub Vec<String>);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Wrong {}

impl Wrong {
    fn add(&mut self, text: impl Into<String>) {
        self.0.push(text.into());
    }

    fn take<T, E: fmt::Display>(&mut self, what: &str, outcome: Result<T, E>) -> Option<T> {
        outcome.map_err(|error| self.add(format!("{what}: {error}"))).ok()
    }
}

/// Whether a zone or a worker may have this name.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The parameter of a route of a class that names the object.
pub(super) const OBJECT_NAME: &str = "name";

/// What stands in the place of a class in the host of an object that is asked for by its id.
pub(crate) const BY_ID: &str = "id";

/// Whether a class may have this name.
fn is_class_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl Document {
    /// Reads JSON.
    pub fn parse(text: &[u8]) -> Result<Self, Wrong> {
        serde_json::from_slice(text)
            .map_err(|error| Wrong(vec![format!("the document of the zone: {error}")]))
    }

    /// The same without its secrets.
    pub fn without_secrets(&self) -> Self {
        let mut shown = self.clone();
        let workers = shown.workers.values_mut().map(|worker| &mut worker.secrets);
        let classes = shown.objects.values_mut().map(|class| &mut class.secrets);
        for secrets in workers.chain(classes) {
            secrets.values_mut().for_each(|secret| *secret = None);
        }
        shown
    }

    /// Checks everything that can be checked without the node.
    pub fn check(&self) -> Result<Checked, Wrong> {
        let mut wrong = Wrong::default();
        if !is_name(&self.tenant) {
            wrong.add("tenant: 1 to 63 of a-z, 0-9 and -, beginning with a letter");
        }
        if self.hosts.is_empty() || self.hosts.len() > HOSTS_MAX {
            wrong.add(format!("hosts: from 1 to {HOSTS_MAX} names"));
        }
        if self.workers.len() > WORKERS_MAX {
            wrong.add(format!("workers: at most {WORKERS_MAX}"));
        }
        let hosts =
            self.hosts.iter().filter_map(|host| wrong.take("hosts", Pattern::parse(host, "/*"))).collect();
        let origin = match &self.origin {
            Some(text) => wrong.take("origin", read_origin(text)),
            None => None,
        };
        if self.objects.len() > CLASSES_MAX {
            wrong.add(format!("objects: at most {CLASSES_MAX} classes"));
        }
        let mut routes = Vec::new();
        let mut workers = Vec::new();
        for (index, (name, worker)) in self.workers.iter().take(WORKERS_MAX).enumerate() {
            for route in &worker.routes {
                let pattern = wrong.take(&format!("workers.{name}.routes"), Pattern::parse("*", route));
                routes.extend(pattern.map(|pattern| (pattern, Place::Worker(index))));
            }
            workers.extend(worker.check(name, &mut wrong));
        }
        let mut classes: Vec<CheckedClass> = Vec::new();
        for (index, (name, class)) in self.objects.iter().take(CLASSES_MAX).enumerate() {
            routes.extend(class.routes(name, &mut wrong).map(|pattern| (pattern, Place::Class(index))));
            let checked = class.check(name, &mut wrong);
            let same = |other: &&CheckedClass| other.code.name.eq_ignore_ascii_case(name);
            if let Some(other) = classes.iter().find(same) {
                wrong.add(format!(
                    "objects.{name}: differs from {} in case only, which hosts do not tell apart",
                    other.code.name
                ));
            }
            classes.extend(checked);
        }
        let routes = match Router::new(routes) {
            Ok(routes) => Some(routes),
            Err(errors) => {
                errors.iter().for_each(|error| wrong.add(format!("routes: {error}")));
                None
            }
        };
        match routes {
            Some(routes) if wrong.0.is_empty() => {
                Ok(Checked { tenant: self.tenant.clone(), hosts, origin, workers, classes, routes })
            }
            _ => Err(wrong),
        }
    }
}

/// `http://host[:port]` and nothing else.
fn read_origin(text: &str) -> Result<Destination, String> {
    let help = || format!("{text}: write http://HOST:PORT or https://HOST:PORT");
    let uri: Uri = text.parse().map_err(|_| help())?;
    let https = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(help()),
    };
    let authority = uri.authority().ok_or_else(help)?;
    let is_bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
    if !is_bare {
        return Err(help());
    }
    Destination::parse(https, authority.as_str()).map_err(|_| help())
}

impl WorkerDocument {
    fn check(&self, name: &str, wrong: &mut Wrong) -> Option<CheckedWorker> {
        let place = format!("workers.{name}");
        if !is_name(name) {
            wrong.add(format!("{place}: a name is 1 to 63 of a-z, 0-9 and -, beginning with a letter"));
        }
        if self.routes.is_empty() {
            wrong.add(format!("{place}.routes: at least one, like \"/*\""));
        }
        if self.limits.storage.is_some() {
            wrong.add(format!("{place}.limits.storage: a worker stores nothing; objects do"));
        }
        let code = CodeDocument {
            script: &self.script,
            env: &self.env,
            secrets: &self.secrets,
            limits: &self.limits,
        };
        code.check(name, &place, wrong)
    }
}

impl ClassDocument {
    /// Its routes. Each has to say which object it is about.
    fn routes(&self, name: &str, wrong: &mut Wrong) -> impl Iterator<Item = Pattern> + use<> {
        let mut patterns = Vec::new();
        for route in &self.routes {
            let place = format!("objects.{name}.routes");
            let Some(pattern) = wrong.take(&place, Pattern::parse("*", route)) else { continue };
            let names_it = pattern.path().parameters().any(|parameter| parameter == OBJECT_NAME);
            if names_it {
                patterns.push(pattern);
            } else {
                wrong.add(format!("{place}: {route} has no :{OBJECT_NAME}, which is the object's name"));
            }
        }
        patterns.into_iter()
    }

    fn check(&self, name: &str, wrong: &mut Wrong) -> Option<CheckedClass> {
        let place = format!("objects.{name}");
        if !is_class_name(name) {
            wrong.add(format!(
                "{place}: a class's name is 1 to 63 of letters, digits and -, beginning with a letter"
            ));
        }
        if name.eq_ignore_ascii_case(BY_ID) {
            wrong.add(format!(
                "{place}: no class has this name: ID.{BY_ID}.object.internal is the object of an id"
            ));
        }
        if self.hosts.len() > HOSTS_MAX {
            wrong.add(format!("{place}.hosts: at most {HOSTS_MAX}"));
        }
        let parse = |host: &String| wrong.take(&format!("{place}.hosts"), ObjectHost::parse(host));
        let hosts = self.hosts.iter().take(HOSTS_MAX).filter_map(parse).collect();
        let mut limits = Reader { place: &format!("{place}.limits"), wrong };
        let storage = limits.size(
            "storage",
            self.limits.storage.as_deref(),
            object::STORAGE_DEFAULT,
            object::STORAGE_MOST,
        );
        let mut own = Reader { place: &place, wrong };
        let idempotency = own.time("idempotency", self.idempotency.as_deref(), WINDOW_DEFAULT, WINDOW_MOST);
        let code = CodeDocument {
            script: &self.script,
            env: &self.env,
            secrets: &self.secrets,
            limits: &self.limits,
        };
        let code = code.check(name, &place, wrong)?;
        Some(CheckedClass { code, version: self.version, storage, idempotency, hosts })
    }
}

/// What workers and classes have in common.
struct CodeDocument<'d> {
    script: &'d str,
    env: &'d BTreeMap<String, String>,
    secrets: &'d BTreeMap<String, Option<String>>,
    limits: &'d LimitsDocument,
}

impl CodeDocument<'_> {
    fn check(&self, name: &str, place: &str, wrong: &mut Wrong) -> Option<CheckedWorker> {
        let script = ScriptId::parse(self.script);
        if script.is_none() {
            wrong.add(format!("{place}.script: the 64 hexadecimal digits that the upload was answered with"));
        }
        let before = wrong.0.len();
        let mut secrets = BTreeMap::new();
        for (key, value) in self.secrets {
            match value {
                Some(value) => drop(secrets.insert(key.clone(), value.clone())),
                None => wrong.add(format!("{place}.secrets.{key}: it has no value; deploy it with one")),
            }
        }
        let pairs = || self.env.iter().chain(&secrets);
        let bytes: usize = pairs().map(|(key, value)| key.len() + value.len()).sum();
        if pairs().count() > VARIABLES_MAX || bytes > VARIABLE_BYTES_MAX {
            let most = show_size(VARIABLE_BYTES_MAX as u64);
            wrong.add(format!("{place}.env: with secrets at most {VARIABLES_MAX} of {most} in all"));
        }
        let limits = self.limits.check(&format!("{place}.limits"), wrong);
        let variables = self.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        if wrong.0.len() > before {
            return None;
        }
        Some(CheckedWorker { name: name.to_owned(), script: script?, variables, secrets, limits })
    }
}

impl LimitsDocument {
    fn check(&self, place: &str, wrong: &mut Wrong) -> Limits {
        let (usual, most) = (Limits::default(), Limits::most());
        let mut read = Reader { place, wrong };
        Limits {
            memory: read.size("memory", self.memory.as_deref(), usual.memory as u64, most.memory as u64)
                as usize,
            table_elements: read.count(
                "table_elements",
                self.table_elements,
                usual.table_elements,
                most.table_elements,
            ),
            cpu: read.time("cpu", self.cpu.as_deref(), usual.cpu, most.cpu),
            wall: read.time("wall", self.wall.as_deref(), usual.wall, most.wall),
            outgoing: read.count("outgoing", self.outgoing, usual.outgoing as usize, most.outgoing as usize)
                as u32,
            handles: read.count("handles", self.handles, usual.handles, most.handles),
            header_bytes: read.size(
                "header_bytes",
                self.header_bytes.as_deref(),
                usual.header_bytes as u64,
                most.header_bytes as u64,
            ) as usize,
            header_count: read.count(
                "header_count",
                self.header_count,
                usual.header_count,
                most.header_count,
            ),
            body_bytes: read.size(
                "body_bytes",
                self.body_bytes.as_deref(),
                usual.body_bytes,
                most.body_bytes,
            ),
            log_bytes: read.size(
                "log_bytes",
                self.log_bytes.as_deref(),
                usual.log_bytes as u64,
                most.log_bytes as u64,
            ) as usize,
        }
    }
}

/// Reads limits against their bounds.
struct Reader<'a> {
    place: &'a str,
    wrong: &'a mut Wrong,
}

impl Reader<'_> {
    fn size(&mut self, key: &str, text: Option<&str>, usual: u64, most: u64) -> u64 {
        let Some(text) = text else { return usual };
        match self.wrong.take(&format!("{}.{key}", self.place), parse_size(text)) {
            Some(size) if (1..=most).contains(&size) => size,
            Some(_) => self.beyond(key, text, &show_size(most), usual),
            None => usual,
        }
    }

    fn time(&mut self, key: &str, text: Option<&str>, usual: Duration, most: Duration) -> Duration {
        let Some(text) = text else { return usual };
        match self.wrong.take(&format!("{}.{key}", self.place), parse_duration(text)) {
            Some(time) if !time.is_zero() && time <= most => time,
            Some(_) => self.beyond(key, text, &show_duration(most), usual),
            None => usual,
        }
    }

    fn count(&mut self, key: &str, count: Option<u64>, usual: usize, most: usize) -> usize {
        match count {
            None => usual,
            Some(count) if (1..=most as u64).contains(&count) => count as usize,
            Some(count) => self.beyond(key, &count.to_string(), &most.to_string(), usual),
        }
    }

    fn beyond<T>(&mut self, key: &str, text: &str, most: &str, usual: T) -> T {
        self.wrong.add(format!("{}.{key} = {text}: more than nothing and at most {most}", self.place));
        usual
    }
}

/// A zone document of any bytes: what a fuzzer calls.
#[doc(hidden)]
pub fn fuzz_logic(data: &[u8]) {
    let Ok(document) = Document::parse(data) else { return };
    if let Ok(checked) = document.check() {
        assert!(!checked.hosts.is_empty() && checked.workers.len() == document.workers.len());
        let again = serde_json::to_vec(&document).expect("what was read can be written");
        assert_eq!(Document::parse(&again).as_ref(), Ok(&document), "what is kept is what was deployed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn document(change: impl FnOnce(&mut serde_json::Value)) -> Result<Checked, Wrong> {
        let mut json = serde_json::json!({
            "hosts": ["shop.example", "*.shop.example"],
            "origin": "http://127.0.0.1:9000",
            "workers": {"front": {"script": ID, "routes": ["/", "/a/*"], "env": {"A": "b"},
                "secrets": {"KEY": "s"}, "limits": {"cpu": "20ms", "memory": "16MiB", "outgoing": 3}}},
        });
        change(&mut json);
        Document::parse(json.to_string().as_bytes())?.check()
    }

    #[test]
    fn a_document_is_read_with_its_defaults() {
        let checked = document(|_| {}).unwrap();
        assert_eq!(
            (checked.tenant.as_str(), checked.hosts.len(), checked.routes.routes().len()),
            ("default", 2, 2)
        );
        assert_eq!(checked.origin, Destination::new(false, "127.0.0.1", 9000).ok());
        let worker = &checked.workers[0];
        assert_eq!(worker.limits.cpu, Duration::from_millis(20));
        assert_eq!((worker.limits.memory, worker.limits.outgoing), (16 << 20, 3));
        assert_eq!(worker.limits.wall, Limits::default().wall);
        assert_eq!(worker.variables, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(worker.secrets["KEY"], "s");
    }

    #[test]
    fn each_mistake_is_named() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(&str, Change); 17] = [
            ("hosts", |json| json["hosts"] = serde_json::json!([])),
            ("hosts", |json| json["hosts"] = serde_json::json!(["a b"])),
            ("origin", |json| json["origin"] = "ftp://a".into()),
            ("origin", |json| json["origin"] = "http://user@a".into()),
            ("origin", |json| json["origin"] = "http://a/path".into()),
            ("tenant", |json| json["tenant"] = "A".into()),
            ("workers.front.script", |json| json["workers"]["front"]["script"] = "abc".into()),
            ("workers.front.routes", |json| json["workers"]["front"]["routes"] = serde_json::json!([])),
            ("workers.front.routes", |json| json["workers"]["front"]["routes"] = serde_json::json!(["no"])),
            ("routes", |json| json["workers"]["front"]["routes"] = serde_json::json!(["/a", "/a"])),
            ("limits.cpu", |json| json["workers"]["front"]["limits"]["cpu"] = "1h".into()),
            ("limits.cpu", |json| json["workers"]["front"]["limits"]["cpu"] = "0s".into()),
            ("limits.memory", |json| json["workers"]["front"]["limits"]["memory"] = "1TB".into()),
            ("limits.outgoing", |json| json["workers"]["front"]["limits"]["outgoing"] = 0.into()),
            ("unknown field", |json| json["workers"]["front"]["limits"]["cpus"] = "1s".into()),
            ("secrets.KEY", |json| json["workers"]["front"]["secrets"]["KEY"] = serde_json::Value::Null),
            ("workers.Front", |json| json["workers"]["Front"] = json["workers"]["front"].clone()),
        ];
        for (place, change) in cases {
            let wrong = document(change).expect_err(place);
            assert!(wrong.to_string().contains(place), "{place}: {wrong}");
        }
    }

    #[test]
    fn mistakes_of_classes_are_named() {
        let class = |idempotency: &str| {
            let class = serde_json::json!({"script": ID, "routes": ["/c/:name"], "idempotency": idempotency});
            document(|json| json["objects"]["Counter"] = class)
        };
        let window = |idempotency| class(idempotency).map(|checked| checked.classes[0].idempotency);
        assert_eq!(window("168h").ok(), Some(WINDOW_MOST));
        assert_eq!(window("1ms").ok(), Some(Duration::from_millis(1)));
        for wrong in ["169h", "0s", "a day"] {
            let wrong = window(wrong).unwrap_err().to_string();
            assert!(wrong.contains("objects.Counter.idempotency"), "{wrong}");
        }
        let silent = serde_json::json!({"script": ID, "routes": ["/c/:name"]});
        let checked = document(|json| json["objects"]["Counter"] = silent).unwrap();
        assert_eq!(checked.classes[0].idempotency, Duration::from_secs(24 * 60 * 60));
    }

    #[test]
    fn what_is_shown_has_no_secrets() {
        let document = Document::parse(
            br#"{"hosts":["*"],"workers":{"a":{"script":"","routes":[],"secrets":{"K":"v"}}}}"#,
        );
        let shown = serde_json::to_string(&document.unwrap().without_secrets()).unwrap();
        assert!(shown.contains("\"K\":null") && !shown.contains("\"v\""), "{shown}");
    }
}
