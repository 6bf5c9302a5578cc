//! What a value may be: one rule for each kind of value, with its bounds.
//!
//! Why rules are values: the same `Size { min, max }` reads the operator's text, is printed in the reference, and
//! tells the tests its edges. A bound can therefore not be documented as one thing and enforced as another.
//!
//! Invariants: a rule never panics on any TOML value, and accepts exactly what [`Rule::allowed`] describes.
//!
//! Left to others: which key has which rule (`keys`), and what keys mean to each other (`check`).

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::quote;
use super::units::{Cidr, parse_duration, parse_size, show_duration, show_size};
use super::{AccessLog, Cores, LogFilter, NodeName};

/// One kind of value: how it is read, and how it is described.
pub(super) trait Rule {
    /// What it is read into.
    type Value;

    /// Reads `value`, or says everything that is wrong with it.
    fn read(&self, value: &DeValue<'_>) -> Result<Self::Value, Vec<Fault>>;

    /// What is counted or written: "bytes", "time", "path".
    fn unit(&self) -> &'static str;

    /// The form and the bounds, for mistakes and for the reference.
    fn allowed(&self) -> String;

    /// Values at the bounds and just outside them, as TOML.
    #[cfg(test)]
    fn edges(&self) -> Edges;
}

/// One thing wrong with a value, or with a part of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The part, as the end of a path: `[2]`, `.content-length`; empty for the whole value.
    pub(super) part: String,
    /// Where the part stands in the file. None for the whole value.
    pub(super) span: Option<Range<usize>>,
    /// What is wrong, as the end of a sentence.
    pub(super) problem: String,
}

impl Fault {
    fn whole(problem: impl Into<String>) -> Vec<Self> {
        vec![Self { part: String::new(), span: None, problem: problem.into() }]
    }

    fn part(part: String, span: Range<usize>, problem: impl Into<String>) -> Self {
        Self { part, span: Some(span), problem: problem.into() }
    }
}

/// Values that a rule must accept and must refuse, as TOML.
#[cfg(test)]
pub(super) struct Edges {
    pub(super) accepted: Vec<String>,
    pub(super) refused: Vec<String>,
}

#[cfg(test)]
impl Edges {
    fn new(accepted: &[&str], refused: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self { accepted: owned(accepted), refused: owned(refused) }
    }

    fn and(mut self, accepted: Vec<String>, refused: Vec<String>) -> Self {
        self.accepted.extend(accepted);
        self.refused.extend(refused);
        self
    }
}

/// A whole number type that a value is read into.
pub(super) trait Whole: Copy {
    fn from_u64(number: u64) -> Option<Self>;
    fn to_u64(self) -> u64;
}

macro_rules! whole {
    ($($type:ty),*) => {$(
        impl Whole for $type {
            fn from_u64(number: u64) -> Option<Self> {
                Self::try_from(number).ok()
            }
            #[allow(clippy::cast_lossless, reason = "one expression for all widths; usize has no From")]
            fn to_u64(self) -> u64 {
                self as u64
            }
        }
    )*};
}
whole!(u16, u32, u64, usize);

/// A number of things.
pub(super) struct Count<T> {
    pub(super) min: T,
    pub(super) max: T,
}

impl<T: Whole> Rule for Count<T> {
    type Value = T;

    fn read(&self, value: &DeValue<'_>) -> Result<T, Vec<Fault>> {
        within(integer(value)?, self.min, self.max)
    }

    fn unit(&self) -> &'static str {
        "count"
    }

    fn allowed(&self) -> String {
        format!("a whole number from {} to {}", self.min.to_u64(), self.max.to_u64())
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let (min, max) = (i128::from(self.min.to_u64()), i128::from(self.max.to_u64()));
        Edges::new(
            &[],
            &["\"many\"", "1.5", "true", "-9223372036854775808", "99999999999999999999999999999999999999999"],
        )
        .and(vec![min.to_string(), max.to_string()], vec![(min - 1).to_string(), (max + 1).to_string()])
    }
}

/// A number of things, or `auto`: as many as there can be.
pub(super) struct CountOrAuto {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Rule for CountOrAuto {
    type Value = Option<u32>;

    fn read(&self, value: &DeValue<'_>) -> Result<Option<u32>, Vec<Fault>> {
        match value {
            DeValue::String(text) if text == "auto" => Ok(None),
            DeValue::String(_) => Err(Fault::whole("is not \"auto\"")),
            _ => within(integer(value)?, self.min, self.max).map(Some),
        }
    }

    fn unit(&self) -> &'static str {
        "count"
    }

    fn allowed(&self) -> String {
        format!("\"auto\", or a whole number from {} to {}", self.min, self.max)
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        Edges::new(&["\"auto\""], &["\"all\"", "1.5", "true", "-8"]).and(
            vec![self.min.to_string(), self.max.to_string()],
            vec![(self.min - 1).to_string(), (self.max + 1).to_string()],
        )
    }
}

/// A number of things that must be a power of two, because the kernel or an index mask wants it.
pub(super) struct PowerOfTwo {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Rule for PowerOfTwo {
    type Value = u32;

    fn read(&self, value: &DeValue<'_>) -> Result<u32, Vec<Fault>> {
        let number = within(integer(value)?, self.min, self.max)?;
        if number.is_power_of_two() {
            return Ok(number);
        }
        let below = 1 << number.ilog2();
        Err(Fault::whole(format!("is not a power of two: the nearest are {below} and {}", below * 2)))
    }

    fn unit(&self) -> &'static str {
        "count"
    }

    fn allowed(&self) -> String {
        format!("a power of two from {} to {}", self.min, self.max)
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let (min, max) = (self.min, self.max);
        Edges::new(&[], &["0", "-1", "\"1024\""]).and(
            vec![min.to_string(), max.to_string()],
            [min / 2, min + 1, max - 1, max + 1, max * 2].iter().map(ToString::to_string).collect(),
        )
    }
}

/// A number of bytes: an integer, or a text with a binary unit.
pub(super) struct Size<T> {
    pub(super) min: T,
    pub(super) max: T,
}

impl<T: Whole> Rule for Size<T> {
    type Value = T;

    fn read(&self, value: &DeValue<'_>) -> Result<T, Vec<Fault>> {
        let bytes = match value {
            DeValue::String(text) => {
                parse_size(text).map_err(|problem| Fault::whole(problem.to_string()))?.into()
            }
            other => integer(other)?,
        };
        within(bytes, self.min, self.max)
    }

    fn unit(&self) -> &'static str {
        "bytes"
    }

    fn allowed(&self) -> String {
        let (min, max) = (show_size(self.min.to_u64()), show_size(self.max.to_u64()));
        format!("a size from {min} to {max}, as bytes (4096) or with a unit (\"4KiB\", \"1MiB\", \"1GiB\")")
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let (min, max) = (self.min.to_u64(), self.max.to_u64());
        let shown = |bytes: u64| match show_size(bytes) {
            plain if plain.parse::<u64>().is_ok() => plain,
            with_unit => format!("\"{with_unit}\""),
        };
        Edges::new(&[], &["\"10MB\"", "\"4096\"", "\"\"", "1.5", "[]", "\"99999999999999999999GiB\""]).and(
            vec![min.to_string(), max.to_string(), shown(min), shown(max)],
            vec![(i128::from(min) - 1).to_string(), (i128::from(max) + 1).to_string()],
        )
    }
}

/// A duration with its unit.
pub(super) struct Time {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

impl Rule for Time {
    type Value = Duration;

    fn read(&self, value: &DeValue<'_>) -> Result<Duration, Vec<Fault>> {
        let time = match value {
            DeValue::String(text) => {
                parse_duration(text).map_err(|problem| Fault::whole(problem.to_string()))?
            }
            DeValue::Integer(number) => {
                return Err(Fault::whole(format!("has no unit: write \"{number}s\" or \"{number}ms\"")));
            }
            other => return Err(wrong_type(other)),
        };
        match time {
            short if short < self.min => Err(Fault::whole("is too short")),
            long if long > self.max => Err(Fault::whole("is too long")),
            fine => Ok(fine),
        }
    }

    fn unit(&self) -> &'static str {
        "time"
    }

    fn allowed(&self) -> String {
        let (min, max) = (show_duration(self.min), show_duration(self.max));
        format!("a duration from {min} to {max}, with the unit ms, s, m or h (\"250ms\", \"10s\")")
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let step = Duration::from_millis(1);
        let shown = |time: Duration| format!("\"{}\"", show_duration(time));
        let below = self.min.checked_sub(step).map(shown);
        Edges::new(&[], &["10", "\"10\"", "\"1d\"", "\"-1s\"", "\"soon\"", "true", "{}"]).and(
            vec![shown(self.min), shown(self.max)],
            below.into_iter().chain([shown(self.max + step)]).collect(),
        )
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static> {
    pub(super) words: &'static [(&'static str, T)],
}

impl<T: Copy> Rule for Choice<T> {
    type Value = T;

    fn read(&self, value: &DeValue<'_>) -> Result<T, Vec<Fault>> {
        let text = string(value)?;
        let found = self.words.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| Fault::whole("is none of the words that this key knows"))
    }

    fn unit(&self) -> &'static str {
        "word"
    }

    fn allowed(&self) -> String {
        let words: Vec<String> = self.words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        format!("one of {}", words.join(", "))
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let accepted = self.words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let refused = self.words.iter().map(|(word, _)| format!("\"{}\"", word.to_uppercase())).collect();
        Edges::new(&[], &["\"\"", "1", "[]"]).and(accepted, refused)
    }
}

/// Text that is passed on as bytes.
pub(super) struct Text {
    pub(super) bytes_max: usize,
}

impl Rule for Text {
    type Value = Bytes;

    fn read(&self, value: &DeValue<'_>) -> Result<Bytes, Vec<Fault>> {
        let text = string(value)?;
        if text.len() > self.bytes_max {
            return Err(Fault::whole(format!("is too long: it has {} bytes", text.len())));
        }
        Ok(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn unit(&self) -> &'static str {
        "text"
    }

    fn allowed(&self) -> String {
        format!("a text of up to {} in UTF-8", show_size(self.bytes_max as u64))
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
        Edges::new(&["\"\""], &["1", "[]"]).and(vec![text(self.bytes_max)], vec![text(self.bytes_max + 1)])
    }
}

/// A host or path pattern. Only its length is checked here: the router reads its syntax.
pub(super) struct Pattern {
    pub(super) bytes_max: usize,
}

impl Rule for Pattern {
    type Value = String;

    fn read(&self, value: &DeValue<'_>) -> Result<String, Vec<Fault>> {
        match string(value)? {
            "" => Err(Fault::whole("is empty")),
            long if long.len() > self.bytes_max => Err(Fault::whole("is too long")),
            fine => Ok(fine.to_owned()),
        }
    }

    fn unit(&self) -> &'static str {
        "pattern"
    }

    fn allowed(&self) -> String {
        format!("a pattern of 1 to {} bytes", self.bytes_max)
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let text = |bytes: usize| format!("\"/{}\"", "x".repeat(bytes - 1));
        Edges::new(&["\"/\""], &["\"\"", "1", "[]"])
            .and(vec![text(self.bytes_max)], vec![text(self.bytes_max + 1)])
    }
}

/// A path of a file or folder, from the root of the file system.
pub(super) struct AbsolutePath;

impl Rule for AbsolutePath {
    type Value = PathBuf;

    fn read(&self, value: &DeValue<'_>) -> Result<PathBuf, Vec<Fault>> {
        match string(value)? {
            relative if !relative.starts_with('/') => {
                Err(Fault::whole("does not start at the root: it would depend on the folder of the start"))
            }
            broken if broken.contains('\0') => Err(Fault::whole("holds a NUL, which no path can")),
            long if long.len() > PATH_BYTES_MAX => Err(Fault::whole("is longer than the kernel takes")),
            path => Ok(PathBuf::from(path)),
        }
    }

    fn unit(&self) -> &'static str {
        "path"
    }

    fn allowed(&self) -> String {
        format!("an absolute path of up to {PATH_BYTES_MAX} bytes")
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let path = |bytes: usize| format!("\"/{}\"", "x".repeat(bytes - 1));
        Edges::new(&["\"/x\""], &["\"\"", "\"x\"", "\"./x\"", "\"/a\\u0000b\"", "1"])
            .and(vec![path(PATH_BYTES_MAX)], vec![path(PATH_BYTES_MAX + 1)])
    }
}

/// Linux's PATH_MAX counts the closing NUL.
const PATH_BYTES_MAX: usize = 4095;

/// An IP address with a port.
pub(super) struct Address {
    pub(super) reach: Reach,
}

/// Which addresses a key may name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Any address of the node.
    Any,
    /// Only addresses that other machines cannot reach.
    Loopback,
}

impl Rule for Address {
    type Value = SocketAddr;

    fn read(&self, value: &DeValue<'_>) -> Result<SocketAddr, Vec<Fault>> {
        let address: SocketAddr = string(value)?
            .parse()
            .map_err(|_| Fault::whole("is not an IP address with a port (names are not looked up)"))?;
        match address.ip() {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Err(Fault::whole("is an IPv4 address in IPv6 form, which an IPv6-only socket cannot take"))
            }
            ip if self.reach == Reach::Loopback && !ip.is_loopback() => {
                Err(Fault::whole("can be reached from other machines, and this door has no token yet"))
            }
            _ => Ok(address),
        }
    }

    fn unit(&self) -> &'static str {
        "address"
    }

    fn allowed(&self) -> String {
        let which = match self.reach {
            Reach::Any => "an IP address",
            Reach::Loopback => "a loopback IP address (127.0.0.0/8 or [::1])",
        };
        format!("{which} and a port, IPv6 in brackets; port 0 takes a free one")
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let edges = Edges::new(
            &["\"127.0.0.1:0\"", "\"127.255.255.254:65535\"", "\"[::1]:65535\""],
            &[
                "\"127.0.0.1\"",
                "\"127.0.0.1:65536\"",
                "\"localhost:80\"",
                "\":80\"",
                "\"::1:80\"",
                "80",
                "\"\"",
                "\"[::ffff:127.0.0.1]:80\"",
            ],
        );
        let public: Vec<String> = ["\"0.0.0.0:80\"", "\"[::]:80\"", "\"192.0.2.1:443\"", "\"128.0.0.0:80\""]
            .map(str::to_owned)
            .to_vec();
        match self.reach {
            Reach::Any => edges.and(public, vec![]),
            Reach::Loopback => edges.and(vec![], public),
        }
    }
}

/// A list of networks.
pub(super) struct Networks {
    pub(super) entries_max: usize,
}

impl Rule for Networks {
    type Value = Vec<Cidr>;

    fn read(&self, value: &DeValue<'_>) -> Result<Vec<Cidr>, Vec<Fault>> {
        each(array(value, self.entries_max)?, |value| {
            string(value)?
                .parse()
                .map_err(|problem: super::units::CidrError| Fault::whole(problem.to_string()))
        })
    }

    fn unit(&self) -> &'static str {
        "list of networks"
    }

    fn allowed(&self) -> String {
        format!(
            "a list of up to {} networks, each an IP address, a slash and a prefix length",
            self.entries_max
        )
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let list = |entries: usize| {
            let networks: Vec<String> = (0..entries).map(|host| format!("\"2001:db8::{host:x}\"")).collect();
            format!("[{}]", networks.join(", "))
        };
        Edges::new(
            &["[]", "[\"0.0.0.0/0\", \"::/0\"]", "[\"192.0.2.1/32\"]"],
            &["\"10.0.0.0/8\"", "[\"10.0.0.0/33\"]", "[\"10.0.0.1/8\"]", "[\"lan\"]", "[8]", "[[]]", "{}"],
        )
        .and(vec![list(self.entries_max)], vec![list(self.entries_max + 1)])
    }
}

/// A list of IP addresses.
pub(super) struct Addresses {
    pub(super) entries_max: usize,
}

impl Rule for Addresses {
    type Value = Vec<IpAddr>;

    fn read(&self, value: &DeValue<'_>) -> Result<Vec<IpAddr>, Vec<Fault>> {
        each(array(value, self.entries_max)?, |value| {
            string(value)?.parse().map_err(|_| Fault::whole("is no IP address"))
        })
    }

    fn unit(&self) -> &'static str {
        "list of addresses"
    }

    fn allowed(&self) -> String {
        format!("a list of up to {} IP addresses", self.entries_max)
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let list = |entries: usize| {
            let addresses: Vec<String> = (0..entries).map(|host| format!("\"2001:db8::{host:x}\"")).collect();
            format!("[{}]", addresses.join(", "))
        };
        Edges::new(
            &["[]", "[\"192.0.2.1\", \"2001:db8::1\"]"],
            &["\"192.0.2.1\"", "[\"192.0.2.1:80\"]", "[\"192.0.2.0/24\"]", "[\"eth0\"]", "[1]", "{}"],
        )
        .and(vec![list(self.entries_max)], vec![list(self.entries_max + 1)])
    }
}

/// A list of the names of network cards, all different.
pub(super) struct Cards {
    pub(super) entries_max: usize,
}

/// Longest name of a network card: the kernel's 16 bytes, of which one ends it.
const CARD_BYTES_MAX: usize = 15;

impl Rule for Cards {
    type Value = Vec<String>;

    fn read(&self, value: &DeValue<'_>) -> Result<Vec<String>, Vec<Fault>> {
        let names = each(array(value, self.entries_max)?, |value| match string(value)? {
            "" | "." | ".." => Err(Fault::whole("is no name")),
            long if long.len() > CARD_BYTES_MAX => Err(Fault::whole("is longer than a card's name can be")),
            name if name.bytes().any(|byte| byte == b'/' || byte.is_ascii_whitespace() || byte == 0) => {
                Err(Fault::whole("holds a character that no card's name has"))
            }
            name => Ok(name.to_owned()),
        })?;
        match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            Some((_, name)) => Err(Fault::whole(format!("has {name} twice"))),
            None => Ok(names),
        }
    }

    fn unit(&self) -> &'static str {
        "list of network cards"
    }

    fn allowed(&self) -> String {
        format!("a list of up to {} names of network cards, as `ip link` shows them", self.entries_max)
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let list = |entries: usize| {
            let names: Vec<String> = (0..entries).map(|card| format!("\"eth{card}\"")).collect();
            format!("[{}]", names.join(", "))
        };
        let name = |bytes: usize| format!("[\"{}\"]", "n".repeat(bytes));
        Edges::new(
            &["[]", "[\"eth0\", \"bond0.100\"]"],
            &["\"eth0\"", "[\"\"]", "[\"a/b\"]", "[\"a b\"]", "[\"..\"]", "[\"eth0\", \"eth0\"]", "[0]"],
        )
        .and(
            vec![list(self.entries_max), name(CARD_BYTES_MAX)],
            vec![list(self.entries_max + 1), name(CARD_BYTES_MAX + 1)],
        )
    }
}

/// The name of a user of this system.
pub(super) struct User;

/// What useradd allows.
const USER_BYTES_MAX: usize = 32;

impl Rule for User {
    type Value = String;

    fn read(&self, value: &DeValue<'_>) -> Result<String, Vec<Fault>> {
        match string(value)? {
            "" => Err(Fault::whole("is empty")),
            long if long.len() > USER_BYTES_MAX => Err(Fault::whole("is longer than a user's name can be")),
            name if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) => {
                Ok(name.to_owned())
            }
            _ => Err(Fault::whole("holds a character that no user's name has")),
        }
    }

    fn unit(&self) -> &'static str {
        "user"
    }

    fn allowed(&self) -> String {
        format!("1 to {USER_BYTES_MAX} letters, digits, dots, underscores and dashes")
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let name = |bytes: usize| format!("\"{}\"", "n".repeat(bytes));
        Edges::new(&["\"berth\"", "\"a-b_c.1\""], &["\"\"", "\"a:b\"", "\"a b\"", "7"])
            .and(vec![name(USER_BYTES_MAX)], vec![name(USER_BYTES_MAX + 1)])
    }
}

/// The name of the node: `auto`, or letters, digits, `.`, `_` and `-`.
pub(super) struct Name;

impl Rule for Name {
    type Value = NodeName;

    fn read(&self, value: &DeValue<'_>) -> Result<NodeName, Vec<Fault>> {
        match string(value)? {
            "auto" => Ok(NodeName::OfHost),
            "" => Err(Fault::whole("is empty")),
            long if long.len() > NAME_BYTES_MAX => Err(Fault::whole("is too long")),
            text if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) => {
                Ok(NodeName::Given(text.to_owned()))
            }
            _ => Err(Fault::whole("holds a character that would need quoting in metrics and logs")),
        }
    }

    fn unit(&self) -> &'static str {
        "name"
    }

    fn allowed(&self) -> String {
        format!("\"auto\", or 1 to {NAME_BYTES_MAX} letters, digits, dots, underscores and dashes")
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let name = |bytes: usize| format!("\"{}\"", "n".repeat(bytes));
        Edges::new(
            &["\"auto\"", "\"e\"", "\"edge-1.example_2\""],
            &["\"\"", "\"a b\"", "\"a\\\"b\"", "\"ä\"", "1"],
        )
        .and(vec![name(NAME_BYTES_MAX)], vec![name(NAME_BYTES_MAX + 1)])
    }
}

/// As long as Linux lets a host name be.
const NAME_BYTES_MAX: usize = 64;

/// Which CPUs run a core: `auto`, a number of them, or a list.
pub(super) struct CoreSet;

impl Rule for CoreSet {
    type Value = Cores;

    fn read(&self, value: &DeValue<'_>) -> Result<Cores, Vec<Fault>> {
        match value {
            DeValue::String(text) if text == "auto" => Ok(Cores::Auto),
            DeValue::Integer(_) => within(integer(value)?, 1, CORES_MAX).map(Cores::Count),
            DeValue::Array(_) => {
                let entries = array(value, usize::from(CORES_MAX))?;
                let cpus = each(entries, |value| within(integer(value)?, 0, CPU_MAX))?;
                match first_twin(&cpus) {
                    None if cpus.is_empty() => Err(Fault::whole("names no CPU")),
                    None => Ok(Cores::Cpus(cpus)),
                    Some(twin) => Err(vec![Fault::part(
                        format!("[{twin}]"),
                        entries[twin].span(),
                        "is named twice: a CPU runs one core",
                    )]),
                }
            }
            DeValue::String(_) => Err(Fault::whole("is not \"auto\"")),
            other => Err(wrong_type(other)),
        }
    }

    fn unit(&self) -> &'static str {
        "cores"
    }

    fn allowed(&self) -> String {
        format!(
            "\"auto\" (every CPU of the cpuset), a number of cores from 1 to {CORES_MAX}, \
             or a list of 1 to {CORES_MAX} different CPUs from 0 to {CPU_MAX}"
        )
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let list =
            |cpus: u16| format!("[{}]", (0..cpus).map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(", "));
        Edges::new(
            &["\"auto\"", "1", "[0]", "[1, 0]"],
            &["\"all\"", "0", "-1", "[]", "[0, 0]", "[\"0\"]", "[-1]", "1.5"],
        )
        .and(
            vec![CORES_MAX.to_string(), list(CORES_MAX), format!("[{CPU_MAX}]")],
            vec![(CORES_MAX + 1).to_string(), list(CORES_MAX + 1), format!("[{}]", CPU_MAX + 1)],
        )
    }
}

/// Steering has 8 bits for the core in a connection id, and 256 sockets for each generation.
pub(super) const CORES_MAX: u16 = 256;

/// The largest CPU number of a Linux kernel built for 8192 CPUs, the most that x86-64 offers.
const CPU_MAX: u16 = 8191;

/// Index of the first entry that equals an earlier one.
fn first_twin(entries: &[u16]) -> Option<usize> {
    (1..entries.len()).find(|index| entries[..*index].contains(&entries[*index]))
}

/// Levels of the log: one for all, or one for each target.
pub(super) struct Levels;

impl Rule for Levels {
    type Value = LogFilter;

    fn read(&self, value: &DeValue<'_>) -> Result<LogFilter, Vec<Fault>> {
        let text = string(value)?;
        if text.len() > LEVELS_BYTES_MAX {
            return Err(Fault::whole("is too long"));
        }
        match text.split(',').find(|part| !is_directive(part)) {
            None => Ok(LogFilter(text.to_owned())),
            Some("") => Err(Fault::whole("has an empty part")),
            Some(part) => Err(Fault::whole(format!("has the part `{}`, which names no level", quote(part)))),
        }
    }

    fn unit(&self) -> &'static str {
        "levels"
    }

    fn allowed(&self) -> String {
        format!(
            "a level (off, error, warn, info, debug, trace), or parts LEVEL and TARGET=LEVEL with commas between, \
             up to {LEVELS_BYTES_MAX} bytes"
        )
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let long = |bytes: usize| format!("\"{}=info\"", "t".repeat(bytes - "=info".len()));
        Edges::new(
            &["\"off\"", "\"trace\"", "\"warn,berth_dataplane=debug\"", "\"berth_dataplane::config=error\""],
            &[
                "\"\"",
                "\"inof\"",
                "\"info,\"",
                "\"INFO \"",
                "\"=info\"",
                "\"a=b=info\"",
                "\"h2\"",
                "\"a[b]=info\"",
                "\"a.b=info\"",
                "3",
            ],
        )
        .and(vec![long(LEVELS_BYTES_MAX)], vec![long(LEVELS_BYTES_MAX + 1)])
    }
}

/// Room for some twenty targets; a longer filter belongs into a subscriber of its own.
const LEVELS_BYTES_MAX: usize = 1024;

/// Whether `part` is `LEVEL` or `TARGET=LEVEL`.
///
/// A narrower language than tracing's own filter, which takes a lone word for a target: there, `inof` is legal and
/// silences the whole log.
fn is_directive(part: &str) -> bool {
    let (target, level) = part.split_once('=').unwrap_or(("all", part));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte);
    !target.is_empty()
        && target.bytes().all(plain)
        && ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
}

/// Where the access log goes.
pub(super) struct Access;

impl Rule for Access {
    type Value = AccessLog;

    fn read(&self, value: &DeValue<'_>) -> Result<AccessLog, Vec<Fault>> {
        match string(value)? {
            "off" => Ok(AccessLog::Off),
            "stderr" => Ok(AccessLog::Stderr),
            _ => AbsolutePath.read(value).map(AccessLog::File),
        }
    }

    fn unit(&self) -> &'static str {
        "path"
    }

    fn allowed(&self) -> String {
        format!("\"off\", \"stderr\", or {}", AbsolutePath.allowed())
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        Edges::new(&["\"off\"", "\"stderr\"", "\"/a\""], &["\"\"", "\"stdout\"", "\"access.log\"", "false"])
    }
}

/// The status of a complete response.
pub(super) struct Status;

impl Rule for Status {
    type Value = StatusCode;

    fn read(&self, value: &DeValue<'_>) -> Result<StatusCode, Vec<Fault>> {
        let code: u16 = within(integer(value)?, STATUS_MIN, STATUS_MAX)?;
        StatusCode::from_u16(code).map_err(|problem| Fault::whole(problem.to_string()))
    }

    fn unit(&self) -> &'static str {
        "status"
    }

    fn allowed(&self) -> String {
        format!("a status from {STATUS_MIN} to {STATUS_MAX}")
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        Edges::new(&["201", "599"], &["199", "600", "0", "-200", "100", "101", "65736", "\"200\""])
    }
}

/// 1xx are not final: the node itself sends those that are due.
const STATUS_MIN: u16 = 200;
/// RFC 9110 ends its classes at 599.
const STATUS_MAX: u16 = 599;

/// Fields of a response, without those that the node itself must write.
pub(super) struct Headers {
    pub(super) entries_max: usize,
}

impl Rule for Headers {
    type Value = HeaderMap;

    fn read(&self, value: &DeValue<'_>) -> Result<HeaderMap, Vec<Fault>> {
        let DeValue::Table(table) = value else { return Err(wrong_type(value)) };
        if table.len() > self.entries_max {
            return Err(Fault::whole(format!("has {} fields, which are too many", table.len())));
        }
        collect_headers(table)
    }

    fn unit(&self) -> &'static str {
        "table"
    }

    fn allowed(&self) -> String {
        format!(
            "up to {} fields `name = \"value\"` in visible ASCII, without those that frame a message ({})",
            self.entries_max,
            RESERVED_HEADERS.map(|name| name.as_str().to_owned()).join(", ")
        )
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        let table = |entries: usize| {
            let fields: Vec<String> = (0..entries).map(|field| format!("x-{field} = \"v\"")).collect();
            format!("{{ {} }}", fields.join(", "))
        };
        let reserved = RESERVED_HEADERS.iter().map(|name| format!("{{ {name} = \"1\" }}")).collect();
        Edges::new(
            &["{ server = \"x\" }", "{ x = \"\" }", "{ X-Upper = \"a b\tc\" }"],
            &[
                "[]",
                "\"a: b\"",
                "{ a = 1 }",
                "{ \"a b\" = \"c\" }",
                "{ \"\" = \"c\" }",
                "{ a = \"b\\r\\nc: d\" }",
                "{ a = \"\\u00e4\" }",
                "{ a = \" b\" }",
                "{ a = \"b\\t\" }",
                "{ a = \"1\", A = \"2\" }",
                "{ Content-Length = \"1\" }",
            ],
        )
        .and(vec![table(self.entries_max)], vec![table(self.entries_max + 1)])
        .and(vec![], reserved)
    }
}

/// Fields that frame a message or belong to one connection: a fixed text in them would break the next request, or
/// be smuggled past the node.
const RESERVED_HEADERS: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn collect_headers(table: &DeTable<'_>) -> Result<HeaderMap, Vec<Fault>> {
    let mut fields = HeaderMap::new();
    let mut faults = Vec::new();
    for (name, value) in table {
        match read_header(name.get_ref(), value.get_ref()) {
            Ok((name, value)) if !fields.contains_key(&name) => {
                fields.insert(name, value);
            }
            Ok(_) => faults.push(header_fault(
                name,
                value,
                "is there twice: names of fields ignore case".to_owned(),
            )),
            Err(problem) => faults.push(header_fault(name, value, problem)),
        }
    }
    if faults.is_empty() { Ok(fields) } else { Err(faults) }
}

fn header_fault(name: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>, problem: String) -> Fault {
    Fault::part(format!(".{}", quote(name.get_ref().as_ref())), value.span(), problem)
}

fn read_header(name: &str, value: &DeValue<'_>) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| "has a name that no field can have".to_owned())?;
    if RESERVED_HEADERS.contains(&name) {
        return Err("is a field that the node itself writes, because it frames the message".to_owned());
    }
    let DeValue::String(text) = value else { return Err(format!("is {}, not a text", article(value))) };
    if !text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return Err("holds a character outside visible ASCII".to_owned());
    }
    if text.trim_matches([' ', '\t']).len() != text.len() {
        return Err("has a space at an end, which would not arrive".to_owned());
    }
    let value = HeaderValue::from_str(text).map_err(|problem| problem.to_string())?;
    Ok((name, value))
}

/// An empty table: the key says all that there is to say by being there.
pub(super) struct Empty;

impl Rule for Empty {
    type Value = ();

    fn read(&self, value: &DeValue<'_>) -> Result<(), Vec<Fault>> {
        match value {
            DeValue::Table(table) if table.is_empty() => Ok(()),
            DeValue::Table(_) => Err(Fault::whole("has keys, and knows none")),
            other => Err(wrong_type(other)),
        }
    }

    fn unit(&self) -> &'static str {
        "table"
    }

    fn allowed(&self) -> String {
        "an empty table {}".to_owned()
    }

    #[cfg(test)]
    fn edges(&self) -> Edges {
        Edges::new(&["{}"], &["{ x = 1 }", "true", "[]", "\"\""])
    }
}

/// The integer in `value`. TOML promises 64 bits; a longer one is only too large, not another kind of value.
fn integer(value: &DeValue<'_>) -> Result<i128, Vec<Fault>> {
    match value {
        DeValue::Integer(number) => {
            let negative = number.as_str().starts_with('-');
            let extreme = if negative { i128::MIN } else { i128::MAX };
            Ok(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(extreme))
        }
        other => Err(wrong_type(other)),
    }
}

fn within<T: Whole>(number: i128, min: T, max: T) -> Result<T, Vec<Fault>> {
    match number {
        small if small < i128::from(min.to_u64()) => Err(Fault::whole("is too small")),
        large if large > i128::from(max.to_u64()) => Err(Fault::whole("is too large")),
        fine => u64::try_from(fine).ok().and_then(T::from_u64).ok_or_else(|| Fault::whole("is too large")),
    }
}

fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Vec<Fault>> {
    match value {
        DeValue::String(text) => Ok(text),
        other => Err(wrong_type(other)),
    }
}

fn array<'v, 'i>(
    value: &'v DeValue<'i>,
    entries_max: usize,
) -> Result<&'v [Spanned<DeValue<'i>>], Vec<Fault>> {
    match value {
        DeValue::Array(entries) if entries.len() > entries_max => {
            Err(Fault::whole(format!("has {} entries, which are too many", entries.len())))
        }
        DeValue::Array(entries) => Ok(entries),
        other => Err(wrong_type(other)),
    }
}

/// Reads every entry of a list and gathers the faults of all of them.
fn each<T>(
    entries: &[Spanned<DeValue<'_>>],
    read: impl Fn(&DeValue<'_>) -> Result<T, Vec<Fault>>,
) -> Result<Vec<T>, Vec<Fault>> {
    let mut values = Vec::with_capacity(entries.len());
    let mut faults = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        match read(entry.get_ref()) {
            Ok(value) => values.push(value),
            Err(found) => faults.extend(
                found.into_iter().map(|fault| Fault::part(format!("[{index}]"), entry.span(), fault.problem)),
            ),
        }
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

fn wrong_type(value: &DeValue<'_>) -> Vec<Fault> {
    Fault::whole(format!("is {}", article(value)))
}

/// The kind of `value` with its article, in the words of TOML.
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
