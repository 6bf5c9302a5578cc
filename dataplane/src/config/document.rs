//! The first stage: text becomes tables and values that remember where they stood.
//!
//! Why not serde's derived structs: they stop at the first value of a wrong kind, and an operator should see all
//! mistakes at once. So the raw form is the TOML tree itself; every key in it is optional until the second stage
//! (`check`) asks for it by its declaration.
//!
//! Invariants: broken syntax never reaches the second stage; a key that nobody declared is a mistake; reading a key
//! that is wrong records the mistake and gives the default as a stand-in, so that the checks go on.
//!
//! Left to others: the declarations (`keys`), what values may be (`rules`), what they mean together (`check`).

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Entries, Fallback, KEYS, Key, TABLES, Table, split};
use super::mistakes::{Mistake, Mistakes, Remedy, Report, Scope, nearest, quote};
use super::rules::{Fault, Rule, article};
use super::units::show_size;

/// Longest text of a configuration. Ten thousand routes with a line for each key stay below half of it; what is
/// larger is not a configuration, and reading it would only take memory.
pub const TEXT_BYTES_MAX: usize = 4 << 20;

/// Reads the syntax of `text`, or says what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Spanned<DeTable<'_>>, Mistakes> {
    let report = Report::new(text);
    if text.len() > TEXT_BYTES_MAX {
        let remedy =
            Remedy { allowed: format!("up to {}", show_size(TEXT_BYTES_MAX as u64)), ..Remedy::default() };
        report.add(0, || Mistake::new(String::new(), String::new(), "the text is too long", remedy));
    } else {
        let (document, errors) = DeTable::parse_recoverable(text);
        add_syntax_errors(&report, text, &errors);
        if report.is_empty() {
            return Ok(document);
        }
    }
    Err(report.close(Scope::SyntaxOnly).expect("the branches above have added a mistake"))
}

/// Adds the first error of each line: one slip often makes the parser stumble over the rest of its line as well.
fn add_syntax_errors(report: &Report<'_>, text: &str, errors: &[toml::de::Error]) {
    let mut lines_blamed = BTreeMap::new();
    for error in errors {
        let offset = text.floor_char_boundary(error.span().map_or(text.len(), |span| span.start));
        let line_start = text[..offset].rfind('\n');
        lines_blamed.entry(line_start).or_insert((offset, error));
    }
    for (offset, error) in lines_blamed.into_values() {
        report.add(offset, || {
            Mistake::new(String::new(), report.quote_line(offset), error.message(), Remedy::default())
        });
    }
}

/// A table of the document, or the place where it could be.
pub(super) struct Section<'d> {
    report: &'d Report<'d>,
    /// Its path in this document: `listen[1]`.
    path: String,
    /// Its path in the declarations: `listen[]`.
    pattern: String,
    /// Byte at which it begins, for mistakes about what it lacks.
    offset: usize,
    /// None when the document does not have it: all its keys are absent then.
    table: Option<&'d DeTable<'d>>,
}

impl<'d> Section<'d> {
    /// The whole document. Every key in it that nobody declared is reported here.
    pub(super) fn root(document: &'d Spanned<DeTable<'d>>, report: &'d Report<'d>) -> Self {
        let table = Some(document.get_ref());
        let root = Self { report, path: String::new(), pattern: String::new(), offset: 0, table };
        root.report_unknown_keys(&Names::declared());
        root
    }

    /// Whether the table has a key or table of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The table `name` in this one. If it is not there, one without keys.
    pub(super) fn table(&self, name: &str) -> Section<'d> {
        let (path, pattern) = (join(&self.path, name), join(&self.pattern, name));
        let table = self.find(name).and_then(|value| self.expect_table(&path, &pattern, value));
        let offset = self.find(name).map_or(self.offset, |value| value.span().start);
        Section { report: self.report, path, pattern, offset, table }
    }

    /// The entries of the list of tables that `declared` describes.
    pub(super) fn list(&self, declared: &Table) -> Vec<Section<'d>> {
        let Entries::UpTo(entries_max, _) = declared.entries else { return Vec::new() };
        let name = list_name(declared);
        let path = join(&self.path, name);
        match self.find(name).map(|found| (found, found.get_ref())) {
            None => Vec::new(),
            Some((_, DeValue::Array(entries))) if entries.len() <= entries_max => entries
                .iter()
                .enumerate()
                .filter_map(|(index, entry)| self.entry(&path, declared, index, entry))
                .collect(),
            Some((found, value)) => {
                let problem = match value {
                    DeValue::Array(entries) => format!("has {} entries, which are too many", entries.len()),
                    other => format!("is {}", article(other)),
                };
                let remedy = Remedy {
                    allowed: format!("a list of up to {entries_max} tables"),
                    example: format!("[[{}]]", declared.path.trim_end_matches("[]")),
                };
                self.report.add(found.span().start, || Mistake::new(path, String::new(), problem, remedy));
                Vec::new()
            }
        }
    }

    fn entry(
        &self,
        list: &str,
        declared: &Table,
        index: usize,
        entry: &'d Spanned<DeValue<'d>>,
    ) -> Option<Section<'d>> {
        let path = format!("{list}[{index}]");
        let table = self.expect_table(&path, declared.path, entry)?;
        let pattern = declared.path.to_owned();
        Some(Section { report: self.report, path, pattern, offset: entry.span().start, table: Some(table) })
    }

    fn expect_table(
        &self,
        path: &str,
        pattern: &str,
        value: &'d Spanned<DeValue<'d>>,
    ) -> Option<&'d DeTable<'d>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.report.add(value.span().start, || {
                let allowed = format!("a table with the keys {}", Names::declared().list(pattern));
                let problem = format!("is {}", article(value.get_ref()));
                let remedy = Remedy { allowed, ..Remedy::default() };
                Mistake::new(path.to_owned(), self.report.quote(value.span()), problem, remedy)
            });
        }
        table
    }

    /// The value of `key`, or its default. If the value is wrong, the mistake is recorded and the default stands in.
    pub(super) fn read<R: Rule>(&self, key: &Key<R>) -> R::Value {
        let Fallback::Default(default) = key.fallback else {
            unreachable!("{} has no default to fall back on", key.path)
        };
        self.optional(key).unwrap_or_else(|| {
            let value = DeValue::parse(default).expect("a default is TOML; a test reads all of them");
            key.rule.read(value.get_ref()).expect("a default obeys its rule; a test reads all of them")
        })
    }

    /// The value of `key`, which must be there. None if it is not or if it is wrong: the mistake is recorded.
    pub(super) fn require<R: Rule>(&self, key: &Key<R>) -> Option<R::Value> {
        let name = split(key.path).1;
        if !self.has(name) {
            self.blame(key, key.remedy(), "is missing");
        }
        self.optional(key)
    }

    /// The value of `key` if it is there. None also if it is wrong: the mistake is recorded.
    pub(super) fn optional<R: Rule>(&self, key: &Key<R>) -> Option<R::Value> {
        let (table, name) = split(key.path);
        debug_assert_eq!(table, self.pattern, "{} is read from another table than declared", key.path);
        let value = self.find(name)?;
        match key.rule.read(value.get_ref()) {
            Ok(read) => Some(read),
            Err(faults) => {
                faults.into_iter().for_each(|fault| self.add_fault(name, key, value, fault));
                None
            }
        }
    }

    fn add_fault<R: Rule>(&self, name: &str, key: &Key<R>, value: &Spanned<DeValue<'_>>, fault: Fault) {
        let span = fault.span.unwrap_or_else(|| value.span());
        self.report.add(span.start, || {
            let path = join(&self.path, name) + &fault.part;
            Mistake::new(path, self.report.quote(span.clone()), fault.problem, key.remedy())
        });
    }

    /// Records a mistake about `key` that its own rule cannot see. A default can be mistaken too, beside other values.
    pub(super) fn blame<R: Rule>(&self, key: &Key<R>, remedy: Remedy, problem: impl Into<String>) {
        let name = split(key.path).1;
        let found = match (self.find(name), key.fallback) {
            (Some(value), _) => self.report.quote(value.span()),
            (None, Fallback::Default(default)) => format!("{default} (the default)"),
            (None, Fallback::Required | Fallback::Nothing(_)) => String::new(),
        };
        let offset = self.find(name).map_or(self.offset, |value| value.span().start);
        let path = join(&self.path, name);
        self.report.add(offset, || Mistake::new(path, found, problem, remedy));
    }

    /// Records a mistake about the list of tables that `declared` describes, whether it is there or not.
    pub(super) fn blame_list(&self, declared: &Table, remedy: Remedy, problem: impl Into<String>) {
        let name = list_name(declared);
        let offset = self.find(name).map_or(self.offset, |value| value.span().start);
        self.report.add(offset, || Mistake::new(join(&self.path, name), String::new(), problem, remedy));
    }

    /// Records a mistake about this table as a whole.
    pub(super) fn blame_table(&self, remedy: Remedy, problem: impl Into<String>) {
        self.report.add(self.offset, || Mistake::new(self.path.clone(), String::new(), problem, remedy));
    }

    fn find(&self, name: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.table?.get(name)
    }

    fn report_unknown_keys(&self, names: &Names) {
        for (name, value) in self.table.into_iter().flatten() {
            let pattern = join(&self.pattern, name.get_ref());
            match names.kind(&self.pattern, name.get_ref()) {
                None => self.report.add(name.span().start, || self.unknown_key(names, name.get_ref())),
                Some(Known::Key) => {}
                Some(Known::Table) => self.descend(names, name.get_ref(), pattern, value),
                Some(Known::List) => {
                    for (index, entry) in value.get_ref().as_array().into_iter().flatten().enumerate() {
                        self.descend(
                            names,
                            &format!("{}[{index}]", name.get_ref()),
                            format!("{pattern}[]"),
                            entry,
                        );
                    }
                }
            }
        }
    }

    fn descend(&self, names: &Names, name: &str, pattern: String, value: &'d Spanned<DeValue<'d>>) {
        let path = join(&self.path, name);
        let table = value.get_ref().as_table();
        Section { report: self.report, path, pattern, offset: self.offset, table }.report_unknown_keys(names);
    }

    fn unknown_key(&self, names: &Names, name: &str) -> Mistake {
        let near = nearest(name, names.of(&self.pattern)).map(|near| join(&self.path, near));
        let problem = match near.or_else(|| names.elsewhere(name)) {
            Some(meant) => format!("is unknown; did you mean {meant}?"),
            None => "is unknown".to_owned(),
        };
        let allowed = match self.pattern.as_str() {
            "" => format!("the tables {}", names.list("")),
            table => format!("the keys of {table}: {}", names.list(table)),
        };
        Mistake::new(
            join(&self.path, &quote(name)),
            String::new(),
            problem,
            Remedy { allowed, ..Remedy::default() },
        )
    }
}

impl<R: Rule> Key<R> {
    /// What a mistake about this key says would be right.
    pub(super) fn remedy(&self) -> Remedy {
        Remedy { allowed: self.rule.allowed(), example: format!("{} = {}", split(self.path).1, self.example) }
    }
}

/// The names that may stand in each table, with what each of them is.
struct Names(BTreeMap<&'static str, BTreeMap<&'static str, Known>>);

/// What a declared name is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Key,
    Table,
    List,
}

impl Names {
    fn declared() -> Self {
        let mut names: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for table in TABLES {
            let (parent, name) = split(table.path);
            let kind = if name.ends_with("[]") { Known::List } else { Known::Table };
            names.entry(parent).or_default().insert(name.trim_end_matches("[]"), kind);
        }
        for key in KEYS {
            let (table, name) = split(key.path());
            names.entry(table).or_default().insert(name, Known::Key);
        }
        Self(names)
    }

    fn kind(&self, table: &str, name: &str) -> Option<Known> {
        self.0.get(table)?.get(name).copied()
    }

    fn of(&self, table: &str) -> impl Iterator<Item = &'static str> {
        self.0.get(table).into_iter().flatten().map(|(name, _)| *name)
    }

    fn list(&self, table: &str) -> String {
        self.of(table).collect::<Vec<_>>().join(", ")
    }

    /// The key of this name in another table, if there is just one.
    fn elsewhere(&self, name: &str) -> Option<String> {
        let mut tables = self.0.iter().filter(|(_, names)| names.contains_key(name)).map(|(table, _)| *table);
        match (tables.next(), tables.next()) {
            (Some(table), None) => Some(join(table, name)),
            _ => None,
        }
    }
}

/// The name of a list of tables in the table that holds it.
fn list_name(declared: &Table) -> &'static str {
    split(declared.path).1.trim_end_matches("[]")
}

fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}
