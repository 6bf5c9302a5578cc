//! The addresses of this machine that clients elsewhere can have sent to, as the kernel lists them for the agent's
//! network namespace.

use std::fs;
use std::io;
use std::net::IpAddr;

use berth_protocol::addresses::{self, V4, V6};

/// Reads them.
pub(crate) fn local() -> io::Result<Vec<IpAddr>> {
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    };
    Ok(addresses::reachable(&read(V4)?, &read(V6).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_files_can_be_read() {
        local().unwrap();
    }
}
