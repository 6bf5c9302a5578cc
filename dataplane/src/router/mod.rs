//! Which route a request goes to: a table of patterns, built once from the configuration and never changed; a new
//! configuration builds a new table.
//!
//! A route matches if its host pattern and its path pattern do. Among those that match, the most specific one wins,
//! and the order in which routes are written never matters:
//! 1. by host: an exact host, then `*.suffix` with the longest suffix first, then `*`;
//! 2. by path, at the first segment where two patterns differ in kind: a literal, then a parameter, then a wildcard.
//!    A pattern with more segments before its wildcard thereby comes first.
//!
//! Two routes of one shape (equal but for the names of parameters) are an error, so that this order is total.
//!
//! Invariants:
//! - [`Router::find`] returns what trying every route and sorting by the order above returns (tested against that);
//! - it takes at most [`Router::steps_max`] steps, a number known when the table is built, and allocates nothing;
//! - only the normal forms of host and path are looked at.
//!
//! Left to others: what a route does (`T`); choosing the zone. A host falls through to less specific host patterns
//! when none of its own paths match, so one table must hold the routes of one owner only.
//! `docs/ROUTING.md` tells all of this to users.

mod explain;
mod pattern;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use crate::http::target::{Form, Host, Target};

pub use explain::{Explanation, Lost, LostBecause, Step, Won};
pub use pattern::{
    HostPattern, PATTERN_BYTES_MAX, PATTERN_PARAMETERS_MAX, PATTERN_SEGMENTS_MAX, PathPattern, Pattern,
    PatternError, PatternProblem, PatternSegment, Tail,
};
use tree::{RouteIndex, Tree};

/// Routes of one table. A table is rebuilt as a whole on each change, on the thread that serves the control link: at
/// this number that stays in the tens of milliseconds, and some 10 MiB.
pub const ROUTES_MAX: usize = 10_000;
/// Steps of one look-up. Only tables that offer a literal and a parameter at many levels come near: nine levels of
/// nothing but such pairs. A table without parameters takes one step per segment and host pattern. A step was measured
/// at 7 ns, so that the dearest look-up costs about as much as the system calls of one small request.
pub const STEPS_MAX: usize = 1024;

/// An immutable table of routes, each with a value.
#[derive(Debug)]
pub struct Router<T> {
    routes: Vec<Route<T>>,
    hosts: Hosts,
    steps_max: usize,
}

#[derive(Debug)]
struct Route<T> {
    pattern: Pattern,
    value: T,
}

/// The trees, by the three kinds of host patterns.
#[derive(Debug, Default)]
struct Hosts {
    exact: BTreeMap<Box<str>, Tree>,
    suffix: BTreeMap<Box<str>, Tree>,
    any: Option<Tree>,
}

/// A route that a request goes to, and what its pattern captured.
#[derive(Debug)]
pub struct Match<'a, T> {
    route: &'a Route<T>,
    target: &'a Target,
}

/// A table that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouterError {
    /// More than [`ROUTES_MAX`].
    #[error(
        "there are {count} routes, at most {ROUTES_MAX} are allowed; let wildcards or parameters cover several"
    )]
    TooManyRoutes {
        /// Their number.
        count: usize,
    },
    /// Two routes match the same requests.
    #[error(
        "route {second} ({second_pattern}) matches the same requests as route {first} ({first_pattern}); \
         remove one of them"
    )]
    SameShape {
        /// The number of the first route, counted from 1 in the order given.
        first: usize,
        /// Its pattern.
        first_pattern: Pattern,
        /// The number of the second route.
        second: usize,
        /// Its pattern.
        second_pattern: Pattern,
    },
    /// More than [`STEPS_MAX`].
    #[error(
        "a request to host {host} could take {steps} steps to route, at most {STEPS_MAX} are allowed; \
         have fewer levels at which both a literal and a parameter are possible"
    )]
    TooManySteps {
        /// The host pattern whose requests are dearest.
        host: HostPattern,
        /// Their steps.
        steps: usize,
    },
}

impl<T> Router<T> {
    /// Builds the table, or reports all that is wrong with it.
    pub fn new(routes: impl IntoIterator<Item = (Pattern, T)>) -> Result<Self, Vec<RouterError>> {
        let routes: Vec<Route<T>> =
            routes.into_iter().map(|(pattern, value)| Route { pattern, value }).collect();
        if routes.len() > ROUTES_MAX {
            return Err(vec![RouterError::TooManyRoutes { count: routes.len() }]);
        }
        let mut hosts = Hosts::default();
        let mut errors = Vec::new();
        for (index, Route { pattern, .. }) in routes.iter().enumerate() {
            if let Err(first) = hosts.tree_of(pattern.host()).insert(pattern.path(), index) {
                errors.push(RouterError::SameShape {
                    first: first + 1,
                    first_pattern: routes[first].pattern.clone(),
                    second: index + 1,
                    second_pattern: pattern.clone(),
                });
            }
        }
        let (steps_max, host) = hosts.steps_max();
        if steps_max > STEPS_MAX {
            errors.push(RouterError::TooManySteps { host, steps: steps_max });
        }
        if errors.is_empty() { Ok(Self { routes, hosts, steps_max }) } else { Err(errors) }
    }

    /// The best route for a request. A request without a host (HTTP/1.0) matches host `*` only; a target in asterisk
    /// form matches nothing.
    pub fn find<'a>(&'a self, host: Option<&Host<'_>>, target: &'a Target) -> Option<Match<'a, T>> {
        let found = self.walk(host, target, &mut 0, &mut ControlFlow::Break);
        let index = found.break_value()?;
        Some(Match { route: &self.routes[index], target })
    }

    /// Which route a request would go to, which others match, and why they lose.
    pub fn explain<'a>(&'a self, host: Option<&Host<'_>>, target: &'a Target) -> Explanation<'a> {
        let (mut found, mut steps) = (Vec::new(), 0);
        let _: ControlFlow<()> = self.walk(host, target, &mut 0, &mut |index| {
            found.push(&self.routes[index]);
            ControlFlow::Continue(())
        });
        let _ = self.walk(host, target, &mut steps, &mut ControlFlow::Break);
        let won = found.first().map(|&route| {
            let matched = Match { route, target };
            Won { pattern: &route.pattern, parameters: matched.parameters().collect(), rest: matched.rest() }
        });
        let lost = found.iter().skip(1).map(|loser| Lost {
            pattern: &loser.pattern,
            because: LostBecause::compare(&found[0].pattern, &loser.pattern),
        });
        Explanation {
            host: host.map(ToString::to_string),
            path: target.normal_path(),
            hosts: self.hosts_of(host),
            lost: lost.collect(),
            won,
            steps,
            steps_max: self.steps_max,
        }
    }

    /// All routes, in the order in which they were given.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = (&Pattern, &T)> {
        self.routes.iter().map(|route| (&route.pattern, &route.value))
    }

    /// The most steps that a request can take, whatever its host and path.
    pub fn steps_max(&self) -> usize {
        self.steps_max
    }

    fn walk<B>(
        &self,
        host: Option<&Host<'_>>,
        target: &Target,
        steps: &mut usize,
        visit: &mut impl FnMut(RouteIndex) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if target.form() == Form::Asterisk {
            return ControlFlow::Continue(());
        }
        let segments = target.segments();
        self.hosts.trees(host.map(Host::as_str)).try_for_each(|tree| tree.walk(&segments, steps, visit))
    }

    /// The host patterns whose trees a request walks, best first. Slow, and only for people.
    fn hosts_of(&self, host: Option<&Host<'_>>) -> Vec<&HostPattern> {
        let mut hosts: Vec<&HostPattern> = Vec::new();
        for tree in self.hosts.trees(host.map(Host::as_str)) {
            let index = tree.any_route().expect("a tree is made for a route");
            hosts.push(self.routes[index].pattern.host());
        }
        hosts
    }
}

impl Hosts {
    fn tree_of(&mut self, host: &HostPattern) -> &mut Tree {
        match host {
            HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
            HostPattern::Suffix(suffix) => self.suffix.entry(suffix.clone()).or_default(),
            HostPattern::Any => self.any.get_or_insert_default(),
        }
    }

    /// The trees whose host patterns match, best first: at most one per label, as a host has at most 127.
    fn trees<'a>(&'a self, host: Option<&'a str>) -> impl Iterator<Item = &'a Tree> {
        let exact = host.and_then(|host| self.exact.get(host));
        // Most tables have no suffixes: then the host is not even searched for dots.
        let named = host.filter(|_| !self.suffix.is_empty());
        let dots =
            named.into_iter().flat_map(|host| host.match_indices('.').map(|(dot, _)| &host[dot + 1..]));
        let suffixes = dots.filter_map(|suffix| self.suffix.get(suffix));
        exact.into_iter().chain(suffixes).chain(&self.any)
    }

    /// The most steps of any request, and the host pattern that it takes them under.
    fn steps_max(&self) -> (usize, HostPattern) {
        let steps = |host: Option<&str>| self.trees(host).map(Tree::steps_max).sum::<usize>();
        let exact = self.exact.keys().map(|host| (steps(Some(host)), HostPattern::Exact(host.clone())));
        // The empty label matches the suffix and all shorter ones, and no exact host.
        let suffix = self
            .suffix
            .keys()
            .map(|suffix| (steps(Some(&format!(".{suffix}"))), HostPattern::Suffix(suffix.clone())));
        exact.chain(suffix).fold((steps(None), HostPattern::Any), |dearest, candidate| {
            if candidate.0 > dearest.0 { candidate } else { dearest }
        })
    }
}

impl<'a, T> Match<'a, T> {
    /// The value of the route.
    pub fn value(&self) -> &'a T {
        &self.route.value
    }

    /// The pattern of the route.
    pub fn pattern(&self) -> &'a Pattern {
        &self.route.pattern
    }

    /// The value of a parameter, in normal form (`percent_decode` undoes its escapes). Never empty. `None` if the
    /// pattern has no such parameter.
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters().find(|&(known, _)| known == name).map(|(_, value)| value)
    }

    /// All parameters and their values, left to right. They are read off the path here, which is why finding a
    /// route allocates nothing.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a, T> {
        let segments = self.route.pattern.path().segments().iter();
        segments.zip(self.target.segments()).filter_map(|(segment, value)| match segment {
            PatternSegment::Literal(_) => None,
            PatternSegment::Parameter(name) => Some((&**name, value)),
        })
    }

    /// What the wildcard stands for, in normal form, without the slash before it: `b/c` for `/a/*` and `/a/b/c`,
    /// empty for `/a/`. `None` if the pattern has no wildcard.
    pub fn rest(&self) -> Option<&'a str> {
        let path = self.route.pattern.path();
        let mut segments = self.target.segments();
        for _ in path.segments() {
            segments.next();
        }
        match path.tail() {
            Tail::End => None,
            Tail::Wildcard => segments.rest(),
        }
    }
}

/// One call of a fuzzer: a host and a target, parted by the first line feed, through everything here that reads
/// what a peer sends.
#[doc(hidden)]
pub fn fuzz_logic(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (host, target) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let host = Host::parse(host).ok();
    if let Some(host) = &host {
        assert_eq!(
            Host::parse(host.as_str().as_bytes()).as_ref(),
            Ok(host),
            "a host's normal form is its own"
        );
    }
    let Ok(target) = Target::parse(bytes::Bytes::copy_from_slice(target)) else { return };
    assert!(target.raw().ends_with(target.raw_query().unwrap_or_default()), "the query is the end");
    let again = Target::parse(bytes::Bytes::copy_from_slice(target.normal_path().as_bytes()));
    let again = again.expect("a normal form is accepted");
    assert_eq!(again.normal_path(), target.normal_path(), "a normal form is its own");

    static TABLE: LazyLock<Router<usize>> = LazyLock::new(fuzz_table);
    let found = TABLE.find(host.as_ref(), &target);
    let explained = TABLE.explain(host.as_ref(), &target);
    assert_eq!(found.as_ref().map(Match::pattern), explained.won().map(|won| won.pattern));
    assert!(explained.steps().0 <= explained.steps().1, "the bound on steps holds");
    for (name, value) in found.iter().flat_map(Match::parameters) {
        assert!(!value.is_empty() && !value.contains('/'), "the parameter {name} is one segment");
    }
}

fn fuzz_table() -> Router<usize> {
    let patterns = [
        ("*", "/"),
        ("*", "/a/:x/c"),
        ("*", "/:y/b/d"),
        ("*", "/a/*"),
        ("*.example", "/*"),
        ("*.shop.example", "/:x/"),
        ("shop.example", "/a/b/c"),
        ("[::1]", "/a%2Fb/:x/*"),
    ];
    let pattern = |(host, path)| Pattern::parse(host, path).expect("the table of the fuzzer is valid");
    let routes = patterns.into_iter().map(pattern).enumerate().map(|(index, pattern)| (pattern, index));
    Router::new(routes).expect("the table of the fuzzer is valid")
}
