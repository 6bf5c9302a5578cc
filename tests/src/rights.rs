//! What only root may do, and what a test does without.

use std::os::unix::fs::MetadataExt;

/// True for root. Others skip the test, with this as the reason; for root, whatever is refused then is a failure.
pub fn is_root_or_skip(test: &str) -> bool {
    // The owner of our own entry in /proc.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        crate::skip(test, "only root may load programs into the kernel and make network namespaces");
    }
    is_root
}
