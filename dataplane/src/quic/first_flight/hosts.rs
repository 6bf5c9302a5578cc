//! Which core a connection belongs to, by the host name that its client asks for.
//!
//! The rules of the configuration stand in `quic.hosts`: a table of them is [`Hosts`]. A name is matched as the host of a
//! request is: the table is a [`Router`] of hosts alone, so that the two can never differ. The hosts of objects come with
//! classes, and their cores change as objects move: [`Homes`] is asked anew for each connection. [`Rules`] is both.
//!
//! Invariant: every core that a rule names exists.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::HostRule;
use crate::http::target::{Host, Target};
use crate::router::{Pattern, PatternError, Router, RouterError};

/// The rules of a node.
pub struct Hosts {
    table: Router<u16>,
    /// Patterns have a path too; all of these have this one.
    root: Target,
}

/// Why rules cannot be used. Numbers count from 1, in the order of the file.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A pattern cannot be read.
    #[error("quic.hosts[{number}]: {source}")]
    Pattern {
        /// Which rule.
        number: usize,
        /// What is wrong with it.
        source: PatternError,
    },
    /// Two rules are for the same hosts.
    #[error("quic.hosts[{second}]: {host} stands in quic.hosts[{first}] too; a host has one core")]
    Twice {
        /// The first rule.
        first: usize,
        /// The second one.
        second: usize,
        /// What both say.
        host: String,
    },
    /// A rule names a core that the node does not have.
    #[error("quic.hosts[{number}].core = {core}: this node has the cores 0 to {last}; name one of them")]
    Core {
        /// Which rule.
        number: usize,
        /// The core that it names.
        core: u16,
        /// The last core of the node.
        last: usize,
    },
    /// The table cannot be built.
    #[error("quic.hosts: {0}")]
    Table(RouterError),
}

impl Hosts {
    /// The table for a node of `cores` cores, nothing if there are no rules, or all that is wrong with them.
    pub fn new(rules: &[HostRule], cores: usize) -> Result<Option<Self>, Vec<HostsError>> {
        if rules.is_empty() {
            return Ok(None);
        }
        let (mut errors, mut entries, mut seen) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (number, rule) in (1..).zip(rules) {
            if usize::from(rule.core) >= cores {
                errors.push(HostsError::Core { number, core: rule.core, last: cores.saturating_sub(1) });
            }
            match Pattern::parse(&rule.host, ROOT) {
                Err(source) => errors.push(HostsError::Pattern { number, source }),
                Ok(pattern) => match seen.insert(pattern.host().to_string(), number) {
                    Some(first) => {
                        let host = pattern.host().to_string();
                        errors.push(HostsError::Twice { first, second: number, host });
                    }
                    None => entries.push((pattern, rule.core)),
                },
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let table = Router::new(entries)
            .map_err(|errors| errors.into_iter().map(HostsError::Table).collect::<Vec<_>>())?;
        let root = Target::parse(Bytes::from_static(ROOT.as_bytes())).expect("a slash is a path");
        Ok(Some(Self { table, root }))
    }

    /// The core of the host of this name, if a rule says so. Who asks for no host belongs to `*`.
    pub(super) fn core(&self, name: Option<&str>) -> Option<u16> {
        let host = match name {
            Some(name) => Some(Host::parse(name.as_bytes()).ok()?),
            None => None,
        };
        self.table.find(host.as_ref(), &self.root).map(|found| *found.value())
    }
}

const ROOT: &str = "/";

/// Who knows where objects live that have hosts. All cores ask, so that it answers without a lock, and what is so now.
pub trait Homes: Send + Sync {
    /// Whether any host may name an object.
    fn any(&self) -> bool;
    /// The core of the object that a host names, if it lives.
    fn core(&self, host: &Host<'_>) -> Option<u16>;
}

/// All that gives connections a core.
pub struct Rules {
    hosts: Option<Hosts>,
    homes: Arc<dyn Homes>,
}

impl Rules {
    /// What the configuration says, and where objects live.
    pub fn new(hosts: Option<Hosts>, homes: Arc<dyn Homes>) -> Self {
        Self { hosts, homes }
    }

    /// Whether there is any rule. Without one no first flight is read.
    pub(in crate::quic) fn any(&self) -> bool {
        self.hosts.is_some() || self.homes.any()
    }

    /// The core of the host of this name. An object that lives knows better than the configuration.
    pub(super) fn core(&self, name: Option<&str>) -> Option<u16> {
        let of_object = || self.homes.core(&Host::parse(name?.as_bytes()).ok()?);
        of_object().or_else(|| self.hosts.as_ref()?.core(name))
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Rules").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// Where no object has a host.
pub(in crate::quic) struct NoHomes;

impl Homes for NoHomes {
    fn any(&self) -> bool {
        false
    }

    fn core(&self, _host: &Host<'_>) -> Option<u16> {
        None
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Hosts").field("rules", &self.table.routes().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: &str, core: u16) -> HostRule {
        HostRule { host: host.to_owned(), core }
    }

    #[test]
    fn a_name_belongs_to_the_core_of_the_best_rule() {
        let rules = [rule("one.example", 1), rule("*.example", 2), rule("*.deep.example", 3)];
        let hosts = Hosts::new(&rules, 4).unwrap().unwrap();
        for (name, core) in [
            (Some("one.example"), Some(1)),
            (Some("ONE.example."), Some(1)),
            (Some("two.example"), Some(2)),
            (Some("very.deep.example"), Some(3)),
            (Some("example"), None),
            (Some("other.test"), None),
            (Some("not a name"), None),
            (None, None),
        ] {
            assert_eq!(hosts.core(name), core, "{name:?}");
        }
        let all = Hosts::new(&[rule("*", 1)], 2).unwrap().unwrap();
        assert_eq!((all.core(None), all.core(Some("any.test"))), (Some(1), Some(1)));
    }

    /// One object lives.
    struct Object(&'static str, u16);

    impl Homes for Object {
        fn any(&self) -> bool {
            true
        }

        fn core(&self, host: &Host<'_>) -> Option<u16> {
            (host.as_str() == self.0).then_some(self.1)
        }
    }

    #[test]
    fn an_object_that_lives_comes_before_the_configuration() {
        let hosts = || Hosts::new(&[rule("*.example", 2)], 4).unwrap();
        let rules = Rules::new(hosts(), Arc::new(Object("ada.example", 3)));
        assert!(rules.any());
        for (name, core) in [
            (Some("ada.example"), Some(3)),
            (Some("ADA.Example."), Some(3)),
            (Some("bob.example"), Some(2)),
            (Some("other.test"), None),
            (Some("not a name"), None),
            (None, None),
        ] {
            assert_eq!(rules.core(name), core, "{name:?}");
        }
        let rules = Rules::new(None, Arc::new(Object("ada.example", 3)));
        assert_eq!((rules.any(), rules.core(Some("ada.example"))), (true, Some(3)));
        assert!(Rules::new(hosts(), Arc::new(NoHomes)).any());
        assert!(!Rules::new(None, Arc::new(NoHomes)).any());
    }

    #[test]
    fn without_rules_there_is_no_table() {
        assert!(Hosts::new(&[], 1).unwrap().is_none());
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let rules =
            [rule("one.example", 2), rule("a.*.b", 0), rule("two.example", 1), rule("Two.Example.", 0)];
        let told: Vec<String> = Hosts::new(&rules, 2).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[0], "quic.hosts[1].core = 2: this node has the cores 0 to 1; name one of them");
        assert!(told[1].starts_with("quic.hosts[2]: the pattern \"a.*.b\" cannot be used"), "{told:?}");
        let twice = "quic.hosts[4]: two.example stands in quic.hosts[3] too; a host has one core";
        assert_eq!(told[2], twice);
    }
}
