// SPDX-License-Identifier: Apache-2.0

//! How much memory this machine, or the container around us, has.

use std::path::{Path, PathBuf};

/// The memory that this process may use at most: the machine's, or less if a cgroup (version 1 or 2) says so.
pub fn memory_bytes() -> Option<u64> {
    memory_bytes_below(Path::new("/"))
}

fn memory_bytes_below(root: &Path) -> Option<u64> {
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let total = read(root.join("proc/meminfo")).as_deref().and_then(meminfo_total_bytes);
    let own_groups = read(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&own_groups).into_iter().filter_map(|file| read(root.join(file)));
    let limit = limits.filter_map(|text| text.trim().parse::<u64>().ok()).min();
    match (total, limit) {
        (Some(total), Some(limit)) => Some(total.min(limit)),
        (total, limit) => total.or(limit),
    }
}

fn meminfo_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The files that may hold a limit for us: our own group, each group around it, and the root that a container sees.
fn limit_files(own_groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in own_groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|ancestor| Path::new(mount).join(ancestor).join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            std::fs::write(path, text).expect("a file");
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 1 kB\n");

    #[test]
    fn without_a_limit_it_is_the_machines_memory() {
        let root = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/user\n"),
            ("sys/fs/cgroup/user/memory.max", "max\n"),
        ]);
        assert_eq!(memory_bytes_below(root.path()), Some(8 << 30));
    }

    #[test]
    fn the_tightest_group_around_us_counts_in_version_2() {
        let root = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/pod/us\n"),
            ("sys/fs/cgroup/pod/us/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/pod/memory.max", "1073741824\n"),
        ]);
        assert_eq!(memory_bytes_below(root.path()), Some(1 << 30));
    }

    #[test]
    fn version_1_limits_count_and_its_huge_number_for_none_does_not_lift() {
        let limit = |text| {
            let root = machine(&[
                MEMINFO,
                ("proc/self/cgroup", "5:cpu:/x\n4:memory,hugetlb:/us\n"),
                ("sys/fs/cgroup/memory/us/memory.limit_in_bytes", text),
            ]);
            memory_bytes_below(root.path())
        };
        assert_eq!(limit("2147483648\n"), Some(2 << 30));
        assert_eq!(limit("9223372036854771712\n"), Some(8 << 30));
    }

    #[test]
    fn an_unknown_machine_has_no_known_memory() {
        assert_eq!(memory_bytes_below(machine(&[]).path()), None);
    }
}
