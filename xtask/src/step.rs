//! A named step: how `tidy` and `test` are written down.
//!
//! Both commands are a list of these, so that a later change adds one entry and nothing else.

use std::time::Duration;

/// One thing that a command does. `run` gets the command's context and returns its kind of outcome.
pub(crate) struct Step<Context, Outcome> {
    /// One or two words; what `--only` takes.
    pub(crate) name: &'static str,
    /// What would break unnoticed without this step.
    pub(crate) why: &'static str,
    pub(crate) run: fn(&Context) -> Outcome,
}

/// Prints the line that opens a step.
pub(crate) fn open(name: &str, why: &str) {
    println!("\n== {name}: {why}");
}

/// A duration for people: `4.2 s`, `3 min 20 s`.
pub(crate) fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_naturally() {
        assert_eq!(spoken(Duration::from_millis(4_230)), "4.2 s");
        assert_eq!(spoken(Duration::from_secs(200)), "3 min 20 s");
    }
}
