//! The seam that every act of a tenant passes: who may run which script, send where, connect to what.
//!
//! An act is a value that says who wants to do what. [`admit`] asks an [`Enforce`] and turns the act into an
//! [`Admitted`] act, which nothing else can make. What carries an act out takes it in that form only, so that no way
//! around the seam compiles.
//!
//! Until policies exist [`SafeDefaults`] decides. Scripts run and requests leave as they like; a connection goes to
//! public addresses only, because whoever sends from here stands inside of the operator's network. It is judged by the
//! address, never by the name: a name is whatever its owner says at the moment. The address that was judged is the one
//! that is connected to, and each connection is judged, so an answer that changes in between (DNS rebinding) gains
//! nothing. An origin that the operator has configured for the zone is the exception.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use berth_isolate_host::library::ScriptId;

/// Who acts: the zone, and the tenant that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Who {
    /// The name of the zone.
    pub zone: Arc<str>,
    /// The tenant.
    pub tenant: Arc<str>,
}

/// Decides which acts are allowed. Its methods only judge; [`admit`] is how to ask.
pub trait Enforce: Send + Sync {
    /// Whether a zone may run a script.
    fn may_instantiate(&self, act: &Instantiate<'_>) -> Result<(), Denied>;
    /// Whether a zone may send a request there. Asked for each request, before the name is resolved.
    fn may_send(&self, act: &SendOut<'_>) -> Result<(), Denied>;
    /// Whether a zone may be connected to this address. Asked for each connection, and again for each request that
    /// takes one from the pool.
    fn may_connect(&self, act: &Connect<'_>) -> Result<(), Denied>;
}

/// A zone wants an instance of a script.
#[derive(Debug, Clone, Copy)]
pub struct Instantiate<'a> {
    /// Who wants it.
    pub who: &'a Who,
    /// The script: the SHA-256 of its component.
    pub script: ScriptId,
}

/// A zone wants to send a request out.
#[derive(Debug, Clone, Copy)]
pub struct SendOut<'a> {
    /// Who wants it.
    pub who: &'a Who,
    /// The host: a name in lower case, or an address.
    pub host: &'a str,
    /// The port.
    pub port: u16,
}

/// A zone wants a connection to an address.
#[derive(Debug, Clone, Copy)]
pub struct Connect<'a> {
    /// Who wants it.
    pub who: &'a Who,
    /// The host that was resolved to the address, or the address again.
    pub host: &'a str,
    /// The address. No name is looked up after this was judged.
    pub address: SocketAddr,
}

/// An act that was judged and allowed.
#[derive(Debug)]
#[must_use = "an admission is for the act to be done"]
pub struct Admitted<A>(A);

impl<A> Admitted<A> {
    /// The act.
    pub fn act(&self) -> &A {
        &self.0
    }
}

/// Something that has to be allowed before it is done.
pub trait Act: sealed::Judged {}

impl<A: sealed::Judged> Act for A {}

mod sealed {
    use super::{Connect, Denied, Enforce, Instantiate, SendOut};

    /// How an act is judged. Private, so that no other module invents an act and judges it itself.
    pub trait Judged {
        fn judge(&self, enforce: &dyn Enforce) -> Result<(), Denied>;
    }

    impl Judged for Instantiate<'_> {
        fn judge(&self, enforce: &dyn Enforce) -> Result<(), Denied> {
            enforce.may_instantiate(self)
        }
    }

    impl Judged for SendOut<'_> {
        fn judge(&self, enforce: &dyn Enforce) -> Result<(), Denied> {
            enforce.may_send(self)
        }
    }

    impl Judged for Connect<'_> {
        fn judge(&self, enforce: &dyn Enforce) -> Result<(), Denied> {
            enforce.may_connect(self)
        }
    }
}

/// Asks whether an act is allowed. The only place where an [`Admitted`] is made.
pub fn admit<A: Act>(enforce: &dyn Enforce, act: A) -> Result<Admitted<A>, Denied> {
    act.judge(enforce)?;
    Ok(Admitted(act))
}

/// Why an act was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The address is not one that guests may reach.
    #[error(
        "zone {zone} may not connect to {address}: {why}; if it is the zone's origin, name it as such in the zone"
    )]
    Address {
        /// The zone that asked.
        zone: Arc<str>,
        /// What it asked for.
        address: SocketAddr,
        /// What is wrong with it.
        why: Unreachable,
    },
    /// A policy forbids it.
    #[error("zone {zone} may not do this: {policy}")]
    Policy {
        /// The zone that asked.
        zone: Arc<str>,
        /// The policy, and who can change it.
        policy: String,
    },
}

/// Why no guest reaches an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// The node listens there, or could.
    #[error("it is an address of this node")]
    Own,
    /// 127.0.0.0/8, ::1.
    #[error("it is a loopback address")]
    Loopback,
    /// 0.0.0.0/8, ::.
    #[error("it is not the address of a host")]
    Unspecified,
    /// 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7.
    #[error("it is a private address")]
    Private,
    /// 100.64.0.0/10.
    #[error("it is shared by the customers of a carrier")]
    Shared,
    /// 169.254.0.0/16, fe80::/10. Clouds answer with a machine's credentials there.
    #[error("it is a link-local address")]
    LinkLocal,
    /// fec0::/10.
    #[error("it is a site-local address")]
    SiteLocal,
    /// 224.0.0.0/4, ff00::/8.
    #[error("it is a multicast address")]
    Multicast,
    /// 255.255.255.255.
    #[error("it is the broadcast address")]
    Broadcast,
    /// For examples in documents.
    #[error("it is for documentation only")]
    Documentation,
    /// For benchmarks.
    #[error("it is for benchmarks only")]
    Benchmark,
    /// A platform answers its own machines there, under a public address.
    #[error("a cloud platform answers its machines there")]
    Platform,
    /// Kept for protocols, or for a later use.
    #[error("it is reserved")]
    Reserved,
}

/// A configured origin: the zone that it belongs to may reach it, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin {
    /// The zone.
    pub zone: Arc<str>,
    /// What it may reach.
    pub at: OriginAt,
}

/// How an origin is named in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginAt {
    /// This address.
    Address(SocketAddr),
    /// Whatever address this name has, on this port. The name is in lower case, without a dot at its end.
    Name(Box<str>, u16),
}

impl OriginAt {
    fn is(&self, act: &Connect<'_>) -> bool {
        match self {
            OriginAt::Address(address) => {
                (address.ip().to_canonical(), address.port())
                    == (act.address.ip().to_canonical(), act.address.port())
            }
            OriginAt::Name(name, port) => (&**name, *port) == (act.host, act.address.port()),
        }
    }
}

/// What is allowed while there are no policies.
#[derive(Debug, Clone, Default)]
pub struct SafeDefaults {
    own: Vec<IpAddr>,
    origins: Vec<AllowedOrigin>,
}

impl SafeDefaults {
    /// Refuses the addresses of the node, which are `own`, and all that are not public; but for these origins.
    pub fn new(own: impl IntoIterator<Item = IpAddr>, origins: Vec<AllowedOrigin>) -> Self {
        let own = own.into_iter().map(|address| address.to_canonical()).collect();
        Self { own, origins }
    }

    /// Why nobody reaches this address, if so.
    pub fn unreachable(&self, address: IpAddr) -> Option<Unreachable> {
        let address = address.to_canonical();
        if self.own.contains(&address) {
            return Some(Unreachable::Own);
        }
        match address {
            IpAddr::V4(address) => unreachable_v4(address),
            IpAddr::V6(address) => match embedded(address) {
                // A gateway, or the kernel, would carry it to these.
                Some(embedded) => {
                    embedded.into_iter().flatten().find_map(|inner| self.unreachable(IpAddr::V4(inner)))
                }
                None => unreachable_v6(address),
            },
        }
    }
}

impl Enforce for SafeDefaults {
    fn may_instantiate(&self, _act: &Instantiate<'_>) -> Result<(), Denied> {
        Ok(())
    }

    fn may_send(&self, _act: &SendOut<'_>) -> Result<(), Denied> {
        Ok(())
    }

    fn may_connect(&self, act: &Connect<'_>) -> Result<(), Denied> {
        let Some(why) = self.unreachable(act.address.ip()) else { return Ok(()) };
        if self.origins.iter().any(|origin| origin.zone == act.who.zone && origin.at.is(act)) {
            return Ok(());
        }
        Err(Denied::Address { zone: Arc::clone(&act.who.zone), address: act.address, why })
    }
}

/// What decides may be replaced while others ask: each act is judged by what is there at the moment.
impl Enforce for ArcSwap<SafeDefaults> {
    fn may_instantiate(&self, act: &Instantiate<'_>) -> Result<(), Denied> {
        self.load().may_instantiate(act)
    }

    fn may_send(&self, act: &SendOut<'_>) -> Result<(), Denied> {
        self.load().may_send(act)
    }

    fn may_connect(&self, act: &Connect<'_>) -> Result<(), Denied> {
        self.load().may_connect(act)
    }
}

/// IANA's registry of special-purpose IPv4 addresses, with what is reserved as a whole.
const SPECIAL_V4: &[(Ipv4Addr, u32, Unreachable)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, Unreachable::Unspecified),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Unreachable::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Unreachable::Shared),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Unreachable::Loopback),
    (Ipv4Addr::new(168, 63, 129, 16), 32, Unreachable::Platform), // Azure's; those of others are link-local.
    (Ipv4Addr::new(169, 254, 0, 0), 16, Unreachable::LinkLocal),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Unreachable::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Unreachable::Reserved),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Unreachable::Documentation),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Unreachable::Reserved), // Relays of 6to4, which are no more.
    (Ipv4Addr::new(192, 168, 0, 0), 16, Unreachable::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Unreachable::Benchmark),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Unreachable::Documentation),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Unreachable::Documentation),
    (Ipv4Addr::new(224, 0, 0, 0), 4, Unreachable::Multicast),
    (Ipv4Addr::new(255, 255, 255, 255), 32, Unreachable::Broadcast),
    (Ipv4Addr::new(240, 0, 0, 0), 4, Unreachable::Reserved),
];

/// The same for IPv6; the first that fits says why. The last three are all but 2000::/3, the only space that is given out.
const SPECIAL_V6: &[(Ipv6Addr, u32, Unreachable)] = &[
    (Ipv6Addr::UNSPECIFIED, 128, Unreachable::Unspecified),
    (Ipv6Addr::LOCALHOST, 128, Unreachable::Loopback),
    (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48, Unreachable::Benchmark),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Unreachable::Reserved),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Unreachable::Documentation),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Unreachable::Documentation),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Unreachable::Private),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, Unreachable::LinkLocal),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, Unreachable::SiteLocal),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, Unreachable::Multicast),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0), 3, Unreachable::Reserved),
    (Ipv6Addr::new(0x4000, 0, 0, 0, 0, 0, 0, 0), 2, Unreachable::Reserved),
    (Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0), 1, Unreachable::Reserved),
];

fn unreachable_v4(address: Ipv4Addr) -> Option<Unreachable> {
    let within = |net: &Ipv4Addr, bits| (address.to_bits() ^ net.to_bits()) >> (32 - bits) == 0;
    SPECIAL_V4.iter().find(|(net, bits, _)| within(net, *bits)).map(|(_, _, why)| *why)
}

fn unreachable_v6(address: Ipv6Addr) -> Option<Unreachable> {
    let within = |net: &Ipv6Addr, bits| (address.to_bits() ^ net.to_bits()) >> (128 - bits) == 0;
    SPECIAL_V6.iter().find(|(net, bits, _)| within(net, *bits)).map(|(_, _, why)| *why)
}

/// The IPv4 addresses that an IPv6 address stands for, if it is of a form that does: IPv4-compatible, -mapped and
/// -translated, NAT64, 6to4, and Teredo, which has two.
fn embedded(address: Ipv6Addr) -> Option<[Option<Ipv4Addr>; 2]> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None, // :: and ::1 are names of their own.
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some([v4(high, low), None]),
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            Some([v4(high, low), v4(!client_high, !client_low)])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn who(zone: &str) -> Who {
        Who { zone: zone.into(), tenant: "tenant".into() }
    }

    fn verdict(text: &str) -> Option<Unreachable> {
        SafeDefaults::default().unreachable(text.parse().unwrap())
    }

    #[test]
    fn each_special_range_of_ipv4_is_refused_from_its_first_address_to_its_last_and_not_beyond() {
        use Unreachable::*;
        let table: &[(&str, Option<Unreachable>)] = &[
            ("0.0.0.0", Some(Unspecified)),
            ("0.255.255.255", Some(Unspecified)),
            ("1.0.0.0", None),
            ("9.255.255.255", None),
            ("10.0.0.0", Some(Private)),
            ("10.255.255.255", Some(Private)),
            ("11.0.0.0", None),
            ("100.63.255.255", None),
            ("100.64.0.0", Some(Shared)),
            ("100.127.255.255", Some(Shared)),
            ("100.128.0.0", None),
            ("126.255.255.255", None),
            ("127.0.0.1", Some(Loopback)),
            ("127.255.255.255", Some(Loopback)),
            ("128.0.0.0", None),
            ("168.63.129.16", Some(Platform)),
            ("168.63.129.17", None),
            ("169.253.255.255", None),
            ("169.254.169.254", Some(LinkLocal)),
            ("169.255.0.0", None),
            ("172.15.255.255", None),
            ("172.16.0.0", Some(Private)),
            ("172.31.255.255", Some(Private)),
            ("172.32.0.0", None),
            ("192.0.0.170", Some(Reserved)),
            ("192.0.1.0", None),
            ("192.0.2.1", Some(Documentation)),
            ("192.88.99.1", Some(Reserved)),
            ("192.167.255.255", None),
            ("192.168.0.1", Some(Private)),
            ("192.169.0.0", None),
            ("198.17.255.255", None),
            ("198.18.0.0", Some(Benchmark)),
            ("198.19.255.255", Some(Benchmark)),
            ("198.20.0.0", None),
            ("198.51.100.7", Some(Documentation)),
            ("203.0.113.7", Some(Documentation)),
            ("223.255.255.255", None),
            ("224.0.0.1", Some(Multicast)),
            ("239.255.255.255", Some(Multicast)),
            ("240.0.0.0", Some(Reserved)),
            ("255.255.255.254", Some(Reserved)),
            ("255.255.255.255", Some(Broadcast)),
        ];
        for (address, expected) in table {
            assert_eq!(verdict(address), *expected, "{address}");
        }
    }

    #[test]
    fn only_the_space_of_ipv6_that_is_given_out_is_reached() {
        use Unreachable::*;
        let table: &[(&str, Option<Unreachable>)] = &[
            ("::", Some(Unspecified)),
            ("::1", Some(Loopback)),
            ("::2", Some(Unspecified)), // IPv4-compatible, of 0.0.0.2.
            ("100::1", Some(Reserved)), // Discard.
            ("1fff:ffff::", Some(Reserved)),
            ("2000::", None),
            ("2001:1::1", Some(Reserved)),
            ("2001:2::1", Some(Benchmark)),
            ("2001:20::1", Some(Reserved)), // ORCHIDv2.
            ("2001:1ff:ffff::", Some(Reserved)),
            ("2001:200::", None),
            ("2001:db8::1", Some(Documentation)),
            ("2001:db9::1", None),
            ("2606:4700::1111", None),
            ("3ffe::", None),
            ("3fff::1", Some(Documentation)),
            ("3fff:1000::", None),
            ("4000::", Some(Reserved)),
            ("5f00::1", Some(Reserved)), // Segments of SRv6.
            ("fbff::", Some(Reserved)),
            ("fc00::", Some(Private)),
            ("fd00:ec2::254", Some(Private)),
            ("fe00::", Some(Reserved)),
            ("fe80::1", Some(LinkLocal)),
            ("febf::1", Some(LinkLocal)),
            ("fec0::1", Some(SiteLocal)),
            ("feff::1", Some(SiteLocal)),
            ("ff02::1", Some(Multicast)),
        ];
        for (address, expected) in table {
            assert_eq!(verdict(address), *expected, "{address}");
        }
    }

    #[test]
    fn an_address_that_carries_another_is_judged_by_the_one_inside() {
        use Unreachable::*;
        let table: &[(&str, Option<Unreachable>)] = &[
            ("::ffff:127.0.0.1", Some(Loopback)),
            ("::ffff:8.8.8.8", None),
            ("::169.254.169.254", Some(LinkLocal)),
            ("::8.8.8.8", None),
            ("::ffff:0:10.0.0.1", Some(Private)),
            ("::ffff:0:8.8.8.8", None),
            ("64:ff9b::10.1.2.3", Some(Private)),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b:1::8.8.8.8", Some(Reserved)), // NAT64 of one network's own.
            ("2002:7f00:1::", Some(Loopback)),
            ("2002:c0a8:101::1", Some(Private)),
            ("2002:808:808::1", None),
            ("2001:0:7f00:1::", Some(Loopback)), // Teredo by a server on loopback.
            ("2001:0:808:808:0:0:80ff:fffe", Some(Loopback)), // Teredo of the client 127.0.0.1.
            ("2001:0:808:808:0:0:f7f7:f7f7", None), // Both are 8.8.8.8.
        ];
        for (address, expected) in table {
            assert_eq!(verdict(address), *expected, "{address}");
        }
    }

    #[test]
    fn the_nodes_own_addresses_are_refused_in_every_form() {
        let own = ["9.9.9.9", "2606:4700::1"].map(|text| text.parse().unwrap());
        let defaults = SafeDefaults::new(own, Vec::new());
        for text in ["9.9.9.9", "::ffff:9.9.9.9", "64:ff9b::9.9.9.9", "2002:909:909::", "2606:4700::1"] {
            assert_eq!(defaults.unreachable(text.parse().unwrap()), Some(Unreachable::Own), "{text}");
        }
        assert_eq!(defaults.unreachable("9.9.9.8".parse().unwrap()), None);
    }

    #[test]
    fn a_configured_origin_is_reached_by_its_zone_only_and_on_its_port_only() {
        let at = |text: &str| OriginAt::Address(text.parse().unwrap());
        let origins = vec![
            AllowedOrigin { zone: "a".into(), at: at("10.0.0.1:80") },
            AllowedOrigin { zone: "a".into(), at: OriginAt::Name("origin.test".into(), 8080) },
        ];
        let defaults = SafeDefaults::new([], origins);
        let table = [
            ("a", "10.0.0.1", "10.0.0.1:80", true),
            ("a", "any.name", "10.0.0.1:80", true),
            ("a", "any.name", "[::ffff:10.0.0.1]:80", true),
            ("a", "10.0.0.1", "10.0.0.1:81", false),
            ("a", "10.0.0.2", "10.0.0.2:80", false),
            ("b", "10.0.0.1", "10.0.0.1:80", false),
            ("a", "origin.test", "127.0.0.1:8080", true),
            ("a", "origin.test", "127.0.0.1:8081", false),
            ("a", "other.test", "127.0.0.1:8080", false),
            ("b", "origin.test", "127.0.0.1:8080", false),
            ("b", "anything", "8.8.8.8:1", true),
        ];
        for (zone, host, address, allowed) in table {
            let who = who(zone);
            let act = Connect { who: &who, host, address: address.parse().unwrap() };
            let admitted = admit(&defaults, act);
            assert_eq!(admitted.is_ok(), allowed, "{zone} {host} {address}");
            if let Ok(admitted) = admitted {
                assert_eq!(admitted.act().address, act.address);
            }
        }
    }

    #[test]
    fn a_refusal_says_who_what_why_and_what_to_do() {
        let who = who("shop");
        let act = Connect { who: &who, host: "x", address: "[::1]:80".parse().unwrap() };
        let denied = admit(&SafeDefaults::default(), act).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "zone shop may not connect to [::1]:80: it is a loopback address; \
             if it is the zone's origin, name it as such in the zone"
        );
    }

    #[test]
    fn scripts_run_and_requests_leave_by_default() {
        let who = who("shop");
        assert!(
            admit(&SafeDefaults::default(), Instantiate { who: &who, script: ScriptId::of(b"") }).is_ok()
        );
        assert!(admit(&SafeDefaults::default(), SendOut { who: &who, host: "x", port: 1 }).is_ok());
    }

    proptest! {
        /// What the standard library knows as special is refused, whatever our tables say.
        #[test]
        fn nothing_that_std_knows_as_special_is_reached(bits in any::<u32>()) {
            let address = Ipv4Addr::from_bits(bits);
            let special = address.is_private() || address.is_loopback() || address.is_link_local()
                || address.is_broadcast() || address.is_multicast() || address.is_documentation()
                || address.is_unspecified();
            let refused = unreachable_v4(address).is_some();
            prop_assert!(!special || refused, "{address}");
        }

        /// However an IPv4 address is wrapped, it is judged as itself.
        #[test]
        fn a_wrapped_address_is_judged_like_the_bare_one(bits in any::<u32>(), rest in any::<u64>()) {
            let bare = Ipv4Addr::from_bits(bits);
            let defaults = SafeDefaults::default();
            let expected = defaults.unreachable(IpAddr::V4(bare));
            let low = u128::from(bits);
            let forms = [
                0xffff << 32 | low,
                0xffff_0000 << 32 | low,
                0x64_ff9b << 96 | low,
                0x2002 << 112 | low << 80 | u128::from(rest),
                0x2001_0000 << 96 | 0x0808_0808 << 64 | u128::from(!bits),
            ];
            for form in forms {
                let form = Ipv6Addr::from_bits(form);
                prop_assert_eq!(defaults.unreachable(IpAddr::V6(form)), expected, "{}", form);
            }
        }

        /// Outside of 2000::/3 only what stands for an IPv4 address may be reached.
        #[test]
        fn no_ipv6_address_beyond_those_given_out_is_reached(bits in any::<u128>()) {
            let address = Ipv6Addr::from_bits(bits);
            let given_out = bits >> 125 == 1;
            let verdict = SafeDefaults::default().unreachable(IpAddr::V6(address));
            prop_assert!(given_out || embedded(address).is_some() || verdict.is_some(), "{address}");
        }
    }
}
