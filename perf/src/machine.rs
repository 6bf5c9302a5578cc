//! The machine under the numbers: a figure without it is hearsay.

use std::fs;

use serde::Serialize;

/// What the report says about the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    /// CPUs that share the server's physical core. If the client's is among them, the two slow each other down.
    pub(crate) server_siblings: String,
    pub(crate) virtual_machine: bool,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) system: String,
}

impl Machine {
    pub(crate) fn look(server_cpu: usize) -> Self {
        let cpuinfo = text("/proc/cpuinfo");
        let memory_kib =
            text("/proc/meminfo").split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
        let siblings = format!("/sys/devices/system/cpu/cpu{server_cpu}/topology/thread_siblings_list");
        Self {
            cpu: field(&cpuinfo, "model name", ':'),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            server_siblings: text(&siblings).trim().to_owned(),
            virtual_machine: cpuinfo.contains(" hypervisor"),
            memory_gib: (memory_kib.unwrap_or(0.0) / 1024.0 / 1024.0 * 10.0).round() / 10.0,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: field(&text("/etc/os-release"), "PRETTY_NAME", '=').trim_matches('"').to_owned(),
        }
    }
}

/// The first `name: value` of a text; the report says "unknown" rather than failing over a missing file.
fn field(text: &str, name: &str, separator: char) -> String {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(key, _)| key.trim() == name)
        .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let info = "model\t: 2\nmodel name\t: AMD EPYC\nflags : fpu hypervisor\n";
        assert_eq!(field(info, "model name", ':'), "AMD EPYC");
        assert_eq!(field(info, "stepping", ':'), "unknown");
        assert_eq!(field("PRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME", '='), "\"Debian 12\"");
    }

    #[test]
    fn this_machine_has_at_least_one_cpu() {
        assert!(Machine::look(0).cpus >= 1);
    }
}
