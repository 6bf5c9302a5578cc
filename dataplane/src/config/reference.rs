//! The reference of all keys, as Markdown: `berth config reference` and `docs/CONFIG.md`.
//!
//! Invariants: it is made of the declarations alone, so that it cannot say anything that the parser does not do. A
//! test compares the file with it; `BLESS=1 cargo test -p berth-dataplane config` rewrites the file.

use std::fmt::Write as _;

use super::document::TEXT_BYTES_MAX;
use super::keys::{Declared, Entries, Fallback, KEYS, TABLES, Table, split};

/// Renders every key with its meaning, unit, bounds, default, and why that default.
pub fn reference() -> String {
    let mut page = format!("{}{}{EXAMPLE}```\n", HEAD.trim_start(), "```toml\n");
    for table in TABLES {
        push_table(&mut page, table);
        for key in KEYS.iter().filter(|key| split(key.path()).0 == table.path) {
            push_key(&mut page, *key);
        }
    }
    page
}

fn push_table(page: &mut String, table: &Table) {
    let name = table.path;
    push(page, format_args!("\n## `{name}`\n\n{}\n", table.meaning));
    if let Entries::UpTo(max, why) = table.entries {
        push(page, format_args!("\nUp to {max} entries: {why}.\n"));
    }
}

fn push_key(page: &mut String, key: &dyn Declared) {
    push(page, format_args!("\n### `{}`\n\n{}\n\n", key.path(), key.meaning()));
    push(page, format_args!("- Unit: {}\n- Allowed: {}\n", key.unit(), key.allowed()));
    match key.fallback() {
        Fallback::Default(default) => push(page, format_args!("- Default: `{default}`\n")),
        Fallback::Required => push(page, format_args!("- Default: none, the key is required\n")),
        Fallback::Nothing(meaning) => push(page, format_args!("- Default: none; without it, {meaning}\n")),
    }
    push(
        page,
        format_args!("- Example: `{} = {}`\n- Why: {}\n", split(key.path()).1, key.example(), key.why()),
    );
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes all text");
}

/// A first configuration, which a test reads.
pub(super) const EXAMPLE: &str = r#"[[listen]]
address = "0.0.0.0:8080"

[[listen]]
address = "0.0.0.0:8443"
protocol = "https"

[limits]
body_bytes = "64MiB"

[[routes]]
path = "/"
respond = { body = "hello\n", headers = { content-type = "text/plain" } }

[[routes]]
path = "/echo"
echo = {}
"#;

const HEAD: &str = r#"
# Configuration

`berth dataplane --config FILE` reads one TOML file. Every key has a default, except where this page says that it is
required. An unknown key is a mistake, as is a value outside its bounds: the node does not start then, and all
mistakes of the file are reported at once, each with its place, what was found, what is allowed, and an example.

This page is what `berth config reference` prints, made from the same declarations that the parser reads.

- **Sizes** are bytes (`4096`) or whole numbers with `KiB`, `MiB` or `GiB` (`"4KiB"`, powers of 1024). `KB` and `MB`
  are refused, since some read them as powers of 1000.
- **Durations** are whole numbers with `ms`, `s`, `m` or `h`: `"250ms"`, `"10s"`. A number without a unit is refused.
- **Networks** are an IP address, a slash and a prefix length: `"10.0.0.0/8"`. IPv4-mapped IPv6 addresses count as IPv4.
- **Lists of tables** are written `[[listen]]` in the file and `listen[]` on this page; in a message, `listen[1]` is the
  second entry.
- Files are named by absolute paths. The file itself may have up to 4MiB.

A first file:

"#;

// The head says it in words.
const _: () = assert!(TEXT_BYTES_MAX == 4 << 20);
