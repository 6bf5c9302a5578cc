//! The isolate host runs guests: WebAssembly components, each in its own sandbox.
//!
//! It will take storage, outgoing calls and time as traits, and knows nothing of XDP, the
//! directory or sockets. Workers arrive with their own change; until then this crate holds the
//! place, so that the dependency direction of the workspace is fixed from the first day.
#![forbid(unsafe_code)]
