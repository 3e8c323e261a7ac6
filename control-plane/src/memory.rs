//! The memory that the process may take.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// Memory that is assumed if nothing tells it.
const UNKNOWN: u64 = 512 << 20;

/// The smallest limit that applies to the process: that of its container (cgroup v2 or v1), `RLIMIT_DATA`, or the memory
/// of the machine.
pub(crate) fn limit_of_process() -> u64 {
    let of_file = |path| fs::read_to_string(path).ok();
    let containers = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let containers = containers.map(|path| of_file(path)?.trim().parse().ok());
    let machine = of_file("/proc/meminfo").and_then(|text| total(&text));
    let limits = [getrlimit(Resource::Data).current, machine];
    let limits = containers.into_iter().chain(limits).flatten();
    limits.min().unwrap_or(UNKNOWN)
}

/// `MemTotal` of `/proc/meminfo` in bytes.
fn total(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_machine_is_read_from_procfs() {
        let text = "MemTotal:       24625560 kB\nMemFree:         2048 kB\n";
        assert_eq!(total(text), Some(24_625_560 << 10));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(limit_of_process() > 1 << 20);
    }
}
