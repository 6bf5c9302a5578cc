//! What a guest sees of the world beside HTTP: time, its environment, chance, and where its lines go.

use std::fmt::Write as _;
use std::io::Write as _;

use wasip2::clocks::monotonic_clock;
use wasip2::http::types::ResponseOutparam;
use wasip2::io::poll;
use wasip2::random::random::get_random_bytes;

use crate::answers;
use crate::failure::Failure;

/// Bytes of one line of `/log-flood`, its end included.
const FLOOD_LINE_BYTES: usize = 64;

/// Nothing for so many milliseconds, then an answer.
pub(crate) fn sleep(out: ResponseOutparam, ms: u64) -> Result<(), Failure> {
    let timer = monotonic_clock::subscribe_duration(ms * 1_000_000);
    poll::poll(&[&timer]);
    answers::text(out, 200, "slept\n")
}

/// The same, and a line first, so that others know that it runs.
pub(crate) fn linger(out: ResponseOutparam, ms: u64) -> Result<(), Failure> {
    println!("lingers");
    sleep(out, ms)
}

/// How fine the clock is: what it says of itself, and which steps it makes.
pub(crate) fn clock(out: ResponseOutparam) -> Result<(), Failure> {
    let times: Vec<u64> = (0..=1000).map(|_| monotonic_clock::now()).collect();
    let mut steps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut text = format!("resolution {}\n", monotonic_clock::resolution());
    for step in steps {
        let _ = writeln!(text, "step {step}");
    }
    answers::text(out, 200, &text)
}

pub(crate) fn env(out: ResponseOutparam) -> Result<(), Failure> {
    let mut lines: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
    lines.sort();
    answers::text(out, 200, &lines.concat())
}

/// Two draws of 16 bytes, which differ.
pub(crate) fn random(out: ResponseOutparam) -> Result<(), Failure> {
    let draw = || get_random_bytes(16).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    answers::text(out, 200, &format!("{}\n{}\n", draw(), draw()))
}

/// So many random bytes in one call.
pub(crate) fn random_bytes(out: ResponseOutparam, bytes: u64) -> Result<(), Failure> {
    answers::text(out, 200, &format!("{} bytes\n", get_random_bytes(bytes).len()))
}

pub(crate) fn stdout(out: ResponseOutparam) -> Result<(), Failure> {
    println!("a line for stdout");
    eprintln!("a line for stderr");
    answers::text(out, 200, "ok\n")
}

/// Exactly so many bytes to stdout, as lines; the last one may be cut.
pub(crate) fn log_flood(out: ResponseOutparam, bytes: usize) -> Result<(), Failure> {
    let line = format!("{}\n", "x".repeat(FLOOD_LINE_BYTES - 1));
    for _ in 0..bytes / FLOOD_LINE_BYTES {
        print!("{line}");
    }
    print!("{}", &line[..bytes % FLOOD_LINE_BYTES]);
    // Nobody flushes what has no end of line: this program does not exit.
    let _ = std::io::stdout().flush();
    answers::text(out, 200, "flooded\n")
}
