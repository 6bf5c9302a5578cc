//! Source rules of our own: habits of this tree that no lint knows.
//!
//! Each rule is one small function over one file, and its message names what to write instead.
//! The tests show for each rule a text that breaks it and a text that keeps it.

use crate::workspace::TextFile;

struct Rule {
    name: &'static str,
    check: fn(&TextFile) -> Vec<Finding>,
}

/// Where a file breaks a rule, and what to write instead.
struct Finding {
    line: usize,
    message: String,
}

/// All rules. A new one is a line here, a function below, and an example in the tests.
const RULES: &[Rule] = &[
    Rule { name: "head", check: head },
    Rule { name: "clock", check: clock },
    Rule { name: "left-over", check: left_over },
    Rule { name: "title", check: title },
    Rule { name: "foreign-path", check: foreign_path },
    Rule { name: "ignore-reason", check: ignore_reason },
];

/// Files and folders of pure cores, without `.rs`: no socket and no clock inside. Time comes in as
/// an argument, so that a test can say what time it is.
const PURE_CORES: &[&str] = &[
    "protocol/src",
    "ebpf-programs/steer/src",
    "dataplane/src/config",
    "dataplane/src/connections",
    "dataplane/src/http/h1",
    "dataplane/src/http/h2_meter",
    "dataplane/src/http/target",
    "dataplane/src/http/websocket",
    "dataplane/src/proxy_protocol",
    "dataplane/src/quic/first_flight",
    "dataplane/src/router",
];

/// First folders of absolute paths that exist only on somebody's machine.
const MACHINE_FOLDERS: &[&str] = &["home", "Users", "root", "work"];

/// Checks every file against every rule; each finding is a line for the terminal.
pub(super) fn check_all(files: &[TextFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for rule in RULES {
            for finding in (rule.check)(file) {
                found.push(format!("{}:{}: {}: {}", file.path, finding.line, rule.name, finding.message));
            }
        }
    }
    found
}

/// Every source file opens with what it is and why it exists.
fn head(file: &TextFile) -> Vec<Finding> {
    let first = file.text.lines().next().unwrap_or_default();
    if !is_rust(file) || first.starts_with("//!") {
        return Vec::new();
    }
    let message =
        "start the file with `//!`: what it is, why it exists, its invariants, what it leaves to others";
    vec![Finding { line: 1, message: message.to_owned() }]
}

/// A pure core takes the time as an argument. Its tests, which come last or are a file of their own, may make a time up.
fn clock(file: &TextFile) -> Vec<Finding> {
    let is_core = PURE_CORES
        .iter()
        .any(|core| file.path.strip_prefix(core).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')));
    if !is_rust(file) || !is_core || file.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let code = file.text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    findings(code, |line| {
        let reads_clock = ["Instant::now", "SystemTime::now"].iter().any(|clock| line.contains(clock));
        (reads_clock && !line.trim_start().starts_with("//")).then(|| {
            "a pure core has no clock: take `now` as an argument and let the caller read it".to_owned()
        })
    })
}

/// Notes to oneself do not enter the tree.
fn left_over(file: &TextFile) -> Vec<Finding> {
    // Spelled apart, so that this file keeps its own rule.
    let words = [concat!("FIX", "ME"), concat!("XX", "X")];
    findings(file.text.lines().enumerate(), |line| {
        let word = line.split(|c: char| !c.is_alphanumeric()).find(|word| words.contains(word))?;
        Some(format!("do what the {word} asks for, or state the limit as a sentence and open an issue"))
    })
}

/// A page has one title, and it comes first.
fn title(file: &TextFile) -> Vec<Finding> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let titles: Vec<usize> = outside_fences(&file.text)
        .filter(|(_, line)| line.starts_with("# "))
        .map(|(index, _)| index + 1)
        .collect();
    let (line, message) = match titles[..] {
        [1] => return Vec::new(),
        [] => (1, "start the page with one `# Title`"),
        [1, second, ..] => (second, "a page has one `# Title`: write `##` here"),
        [first, ..] => (first, "the `# Title` is the first line of a page"),
    };
    vec![Finding { line, message: message.to_owned() }]
}

/// Lines of a Markdown page that are not inside a ``` block, with their index.
fn outside_fences(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// Nothing in the tree depends on where somebody keeps it.
fn foreign_path(file: &TextFile) -> Vec<Finding> {
    findings(file.text.lines().enumerate(), |line| {
        let folder = MACHINE_FOLDERS.iter().find(|folder| has_absolute(line, folder))?;
        Some(format!(
            "/{folder}/… is a path of one machine: write it relative to the root of the tree, or with $HOME"
        ))
    })
}

/// Whether an absolute path below `/folder/` begins somewhere in the line: the slash follows
/// nothing that could be the rest of a relative path or of a URL.
fn has_absolute(line: &str, folder: &str) -> bool {
    let path = format!("/{folder}/");
    line.match_indices(&path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~/:*}".contains(c))
    })
}

/// A test that does not run says why, because the test summary prints it.
fn ignore_reason(file: &TextFile) -> Vec<Finding> {
    if !is_rust(file) {
        return Vec::new();
    }
    findings(file.text.lines().enumerate(), |line| {
        (line.trim() == "#[ignore]")
            .then(|| "write `#[ignore = \"why\"]`: every skipped test has a reason".to_owned())
    })
}

fn is_rust(file: &TextFile) -> bool {
    file.path.ends_with(".rs")
}

fn findings<'a>(
    lines: impl Iterator<Item = (usize, &'a str)>,
    check: impl Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    lines
        .filter_map(|(index, line)| check(line).map(|message| Finding { line: index + 1, message }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which rules a file breaks, with the line of each finding.
    fn broken(path: &str, text: &str) -> Vec<String> {
        let file = TextFile { path: path.to_owned(), text: text.to_owned() };
        check_all(&[file]).iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn a_source_file_without_a_head_is_found() {
        assert_eq!(broken("a/src/x.rs", "use std::fs;\n"), ["a/src/x.rs:1 head"]);
        assert_eq!(broken("a/src/x.rs", ""), ["a/src/x.rs:1 head"]);
        assert!(broken("a/src/x.rs", "//! What it is.\nuse std::fs;\n").is_empty());
        assert!(broken("a/x.py", "import os\n").is_empty());
    }

    #[test]
    fn a_clock_in_a_pure_core_is_found() {
        let text = "//! Core.\nfn f() {\n    let now = Instant::now();\n}\n";
        assert_eq!(broken("protocol/src/x.rs", text), ["protocol/src/x.rs:3 clock"]);
        assert_eq!(broken("dataplane/src/router.rs", text), ["dataplane/src/router.rs:3 clock"]);
        assert_eq!(broken("dataplane/src/router/table.rs", text), ["dataplane/src/router/table.rs:3 clock"]);
        assert!(broken("dataplane/src/listener.rs", text).is_empty(), "a shell may read the clock");
        assert!(
            broken("dataplane/src/router_shell.rs", text).is_empty(),
            "another file with the same beginning"
        );
    }

    #[test]
    fn tests_and_comments_of_a_core_may_name_the_clock() {
        let text = "//! Core.\n// Not Instant::now: see above.\n#[cfg(test)]\nmod tests {\n    // …\n    let now = SystemTime::now();\n}\n";
        assert!(broken("protocol/src/x.rs", text).is_empty());
        let file = "//! Tests.\nlet now = Instant::now();\n";
        assert!(broken("dataplane/src/router/tests.rs", file).is_empty(), "a file of tests");
        assert_eq!(broken("dataplane/src/router/contests.rs", file).len(), 1);
    }

    #[test]
    fn notes_to_oneself_are_found_as_words() {
        for note in [concat!("FIX", "ME"), concat!("XX", "X")] {
            assert_eq!(broken("deny.toml", &format!("ok\n# {note}: later\n")), ["deny.toml:2 left-over"]);
            assert!(broken("deny.toml", &format!("# a{note}b\n")).is_empty());
        }
    }

    #[test]
    fn a_page_has_one_title_first() {
        assert_eq!(broken("a.md", "text\n"), ["a.md:1 title"]);
        assert_eq!(broken("a.md", "text\n# Late\n"), ["a.md:2 title"]);
        assert_eq!(broken("a.md", "# One\n\n# Two\n"), ["a.md:3 title"]);
        assert!(broken("a.md", "# One\n\n## Part\n```sh\n# a comment\n```\n").is_empty());
    }

    #[test]
    fn a_path_of_somebodys_machine_is_found() {
        for folder in MACHINE_FOLDERS {
            let line = format!("see \"/{folder}/me/file\"\n");
            assert_eq!(broken("a.toml", &line), ["a.toml:1 foreign-path"], "{folder}");
        }
        for fine in ["see docs/home/page", "https://example.com/home/x", "$HOME/file", "in /var/lib/berth"] {
            assert!(broken("a.toml", fine).is_empty(), "{fine}");
        }
    }

    #[test]
    fn an_ignored_test_without_a_reason_is_found() {
        let bare = "//! Tests.\n#[test]\n#[ignore]\nfn a() {}\n";
        assert_eq!(broken("tests/tests/x.rs", bare), ["tests/tests/x.rs:3 ignore-reason"]);
        let told = "//! Tests.\n#[test]\n#[ignore = \"an hour long\"]\nfn a() {}\n";
        assert!(broken("tests/tests/x.rs", told).is_empty());
    }
}
