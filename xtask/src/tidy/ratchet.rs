//! Ratchets: numbers that may fall but not grow.
//!
//! A rule that the tree does not fully keep yet enters as a count. `--bless` stores a lower number;
//! a higher one is refused: who has a good reason writes it into the file by hand, where a review
//! sees it.

use crate::shell::Failure;
use crate::tidy::OnDifference;
use crate::workspace::{TextFile, Workspace};

const FILE: &str = "docs/ratchets.txt";
const KEY: &str = "long_functions";

/// A function that does not fit on a screen hides its shape. Most stay below 40; a long `match`
/// over one protocol may be better whole, hence a ratchet and not a rule.
const FUNCTION_LINES_MAX: usize = 70;

#[derive(Debug, PartialEq, Eq)]
struct LongFunction {
    place: String,
    lines: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Same,
    Fell,
    Grew,
}

pub(super) fn check(workspace: &Workspace, on_difference: OnDifference) -> Result<(), Failure> {
    let found: Vec<LongFunction> = workspace.text_files()?.iter().flat_map(long_functions).collect();
    let stored = workspace.read(FILE)?.as_deref().map(parse).transpose()?;
    match turn(stored, found.len()) {
        Turn::Same => Ok(()),
        Turn::Fell if on_difference == OnDifference::Bless => workspace.write(FILE, &render(found.len())),
        Turn::Fell => {
            println!(
                "only {} functions above {FUNCTION_LINES_MAX} lines are left: `cargo xtask tidy --bless` keeps the gain",
                found.len()
            );
            Ok(())
        }
        Turn::Grew => Err(too_many(&found, stored.unwrap_or_default())),
    }
}

/// A file that is not there yet is filled by the first `--bless`.
fn turn(stored: Option<usize>, found: usize) -> Turn {
    match stored {
        None => Turn::Fell,
        Some(stored) if found < stored => Turn::Fell,
        Some(stored) if found > stored => Turn::Grew,
        Some(_) => Turn::Same,
    }
}

fn too_many(found: &[LongFunction], stored: usize) -> Failure {
    let mut message = format!(
        "{} functions are longer than {FUNCTION_LINES_MAX} lines, {stored} were: move whole ideas into named \
         functions, or raise the number in {FILE} and say in the commit why",
        found.len()
    );
    for function in found {
        message.push_str(&format!("\n  {} has {} lines", function.place, function.lines));
    }
    Failure::new(message)
}

fn render(count: usize) -> String {
    format!(
        "# Numbers that may fall, never grow: `cargo xtask tidy` compares, `--bless` stores a lower one.\n\
         # {KEY}: functions of more than {FUNCTION_LINES_MAX} lines.\n{KEY} = {count}\n"
    )
}

fn parse(text: &str) -> Result<usize, Failure> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == KEY)
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| Failure::new(format!("{FILE} has no line `{KEY} = <number>`; `git checkout {FILE}`")))
}

/// Functions that are too long, found by layout: rustfmt closes a function with a brace at the
/// indentation of its first line, so no parser is needed.
fn long_functions(file: &TextFile) -> Vec<LongFunction> {
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| opens_function(line)) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let close = format!("{indent}}}");
        let length = lines[start..].iter().position(|line| **line == close).map_or(1, |end| end + 1);
        if length > FUNCTION_LINES_MAX {
            found.push(LongFunction { place: format!("{}:{}", file.path, start + 1), lines: length });
        }
    }
    found
}

/// Whether a line begins a function with a body: `fn`, after visibility and qualifiers.
fn opens_function(line: &str) -> bool {
    let qualifiers = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    let mut words = line.split_whitespace().skip_while(|word| qualifiers.contains(word));
    // A function on one line, or a declaration in a trait, ends where it begins.
    words.next() == Some("fn") && !line.ends_with('}') && !line.ends_with(';')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function of `lines` lines in all.
    fn function(head: &str, indent: &str, lines: usize) -> String {
        format!("{indent}{head} {{\n{}{indent}}}\n", format!("{indent}    work();\n").repeat(lines - 2))
    }

    fn found(text: String) -> Vec<LongFunction> {
        long_functions(&TextFile { path: "a.rs".to_owned(), text })
    }

    #[test]
    fn a_function_above_the_bound_is_found_and_one_at_the_bound_is_not() {
        assert_eq!(found(function("fn a()", "", FUNCTION_LINES_MAX)), []);
        let long = found(function("fn a()", "", FUNCTION_LINES_MAX + 1));
        assert_eq!(long, [LongFunction { place: "a.rs:1".to_owned(), lines: FUNCTION_LINES_MAX + 1 }]);
    }

    #[test]
    fn methods_and_qualified_functions_count_too() {
        for head in
            ["pub fn a()", "pub(crate) async fn a()", "const unsafe fn a()", "fn a<T: Fn()>(t: T) -> T"]
        {
            assert_eq!(found(function(head, "    ", 80)).len(), 1, "{head}");
        }
    }

    #[test]
    fn short_functions_one_after_another_are_not_one_long_function() {
        let text = function("fn a()", "", 60)
            + "trait T {\n    fn b();\n    fn c() {}\n}\n"
            + &function("fn d()", "", 60);
        assert_eq!(found(text), []);
    }

    #[test]
    fn the_number_may_fall_but_not_grow() {
        assert_eq!(turn(Some(3), 4), Turn::Grew);
        assert_eq!(turn(Some(3), 3), Turn::Same);
        assert_eq!(turn(Some(3), 2), Turn::Fell);
        assert_eq!(turn(None, 9), Turn::Fell);
    }

    #[test]
    fn what_is_stored_is_read_back() {
        assert_eq!(parse(&render(7)).unwrap(), 7);
        assert!(parse("# nothing\n").is_err());
    }
}
