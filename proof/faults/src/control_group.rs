// SPDX-License-Identifier: Apache-2.0

//! Control groups of Linux, version 1 and 2, where this process may make some: it must be in the root of what it sees, or else a group
//! that somebody made for us, with limits of its own, would have to be changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Pid;

use crate::failure::{Failure, Result};

const MOUNT: &str = "/sys/fs/cgroup";

/// A group with one limit. It is removed when this is dropped; the processes in it go back to where they came from.
#[derive(Debug)]
pub struct ControlGroup {
    parent: PathBuf,
    directory: PathBuf,
    is_second_version: bool,
}

impl ControlGroup {
    /// A group whose processes have so many thousandths of one CPU together.
    pub fn of_cpu(thousandths: u64) -> Result<ControlGroup> {
        const PERIOD_MICROS: u64 = 100_000;
        let quota = PERIOD_MICROS * thousandths / 1000;
        let group = ControlGroup::make("cpu")?;
        match group.is_second_version {
            true => group.set("cpu.max", &format!("{quota} {PERIOD_MICROS}"))?,
            false => {
                group.set("cpu.cfs_period_us", &PERIOD_MICROS.to_string())?;
                group.set("cpu.cfs_quota_us", &quota.to_string())?;
            }
        }
        Ok(group)
    }

    /// A group whose processes have so many threads together; none of them has fewer because of it.
    pub fn of_threads(most: u64) -> Result<ControlGroup> {
        let group = ControlGroup::make("pids")?;
        group.limit_threads(most)?;
        Ok(group)
    }

    /// From now on they may start one if there are fewer than so many; `u64::MAX`: always.
    pub fn limit_threads(&self, most: u64) -> Result<()> {
        self.set("pids.max", &if most == u64::MAX { "max".to_owned() } else { most.to_string() })
    }

    /// How many threads its processes have.
    pub fn threads(&self) -> Result<u64> {
        let told = fs::read_to_string(self.directory.join("pids.current"))?;
        told.trim().parse().map_err(Failure::new)
    }

    /// What a process writes its id into to be in it with all that it starts.
    pub fn door(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Puts a process into it.
    pub fn take(&self, process: Pid) -> Result<()> {
        self.set("cgroup.procs", &process.as_raw_nonzero().to_string())
    }

    /// How often its processes had to wait because they had used up their CPU time.
    pub fn throttled(&self) -> Result<u64> {
        let told = fs::read_to_string(self.directory.join("cpu.stat"))?;
        Ok(told.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok()).unwrap_or(0))
    }

    fn make(controller: &str) -> Result<ControlGroup> {
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let (parent, is_second_version) = parent_of(&own, controller).ok_or_else(|| {
            Failure::new(format_args!("no control group of {controller} is ours to divide"))
        })?;
        if is_second_version {
            // Refused where processes are in the root of the hierarchy that we see, and it is not the machine's.
            fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("mraft-faults-{}-{number}", std::process::id()));
        fs::create_dir(&directory)?;
        Ok(ControlGroup { parent, directory, is_second_version })
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, value).map_err(|error| {
            Failure::new(format_args!("{value} cannot be written to {}: {error}", path.display()))
        })
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let processes = fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            // One that ended meanwhile is not there any more.
            let _ = fs::write(self.parent.join("cgroup.procs"), process);
        }
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Where groups of this controller may be made, and whether they are of version 2.
fn parent_of(own_groups: &str, controller: &str) -> Option<(PathBuf, bool)> {
    let mut second = None;
    for line in own_groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        match controllers {
            "" if group == "/" => second = Some((Path::new(MOUNT).to_owned(), true)),
            list if list.split(',').any(|name| name == controller) => {
                return (group == "/").then(|| (Path::new(MOUNT).join(list), false));
            }
            _ => {}
        }
    }
    second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_made_in_a_root_only() {
        let first = "4:memory:/somebodys\n1:cpu,cpuacct:/\n0::/\n";
        assert_eq!(parent_of(first, "cpu"), Some((PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"), false)));
        assert_eq!(parent_of(first, "memory"), None, "somebody else divided it");
        assert_eq!(parent_of("0::/\n", "cpu"), Some((PathBuf::from("/sys/fs/cgroup"), true)));
        assert_eq!(parent_of("0::/pod\n", "cpu"), None);
    }
}
