//! The steering programs, loaded for a test.

use berth_control_agent::programs::Programs;
use berth_steer::table::Table;

/// Programs with a table, from the committed object, or from the one that `BERTH_BPF_OBJECT` names: another toolchain's,
/// say. `None`, and the test is skipped, for who is not root.
pub fn load_or_skip(test: &str, table: &Table) -> Option<Programs> {
    if !crate::is_root_or_skip(test) {
        return None;
    }
    let loaded = match std::env::var_os("BERTH_BPF_OBJECT") {
        Some(path) => Programs::load_object(&std::fs::read(path).expect("the object can be read")),
        None => Programs::load(),
    };
    let mut programs = loaded.expect("the kernel takes the programs");
    programs.set_table(table).expect("a table can be put in place");
    Some(programs)
}
