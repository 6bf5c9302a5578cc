//! Two network namespaces with a cable between them: the node's and its clients'.
//!
//! Nothing outside of them is touched, and both are gone when the value is dropped. Needs root and `ip`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The node's end of the cable.
pub const NODE_CARD: &str = "node0";
/// The clients' end.
const CLIENT_CARD: &str = "client0";
/// The node's address: one of the fixtures' site.
pub const NODE_ADDRESS: &str = "192.0.2.1";
/// The same of IPv6.
pub const NODE_ADDRESS_V6: &str = "2001:db8::1";
/// Addresses of clients.
pub const CLIENTS: [&str; 4] = ["192.0.2.100", "192.0.2.101", "192.0.2.102", "192.0.2.103"];
/// The same of IPv6.
pub const CLIENTS_V6: [&str; 4] = ["2001:db8::100", "2001:db8::101", "2001:db8::102", "2001:db8::103"];

/// The two namespaces.
#[derive(Debug)]
pub struct Network {
    node: Namespace,
    client: Namespace,
}

#[derive(Debug)]
struct Namespace {
    name: String,
    file: File,
}

impl Network {
    /// Builds it, or says what is missing.
    pub fn build() -> Result<Self, String> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let number = BUILT.fetch_add(1, Relaxed);
        let namespace = |role| Namespace::add(format!("berth-{role}-{}-{number}", std::process::id()));
        let network = Self { node: namespace("node")?, client: namespace("client")? };
        let (node, client) = (network.node.name.as_str(), network.client.name.as_str());
        ip(&["link", "add", NODE_CARD, "netns", node, "type", "veth", "peer", CLIENT_CARD, "netns", client])?;
        for (namespace, card, v4, v6) in [
            (node, NODE_CARD, &[NODE_ADDRESS][..], &[NODE_ADDRESS_V6][..]),
            (client, CLIENT_CARD, &CLIENTS, &CLIENTS_V6),
        ] {
            for address in v4 {
                ip(&["-netns", namespace, "address", "add", &format!("{address}/24"), "dev", card])?;
            }
            for address in v6 {
                ip(&["-netns", namespace, "address", "add", &format!("{address}/64"), "dev", card, "nodad"])?;
            }
            ip(&["-netns", namespace, "link", "set", "lo", "up"])?;
            ip(&["-netns", namespace, "link", "set", card, "up"])?;
        }
        // A packet that another CPU takes over is built anew, without the note that its checksum is still to be made.
        network.at_client(|| sum_in_software(CLIENT_CARD))?;
        Ok(network)
    }

    /// The name of the node's namespace, for `ip -netns`.
    pub fn node_name(&self) -> &str {
        &self.node.name
    }

    /// Has threads of their own do the work of the node's card, on this CPU; how many there are. A card without NAPI, as a
    /// cable without a program is, has none.
    pub fn thread_napi(&self, cpu: usize) -> usize {
        let file = format!("/sys/class/net/{NODE_CARD}/threaded");
        // This command sees the namespace's own /sys.
        let _ = ip(&["netns", "exec", &self.node.name, "sh", "-c", &format!("echo 1 > {file}")]);
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let is_ours = |process: &std::fs::DirEntry| {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            name.starts_with(&format!("napi/{NODE_CARD}-"))
        };
        let pinned = processes.filter(is_ours).filter(|process| {
            let mut taskset = Command::new("taskset");
            taskset.args(["--cpu-list", "--pid", &cpu.to_string()]).arg(process.file_name());
            taskset.output().is_ok_and(|output| output.status.success())
        });
        pinned.count()
    }

    /// Runs `f` on a thread in the node's namespace.
    pub fn at_node<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.node.enter(f)
    }

    /// The same in the clients'.
    pub fn at_client<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.client.enter(f)
    }
}

impl Namespace {
    fn add(name: String) -> Result<Self, String> {
        ip(&["netns", "add", &name])?;
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Self { name, file })
    }

    /// Sockets belong to the namespace of the thread that makes them.
    fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let thread = || {
            // SAFETY: takes a descriptor, which is open for as long as the call, and changes this new thread only.
            let entered = unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "{}: {}", self.name, std::io::Error::last_os_error());
            f()
        };
        // Steering tables have 173 KB, and unoptimised code hands them from frame to frame.
        let builder = std::thread::Builder::new().stack_size(16 << 20);
        let run = || {
            std::thread::scope(|scope| {
                builder.spawn_scoped(scope, thread).expect("a thread can be had").join()
            })
        };
        run().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // With its namespaces the cable goes as well.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// Turns off the card's own checksums of what it sends.
fn sum_in_software(card: &str) -> Result<(), String> {
    /// As `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const SET_TX_CHECKSUM: u32 = 0x17;
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    let mut value = Value { command: SET_TX_CHECKSUM, data: 0 };
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(|error| error.to_string())?;
    // SAFETY: all zero is an `ifreq`; its name is shorter than the field and ends in zero; the kernel reads `value`
    // through it during the call, in which both live.
    let failed = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(card.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request)
    };
    if failed == 0 { Ok(()) } else { Err(format!("{card}: {}", std::io::Error::last_os_error())) }
}

/// Sends datagrams of one length in one go, as a train that the kernel may leave together.
pub fn send_train(
    from: &std::net::UdpSocket,
    to: std::net::SocketAddr,
    datagrams: &[Vec<u8>],
) -> std::io::Result<usize> {
    let size = datagrams.first().map_or(0, Vec::len) as libc::c_int;
    // SAFETY: the option is read from a local of its size, during the call.
    let set = unsafe {
        let length = size_of_val(&size) as libc::socklen_t;
        libc::setsockopt(from.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), length)
    };
    if set != 0 {
        return Err(std::io::Error::last_os_error());
    }
    from.send_to(&datagrams.concat(), to)
}
