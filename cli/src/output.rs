//! Standard output of commands that show something, and how sizes are shown. Whoever reads it may have had enough (`berth zones list | head -1`):
//! that is no failure.

use std::io::{self, Write};

use crate::Failure;

/// Shows text, with an end of line if it has none.
pub(crate) fn show(text: &str) -> Result<(), Failure> {
    write(&mut io::stdout().lock(), text)
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let (shift, unit) = match bytes {
        0..1024 => return format!("{bytes} bytes"),
        1024..0x10_0000 => (10, "KiB"),
        0x10_0000..0x4000_0000 => (20, "MiB"),
        _ => (30, "GiB"),
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
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
    fn sizes_are_readable() {
        let said = [0, 1023, 1024, 1_048_575, 1_048_576, 13_526_700, 1 << 30].map(size);
        assert_eq!(
            said,
            ["0 bytes", "1023 bytes", "1.0 KiB", "1023.9 KiB", "1.0 MiB", "12.9 MiB", "1.0 GiB"]
        );
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
