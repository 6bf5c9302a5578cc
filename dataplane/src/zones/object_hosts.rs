//! Hosts of objects: names whose first label is the name of an object.
//!
//! A class claims them by a pattern such as `:name.counters.example`: `ada.counters.example` is then the object `ada`, with
//! all of its paths. They are hosts of the class's zone, as if `*.counters.example` stood among them, but for names with
//! more labels, which they are not. So the same things hold as between zones: an exact host of any zone comes first, and
//! what two would have alike is refused when the second one is deployed.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::document::Wrong;
use super::{Class, Zone};
use crate::router::{HostPattern, Pattern, ROUTES_MAX};

/// The first label of a pattern.
const NAME: &str = ":name.";

/// A pattern of hosts of objects: what follows the name, in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHost(Box<str>);

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a host of objects: write :name, which stands for one whole label and the object's name, a dot, and \
     the rest of the host as it is, for example \":name.counters.example\""
)]
pub struct ObjectHostError(String);

impl ObjectHost {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, ObjectHostError> {
        let refuse = || ObjectHostError(text.to_owned());
        let rest = text.strip_prefix(NAME).ok_or_else(refuse)?;
        let pattern = Pattern::parse(&format!("*.{rest}"), "/*").map_err(|_| refuse())?;
        match pattern.host() {
            HostPattern::Suffix(rest) => Ok(Self(rest.clone())),
            HostPattern::Exact(_) | HostPattern::Any => Err(refuse()),
        }
    }
}

impl std::fmt::Display for ObjectHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{NAME}{}", self.0)
    }
}

/// An object by its host.
#[derive(Debug, Clone)]
pub struct HostedObject {
    /// The zone of its class.
    pub zone: Arc<Zone>,
    /// Its class.
    pub class: Arc<Class>,
    /// Its name.
    pub name: String,
    /// The pattern that the host has matched.
    pub pattern: ObjectHost,
}

/// Who has hosts: a class, and its zone.
type Owner = (Arc<Zone>, Arc<Class>);

/// A class that claims a pattern.
pub(super) type Claim = (ObjectHost, Arc<Zone>, Arc<Class>);

/// All hosts of objects of a node.
#[derive(Debug, Default)]
pub(super) struct ObjectHosts {
    /// By what follows the name.
    claimed: HashMap<Box<str>, Owner>,
    /// Hosts that zones have by their whole name.
    exact: HashSet<Box<str>>,
}

impl ObjectHosts {
    /// The table, beside the hosts that zones have by themselves.
    pub(super) fn new(claims: Vec<Claim>, hosts: &[(Pattern, Arc<Zone>)]) -> Result<Self, Wrong> {
        let mut wrong = Wrong::default();
        if claims.len() > ROUTES_MAX {
            wrong.0.push(format!("a node has at most {ROUTES_MAX} patterns of hosts of objects"));
        }
        let mut table = Self::default();
        for (host, zone, class) in claims {
            let place = format!("zone {}: objects.{}.hosts: {host}", zone.name, class.code.name);
            match table.claimed.entry(host.0) {
                Entry::Vacant(free) => drop(free.insert((zone, class))),
                Entry::Occupied(taken) => {
                    let (zone, class) = taken.get();
                    wrong.0.push(format!(
                        "{place}: class {} of zone {} has these hosts already; a host belongs to one class",
                        class.code.name, zone.name
                    ));
                }
            }
        }
        for (pattern, other) in hosts {
            match pattern.host() {
                HostPattern::Any => {}
                HostPattern::Exact(host) => {
                    if table.claim_of(host).is_some() {
                        table.exact.insert(host.clone());
                    }
                }
                // The zone of the class may have both: the class then has the names of one label more.
                HostPattern::Suffix(rest) => match table.claimed.get(rest) {
                    Some((zone, class)) if !Arc::ptr_eq(zone, other) => wrong.0.push(format!(
                        "zone {}: objects.{}.hosts: {NAME}{rest}: zone {} has these hosts by *.{rest}; a host belongs to \
                         one zone",
                        zone.name, class.code.name, other.name
                    )),
                    _ => {}
                },
            }
        }
        if wrong.0.is_empty() { Ok(table) } else { Err(wrong) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.claimed.is_empty()
    }

    /// The object that a host in normal form names.
    pub(super) fn find(&self, host: &str) -> Option<HostedObject> {
        let (name, rest, (zone, class)) = self.claim_of(host)?;
        if self.exact.contains(host) {
            return None;
        }
        let (zone, class, pattern) = (Arc::clone(zone), Arc::clone(class), ObjectHost(rest.into()));
        Some(HostedObject { zone, class, name: name.to_owned(), pattern })
    }

    fn claim_of<'h>(&self, host: &'h str) -> Option<(&'h str, &'h str, &Owner)> {
        let (name, rest) = host.split_once('.')?;
        Some((name, rest, self.claimed.get(rest)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Document, Zones};
    use super::*;
    use crate::http::target::{Host, Target};

    #[test]
    fn a_pattern_is_a_name_and_the_rest_of_a_host() {
        for (text, shown) in [
            (":name.counters.example", ":name.counters.example"),
            (":name.Counters.EXAMPLE.", ":name.counters.example"),
            (":name.localhost", ":name.localhost"),
        ] {
            assert_eq!(ObjectHost::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "counters.example",
            "*.counters.example",
            ":name",
            ":name.",
            ":id.counters.example",
            "a.:name.counters.example",
            "a-:name.counters.example",
            ":name.:name.example",
            ":name.*.example",
            ":name.*",
            ":name.counters.example:443",
            ":name.counters..example",
            ":name.a b",
            ":name.2.3.4",
            ":name.[::1]",
        ] {
            let said = ObjectHost::parse(text).expect_err(text).to_string();
            assert!(said.contains("for example"), "{said}");
        }
    }

    /// Zones with their documents, deployed one after the other.
    struct Site(Zones, std::path::PathBuf);

    impl Site {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("berth-{name}-{}", std::process::id()));
            Self(Zones::open(&folder).unwrap(), folder)
        }

        fn deploy(&self, zone: &str, hosts: &[&str], classes: &[(&str, &[&str])]) -> Result<u64, String> {
            let classes: serde_json::Map<_, _> = classes
                .iter()
                .map(|(name, hosts)| {
                    let class = serde_json::json!({"script": "ab".repeat(32), "hosts": hosts});
                    ((*name).to_owned(), class)
                })
                .collect();
            let document = serde_json::json!({"hosts": hosts, "objects": classes}).to_string();
            let document = Document::parse(document.as_bytes()).unwrap();
            self.0.deploy(zone, document, &|_| true, 1).map_err(|error| error.to_string())
        }

        /// Class and name of the object.
        fn object(&self, host: &str) -> Option<(String, String)> {
            let host = Host::parse(host.as_bytes()).unwrap();
            let found = self.0.hosts().object(&host)?;
            Some((found.class.code.name.clone(), found.name))
        }
    }

    impl Drop for Site {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.1);
        }
    }

    #[test]
    fn the_first_label_names_the_object_unless_a_zone_has_the_whole_host() {
        let site = Site::new("object-hosts-find");
        assert!(!site.0.hosts().has_objects());
        let classes: &[(&str, &[&str])] = &[
            ("Counter", &[":name.counters.example", ":name.c.example"]),
            ("Room", &[":name.rooms.example"]),
        ];
        site.deploy("app", &["app.example", "*.rooms.example"], classes).unwrap();
        assert!(site.0.hosts().has_objects());
        let counter = |name: &str| Some(("Counter".to_owned(), name.to_owned()));
        assert_eq!(site.object("ada.counters.example"), counter("ada"));
        assert_eq!(site.object("ADA.Counters.Example.:8443"), counter("ada"));
        assert_eq!(site.object("ada.c.example"), counter("ada"));
        assert_eq!(site.object("a.rooms.example"), Some(("Room".to_owned(), "a".to_owned())));
        for host in ["counters.example", "a.b.counters.example", "app.example", "example", "1.2.3.4", "[::1]"]
        {
            assert_eq!(site.object(host), None, "{host}");
        }
        let host = Host::parse(b"ada.counters.example").unwrap();
        let named = |host, target: &'static str| {
            let target = Target::parse(target.into()).unwrap();
            site.0.hosts().object_for(host, &target).is_some()
        };
        assert!(named(Some(&host), "/") && named(Some(&host), "/any/path?q"));
        assert!(!named(Some(&host), "*") && !named(None, "/"));
        site.deploy("other", &["ada.counters.example", "*.example", "*"], &[]).unwrap();
        assert_eq!(site.object("ada.counters.example"), None, "the exact host is the other zone's");
        assert_eq!(
            site.object("bob.counters.example"),
            counter("bob"),
            "the wildcard is less than the claim"
        );
        site.0.remove("other").unwrap();
        assert_eq!(site.object("ada.counters.example"), counter("ada"));
        site.deploy("app", &["app.example"], &[]).unwrap();
        assert!(!site.0.hosts().has_objects());
    }

    #[test]
    fn more_patterns_than_there_may_be_are_refused() {
        let site = Site::new("object-hosts-bound");
        let hosts: Vec<String> = (0..=100).map(|number| format!(":name.h{number}.example")).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        assert_eq!(site.deploy("app", &["app.example"], &[("A", &hosts[1..])]), Ok(1));
        let said = site.deploy("app", &["app.example"], &[("A", &hosts)]).unwrap_err();
        assert!(said.contains("objects.A.hosts: at most 100"), "{said}");

        let hosts = site.0.hosts();
        let (zone, class) = hosts.classes().next().unwrap();
        let claims = |count: usize| -> Vec<Claim> {
            let claim =
                |number| (ObjectHost(format!("h{number}").into()), Arc::clone(zone), Arc::clone(class));
            (0..count).map(claim).collect()
        };
        assert!(ObjectHosts::new(claims(ROUTES_MAX), &[]).is_ok());
        let said = ObjectHosts::new(claims(ROUTES_MAX + 1), &[]).unwrap_err().to_string();
        assert!(said.contains("at most 10000"), "{said}");
    }

    #[test]
    fn hosts_that_somebody_has_are_refused_to_others() {
        let site = Site::new("object-hosts-conflict");
        site.deploy("first", &["first.example"], &[("A", &[":name.a.example"])]).unwrap();
        site.deploy("suffix", &["*.taken.example"], &[]).unwrap();
        for (hosts, classes, words) in [
            (&["b.example"][..], &[("B", &[":name.A.example"][..])][..], "class A of zone first has these"),
            (
                &["b.example"],
                &[("B", &[":name.taken.example"])],
                "zone suffix has these hosts by *.taken.example",
            ),
            (&["*.a.example"], &[], "zone second has these hosts by *.a.example"),
            (
                &["b.example"],
                &[("B", &[":name.b.example"]), ("C", &[":name.b.example"])],
                "class B of zone second has these",
            ),
        ] {
            let said = site.deploy("second", hosts, classes).unwrap_err();
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(site.object("x.a.example"), Some(("A".to_owned(), "x".to_owned())), "nothing has changed");
    }
}
