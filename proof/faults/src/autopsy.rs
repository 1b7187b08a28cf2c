// SPDX-License-Identifier: Apache-2.0

//! What a kill hit, read from the dead node's files (docs/formats/log.md and files.md). Reads only.
//!
//! - *A recycled segment was half overwritten*: the use with the highest number, the one that was being written, lies in a file that an
//!   earlier autopsy found under an older use. So behind its end lie batches of that use, which recovery must not take for its own.
//! - *A snapshot's install was under way*: a group has a state directory with a higher number than the live one, to which its pointer was
//!   not switched yet.
//!
//! Numbers of directories and uses only grow: what no earlier autopsy found belongs to the life that has just ended. What an earlier
//! life left behind, and this one had not tidied away yet, counts once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

const SEGMENT_MAGIC: &[u8] = b"mraftseg";
const SEGMENT_USE_AT: usize = 24;
const POINTER_MAGIC: &[u8] = b"mraftkvp";
/// Behind the envelope (16 bytes), the version and the kind.
const POINTER_DIRECTORY_AT: usize = 18;

/// What one kill hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// A recycled segment was half overwritten.
    pub recycled_segment: bool,
    /// Groups whose snapshot was coming in or being installed.
    pub installs_under_way: u64,
    /// Groups whose pointer was switched to a snapshot since the autopsy before.
    pub installs_done: u64,
}

/// What was found in one node's files so far.
#[derive(Clone, Debug, Default)]
pub struct Autopsy {
    /// Per segment file the last use that was found in it.
    uses: BTreeMap<PathBuf, u64>,
    /// Per replica the number of its live directory.
    live: BTreeMap<PathBuf, u64>,
    /// Per replica the highest number of a directory.
    highest: BTreeMap<PathBuf, u64>,
}

impl Autopsy {
    /// Looks at the files of a node that has just been killed.
    pub fn look(&mut self, data: &Path) -> Result<Hit> {
        let mut hit = Hit::default();
        let uses = segment_uses(&data.join("log"))?;
        if let Some((active, number)) = uses.iter().max_by_key(|(_, number)| **number) {
            hit.recycled_segment = self.uses.get(active).is_some_and(|before| before < number);
        }
        self.uses.extend(uses);
        for replica in replicas(data)? {
            let Some(live) = live_directory(&replica)? else { continue };
            hit.installs_under_way += u64::from(self.new_directory(&replica)? > Some(live));
            if let Some(highest) = highest_directory(&replica)? {
                self.highest.insert(replica.clone(), highest);
            }
            let before = self.live.insert(replica, live).unwrap_or(0);
            hit.installs_done += u64::from(live > before);
        }
        Ok(hit)
    }

    /// Groups of a node, running or not, into which a snapshot is coming that no autopsy has seen. What changes while it is being looked
    /// at does not count.
    pub fn installs_under_way(&self, data: &Path) -> u64 {
        let is_under_way = |replica: &PathBuf| match (live_directory(replica), self.new_directory(replica)) {
            (Ok(Some(live)), Ok(highest)) => highest > Some(live),
            _ => false,
        };
        replicas(data)
            .map_or(0, |replicas| replicas.iter().filter(|replica| is_under_way(replica)).count() as u64)
    }

    /// The highest number of a replica's directories, if no autopsy before found it.
    fn new_directory(&self, replica: &Path) -> Result<Option<u64>> {
        let seen = self.highest.get(replica).copied();
        Ok(highest_directory(replica)?.filter(|highest| Some(*highest) > seen))
    }
}

/// State directories that no pointer names; a node that is at rest has none.
pub fn leftovers(data: &Path) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for replica in replicas(data)? {
        let live = live_directory(&replica)?;
        let others =
            directories(&replica)?.into_iter().filter(|number| live.is_some_and(|live| live != *number));
        left.extend(others.map(|number| replica.join(number.to_string())));
    }
    Ok(left)
}

fn segment_uses(log: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let mut uses = BTreeMap::new();
    for entry in fs::read_dir(log)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let header = start_of(&path)?;
        if header.starts_with(SEGMENT_MAGIC) {
            uses.insert(path, number_at(&header, SEGMENT_USE_AT)?);
        }
    }
    Ok(uses)
}

fn replicas(data: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data.join("groups"))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// `None` before the replica has any state.
fn live_directory(replica: &Path) -> Result<Option<u64>> {
    let pointer = replica.join("pointer");
    if !pointer.exists() {
        return Ok(None);
    }
    let bytes = start_of(&pointer)?;
    match bytes.starts_with(POINTER_MAGIC) {
        true => number_at(&bytes, POINTER_DIRECTORY_AT).map(Some),
        false => Err(Failure::new(format_args!("{} is no pointer", pointer.display()))),
    }
}

fn highest_directory(replica: &Path) -> Result<Option<u64>> {
    Ok(directories(replica)?.into_iter().max())
}

fn directories(replica: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(replica)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(numbers)
}

/// Everything looked for stands in the first bytes.
fn start_of(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn number_at(bytes: &[u8], at: usize) -> Result<u64> {
    let number = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    number.map(u64::from_le_bytes).ok_or_else(|| Failure::new("a file ends before its header does"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica with this live directory and these beside it.
    fn lay_out(data: &Path, live: u64, others: &[u64]) {
        let replica = data.join("groups").join("1-0");
        if replica.exists() {
            fs::remove_dir_all(&replica).expect("removed");
        }
        for number in others.iter().chain([&live]) {
            fs::create_dir_all(replica.join(number.to_string())).expect("made");
        }
        let mut pointer = POINTER_MAGIC.to_vec();
        pointer.resize(POINTER_DIRECTORY_AT, 0);
        pointer.extend_from_slice(&live.to_le_bytes());
        fs::write(replica.join("pointer"), pointer).expect("written");
        fs::create_dir_all(data.join("log")).expect("made");
    }

    #[test]
    fn an_install_that_an_earlier_kill_interrupted_is_not_counted_again() {
        let data = tempfile::tempdir().expect("a directory");
        let mut autopsy = Autopsy::default();
        lay_out(data.path(), 1, &[5]);
        assert_eq!(autopsy.installs_under_way(data.path()), 1);
        assert_eq!(autopsy.look(data.path()).expect("files").installs_under_way, 1);
        // The next life has not tidied up yet.
        assert_eq!(autopsy.installs_under_way(data.path()), 0);
        assert_eq!(autopsy.look(data.path()).expect("files").installs_under_way, 0);
        lay_out(data.path(), 1, &[9]);
        assert_eq!(autopsy.installs_under_way(data.path()), 1);
        assert_eq!(autopsy.look(data.path()).expect("files").installs_under_way, 1);
        lay_out(data.path(), 9, &[]);
        let hit = autopsy.look(data.path()).expect("files");
        assert_eq!((hit.installs_under_way, hit.installs_done), (0, 1));
    }
}
