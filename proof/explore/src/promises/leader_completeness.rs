// SPDX-License-Identifier: Apache-2.0

//! Leader completeness: what was committed in one term is in the log of every leader of a later one.
//!
//! That is looked for in leaders, and also in whoever *could* be elected if the votes were asked for now: with the logs that replicas work
//! with, and with those that all of them would have after a power cut. A committed entry that a possible majority can do without is lost
//! already; that some replica has to ask for votes to show it would only make the search longer.

use super::View;
use crate::broken::{Broken, Promise};
use crate::ledger::Ledger;
use crate::summary::{Line, Summary};

pub(super) fn check(view: View<'_>) -> Result<(), Broken> {
    let View { replicas, ledger, .. } = view;
    for (place, replica) in replicas.iter().enumerate().filter(|(_, replica)| !replica.is_gone) {
        if replica.leads
            && let Some(index) = missing(&replica.log, ledger, Some(replica.term))
        {
            let what =
                format!("{} leads term {} without {index}, which was committed", place + 1, replica.term);
            return Err(Broken::new(Promise::LeaderCompleteness, what));
        }
    }
    check_possible(view, "now", |replica| &replica.log)?;
    check_possible(view, "after a power cut of all", |replica| &replica.durable)
}

/// Looks at whoever could be elected with these logs.
fn check_possible(view: View<'_>, when: &str, log_of: impl Fn(&Summary) -> &Line) -> Result<(), Broken> {
    for (place, replica) in view.replicas.iter().enumerate() {
        let Some(index) = missing(log_of(replica), view.ledger, None) else { continue };
        if could_win(view.replicas, place, &log_of) {
            let what = format!("{} could be elected {when} without {index}, which was committed", place + 1);
            return Err(Broken::new(Promise::LeaderCompleteness, what));
        }
    }
    Ok(())
}

/// The first committed entry that a log lacks; of those that were known to be committed before `before`, if that is given.
fn missing(log: &Line, ledger: &Ledger, before: Option<u8>) -> Option<u8> {
    (2..=ledger.committed()).find(|index| {
        let Some((term, _, known_in)) = ledger.decided(*index) else { return false };
        before.is_none_or(|before| known_in < before) && log.at(*index).is_none_or(|(is, _)| is != term)
    })
}

/// Whether those who would vote for the replica at `place` are a majority of its own configuration.
fn could_win(replicas: &[Summary], place: usize, log_of: impl Fn(&Summary) -> &Line) -> bool {
    let candidate = &replicas[place];
    let log = log_of(candidate);
    let counting = log.in_force.counting;
    let has_voice = |replica: &Summary| !replica.is_gone && !replica.is_memberless && !replica.is_condemned;
    if !has_voice(candidate) || log.in_force.may_lead & 1 << place == 0 {
        return false;
    }
    let would_grant = |(other, voter): &(usize, &Summary)| {
        has_voice(voter) && counting & 1 << other != 0 && log_of(voter).end() <= log.end()
    };
    let votes = replicas.iter().enumerate().filter(would_grant).count() as u32;
    votes > counting.count_ones() / 2
}
