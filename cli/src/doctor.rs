//! `berth doctor`: what this machine allows a node, and how to get more of it.

use std::path::PathBuf;

use berth_isolate_host::{Bound, Machine, Memory, Settings};

use crate::output::show;
use crate::{Failure, read_config};

/// The flags of `berth doctor`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file of the node; without it, the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Looks and tells.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (calls, wish) = match &arguments.config {
        Some(path) => {
            let config = read_config(path)?;
            (config.workers.instances, config.objects.resident)
        }
        None => (Settings::default().instances, None),
    };
    show(&objects(&Machine::look(), &Memory::look(), calls, wish))
}

fn objects(machine: &Machine, memory: &Memory, calls: u32, wish: Option<u32>) -> String {
    let room = machine.room(calls, wish);
    let mut out = format!(
        "objects that live at a time: {}, bounded by {}\n\
         \x20 mappings    vm.max_map_count = {}\n\
         \x20 addresses   {} GiB\n\
         \x20 memory      {} MiB, of which {} MiB are available\n",
        room.places,
        room.bound,
        machine.mappings,
        machine.addresses >> 30,
        machine.memory >> 20,
        memory.available >> 20,
    );
    if room.bound == Bound::Mappings {
        let (all, mappings) = machine.with_more_mappings(calls, wish);
        out += &format!(
            "  to have {all}: `sysctl -w vm.max_map_count={mappings}`, and the same line in a file of /etc/sysctl.d; then start \
             the node again\n"
        );
    }
    if memory.is_short() {
        out += "  memory is short now: objects without a turn are given up until it is not\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { mappings: 65_530, mapped: 100, addresses: 1 << 47, memory: 64 << 30 };
    const MEMORY: Memory = Memory { most: 64 << 30, available: 32 << 30, stalled: 0 };

    #[test]
    fn it_says_what_bounds_objects_and_how_to_raise_it() {
        let said = objects(&MACHINE, &MEMORY, 1000, None);
        assert!(said.starts_with("objects that live at a time: 68"), "{said}");
        let (_, advised) = MACHINE.with_more_mappings(1000, None);
        assert!(said.contains("(vm.max_map_count)") && said.contains(&format!("={advised}`")), "{said}");
        let said = objects(&Machine { mappings: advised, ..MACHINE }, &MEMORY, 1000, None);
        assert!(said.contains("addresses of a process") && !said.contains("sysctl"), "{said}");
        let said = objects(&MACHINE, &MEMORY, 1000, Some(50));
        assert!(said.contains(": 50, bounded by objects.resident"), "{said}");
    }

    #[test]
    fn it_says_when_memory_is_short() {
        let short = Memory { available: 1 << 30, ..MEMORY };
        assert!(objects(&MACHINE, &short, 1000, None).contains("memory is short now"));
        assert!(!objects(&MACHINE, &MEMORY, 1000, None).contains("short"));
    }
}
