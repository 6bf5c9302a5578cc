//! HTTP/3 with s2n-quic, the second QUIC that we did not write, and framing that shares nothing with the node.

use std::pin::pin;
use std::time::Duration;

use berth_tests::http3::{self, Method};
use berth_tests::node::{Driver, Node, Plan};
use berth_tests::on_both_drivers;
use berth_tests::relay::{Faults, Relay};
use berth_tests::s2n::{Connection, End, run};
use futures_util::future::join_all;

use crate::common;

on_both_drivers!([]; a_handshake_and_some_requests, a_thousand_requests_on_fifty_streams,
    ten_megabytes_come_back, everything_arrives_through_a_bad_network, the_address_changes_in_mid_transfer,
    connections_end_with_codes);

/// The name that the certificate is for.
const NAME: &str = "localhost";

/// A node with more in its configuration, and the certificate that its clients trust.
fn start_with(driver: Driver, more: &str) -> (Node, String) {
    let plan = Plan::new(driver, common());
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let (chain, key) = (plan.folder().join("site.pem"), plan.folder().join("site.key"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files =
        format!("[[tls.certificates]]\nchain = \"{}\"\nkey = \"{}\"\n", chain.display(), key.display());
    (plan.and(&files).and(more).start(), made.cert.pem())
}

fn start(driver: Driver) -> (Node, String) {
    start_with(driver, "")
}

/// The end of a story in which nobody broke a rule.
fn finish(node: Node) {
    for number in
        ["quic_protocol_errors", "http3_protocol_errors", "quic_malformed", "quic_handshake_failures"]
    {
        assert_eq!(node.number(number), 0, "{number}");
    }
    node.finish();
}

fn a_handshake_and_some_requests(driver: Driver) {
    let (node, certificate) = start(driver);
    run(async {
        let connection = Connection::open(node.listener(1), NAME, &certificate).await.unwrap();
        let hello = connection.get("/").await.unwrap();
        assert_eq!((hello.status, hello.body.as_slice()), (200, b"hello\n".as_slice()));
        assert_eq!(connection.get("/nothing").await.unwrap().status, 204);
        assert_eq!(connection.get("/nowhere").await.unwrap().status, 404);
        assert_eq!(connection.get("/stream/1MiB").await.unwrap().body.len(), 1 << 20);
        let echo = connection.request(Method::Post, "/echo", b"ahoy").await.unwrap();
        assert_eq!(echo.body, b"ahoy");
        connection.close(http3::NO_ERROR).await;
    });
    assert_eq!(node.number("requests_http3"), 5);
    assert_eq!(node.number("quic_handshakes"), 1);
    finish(node);
}

fn a_thousand_requests_on_fifty_streams(driver: Driver) {
    let (node, certificate) = start(driver);
    run(async {
        let connection = Connection::open(node.listener(1), NAME, &certificate).await.unwrap();
        join_all((0..50).map(async |_| {
            for _ in 0..20 {
                assert_eq!(connection.get("/").await.unwrap().body, b"hello\n");
            }
        }))
        .await;
        connection.close(http3::NO_ERROR).await;
    });
    assert_eq!((node.number("requests_http3"), node.number("http3_connections")), (1000, 1));
    finish(node);
}

/// Bytes in which no lost, repeated or misplaced piece can hide.
fn bytes(count: usize) -> Vec<u8> {
    let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    std::iter::successors(Some(7), next).map(|state| (state >> 56) as u8).take(count).collect()
}

/// Sends so many bytes, and has them sent back.
async fn echo(connection: &Connection, count: usize) {
    let body = bytes(count);
    let response = connection.request(Method::Post, "/echo", &body).await.unwrap();
    assert_eq!(response.status, 200);
    assert!(response.body == body, "{count} bytes come back as they were sent");
}

fn ten_megabytes_come_back(driver: Driver) {
    let (node, certificate) = start(driver);
    run(async {
        let connection = Connection::open(node.listener(1), NAME, &certificate).await.unwrap();
        echo(&connection, 10_000_000).await;
        connection.close(http3::NO_ERROR).await;
    });
    finish(node);
}

fn everything_arrives_through_a_bad_network(driver: Driver) {
    let (node, certificate) = start(driver);
    let faults = Faults {
        seed: 22,
        drop_permille: 100,
        duplicate_permille: 20,
        reorder_permille: 50,
        reorder_within: Duration::from_millis(5),
        ..Faults::default()
    };
    let relay = Relay::start(node.listener(1), faults).unwrap();
    run(async {
        let connection = Connection::open(relay.address(), NAME, &certificate).await.unwrap();
        join_all((0..10).map(|_| echo(&connection, 50_000))).await;
        connection.close(http3::NO_ERROR).await;
    });
    assert!(relay.to_node().dropped > 0 && relay.to_clients().dropped > 0);
    finish(node);
}

fn the_address_changes_in_mid_transfer(driver: Driver) {
    let (node, certificate) = start(driver);
    let faults = Faults { delay: Duration::from_millis(10), ..Faults::default() };
    let relay = Relay::start(node.listener(1), faults).unwrap();
    let mut rebindings = 0;
    run(async {
        let connect = |_| Connection::open(relay.address(), NAME, &certificate);
        let connections: Vec<_> =
            join_all((0..8).map(connect)).await.into_iter().map(Result::unwrap).collect();
        let transfer = async |connection: Connection| {
            echo(&connection, 1 << 20).await;
            connection.close(http3::NO_ERROR).await;
        };
        let transfers = join_all(connections.into_iter().map(transfer));
        let mut transfers = pin!(transfers);
        while tokio::time::timeout(Duration::from_millis(100), &mut transfers).await.is_err() {
            rebindings += 1;
            assert_eq!(relay.rebind(), 8);
        }
    });
    assert!(rebindings >= 2, "there was a middle");
    assert_eq!(node.number("quic_handshakes"), 8, "nobody had to begin again");
    let tossed = node.number("quic_tossed");
    assert!(tossed > 0 || node.numbers("quic_tossed").len() < 2, "new addresses lead to other cores");
    assert_eq!(node.number("quic_caught"), tossed);
    finish(node);
}

/// What the node says when it ends a connection whose client did this.
async fn provoke(node: &Node, certificate: &str, misdeed: &[u8], stream: Stream) -> End {
    let connection = Connection::open_without_settings(node.listener(1), NAME, certificate).await.unwrap();
    match stream {
        Stream::Control => drop(connection.stream(misdeed.to_vec()).await),
        Stream::Request => {
            let _control = connection.stream(http3::control_stream()).await.unwrap();
            let mut stream = connection.open_stream().await.unwrap();
            stream.send(misdeed.to_vec().into()).await.unwrap();
            return connection.end().await;
        }
    }
    connection.end().await
}

#[derive(Clone, Copy)]
enum Stream {
    Control,
    Request,
}

fn connections_end_with_codes(driver: Driver) {
    let (node, certificate) = start_with(driver, "[limits]\nidle_timeout = \"3s\"\n");
    run(async {
        let settings_twice = [http3::control_stream(), http3::frame(http3::SETTINGS, &[])].concat();
        let no_settings = [vec![0], http3::frame(0x7, &[0])].concat();
        let body_without_head = http3::frame(http3::DATA, b"body");
        for (misdeed, stream, code) in [
            (&settings_twice, Stream::Control, http3::FRAME_UNEXPECTED),
            (&no_settings, Stream::Control, http3::MISSING_SETTINGS),
            (&body_without_head, Stream::Request, http3::FRAME_UNEXPECTED),
        ] {
            let end = provoke(&node, &certificate, misdeed, stream).await;
            assert_eq!(end, End::Code(code), "{misdeed:?}");
        }
        assert_eq!(node.number("http3_protocol_errors"), 3);
        let connection = Connection::open(node.listener(1), NAME, &certificate).await.unwrap();
        assert_eq!(connection.get("/").await.unwrap().status, 200);
        assert_eq!(connection.end().await, End::Code(http3::NO_ERROR), "to be idle is no error");
    });
    assert_eq!(node.number("http3_protocol_errors"), 3);
    node.finish();
}
