//! Bytes found and replaced in a stream.

/// Replaces every place where `find` stands, also where it is cut across chunks: an end of a chunk that may be the
/// beginning of it is held until the next chunk decides. So at most one byte less than `find` has is ever held.
pub struct Rewriter {
    find: Vec<u8>,
    replace: Vec<u8>,
    held: Vec<u8>,
}

impl Rewriter {
    /// An empty `find` is nowhere.
    pub fn new(find: &[u8], replace: &[u8]) -> Self {
        Self { find: find.to_vec(), replace: replace.to_vec(), held: Vec::new() }
    }

    /// What can be said after this chunk.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        let Some(first) = self.find.first() else { return chunk.to_vec() };
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(chunk);
        let (mut out, mut rest) = (Vec::with_capacity(text.len()), &text[..]);
        while let Some(at) = rest.iter().position(|byte| byte == first) {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix(&self.find[..]) {
                out.extend_from_slice(&self.replace);
                rest = after;
            } else if self.find.starts_with(rest) {
                self.held = rest.to_vec();
                return out;
            } else {
                out.push(*first);
                rest = &rest[1..];
            }
        }
        out.extend_from_slice(rest);
        out
    }

    /// What was held when no chunk follows.
    pub fn finish(self) -> Vec<u8> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_gives_the_same() {
        for (text, find, expected) in [
            ("<p></body></html>", "</body>", "<p>!</html>"),
            ("</b</body></bod", "</body>", "</b!</bod"),
            ("aaaaab", "aab", "aaa!"),
            ("abab", "ab", "!!"),
            ("none", "</body>", "none"),
            ("as it is", "", "as it is"),
        ] {
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let mut rewriter = Rewriter::new(find.as_bytes(), b"!");
                    let mut out = rewriter.push(text[..first].as_bytes());
                    out.extend(rewriter.push(text[first..second].as_bytes()));
                    out.extend(rewriter.push(text[second..].as_bytes()));
                    out.extend(rewriter.finish());
                    assert_eq!(String::from_utf8_lossy(&out), expected, "{text} cut at {first} and {second}");
                }
            }
        }
    }
}
