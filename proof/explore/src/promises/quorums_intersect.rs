// SPDX-License-Identifier: Apache-2.0

//! Quorums of configurations that can be in force at the same time have a member in common: that of the last committed membership, and of
//! every one behind it in a log that has everything committed. In force is always the latest in the log (rule M2).

use super::View;
use crate::broken::{Broken, Promise};
use crate::disk::membership_of;
use crate::replica::Replica;
use crate::summary::{Line, Members};

pub(super) fn check(view: View<'_>) -> Result<(), Broken> {
    for replica in view.replicas.iter().filter(|replica| !replica.is_gone) {
        for log in [&replica.log, &replica.durable] {
            check_log(view, log)?;
        }
    }
    Ok(())
}

/// Rule M2: the latest membership in the log counts, committed or not.
pub(crate) fn check_in_force(replica: &Replica) -> Result<(), Broken> {
    let raft = replica.raft();
    let first = raft.start().position.index + 1;
    let in_log = (first..=raft.last_index()).rev().find_map(|at| membership_of(&replica.entry(at)?));
    let expected = in_log.as_ref().unwrap_or(&raft.start().membership);
    if expected == raft.membership() {
        return Ok(());
    }
    let what = format!("the membership of {} in the log is not in force", expected.change_index);
    Err(Broken::new(Promise::QuorumsIntersect, what))
}

fn check_log(view: View<'_>, log: &Line) -> Result<(), Broken> {
    let committed = view.ledger.committed();
    let has_all = log.last > committed
        && view
            .ledger
            .decided(committed)
            .is_none_or(|(term, ..)| log.at(committed).is_some_and(|at| at.0 == term));
    if !has_all {
        return Ok(());
    }
    let members_at = |index: u8| log.at(index).and_then(|(_, content)| view.contents.members(content));
    let Some(first) = (committed + 1..=log.last).find(|index| members_at(*index).is_some()) else {
        return Ok(());
    };
    let before = (2..first).rev().find_map(members_at).unwrap_or(view.genesis);
    for index in first..=log.last {
        if members_at(index).is_some_and(|behind| !intersect(before, behind)) {
            let what =
                format!("a majority of the committed members and one of those of {index} need not meet");
            return Err(Broken::new(Promise::QuorumsIntersect, what));
        }
    }
    Ok(())
}

/// Whether every majority of one has a member in common with every majority of the other.
fn intersect(one: Members, other: Members) -> bool {
    let shared = (one.counting & other.counting).count_ones();
    let needed = |members: Members| {
        let count = members.counting.count_ones();
        (count / 2 + 1).saturating_sub(count - shared)
    };
    needed(one) + needed(other) > shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn majorities(of: u8) -> impl Iterator<Item = u8> {
        (0..16u8).filter(move |some| some & !of == 0 && some.count_ones() > of.count_ones() / 2)
    }

    #[test]
    fn majorities_meet_as_counting_by_hand_says() {
        let members = |counting| Members { counting, ..Members::default() };
        for one in 1..16 {
            for other in 1..16 {
                let by_hand = majorities(one).all(|these| majorities(other).all(|those| these & those != 0));
                assert_eq!(intersect(members(one), members(other)), by_hand, "{one:b} and {other:b}");
            }
        }
    }
}
