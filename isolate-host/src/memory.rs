//! The memory that this process may have: of the machine, and of the control groups that it is in.

use std::fs;
use std::path::{Path, PathBuf};

/// Of what there is, the part that must be available: one in so many.
const AVAILABLE_PART: u64 = 10;
/// Of the last ten seconds, the part in hundredths of percent in which somebody may have waited for memory.
const STALLED_MOST: u32 = 10_00;

/// What there is, and how it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that there are.
    pub most: u64,
    /// Bytes that could be had now.
    pub available: u64,
    /// Of the last ten seconds, hundredths of percent in which a task waited for memory.
    pub stalled: u32,
}

impl Memory {
    /// Of this process, now. What cannot be read bounds nothing.
    pub fn look() -> Self {
        Self::read(Path::new("/"))
    }

    /// Whether there is so little that something must be given back.
    pub fn is_short(&self) -> bool {
        self.available < self.most / AVAILABLE_PART || self.stalled > STALLED_MOST
    }

    fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let meminfo = text("proc/meminfo");
        let kib = |name: &str| field(&meminfo, name).map_or(u64::MAX, |kib| kib.saturating_mul(1 << 10));
        let mut memory = Self { most: kib("MemTotal:"), available: kib("MemAvailable:"), stalled: 0 };
        let groups = groups(root, &text("proc/self/cgroup"));
        for group in &groups {
            let read = |name: &str| fs::read_to_string(group.join(name)).ok();
            let number = |[new, old]: [&str; 2]| read(new).or_else(|| read(old))?.trim().parse::<u64>().ok();
            let Some(most) = number(["memory.max", "memory.limit_in_bytes"]) else { continue };
            let current = number(["memory.current", "memory.usage_in_bytes"]).unwrap_or(0);
            // Files that nobody has read for a while make room at once.
            let stat = read("memory.stat").unwrap_or_default();
            let old = field(&stat, "total_inactive_file").or_else(|| field(&stat, "inactive_file"));
            memory.most = memory.most.min(most);
            let in_use = current.saturating_sub(old.unwrap_or(0));
            memory.available = memory.available.min(most.saturating_sub(in_use));
        }
        let own = groups.first().and_then(|group| fs::read_to_string(group.join("memory.pressure")).ok());
        memory.stalled = stalled(&own.unwrap_or_else(|| text("proc/pressure/memory"))).unwrap_or(0);
        memory
    }
}

/// The folders of the groups that the process is in, its own first.
fn groups(root: &Path, told: &str) -> Vec<PathBuf> {
    let mut groups = Vec::new();
    for line in told.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let mount = match controllers {
            "" => root.join("sys/fs/cgroup"),
            "memory" => root.join("sys/fs/cgroup/memory"),
            _ => continue,
        };
        let own = mount.join(path.trim_start_matches('/'));
        groups.extend(own.ancestors().take_while(|folder| folder.starts_with(&mount)).map(Path::to_owned));
    }
    groups
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `some avg10=1.23 …` in hundredths.
fn stalled(pressure: &str) -> Option<u32> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some avg10="))?;
    let part: f64 = some.split_whitespace().next()?.parse().ok()?;
    Some((part * 100.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn machine(name: &str, files: &[(&str, &str)]) -> Memory {
        let root = std::env::temp_dir().join(format!("berth-memory-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let memory = Memory::read(&root);
        fs::remove_dir_all(root).unwrap();
        memory
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:       1048576 kB\nMemFree: 1 kB\nMemAvailable:   524288 kB\n");
    const CALM: &str = "some avg10=0.00 avg60=9.00 avg300=9.00 total=9\nfull avg10=9.00 avg60=9.00\n";

    #[test]
    fn without_groups_it_is_the_machines() {
        let memory = machine("plain", &[MEMINFO, ("proc/pressure/memory", CALM)]);
        assert_eq!(memory, Memory { most: 1024 * MIB, available: 512 * MIB, stalled: 0 });
        assert!(!memory.is_short());
    }

    #[test]
    fn the_smallest_of_the_groups_bounds_and_old_files_are_no_use() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/slice/unit\n"),
            ("sys/fs/cgroup/slice/memory.max", "209715200\n"),
            ("sys/fs/cgroup/slice/memory.current", "200000000\n"),
            ("sys/fs/cgroup/slice/memory.stat", "anon 1\ninactive_file 0\n"),
            ("sys/fs/cgroup/slice/unit/memory.max", "max\n"),
            ("sys/fs/cgroup/slice/unit/memory.pressure", "some avg10=12.50 avg60=0.00\n"),
            ("proc/pressure/memory", CALM),
        ];
        let memory = machine("groups", &files);
        assert_eq!(memory, Memory { most: 200 * MIB, available: 200 * MIB - 200_000_000, stalled: 12_50 });
        assert!(memory.is_short());
        let mut calm = files.to_vec();
        calm[4].1 = "anon 1\ninactive_file 150000000\n";
        calm[6].1 = CALM;
        let memory = machine("calm", &calm);
        assert_eq!((memory.available, memory.is_short()), (200 * MIB - 50_000_000, false));
    }

    #[test]
    fn groups_of_the_older_kind_bound_too() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "9:name=systemd:/x\n4:memory:/a\n0::/\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "104857600\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "100000000\n"),
            ("sys/fs/cgroup/memory/a/memory.stat", "inactive_file 0\ntotal_inactive_file 50000000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let memory = machine("older", &files);
        assert_eq!(memory, Memory { most: 100 * MIB, available: 100 * MIB - 50_000_000, stalled: 0 });
    }

    #[test]
    fn what_cannot_be_read_bounds_nothing() {
        let memory = machine("nothing", &[("proc/meminfo", "nonsense"), ("proc/self/cgroup", "0:\n::\n")]);
        assert_eq!(memory, Memory { most: u64::MAX, available: u64::MAX, stalled: 0 });
        assert!(!memory.is_short());
    }
}
