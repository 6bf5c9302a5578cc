//! What data plane and control agent tell each other over their Unix socket.
//!
//! ```text
//!   data plane                                      control agent
//!     Hello ──────────────────────────────────────────▶   may this one run, and as which generation?
//!     ◀────────────────────────────────── Granted | Refused
//!     Keys, Sockets (with the descriptors) ───────────▶   each socket into the slot of its core
//!     Serving ────────────────────────────────────────▶   new flows go there from now on
//!     ◀───────────────────────────────────────── Steered   by what packets are steered now
//!     ◀───────────────────────────────────────── Counted   what the programs have counted, once a second
//!     ◀────────────────────────────────────────── Retire   a newer generation serves: drain
//!     Draining ───────────────────────────────────────▶
//!     Explain ────────────────────────────────────────▶
//!     ◀─────────────────────────────────────── Explained
//! ```
//!
//! Each message is one packet of the socket, in JSON: they are few and small, and an operator can read them in a trace.
//! A field that the receiver does not know is passed over; a message that it does not know is an error, and so is a
//! version that the two do not share, which [`Hello`] finds out before anything else is said. Whoever loses the other
//! goes on as it is: the agent's maps stay in the kernel, and the data plane serves and calls again.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The versions of the link that this program speaks, oldest and newest.
pub const VERSIONS: Versions = Versions { oldest: 1, newest: 1 };

/// Most bytes of a message. The largest is [`Hello`], with 256 CPUs, or a sentence for an operator.
pub const MESSAGE_MAX: usize = 32 * 1024;

/// Most descriptors of a message: the kernel passes no more than 253 at once.
pub const DESCRIPTORS_MAX: usize = 250;

/// A range of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// The newest version that both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(out, "{}", self.newest),
            false => write!(out, "{} to {}", self.oldest, self.newest),
        }
    }
}

/// What the data plane says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromDataplane {
    /// Who it is. The first message, and no other.
    Hello(Hello),
    /// How the connection ids that it makes and accepts are read.
    Keys(Keys),
    /// Sockets of one group, with a descriptor for each of the cores from `first_core` on.
    Sockets {
        /// The address that they share.
        group: Group,
        /// The core of the first one.
        first_core: u8,
    },
    /// It takes new connections.
    Serving {
        /// Since when, in milliseconds since the machine started: of two that serve, the later one is the newest.
        since_ms: u64,
    },
    /// It takes none any more.
    Draining,
    /// Where would this go?
    Explain {
        /// What the answer must carry.
        ticket: u64,
        /// What is asked about.
        question: Question,
    },
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromAgent {
    /// The data plane may run.
    Granted {
        /// The version of the link from here on.
        version: u16,
        /// The agent's own version.
        build: String,
        /// The generation that it runs as.
        generation: u8,
    },
    /// It may not, because of this; for an operator's eyes.
    Refused {
        /// Why, and what to do.
        why: String,
    },
    /// How packets come to their cores now. Told whenever it changes.
    Steered(Steering),
    /// What the programs in the kernel have counted.
    Counted(Counted),
    /// Drain: a newer generation serves.
    Retire {
        /// Which.
        newer: u8,
    },
    /// The answer to a question.
    Explained {
        /// The question's.
        ticket: u64,
        /// The answer.
        answer: Explanation,
    },
}

/// Who a data plane is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions of the link that it speaks.
    pub versions: Versions,
    /// Its own version.
    pub build: String,
    /// Its process.
    pub pid: u32,
    /// The number of the node in its site.
    pub server: u16,
    /// The CPU of each core.
    pub cpus: Vec<u16>,
    /// What it runs as already, if it does: the agent was started anew, or late.
    pub running: Option<Running>,
}

/// What a data plane runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its generation.
    pub generation: u8,
    /// Since when it takes new connections, as in [`FromDataplane::Serving`]; `None`: it takes none, or has been told that
    /// a newer one does.
    pub serving_since_ms: Option<u64>,
}

/// The sockets that share an address and a transport: the kernel chooses among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Group {
    /// TCP or UDP.
    pub transport: Transport,
    /// Where they are bound.
    pub address: SocketAddr,
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.transport.word())
    }
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The one with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp].into_iter().find(|transport| transport.word() == word)
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How connection ids are read. It holds secrets, and is therefore shown to nobody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// The configs in use.
    pub configs: Vec<IdConfig>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Keys of {} codepoints", self.configs.len())
    }
}

/// How the ids of one codepoint are read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdConfig {
    /// The codepoint.
    pub codepoint: u8,
    /// The key of an encrypted one; `None`: in clear.
    pub key: Option<[u8; 16]>,
}

/// How packets come to their cores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    /// The number of the desired state that was put into the kernel.
    pub version: u64,
    /// The generation that takes new flows.
    pub generation: Option<u8>,
    /// The groups whose sockets the kernel chooses by our program.
    pub groups: Vec<Group>,
    /// What became of each network card.
    pub cards: Vec<CardState>,
    /// What went wrong at the last change, if something did: the state before it still holds.
    pub trouble: Option<String>,
}

/// What the programs in the kernel have counted since they were loaded, by the names of their counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The program of the network cards: packets by reason, and by what became of them.
    pub cards: BTreeMap<String, u64>,
    /// The programs of the sockets: datagrams and new connections, in the same way.
    pub sockets: BTreeMap<String, u64>,
}

/// What became of a network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardState {
    /// Its name.
    pub interface: String,
    /// Who runs our program there.
    pub xdp: XdpMode,
    /// Why not in a better way, if there is one.
    pub why: Option<String>,
}

/// Who runs the program of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// The card's driver, before the kernel has made anything of a frame.
    Native,
    /// The kernel, for drivers that cannot: later, and dearer.
    Generic,
    /// Nobody: packets stay on the CPU where they came in.
    Absent,
}

impl XdpMode {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Absent => "absent",
        }
    }
}

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum Question {
    /// A flow, as the client's packets carry it.
    Flow {
        /// The client.
        source: SocketAddr,
        /// The node.
        destination: SocketAddr,
        /// TCP or UDP.
        transport: Transport,
    },
    /// A connection id, as its 17 bytes.
    ConnectionId {
        /// The bytes.
        id: Vec<u8>,
    },
}

/// Where it would go, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The number of the table that says so.
    pub table: u64,
    /// Where; `None`: nowhere of ours.
    pub place: Option<Place>,
    /// By which rule, in a word: the name of its counter.
    pub rule: String,
    /// The rule in a sentence.
    pub because: String,
}

/// A core of a generation of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The server.
    pub server: u16,
    /// Its generation.
    pub generation: u8,
    /// Its core.
    pub core: u8,
    /// The CPU of the core, if the server is this one.
    pub cpu: Option<u16>,
}

/// An error with its causes, one after the other: for operators, to whom much of the link is a sentence. A cause that its
/// error says already is not said again.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadMessage(#[from] serde_json::Error);

/// A message as bytes.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("a message is made of numbers, texts and lists, which JSON has")
}

/// Reads a message.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, BadMessage> {
    Ok(serde_json::from_slice(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_share_a_version_speak_the_newest_one() {
        let versions = |oldest, newest| Versions { oldest, newest };
        assert_eq!(versions(1, 3).common(versions(2, 5)), Some(3));
        assert_eq!(versions(4, 5).common(versions(1, 4)), Some(4));
        assert_eq!(versions(1, 2).common(versions(3, 5)), None);
        assert_eq!([versions(1, 1), versions(1, 2)].map(|v| v.to_string()), ["1", "1 to 2"]);
    }

    #[test]
    fn what_is_said_is_heard() {
        let hello = FromDataplane::Hello(Hello {
            versions: VERSIONS,
            build: "0.1.0".into(),
            pid: 17,
            server: 7,
            cpus: (0..256).collect(),
            running: Some(Running { generation: 3, serving_since_ms: Some(1 << 40) }),
        });
        let bytes = encode(&hello);
        assert!(bytes.len() < MESSAGE_MAX / 8, "{} bytes of the largest node", bytes.len());
        assert_eq!(decode::<FromDataplane>(&bytes).unwrap(), hello);
        let group = Group { transport: Transport::Udp, address: "[2001:db8::1]:443".parse().unwrap() };
        let sockets = FromDataplane::Sockets { group, first_core: 250 };
        assert_eq!(decode::<FromDataplane>(&encode(&sockets)).unwrap(), sockets);
        assert_eq!(group.to_string(), "[2001:db8::1]:443/udp");
    }

    #[test]
    fn unknown_fields_are_passed_over_and_unknown_messages_are_not() {
        let newer = br#"{"say": "retire", "newer": 2, "gently": true}"#;
        assert_eq!(decode::<FromAgent>(newer).unwrap(), FromAgent::Retire { newer: 2 });
        let error = decode::<FromAgent>(br#"{"say": "dance"}"#).unwrap_err().to_string();
        assert!(error.contains("unknown variant `dance`"), "{error}");
    }

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Layer {
            text: &'static str,
            source: Option<Box<Layer>>,
        }
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        let cause = layer("no room", None);
        let error = layer("cannot bind", Some(layer("the port: no room", Some(cause))));
        assert_eq!(with_causes(&error), "cannot bind: the port: no room");
    }

    #[test]
    fn keys_do_not_show_themselves() {
        let keys = Keys { configs: vec![IdConfig { codepoint: 1, key: Some([0x41; 16]) }] };
        assert_eq!(format!("{:?}", FromDataplane::Keys(keys)), "Keys(Keys of 1 codepoints)");
    }
}
