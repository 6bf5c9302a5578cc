//! Rows in columns, for a terminal.

use serde_json::Value;

/// The rows below their headings, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.into_iter().zip(widths) {
            line += &format!("{cell:<width$}  ");
        }
        line.trim_end().to_owned() + "\n"
    };
    let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    std::iter::once(line(headings)).chain(rows).collect()
}

/// The entries of a list in an answer.
pub(crate) fn entries<'a>(answer: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    answer[name].as_array().into_iter().flatten()
}

/// A value as a cell: texts as they are, lists with commas, nothing for null.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Array(entries) => entries.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Text of a guest or a stranger, without what would steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    let show = |letter: char| match letter {
        '\t' => "\t".to_owned(),
        letter if letter.is_control() => letter.escape_default().to_string(),
        letter => letter.to_string(),
    };
    text.chars().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(table(["name", "n"], &rows), "name  n\na     1\nlong\n");
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("\u{1b}[2Jä\tb"), "\\u{1b}[2Jä\tb");
        assert_eq!(cell(&serde_json::json!(["a", 1, null])), "a, 1, ");
    }
}
