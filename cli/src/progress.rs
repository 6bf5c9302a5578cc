//! What a long command does just now: one line on standard error, if that is a terminal, and nothing elsewhere.
//!
//! The line is written over as work goes on and wiped away at the end, so that only results stay. It is so little that no
//! library is worth it.

use std::io::{self, IsTerminal, Write};

use crate::output::size;

/// Letters of a name that are shown: the line must fit a terminal of 80 columns, or it cannot be written over.
const NAME_LETTERS_MAX: usize = 24;
/// Letters of a full bar.
const BAR_LETTERS: usize = 20;
/// To the beginning of the line, and wipes it.
const WIPE: &str = "\r\x1b[K";

/// The line.
pub(crate) struct Progress {
    out: Option<Box<dyn Write>>,
    /// What stands there.
    shown: String,
}

impl Progress {
    /// On standard error, if somebody looks at it.
    pub(crate) fn on_terminal() -> Self {
        let is_simple = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_seen = io::stderr().is_terminal() && !is_simple;
        Self { out: is_seen.then(|| Box::new(io::stderr()) as Box<dyn Write>), shown: String::new() }
    }

    /// Nowhere.
    pub(crate) fn none() -> Self {
        Self { out: None, shown: String::new() }
    }

    /// Says what is done now, and to what.
    pub(crate) fn phase(&mut self, doing: &str, name: &str) {
        self.show(format!("{doing} {}", shorten(name)));
    }

    /// Says how many bytes are done.
    pub(crate) fn bytes(&mut self, doing: &str, name: &str, done: u64, all: u64) {
        self.show(format!("{doing} {} {}", shorten(name), bar(done, all)));
    }

    /// Lets somebody else write below what stands there.
    pub(crate) fn keep(&mut self) {
        if !std::mem::take(&mut self.shown).is_empty() {
            self.write("\n");
        }
    }

    fn show(&mut self, line: String) {
        // A bar changes a hundred times, however often it is drawn.
        if self.shown != line {
            self.write(&format!("{WIPE}{line}"));
            self.shown = line;
        }
    }

    /// A terminal that takes nothing is no reason to stop.
    fn write(&mut self, text: &str) {
        if let Some(out) = &mut self.out {
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.shown.is_empty() {
            self.write(WIPE);
        }
    }
}

fn shorten(name: &str) -> String {
    match name.char_indices().nth(NAME_LETTERS_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// A bar with what it stands for.
fn bar(done: u64, all: u64) -> String {
    let percent = if all == 0 { 100 } else { (u128::from(done.min(all)) * 100 / u128::from(all)) as usize };
    let full = "#".repeat(percent * BAR_LETTERS / 100);
    format!("[{full:<BAR_LETTERS$}] {percent:>3} % of {}", size(all))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone, Default)]
    struct Terminal(Rc<RefCell<Vec<u8>>>);

    impl Write for Terminal {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_written_over_and_wiped_away() {
        let terminal = Terminal::default();
        let mut progress = Progress { out: Some(Box::new(terminal.clone())), shown: String::new() };
        progress.phase("building", "shop");
        progress.keep();
        for done in [0, 1, 2, 500, 1000] {
            progress.bytes("uploading", "front", done, 1000);
        }
        drop(progress);
        let shown = String::from_utf8(terminal.0.borrow().clone()).unwrap();
        let lines: Vec<&str> = shown.split(WIPE).collect();
        assert_eq!(lines[1], "building shop\n");
        assert_eq!(lines[2], "uploading front [                    ]   0 % of 1000 bytes");
        assert_eq!(lines.len(), 6, "what is the same is not drawn again: {shown:?}");
        assert!(lines[3].contains("[##########          ]  50 %") && lines[5].is_empty(), "{shown:?}");
        let mut nobody = Progress::none();
        nobody.phase("building", "shop");
    }

    #[test]
    fn the_longest_line_fits_a_terminal() {
        let line = format!("uploading {} {}", shorten(&"n".repeat(63)), bar(u64::MAX, 999 << 20));
        assert!(line.chars().count() < 80, "{line}");
        assert_eq!(bar(0, 0), "[####################] 100 % of 0 bytes");
    }
}
