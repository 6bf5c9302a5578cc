//! The examples and the templates, as their readers use them: built by the tools of others, deployed by the command line
//! with their own settings, asked by curl.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_tests::aioquic::h3;
use berth_tests::clients::{curl, curl_command, finish, read_until, run, start};
use berth_tests::node::{Driver, Folder, Node, PATIENCE, Plan, binary, wait_until};
use berth_tests::workers::example;
use berth_tests::{on_both_drivers, once};
use serde_json::Value;

use crate::common;
use crate::workers::FileServer;

on_both_drivers!(["curl"]; hello_greets_and_sends_what_it_counts_at_once, pages_are_rewritten_while_they_come,
    two_zones_make_one_answer_in_process);
on_both_drivers!(["curl", "websockets"]; pages_of_any_length_are_rewritten_and_all_else_passes);
once!(["aioquic"]; hello_answers_over_http3);
once!(["curl", "json-api"]; the_json_api_answers_and_its_mistakes_are_problems);
once!(["curl"]; the_rust_template_builds_with_one_command_and_answers);
once!(["curl", "json-api"]; the_javascript_template_builds_with_one_command_and_answers);

fn node(driver: Driver) -> Node {
    Plan::new(driver, common()).start()
}

/// What a reader types, in this folder.
pub(crate) fn berth(folder: &Path, arguments: &[&str]) -> String {
    // The components are where the projects look for them.
    run(Command::new(binary()).args(arguments).current_dir(folder).env_remove("CARGO_TARGET_DIR")).ok()
}

/// Deploys a project whose component is built.
pub(crate) fn deploy(node: &Node, project: &Path) {
    assert!(project.is_dir(), "{} is not there; `cargo xtask guests` builds it", project.display());
    let said = berth(project, &["deploy", "--no-build", "--admin", &format!("http://{}", node.admin())]);
    assert!(said.contains("version 1"), "{said}");
}

/// curl's output with the head, from a host of this node.
pub(crate) fn ask(node: &Node, host: &str, path: &str, flags: &[&str]) -> String {
    let host = format!("host: {host}");
    curl(&[&["--include", "--header", &host], flags, &[&node.http(path)]].concat()).ok()
}

fn hello_greets_and_sends_what_it_counts_at_once(driver: Driver) {
    let node = node(driver);
    deploy(&node, &example("hello"));
    let host = "hello.localhost";
    let said = ask(&node, host, "/", &[]);
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("\r\n\r\nhello from a worker\n"), "{said}");
    let said = ask(&node, host, "/", &["--http2-prior-knowledge"]);
    assert!(said.starts_with("HTTP/2 200") && said.ends_with("\r\n\r\nhello from a worker\n"), "{said}");
    assert!(ask(&node, host, "/nowhere", &[]).starts_with("HTTP/1.1 404"));
    let header = format!("host: {host}");
    let mut counting = start(curl_command().args(["--no-buffer", "--header", &header, &node.http("/count")]));
    let first = read_until(counting.stdout.as_mut().unwrap(), "3\n");
    assert_eq!(first, "3\n", "each line comes when it is there");
    assert_eq!(finish(counting).ok(), "2\n1\n");
    node.finish();
}

fn hello_answers_over_http3() {
    let node = node(Driver::Auto);
    deploy(&node, &example("hello"));
    let report = h3("get", node.listener(1), &["--server-name", "hello.localhost"]);
    let answer = &report["answers"][0];
    assert_eq!((&answer["status"], &answer["length"]), (&200.into(), &20.into()), "{report}");
    node.finish();
}

/// The rewriter, deployed with this origin instead of the one that its file names.
fn deploy_rewriter(node: &Node, origin: &str) {
    let (from, to) = (example("html-rewriter"), node.folder().join("rewriter"));
    std::fs::create_dir(&to).unwrap();
    symlink(from.join("target"), to.join("target")).unwrap();
    let text = std::fs::read_to_string(from.join("berth.toml")).unwrap();
    let changed = text.replace("127.0.0.1:9000", origin);
    assert_ne!(changed, text, "it names an origin");
    // What the node itself does for a guest counts as well, and the node of the tests is not optimised.
    let changed = changed.replace("[origin]", "limits = { cpu = \"10s\" }\n\n[origin]");
    std::fs::write(to.join("berth.toml"), changed).unwrap();
    deploy(node, &to);
}

const REWRITER: &str = "html-rewriter.localhost";
const FOUND: &str = "</body>";
const REPLACED: &str = "<footer>Rewritten on the way.</footer></body>";

/// Cuts what is to be found at each of its bytes, and says the second half only when the client has seen the first.
fn pages_are_rewritten_while_they_come(driver: Driver) {
    let node = node(driver);
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    origin.set_nonblocking(true).unwrap();
    deploy_rewriter(&node, &origin.local_addr().unwrap().to_string());
    for cut in 1..FOUND.len() {
        let host = format!("host: {REWRITER}");
        let mut client = start(curl_command().args(["--no-buffer", "--header", &host, &node.http("/")]));
        let mut origin = accept(&origin);
        read_until(&mut origin, "\r\n\r\n");
        let (first, second) = FOUND.split_at(cut);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n";
        write!(origin, "{head}<body><p>page</p>{first}").unwrap();
        let page = client.stdout.as_mut().unwrap();
        let seen = read_until(page, "</p>");
        assert_eq!(seen, "<body><p>page</p>", "what may be the beginning is held back");
        write!(origin, "{second}</html>").unwrap();
        drop(origin);
        let mut rest = String::new();
        page.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, format!("{REPLACED}</html>"), "cut after {first}");
        finish(client).ok();
    }
    node.finish();
}

fn accept(listener: &TcpListener) -> TcpStream {
    let mut accepted = None;
    wait_until("the worker asks its origin", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (stream, _) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn pages_of_any_length_are_rewritten_and_all_else_passes(driver: Driver) {
    let node = node(driver);
    let site = node.folder().join("site");
    std::fs::create_dir(&site).unwrap();
    let index = std::fs::read_to_string(example("html-rewriter").join("site/index.html")).unwrap();
    let page = "<p>a row</body>\n".repeat(20_000);
    for (name, text) in [("index.html", &index), ("page.html", &page), ("page.txt", &page)] {
        std::fs::write(site.join(name), text).unwrap();
    }
    let server = FileServer::start(&site);
    deploy_rewriter(&node, &server.address);
    let host = format!("host: {REWRITER}");
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let body = |path: &str| curl(&[flag, "--header", &host, &node.http(path)]).ok();
        assert_eq!(body("/"), index.replace(FOUND, REPLACED));
        assert!(body("/page.html") == page.replace(FOUND, REPLACED), "every one of them, and nothing else");
        assert!(body("/page.txt") == page, "what is no page is left alone");
    }
    let head = |path: &str| ask(&node, REWRITER, path, &["--head"]).to_lowercase();
    let (rewritten, left_alone) = (head("/"), head("/page.txt"));
    assert!(rewritten.starts_with("http/1.1 200") && !rewritten.contains("content-length"), "{rewritten}");
    let length = format!("content-length: {}\r\n", page.len());
    assert!(left_alone.starts_with("http/1.1 200") && left_alone.contains(&length), "{left_alone}");
    assert!(ask(&node, REWRITER, "/not-there", &[]).starts_with("HTTP/1.1 404"), "the origin's own word");
    node.finish();
}

fn two_zones_make_one_answer_in_process(driver: Driver) {
    let node = node(driver);
    deploy(&node, &example("two-zones/shop"));
    let said = ask(&node, "shop.localhost", "/", &[]);
    assert!(said.starts_with("HTTP/1.1 502") && said.contains("the stock cannot be asked"), "{said}");
    deploy(&node, &example("two-zones/stock"));
    let before = (node.number("zone_requests"), node.number("outgoing_connections"));
    let said = ask(&node, "shop.localhost", "/", &[]);
    // Prices are the shop's, counts are the stock's.
    let offers = "apples: 12 for 45 cents each\nplums: 140 for 8 cents each\n";
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with(&format!("\r\n\r\n{offers}")), "{said}");
    let after = (node.number("zone_requests"), node.number("outgoing_connections"));
    assert_eq!(after, (before.0 + 1, before.1), "without a socket");
    node.finish();
}

fn the_json_api_answers_and_its_mistakes_are_problems() {
    let node = node(Driver::Auto);
    deploy(&node, &example("json-api"));
    let ask = |path: &str, flags: &[&str]| {
        let said = ask(&node, "json-api.localhost", path, flags);
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), serde_json::from_str::<Value>(body).unwrap())
    };
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let (head, figures) = ask("/figures", &[flag, "--data", "[3, 4, 5]"]);
        assert!(head.contains(" 200") && head.contains("content-type: application/json"), "{head}");
        let expected = serde_json::json!({"count": 3, "sum": 12, "mean": 4, "least": 3, "most": 5});
        assert_eq!(figures, expected);
    }
    for (path, flags, status) in [
        ("/nowhere", &[][..], 404),
        ("/figures", &[], 405),
        ("/figures", &["--data", "{\"a\": 1}"], 400),
        ("/figures", &["--data", "not JSON"], 400),
    ] {
        let (head, problem) = ask(path, flags);
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{path} {flags:?}: {head}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        assert!(problem["status"] == status && problem["detail"].is_string(), "{problem}");
        assert_eq!(head.contains("\r\nallow: post"), status == 405, "{head}");
    }
    node.finish();
}

/// A project of a template. It is named as an example that needs the same packages, so that the example's lock file is
/// also its own: the packages are those of every day, and they are there. Beside the examples, so that it can have links.
fn made(template: &str, name: &str) -> (Folder, PathBuf) {
    let folder = Folder::below(example("").parent().unwrap());
    berth(folder.path(), &["new", template, name]);
    let project = folder.path().join(name);
    (folder, project)
}

fn the_rust_template_builds_with_one_command_and_answers() {
    let (_folder, project) = made("rust-worker", "hello");
    std::fs::copy(example("hello").join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
    symlink(example("hello").join("target").canonicalize().unwrap(), project.join("target")).unwrap();
    let said = berth(&project, &["build"]);
    assert!(said.contains("worker.wasm"), "{said}");
    let node = node(Driver::Auto);
    deploy(&node, &project);
    let said = ask(&node, "hello.localhost", "/", &[]);
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("hello from hello\n"), "{said}");
    assert!(ask(&node, "hello.localhost", "/count", &[]).ends_with("3\n2\n1\n"));
    node.finish();
}

/// The same with the packages of that example, which is in JavaScript: up to 400 MB, which nobody changes.
pub(crate) fn made_with(template: &str, name: &str) -> (Folder, PathBuf) {
    let (folder, project) = made(template, name);
    std::fs::copy(example(name).join("package-lock.json"), project.join("package-lock.json")).unwrap();
    let packages = example(name).join("node_modules");
    run(Command::new("cp").args(["--archive", "--link"]).arg(packages).arg(&project)).ok();
    (folder, project)
}

fn the_javascript_template_builds_with_one_command_and_answers() {
    let (_folder, project) = made_with("js-worker", "json-api");
    let said = berth(&project, &["build"]);
    assert!(said.contains("worker.wasm"), "{said}");
    let node = node(Driver::Auto);
    deploy(&node, &project);
    let said = ask(&node, "json-api.localhost", "/?name=ada", &[]);
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with(r#"{"hello":"ada"}"#), "{said}");
    assert!(ask(&node, "json-api.localhost", "/echo", &["--data", "ahoy"]).ends_with("\r\n\r\nahoy"));
    node.finish();
}
