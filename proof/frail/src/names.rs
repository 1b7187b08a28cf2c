// SPDX-License-Identifier: Apache-2.0

//! The names in a directory as they stand and as they are durable.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use crate::draw::{Draw, Share};

/// The number of a file or directory; never used twice.
pub(crate) type Ino = u64;

/// What became of unsynced changes of names when the power failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub kept: u64,
    pub lost: u64,
}

/// A change of names that was made and not synced.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Add(OsString, Ino),
    Remove(OsString),
    /// Both of its names, or none, and whatever had the new one is gone: a rename is atomic.
    Rename(OsString, OsString),
}

/// A directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    present: BTreeMap<OsString, Ino>,
    durable: BTreeMap<OsString, Ino>,
    unsynced: Vec<Change>,
}

impl Names {
    pub fn get(&self, name: &OsStr) -> Option<Ino> {
        self.present.get(name).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&OsString, Ino)> {
        self.present.iter().map(|(name, ino)| (name, *ino))
    }

    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    pub fn add(&mut self, name: &OsStr, ino: Ino) {
        self.make(Change::Add(name.to_owned(), ino));
    }

    pub fn remove(&mut self, name: &OsStr) {
        self.make(Change::Remove(name.to_owned()));
    }

    pub fn rename(&mut self, from: &OsStr, to: &OsStr) {
        self.make(Change::Rename(from.to_owned(), to.to_owned()));
    }

    pub fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync failed: no later one makes durable what this one should have.
    pub fn give_up(&mut self) {
        self.unsynced.clear();
    }

    /// Everything that this directory leads to, or may lead to after a power cut.
    pub fn reachable(&self) -> impl Iterator<Item = Ino> + '_ {
        let added = self.unsynced.iter().filter_map(|change| match change {
            Change::Add(_, ino) => Some(*ino),
            Change::Remove(_) | Change::Rename(..) => None,
        });
        self.present.values().chain(self.durable.values()).copied().chain(added)
    }

    /// The power fails: any of the unsynced changes are lost, but a change is never kept without those that its names had before.
    pub fn lose_power(&mut self, mut draw: Option<&mut Draw>) -> Changes {
        let share = Share::of(draw.as_deref_mut());
        let mut changes = Changes::default();
        let mut lost: BTreeSet<OsString> = BTreeSet::new();
        for change in std::mem::take(&mut self.unsynced) {
            let follows_lost = change.names().any(|name| lost.contains(name));
            if !follows_lost && share.keeps(draw.as_deref_mut()) {
                change.apply(&mut self.durable);
                changes.kept += 1;
            } else {
                lost.extend(change.names().map(OsStr::to_owned));
                changes.lost += 1;
            }
        }
        self.present.clone_from(&self.durable);
        changes
    }

    fn make(&mut self, change: Change) {
        change.apply(&mut self.present);
        self.unsynced.push(change);
    }
}

impl Change {
    fn names(&self) -> impl Iterator<Item = &OsStr> {
        let (first, second) = match self {
            Change::Add(name, _) | Change::Remove(name) => (name, None),
            Change::Rename(from, to) => (from, Some(to)),
        };
        std::iter::once(first).chain(second).map(OsString::as_os_str)
    }

    fn apply(&self, names: &mut BTreeMap<OsString, Ino>) {
        match self {
            Change::Add(name, ino) => _ = names.insert(name.clone(), *ino),
            Change::Remove(name) => _ = names.remove(name),
            Change::Rename(from, to) => {
                if let Some(ino) = names.remove(from) {
                    names.insert(to.clone(), ino);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(durable: &[(&str, Ino)]) -> Names {
        let mut names = Names::default();
        for (name, ino) in durable {
            names.add(OsStr::new(name), *ino);
        }
        names.sync();
        names
    }

    /// What a directory can come back as, over many seeds.
    fn outcomes(names: &Names) -> BTreeSet<Vec<(String, Ino)>> {
        (0..200)
            .map(|seed| {
                let mut names = names.clone();
                names.lose_power(Some(&mut Draw::new(seed)));
                names.iter().map(|(name, ino)| (name.to_string_lossy().into_owned(), ino)).collect()
            })
            .collect()
    }

    fn possible(outcomes: &[&[(&str, Ino)]]) -> BTreeSet<Vec<(String, Ino)>> {
        outcomes
            .iter()
            .map(|names| names.iter().map(|(name, ino)| ((*name).to_owned(), *ino)).collect())
            .collect()
    }

    #[test]
    fn a_new_name_may_be_lost_until_the_directory_is_synced() {
        let mut names = names(&[]);
        names.add(OsStr::new("a"), 1);
        assert_eq!(outcomes(&names), possible(&[&[], &[("a", 1)]]));
        names.sync();
        assert_eq!(outcomes(&names), possible(&[&[("a", 1)]]));
    }

    #[test]
    fn a_removed_name_may_come_back_until_the_directory_is_synced() {
        let mut names = names(&[("a", 1)]);
        names.remove(OsStr::new("a"));
        assert_eq!(outcomes(&names), possible(&[&[], &[("a", 1)]]));
        assert_eq!(names.reachable().collect::<Vec<Ino>>(), [1], "its bytes are kept for that");
        names.sync();
        assert_eq!(outcomes(&names), possible(&[&[]]));
    }

    #[test]
    fn a_rename_is_old_or_new_and_never_both_or_none() {
        let mut names = names(&[("file", 1), ("file.new", 2)]);
        names.rename(OsStr::new("file.new"), OsStr::new("file"));
        assert_eq!(outcomes(&names), possible(&[&[("file", 1), ("file.new", 2)], &[("file", 2)]]));
        names.sync();
        assert_eq!(outcomes(&names), possible(&[&[("file", 2)]]));
    }

    #[test]
    fn changes_of_one_name_stay_in_order_and_those_of_others_do_not() {
        let mut names = names(&[]);
        names.add(OsStr::new("a.new"), 1);
        names.rename(OsStr::new("a.new"), OsStr::new("a"));
        names.add(OsStr::new("b"), 2);
        let a: [&[(&str, Ino)]; 3] = [&[], &[("a.new", 1)], &[("a", 1)]];
        let with_b = a.map(|a| [a, &[("b", 2)]].concat());
        let all: Vec<&[(&str, Ino)]> = a.into_iter().chain(with_b.iter().map(Vec::as_slice)).collect();
        assert_eq!(outcomes(&names), possible(&all));
    }

    #[test]
    fn what_a_failed_sync_gave_up_is_not_durable_after_a_power_cut() {
        let mut names = names(&[("a", 1)]);
        names.add(OsStr::new("b"), 2);
        names.give_up();
        assert_eq!(names.get(OsStr::new("b")), Some(2), "it is seen as if all were well");
        names.sync();
        assert_eq!(outcomes(&names), possible(&[&[("a", 1)]]));
    }
}
