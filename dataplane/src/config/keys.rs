//! Every key of the configuration, declared once.
//!
//! Why one table: the parser's default and bound, the reference page and the tests all read it. A key cannot be
//! documented with one default and started with another.
//!
//! Invariants, each proved in `tests`: a default is a value that its own rule accepts; a key is accepted at its
//! bounds and refused just outside; every key of the table reaches the [`Config`](super::Config).
//!
//! Left to others: what a rule accepts (`rules`), and what keys mean to each other (`check`).
//!
//! In a path, `[]` stands for the entries of a list of tables: `listen[].address`.

use std::time::Duration;

#[cfg(test)]
use super::rules::Edges;
use super::rules::{
    AbsolutePath, Access, Address, Addresses, CORES_MAX, Cards, Choice, CoreSet, Count, CountOrAuto, Empty,
    Headers, Levels, Name, Networks, Pattern, PowerOfTwo, Reach, Rule, Size, Status, Text, Time, User,
};
use super::units::{GIB, KIB, MIB};
use super::{ConnectionIds, Driver, Http3, LogFormat, Protocol, Stacks, Xdp};

/// One key: where it stands, what it may be, and why.
pub(super) struct Key<R> {
    /// Its place: `limits.header_bytes`.
    pub(super) path: &'static str,
    /// What it may be.
    pub(super) rule: R,
    /// What holds when it is not there.
    pub(super) fallback: Fallback,
    /// A right value, as TOML.
    pub(super) example: &'static str,
    /// What it decides, and what happens at the bound.
    pub(super) meaning: &'static str,
    /// Why this default and these bounds.
    pub(super) why: &'static str,
}

/// What holds when a key is not there.
#[derive(Clone, Copy)]
pub(super) enum Fallback {
    /// This value, as TOML.
    Default(&'static str),
    /// Nothing could: the key must be there if its table is.
    Required,
    /// No value; the words say what happens then.
    Nothing(&'static str),
}

/// What can be said of a key without knowing the type of its value.
pub(super) trait Declared: Sync {
    fn path(&self) -> &'static str;
    fn fallback(&self) -> Fallback;
    fn example(&self) -> &'static str;
    fn meaning(&self) -> &'static str;
    fn why(&self) -> &'static str;
    fn unit(&self) -> &'static str;
    fn allowed(&self) -> String;
    #[cfg(test)]
    fn edges(&self) -> Edges;
}

impl<R: Rule + Sync> Declared for Key<R> {
    fn path(&self) -> &'static str {
        self.path
    }
    fn fallback(&self) -> Fallback {
        self.fallback
    }
    fn example(&self) -> &'static str {
        self.example
    }
    fn meaning(&self) -> &'static str {
        self.meaning
    }
    fn why(&self) -> &'static str {
        self.why
    }
    fn unit(&self) -> &'static str {
        self.rule.unit()
    }
    fn allowed(&self) -> String {
        self.rule.allowed()
    }
    #[cfg(test)]
    fn edges(&self) -> Edges {
        self.rule.edges()
    }
}

/// The table that holds the key of `path`, and the key's name in it.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// A table of keys.
pub(super) struct Table {
    /// Its place: `limits.http2`, `listen[]`.
    pub(super) path: &'static str,
    /// Whether it may be there more than once.
    pub(super) entries: Entries,
    /// What its keys are about.
    pub(super) meaning: &'static str,
}

/// How often a table may be there.
pub(super) enum Entries {
    /// Once, or not at all.
    One,
    /// As a list of at most this many, because of the reason beside it.
    UpTo(usize, &'static str),
}

/// The tables, in the order of the reference.
pub(super) const TABLES: &[&Table] = &[
    &Table { path: "node", entries: Entries::One, meaning: "Who this node is and which CPUs it uses." },
    &Table {
        path: "runtime",
        entries: Entries::One,
        meaning: "The per-core runtime: kernel interface, buffers, mailboxes.",
    },
    &LISTEN,
    &Table { path: "tls", entries: Entries::One, meaning: "TLS of all https listeners." },
    &CERTIFICATES,
    &Table {
        path: "quic",
        entries: Entries::One,
        meaning: "QUIC of all https listeners with HTTP/3: what its connection ids say, and how long they live.",
    },
    &QUIC_HOSTS,
    &Table {
        path: "agent",
        entries: Entries::One,
        meaning: "The control agent (`berth agent`), which steers packets to their cores. Both programs read the same \
            file.",
    },
    &Table {
        path: "steering",
        entries: Entries::One,
        meaning: "How packets come to their cores, where an agent runs.",
    },
    &Table {
        path: "limits",
        entries: Entries::One,
        meaning: "What a peer may cost. Each limit has a counter in the metrics; at the limit the request \
            or the connection ends, never the node.",
    },
    &Table {
        path: "limits.http2",
        entries: Entries::One,
        meaning: "What a peer may do on one HTTP/2 connection. Frames are counted in windows of 10 s; \
            above a limit the connection ends with GOAWAY and ENHANCE_YOUR_CALM.",
    },
    &Table {
        path: "limits.http3",
        entries: Entries::One,
        meaning: "What a peer may do over QUIC. Beside these, the limits of connections, handshakes, heads, \
            bodies and times hold as they do over TCP.",
    },
    &Table {
        path: "limits.websocket",
        entries: Entries::One,
        meaning: "What a WebSocket peer may send; above: close code 1009.",
    },
    &Table {
        path: "admin",
        entries: Entries::One,
        meaning: "The admin API, the metrics and the health checks.",
    },
    &Table {
        path: "log",
        entries: Entries::One,
        meaning: "What the node writes about itself and about requests.",
    },
    &Table {
        path: "debug",
        entries: Entries::One,
        meaning: "What clients may learn of how they are served.",
    },
    &Table { path: "shutdown", entries: Entries::One, meaning: "How the node stops." },
    &Table {
        path: "workers",
        entries: Entries::One,
        meaning: "What guests may cost the node. What one request may cost stands where its worker is deployed.",
    },
    &Table {
        path: "objects",
        entries: Entries::One,
        meaning: "How many objects live at a time, and for how long without a message. Code and limits of a class stand where it \
            is deployed.",
    },
    &ROUTES,
    &Table {
        path: "routes[].respond",
        entries: Entries::One,
        meaning: "Action: answers with a fixed response.",
    },
    &Table {
        path: "routes[].stream",
        entries: Entries::One,
        meaning: "Action: answers with a body of a given length, made as it is sent.",
    },
    &Table {
        path: "routes[].delay",
        entries: Entries::One,
        meaning: "Action: waits, then answers 200 with a body.",
    },
];

/// The listeners.
pub(super) const LISTEN: Table = Table {
    path: "listen[]",
    entries: Entries::UpTo(
        64,
        "every listener is a socket on every core; 64 of them on 256 cores are 16,384 files",
    ),
    meaning: "An address that the node accepts connections on. At least one is needed. IPv6 addresses take \
        IPv6 only, so that a dual-stack pair is two entries. No two entries may have the same address.",
};

/// The certificates.
pub(super) const CERTIFICATES: Table = Table {
    path: "tls.certificates[]",
    entries: Entries::UpTo(
        1024,
        "all chains are read and checked at each reload, which should stay below a second",
    ),
    meaning: "A certificate. The names in it decide which clients get it (SNI, with wildcards); the first \
        one serves those that ask for no name or an unknown one. With none, the node makes its own under \
        `node.state`.",
};

/// The hosts whose connections have a core.
pub(super) const QUIC_HOSTS: Table = Table {
    path: "quic.hosts[]",
    entries: Entries::UpTo(10_000, "there may be as many as routes"),
    meaning: "A host whose QUIC connections belong to one core, whichever core their first packets reach: these are \
        handed to it before anybody answers them. Of several entries that match a name, the one of the exact host \
        counts, then `*.suffix` with the longest suffix, then `*`. Over TCP they mean nothing.",
};

/// The routes.
pub(super) const ROUTES: Table = Table {
    path: "routes[]",
    entries: Entries::UpTo(
        10_000,
        "a table of this size is built in well under a second, and nobody writes more by hand",
    ),
    meaning: "What answers which requests. A route has exactly one action: `respond`, `echo`, `stream`, \
        `delay` or `websocket`. A request that no route matches gets 404.",
};

macro_rules! keys {
    ($($name:ident: $rule:ty = $key:expr;)*) => {
        $(pub(super) const $name: Key<$rule> = $key;)*
        /// Every key, in the order of the reference.
        pub(super) const KEYS: &[&dyn Declared] = &[$(&$name),*];
    };
}

keys! {
    NODE_NAME: Name = Key {
        path: "node.name",
        rule: Name,
        fallback: Fallback::Default("\"auto\""),
        example: "\"edge-1\"",
        meaning: "Name of the node in logs, metrics and debug headers. \"auto\" takes the host name.",
        why: "Host names are already unique where machines are managed. 64 bytes is the longest host name \
            of Linux.",
    };
    NODE_STATE: AbsolutePath = Key {
        path: "node.state",
        rule: AbsolutePath,
        fallback: Fallback::Default("\"/var/lib/berth\""),
        example: "\"/var/lib/berth\"",
        meaning: "Folder for what must outlive a restart: the keyring and the self-made certificate. \
            Created with mode 0700.",
        why: "Where systemd's StateDirectory= puts it. Relative paths are refused, since they would move \
            with the folder of the start.",
    };
    NODE_CORES: CoreSet = Key {
        path: "node.cores",
        rule: CoreSet,
        fallback: Fallback::Default("\"auto\""),
        example: "[0, 1]",
        meaning: "Which CPUs run a core: \"auto\" is one for each CPU of the cpuset, a number takes the \
            first so many of them, a list names them.",
        why: "The cgroup's cpuset is where operators already divide a machine. 256 is what the 8 bits for \
            the core in a connection id can name.",
    };

    RUNTIME_DRIVER: Choice<Driver> = Key {
        path: "runtime.driver",
        rule: Choice { words: &[("auto", Driver::Auto), ("io_uring", Driver::IoUring), ("epoll", Driver::Epoll)] },
        fallback: Fallback::Default("\"auto\""),
        example: "\"io_uring\"",
        meaning: "Kernel interface of the cores. \"auto\" is io_uring where the kernel allows it, else \
            epoll with a warning; \"io_uring\" refuses to start without it.",
        why: "The node should start anywhere and say what it lacks.",
    };
    RUNTIME_RING_ENTRIES: PowerOfTwo = Key {
        path: "runtime.ring_entries",
        rule: PowerOfTwo { min: 64, max: 32_768 },
        fallback: Fallback::Default("4096"),
        example: "4096",
        meaning: "Submission entries of each core's ring. When they are used up the core submits early, \
            which costs a system call.",
        why: "One turn of a busy core submits a few thousand operations at most. 32768 is the kernel's own \
            maximum.",
    };
    RUNTIME_RECEIVE_BUFFER: Size<u32> = Key {
        path: "runtime.receive_buffer",
        rule: Size { min: KIB as u32, max: 64 * KIB as u32 },
        fallback: Fallback::Default("\"4KiB\""),
        example: "\"4KiB\"",
        meaning: "Size of one receive buffer. A request larger than this arrives in several.",
        why: "One page holds nearly every request head, and a larger buffer would be touched for nothing. \
            A receive seldom brings more than 64KiB at once.",
    };
    RUNTIME_RECEIVE_BUFFERS_MAX: PowerOfTwo = Key {
        path: "runtime.receive_buffers_max",
        rule: PowerOfTwo { min: 64, max: 1 << 15 },
        fallback: Fallback::Default("16384"),
        example: "16384",
        meaning: "Most receive buffers of one core. The pool grows under load and shrinks again; at this \
            number receives wait until buffers come back.",
        why: "16384 buffers of 4KiB are 64MiB for each core in the worst case; idle connections hold \
            none. A buffer ring of the kernel holds at most 32768.",
    };
    RUNTIME_MAILBOX_CAPACITY: Count<usize> = Key {
        path: "runtime.mailbox_capacity",
        rule: Count { min: 16, max: 65_536 },
        fallback: Fallback::Default("256"),
        example: "256",
        meaning: "Most requests that may wait between two cores, for each direction. When full, requests \
            are shed with 503.",
        why: "256 requests are some milliseconds of work for the receiver: a longer queue would only add \
            latency. Memory grows with the square of the cores.",
    };
    RUNTIME_STALL_AFTER: Time = Key {
        path: "runtime.stall_after",
        rule: Time { min: Duration::from_millis(10), max: Duration::from_mins(1) },
        fallback: Fallback::Default("\"250ms\""),
        example: "\"250ms\"",
        meaning: "A core that runs one task for longer than this is reported as stalled.",
        why: "No task should run for a millisecond; 250ms is beyond what a busy hypervisor explains. Below \
            10ms the report would be about the scheduler.",
    };

    LISTEN_ADDRESS: Address = Key {
        path: "listen[].address",
        rule: Address { reach: Reach::Any },
        fallback: Fallback::Required,
        example: "\"0.0.0.0:8080\"",
        meaning: "Address and port to accept connections on.",
        why: "No default: what a node opens to the world is written down.",
    };
    LISTEN_PROTOCOL: Choice<Protocol> = Key {
        path: "listen[].protocol",
        rule: Choice { words: &[("http", Protocol::Http), ("https", Protocol::Https)] },
        fallback: Fallback::Default("\"http\""),
        example: "\"https\"",
        meaning: "\"http\" speaks HTTP/1.1, and HTTP/2 to clients that begin with its preface (h2c by \
            prior knowledge). \"https\" speaks TLS 1.3 and picks HTTP/2 or HTTP/1.1 by ALPN.",
        why: "https needs certificates that clients trust, which no default can give.",
    };
    LISTEN_PROXY_PROTOCOL: Networks = Key {
        path: "listen[].proxy_protocol",
        rule: Networks { entries_max: 64 },
        fallback: Fallback::Default("[]"),
        example: "[\"10.0.0.0/8\", \"2001:db8::/32\"]",
        meaning: "Peers in these networks must begin each connection with a PROXY protocol v2 header, and \
            the address in it is the client's. Other peers are taken as they come. Empty: off.",
        why: "Whoever may send the header may claim any address, so nobody may unless named. 64 networks \
            are searched one by one at each accept.",
    };

    LISTEN_HTTP3: Choice<Http3> = Key {
        path: "listen[].http3",
        rule: Choice { words: &[("on", Http3::On), ("off", Http3::Off)] },
        fallback: Fallback::Default("\"on\""),
        example: "\"off\"",
        meaning: "Whether an https listener also speaks HTTP/3, on the UDP port of the same number, and tells \
            clients so (`Alt-Svc`). A listener with proxy_protocol does not: PROXY headers are of TCP.",
        why: "Clients that may use it are faster on bad lines; others never notice.",
    };

    TLS_TICKET_LIFETIME: Time = Key {
        path: "tls.ticket_lifetime",
        rule: Time { min: Duration::from_mins(1), max: Duration::from_hours(7 * 24) },
        fallback: Fallback::Default("\"12h\""),
        example: "\"12h\"",
        meaning: "How long a session ticket is good for. Later the client makes a full handshake.",
        why: "Covers a day's return visits; a stolen ticket key opens no more than this. RFC 8446 forbids \
            more than seven days.",
    };
    TLS_TICKET_ROTATION: Time = Key {
        path: "tls.ticket_rotation",
        rule: Time { min: Duration::from_mins(1), max: Duration::from_hours(7 * 24) },
        fallback: Fallback::Default("\"6h\""),
        example: "\"6h\"",
        meaning: "How often a new ticket key is made. Older keys stay until their last ticket has expired. \
            At most 30 rotations may fit into one lifetime.",
        why: "Half the lifetime, so that three keys are alive at a time. Each rotation writes the keyring, \
            hence the minute; the keyring has room for 32 keys, hence the 30.",
    };
    CERTIFICATE_CHAIN: AbsolutePath = Key {
        path: "tls.certificates[].chain",
        rule: AbsolutePath,
        fallback: Fallback::Required,
        example: "\"/etc/berth/tls/a.pem\"",
        meaning: "PEM file with the certificate and its intermediates, the certificate first.",
        why: "No default: a certificate without its chain is none.",
    };
    CERTIFICATE_KEY: AbsolutePath = Key {
        path: "tls.certificates[].key",
        rule: AbsolutePath,
        fallback: Fallback::Required,
        example: "\"/etc/berth/tls/a.key\"",
        meaning: "PEM file with the private key of the certificate.",
        why: "No default: a certificate without its key is none.",
    };

    QUIC_SERVER: Count<u16> = Key {
        path: "quic.server",
        rule: Count { min: 0, max: 65_535 },
        fallback: Fallback::Default("0"),
        example: "17",
        meaning: "The number of this node within its site. It stands in every connection id, so that the servers of \
            a site can tell whose a packet is. Servers that share an address need different ones.",
        why: "16 bits leave most numbers unused, so that a random id names no server by accident.",
    };
    QUIC_CONNECTION_IDS: Choice<ConnectionIds> = Key {
        path: "quic.connection_ids",
        rule: Choice {
            words: &[("encrypted", ConnectionIds::Encrypted), ("plaintext", ConnectionIds::Plaintext)],
        },
        fallback: Fallback::Default("\"encrypted\""),
        example: "\"plaintext\"",
        meaning: "How connection ids carry server and core. \"plaintext\" is for debugging: whoever sees packets \
            can follow a client from one address to another, and choose the core that it loads.",
        why: "Encryption costs less than 0.1 µs a datagram.",
    };
    QUIC_CONNECTION_ID_LIFETIME: Time = Key {
        path: "quic.connection_id_lifetime",
        rule: Time { min: Duration::from_secs(10), max: Duration::from_hours(1) },
        fallback: Fallback::Default("\"10m\""),
        example: "\"10m\"",
        meaning: "When a connection's ids are replaced by new ones, made with the current key. Keys are read for \
            tls.ticket_lifetime after their successor came.",
        why: "It bounds how long one id can be followed, and how long a rotation takes to reach every connection.",
    };
    QUIC_HOST: Pattern = Key {
        path: "quic.hosts[].host",
        rule: Pattern { bytes_max: 255 },
        fallback: Fallback::Required,
        example: "\"*.example.com\"",
        meaning: "Hosts that the entry is for, by the name that clients ask for in TLS: an exact name, `*.suffix`, or \
            `*` for all, also for clients that ask for none.",
        why: "No default: a core for every host is seldom meant. 255 is the longest name of the DNS.",
    };
    QUIC_HOST_CORE: Count<u16> = Key {
        path: "quic.hosts[].core",
        rule: Count { min: 0, max: CORES_MAX - 1 },
        fallback: Fallback::Required,
        example: "1",
        meaning: "Core that has the connections, counted from 0. If `node.cores` gives a number or a list, it must be \
            one of them.",
        why: "No default: it is the one thing that the entry says.",
    };

    AGENT_SOCKET: AbsolutePath = Key {
        path: "agent.socket",
        rule: AbsolutePath,
        fallback: Fallback::Nothing("no agent is asked: the kernel spreads flows by a hash of its own"),
        example: "\"/run/berth/agent.sock\"",
        meaning: "Where the agent listens and the data plane calls. Without an answer the data plane serves all the same, \
            calls again every second, and says so in `berth status`.",
        why: "Not every node has an agent: `berth dev` needs none.",
    };
    AGENT_USER: User = Key {
        path: "agent.user",
        rule: User,
        fallback: Fallback::Nothing("only root may call"),
        example: "\"berth\"",
        meaning: "The user that the data plane runs as. Nobody else, but root, may call the agent.",
        why: "Whoever calls may take the traffic of the node.",
    };
    AGENT_PINS: AbsolutePath = Key {
        path: "agent.pins",
        rule: AbsolutePath,
        fallback: Fallback::Default("\"/sys/fs/bpf/berth\""),
        example: "\"/sys/fs/bpf/berth\"",
        meaning: "Folder of the agent's programs, maps and links, on a BPF file system, where they outlive the agent. \
            Two nodes of one machine need different ones.",
        why: "Where systemd mounts the BPF file system.",
    };

    STEERING_INTERFACES: Cards = Key {
        path: "steering.interfaces",
        rule: Cards { entries_max: 16 },
        fallback: Fallback::Default("[]"),
        example: "[\"eth0\"]",
        meaning: "The network cards that clients come in by, on which XDP sends packets on to the CPUs of their cores. \
            Without any, packets reach the right socket, but may cross CPUs on their way.",
        why: "A program on a card is never attached unasked. Few machines have more than 16 cards.",
    };
    STEERING_XDP: Choice<Xdp> = Key {
        path: "steering.xdp",
        rule: Choice {
            words: &[
                ("auto", Xdp::Auto),
                ("native", Xdp::Native),
                ("generic", Xdp::Generic),
                ("off", Xdp::Off),
            ],
        },
        fallback: Fallback::Default("\"auto\""),
        example: "\"native\"",
        meaning: "How cards run the program: \"native\" in the driver, \"generic\" in the kernel behind it, \"auto\" in the \
            driver if it can, else behind it. `berth status` says which it is, and why.",
        why: "The node should start anywhere and say what it lacks.",
    };
    STEERING_ADDRESSES: Addresses = Key {
        path: "steering.addresses",
        rule: Addresses { entries_max: 128 },
        fallback: Fallback::Default("[]"),
        example: "[\"192.0.2.1\", \"2001:db8::1\"]",
        meaning: "Addresses of the node that packets are steered for, beside those of its listeners. A listener of all \
            addresses (0.0.0.0 or [::]) steers for all that the machine has.",
        why: "128 have room in the table that the kernel looks at for each packet.",
    };

    HEADER_BYTES: Size<usize> = Key {
        path: "limits.header_bytes",
        rule: Size { min: KIB as usize, max: MIB as usize },
        fallback: Fallback::Default("\"32KiB\""),
        example: "\"32KiB\"",
        meaning: "Most bytes of a request's head: request line and all fields; on HTTP/2 the decoded list. \
            Above: 431.",
        why: "The largest cookies of browsers fit twice; nginx allows 32KiB as well. Each slow client may \
            hold this much.",
    };
    HEADER_COUNT: Count<usize> = Key {
        path: "limits.header_count",
        rule: Count { min: 8, max: 1024 },
        fallback: Fallback::Default("128"),
        example: "128",
        meaning: "Most fields of a request's head. Above: 431.",
        why: "Browsers send about twenty, gateways add as many. Each field costs an entry in the table \
            even if it is empty.",
    };
    BODY_BYTES: Size<u64> = Key {
        path: "limits.body_bytes",
        rule: Size { min: 0, max: 1024 * GIB },
        fallback: Fallback::Default("\"1GiB\""),
        example: "\"1GiB\"",
        meaning: "Most bytes of a request's body. Above: 413. With 0, requests have no body.",
        why: "Bodies are streamed, so that this bounds time and traffic, not memory.",
    };
    HEADER_TIMEOUT: Time = Key {
        path: "limits.header_timeout",
        rule: Time { min: Duration::from_millis(100), max: Duration::from_mins(5) },
        fallback: Fallback::Default("\"10s\""),
        example: "\"10s\"",
        meaning: "Time from the first byte of a request to the end of its head. Above: 408, and the \
            connection closes.",
        why: "A phone on a bad line needs two seconds. Slow-header attacks live off longer times.",
    };
    BODY_TIMEOUT: Time = Key {
        path: "limits.body_timeout",
        rule: Time { min: Duration::from_millis(100), max: Duration::from_hours(1) },
        fallback: Fallback::Default("\"30s\""),
        example: "\"30s\"",
        meaning: "Time without any byte of a body that is due. Above: 408, and the connection closes.",
        why: "Longer than TCP needs for several retransmissions; an upload that pauses for longer has lost \
            its sender.",
    };
    SEND_TIMEOUT: Time = Key {
        path: "limits.send_timeout",
        rule: Time { min: Duration::from_millis(100), max: Duration::from_hours(1) },
        fallback: Fallback::Default("\"30s\""),
        example: "\"30s\"",
        meaning: "Time without any progress in sending a response. Above: the connection closes.",
        why: "The same patience as with a body: the peer's receive window has been shut for that long.",
    };
    IDLE_TIMEOUT: Time = Key {
        path: "limits.idle_timeout",
        rule: Time { min: Duration::from_millis(100), max: Duration::from_hours(1) },
        fallback: Fallback::Default("\"75s\""),
        example: "\"75s\"",
        meaning: "Time that a connection may be open without a request. Above: it closes.",
        why: "Longer than the 60 s after which common balancers close on their side, so that \
            they close first and no request is lost in between.",
    };
    CONNECTIONS: Count<usize> = Key {
        path: "limits.connections",
        rule: Count { min: 1, max: 1_000_000 },
        fallback: Fallback::Default("100000"),
        example: "100000",
        meaning: "Most open connections of the whole node. Above: closed at accept.",
        why: "At 4KiB each, the goal for plain ones, idle connections need less than 400MiB. The kernel's \
            default of 1,048,576 files for one process bounds it above.",
    };
    CONNECTIONS_PER_ADDRESS: Count<usize> = Key {
        path: "limits.connections_per_address",
        rule: Count { min: 1, max: 1_000_000 },
        fallback: Fallback::Default("1024"),
        example: "1024",
        meaning: "Most open connections from one IPv4 address or one IPv6 /64. Above: closed at accept.",
        why: "A large office behind one address fits; a hundred such addresses are needed to fill the \
            node.",
    };
    HANDSHAKES: Count<usize> = Key {
        path: "limits.handshakes",
        rule: Count { min: 1, max: 1_000_000 },
        fallback: Fallback::Default("4096"),
        example: "4096",
        meaning: "Most unfinished TLS handshakes of the whole node. Above: new ones are closed at once.",
        why: "A core completes some thousand handshakes in a second, so that 4096 are about a second of \
            work.",
    };
    HANDSHAKE_TIMEOUT: Time = Key {
        path: "limits.handshake_timeout",
        rule: Time { min: Duration::from_millis(100), max: Duration::from_mins(5) },
        fallback: Fallback::Default("\"10s\""),
        example: "\"10s\"",
        meaning: "Time from accept to the end of the TLS handshake, PROXY header included. Above: the \
            connection closes.",
        why: "Two round trips and one lost packet take less than three seconds on a bad line.",
    };

    HTTP3_STREAMS: Count<u32> = Key {
        path: "limits.http3.streams",
        rule: Count { min: 1, max: 10_000 },
        fallback: Fallback::Default("128"),
        example: "128",
        meaning: "Most concurrent request streams of a connection. A client that opens more breaks the protocol, and \
            its connection ends.",
        why: "As over HTTP/2.",
    };
    HTTP3_RESETS: Count<u32> = Key {
        path: "limits.http3.resets",
        rule: Count { min: 1, max: 100_000 },
        fallback: Fallback::Default("200"),
        example: "200",
        meaning: "Request streams that the client resets or stops within 10 s. Above: the connection ends with \
            H3_EXCESSIVE_LOAD.",
        why: "As over HTTP/2: a page that is left cancels all its streams at once.",
    };
    HTTP3_RETRY_ABOVE: Count<u32> = Key {
        path: "limits.http3.retry_above",
        rule: Count { min: 0, max: 1_000_000 },
        fallback: Fallback::Default("256"),
        example: "256",
        meaning: "While more handshakes than this are unfinished in the whole node, new QUIC clients must prove their \
            address by a Retry before anything is kept of them. 0: always.",
        why: "A Retry costs the client a round trip. 256 unfinished handshakes are some tens of milliseconds of \
            work, which only a burst or an attack brings.",
    };

    HTTP2_STREAMS: Count<u32> = Key {
        path: "limits.http2.streams",
        rule: Count { min: 1, max: 10_000 },
        fallback: Fallback::Default("128"),
        example: "128",
        meaning: "Most concurrent streams (SETTINGS_MAX_CONCURRENT_STREAMS). Above: the stream is refused.",
        why: "RFC 9113 recommends at least 100. Each stream may hold a head and a window of body.",
    };
    HTTP2_RESETS: Count<u32> = Key {
        path: "limits.http2.resets",
        rule: Count { min: 1, max: 100_000 },
        fallback: Fallback::Default("200"),
        example: "200",
        meaning: "RST_STREAM frames from the peer in one window.",
        why: "Leaving a page cancels all its streams at once, and that twice in ten seconds is human. \
            Rapid reset sends thousands in a second.",
    };
    HTTP2_SETTINGS: Count<u32> = Key {
        path: "limits.http2.settings",
        rule: Count { min: 4, max: 10_000 },
        fallback: Fallback::Default("20"),
        example: "20",
        meaning: "SETTINGS frames in one window.",
        why: "A client sends one at the start, one acknowledgement, and seldom another. Each costs an \
            answer.",
    };
    HTTP2_PINGS: Count<u32> = Key {
        path: "limits.http2.pings",
        rule: Count { min: 1, max: 10_000 },
        fallback: Fallback::Default("100"),
        example: "100",
        meaning: "PING frames in one window.",
        why: "gRPC clients that measure bandwidth send a few in a second. Each costs an answer.",
    };
    HTTP2_PRIORITIES: Count<u32> = Key {
        path: "limits.http2.priorities",
        rule: Count { min: 1, max: 1_000_000 },
        fallback: Fallback::Default("1000"),
        example: "1000",
        meaning: "PRIORITY frames in one window.",
        why: "Older browsers send a few for each request; they are read and ignored.",
    };
    HTTP2_WINDOW_UPDATES: Count<u32> = Key {
        path: "limits.http2.window_updates",
        rule: Count { min: 100, max: 100_000_000 },
        fallback: Fallback::Default("100000"),
        example: "100000",
        meaning: "WINDOW_UPDATE frames in one window.",
        why: "A download at 10 Gbit/s acknowledged every 128KiB sends just under 100,000 in ten seconds.",
    };
    HTTP2_EMPTY_FRAMES: Count<u32> = Key {
        path: "limits.http2.empty_frames",
        rule: Count { min: 1, max: 100_000 },
        fallback: Fallback::Default("100"),
        example: "100",
        meaning: "Empty DATA frames without END_STREAM, and empty pieces of header blocks, in one window.",
        why: "Correct clients have little use for them; some libraries flush with one.",
    };
    HTTP2_CONTINUATIONS: Count<u32> = Key {
        path: "limits.http2.continuations",
        rule: Count { min: 0, max: 1024 },
        fallback: Fallback::Default("16"),
        example: "16",
        meaning: "CONTINUATION frames of one header block.",
        why: "The default head of 32KiB needs two frames; 16 leave room for clients that cut small.",
    };

    WEBSOCKET_MESSAGE_BYTES: Size<usize> = Key {
        path: "limits.websocket.message_bytes",
        rule: Size { min: 125, max: 256 * MIB as usize },
        fallback: Fallback::Default("\"1MiB\""),
        example: "\"1MiB\"",
        meaning: "Most bytes of one message, over all its frames.",
        why: "A message is held whole until it is complete. 125 bytes is the longest control frame.",
    };
    WEBSOCKET_FRAME_BYTES: Size<usize> = Key {
        path: "limits.websocket.frame_bytes",
        rule: Size { min: 125, max: 256 * MIB as usize },
        fallback: Fallback::Default("\"256KiB\""),
        example: "\"256KiB\"",
        meaning: "Most bytes of one frame. A frame may not be larger than a message either, whatever \
            stands here.",
        why: "A frame is announced before it arrives: a smaller bound catches a lie earlier.",
    };

    ADMIN_LISTEN: Address = Key {
        path: "admin.listen",
        rule: Address { reach: Reach::Loopback },
        fallback: Fallback::Default("\"127.0.0.1:9090\""),
        example: "\"127.0.0.1:9090\"",
        meaning: "Address of the admin API. Only loopback for now, and not an address of a listener.",
        why: "Whoever reaches it governs the node, and it asks for no token yet.",
    };

    LOG_LEVEL: Levels = Key {
        path: "log.level",
        rule: Levels,
        fallback: Fallback::Default("\"info\""),
        example: "\"warn,berth_dataplane=debug\"",
        meaning: "Least level that is written, for all or for each target: the LEVEL and TARGET=LEVEL \
            parts of tracing's filters.",
        why: "info has a line for each decision and none for each packet. A part that names no level is \
            refused, since a misspelt level would silence the log.",
    };
    LOG_FORMAT: Choice<LogFormat> = Key {
        path: "log.format",
        rule: Choice { words: &[("text", LogFormat::Text), ("json", LogFormat::Json)] },
        fallback: Fallback::Default("\"text\""),
        example: "\"json\"",
        meaning: "Form of a line: text for people, json for collectors.",
        why: "The first reader of a new node is a person.",
    };
    LOG_ACCESS: Access = Key {
        path: "log.access",
        rule: Access,
        fallback: Fallback::Default("\"off\""),
        example: "\"/var/log/berth/access.log\"",
        meaning: "Where each request leaves a line: nowhere, on standard error, or in a file that is \
            appended to.",
        why: "A line for each request costs CPU and may be personal data: it is asked for, not given.",
    };

    DEBUG_CLIENTS: Networks = Key {
        path: "debug.clients",
        rule: Networks { entries_max: 64 },
        fallback: Fallback::Default("[]"),
        example: "[\"127.0.0.0/8\", \"::1/128\"]",
        meaning: "Clients in these networks that send `berth-debug: 1` are told in the headers of the reply who answered: \
            `berth-node`, `berth-core` and `berth-hops`, and of an object `berth-epoch` and `berth-turn-us`. Other clients \
            get none of it. `berth dev` has the loopback addresses here.",
        why: "It shows how a node is built inside, which is nobody's business unless named. Behind a proxy the client is who \
            `listen[].proxy_protocol` says, or else the proxy, and with it everybody. 64 networks are searched one by one.",
    };

    SHUTDOWN_DRAIN: Time = Key {
        path: "shutdown.drain",
        rule: Time { min: Duration::ZERO, max: Duration::from_hours(1) },
        fallback: Fallback::Default("\"30s\""),
        example: "\"30s\"",
        meaning: "Time that open requests have to end after the stop was asked for. Then connections are \
            cut. With 0s they are cut at once.",
        why: "A third of systemd's usual patience of 90 s.",
    };

    WORKERS_INSTANCES: Count<u32> = Key {
        path: "workers.instances",
        rule: Count { min: 8, max: 10_000 },
        fallback: Fallback::Default("1000"),
        example: "1000",
        meaning: "Calls of guests that run at a time, on all cores. At the bound a request is answered with 503.",
        why: "Each has a place for its memory and a stack that stay with the node: a thousand are 256 MiB of stacks at most, \
            and 6 TiB of addresses. Eight are the least with which calls to other zones end.",
    };
    WORKERS_STACKS: Choice<Stacks> = Key {
        path: "workers.stacks",
        rule: Choice { words: &[("cleaned", Stacks::Cleaned), ("kept", Stacks::Kept)] },
        fallback: Fallback::Default("\"cleaned\""),
        example: "\"kept\"",
        meaning: "What becomes of the stack of a call that has ended, before another call gets it: whether it is overwritten. \
            No guest can read either; memory, tables and globals are cleaned always.",
        why: "A mistake of the engine would show nothing of others. It takes 256 KiB to be written for each call, a fifth of \
            what a small request costs: who runs code of one owner only may save it, as `wasmtime serve` does.",
    };
    WORKERS_CODE_BYTES: Size<usize> = Key {
        path: "workers.code_bytes",
        rule: Size { min: 64 * MIB as usize, max: 64 * GIB as usize },
        fallback: Fallback::Default("\"1GiB\""),
        example: "\"1GiB\"",
        meaning: "Code of scripts that is loaded. At the bound the script that was not wanted for the longest time goes; it \
            is loaded again when it is wanted.",
        why: "Thousands of small scripts, or some twenty-five with an engine for JavaScript inside.",
    };
    WORKERS_COMPILE_MEMORY: Size<u64> = Key {
        path: "workers.compile_memory",
        rule: Size { min: 1536 * MIB, max: 16 * GIB },
        fallback: Fallback::Default("\"2GiB\""),
        example: "\"2GiB\"",
        meaning: "Memory of the process that compiles an upload. Beyond it the upload is refused.",
        why: "A component with an engine for JavaScript inside takes under 1 GiB; 1 GiB more is what the allocator sets \
            aside as the process starts.",
    };
    WORKERS_COMPILE_TIME: Time = Key {
        path: "workers.compile_time",
        rule: Time { min: Duration::from_secs(1), max: Duration::from_mins(10) },
        fallback: Fallback::Default("\"60s\""),
        example: "\"60s\"",
        meaning: "CPU time of the process that compiles an upload; on the clock it may be five times as much, since requests \
            come first. Beyond it the upload is refused.",
        why: "Ten times what a component with an engine for JavaScript inside takes.",
    };

    OBJECTS_RESIDENT: CountOrAuto = Key {
        path: "objects.resident",
        rule: CountOrAuto { min: 8, max: 1_000_000 },
        fallback: Fallback::Default("\"auto\""),
        example: "5000",
        meaning: "Objects that live at a time, on all cores. \"auto\" takes what the kernel's limits and the memory allow, with a \
            quarter kept free; a number is never more than that. At the bound the object that was idle for the longest time is \
            given up for another; where all are busy, a message that would start one more is answered with 503.",
        why: "`berth doctor` says how many that is, what bounds it, and how to raise it. A component with several memories counts \
            as several; eight are the largest that there can be.",
    };
    OBJECTS_IDLE: Time = Key {
        path: "objects.idle",
        rule: Time { min: Duration::from_secs(1), max: Duration::from_hours(24) },
        fallback: Fallback::Default("\"60s\""),
        example: "\"10s\"",
        meaning: "Time without a turn after which an object is given up, however much room there is. Its next message starts it \
            again.",
        why: "As long as somebody may come back to what was just used, and what the class keeps in memory saves work. An object \
            that is not there costs nothing.",
    };

    ROUTE_HOST: Pattern = Key {
        path: "routes[].host",
        rule: Pattern { bytes_max: 255 },
        fallback: Fallback::Default("\"*\""),
        example: "\"*.example.com\"",
        meaning: "Hosts that the route is for: an exact name, `*.suffix`, or `*` for all.",
        why: "Most nodes serve one site. 255 is the longest name of the DNS.",
    };
    ROUTE_PATH: Pattern = Key {
        path: "routes[].path",
        rule: Pattern { bytes_max: 1024 },
        fallback: Fallback::Required,
        example: "\"/hello/*\"",
        meaning: "Paths that the route is for: `/exact`, `/prefix/*`, or with names for segments as in \
            `/a/:name/b`.",
        why: "No default: a forgotten path would quietly take requests from other routes.",
    };
    ROUTE_CORE: Count<u16> = Key {
        path: "routes[].core",
        rule: Count { min: 0, max: CORES_MAX - 1 },
        fallback: Fallback::Nothing("the core that has the connection answers"),
        example: "0",
        meaning: "Core that answers: the request hops there through the mailbox. Counted from 0; only with \
            `respond` and `delay`. If `node.cores` gives a number or a list, the core must be one of them.",
        why: "A request that need not hop should not. Streaming bodies do not cross cores.",
    };
    ROUTE_ECHO: Empty = Key {
        path: "routes[].echo",
        rule: Empty,
        fallback: Fallback::Nothing("the route has another action"),
        example: "{}",
        meaning: "Action: streams the body of the request back.",
        why: "It has nothing to set.",
    };
    ROUTE_WEBSOCKET: Empty = Key {
        path: "routes[].websocket",
        rule: Empty,
        fallback: Fallback::Nothing("the route has another action"),
        example: "{}",
        meaning: "Action: accepts a WebSocket (HTTP/1.1 upgrade or RFC 8441) and sends each message back.",
        why: "It has nothing to set.",
    };
    RESPOND_STATUS: Status = Key {
        path: "routes[].respond.status",
        rule: Status,
        fallback: Fallback::Default("200"),
        example: "404",
        meaning: "Status of the response.",
        why: "1xx are not final responses. 204, 205 and 304 cannot have a body.",
    };
    RESPOND_BODY: Text = Key {
        path: "routes[].respond.body",
        rule: Text { bytes_max: MIB as usize },
        fallback: Fallback::Default("\"\""),
        example: "\"hello\\n\"",
        meaning: "Body of the response.",
        why: "The file is read whole, so that larger bodies belong into a worker or `stream`.",
    };
    RESPOND_HEADERS: Headers = Key {
        path: "routes[].respond.headers",
        rule: Headers { entries_max: 64 },
        fallback: Fallback::Default("{}"),
        example: "{ content-type = \"text/plain\" }",
        meaning: "Fields of the response. The node adds those that frame the message; they may not stand \
            here.",
        why: "64 is more than any response needs, and each is sent every time.",
    };
    STREAM_BYTES: Size<u64> = Key {
        path: "routes[].stream.bytes",
        rule: Size { min: 0, max: 1024 * GIB },
        fallback: Fallback::Required,
        example: "\"10MiB\"",
        meaning: "Length of the body.",
        why: "No default: it is the one thing that this action does.",
    };
    DELAY_TIME: Time = Key {
        path: "routes[].delay.time",
        rule: Time { min: Duration::ZERO, max: Duration::from_mins(10) },
        fallback: Fallback::Required,
        example: "\"100ms\"",
        meaning: "Time from the request to the response.",
        why: "No default: it is the one thing that this action does. Longer waits would be cut by clients \
            and proxies.",
    };
    DELAY_BODY: Text = Key {
        path: "routes[].delay.body",
        rule: Text { bytes_max: MIB as usize },
        fallback: Fallback::Default("\"\""),
        example: "\"late\\n\"",
        meaning: "Body of the response.",
        why: "As for `respond`.",
    };
}
