//! `berth.toml`: what a maker says about a project, read into a [`Project`], or all its mistakes with their lines.
//!
//! Only what the command line needs is checked here: kinds, names, what is missing, what nobody knows. Whether a host,
//! a route or a limit is one that a node takes, the node says when it gets the zone; its rules are its own.
//!
//! What answers in a zone is *code*: a component with its routes. A worker is code alone, a class of objects has more.
//!
//! Secrets are named here and valued in the deployer's environment, so that the file can be committed. They are not
//! environment variables of the guest: it asks for them by name, through `wasi:config`.

mod document;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::Failure;
use document::{Document, Section};

/// The values of secrets, by their owner and name.
pub(crate) type Secrets = BTreeMap<Owner, BTreeMap<String, String>>;
/// The ids of scripts, by their owner.
pub(crate) type Scripts = BTreeMap<Owner, String>;

/// The name of the file in a project's folder.
pub(crate) const FILE: &str = "berth.toml";
/// The part of a path that is an object's name.
const OBJECT_NAME: &str = ":name";
/// Longest name of a zone, a worker, a class or a project.
const NAME_BYTES_MAX: usize = 63;

/// A project: one zone, its workers and classes of objects, and how they are built.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Project {
    /// Where it lies; paths in it begin here.
    pub(crate) folder: PathBuf,
    /// The name of its zone.
    pub(crate) name: String,
    /// The tenant whose zone it is.
    pub(crate) tenant: String,
    /// The host names of the zone.
    pub(crate) hosts: Vec<String>,
    /// By name.
    pub(crate) workers: BTreeMap<String, Code>,
    /// Classes, by name.
    pub(crate) objects: BTreeMap<String, Class>,
    /// Where requests go that no route matches, and what workers fetch through.
    pub(crate) origin: Option<String>,
    /// How the components are made.
    pub(crate) build: Build,
}

/// A component and its place in the zone: a worker, or what a class has as well.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Code {
    /// The file, from the project's folder.
    pub(crate) component: PathBuf,
    /// Path patterns.
    pub(crate) routes: Vec<String>,
    /// What the guest may read as its environment, and through `wasi:config`.
    pub(crate) env: BTreeMap<String, String>,
    /// Names of variables of the deployer's environment.
    pub(crate) secrets: Vec<String>,
    /// As they are written; the node knows what they mean.
    pub(crate) limits: BTreeMap<String, Value>,
}

/// A class of objects.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Class {
    /// What its objects run.
    pub(crate) code: Code,
    /// Patterns of the hosts that its objects answer.
    pub(crate) hosts: Vec<String>,
    /// Of what its objects store.
    pub(crate) version: u32,
    /// How long answers are kept under the keys of their requests, as it is written.
    pub(crate) idempotency: Option<String>,
}

/// Whose a component is. A worker and a class may have the same name. Shown as the file says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// A worker, by its name.
    Worker(String),
    /// A class, by its name.
    Class(String),
}

impl Owner {
    /// What it is, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Worker(_) => "worker",
            Self::Class(_) => "class",
        }
    }

    /// Its name among its like.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Worker(name) | Self::Class(name) => name,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(name) => out.write_str(name),
            Self::Class(name) => write!(out, "objects.{name}"),
        }
    }
}

/// How the components of a project are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Build {
    /// For the shell, in the project's folder.
    pub(crate) command: Option<String>,
    /// Files and folders whose changes `berth dev` builds after.
    pub(crate) watch: Vec<PathBuf>,
}

impl Project {
    /// Reads a project: a folder with `berth.toml`, that file itself, or a component, which is a project of one worker.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path.extension().is_some_and(|extension| extension == "wasm") {
            return Self::of_component(path);
        }
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let text = std::fs::read_to_string(&file).map_err(|error| {
            format!(
                "{}: {error}; name a folder with {FILE}, or a component (.wasm); `berth new` makes a project",
                file.display()
            )
        })?;
        let folder = file.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&text, &folder).map_err(|mistakes| format!("{}:\n  {mistakes}", file.display()).into())
    }

    /// A component without a project: it gets every request.
    fn of_component(path: &Path) -> Result<Self, Failure> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = path.file_name().ok_or_else(|| format!("{} has no file name", path.display()))?;
        let worker = Code {
            component: PathBuf::from(name),
            routes: vec!["/*".to_owned()],
            env: BTreeMap::new(),
            secrets: Vec::new(),
            limits: BTreeMap::new(),
        };
        let zone = name_like(&stem);
        Ok(Self {
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            name: zone.clone(),
            tenant: "default".to_owned(),
            hosts: vec!["*".to_owned()],
            workers: BTreeMap::from([(zone, worker)]),
            objects: BTreeMap::new(),
            origin: None,
            build: Build::default(),
        })
    }

    /// Reads the text of a `berth.toml`. The error has a line for each mistake.
    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let document = Document::parse(text)?;
        let root = document.root();
        root.only(&["name", "zone", "tenant", "workers", "objects", "origin", "build", "policy"]);
        root.refuse("policy", LATER);
        let project = Self {
            folder: folder.to_owned(),
            name: root.need("name", Section::name, "\"guestbook\"").unwrap_or_default(),
            tenant: root.name("tenant").unwrap_or_else(|| "default".to_owned()),
            hosts: root.need("zone", Section::texts, "\"guestbook.localhost\"").unwrap_or_default(),
            workers: all(&root, "workers", &NAME, worker),
            objects: all(&root, "objects", &CLASS_NAME, class),
            origin: origin(&root),
            build: build(&root, folder),
        };
        let is_empty = project.workers.is_empty() && project.objects.is_empty() && project.origin.is_none();
        if is_empty && !document.is_wrong() {
            root.mistake(
                "the zone answers nothing: it needs a worker, such as [workers.front], a class of objects, such as \
                 [objects.Counter], or an [origin]",
            );
        }
        document.close().map(|()| project)
    }

    /// Everything that has a component: workers, then classes.
    pub(crate) fn codes(&self) -> impl Iterator<Item = (Owner, &Code)> {
        let workers = self.workers.iter().map(|(name, code)| (Owner::Worker(name.clone()), code));
        let classes = self.objects.iter().map(|(name, class)| (Owner::Class(name.clone()), &class.code));
        workers.chain(classes)
    }

    /// The values of all secrets, or which are missing.
    pub(crate) fn secrets(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Secrets, Failure> {
        let (mut secrets, mut missing) = (Secrets::new(), Vec::new());
        for (owner, code) in self.codes() {
            let mut of_owner = BTreeMap::new();
            for secret in &code.secrets {
                match variable(secret) {
                    Some(value) => drop(of_owner.insert(secret.clone(), value)),
                    None => missing.push(format!("{secret} (of {} {})", owner.kind(), owner.name())),
                }
            }
            secrets.insert(owner, of_owner);
        }
        if missing.is_empty() {
            return Ok(secrets);
        }
        let missing = missing.join(", ");
        Err(format!(
            "the environment lacks secrets: {missing}; set variables of these names, and deploy again"
        )
        .into())
    }

    /// The zone's document for the node.
    pub(crate) fn zone(&self, scripts: &Scripts, secrets: &Secrets) -> Value {
        let (mut workers, mut objects) = (Map::new(), Map::new());
        for (owner, code) in self.codes() {
            let mut document = json!({
                "script": scripts.get(&owner), "routes": code.routes, "env": code.env,
                "secrets": secrets.get(&owner), "limits": code.limits,
            });
            match owner {
                Owner::Worker(name) => drop(workers.insert(name, document)),
                Owner::Class(name) => {
                    let class = self.objects.get(&name);
                    document["version"] = json!(class.map(|class| class.version));
                    if let Some(window) = class.and_then(|class| class.idempotency.as_ref()) {
                        document["idempotency"] = json!(window);
                    }
                    // A node that does not know of hosts of objects takes classes without them.
                    if let Some(class) = class.filter(|class| !class.hosts.is_empty()) {
                        document["hosts"] = json!(class.hosts);
                    }
                    objects.insert(name, document);
                }
            }
        }
        let mut zone = json!({"tenant": self.tenant, "hosts": self.hosts, "workers": workers});
        // A node that does not know of objects takes a zone without them.
        if !objects.is_empty() {
            zone["objects"] = Value::Object(objects);
        }
        if let Some(origin) = &self.origin {
            zone["origin"] = json!(origin);
        }
        zone
    }
}

/// What is said to keys of the contract that are for later.
const LATER: &str = "is not built yet: take it out for now";
/// The keys of code, in the order in which people write them.
const CODE_KEYS: [&str; 5] = ["component", "routes", "env", "secrets", "limits"];

/// What the tables of a table are, by their names.
fn all<T>(root: &Section<'_>, name: &str, rule: &Rule, read: fn(&Section<'_>) -> T) -> BTreeMap<String, T> {
    root.tables(name, rule).into_iter().map(|(name, section)| (name, read(&section))).collect()
}

fn worker(section: &Section<'_>) -> Code {
    section.only(&CODE_KEYS);
    let routes = section.need("routes", Section::texts, "[\"/*\"]").unwrap_or_default();
    code(section, "\"target/wasm32-wasip2/release/front.wasm\"", routes)
}

fn class(section: &Section<'_>) -> Class {
    let [component, routes, env, secrets, limits] = CODE_KEYS;
    section.only(&[component, routes, "hosts", "version", "idempotency", env, secrets, limits, "home"]);
    section.refuse("home", LATER);
    let hosts = section.texts("hosts").unwrap_or_default();
    for host in &hosts {
        if !host.strip_prefix(OBJECT_NAME).is_some_and(|rest| rest.starts_with('.') && rest.len() > 1) {
            let mistake = format!(
                "has {host:?}; write {OBJECT_NAME}, the name of the object, a dot, and the rest of the host"
            );
            section.mistake_at("hosts", &mistake);
        }
    }
    // Without routes, workers of the zone alone reach its objects.
    let routes = section.texts(routes).unwrap_or_default();
    let code = code(section, "\"target/wasm32-wasip2/release/counter.wasm\"", routes);
    for route in &code.routes {
        if !route.split('/').any(|part| part == OBJECT_NAME) {
            let mistake = format!("has {route:?}, which lacks {OBJECT_NAME}, the name of the object");
            section.mistake_at("routes", &mistake);
        }
    }
    let (version, idempotency) = (section.number("version").unwrap_or(1), section.text("idempotency"));
    Class { code, hosts, version, idempotency }
}

/// What workers and classes have in common.
fn code(section: &Section<'_>, component: &str, routes: Vec<String>) -> Code {
    let code = Code {
        component: section.need("component", Section::text, component).unwrap_or_default().into(),
        routes,
        env: section.table("env").map(|env| env.all_texts()).unwrap_or_default(),
        secrets: section.texts("secrets").unwrap_or_default(),
        limits: section.table("limits").map(|limits| limits.all_scalars()).unwrap_or_default(),
    };
    for both in code.secrets.iter().filter(|secret| code.env.contains_key(*secret)) {
        section
            .mistake_at("secrets", &format!("names {both}, which is in env as well: a secret is not there"));
    }
    code
}

fn origin(root: &Section<'_>) -> Option<String> {
    let section = root.table("origin")?;
    section.only(&["url"]);
    section.need("url", Section::text, "\"http://127.0.0.1:9000\"")
}

/// A project with a command but nothing to watch most likely has its sources where everybody has them.
fn build(root: &Section<'_>, folder: &Path) -> Build {
    let Some(section) = root.table("build") else { return Build::default() };
    section.only(&["command", "watch"]);
    let watch = section.texts("watch").unwrap_or_else(|| vec!["src".to_owned()]);
    Build {
        command: section.text("command"),
        watch: watch.into_iter().map(|entry| folder.join(entry)).collect(),
    }
}

/// What a name must be like.
struct Rule {
    /// Whether a text is such a name.
    keeps: fn(&str) -> bool,
    /// What it asks for.
    words: &'static str,
}

/// Of zones, workers and tenants.
const NAME: Rule = Rule {
    keeps: |text| {
        has_name_length(text)
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    },
    words: "a name has 1 to 63 of a-z, 0-9 and -, and begins with a letter",
};

/// Of classes.
const CLASS_NAME: Rule = Rule {
    keeps: |text| {
        has_name_length(text)
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    },
    words: "a class's name has 1 to 63 of letters, digits and -, and begins with a letter",
};

fn has_name_length(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
}

/// A name for the command line's arguments.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    if (NAME.keeps)(text) { Ok(text.to_owned()) } else { Err(NAME.words.to_owned()) }
}

/// The name that is most like this text.
fn name_like(text: &str) -> String {
    let text = text.to_ascii_lowercase().replace(|other: char| !other.is_ascii_alphanumeric(), "-");
    let text =
        if text.starts_with(|first: char| first.is_ascii_lowercase()) { text } else { format!("w{text}") };
    text.chars().take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
name = "guestbook"
zone = ["guestbook.localhost", "*.x.example"]
tenant = "ada"

[workers.front]
component = "front.wasm"
routes = ["/", "/static/*"]
env = { GREETING = "hello" }
secrets = ["TOKEN"]
limits = { memory = "64MiB", outgoing = 5 }

[objects.Counter]
component = "counter.wasm"
routes = ["/counter/:name", "/counter/:name/*"]
hosts = [":name.counters.example"]
version = 3
idempotency = "1h"
secrets = ["TOKEN"]
limits = { storage = "1MiB" }

[origin]
url = "http://127.0.0.1:9000"

[build]
command = "make"
watch = ["src", "Makefile"]
"#;

    fn parse(text: &str) -> Result<Project, String> {
        Project::parse(text, Path::new("p"))
    }

    #[test]
    fn a_whole_project_is_read() {
        let project = parse(WHOLE).unwrap();
        assert_eq!(project.hosts, ["guestbook.localhost", "*.x.example"]);
        assert_eq!(project.build.watch, [Path::new("p/src"), Path::new("p/Makefile")]);
        let [front, counter] = [Owner::Worker("front".to_owned()), Owner::Class("Counter".to_owned())];
        let scripts = Scripts::from([(front, "abc".to_owned()), (counter, "def".to_owned())]);
        let secrets = project.secrets(|name| (name == "TOKEN").then(|| "s3cret".to_owned())).unwrap();
        let expected = json!({
            "tenant": "ada", "hosts": ["guestbook.localhost", "*.x.example"], "origin": "http://127.0.0.1:9000",
            "workers": {"front": {
                "script": "abc", "routes": ["/", "/static/*"], "env": {"GREETING": "hello"},
                "secrets": {"TOKEN": "s3cret"}, "limits": {"memory": "64MiB", "outgoing": 5},
            }},
            "objects": {"Counter": {
                "script": "def", "routes": ["/counter/:name", "/counter/:name/*"], "version": 3, "env": {}, "idempotency": "1h",
                "hosts": [":name.counters.example"],
                "secrets": {"TOKEN": "s3cret"}, "limits": {"storage": "1MiB"},
            }},
        });
        assert_eq!(project.zone(&scripts, &secrets), expected);
        let failure = project.secrets(|_| None).unwrap_err().to_string();
        assert!(failure.contains("TOKEN (of worker front), TOKEN (of class Counter)"), "{failure}");
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let text = "name = \"a\"\nzone = \"*\"\n[workers.w]\ncomponent = \"w.wasm\"\nroutes = [\"/*\"]\n[build]\n\
            command = \"make\"";
        let project = parse(text).unwrap();
        assert_eq!((project.tenant.as_str(), project.origin), ("default", None));
        assert_eq!(project.hosts, ["*"]);
        assert_eq!(project.build.watch, [Path::new("p/src")]);
        let worker = &project.workers["w"];
        assert!(worker.env.is_empty() && worker.secrets.is_empty() && worker.limits.is_empty());
        let proxy = parse("name = \"a\"\nzone = \"*\"\n[origin]\nurl = \"http://x\"").unwrap();
        assert!(proxy.workers.is_empty());
    }

    #[test]
    fn a_project_may_have_objects_alone() {
        let text = "name = \"a\"\nzone = \"*\"\n[objects.C]\ncomponent = \"c.wasm\"\nroutes = \"/:name\"";
        let project = parse(text).unwrap();
        assert_eq!((project.workers.len(), project.objects["C"].version), (0, 1));
        let owners: Vec<String> = project.codes().map(|(owner, _)| owner.to_string()).collect();
        assert_eq!(owners, ["objects.C"]);
        let hosts =
            parse("name = \"a\"\nzone = \"*\"\n[objects.C]\ncomponent = \"c.wasm\"\nhosts = \":name.x\"")
                .unwrap();
        assert_eq!(
            (&*hosts.objects["C"].hosts, hosts.objects["C"].code.routes.len()),
            (&[":name.x".to_owned()][..], 0)
        );
        let proxy = parse("name = \"a\"\nzone = \"*\"\n[origin]\nurl = \"http://x\"").unwrap();
        let zone = proxy.zone(&Scripts::new(), &Secrets::new());
        assert!(zone.get("objects").is_none(), "older nodes take it: {zone}");
    }

    #[test]
    fn mistakes_of_classes_are_told_with_their_lines() {
        let text = "name = \"a\"\nzone = \"*\"\n[objects.9to5]\ncomponent = \"c\"\nroutes = [\"/:name\", \"/x/:names\"]\n\
            version = -1\nhosts = [\"a\", \":name.\", \":name.b\"]\nhome = \"clients\"\n[objects.With-2]\nversion = 1.5\nwatch = []\n\
            [objects.C]\ncomponent = \"c\"\nroutes = \"/:name\"\nversion = 4294967296\nenv = { K = \"1\" }\nsecrets = [\"K\"]";
        let mistakes = parse(text).unwrap_err();
        let lines: Vec<&str> = mistakes.lines().map(str::trim).collect();
        let expected = [
            "line 3: objects.9to5 is no name: a class's name has 1 to 63 of letters, digits and -, and begins with a letter",
            "line 5: objects.9to5.routes has \"/x/:names\", which lacks :name, the name of the object",
            "line 6: objects.9to5.version must be from 0 to 4294967295",
            "line 7: objects.9to5.hosts has \":name.\"; write :name, the name of the object, a dot, and the rest of the host",
            "line 7: objects.9to5.hosts has \"a\"; write :name, the name of the object, a dot, and the rest of the host",
            "line 8: objects.9to5.home is not built yet: take it out for now",
            "line 9: objects.With-2.component is missing; write component = \
             \"target/wasm32-wasip2/release/counter.wasm\"",
            "line 10: objects.With-2.version is a number; it must be a whole number",
            "line 11: objects.With-2.watch is not known here; known are component, routes, hosts, version, idempotency, \
             env, secrets, limits, home",
            "line 15: objects.C.version must be from 0 to 4294967295",
            "line 17: objects.C.secrets names K, which is in env as well: a secret is not there",
        ];
        assert_eq!(lines, expected, "{mistakes}");
    }

    #[test]
    fn all_mistakes_are_told_with_their_lines() {
        let text = "nane = \"a\"\nzone = 5\ntenant = \"Ada\"\n[workers.Front]\nroutes = \"/\"\nenv = { A = 1 }\n\
            secrets = [\"S\", 2]\nlimits = { memory = [], cpu = true }\nmemory = 5\n[objects]\n[policy]\n\
            [origin]\nurl = true\n[build]\ncommand = []\n";
        let mistakes = parse(text).unwrap_err();
        let lines: Vec<&str> = mistakes.lines().map(str::trim).collect();
        let expected = [
            "line 1: name is missing; write name = \"guestbook\"",
            "line 1: nane is not known here; known are name, zone, tenant, workers, objects, origin, build, policy",
            "line 2: zone is a number; it must be text or a list of texts",
            "line 3: tenant = \"Ada\" is no name: a name has 1 to 63 of a-z, 0-9 and -, and begins with a letter",
            "line 4: workers.Front is no name: a name has 1 to 63 of a-z, 0-9 and -, and begins with a letter",
            "line 4: workers.Front.component is missing; write component = \"target/wasm32-wasip2/release/front.wasm\"",
            "line 6: workers.Front.env.A is a number; it must be text",
            "line 7: workers.Front.secrets[1] is a number; it must be text",
            "line 8: workers.Front.limits.cpu is a truth value; it must be text or a number",
            "line 8: workers.Front.limits.memory is a list; it must be text or a number",
            "line 9: workers.Front.memory is not known here; known are component, routes, env, secrets, limits",
            "line 11: policy is not built yet: take it out for now",
            "line 13: origin.url is a truth value; it must be text",
            "line 15: build.command is a list; it must be text",
        ];
        assert_eq!(lines, expected, "{mistakes}");
    }

    #[test]
    fn smaller_mistakes_are_told_too() {
        let worker = "name = \"a\"\nzone = \"*\"\n[workers.w]\ncomponent = \"w\"\nroutes = [\"/*\"]\n";
        for (text, word) in [
            ("name = \"a\"\nzone = \"*\"".to_owned(), "answers nothing"),
            ("name = \"a\"\nzone = []".to_owned(), "line 2: zone is empty"),
            ("name = \"a\nzone".to_owned(), "line 1: "),
            (
                format!("{worker}env = {{ K = \"1\" }}\nsecrets = [\"K\"]"),
                "line 7: workers.w.secrets names K",
            ),
            (format!("{worker}limits = 5"), "workers.w.limits is a number; it must be a table"),
            ("workers = 5".to_owned(), "workers is a number; it must be a table"),
            ("objects = 5".to_owned(), "objects is a number; it must be a table"),
            ("name = \"a\"\nzone = \"*\"\nworkers.w = 5".to_owned(), "line 3: workers.w is a number"),
        ] {
            let mistakes = parse(&text).unwrap_err();
            assert!(mistakes.contains(word), "{mistakes}");
        }
    }

    #[test]
    fn a_component_is_a_project_of_one_worker() {
        let project = Project::open(Path::new("some/My Worker.wasm")).unwrap();
        assert_eq!((project.name.as_str(), &*project.hosts), ("my-worker", &["*".to_owned()][..]));
        assert_eq!(
            project.folder.join(&project.workers["my-worker"].component),
            Path::new("some/My Worker.wasm")
        );
        assert!(project.objects.is_empty());
        assert_eq!(name_like("9lives"), "w9lives");
        assert!((NAME.keeps)(&name_like("")) && (NAME.keeps)(&name_like("é")));
    }

    #[test]
    fn no_project_says_what_to_do() {
        let failure = Project::open(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(failure.contains("`berth new` makes a project"), "{failure}");
    }
}
