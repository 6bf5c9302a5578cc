//! Guests to deploy: the component of `tests/guests`, and the zones that it answers for.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::node::Node;

/// The component that `cargo xtask guests` builds.
pub fn guests() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let path = std::env::var_os("BERTH_GUESTS").map_or_else(
            || {
                concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guests/wasm32-wasip2/release/guests.wasm")
                    .into()
            },
            PathBuf::from,
        );
        std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask guests` builds it", path.display()))
    })
}

/// The component of the tests' class of objects.
pub fn object_guest() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guests/wasm32-wasip2/release/object.wasm");
    let path = std::env::var_os("BERTH_GUESTS")
        .map_or_else(|| path.into(), |path| PathBuf::from(path).with_file_name("object.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask guests` builds it", path.display()))
}

/// Where `cargo xtask guests` builds an example: a project that can be deployed.
pub fn example(name: &str) -> PathBuf {
    let folder = std::env::var_os("BERTH_EXAMPLES")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/examples").into(), PathBuf::from);
    folder.join(name)
}

/// Uploads a component, and gives its id.
pub fn upload(node: &Node, component: &[u8]) -> String {
    let (status, body) = node.ask("POST", "/v1/scripts", component);
    assert_eq!(status, 201, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("the answer is JSON");
    answer["id"].as_str().expect("an id").to_owned()
}

/// Deploys a zone, and gives the version.
pub fn deploy(node: &Node, name: &str, document: &Value) -> u64 {
    let (status, body) = node.ask("PUT", &format!("/v1/zones/{name}"), document.to_string().as_bytes());
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).expect("the answer is JSON");
    answer["version"].as_u64().expect("a number")
}

/// A zone of these hosts whose one worker is this script and answers everything.
pub fn zone(hosts: &[&str], script: &str) -> Value {
    json!({"hosts": hosts, "workers": {"front": {"script": script, "routes": ["/*"]}}})
}

/// Deploys the guests for all hosts, with these limits.
pub fn serve_guests(node: &Node, limits: &Value) {
    let id = upload(node, guests());
    let mut zone = zone(&["*"], &id);
    zone["workers"]["front"]["limits"] = limits.clone();
    deploy(node, "guests", &zone);
}
