//! Suites: each a list of trials, in one file. A new suite implements [`crate::run::Trial`] for its figures and
//! gets its subcommand in `main`; alternation, counting, verdicts and reports are there already.

pub(crate) mod http;
pub(crate) mod http3;
pub(crate) mod instance;
pub(crate) mod isolate;
mod measure;
pub(crate) mod object;
pub(crate) mod steer;
