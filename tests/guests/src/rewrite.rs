//! A word replaced in a stream, also where a chunk ends in the middle of it.
//!
//! What could be the beginning of the word is held back until the next chunk decides; it is shorter than the word.

const WORD: &[u8] = b"origin";
const REPLACEMENT: &[u8] = b"berth";

#[derive(Default)]
pub(crate) struct Rewriter {
    /// The end of what was pushed, if it begins the word.
    held: Vec<u8>,
}

impl Rewriter {
    /// What can be said after this chunk.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(chunk);
        let mut rewritten = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while let Some(&first) = rest.first() {
            if let Some(after) = rest.strip_prefix(WORD) {
                rewritten.extend_from_slice(REPLACEMENT);
                rest = after;
            } else if WORD.starts_with(rest) {
                self.held = rest.to_vec();
                break;
            } else {
                rewritten.push(first);
                rest = &rest[1..];
            }
        }
        rewritten
    }

    /// What was held back when no chunk follows.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.held
    }
}
