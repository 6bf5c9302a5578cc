//! The interfaces that guests import, as this host means them. Time, the log and other hosts come from a call's `World`.

pub(crate) mod cli;
mod clocks;
mod config;
pub(crate) mod fields;
mod files;
pub(crate) mod incoming;
pub(crate) mod outgoing;
mod random;
mod streams;

use wasmtime::component::{HasSelf, Linker};

use crate::bindings::wasi as generated;
use crate::guest::Guest;

type Add = fn(&mut Linker<Guest>) -> wasmtime::Result<()>;

/// Every interface that a guest may import: what links it, and what refuses an upload that wants more. Those without a
/// function come with [`wasmtime_wasi_io`].
const INTERFACES: [(&str, Option<Add>); 23] = [
    ("wasi:io/error@0.2.12", None),
    ("wasi:io/poll@0.2.12", None),
    ("wasi:io/streams@0.2.12", None),
    (
        "wasi:http/types@0.2.12",
        Some(|l| generated::http::types::add_to_linker::<_, Me>(l, &Default::default(), me)),
    ),
    (
        "wasi:http/outgoing-handler@0.2.12",
        Some(|l| generated::http::outgoing_handler::add_to_linker::<_, Me>(l, me)),
    ),
    (
        "wasi:clocks/monotonic-clock@0.2.12",
        Some(|l| generated::clocks::monotonic_clock::add_to_linker::<_, Me>(l, me)),
    ),
    ("wasi:clocks/wall-clock@0.2.12", Some(|l| generated::clocks::wall_clock::add_to_linker::<_, Me>(l, me))),
    ("wasi:random/random@0.2.12", Some(|l| generated::random::random::add_to_linker::<_, Me>(l, me))),
    ("wasi:random/insecure@0.2.12", Some(|l| generated::random::insecure::add_to_linker::<_, Me>(l, me))),
    (
        "wasi:random/insecure-seed@0.2.12",
        Some(|l| generated::random::insecure_seed::add_to_linker::<_, Me>(l, me)),
    ),
    ("wasi:cli/environment@0.2.12", Some(|l| generated::cli::environment::add_to_linker::<_, Me>(l, me))),
    ("wasi:cli/exit@0.2.12", Some(|l| generated::cli::exit::add_to_linker::<_, Me>(l, me))),
    ("wasi:cli/stdin@0.2.12", Some(|l| generated::cli::stdin::add_to_linker::<_, Me>(l, me))),
    ("wasi:cli/stdout@0.2.12", Some(|l| generated::cli::stdout::add_to_linker::<_, Me>(l, me))),
    ("wasi:cli/stderr@0.2.12", Some(|l| generated::cli::stderr::add_to_linker::<_, Me>(l, me))),
    (
        "wasi:cli/terminal-input@0.2.12",
        Some(|l| generated::cli::terminal_input::add_to_linker::<_, Me>(l, me)),
    ),
    (
        "wasi:cli/terminal-output@0.2.12",
        Some(|l| generated::cli::terminal_output::add_to_linker::<_, Me>(l, me)),
    ),
    (
        "wasi:cli/terminal-stdin@0.2.12",
        Some(|l| generated::cli::terminal_stdin::add_to_linker::<_, Me>(l, me)),
    ),
    (
        "wasi:cli/terminal-stdout@0.2.12",
        Some(|l| generated::cli::terminal_stdout::add_to_linker::<_, Me>(l, me)),
    ),
    (
        "wasi:cli/terminal-stderr@0.2.12",
        Some(|l| generated::cli::terminal_stderr::add_to_linker::<_, Me>(l, me)),
    ),
    ("wasi:filesystem/types@0.2.12", Some(files::add_types)),
    ("wasi:filesystem/preopens@0.2.12", Some(files::add_preopens)),
    ("wasi:config/store@0.2.0-rc.1", Some(|l| generated::config::store::add_to_linker::<_, Me>(l, me))),
];

/// The store's data implements the interfaces itself.
type Me = HasSelf<Guest>;

fn me(guest: &mut Guest) -> &mut Guest {
    guest
}

/// A linker with everything that is offered.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi_io::add_to_linker_async(&mut linker)?;
    streams::forgive(&mut linker)?;
    for add in INTERFACES.iter().filter_map(|(_, add)| *add) {
        add(&mut linker)?;
    }
    Ok(linker)
}

/// Whether an import of this name is offered: of the same version or, of those that are released, of any 0.2.x, which the
/// engine takes for compatible.
pub(crate) fn is_offered(import: &str) -> bool {
    INTERFACES.iter().any(|(name, _)| {
        let patch = name
            .strip_suffix("12")
            .filter(|track| track.ends_with("@0.2."))
            .and_then(|track| import.strip_prefix(track));
        import == *name || patch.is_some_and(|patch| patch.parse::<u32>().is_ok())
    })
}
