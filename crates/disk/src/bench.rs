// SPDX-License-Identifier: Apache-2.0

//! How long the disk takes to make an overwrite durable: the figure beside which every other one is read.

use std::io;
use std::path::Path;
use std::time::Instant;

use crate::{Disk, File, Open, RealDisk};

/// The file that is overwritten; larger than what is written at once, so that no block is written twice in a row.
const FILE_BYTES: u64 = 16 << 20;

/// Microseconds that a write and its fdatasync took together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTimes {
    /// Bytes written at once.
    pub bytes: usize,
    /// How often.
    pub samples: usize,
    /// Half of them took at most this long.
    pub p50_us: u64,
    /// 99 of 100 took at most this long.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// Measures overwrites of `bytes` bytes with fdatasync in a file of its own in this directory, which is removed afterwards.
pub fn overwrite_sync_times(directory: &Path, bytes: usize, samples: usize) -> io::Result<SyncTimes> {
    let bytes = bytes.clamp(1, FILE_BYTES as usize);
    let samples = samples.max(1);
    let (disk, path) = (RealDisk::new(), directory.join(format!("bench-{}.tmp", std::process::id())));
    let file = disk.open(&path, Open::CreateNew)?;
    let times = measure(file.as_ref(), bytes, samples);
    drop(file);
    disk.remove_file(&path)?;
    let mut times = times?;
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(SyncTimes { bytes, samples, p50_us: at(50), p99_us: at(99), max_us: at(100) })
}

fn measure(file: &dyn File, bytes: usize, samples: usize) -> io::Result<Vec<u64>> {
    file.prefill(FILE_BYTES)?;
    file.sync_data()?;
    let buffer = vec![0x5a; bytes];
    let places = FILE_BYTES / bytes as u64;
    let mut times = Vec::with_capacity(samples);
    for sample in 0..samples as u64 {
        let begun = Instant::now();
        file.write_all_at(&buffer, sample % places * bytes as u64)?;
        file.sync_data()?;
        times.push(begun.elapsed().as_micros() as u64);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let times = overwrite_sync_times(directory.path(), 4096, 5).expect("a working disk");
        assert_eq!((times.bytes, times.samples), (4096, 5));
        assert!(times.p50_us <= times.p99_us && times.p99_us <= times.max_us);
        assert_eq!(RealDisk::new().read_dir(directory.path()).expect("there"), []);
    }
}
