//! Standard output of commands that show something. Whoever reads it may have had enough (`berth zones list | head -1`):
//! that is no failure.

use std::io::{self, Write};

use crate::Failure;

/// Shows text, with an end of line if it has none.
pub(crate) fn show(text: &str) -> Result<(), Failure> {
    write(&mut io::stdout().lock(), text)
}

fn write(out: &mut impl Write, text: &str) -> Result<(), Failure> {
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    match out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(end.as_bytes()))
        .and_then(|()| out.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("standard output cannot be written: {error}").into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn text_ends_with_a_line_and_a_reader_may_go() {
        let mut out = Vec::new();
        for text in ["a", "b\n", ""] {
            write(&mut out, text).unwrap();
        }
        assert_eq!(out, b"a\nb\n");
        assert!(write(&mut Broken(io::ErrorKind::BrokenPipe), "a").is_ok());
        assert!(write(&mut Broken(io::ErrorKind::StorageFull), "a").is_err());
    }
}
