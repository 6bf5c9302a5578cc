//! What a route matches: a host pattern and a path pattern, parsed once from the configuration.
//!
//! A path pattern is read through the same door as a request target, so that the two cannot have different ideas of
//! a normal form: `/café`, `/caf%c3%a9` and what a browser sends for either are one literal.
//!
//! Invariants: literals are in normal form and hold no dots that would resolve; a wildcard is last; names of
//! parameters differ within a pattern. Equal shape (parameters without their names) means that the same requests
//! match, and different shapes never tie: the router relies on both.

use std::fmt;

use bytes::Bytes;

use crate::http::target::{Host, HostError, Target, TargetError};

/// Bytes of a path pattern. Patterns are written by people, and printed whole in errors and tables.
pub const PATTERN_BYTES_MAX: usize = 1024;
/// Segments of a path pattern, its wildcard included. Matching recurses once a segment, so this bounds the stack; it
/// is several times what people can still read.
pub const PATTERN_SEGMENTS_MAX: usize = 32;
/// Parameters of a path pattern. A handler that takes more wants a query; and each parameter beside a literal may
/// double the work of a look-up.
pub const PATTERN_PARAMETERS_MAX: usize = 8;

/// A host pattern and a path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    host: HostPattern,
    path: PathPattern,
}

/// Which hosts a route serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This host only. Normal form.
    Exact(Box<str>),
    /// `*.suffix`: every name that ends in `.suffix`, one or more labels longer; not `suffix` itself. Normal form,
    /// without `*.`.
    Suffix(Box<str>),
    /// `*`: every host, and requests without one.
    Any,
}

/// Which paths a route serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<PatternSegment>,
    tail: Tail,
}

/// One segment of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternSegment {
    /// This segment only. Normal form; empty for the last segment of a pattern that ends in a slash.
    Literal(Box<str>),
    /// `:name`: any one segment that is not empty.
    Parameter(Box<str>),
}

/// What may follow the last segment of a path pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    End,
    /// `/*`: a slash, and whatever follows it, or nothing. `/a/*` matches `/a/` and `/a/b/c`, not `/a`.
    Wildcard,
}

/// A pattern that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} cannot be used: {problem}")]
pub struct PatternError {
    /// The host pattern or the path pattern, as written.
    pub pattern: String,
    /// What is wrong with it, and what to write instead.
    pub problem: PatternProblem,
}

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternProblem {
    /// The path pattern does not start with a slash.
    #[error("a path pattern starts with a slash, for example \"/static/*\"")]
    NoSlash,
    /// `?` or `#` in a path pattern.
    #[error("a path pattern holds no query and no fragment; write the characters themselves as %3F and %23")]
    Query,
    /// No path could match.
    #[error("no request could have this path: {0}")]
    Target(TargetError),
    /// `/./` or `/../`, which would be resolved before matching.
    #[error("segment {segment:?} is resolved before matching; write the path without it")]
    Dots {
        /// The segment.
        segment: String,
    },
    /// `//` before the end.
    #[error("two slashes in a row; write one, for example \"/a/b\"")]
    EmptySegment,
    /// A parameter's name has other characters than letters, digits and `_`, or starts with a digit.
    #[error(
        "{segment:?} is not a parameter; name it with letters, digits and \"_\", for example \":user_id\" \
         (a segment that starts with a colon is always a parameter)"
    )]
    ParameterName {
        /// The segment.
        segment: String,
    },
    /// Two parameters have one name.
    #[error("the parameter {name:?} occurs twice; give each its own name, for example \"/:from/:to\"")]
    ParameterTwice {
        /// The name.
        name: String,
    },
    /// `*` elsewhere than as the last segment.
    #[error(
        "a wildcard is the whole last segment, for example \"/a/*\"; in {segment:?} use a parameter such as \
         \":name\", or %2A for the character itself"
    )]
    WildcardPlace {
        /// The segment.
        segment: String,
    },
    /// More than [`PATTERN_BYTES_MAX`].
    #[error("it has {count} bytes, at most {PATTERN_BYTES_MAX} are allowed")]
    TooLong {
        /// Its bytes.
        count: usize,
    },
    /// More than [`PATTERN_SEGMENTS_MAX`].
    #[error(
        "it has {count} segments, at most {PATTERN_SEGMENTS_MAX} are allowed; end it with \"/*\" earlier"
    )]
    TooManySegments {
        /// Its segments.
        count: usize,
    },
    /// More than [`PATTERN_PARAMETERS_MAX`].
    #[error(
        "it has {count} parameters, at most {PATTERN_PARAMETERS_MAX} are allowed; end it with \"/*\" earlier"
    )]
    TooManyParameters {
        /// Its parameters.
        count: usize,
    },
    /// The host is neither `*`, `*.suffix` nor a host.
    #[error("{0}; a host pattern is \"shop.example\", \"*.example\" or \"*\"")]
    Host(HostError),
    /// A `*` inside a host.
    #[error("in a host, \"*\" stands alone or before a whole suffix, for example \"*.shop.example\"")]
    HostWildcard,
    /// A port in a host pattern.
    #[error("a host pattern has no port: routes are the same on all listeners; write the host alone")]
    HostPort,
    /// `*.` before an address.
    #[error("\"*.\" goes before a name, and this ends like an address; write the address alone")]
    HostSuffixOfAddress,
}

impl Pattern {
    /// Parses a host pattern (`shop.example`, `*.example`, `*`) and a path pattern (`/a/b`, `/a/*`, `/a/:name/b`).
    pub fn parse(host: &str, path: &str) -> Result<Self, PatternError> {
        let refuse = |pattern: &str, problem| PatternError { pattern: pattern.to_owned(), problem };
        Ok(Self {
            host: HostPattern::parse(host).map_err(|problem| refuse(host, problem))?,
            path: PathPattern::parse(path).map_err(|problem| refuse(path, problem))?,
        })
    }

    /// Which hosts it matches.
    pub fn host(&self) -> &HostPattern {
        &self.host
    }

    /// Which paths it matches.
    pub fn path(&self) -> &PathPattern {
        &self.path
    }
}

/// Host and path in one text, such as `*.example/a/:name`.
impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", self.host, self.path)
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, PatternProblem> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let suffix = text.strip_prefix("*.");
        let name = suffix.unwrap_or(text);
        if name.contains('*') {
            return Err(PatternProblem::HostWildcard);
        }
        let host = Host::parse(name.as_bytes()).map_err(PatternProblem::Host)?;
        let after_address = name.rfind(']').map_or(0, |bracket| bracket + 1);
        if name[after_address..].contains(':') {
            return Err(PatternProblem::HostPort);
        }
        if suffix.is_none() {
            return Ok(Self::Exact(host.as_str().into()));
        }
        let last_label = host.as_str().rsplit('.').next().unwrap_or_default();
        if last_label.starts_with('[') || last_label.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PatternProblem::HostSuffixOfAddress);
        }
        Ok(Self::Suffix(host.as_str().into()))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => out.write_str(host),
            Self::Suffix(suffix) => write!(out, "*.{suffix}"),
            Self::Any => out.write_str("*"),
        }
    }
}

impl PathPattern {
    fn parse(text: &str) -> Result<Self, PatternProblem> {
        if !text.starts_with('/') {
            return Err(PatternProblem::NoSlash);
        }
        if text.contains(['?', '#']) {
            return Err(PatternProblem::Query);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternProblem::TooLong { count: text.len() });
        }
        if let Some(segment) = text.split('/').find(|segment| matches!(*segment, "." | "..")) {
            return Err(PatternProblem::Dots { segment: segment.to_owned() });
        }
        let target =
            Target::parse(Bytes::copy_from_slice(text.as_bytes())).map_err(PatternProblem::Target)?;
        let mut texts: Vec<&str> = target.segments().collect();
        if texts.len() > PATTERN_SEGMENTS_MAX {
            return Err(PatternProblem::TooManySegments { count: texts.len() });
        }
        let tail = if texts.last() == Some(&"*") { Tail::Wildcard } else { Tail::End };
        if tail == Tail::Wildcard {
            texts.pop();
        }
        let may_be_empty = |index| tail == Tail::End && index + 1 == texts.len();
        let segments = texts
            .iter()
            .enumerate()
            .map(|(index, segment)| {
                if segment.is_empty() && !may_be_empty(index) {
                    return Err(PatternProblem::EmptySegment);
                }
                PatternSegment::parse(segment)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let pattern = Self { segments, tail };
        pattern.check_parameters()?;
        Ok(pattern)
    }

    /// Its segments, without the wildcard.
    pub fn segments(&self) -> &[PatternSegment] {
        &self.segments
    }

    /// Whether it ends in a wildcard.
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// The names of its parameters, left to right.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            PatternSegment::Literal(_) => None,
            PatternSegment::Parameter(name) => Some(&**name),
        })
    }

    fn check_parameters(&self) -> Result<(), PatternProblem> {
        let names: Vec<&str> = self.parameters().collect();
        if names.len() > PATTERN_PARAMETERS_MAX {
            return Err(PatternProblem::TooManyParameters { count: names.len() });
        }
        let twice = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name));
        twice.map_or(Ok(()), |(_, name)| Err(PatternProblem::ParameterTwice { name: (*name).to_owned() }))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            write!(out, "/{segment}")?;
        }
        match self.tail {
            Tail::End => Ok(()),
            Tail::Wildcard => out.write_str("/*"),
        }
    }
}

impl PatternSegment {
    /// `text` is in normal form.
    fn parse(text: &str) -> Result<Self, PatternProblem> {
        if text.contains('*') {
            return Err(PatternProblem::WildcardPlace { segment: text.to_owned() });
        }
        let Some(name) = text.strip_prefix(':') else { return Ok(Self::Literal(text.into())) };
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
        if is_name {
            Ok(Self::Parameter(name.into()))
        } else {
            Err(PatternProblem::ParameterName { segment: text.to_owned() })
        }
    }
}

impl fmt::Display for PatternSegment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => out.write_str(text),
            Self::Parameter(name) => write!(out, ":{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(host: &str, path: &str) -> String {
        Pattern::parse(host, path).unwrap().to_string()
    }

    fn path_problem(path: &str) -> PatternProblem {
        Pattern::parse("*", path).unwrap_err().problem
    }

    fn host_problem(host: &str) -> PatternProblem {
        Pattern::parse(host, "/").unwrap_err().problem
    }

    #[test]
    fn patterns_are_shown_in_normal_form() {
        assert_eq!(shown("*", "/"), "*/");
        assert_eq!(shown("Shop.Example.", "/a/:name/b"), "shop.example/a/:name/b");
        assert_eq!(shown("*.Example", "/%7Ea/*"), "*.example/~a/*");
        assert_eq!(shown("[0::1]", "/caf\u{e9}/"), "[::1]/caf%C3%A9/");
        assert_eq!(shown("127.0.0.1", "/*"), "127.0.0.1/*");
        assert_eq!(shown("*", "/v1/x:cancel/%3Ay/%2A"), "*/v1/x:cancel/%3Ay/%2A");
    }

    #[test]
    fn a_pattern_splits_into_literals_parameters_and_a_tail() {
        let pattern = Pattern::parse("*", "/counter/:name/*").unwrap();
        let path = pattern.path();
        assert_eq!(
            path.segments(),
            [PatternSegment::Literal("counter".into()), PatternSegment::Parameter("name".into())]
        );
        assert_eq!(path.tail(), Tail::Wildcard);
        assert_eq!(path.parameters().collect::<Vec<_>>(), ["name"]);
    }

    #[test]
    fn mistakes_in_paths_are_named() {
        assert_eq!(path_problem(""), PatternProblem::NoSlash);
        assert_eq!(path_problem("*"), PatternProblem::NoSlash);
        assert_eq!(path_problem("http://host/"), PatternProblem::NoSlash);
        assert_eq!(path_problem("/a?b"), PatternProblem::Query);
        assert_eq!(path_problem("/a#b"), PatternProblem::Query);
        assert!(matches!(
            path_problem("/a b"),
            PatternProblem::Target(TargetError::ForbiddenByte { at: 2, .. })
        ));
        assert!(matches!(path_problem("/100%"), PatternProblem::Target(TargetError::BrokenEscape { at: 4 })));
        assert!(matches!(
            path_problem("/%2e%2e/"),
            PatternProblem::Target(TargetError::AmbiguousDots { .. })
        ));
        assert_eq!(path_problem("/a/../b"), PatternProblem::Dots { segment: "..".into() });
        for path in ["//", "/a//b", "//a", "/a//*", "//*"] {
            assert_eq!(path_problem(path), PatternProblem::EmptySegment, "{path}");
        }
        for segment in ["*a", "a*", "**", ":x*"] {
            let expected = PatternProblem::WildcardPlace { segment: segment.into() };
            assert_eq!(path_problem(&format!("/{segment}")), expected);
        }
        assert_eq!(path_problem("/a/*/b"), PatternProblem::WildcardPlace { segment: "*".into() });
        assert_eq!(path_problem("/a/*/"), PatternProblem::WildcardPlace { segment: "*".into() });
        for segment in [":", ":1a", ":a-b", ":a.b", "::"] {
            let expected = PatternProblem::ParameterName { segment: segment.into() };
            assert_eq!(path_problem(&format!("/{segment}/b")), expected);
        }
        assert_eq!(path_problem("/:a/:b/:a"), PatternProblem::ParameterTwice { name: "a".into() });
    }

    #[test]
    fn each_bound_of_a_path_is_where_it_says() {
        let long = |count: usize| format!("/{}", "a".repeat(count - 1));
        assert!(Pattern::parse("*", &long(PATTERN_BYTES_MAX)).is_ok());
        assert_eq!(
            path_problem(&long(PATTERN_BYTES_MAX + 1)),
            PatternProblem::TooLong { count: PATTERN_BYTES_MAX + 1 }
        );
        assert!(Pattern::parse("*", &"/a".repeat(PATTERN_SEGMENTS_MAX)).is_ok());
        assert_eq!(
            path_problem(&"/a".repeat(PATTERN_SEGMENTS_MAX + 1)),
            PatternProblem::TooManySegments { count: PATTERN_SEGMENTS_MAX + 1 }
        );
        let parameters = |count: usize| (0..count).map(|index| format!("/:p{index}")).collect::<String>();
        assert!(Pattern::parse("*", &parameters(PATTERN_PARAMETERS_MAX)).is_ok());
        assert_eq!(
            path_problem(&parameters(PATTERN_PARAMETERS_MAX + 1)),
            PatternProblem::TooManyParameters { count: PATTERN_PARAMETERS_MAX + 1 }
        );
    }

    #[test]
    fn mistakes_in_hosts_are_named() {
        for host in ["a.*.b", "*a.b", "**", "*.*.a", "*:80"] {
            assert_eq!(host_problem(host), PatternProblem::HostWildcard, "{host}");
        }
        assert_eq!(host_problem("a.b:80"), PatternProblem::HostPort);
        assert_eq!(host_problem("*.b:"), PatternProblem::HostPort);
        assert_eq!(host_problem("[::1]:80"), PatternProblem::HostPort);
        assert_eq!(host_problem("*.0.0.1"), PatternProblem::HostSuffixOfAddress);
        assert_eq!(host_problem("*.[::1]"), PatternProblem::HostSuffixOfAddress);
        assert_eq!(host_problem(""), PatternProblem::Host(HostError::Empty));
        assert_eq!(host_problem("*."), PatternProblem::Host(HostError::Empty));
        assert!(matches!(
            host_problem(":name.counters.example"),
            PatternProblem::Host(HostError::Port | HostError::Empty)
        ));
    }

    #[test]
    fn an_error_says_what_why_and_what_to_write() {
        let error = Pattern::parse("*", "/a/*/b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the pattern \"/a/*/b\" cannot be used: a wildcard is the whole last segment, for example \"/a/*\"; \
             in \"*\" use a parameter such as \":name\", or %2A for the character itself"
        );
    }
}
