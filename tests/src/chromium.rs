//! Chromium for the stories: pages in profiles of their own, and what is run in them.

use std::path::Path;

use serde_json::{Value, json};

use crate::told::Told;

/// The program that tells it.
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/browser.py");

/// How Chromium starts without a screen, and asks nobody for anything.
pub const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
];

/// A browser with some pages, each with a name.
pub struct Browser(Told);

impl Browser {
    /// Starts one that keeps what it has in this folder, with more flags.
    pub fn start(folder: &Path, flags: &[&str]) -> Self {
        let profile = format!("--user-data-dir={}", folder.join("profile").display());
        Self(Told::start(CLIENT, &[&["chromium"], &FLAGS[..], flags, &[&profile]].concat()))
    }

    /// Opens a page, and waits until it has loaded.
    pub fn open(&mut self, name: &str, url: &str) {
        self.0.tell(&json!({"do": "open", "as": name, "url": url}));
    }

    /// The value of an expression in a page, once its promise is kept.
    pub fn run(&mut self, name: &str, script: &str) -> Value {
        self.0.tell(&json!({"do": "run", "as": name, "script": script}))["ok"].take()
    }
}
