//! Why a request goes where it goes: the answer of `berth explain request`.
//!
//! Built from the very walk that routes requests, and only compared afterwards, so that it cannot tell a story that
//! the router does not act on.

use std::fmt;

use super::pattern::{HostPattern, PathPattern, Pattern, PatternSegment, Tail};

/// Which route won for a request, which others matched too, and why they lost.
#[derive(Clone, Debug)]
pub struct Explanation<'a> {
    pub(super) host: Option<String>,
    pub(super) path: &'a str,
    pub(super) hosts: Vec<&'a HostPattern>,
    pub(super) won: Option<Won<'a>>,
    pub(super) lost: Vec<Lost<'a>>,
    pub(super) steps: usize,
    pub(super) steps_max: usize,
}

/// The route that a request goes to.
#[derive(Clone, Debug)]
pub struct Won<'a> {
    /// Its pattern.
    pub pattern: &'a Pattern,
    /// Its parameters and their values, in normal form.
    pub parameters: Vec<(&'a str, &'a str)>,
    /// What its wildcard stands for.
    pub rest: Option<&'a str>,
}

/// A route that matched, and did not win.
#[derive(Clone, Debug)]
pub struct Lost<'a> {
    /// Its pattern.
    pub pattern: &'a Pattern,
    /// Why it lost.
    pub because: LostBecause<'a>,
}

/// Why one matching route loses to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostBecause<'a> {
    /// Its host pattern is less specific.
    Host {
        /// The host pattern that won.
        winner: &'a HostPattern,
        /// The one that lost.
        loser: &'a HostPattern,
    },
    /// The host patterns are equal; the first segment where the paths differ in kind decided.
    Segment {
        /// Counted from 1.
        number: usize,
        /// What the winner has there.
        winner: Step<'a>,
        /// What the loser has there.
        loser: Step<'a>,
    },
}

/// What a path pattern has at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A literal.
    Literal(&'a str),
    /// A parameter, by its name.
    Parameter(&'a str),
    /// The wildcard.
    Wildcard,
    /// Nothing: the pattern is over. Two patterns that match one path never differ in this alone.
    End,
}

impl<'a> Explanation<'a> {
    /// The host that was looked up, in normal form.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The path that was looked up, in normal form.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The host patterns that match the host, in the order in which they are tried.
    pub fn hosts(&self) -> &[&'a HostPattern] {
        &self.hosts
    }

    /// The winner, if any route matched.
    pub fn won(&self) -> Option<&Won<'a>> {
        self.won.as_ref()
    }

    /// The routes that matched too, best first.
    pub fn lost(&self) -> &[Lost<'a>] {
        &self.lost
    }

    /// Nodes that the look-up entered until it had the winner, and the most that any request to this table enters.
    pub fn steps(&self) -> (usize, usize) {
        (self.steps, self.steps_max)
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host().unwrap_or("(no host)");
        match &self.won {
            None => {
                writeln!(out, "{host} {} matches no route", self.path)?;
                if self.hosts.is_empty() {
                    writeln!(out, "  no host pattern matches the host")?;
                }
                for host in &self.hosts {
                    writeln!(out, "  no path of host {host} matches")?;
                }
            }
            Some(won) => {
                writeln!(out, "{host} {} goes to {}", self.path, won.pattern)?;
                for (name, value) in &won.parameters {
                    writeln!(out, "  :{name} = {value}")?;
                }
                if let Some(rest) = won.rest {
                    writeln!(out, "  * = {rest}")?;
                }
            }
        }
        for lost in &self.lost {
            writeln!(out, "  {} matches too, and loses: {}", lost.pattern, lost.because)?;
        }
        writeln!(out, "  steps: {}, at most {} for any request", self.steps, self.steps_max)
    }
}

impl<'a> LostBecause<'a> {
    /// Compares two patterns that both match one request, the better one first.
    pub(super) fn compare(winner: &'a Pattern, loser: &'a Pattern) -> Self {
        if winner.host() != loser.host() {
            return Self::Host { winner: winner.host(), loser: loser.host() };
        }
        let differs = |index: &usize| {
            let (winner, loser) = (step(winner.path(), *index), step(loser.path(), *index));
            std::mem::discriminant(&winner) != std::mem::discriminant(&loser)
        };
        let longest = winner.path().segments().len().max(loser.path().segments().len());
        let index = (0..=longest).find(differs).expect("patterns of one shape are not in one table");
        let (winner, loser) = (step(winner.path(), index), step(loser.path(), index));
        Self::Segment { number: index + 1, winner, loser }
    }
}

impl fmt::Display for LostBecause<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { winner, loser } => write!(out, "host {winner} is more specific than {loser}"),
            Self::Segment { number, winner, loser } => {
                write!(out, "at segment {number}, {winner} comes before {loser}")
            }
        }
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => write!(out, "the literal {text:?}"),
            Self::Parameter(name) => write!(out, "the parameter :{name}"),
            Self::Wildcard => out.write_str("the wildcard"),
            Self::End => out.write_str("the end"),
        }
    }
}

fn step(pattern: &PathPattern, index: usize) -> Step<'_> {
    match (pattern.segments().get(index), pattern.tail()) {
        (Some(PatternSegment::Literal(text)), _) => Step::Literal(text),
        (Some(PatternSegment::Parameter(name)), _) => Step::Parameter(name),
        (None, Tail::Wildcard) => Step::Wildcard,
        (None, Tail::End) => Step::End,
    }
}
