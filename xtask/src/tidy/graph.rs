//! The dependency direction between our crates, as text.
//!
//! The golden file shows a review that an arrow was added. One rule is harder than that and cannot
//! be blessed away: nothing depends on the crates at the top, which may know everything.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::shell::Failure;
use crate::workspace::Workspace;

/// Nobody depends on these: each is a program or a set of tests, not a library.
const TOP: &[&str] = &["berth-cli", "berth-perf", "berth-tests", "xtask"];

const HEAD: &str = "\
# Which crate of this workspace depends on which: `->` in what is shipped, `=>` only in its tests and benches,
# `~>` only in its build script. `cargo xtask tidy --bless` rewrites this file; docs/ARCHITECTURE.md says why it is so.
";

/// The arrows out of one crate.
#[derive(Default)]
struct Arrows {
    normal: Vec<String>,
    dev: Vec<String>,
    build: Vec<String>,
}

type Graph = BTreeMap<String, Arrows>;

/// The graph of the tree as it is now; fails if an arrow points at the top.
pub(super) fn render(workspace: &Workspace) -> Result<String, Failure> {
    let graph = read(&workspace.metadata()?)?;
    let wrong = arrows_to_the_top(&graph);
    if wrong.is_empty() { Ok(draw(&graph)) } else { Err(Failure::new(wrong.join("\n"))) }
}

/// Reads the arrows between members out of `cargo metadata`: those are the dependencies with a path.
fn read(metadata: &Value) -> Result<Graph, Failure> {
    let unexpected = || Failure::new("cargo metadata has another form than this xtask knows");
    let mut graph = Graph::new();
    for package in metadata["packages"].as_array().ok_or_else(unexpected)? {
        let name = package["name"].as_str().ok_or_else(unexpected)?;
        let arrows = graph.entry(name.to_owned()).or_default();
        for dependency in package["dependencies"].as_array().ok_or_else(unexpected)? {
            if dependency["path"].is_null() {
                continue;
            }
            let to = dependency["name"].as_str().ok_or_else(unexpected)?.to_owned();
            match dependency["kind"].as_str() {
                None => arrows.normal.push(to),
                Some("dev") => arrows.dev.push(to),
                Some("build") => arrows.build.push(to),
                Some(_) => return Err(unexpected()),
            }
        }
    }
    Ok(graph)
}

fn draw(graph: &Graph) -> String {
    let mut text = HEAD.to_owned();
    for (name, arrows) in graph {
        text.push_str(&format!("\n{name}\n"));
        for (arrow, targets) in [("->", &arrows.normal), ("=>", &arrows.dev), ("~>", &arrows.build)] {
            let mut targets = targets.clone();
            targets.sort();
            targets.dedup();
            for target in targets {
                text.push_str(&format!("  {arrow} {target}\n"));
            }
        }
    }
    text
}

fn arrows_to_the_top(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, arrows) in graph {
        let all = arrows.normal.iter().chain(&arrows.dev).chain(&arrows.build);
        for target in all.filter(|target| TOP.contains(&target.as_str())) {
            wrong.push(format!(
                "{name} depends on {target}, which nobody may depend on; move what {name} needs of it into a library crate"
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let ours = dependencies.iter().map(|(to, kind)| json!({ "name": to, "kind": kind, "path": "p" }));
        let foreign = json!({ "name": "bytes", "kind": null });
        json!({ "name": name, "dependencies": ours.chain([foreign]).collect::<Vec<_>>() })
    }

    fn graph(packages: &[Value]) -> Graph {
        read(&json!({ "packages": packages })).unwrap()
    }

    #[test]
    fn arrows_of_each_kind_are_told_apart_and_foreign_crates_left_out() {
        let drawn = draw(&graph(&[
            package("top", &[("low", None), ("helper", Some("dev")), ("maker", Some("build"))]),
            package("low", &[]),
        ]));
        let body = drawn.strip_prefix(HEAD).unwrap();
        assert_eq!(body, "\nlow\n\ntop\n  -> low\n  => helper\n  ~> maker\n");
    }

    #[test]
    fn a_new_arrow_changes_the_drawing() {
        let before = draw(&graph(&[package("a", &[]), package("b", &[])]));
        let after = draw(&graph(&[package("a", &[("b", None)]), package("b", &[])]));
        assert_ne!(before, after);
    }

    #[test]
    fn nobody_depends_on_the_top_not_even_in_tests() {
        let wrong = arrows_to_the_top(&graph(&[package("berth-protocol", &[("berth-tests", Some("dev"))])]));
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].contains("library crate"), "{}", wrong[0]);
        assert!(arrows_to_the_top(&graph(&[package("berth-cli", &[("berth-protocol", None)])])).is_empty());
    }
}
