//! Every seed, and every input that a fuzzer found interesting, fed to the same functions once more.
//!
//! `cargo xtask fuzz` needs a nightly compiler and minutes; this needs neither, so that a parser
//! which breaks on a known input fails the ordinary tests. Each test is one fuzz target.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]
#![allow(clippy::print_stdout, reason = "the harness captures it and shows it when a test fails")]

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn corpus_of_config() {
    replay("config", berth_dataplane::config::fuzz_logic);
}

#[test]
fn corpus_of_h1() {
    replay("h1", berth_dataplane::http::h1::fuzz_logic);
}

#[test]
fn corpus_of_h2_meter() {
    replay("h2_meter", berth_dataplane::http::h2_meter::fuzz_logic);
}

#[test]
fn corpus_of_h3() {
    replay("h3", berth_dataplane::http::h3::fuzz_logic);
}

#[test]
fn corpus_of_quic() {
    replay("quic", berth_dataplane::quic::fuzz_logic);
}

#[test]
fn corpus_of_proxy_protocol() {
    replay("proxy_protocol", berth_dataplane::proxy_protocol::fuzz_logic);
}

#[test]
fn corpus_of_router() {
    replay("router", berth_dataplane::router::fuzz_logic);
}

#[test]
fn corpus_of_record() {
    replay("record", berth_protocol::record::fuzz_logic);
}

#[test]
fn corpus_of_zone() {
    replay("zone", berth_dataplane::zones::fuzz_logic);
}

#[test]
fn corpus_of_upload() {
    replay("upload", berth_isolate_host::compile::fuzz_logic);
}

#[test]
fn corpus_of_steer() {
    replay("steer", berth_fixtures::fuzz_logic);
}

/// Feeds each seed and each file of the corpus to the target. The name of the file is printed
/// first, so that the captured output of a failing test ends with the input that broke it.
fn replay(target: &str, fuzz_logic: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let seeds = files(&fuzz.join("seeds").join(target));
    assert!(!seeds.is_empty(), "{target} has no seeds: a replay of nothing proves nothing");
    for path in seeds.iter().chain(&files(&fuzz.join("corpus").join(target))) {
        println!("{}", path.display());
        fuzz_logic(&fs::read(path).expect("the file can be read"));
    }
}

/// The files of a folder; none if there is no folder, because a target without a corpus is new.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("the folder can be read").path()).collect()
}
