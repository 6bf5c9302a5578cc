//! Where things are pinned, and how they are named there. Pure.
//!
//! ```text
//!   /sys/fs/bpf/berth/            agent.pins
//!     v2/                         the layout of the table: what another one brings has a folder of its own
//!       table                     the table in use
//!       maps/TABLES, ...          the maps that all programs share
//!       programs/native, generic  the programs for cards
//!       links/native-2-eth0       what is attached: by whom it is run, the card's number and name
//!       groups/udp-c0000201-443/  the sockets that share an address: `sockets`, `program`
//! ```
//!
//! A name that is not one of these is somebody else's, and is left alone. No name has a dot: the kernel's file system of
//! BPF refuses them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use berth_protocol::link::{Group, Transport, XdpMode};
use berth_steer::table::LAYOUT;

/// Our folder, and what is in it.
#[derive(Debug, Clone)]
pub struct Pins {
    /// The folder of this layout.
    pub folder: PathBuf,
}

impl Pins {
    /// Below the folder of the configuration.
    pub fn new(pins: &Path) -> Self {
        Self { folder: pins.join(folder_of(LAYOUT)) }
    }

    /// Those of another layout, which lie beside these.
    pub fn of_layout(&self, layout: u32) -> Self {
        Self { folder: self.folder.with_file_name(folder_of(layout)) }
    }

    /// The folders, in the order in which they are made.
    pub fn folders(&self) -> [PathBuf; 5] {
        [self.folder.clone(), self.maps(), self.folder.join("programs"), self.links(), self.groups()]
    }

    /// Where the shared maps are.
    pub fn maps(&self) -> PathBuf {
        self.folder.join("maps")
    }

    /// The table in use.
    pub fn table(&self) -> PathBuf {
        self.folder.join("table")
    }

    /// Where links are.
    pub fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    /// Where groups are.
    pub fn groups(&self) -> PathBuf {
        self.folder.join("groups")
    }

    /// The program for cards that run it this way.
    pub fn program(&self, mode: XdpMode) -> PathBuf {
        self.folder.join("programs").join(mode.word())
    }

    /// A link to a card.
    pub fn link(&self, mode: XdpMode, index: u32, interface: &str) -> PathBuf {
        self.links().join(format!("{}-{index}-{}", mode.word(), interface.replace('.', DOT)))
    }

    /// The folder of a group.
    pub fn group(&self, group: &Group) -> PathBuf {
        let address = match group.address.ip() {
            IpAddr::V4(address) => format!("{:08x}", address.to_bits()),
            IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
        };
        self.groups().join(format!("{}-{address}-{}", group.transport.word(), group.address.port()))
    }
}

/// What stands for a dot. A slash cannot be in a card's name, so this is nobody else's.
const DOT: &str = "%2e";

fn folder_of(layout: u32) -> String {
    format!("v{layout}")
}

/// Which other layout's folder has this name.
pub fn parse_other_layout(name: &str) -> Option<u32> {
    let layout = name.strip_prefix('v')?.parse().ok()?;
    (layout != LAYOUT && name == folder_of(layout)).then_some(layout)
}

/// What the name of a link says.
pub fn parse_link(name: &str) -> Option<(XdpMode, u32, String)> {
    let mut parts = name.splitn(3, '-');
    let mode = [XdpMode::Native, XdpMode::Generic]
        .into_iter()
        .find(|mode| Some(mode.word()) == parts.clone().next())?;
    let index = parts.nth(1)?.parse().ok()?;
    Some((mode, index, parts.next()?.replace(DOT, ".")))
}

/// What the name of a group's folder says.
pub fn parse_group(name: &str) -> Option<Group> {
    let mut parts = name.split('-');
    let transport = Transport::from_word(parts.next()?)?;
    let address = parts.next()?;
    let ip = match address.len() {
        8 => IpAddr::V4(u32::from_str_radix(address, 16).ok()?.into()),
        32 => IpAddr::V6(u128::from_str_radix(address, 16).ok()?.into()),
        _ => return None,
    };
    let port = parts.next()?.parse().ok()?;
    parts.next().is_none().then(|| Group { transport, address: SocketAddr::new(ip, port) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &Path) -> &str {
        path.file_name().unwrap().to_str().unwrap()
    }

    #[test]
    fn names_are_read_as_they_were_written_and_have_no_dot() {
        let pins = Pins::new(Path::new("/sys/fs/bpf/berth"));
        for (mode, index, interface) in [(XdpMode::Native, 2, "eth0"), (XdpMode::Generic, 17, "bond0.100-x")]
        {
            let path = pins.link(mode, index, interface);
            assert_eq!(parse_link(name(&path)), Some((mode, index, interface.to_owned())));
            assert!(!name(&path).contains('.'));
        }
        for address in ["192.0.2.1:443", "[2001:db8::1]:65535", "[::]:1"] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let group = Group { transport, address: address.parse().unwrap() };
                let path = pins.group(&group);
                assert_eq!(parse_group(name(&path)), Some(group));
                assert!(!name(&path).contains('.'));
            }
        }
        assert_eq!(pins.program(XdpMode::Native), Path::new("/sys/fs/bpf/berth/v2/programs/native"));
    }

    #[test]
    fn other_layouts_are_known_by_their_folders() {
        let pins = Pins::new(Path::new("/sys/fs/bpf/berth"));
        assert_eq!(parse_other_layout(name(&pins.folder)), None, "this one");
        assert_eq!(parse_other_layout(name(&pins.of_layout(7).folder)), Some(7));
        for foreign in ["", "v", "7", "v07", "v+7", "v-1", "v7x", "w7", "v99999999999"] {
            assert_eq!(parse_other_layout(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn other_names_are_nobodys_of_ours() {
        for foreign in
            ["", "native", "native-2", "native-x-eth0", "absent-2-eth0", "cilium_xdp", "offload-2-eth0"]
        {
            assert_eq!(parse_link(foreign), None, "{foreign}");
        }
        for foreign in [
            "",
            "udp",
            "udp-c0000201",
            "udp-c00002-443",
            "udp-c0000201-443-1",
            "sctp-c0000201-443",
            "udp-c0000201-65536",
        ] {
            assert_eq!(parse_group(foreign), None, "{foreign}");
        }
    }
}
