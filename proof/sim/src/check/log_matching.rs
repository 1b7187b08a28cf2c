// SPDX-License-Identifier: Apache-2.0

//! Log matching (Raft, figure 3): entries of the same index and term are the same, and so is everything before them.
//!
//! An entry is known by its content and the term of the one before it; by induction, so is the whole log up to it.

use std::collections::BTreeMap;

use mraft_types::{Entry, GroupId, Index, Term};

use super::Broken;

/// See the module.
pub const PROMISE: &str = "log matching";

/// Every entry that a leader ever sent, or a follower wrote: by group, index and term, what is in it and the term before it, if known.
#[derive(Clone, Debug, Default)]
pub struct Logs(BTreeMap<(GroupId, Index, Term), (u64, Option<Term>)>);

impl Logs {
    /// There are these entries behind one of the term `before`, if that is known.
    pub fn holds(
        &mut self,
        group: GroupId,
        mut before: Option<Term>,
        entries: &[Entry],
    ) -> Result<(), Broken> {
        for entry in entries {
            let content = content_of(entry);
            let known = self.0.entry((group, entry.index, entry.term)).or_insert((content, before));
            known.1 = known.1.or(before);
            if *known != (content, before.or(known.1)) {
                let how = format!(
                    "entry {} of term {} of group {group} stands behind term {before:?} and was different, or behind {:?}",
                    entry.index, entry.term, known.1
                );
                return Err(Broken::new(PROMISE, how));
            }
            before = Some(entry.term);
        }
        Ok(())
    }
}

/// FNV-1a over kind and payload.
fn content_of(entry: &Entry) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for byte in [entry.kind as u8].iter().chain(entry.payload.iter()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

#[cfg(test)]
mod tests {
    use mraft_types::{EntryKind, Payload};

    use super::super::tests::GROUP;
    use super::*;

    fn entry(index: Index, term: Term, payload: &[u8]) -> Entry {
        Entry { index, term, kind: EntryKind::Commands, payload: Payload::copy_from(payload) }
    }

    #[test]
    fn another_entry_and_another_past_are_found() {
        let mut logs = Logs::default();
        logs.holds(GROUP, Some(1), &[entry(5, 2, b"a"), entry(6, 2, b"b")]).expect("the first");
        logs.holds(GROUP, None, &[entry(6, 2, b"b")]).expect("the same");
        logs.holds(GROUP, Some(1), &[entry(5, 3, b"x"), entry(6, 3, b"y")]).expect("another leader's");
        assert!(logs.holds(GROUP, Some(2), &[entry(6, 2, b"c")]).is_err(), "another content");
        assert!(logs.holds(GROUP, Some(3), &[entry(6, 2, b"b")]).is_err(), "another past");
    }
}
