//! Skeleton.
#![allow(clippy::print_stdout, reason = "this program talks to a terminal")]

fn main() {}
