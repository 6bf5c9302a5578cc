//! Every input that a fuzzer found interesting, fed once more to the same functions.
//!
//! `cargo xtask fuzz` needs a nightly compiler and minutes; this needs neither, so that a parser
//! which breaks on a known input fails the ordinary tests. Each test is one fuzz target.

use std::fs;
use std::path::Path;

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
fn corpus_of_proxy_protocol() {
    replay("proxy_protocol", berth_dataplane::proxy_protocol::fuzz_logic);
}

#[test]
fn corpus_of_target() {
    replay("target", berth_dataplane::http::target::fuzz_logic);
}

/// Feeds each file of a corpus to the target. The name of the file is printed first, so that the
/// captured output of a failing test ends with the input that broke it.
fn replay(target: &str, fuzz_logic: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(&corpus).expect("each fuzz target has a corpus folder");
    let mut count = 0;
    for file in files {
        let path = file.expect("the folder can be read").path();
        println!("{}", path.display());
        fuzz_logic(&fs::read(&path).expect("the file can be read"));
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty: a replay of nothing proves nothing");
}
