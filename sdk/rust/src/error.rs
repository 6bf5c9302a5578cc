//! Why a turn fails: any error, as the words that the node logs.

use std::fmt;

/// What the methods of an object return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a turn fails. Every error becomes one by `?`. The node logs its words; the client sees none of them.
///
/// It is no `std::error::Error` itself, since then it could not be made of all of them.
pub struct Error(String);

impl Error {
    /// An error of these words.
    pub fn new(words: impl fmt::Display) -> Self {
        Self(words.to_string())
    }
}

impl<E: std::error::Error> From<E> for Error {
    /// With its causes, as far as its own words do not have them.
    fn from(error: E) -> Self {
        let mut words = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !words.ends_with(&more) {
                words = format!("{words}: {more}");
            }
            cause = error.source();
        }
        Self(words)
    }
}

impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);

    impl fmt::Display for Outer {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("no number")
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn errors_of_all_kinds_become_words_with_their_causes() {
        fn fails() -> Result<u8> {
            Ok("x".parse::<u8>().map_err(Outer)?)
        }
        assert_eq!(fails().unwrap_err().to_string(), "no number: invalid digit found in string");
        assert_eq!(String::from(Error::new("as asked")), "as asked");
    }
}
