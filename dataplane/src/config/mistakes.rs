//! What is wrong with a configuration, all of it at once.
//!
//! Why all at once: an operator who repairs a file at night wants one run, not one run for each mistake. So the
//! checks put their mistakes into a [`Report`] and go on with a stand-in value, and the end decides.
//!
//! Invariants: each mistake says where (line and key path), what was found, what is wrong with it, what is allowed
//! and an example that would be right. The kept number and the length of quoted text are bounded, so that a file of
//! a million mistakes costs no more to report than one of fifty.
//!
//! Left to others: finding the mistakes (`document`, `rules`, `check`).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;

/// Most mistakes that are kept and shown; the rest are only counted. Fifty are two screens: who has more has written
/// the file for another program, and repairing the first ones will tell.
pub const MISTAKES_MAX: usize = 50;

/// Longest quoted piece of the file, in characters. A mistake should fit on a line of a terminal.
const QUOTE_CHARS_MAX: usize = 60;

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the file, from 1. For a missing key it is the line of the table that should have it.
    pub line: usize,
    /// Column in that line in characters, from 1.
    pub column: usize,
    /// Path of the key: `limits.header_bytes`, `listen[1].address` (entries count from 0). Empty for broken syntax.
    pub path: String,
    /// The value (for broken syntax: the line) as written. Empty when there is none.
    pub found: String,
    /// What is wrong, as the end of a sentence that begins with the path and the value.
    pub problem: String,
    /// What would be right: kind and bounds.
    pub allowed: String,
    /// One right way to write it.
    pub example: String,
}

/// What would be right instead.
#[derive(Debug, Clone, Default)]
pub(super) struct Remedy {
    /// Kind and bounds.
    pub(super) allowed: String,
    /// One right way to write it.
    pub(super) example: String,
}

impl Mistake {
    /// A mistake without its place, which [`Report::add`] fills in.
    pub(super) fn new(path: String, found: String, problem: impl Into<String>, remedy: Remedy) -> Self {
        let Remedy { allowed, example } = remedy;
        Self { line: 0, column: 0, path, found, problem: problem.into(), allowed, example }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}, column {}: ", self.line, self.column)?;
        match (self.path.as_str(), self.found.as_str()) {
            ("", "") => write!(out, "{}", self.problem)?,
            ("", found) => write!(out, "{}\n    found: {found}", self.problem)?,
            (path, "") => write!(out, "{path} {}", self.problem)?,
            (path, found) => write!(out, "{path} = {found} {}", self.problem)?,
        }
        for (label, text) in [("allowed", &self.allowed), ("example", &self.example)] {
            if !text.is_empty() {
                write!(out, "\n    {label}: {text}")?;
            }
        }
        Ok(())
    }
}

/// All mistakes of a configuration, in the order of the file. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    kept: Vec<Mistake>,
    omitted: usize,
    scope: Scope,
}

/// How far the checks came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The syntax is broken, so that nothing behind it could be checked.
    SyntaxOnly,
    /// Every key was checked.
    Everything,
}

impl Mistakes {
    /// The mistakes, at most [`MISTAKES_MAX`] of them.
    pub fn kept(&self) -> &[Mistake] {
        &self.kept
    }

    /// How many there are in all, kept or not.
    pub fn count(&self) -> usize {
        self.kept.len() + self.omitted
    }
}

impl fmt::Display for Mistakes {
    /// A summary, then one paragraph for each mistake.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            1 => write!(out, "1 mistake in the configuration")?,
            many => write!(out, "{many} mistakes in the configuration")?,
        }
        if self.scope == Scope::SyntaxOnly {
            write!(out, "; the keys are checked once its syntax is right")?;
        }
        for mistake in &self.kept {
            write!(out, "\n\n{mistake}")?;
        }
        if self.omitted > 0 {
            write!(out, "\n\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The mistakes found so far, with the text that they are about.
pub(super) struct Report<'t> {
    text: &'t str,
    kept: RefCell<Vec<(usize, Mistake)>>,
    omitted: Cell<usize>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, kept: RefCell::new(Vec::new()), omitted: Cell::new(0) }
    }

    /// Adds a mistake at byte `offset` of the text; `make` is called only if there is room for it, and its line and
    /// column are filled in here.
    pub(super) fn add(&self, offset: usize, make: impl FnOnce() -> Mistake) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() == MISTAKES_MAX {
            self.omitted.set(self.omitted.get() + 1);
            return;
        }
        let (line, column) = position(self.text, offset);
        kept.push((offset, Mistake { line, column, ..make() }));
    }

    /// Whether a mistake about `path`, or about something inside it, is already known.
    pub(super) fn blames(&self, path: &str) -> bool {
        self.kept.borrow().iter().any(|(_, mistake)| {
            mistake
                .path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty()
    }

    /// The text of `span` as it is quoted in a mistake: one line, bounded, without control characters.
    pub(super) fn quote(&self, span: Range<usize>) -> String {
        quote(self.text.get(span).unwrap_or_default())
    }

    /// The line that holds byte `offset`, quoted.
    pub(super) fn quote_line(&self, offset: usize) -> String {
        let before = before(self.text, offset);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        quote(self.text[start..].split('\n').next().unwrap_or_default().trim())
    }

    /// The end of the checks. None when nothing was wrong.
    pub(super) fn close(self, scope: Scope) -> Option<Mistakes> {
        let mut kept = self.kept.into_inner();
        kept.sort_by_key(|(offset, _)| *offset);
        let kept: Vec<Mistake> = kept.into_iter().map(|(_, mistake)| mistake).collect();
        (!kept.is_empty()).then(|| Mistakes { kept, omitted: self.omitted.get(), scope })
    }
}

/// Makes `text` fit to stand in a message: bounded, with control characters written out.
pub(super) fn quote(text: &str) -> String {
    let mut shown = String::new();
    for (count, letter) in text.chars().enumerate() {
        match letter {
            _ if count == QUOTE_CHARS_MAX => {
                shown.push_str("...");
                break;
            }
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}

/// The candidate nearest to `word`, if one is near enough that a slip of the hand explains the difference.
///
/// One slip is allowed for every three letters of the longer word: more, and the suggestion is noise.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > QUOTE_CHARS_MAX {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(slips, candidate)| slips * 3 <= word.chars().count().max(candidate.chars().count()))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// Slips of the hand between two words: letters left out, added, changed, or two neighbours swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Three rows of the usual table: the row before the last is what makes swaps visible.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Line and column of byte `offset`, both from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = before(text, offset);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
    (line, column)
}

/// The text before byte `offset`, cut back to a whole character.
fn before(text: &str, offset: usize) -> &str {
    &text[..text.floor_char_boundary(offset)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(path: &str) -> Mistake {
        let remedy = Remedy { allowed: "1 to 8".to_owned(), example: "a = 2".to_owned() };
        Mistake::new(path.to_owned(), "9".to_owned(), "is too much", remedy)
    }

    #[test]
    fn a_paragraph_says_where_what_and_what_instead() {
        let report = Report::new("b = 1\n  a = 9\n");
        report.add(12, || mistake("limits.a"));
        assert_eq!(
            report.close(Scope::Everything).unwrap().to_string(),
            "1 mistake in the configuration\n\n\
             line 2, column 7: limits.a = 9 is too much\n    allowed: 1 to 8\n    example: a = 2"
        );
    }

    #[test]
    fn mistakes_come_in_the_order_of_the_file() {
        let report = Report::new("first\nsecond\n");
        report.add(6, || mistake("second"));
        report.add(0, || mistake("first"));
        let mistakes = report.close(Scope::Everything).unwrap();
        assert_eq!(
            mistakes.kept().iter().map(|one| one.path.as_str()).collect::<Vec<_>>(),
            ["first", "second"]
        );
    }

    #[test]
    fn beyond_the_bound_mistakes_are_only_counted() {
        let report = Report::new("");
        for _ in 0..MISTAKES_MAX {
            report.add(0, || mistake("kept"));
        }
        for _ in 0..7 {
            report.add(0, || unreachable!("no room, so nobody needs the text"));
        }
        let mistakes = report.close(Scope::Everything).unwrap();
        assert_eq!((mistakes.kept().len(), mistakes.count()), (MISTAKES_MAX, MISTAKES_MAX + 7));
        assert!(mistakes.to_string().ends_with("\n\nand 7 more"));
    }

    #[test]
    fn no_mistake_is_no_report() {
        assert_eq!(Report::new("").close(Scope::Everything), None);
    }

    #[test]
    fn a_path_blames_itself_and_what_contains_it() {
        let report = Report::new("");
        report.add(0, || mistake("listen[1].address"));
        for (path, blamed) in
            [("listen", true), ("listen[1]", true), ("listen[1].address", true), ("list", false)]
        {
            assert_eq!(report.blames(path), blamed, "{path}");
        }
    }

    #[test]
    fn quotes_are_short_and_printable() {
        assert_eq!(quote("plain \"text\" ä"), "plain \"text\" ä");
        assert_eq!(quote("two\nlines\u{1b}[31m"), "two\\nlines\\u{1b}[31m");
        assert_eq!(quote(&"x".repeat(QUOTE_CHARS_MAX)), "x".repeat(QUOTE_CHARS_MAX));
        assert_eq!(quote(&"x".repeat(QUOTE_CHARS_MAX + 1)), format!("{}...", "x".repeat(QUOTE_CHARS_MAX)));
    }

    #[test]
    fn slips_are_counted() {
        for (a, b, slips) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "ac", 1),
            ("abc", "acb", 1),
            ("header_bytes", "haeder_byte", 2),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (slips, slips), "{a} {b}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let keys = ["header_bytes", "header_count", "body_bytes"];
        assert_eq!(nearest("heder_bytes", keys), Some("header_bytes"));
        assert_eq!(nearest("header_counts", keys), Some("header_count"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("bide", ["body"]), None, "two slips in four letters are another word");
        assert_eq!(nearest("bdoy", ["body"]), Some("body"), "one slip in four letters is a slip");
        assert_eq!(nearest("", keys), None);
    }

    #[test]
    fn positions_count_characters_and_stay_inside() {
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("äb\nc", 2), (1, 2));
        assert_eq!(position("äb\nc", 1), (1, 1), "the middle of a character is its start");
        assert_eq!(position("äb\nc", 4), (2, 1));
        assert_eq!(position("ab", 99), (1, 3));
    }
}
