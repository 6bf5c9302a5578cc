//! The text of a `berth.toml` as tables whose mistakes know their lines.
//!
//! Reading a key that is wrong notes the mistake and gives nothing, so that one reading finds all of them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{NAME, Rule};

/// Longest text of a project file: it is read whole, and no person writes a thousandth of it.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// A text that is TOML.
pub(super) struct Document<'d> {
    text: &'d str,
    table: Spanned<DeTable<'d>>,
    /// Where each begins in the text, and what it is.
    mistakes: RefCell<Vec<(usize, String)>>,
}

impl<'d> Document<'d> {
    /// Reads the syntax.
    pub(super) fn parse(text: &'d str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("it has more than {TEXT_BYTES_MAX} bytes"));
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        let document = Self { text, table, mistakes: RefCell::default() };
        for error in errors {
            document.add(error.span().map_or(text.len(), |span| span.start), error.message().to_owned());
        }
        if document.is_wrong() { Err(document.close().err().unwrap_or_default()) } else { Ok(document) }
    }

    /// The table that has everything.
    pub(super) fn root(&self) -> Section<'_> {
        Section { document: self, path: String::new(), offset: 0, table: self.table.get_ref() }
    }

    /// Whether there is a mistake already.
    pub(super) fn is_wrong(&self) -> bool {
        !self.mistakes.borrow().is_empty()
    }

    /// All mistakes, a line each, in the order of the file.
    pub(super) fn close(&self) -> Result<(), String> {
        let line = |offset: usize| {
            let before = &self.text.as_bytes()[..offset.min(self.text.len())];
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        };
        let mut mistakes =
            self.mistakes.borrow().iter().map(|(at, what)| (line(*at), what.clone())).collect::<Vec<_>>();
        mistakes.sort();
        mistakes.dedup();
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(mistakes
            .iter()
            .map(|(line, what)| format!("line {line}: {what}"))
            .collect::<Vec<_>>()
            .join("\n  "))
    }

    fn add(&self, offset: usize, mistake: String) {
        self.mistakes.borrow_mut().push((offset, mistake));
    }
}

/// A table of the document.
pub(super) struct Section<'d> {
    document: &'d Document<'d>,
    /// Of its keys: `workers.front`. Empty for the whole document.
    path: String,
    /// Where it begins, for mistakes about what it lacks.
    offset: usize,
    table: &'d DeTable<'d>,
}

impl<'d> Section<'d> {
    /// Notes the keys that are none of these.
    pub(super) fn only(&self, known: &[&str]) {
        for (key, _) in self.table {
            if !known.contains(&&**key.get_ref()) {
                let path = self.path_of(key.get_ref());
                let mistake = format!("{path} is not known here; known are {}", known.join(", "));
                self.document.add(key.span().start, mistake);
            }
        }
    }

    /// Notes that a key is there.
    pub(super) fn refuse(&self, name: &str, why: &str) {
        if self.has(name) {
            self.mistake_at(name, why);
        }
    }

    /// Notes a mistake of the table as a whole.
    pub(super) fn mistake(&self, what: &str) {
        self.document.add(self.offset, what.to_owned());
    }

    /// Notes a mistake of one key.
    pub(super) fn mistake_at(&self, name: &str, what: &str) {
        let offset = self.table.get_key_value(name).map_or(self.offset, |(key, _)| key.span().start);
        self.document.add(offset, format!("{} {what}", self.path_of(name)));
    }

    /// A key that has to be there.
    pub(super) fn need<T>(
        &self,
        name: &str,
        read: impl Fn(&Self, &str) -> Option<T>,
        example: &str,
    ) -> Option<T> {
        if self.find(name).is_none() {
            let mistake = format!("{} is missing; write {name} = {example}", self.path_of(name));
            self.document.add(self.offset, mistake);
        }
        read(self, name)
    }

    /// Text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.as_text(&self.path_of(name), self.find(name)?)
    }

    /// A name.
    pub(super) fn name(&self, name: &str) -> Option<String> {
        let text = self.text(name)?;
        if !(NAME.keeps)(&text) {
            self.mistake_at(name, &format!("= {text:?} is no name: {}", NAME.words));
        }
        Some(text)
    }

    /// A whole number of 32 bits.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        let value = self.find(name)?;
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_kind(&self.path_of(name), value.span().start, value.get_ref(), "a whole number");
            return None;
        };
        let number = u32::from_str_radix(number.as_str(), number.radix()).ok();
        if number.is_none() {
            self.mistake_at(name, &format!("must be from 0 to {}", u32::MAX));
        }
        number
    }

    /// A list of texts, or one text for a list of one. An empty list is a mistake.
    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        let value = self.find(name)?;
        let path = self.path_of(name);
        match value.get_ref() {
            DeValue::String(text) => Some(vec![text.to_string()]),
            DeValue::Array(entries) if entries.is_empty() => {
                self.mistake_at(name, "is empty");
                None
            }
            DeValue::Array(entries) => {
                let entry = |(index, entry)| self.as_text(&format!("{path}[{index}]"), entry);
                Some(entries.iter().enumerate().filter_map(entry).collect())
            }
            other => {
                self.wrong_kind(&path, value.span().start, other, "text or a list of texts");
                None
            }
        }
    }

    /// A table.
    pub(super) fn table(&self, name: &str) -> Option<Section<'d>> {
        let (key, value) = self.table.get_key_value(name)?;
        self.as_table(self.path_of(name), key.span().start, value)
    }

    /// The tables of a table, whose keys are names by this rule.
    pub(super) fn tables(&self, name: &str, rule: &Rule) -> Vec<(String, Section<'d>)> {
        let Some(outer) = self.table(name) else { return Vec::new() };
        let mut tables = Vec::new();
        for (key, value) in outer.table {
            let name = key.get_ref().to_string();
            if !(rule.keeps)(&name) {
                outer.mistake_at(&name, &format!("is no name: {}", rule.words));
            }
            if let Some(inner) = outer.as_table(outer.path_of(&name), key.span().start, value) {
                tables.push((name, inner));
            }
        }
        tables
    }

    /// Every key of this table, as text.
    pub(super) fn all_texts(&self) -> BTreeMap<String, String> {
        let text = |(key, value): (&'d Spanned<toml::de::DeString<'d>>, &'d Spanned<DeValue<'d>>)| {
            Some((key.get_ref().to_string(), self.as_text(&self.path_of(key.get_ref()), value)?))
        };
        self.table.iter().filter_map(text).collect()
    }

    /// Every key of this table, as text or whole number.
    pub(super) fn all_scalars(&self) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        for (key, value) in self.table {
            let path = self.path_of(key.get_ref());
            let scalar = match value.get_ref() {
                DeValue::String(text) => Value::from(text.to_string()),
                DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Value::from(number),
                    Err(_) => Value::from(number.as_str()),
                },
                other => {
                    self.wrong_kind(&path, value.span().start, other, "text or a number");
                    continue;
                }
            };
            all.insert(key.get_ref().to_string(), scalar);
        }
        all
    }

    /// Whether a key is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.table.get(name)
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn as_text(&self, path: &str, value: &Spanned<DeValue<'d>>) -> Option<String> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(text.to_string());
        }
        self.wrong_kind(path, value.span().start, value.get_ref(), "text");
        None
    }

    fn as_table(&self, path: String, offset: usize, value: &'d Spanned<DeValue<'d>>) -> Option<Section<'d>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(Section { document: self.document, path, offset, table });
        }
        self.wrong_kind(&path, value.span().start, value.get_ref(), "a table");
        None
    }

    fn wrong_kind(&self, path: &str, offset: usize, value: &DeValue<'_>, wanted: &str) {
        let kind = match value {
            DeValue::String(_) => "text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a truth value",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.document.add(offset, format!("{path} is {kind}; it must be {wanted}"));
    }
}
