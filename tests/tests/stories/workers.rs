//! Workers: deployed over the admin API, asked by curl over each version of HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_tests::clients::{Outcome, connect, curl, curl_command, finish, python, run, start};
use berth_tests::node::{Driver, Folder, Node, PATIENCE, Plan, binary, wait_until};
use berth_tests::workers::{deploy, guests, serve_guests, upload, zone};
use berth_tests::{on_both_drivers, once};
use serde_json::{Value, json};

use crate::common;

on_both_drivers!(["curl"]; a_worker_answers_over_each_version_of_http, bodies_and_trailers_stream_through_a_worker,
    a_reply_that_a_guest_cut_is_cut_for_the_client, each_attack_falls_over_its_limit_and_hurts_nobody_else,
    a_client_that_goes_away_ends_its_guest, one_zone_asks_another_in_process_and_circles_are_noticed,
    a_version_takes_over_for_new_requests_and_back);
on_both_drivers!(["curl"]; the_command_line_deploys_shows_and_goes_back);
once!(["curl"]; dev_deploys_a_project_again_when_it_changes);
on_both_drivers!(["curl"]; what_is_deployed_survives_a_restart_and_damaged_code_is_made_anew);
on_both_drivers!(["curl", "websockets"]; what_no_worker_answers_the_origin_answers, workers_rewrite_what_their_origin_says);
on_both_drivers!(["curl"]; guests_reach_no_address_of_this_machine_but_their_origin,
    bodies_stream_to_an_origin_and_back_through_a_worker);
on_both_drivers!([]; a_bad_upload_or_zone_is_told_what_is_wrong_and_nothing_is_kept,
    the_admin_api_refuses_what_a_web_page_or_guest_could_send, the_log_of_guests_can_be_followed);

fn node(driver: Driver) -> Node {
    Plan::new(driver, common()).start()
}

/// curl's output with the head.
fn include(arguments: &[&str]) -> Outcome {
    curl(&[&["--include"], arguments].concat())
}

fn a_worker_answers_over_each_version_of_http(driver: Driver) {
    let node = node(driver);
    serve_guests(&node, &json!({}));
    for (flags, url, version) in [
        (["--http1.1", "--insecure"], node.http("/hello"), "HTTP/1.1 200"),
        (["--http2-prior-knowledge", "--insecure"], node.http("/hello"), "HTTP/2 200"),
        (["--http2", "--insecure"], node.https("/hello"), "HTTP/2 200"),
    ] {
        let said = include(&[flags[0], flags[1], &url]).ok();
        assert!(said.starts_with(version) && said.ends_with("\r\n\r\nhello\n"), "{said}");
    }
    let said =
        curl(&["--header", "berth-client-ip: 9.9.9.9", "--header", "x-mine: yes", &node.http("/head?a=b")])
            .ok();
    let lower = said.to_lowercase();
    assert!(
        lower.contains("127.0.0.1") && !lower.contains("9.9.9.9"),
        "only the node says whose request it is: {said}"
    );
    assert!(
        lower.contains("x-mine") && lower.contains("/head?a=b") && lower.contains("berth-request-id"),
        "{said}"
    );
    assert_eq!(
        curl(&["--head", "--output", "/dev/null", "--write-out", "%{http_code}", &node.http("/hello")]).ok(),
        "200"
    );
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let said = curl(&["--head", flag, &node.http("/length/10/0")]).ok().to_lowercase();
        assert!(said.contains(" 200") && said.contains("content-length: 10\r\n"), "{flag}: {said}");
    }
    assert!(node.number("worker_calls") >= 7);
    node.finish();
}

fn bodies_and_trailers_stream_through_a_worker(driver: Driver) {
    let node = node(driver);
    serve_guests(&node, &json!({"cpu": "10s"}));
    let file = node.folder().join("large");
    let bytes: Vec<u8> = (0..5_000_000u32).map(|index| (index / 251) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    for flags in [["--http1.1", "--insecure"], ["--http2-prior-knowledge", "--insecure"]] {
        let back = node.folder().join("back");
        let (data, out) = (format!("@{}", file.display()), back.display().to_string());
        curl(&[flags[0], flags[1], "--data-binary", &data, "--output", &out, &node.http("/echo")]).ok();
        assert!(std::fs::read(&back).unwrap() == bytes, "{flags:?}: every byte came back");
    }
    let said = curl(&["--http1.1", "--raw", &node.http("/trailers")]).ok();
    assert!(said.to_lowercase().contains("x-sum"), "{said}");
    let ((), growth) = node.memory_growth(|| {
        let url = node.http("/stream/50000000");
        let count = curl(&["--output", "/dev/null", "--write-out", "%{size_download}", &url]).ok();
        assert_eq!(count, "50000000");
    });
    assert!(growth < 32 << 20, "no body is held whole: {growth} bytes more");
    node.finish();
}

fn a_reply_that_a_guest_cut_is_cut_for_the_client(driver: Driver) {
    let node = node(driver);
    serve_guests(&node, &json!({}));
    for path in ["/no-answer", "/trap-early"] {
        let said = include(&["--http1.1", &node.http(path)]).ok();
        assert!(said.starts_with("HTTP/1.1 500") && said.contains("urn:berth:internal"), "{path}: {said}");
        assert!(!said.contains("wasm") && !said.contains("panicked"), "no internals: {said}");
    }
    let before = node.number("worker_faults");
    for flags in [["--http1.1", "--insecure"], ["--http2-prior-knowledge", "--insecure"]] {
        let outcome = curl(&[flags[0], flags[1], &node.http("/abandon")]);
        assert!(
            outcome.code != 0 || outcome.stdout.contains("urn:berth"),
            "{flags:?}: not taken for whole: {outcome:?}"
        );
    }
    assert_eq!(node.number("worker_faults"), before + 2);
    let fault = node.log_line("worker.failed: trap");
    assert!(fault["detail"].as_str().unwrap().contains("guests"), "the guest's functions are named: {fault}");
    node.finish();
}

fn each_attack_falls_over_its_limit_and_hurts_nobody_else(driver: Driver) {
    let node = node(driver);
    serve_guests(&node, &json!({"cpu": "300ms", "wall": "700ms", "memory": "32MiB", "body_bytes": "1MiB"}));
    for (path, status, counter) in [
        ("/spin", "504", "limit_worker_cpu"),
        ("/sleep/60000", "504", "limit_worker_wall"),
        ("/recurse", "500", "limit_worker_stack"),
        ("/memory", "500", "limit_worker_memory"),
        ("/handles", "500", "limit_worker_handles"),
        ("/headers/1000", "500", "limit_worker_headers"),
        ("/header-bytes/100000", "500", "limit_worker_headers"),
    ] {
        let before = node.number(counter);
        let code = curl(&["--output", "/dev/null", "--write-out", "%{http_code}", &node.http(path)]).ok();
        assert_eq!((code.as_str(), node.number(counter)), (status, before + 1), "{path}");
        assert_eq!(curl(&[&node.http("/hello")]).ok(), "hello\n", "after {path}");
    }
    // The head is out before the limit falls: the body is cut.
    assert_ne!(curl(&["--output", "/dev/null", &node.http("/stream/3000000")]).code, 0);
    assert_eq!(node.number("limit_worker_body"), 1);
    curl(&[&node.http("/log-flood/1000000")]).ok();
    assert_eq!(node.number("limit_worker_log"), 1);
    node.finish();
}

fn a_client_that_goes_away_ends_its_guest(driver: Driver) {
    let node = node(driver);
    serve_guests(&node, &json!({"wall": "10m", "cpu": "30s"}));
    let idle = node.number("tasks");
    for path in ["/sleep/300000", "/stream/100000000000"] {
        let mut client = connect(node.listener(0));
        write!(client, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        if path.starts_with("/stream") {
            client.read_exact(&mut [0; 1000]).unwrap();
        }
        wait_until("the guest runs", || node.number("tasks") > idle);
        drop(client);
        wait_until("the guest is gone", || node.number("tasks") == idle);
    }
    node.finish();
}

fn one_zone_asks_another_in_process_and_circles_are_noticed(driver: Driver) {
    let node = node(driver);
    let id = upload(&node, guests());
    deploy(&node, "shop", &zone(&["shop.example"], &id));
    deploy(&node, "stock", &zone(&["stock.example"], &id));
    let ask = |host: &str, path: &str| {
        include(&["--http1.1", "--header", &format!("host: {host}"), &node.http(path)]).ok()
    };
    let said = ask("shop.example", "/fetch?url=http://stock.example/hello");
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("hello\n"), "{said}");
    let said = ask("shop.example", "/rewrite?url=http://stock.example/head?origin=origin");
    assert!(
        said.contains("stock.example") && said.contains("127.0.0.1"),
        "the client's address is known there: {said}"
    );
    let circle = "/fetch?url=http://stock.example/fetch?url=http://shop.example/hello";
    let said = ask("shop.example", circle);
    assert!(said.starts_with("HTTP/1.1 508"), "{said}");
    assert_eq!((node.number("zone_requests"), node.number("zone_loops")), (4, 1));
    assert_eq!(node.number("connections_accepted"), 3, "no socket was opened for it");
    let said = ask("nobody.example", "/");
    assert!(said.contains("hello\n"), "hosts of no zone have the routes of the configuration: {said}");
    node.finish();
}

fn a_version_takes_over_for_new_requests_and_back(driver: Driver) {
    let node = node(driver);
    let id = upload(&node, guests());
    let with = |greeting: &str| {
        let mut zone = zone(&["*"], &id);
        zone["workers"]["front"]["env"] = json!({"GREETING": greeting});
        zone["workers"]["front"]["secrets"] = json!({"KEY": "not to be seen"});
        zone
    };
    let greets = |greeting: &str| {
        let said = curl(&[&node.http("/env")]).ok();
        assert!(said.contains(&format!("GREETING={greeting}")) && !said.contains("not to be seen"), "{said}");
    };
    assert_eq!(deploy(&node, "site", &with("one")), 1);
    greets("one");
    let slow = start(curl_command().arg(node.http("/sleep/700")));
    wait_until("it runs", || node.number("worker_calls") >= 2);
    assert_eq!(deploy(&node, "site", &with("two")), 2);
    greets("two");
    finish(slow).ok();
    let (status, body) = node.ask("POST", "/v1/zones/site/rollback", b"{}");
    assert_eq!((status, body.trim()), (200, r#"{"version":1,"zone":"site"}"#));
    greets("one");
    let (_, shown) = node.get("/v1/zones/site");
    assert!(!shown.contains("not to be seen"), "{shown}");
    assert_eq!(node.ask("DELETE", &format!("/v1/scripts/{id}"), b"").0, 409, "it is in use");
    assert_eq!(node.ask("DELETE", "/v1/zones/site", b"").0, 204);
    assert_eq!(curl(&[&node.http("/")]).ok(), "hello\n", "the configuration's route");
    assert_eq!(node.ask("DELETE", &format!("/v1/scripts/{id}"), b"").0, 204);
    node.finish();
}

fn what_is_deployed_survives_a_restart_and_damaged_code_is_made_anew(driver: Driver) {
    let node = node(driver);
    serve_guests(&node, &json!({}));
    let node = node.kill_and_restart();
    assert_eq!(curl(&[&node.http("/hello")]).ok(), "hello\n");
    let code = node.folder().join("state/scripts/code");
    let file = std::fs::read_dir(&code).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let node = node.kill_and_restart();
    // All of them wait for the one load: a test of the library has a thousand.
    let clients: Vec<_> = (0..20).map(|_| start(curl_command().arg(node.http("/hello")))).collect();
    for client in clients {
        assert_eq!(finish(client).ok(), "hello\n", "what was changed is not run");
    }
    node.log_line("script.code is not used");
    let again = std::fs::read(&file).unwrap();
    assert!(again != bytes, "it was written anew");
    node.finish();
}

fn a_bad_upload_or_zone_is_told_what_is_wrong_and_nothing_is_kept(driver: Driver) {
    let node = node(driver);
    let core = b"\0asm\x01\0\0\0";
    for (bytes, word) in [
        (b"".as_slice(), "empty"),
        (b"#!/bin/sh", "first bytes"),
        (core.as_slice(), "core module"),
        (b"\0asm\x0d\0\x01\0", "does not export wasi:http/incoming-handler"),
        (&guests()[..guests().len() / 2], "engine refuses"),
    ] {
        let (status, body) = node.ask("POST", "/v1/scripts", bytes);
        assert_eq!(status, 400, "{body}");
        let told: Value = serde_json::from_str(&body).unwrap();
        assert!(told["detail"].as_str().unwrap().contains(word), "{word}: {body}");
    }
    let (_, scripts) = node.get("/v1/scripts");
    assert_eq!(scripts.trim(), r#"{"scripts":[]}"#);
    let nowhere = zone(&["a.example"], &"0".repeat(64));
    let (status, body) = node.ask("PUT", "/v1/zones/site", nowhere.to_string().as_bytes());
    assert!(status == 400 && body.contains("upload it first"), "{body}");
    for (name, document, word) in [
        ("Site", json!({"hosts": ["a"]}), "name"),
        ("site", json!({"hosts": []}), "hosts"),
        ("site", json!({"hosts": ["a"], "tenants": 1}), "unknown field"),
    ] {
        let (status, body) = node.ask("PUT", &format!("/v1/zones/{name}"), document.to_string().as_bytes());
        assert!(status == 400 && body.contains(word), "{body}");
    }
    assert_eq!(node.ask("PUT", "/v1/zones/one", br#"{"hosts":["a.example"]}"#).0, 200);
    let (status, body) = node.ask("PUT", "/v1/zones/two", br#"{"hosts":["a.example"]}"#);
    assert!(status == 400 && body.contains("belongs to one zone"), "{body}");
    node.finish();
}

fn the_admin_api_refuses_what_a_web_page_or_guest_could_send(driver: Driver) {
    let node = node(driver);
    let ask = |head: &str| {
        let mut stream = connect(node.admin());
        write!(stream, "POST /v1/scripts HTTP/1.1\r\n{head}content-length: 0\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask("host: evil.example\r\n"), "403");
    assert_eq!(ask("host: 127.0.0.1\r\norigin: https://evil.example\r\n"), "403");
    assert_eq!(ask("host: 127.0.0.1\r\norigin: null\r\n"), "403");
    assert_eq!(ask("host: 127.0.0.1\r\n"), "400", "an empty component");
    assert_eq!(node.ask("PATCH", "/v1/zones", b"").0, 405);
    node.finish();
}

fn the_log_of_guests_can_be_followed(driver: Driver) {
    let node = node(driver);
    serve_guests(&node, &json!({}));
    let mut tail = connect(node.admin());
    tail.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(tail, "GET /v1/tail?zone=guests HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").unwrap();
    let mut seen = String::new();
    let mut piece = [0; 4096];
    while !seen.contains("\"stream\":\"err\"") || !seen.contains("\"stream\":\"fault\"") {
        let mut client = connect(node.listener(0));
        let _ = client.set_read_timeout(Some(Duration::from_secs(5)));
        write!(client, "GET /stdout HTTP/1.1\r\nhost: a\r\n\r\nGET /trap-early HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        let _ = client.read_to_end(&mut Vec::new());
        let count = tail.read(&mut piece).unwrap();
        seen.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    assert!(seen.contains("\"zone\":\"guests\"") && seen.contains("\"worker\":\"front\""), "{seen}");
    node.log_line("guest.line");
    drop(tail);
    node.finish();
}

/// A server of files that we did not write: Python's.
pub(crate) struct FileServer {
    process: Child,
    pub(crate) address: String,
}

impl FileServer {
    pub(crate) fn start(folder: &std::path::Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(python());
        command.args([
            "-m",
            "http.server",
            "--protocol",
            "HTTP/1.1",
            "--bind",
            "127.0.0.1",
            &port.to_string(),
        ]);
        let process =
            command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let address = format!("127.0.0.1:{port}");
        wait_until("the file server listens", || TcpStream::connect(&address).is_ok());
        Self { process, address }
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn what_no_worker_answers_the_origin_answers(driver: Driver) {
    let node = node(driver);
    let site = node.folder().join("site");
    std::fs::create_dir(&site).unwrap();
    std::fs::write(site.join("page.txt"), "a page\n").unwrap();
    std::fs::write(site.join("large"), vec![b'x'; 5_000_000]).unwrap();
    let server = FileServer::start(&site);
    let id = upload(&node, guests());
    let zone = json!({"hosts": ["site.example"], "origin": format!("http://{}", server.address),
        "workers": {"front": {"script": id, "routes": ["/hello"]}}});
    deploy(&node, "site", &zone);
    let ask = |flags: &[&str], path: &str| {
        curl(&[&["--include", "--header", "host: site.example"], flags, &[&node.http(path)]].concat()).ok()
    };
    assert!(ask(&[], "/hello").ends_with("hello\n"));
    for _ in 0..3 {
        let said = ask(&[], "/page.txt");
        assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("a page\n"), "{said}");
    }
    assert!(ask(&["--http2-prior-knowledge"], "/page.txt").ends_with("a page\n"));
    assert!(ask(&[], "/not-there").starts_with("HTTP/1.1 404"), "the origin's own word");
    assert!(ask(&["--head"], "/page.txt").to_lowercase().contains("content-length: 7"));
    let size = curl(&[
        "--header",
        "host: site.example",
        "--output",
        "/dev/null",
        "--write-out",
        "%{size_download}",
        &node.http("/large"),
    ]);
    assert_eq!(size.ok(), "5000000");
    let (made, sent) = (node.number("outgoing_connections"), node.number("outgoing_requests"));
    assert!(sent >= 7 && made < sent, "connections are kept: {made} for {sent} requests");
    drop(server);
    let said = ask(&[], "/page.txt");
    assert!(said.starts_with("HTTP/1.1 502") && said.contains("urn:berth:origin"), "{said}");
    assert!(ask(&[], "/hello").ends_with("hello\n"), "workers do not need it");
    node.finish();
}

fn workers_rewrite_what_their_origin_says(driver: Driver) {
    let node = node(driver);
    let site = node.folder().join("site");
    std::fs::create_dir(&site).unwrap();
    let page = "<p>the origin</p>\n".repeat(20_000);
    std::fs::write(site.join("page.html"), &page).unwrap();
    let server = FileServer::start(&site);
    let id = upload(&node, guests());
    let zone = json!({"hosts": ["site.example"], "origin": format!("http://{}", server.address),
        "workers": {"front": {"script": id, "routes": ["/rewrite", "/fetch"], "limits": {"cpu": "10s"}}}});
    deploy(&node, "site", &zone);
    let said =
        curl(&["--header", "host: site.example", &node.http("/rewrite?url=http://site.example/page.html")])
            .ok();
    assert!(said == page.replace("origin", "berth"), "every one of them, and nothing else");
    node.finish();
}

fn guests_reach_no_address_of_this_machine_but_their_origin(driver: Driver) {
    let node = node(driver);
    serve_guests(&node, &json!({}));
    let own = node.listener(0);
    let (admin, port) = (node.admin(), own.port());
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://{admin}/v1/status"),
        format!("http://localhost:{port}/"),
        format!("http://a.localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "http://[fd00::1]/".to_owned(),
        // Other spellings of 127.0.0.1: a resolver may know them.
        format!("http://2130706433:{port}/"),
        format!("http://127.1:{port}/"),
    ] {
        // The guests answer for all hosts; a zone that has none of these lets the request out.
        let said = ask_as_zone(&node, &url);
        assert!(
            said.contains("prohibited")
                || said.contains("not-found")
                || said.contains("dns")
                || said.contains("invalid"),
            "{url}: {said}"
        );
        assert!(!said.contains("hello"), "{url}: {said}");
    }
    assert!(node.number("outgoing_refused") >= 9);
    node.finish();
}

/// What the guest of a zone with one host is told when it fetches this.
fn ask_as_zone(node: &Node, url: &str) -> String {
    let (_, shown) = node.get("/v1/zones/guests");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    if shown["document"]["hosts"][0] == "*" {
        let id = shown["document"]["workers"]["front"]["script"].as_str().unwrap().to_owned();
        deploy(node, "guests", &zone(&["guests.example"], &id));
    }
    let path = node.http(&format!("/fetch-error?url={url}"));
    curl(&["--globoff", "--header", "host: guests.example", &path]).ok().to_lowercase()
}

fn bodies_stream_to_an_origin_and_back_through_a_worker(driver: Driver) {
    let (node, origin) = (node(driver), node(driver));
    let id = upload(&node, guests());
    let zone = json!({"hosts": ["site.example"], "origin": format!("http://{}", origin.listener(0)),
        "workers": {"front": {"script": id, "routes": ["/proxy-post"], "limits": {"cpu": "10s"}}}});
    deploy(&node, "site", &zone);
    let bytes: Vec<u8> = (0..3_000_000u32).map(|index| (index / 251) as u8).collect();
    let (file, back) = (node.folder().join("large"), node.folder().join("back"));
    std::fs::write(&file, &bytes).unwrap();
    let data = format!("@{}", file.display());
    for path in ["/proxy-post?url=http://site.example/echo", "/echo"] {
        let out = back.display().to_string();
        curl(&["--header", "host: site.example", "--data-binary", &data, "--output", &out, &node.http(path)])
            .ok();
        assert!(std::fs::read(&back).unwrap() == bytes, "{path}: every byte came back");
    }
    // An origin that breaks off is not taken for one that has ended.
    origin.signal(libc::SIGKILL);
    let outcome = curl(&["--fail", "--header", "host: site.example", &node.http("/stream/100MiB")]);
    assert_ne!(outcome.code, 0, "{outcome:?}");
    node.finish();
}

/// A project whose component is there already.
fn project(folder: &std::path::Path, greeting: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("guests.wasm"), guests()).unwrap();
    let text = format!(
        "name = \"site\"\nzone = \"site.localhost\"\n\n[workers.front]\ncomponent = \"guests.wasm\"\nroutes = [\"/*\"]\n\
         env = {{ GREETING = \"{greeting}\" }}\nsecrets = [\"STORY_KEY\"]\nlimits = {{ cpu = \"2s\" }}\n"
    );
    std::fs::write(folder.join("berth.toml"), text).unwrap();
}

fn berth(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env("STORY_KEY", "not to be seen");
    command
}

fn the_command_line_deploys_shows_and_goes_back(driver: Driver) {
    let node = node(driver);
    let admin = format!("http://{}", node.admin());
    let folder = node.folder().join("project");
    let path = folder.display().to_string();
    let call = |arguments: &[&str]| run(&mut berth(&[arguments, &["--admin", &admin]].concat()));
    let greeting = || curl(&["--header", "host: site.localhost", &node.http("/env")]).ok();
    project(&folder, "one");
    let said = call(&["deploy", &path]).ok();
    assert!(said.contains("zone site version 1") && said.contains("site.localhost"), "{said}");
    assert!(greeting().contains("GREETING=one") && !greeting().contains("not to be seen"), "{}", greeting());
    let mut tail = start(&mut berth(&["tail", "--zone", "site", "--json", "--admin", &admin]));
    project(&folder, "two");
    assert!(call(&["deploy", &path]).ok().contains("version 2"));
    assert!(greeting().contains("GREETING=two"));
    call(&["zones", "rollback", "site"]).ok();
    assert!(greeting().contains("GREETING=one"));
    for (arguments, word) in [
        (vec!["zones", "list"], "site"),
        (vec!["zones", "show", "site"], "STORY_KEY"),
        (vec!["scripts", "list"], "site"),
        (vec!["routes", "list", "--json"], "\"worker\":\"front\""),
    ] {
        let said = call(&arguments).ok();
        assert!(
            said.replace("\": \"", "\":\"").contains(word) && !said.contains("not to be seen"),
            "{arguments:?}: {said}"
        );
    }
    let mut lines = BufReader::new(tail.stdout.take().unwrap());
    let mut line = String::new();
    // Who follows hears what is said from then on: so it is said until it was heard.
    let speaking = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while speaking.load(std::sync::atomic::Ordering::Relaxed) {
                curl(&["--header", "host: site.localhost", &node.http("/stdout")]).ok();
            }
        });
        lines.read_line(&mut line).unwrap();
        speaking.store(false, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(line.contains("\"zone\":\"site\""), "{line}");
    tail.kill().unwrap();
    tail.wait().unwrap();
    std::fs::write(folder.join("guests.wasm"), "not a component").unwrap();
    let refused = call(&["deploy", &path]);
    assert!(refused.code == 1 && refused.stderr.contains("not a WebAssembly component"), "{refused:?}");
    assert!(greeting().contains("GREETING=one"), "what was there goes on");
    call(&["zones", "remove", "site"]).ok();
    node.finish();
}

fn dev_deploys_a_project_again_when_it_changes() {
    let folder = Folder::new();
    project(&folder.path().join("project"), "one");
    let path = folder.path().join("project").display().to_string();
    let any = "127.0.0.1:0";
    let mut dev =
        start(&mut berth(&["dev", &path, "--no-tls", "--listen", any, "--admin", any, "--cores", "1"]));
    let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines().map_while(Result::ok);
    let url = lines.find(|line| line.starts_with("http://")).unwrap();
    let says = |greeting: &str| {
        let url = format!("{}/env", url.trim());
        let shown = format!("GREETING={greeting}");
        wait_until("the project is deployed", || {
            curl(&["--header", "host: site.localhost", &url]).stdout.contains(&shown)
        });
    };
    says("one");
    project(&folder.path().join("project"), "two");
    says("two");
    // SAFETY: a signal to our own child, which is not reaped yet.
    assert_eq!(unsafe { libc::kill(dev.id() as i32, libc::SIGINT) }, 0);
    assert!(dev.wait().unwrap().success());
}
