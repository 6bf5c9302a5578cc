//! Zones: whose hosts they are, which worker answers which path, and the versions that were deployed.
//!
//! A deployment is checked as a whole, written to disk, and then takes over with one store of a pointer: a request sees
//! the zones as they were or as they are, and keeps what it saw until it ends. The versions before are kept, so that going
//! back is a deployment of what is known already.

mod document;
mod object_hosts;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use berth_isolate_host::Limits;
use berth_isolate_host::library::{Entry, ScriptId};
use berth_protocol::object::Scope;
use serde::Serialize;

pub(crate) use document::BY_ID;
pub use document::{Document, Wrong, fuzz_logic, is_name};
pub use object_hosts::{HostedObject, ObjectHost};
pub use store::{StoreError, Version};

use crate::enforce::Who;
use crate::http::target::{Form, Host, Target};
use crate::outgoing::Destination;
use crate::router::{Explanation, Pattern, Router};
use document::{Checked, CheckedClass, OBJECT_NAME, Place};
use object_hosts::{Claim, ObjectHosts};
use store::{Record, Store};

/// Zones of a node.
const ZONES_MAX: usize = 10_000;

/// A zone as requests see it.
#[derive(Debug)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Who acts when it does.
    pub who: Who,
    /// Which deployment this is.
    pub version: u64,
    /// Where its own content comes from.
    pub origin: Option<Destination>,
    workers: Vec<Arc<Worker>>,
    classes: Vec<Arc<Class>>,
    routes: Router<Place>,
}

/// A class of objects as requests see it.
#[derive(Debug)]
pub struct Class {
    /// Its code, as that of a worker. Its name is that of the class.
    pub code: Arc<Worker>,
    /// Under which its objects are stored.
    pub scope: Scope,
    /// The version of what they store.
    pub version: u32,
    /// Bytes that each may store.
    pub storage: u64,
    /// How long they keep an answer for requests that repeat the key of its request.
    pub idempotency: Duration,
}

/// A worker as requests see it.
#[derive(Debug)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// Its script.
    pub script: ScriptId,
    /// What a request may cost.
    pub limits: Arc<Limits>,
    /// What its guests may read.
    pub variables: Vec<(String, String)>,
    /// What they may read by name.
    pub secrets: BTreeMap<String, String>,
    /// Its place in the library, once it was looked up.
    pub(crate) entry: OnceLock<Arc<Entry>>,
}

impl Class {
    /// Whether an instance of the other one does what one of this would.
    pub fn is_as(&self, other: &Self) -> bool {
        let all = |class: &Self| (class.scope, class.version, class.storage, class.code.script);
        all(self) == all(other)
            && self.code.limits == other.code.limits
            && self.code.variables == other.code.variables
            && self.code.secrets == other.code.secrets
    }
}

/// What answers a request to a zone.
#[derive(Debug, Clone)]
pub enum Handler {
    /// A worker of the zone.
    Worker(Arc<Worker>),
    /// The object of a class that has this name.
    Object(Arc<Class>, String),
    /// Its origin.
    Origin,
    /// Nothing.
    Nothing,
}

impl Zone {
    /// What answers this target.
    pub fn handler(&self, target: &Target) -> Handler {
        match self.routes.find(None, target) {
            Some(found) => match *found.value() {
                Place::Worker(index) => Handler::Worker(Arc::clone(&self.workers[index])),
                Place::Class(index) => {
                    let name = found.parameter(OBJECT_NAME).unwrap_or_default().to_owned();
                    Handler::Object(Arc::clone(&self.classes[index]), name)
                }
            },
            None if self.origin.is_some() => Handler::Origin,
            None => Handler::Nothing,
        }
    }

    /// The class of this name, in whatever case.
    pub fn class(&self, name: &str) -> Option<&Arc<Class>> {
        self.classes.iter().find(|class| class.code.name.eq_ignore_ascii_case(name))
    }

    /// Its classes.
    pub fn classes(&self) -> impl Iterator<Item = &Arc<Class>> {
        self.classes.iter()
    }

    /// Which of its workers' routes match this target, and why one wins.
    pub fn explain<'a>(&'a self, target: &'a Target) -> Explanation<'a> {
        self.routes.explain(None, target)
    }
}

/// All zones, by their hosts: what a request looks into.
#[derive(Debug)]
pub struct Hosts {
    router: Router<Arc<Zone>>,
    objects: ObjectHosts,
    named: BTreeMap<String, Arc<Zone>>,
}

impl Hosts {
    /// The zone that a host belongs to.
    pub fn find(&self, host: Option<&Host<'_>>, target: &Target) -> Option<Arc<Zone>> {
        self.router.find(host, target).map(|found| Arc::clone(found.value()))
    }

    /// The object that a host names.
    pub fn object(&self, host: &Host<'_>) -> Option<HostedObject> {
        self.objects.find(host.as_str())
    }

    /// The object that answers this target, since the host names it: it has all paths.
    pub fn object_for(&self, host: Option<&Host<'_>>, target: &Target) -> Option<HostedObject> {
        if target.form() == Form::Asterisk { None } else { self.object(host?) }
    }

    /// Whether any host names an object.
    pub fn has_objects(&self) -> bool {
        !self.objects.is_empty()
    }

    /// Which zones' hosts match a host, and why one wins.
    pub fn explain<'a>(&'a self, host: Option<&Host<'_>>, target: &'a Target) -> Explanation<'a> {
        self.router.explain(host, target)
    }

    /// All classes, in the order of their zones' names and their own.
    pub fn classes(&self) -> impl Iterator<Item = (&Arc<Zone>, &Arc<Class>)> {
        self.named.values().flat_map(|zone| zone.classes.iter().map(move |class| (zone, class)))
    }

    /// The class whose objects are stored under this scope, and its zone.
    pub fn class(&self, scope: &Scope) -> Option<(Arc<Zone>, Arc<Class>)> {
        let mut found = self.classes().filter(|(_, class)| class.scope == *scope);
        found.next().map(|(zone, class)| (Arc::clone(zone), Arc::clone(class)))
    }

    /// The zone of this name.
    pub fn named(&self, name: &str) -> Option<Arc<Zone>> {
        self.named.get(name).cloned()
    }
}

/// Why a deployment is refused.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// Something in it is wrong.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// There is no such zone, or version.
    #[error("{0}")]
    Unknown(String),
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node has no objects to serve.
    #[error(transparent)]
    Objects(#[from] crate::objects::ObjectsError),
}

impl DeployError {
    /// There is no zone of this name.
    pub(crate) fn no_zone(name: &str) -> Self {
        Self::Unknown(format!("there is no zone {name}; `berth zones list` shows those of this node"))
    }
}

/// A zone in a list.
#[derive(Debug, Serialize)]
pub struct Summary {
    name: String,
    version: u64,
    hosts: Vec<String>,
    workers: usize,
}

/// A zone with its versions.
#[derive(Debug, Serialize)]
pub struct Shown {
    name: String,
    version: u64,
    document: Document,
    versions: Vec<VersionShown>,
}

#[derive(Debug, Serialize)]
struct VersionShown {
    version: u64,
    deployed_s: u64,
}

/// A route in a list.
#[derive(Debug, Serialize)]
pub struct RouteShown {
    host: String,
    path: String,
    zone: String,
    worker: Option<String>,
}

/// The zones of a node.
pub struct Zones {
    hosts: ArcSwap<Hosts>,
    kept: Mutex<Kept>,
}

struct Kept {
    store: Store,
    records: BTreeMap<String, Record>,
}

/// Whether a script is here.
type Scripts<'a> = &'a dyn Fn(ScriptId) -> bool;

impl Zones {
    /// The zones that are kept in this folder.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let store = Store::open(folder)?;
        let records = store.read_all()?;
        let zones = build(&records).map_err(|wrong| StoreError::Kept { reason: wrong.to_string() })?;
        Ok(Self { hosts: ArcSwap::from_pointee(zones), kept: Mutex::new(Kept { store, records }) })
    }

    /// What requests look into.
    pub fn hosts(&self) -> arc_swap::Guard<Arc<Hosts>> {
        self.hosts.load()
    }

    /// Whether any zone has objects.
    pub fn has_classes(&self) -> bool {
        self.hosts.load().named.values().any(|zone| !zone.classes.is_empty())
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.lock().records.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deploys a zone: from its return on, new requests see it.
    pub fn deploy(
        &self,
        name: &str,
        document: Document,
        scripts: Scripts<'_>,
        now_s: u64,
    ) -> Result<u64, DeployError> {
        if !is_name(name) {
            return Err(Wrong(vec![format!(
                "{name}: a zone's name is 1 to 63 of a-z, 0-9 and -, beginning with a letter"
            )])
            .into());
        }
        let checked = document.check()?;
        let workers = checked.workers.iter().map(|worker| ("workers", worker));
        let classes = checked.classes.iter().map(|class| ("objects", &class.code));
        let missing = workers.chain(classes).filter(|(_, code)| !scripts(code.script));
        let missing: Vec<String> = missing
            .map(|(kind, code)| {
                format!("{kind}.{}.script: {} is not here; upload it first", code.name, code.script)
            })
            .collect();
        if !missing.is_empty() {
            return Err(Wrong(missing).into());
        }
        let mut kept = self.lock();
        let mut record = kept.records.get(name).cloned().unwrap_or_default();
        let version = record.add(document, now_s);
        self.replace(&mut kept, name, Some(&record))?;
        Ok(version)
    }

    /// Makes a version that was deployed before the one that answers; without a number, the one before.
    pub fn roll_back(&self, name: &str, to: Option<u64>) -> Result<u64, DeployError> {
        let mut kept = self.lock();
        let mut record = kept.records.get(name).cloned().ok_or_else(|| DeployError::no_zone(name))?;
        let version = record.roll_back(to).map_err(DeployError::Unknown)?;
        self.replace(&mut kept, name, Some(&record))?;
        Ok(version)
    }

    /// Forgets a zone.
    pub fn remove(&self, name: &str) -> Result<(), DeployError> {
        let mut kept = self.lock();
        if !kept.records.contains_key(name) {
            return Err(DeployError::no_zone(name));
        }
        self.replace(&mut kept, name, None)
    }

    /// Writes what changed, then shows it to requests. What cannot be written changes nothing.
    fn replace(&self, kept: &mut Kept, name: &str, record: Option<&Record>) -> Result<(), DeployError> {
        let mut records = kept.records.clone();
        match record {
            Some(record) => drop(records.insert(name.to_owned(), record.clone())),
            None => drop(records.remove(name)),
        }
        let hosts = build(&records)?;
        match record {
            Some(record) => kept.store.write(name, record)?,
            None => kept.store.remove(name)?,
        }
        kept.records = records;
        self.hosts.store(Arc::new(hosts));
        Ok(())
    }

    /// All zones.
    pub fn list(&self) -> Vec<Summary> {
        let kept = self.lock();
        let summary = |(name, record): (&String, &Record)| {
            let current = record.current()?;
            let document = &current.document;
            Some(Summary {
                name: name.clone(),
                version: current.version,
                hosts: document.hosts.clone(),
                workers: document.workers.len(),
            })
        };
        kept.records.iter().filter_map(summary).collect()
    }

    /// One zone, without its secrets.
    pub fn show(&self, name: &str) -> Option<Shown> {
        let kept = self.lock();
        let record = kept.records.get(name)?;
        let current = record.current()?;
        let versions = record.versions();
        Some(Shown {
            name: name.to_owned(),
            version: current.version,
            document: current.document.without_secrets(),
            versions: versions
                .iter()
                .map(|one| VersionShown { version: one.version, deployed_s: one.deployed_s })
                .collect(),
        })
    }

    /// All routes.
    pub fn routes(&self) -> Vec<RouteShown> {
        let kept = self.lock();
        let mut routes = Vec::new();
        for (zone, record) in &kept.records {
            let Some(document) = record.current().map(|current| &current.document) else { continue };
            for (name, class) in &document.objects {
                routes.extend(class.hosts.iter().map(|host| RouteShown {
                    host: host.clone(),
                    path: "/*".to_owned(),
                    zone: zone.clone(),
                    worker: Some(name.clone()),
                }));
            }
            for host in &document.hosts {
                let route = |path: &str, worker: Option<&String>| RouteShown {
                    host: host.clone(),
                    path: path.to_owned(),
                    zone: zone.clone(),
                    worker: worker.cloned(),
                };
                for (name, worker) in &document.workers {
                    routes.extend(worker.routes.iter().map(|path| route(path, Some(name))));
                }
                for (name, class) in &document.objects {
                    routes.extend(class.routes.iter().map(|path| route(path, Some(name))));
                }
                if document.origin.is_some() {
                    routes.push(route("/*", None));
                }
            }
        }
        routes
    }

    /// The zones whose versions name each script.
    pub fn users(&self) -> HashMap<String, Vec<String>> {
        let mut users: HashMap<String, Vec<String>> = HashMap::new();
        for (zone, record) in &self.lock().records {
            for version in record.versions() {
                let workers = version.document.workers.values().map(|worker| &worker.script);
                for script in workers.chain(version.document.objects.values().map(|class| &class.script)) {
                    let zones = users.entry(script.clone()).or_default();
                    if !zones.contains(zone) {
                        zones.push(zone.clone());
                    }
                }
            }
        }
        users
    }

    /// The origin of each zone that has one.
    pub fn origins(&self) -> BTreeMap<Arc<str>, Destination> {
        let hosts = self.hosts.load();
        let zones = hosts.named.values();
        zones.filter_map(|zone| Some((Arc::clone(&zone.who.zone), zone.origin.clone()?))).collect()
    }
}

fn build(records: &BTreeMap<String, Record>) -> Result<Hosts, Wrong> {
    if records.len() > ZONES_MAX {
        return Err(Wrong(vec![format!("a node has at most {ZONES_MAX} zones")]));
    }
    let mut wrong = Wrong::default();
    let mut named = BTreeMap::new();
    let mut hosts: Vec<(Pattern, Arc<Zone>)> = Vec::new();
    let mut claims = Vec::new();
    for (name, record) in records {
        let Some(current) = record.current() else { continue };
        match current.document.check() {
            Ok(checked) => {
                let (patterns, of_objects, zone) = make(name, current.version, checked);
                claims.extend(of_objects);
                named.insert(name.clone(), Arc::clone(&zone));
                hosts.extend(patterns.into_iter().map(|pattern| (pattern, Arc::clone(&zone))));
            }
            Err(more) => wrong.0.extend(more.0.into_iter().map(|text| format!("zone {name}: {text}"))),
        }
    }
    let objects = ObjectHosts::new(claims, &hosts).unwrap_or_else(|more| {
        wrong.0.extend(more.0);
        ObjectHosts::default()
    });
    match Router::new(hosts) {
        Ok(router) if wrong.0.is_empty() => Ok(Hosts { router, objects, named }),
        Ok(_) => Err(wrong),
        Err(errors) => {
            // The router speaks of routes; here they are the hosts of zones.
            wrong.0.extend(errors.iter().map(|error| format!("a host belongs to one zone: {error}")));
            Err(wrong)
        }
    }
}

fn make(name: &str, version: u64, checked: Checked) -> (Vec<Pattern>, Vec<Claim>, Arc<Zone>) {
    let code = |code: document::CheckedWorker| {
        Arc::new(Worker {
            name: code.name,
            script: code.script,
            limits: Arc::new(code.limits),
            variables: code.variables,
            secrets: code.secrets,
            entry: OnceLock::new(),
        })
    };
    let (mut classes, mut hosts) = (Vec::new(), Vec::new());
    for class in checked.classes {
        let scope = Scope::new(name, &class.code.name);
        let CheckedClass { code: checked, version, storage, idempotency, hosts: claimed } = class;
        let made = Arc::new(Class { code: code(checked), scope, version, storage, idempotency });
        hosts.extend(claimed.into_iter().map(|host| (host, Arc::clone(&made))));
        classes.push(made);
    }
    let zone = Zone {
        name: name.to_owned(),
        who: Who { zone: name.into(), tenant: checked.tenant.into() },
        version,
        origin: checked.origin,
        workers: checked.workers.into_iter().map(code).collect(),
        classes,
        routes: checked.routes,
    };
    let zone = Arc::new(zone);
    let claims = hosts.into_iter().map(|(host, class)| (host, Arc::clone(&zone), class)).collect();
    (checked.hosts, claims, zone)
}
