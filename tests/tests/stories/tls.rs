//! TLS 1.3 with openssl: certificates by name, sessions that last, reload without a dropped
//! connection.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use berth_tests::clients::{finish, read_until, run_with_input};
use berth_tests::node::{Driver, HTTP, HTTPS, Node, Plan, route};
use berth_tests::on_both_drivers;

on_both_drivers!(["openssl"]; the_name_chooses_the_certificate,
    a_session_resumes_on_every_core_and_after_a_restart,
    a_reload_keeps_connections_and_brings_the_new_certificate,
    a_broken_certificate_changes_nothing, the_self_made_certificate_survives);

/// A certificate for names, written to two files of the folder. Returns its PEM text.
fn make(folder: &Path, file: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(folder.join(format!("{file}.pem")), made.cert.pem()).unwrap();
    std::fs::write(folder.join(format!("{file}.key")), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem().replace('\r', "")
}

/// The configuration that uses such files, the first one being the default.
fn using(folder: &Path, files: &[&str]) -> String {
    let mut text = format!("{HTTP}{HTTPS}{}", route("/", r#"respond = { body = "hello\n" }"#));
    for file in files {
        let path = folder.join(file);
        text += &format!("[[tls.certificates]]\nchain = \"{0}.pem\"\nkey = \"{0}.key\"\n", path.display());
    }
    text
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// One request through `openssl s_client`, with everything that it tells about the session.
fn visit(node: &Node, arguments: &[&str]) -> String {
    let address = node.listener(1).to_string();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address, "-ign_eof"]).args(arguments);
    let said = run_with_input(&mut command, GET);
    assert!(said.stdout.contains("hello"), "{}", said.all());
    said.stdout
}

fn the_name_chooses_the_certificate(driver: Driver) {
    let plan = Plan::new(driver, "");
    let first = make(plan.folder(), "first", &["first.example", "www.first.example"]);
    let wild = make(plan.folder(), "wild", &["*.wild.example"]);
    let exact = make(plan.folder(), "exact", &["exact.wild.example"]);
    let text = using(plan.folder(), &["first", "wild", "exact"]);
    let node = plan.and(&text).start();
    for (name, certificate) in [
        (Some("first.example"), &first),
        (Some("WWW.First.Example"), &first),
        (Some("a.wild.example"), &wild),
        (Some("exact.wild.example"), &exact),
        (Some("a.b.wild.example"), &first),
        (Some("wild.example"), &first),
        (Some("unknown.example"), &first),
        (None, &first),
    ] {
        let asked = name.map_or(vec!["-noservername"], |name| vec!["-servername", name]);
        assert!(visit(&node, &asked).contains(certificate.trim()), "{name:?} gets its certificate");
    }
    let names: Vec<String> = node.status()["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|certificate| certificate["names"][0].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["first.example", "*.wild.example", "exact.wild.example"]);
    node.finish();
}

fn a_session_resumes_on_every_core_and_after_a_restart(driver: Driver) {
    let plan = Plan::new(driver, "");
    make(plan.folder(), "site", &["site.example"]);
    let text = using(plan.folder(), &["site"]);
    let node = plan.and(&text).start();
    let session = node.folder().join("session").display().to_string();
    let first = visit(&node, &["-servername", "site.example", "-sess_out", &session]);
    assert!(first.contains("New, TLSv1.3"), "{first}");
    let again = ["-servername", "site.example", "-sess_in", &session];
    // Every core accepts about half of them: that one accepts none is a matter of 2 to the power of -29.
    for _ in 0..30 {
        let said = visit(&node, &again);
        assert!(said.contains("Reused, TLSv1.3"), "{said}");
    }
    let by_core = node.numbers("tls_resumptions");
    assert_eq!(by_core.iter().sum::<u64>(), 30);
    assert!(by_core.iter().all(|core| *core > 0), "each core resumed: {by_core:?}");
    node.signal(libc::SIGTERM);
    node.wait();
    let node = node.restart();
    assert!(visit(&node, &again).contains("Reused, TLSv1.3"), "the keys outlive the process");
    assert_eq!(node.number("tls_resumptions"), 1);
    let node = node.kill_and_restart();
    assert!(visit(&node, &again).contains("Reused, TLSv1.3"), "and its violent end");
    node.finish();
}

fn a_reload_keeps_connections_and_brings_the_new_certificate(driver: Driver) {
    let plan = Plan::new(driver, "");
    let old = make(plan.folder(), "site", &["site.example"]);
    let text = using(plan.folder(), &["site"]);
    let node = plan.and(&text).start();
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &node.listener(1).to_string(), "-ign_eof"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut requests = client.stdin.take().unwrap();
    let mut answers = client.stdout.take().unwrap();
    requests.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let said = read_until(&mut answers, "hello");
    assert!(said.contains(old.trim()), "{said}");

    let new = make(node.folder(), "site", &["site.example"]);
    assert_ne!(old, new);
    assert_eq!(node.reload(node.text()), "done");
    assert!(visit(&node, &[]).contains(new.trim()), "who comes now sees the new certificate");
    requests.write_all(GET).unwrap();
    read_until(&mut answers, "hello");
    assert_eq!(node.number("tls_handshakes"), 2, "the old connection lives on");
    drop((requests, answers));
    finish(client);
    node.finish();
}

fn a_broken_certificate_changes_nothing(driver: Driver) {
    let plan = Plan::new(driver, "");
    let old = make(plan.folder(), "site", &["site.example"]);
    let other = make(plan.folder(), "other", &["site.example"]);
    let text = using(plan.folder(), &["site"]);
    let node = plan.and(&text).start();
    let chain = node.folder().join("site.pem");
    // Not PEM; the certificate of another key; nothing at all.
    for (times, broken) in ["-----BEGIN CERTIFICATE-----\nnonsense\n", &other, ""].iter().enumerate() {
        std::fs::write(&chain, broken).unwrap();
        // Routes of the same file must not change either: all of it is taken, or nothing.
        let text = text.replace("hello", "changed");
        assert_eq!(node.reload(&text), "refused");
        let line = node.log_lines("node.reload refused", times + 1).pop().unwrap();
        assert!(line["error"].as_str().unwrap().contains("site.pem"), "the log names the file: {line}");
        assert_eq!(node.metric("berth_reloads_total{outcome=\"refused\"}"), times as f64 + 1.0);
        assert!(visit(&node, &[]).contains(old.trim()));
    }
    std::fs::write(&chain, &old).unwrap();
    assert_eq!(node.reload(&text), "done");
    node.finish();
}

fn the_self_made_certificate_survives(driver: Driver) {
    let node = Plan::new(driver, using(Path::new("/"), &[])).start();
    let certificate = |said: &str| -> String {
        let from = said.find("-----BEGIN CERTIFICATE-----").expect("s_client shows the certificate");
        said[from..].split("-----END").next().unwrap().to_owned()
    };
    let before = certificate(&visit(&node, &[]));
    let node = node.kill_and_restart();
    assert_eq!(certificate(&visit(&node, &[])), before);
    node.finish();
}
