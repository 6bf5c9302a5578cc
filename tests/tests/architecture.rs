//! docs/ARCHITECTURE.md names the tests that guard its invariants and bounds; here each of them is looked up, so that
//! a test which was renamed or removed does not leave a promise without its guard.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_the_architecture_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/ARCHITECTURE.md")).expect("the page can be read");
    let named = named_tests(&page);
    assert!(named.len() > 40, "only {} tests were found on the page: is its form another one?", named.len());
    let missing: Vec<_> = named.into_iter().filter(|(file, test)| !exists(&root, file, test)).collect();
    assert!(missing.is_empty(), "the page names tests that do not exist: {missing:#?}");
}

/// The pairs `file.rs::test` in code quotes; `…::test` is in the file that was named last, `…` at the end stands for
/// the rest of a name.
fn named_tests(page: &str) -> Vec<(&str, &str)> {
    let mut file = "";
    let mut named = Vec::new();
    for quoted in page.split('`').skip(1).step_by(2) {
        let Some((place, test)) = quoted.split_once("::") else { continue };
        match place {
            "…" => {}
            place if place.ends_with(".rs") => file = place,
            _ => continue, // A type.
        }
        named.push((file, test));
    }
    named
}

/// Most tests are in the dataplane, so its paths are written without the folder.
fn exists(root: &Path, file: &str, test: &str) -> bool {
    let source = [root.join("dataplane").join(file), root.join(file)]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok());
    let wanted = match test.strip_suffix('…') {
        Some(start) => format!("fn {start}"),
        None => format!("fn {test}("),
    };
    source.is_some_and(|source| source.contains(&wanted))
}
