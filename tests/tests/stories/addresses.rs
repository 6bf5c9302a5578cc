//! Where a node listens, and whom it takes its clients for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use berth_tests::clients::{connect, curl, exchange};
use berth_tests::node::{Driver, HTTP, Plan, route, wait_until};
use berth_tests::on_both_drivers;

on_both_drivers!(["curl", "ipv6"]; several_addresses_of_both_families);
on_both_drivers!(["curl", "ipv6"]; a_trusted_proxy_names_the_client, nobody_else_may_name_a_client);
on_both_drivers!(["curl", "root", "setpriv"]; a_low_port_needs_one_capability_and_no_root);
on_both_drivers!(["root", "setpriv", "unshare"]; without_the_capability_the_message_tells_the_remedy);

fn hello() -> String {
    route("/", r#"respond = { body = "hello\n" }"#)
}

fn several_addresses_of_both_families(driver: Driver) {
    let listener = |address: &str, protocol: &str| {
        format!("[[listen]]\naddress = \"{address}\"\nprotocol = \"{protocol}\"\n")
    };
    let wanted = [
        ("127.0.0.1:0", "http"),
        ("127.0.0.2:0", "http"),
        ("[::1]:0", "http"),
        ("127.0.0.1:0", "https"),
        ("[::1]:0", "https"),
    ];
    let text: String = wanted.iter().map(|(address, protocol)| listener(address, protocol)).collect();
    let node = Plan::new(driver, text + &hello()).start();
    for (index, (_, protocol)) in wanted.iter().enumerate() {
        let url = format!("{protocol}://{}/", node.listener(index));
        assert_eq!(curl(&["--insecure", &url]).ok(), "hello\n", "{url}");
    }
    wait_until("five lines", || node.access_log().len() == wanted.len());
    let clients: Vec<_> =
        node.access_log().iter().map(|line| line["client"].as_str().unwrap().to_owned()).collect();
    assert_eq!(clients, ["127.0.0.1", "127.0.0.1", "::1", "127.0.0.1", "::1"]);
    node.finish();
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// A PROXY v2 header that names this client, by the specification and not by our code.
fn proxy_v4(client: Ipv4Addr) -> Vec<u8> {
    let mut header = [SIGNATURE, &[0x21, 0x11, 0, 12]].concat();
    header.extend(client.octets());
    header.extend([192, 0, 2, 1]);
    header.extend([0x30, 0x39, 0x01, 0xbb]);
    header
}

fn proxy_v6(client: Ipv6Addr) -> Vec<u8> {
    // With a TLV behind the addresses, which is to be skipped: type NOOP, three bytes.
    let mut header = [SIGNATURE, &[0x21, 0x21, 0, 36 + 6]].concat();
    header.extend(client.octets());
    header.extend(Ipv6Addr::LOCALHOST.octets());
    header.extend([0x30, 0x39, 0x01, 0xbb]);
    header.extend([0x04, 0, 3, 1, 2, 3]);
    header
}

const BEHIND_PROXY: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = [\"127.0.0.1/32\"]\n\
                            [[listen]]\naddress = \"[::1]:0\"\nproxy_protocol = [\"127.0.0.1/32\"]\n";

fn a_trusted_proxy_names_the_client(driver: Driver) {
    let node = Plan::new(driver, BEHIND_PROXY.to_owned() + &hello()).start();
    let local = [SIGNATURE, &[0x20, 0x00, 0, 0]].concat();
    let headers = [
        (proxy_v4(Ipv4Addr::new(203, 0, 113, 7)), "203.0.113.7"),
        (proxy_v6("2001:db8::7".parse().unwrap()), "2001:db8::7"),
        (local, "127.0.0.1"),
    ];
    for (header, _) in &headers {
        let said = exchange(node.listener(0), &[header, GET].concat());
        assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("hello\n"), "{said}");
        // The same byte by byte: a header may be cut anywhere.
        let mut stream = connect(node.listener(0));
        stream.set_nodelay(true).unwrap();
        for byte in header.iter().chain(GET) {
            stream.write_all(&[*byte]).unwrap();
        }
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.ends_with("hello\n"), "{said}");
    }
    wait_until("a line for each request", || node.access_log().len() == 6);
    let clients: Vec<_> =
        node.access_log().iter().map(|line| line["client"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<&str> = headers.iter().flat_map(|(_, client)| [*client, *client]).collect();
    assert_eq!(clients, expected);
    node.finish();
}

fn nobody_else_may_name_a_client(driver: Driver) {
    let node = Plan::new(driver, BEHIND_PROXY.to_owned() + &hello()).start();
    // From ::1, which is not trusted, the header is just a malformed request.
    let said = exchange(node.listener(1), &[&proxy_v4(Ipv4Addr::new(203, 0, 113, 7)), GET].concat());
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    let said = curl(&["--haproxy-protocol", &format!("http://{}/", node.listener(1))]);
    assert!(said.stdout.contains("400") || said.code != 0, "{}", said.all());
    // Who is not trusted and sends none is served.
    assert_eq!(curl(&[format!("http://{}/", node.listener(1))]).ok(), "hello\n");
    assert_eq!(node.number("proxy_header_failures"), 0);

    // From 127.0.0.1 a header is due: version 1, none, and half of one are refused.
    let said = curl(&["--haproxy-protocol", &format!("http://{}/", node.listener(0))]);
    assert_ne!(said.code, 0, "{}", said.all());
    assert_eq!(exchange(node.listener(0), GET), "");
    let mut stream = connect(node.listener(0));
    stream.write_all(&SIGNATURE[..7]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert_eq!(node.number("proxy_header_failures"), 3);
    assert!(node.access_log().iter().all(|line| line["client"] != "203.0.113.7"));
    node.finish();
}

/// The user `nobody` of every Linux.
const NOBODY: u32 = 65534;
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// An address of the loopback network that no other process of the machine listens on.
fn low_port(driver: Driver) -> String {
    let host = if driver == Driver::Uring { 61 } else { 62 };
    format!("[[listen]]\naddress = \"127.80.43.{host}:80\"\n")
}

fn a_low_port_needs_one_capability_and_no_root(driver: Driver) {
    let plan = Plan::new(driver, low_port(driver) + &hello()).owned_by(NOBODY);
    let rights = ["--inh-caps=-all,+net_bind_service", "--ambient-caps=-all,+net_bind_service"];
    let bounding = ["--bounding-set=-all,+net_bind_service", "--no-new-privs"];
    let node = plan.through(&AS_NOBODY).through(&rights).through(&bounding).start();
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000400"), "only CAP_NET_BIND_SERVICE: {status}");
    assert_eq!(curl(&[format!("http://{}/", node.listener(0))]).ok(), "hello\n");
    node.finish();
}

fn without_the_capability_the_message_tells_the_remedy(driver: Driver) {
    // In a network namespace of its own the lowest free port is 1024, whatever the machine allows.
    let text = HTTP.replace("127.0.0.1:0", "0.0.0.0:80") + &hello();
    let plan = Plan::new(driver, text).owned_by(NOBODY);
    let node = plan.through(&["unshare", "--net"]).through(&AS_NOBODY).launch();
    assert_eq!(node.wait().code(), Some(1));
    let log = node.log();
    for part in ["cannot listen on 0.0.0.0:80", "CAP_NET_BIND_SERVICE", "AmbientCapabilities=", "setcap"] {
        assert!(log.contains(part), "{part} is missing: {log}");
    }
    assert!(log.contains("net.ipv4.ip_unprivileged_port_start"), "{log}");
}
