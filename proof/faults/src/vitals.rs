// SPDX-License-Identifier: Apache-2.0

//! What a process takes of the machine, as the kernel tells it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Pid;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::failure::{Failure, Result};

/// One moment of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Memory that is resident.
    pub resident_bytes: u64,
    /// What of it is no file's: the heap and the stacks.
    pub anonymous_bytes: u64,
    /// File descriptors.
    pub descriptors: u64,
    /// Those of them that are files …
    pub files: u64,
    /// … and those that are sockets.
    pub sockets: u64,
    /// Threads.
    pub threads: u64,
}

impl Vitals {
    /// Of this process, now.
    pub fn of(process: Pid) -> Result<Vitals> {
        let directory = format!("/proc/{}", process.as_raw_nonzero());
        let status = fs::read_to_string(format!("{directory}/status"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            number.ok_or_else(|| Failure::new(format_args!("{directory}/status has no {name}")))
        };
        let (mut descriptors, mut files, mut sockets) = (0, 0, 0);
        for descriptor in fs::read_dir(format!("{directory}/fd"))? {
            descriptors += 1;
            // What is closed while it is being looked at is neither.
            let Ok(target) = fs::read_link(descriptor?.path()) else { continue };
            let target = target.to_string_lossy();
            files += u64::from(target.starts_with('/'));
            sockets += u64::from(target.starts_with("socket:"));
        }
        let (resident_bytes, anonymous_bytes) = (number("VmRSS:")? << 10, number("RssAnon:")? << 10);
        let threads = number("Threads:")?;
        Ok(Vitals { resident_bytes, anonymous_bytes, descriptors, files, sockets, threads })
    }
}

/// The most memory that was resident since the process began.
pub fn most_resident_bytes(process: Pid) -> Result<u64> {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = fs::read_to_string(&path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.map(|number| number << 10).ok_or_else(|| Failure::new(format_args!("{path} has no VmHWM")))
}

/// The limit that the kernel sets a process, by the name that `/proc` has for it; `None`: there is no limit.
pub fn limit(process: Pid, name: &str) -> Result<Option<u64>> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.as_raw_nonzero()))?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    let line = line.ok_or_else(|| Failure::new(format_args!("there is no limit called {name}")))?;
    Ok(line.split_whitespace().next().and_then(|soft| soft.parse().ok()))
}

/// Files that a process has open and that have no name any more; none where the kernel does not say.
pub fn deleted_files(process: Pid) -> Vec<PathBuf> {
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())) else { return Vec::new() };
    let targets = open.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().ends_with(" (deleted)")).collect()
}

/// Bytes that a directory takes on its disk.
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // What is deleted while it is being looked at takes nothing.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += match metadata.is_dir() {
            true => disk_bytes(&entry.path()).unwrap_or(0),
            false => metadata.blocks() * 512,
        };
    }
    Ok(bytes)
}

/// Looks at how much memory is resident in each of a cluster's processes, over and over, and keeps the most.
#[derive(Debug)]
pub struct Peaks {
    peaks: Arc<Vec<AtomicU64>>,
    looking: JoinHandle<()>,
}

/// Often enough to see what lasts for a moment.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

impl Peaks {
    /// Looks at the processes that run now.
    pub fn watch(cluster: &Cluster) -> Peaks {
        let peaks: Arc<Vec<AtomicU64>> =
            Arc::new((0..cluster.nodes.len()).map(|_| AtomicU64::new(0)).collect());
        let processes: Vec<_> = cluster.nodes.iter().map(|node| node.pid()).collect();
        let seen = Arc::clone(&peaks);
        let looking = tokio::spawn(async move {
            loop {
                for (process, peak) in processes.iter().zip(seen.iter()) {
                    if let Some(Ok(vitals)) = process.map(Vitals::of) {
                        peak.fetch_max(vitals.resident_bytes, Ordering::Relaxed);
                    }
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        });
        Peaks { peaks, looking }
    }

    /// The most that each had resident.
    pub fn bytes(&self) -> Vec<u64> {
        self.peaks.iter().map(|peak| peak.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Peaks {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_takes_something_is_seen_to_take_it() {
        let own = rustix::process::getpid();
        let before = Vitals::of(own).expect("vitals");
        let (memory, file) = (vec![1_u8; 64 << 20], fs::File::open("/proc/self/status").expect("a file"));
        let after = Vitals::of(own).expect("vitals");
        assert!(after.resident_bytes > before.resident_bytes + (32 << 20), "{before:?} {after:?}");
        assert!(after.anonymous_bytes > before.anonymous_bytes + (32 << 20), "{before:?} {after:?}");
        assert!(most_resident_bytes(own).expect("it has some") >= after.resident_bytes);
        assert!(after.threads > 0 && after.files > 0 && after.descriptors >= after.files + after.sockets);
        drop((std::hint::black_box(memory), file));

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("gone");
        let gone = fs::File::create(&path).expect("a file");
        assert!(deleted_files(own).iter().all(|open| !open.starts_with(directory.path())));
        fs::remove_file(&path).expect("removed");
        assert_eq!(deleted_files(own).iter().filter(|open| open.starts_with(directory.path())).count(), 1);
        drop(gone);
        assert_eq!(disk_bytes(directory.path()).expect("empty"), 0);
        fs::create_dir(directory.path().join("sub")).expect("made");
        fs::write(directory.path().join("sub/file"), vec![1; 100_000]).expect("written");
        assert!(disk_bytes(directory.path()).expect("counted") >= 100_000);
    }
}
