// SPDX-License-Identifier: Apache-2.0

//! Writers that measure gaps: for each node and each group one, which writes a key of that group through that node, over and over, and
//! gives up soon. Other clients hang on a dead leader until their time is over; these notice within [`WRITE_TIME_MS`] that it has a
//! successor. What they write is part of the load's history.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use mraft_api::{GroupsAnswer, Problem, WriteAnswer, paths};
use mraft_history::{Call, ClientId, KeyId, Outcome};
use mraft_types::slot_of_key;
use tokio::time::timeout;

use crate::failure::{Failure, Result};
use crate::load::Shared;
use crate::raw::Wire;
use crate::values;

/// How fine gaps are measured.
const WRITE_TIME_MS: u64 = 250;
/// Its own clock waits a little longer than the node's, whose answer says more.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(WRITE_TIME_MS + 50);
/// Between two writes: one row of many that only has to notice.
const PAUSE: Duration = Duration::from_millis(20);

/// One of them.
pub(crate) struct Prober {
    pub(crate) number: ClientId,
    pub(crate) at: SocketAddrV4,
    pub(crate) key: KeyId,
    pub(crate) pause: Duration,
    pub(crate) shared: Arc<Shared>,
}

impl Prober {
    pub(crate) async fn probe(self) {
        let mut wire = None;
        while !self.shared.is_stopping() {
            let value = self.shared.new_value();
            let id = self.shared.invoke(self.number, self.key, Call::Put(value));
            let outcome = match timeout(ANSWER_TIME_MAX, self.write(&mut wire, value)).await {
                Ok(outcome) => outcome,
                // Of a request that was given up, the answer could be taken for the next one's.
                Err(_) => {
                    wire = None;
                    Outcome::Unknown
                }
            };
            self.shared.complete(id, outcome);
            tokio::time::sleep(self.pause.max(PAUSE)).await;
        }
    }

    async fn write(&self, wire: &mut Option<Wire>, value: u64) -> Outcome {
        if wire.is_none() {
            match Wire::open(self.at).await {
                Ok(open) => *wire = Some(open),
                Err(_) => return Outcome::NotApplied,
            }
        }
        let target = format!("{}?timeout_ms={WRITE_TIME_MS}", paths::kv(&values::key(self.key)));
        let asked = match wire {
            Some(wire) => wire.ask("PUT", &target, &values::value(value)).await,
            None => return Outcome::NotApplied,
        };
        let Ok(answer) = asked else {
            *wire = None;
            return Outcome::Unknown;
        };
        if answer.status == 200 {
            return match serde_json::from_slice::<WriteAnswer>(&answer.body) {
                Ok(written) => {
                    self.shared.acknowledged(written.served.group);
                    Outcome::Written(written.served.revision)
                }
                Err(error) => self.shared.odd(format!("a write was answered with {error}")),
            };
        }
        match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) if problem.status != 500 => match problem.outcome {
                mraft_api::Outcome::NotApplied => Outcome::NotApplied,
                mraft_api::Outcome::Unknown => Outcome::Unknown,
                mraft_api::Outcome::Applied => {
                    self.shared.odd(format!("an error that was applied: {problem}"))
                }
            },
            _ => {
                let body = String::from_utf8_lossy(&answer.body);
                self.shared.odd(format!("a write was answered with {}: {body}", answer.status))
            }
        }
    }
}

/// For each of the groups one key from this number on that belongs to it.
pub(crate) fn keys_of(groups: &GroupsAnswer, from: KeyId) -> Result<Vec<KeyId>> {
    /// Far more than the groups of any run; each has at least one in so many slots.
    const KEYS_MAX: u64 = 1 << 16;
    let key_of = |slots: &[String]| {
        let ranges: Vec<(u16, u16)> = slots.iter().filter_map(|range| range_of(range)).collect();
        let is_in = |key: &KeyId| {
            let slot = slot_of_key(&values::key(*key));
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&slot))
        };
        (from..from + KEYS_MAX).find(is_in)
    };
    let keys = groups.groups.iter().map(|group| {
        key_of(&group.slots).ok_or_else(|| Failure::new(format_args!("group {} has no key", group.group)))
    });
    keys.collect()
}

fn range_of(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use mraft_api::GroupSummary;

    use super::*;

    #[test]
    fn a_key_is_of_the_group_that_has_its_slot() {
        let group = |group, slots: &str| GroupSummary {
            group,
            slots: vec![slots.to_owned()],
            ..GroupSummary::default()
        };
        let mut groups =
            GroupsAnswer { served_by: 1, groups: vec![group(0, "0-8191"), group(1, "8192-16383")] };
        let keys = keys_of(&groups, 7).expect("each has one");
        assert!(slot_of_key(&values::key(keys[0])) < 8192 && slot_of_key(&values::key(keys[1])) >= 8192);
        groups.groups[1].slots.clear();
        assert!(keys_of(&groups, 7).is_err_and(|failure| failure.to_string().contains("group 1")));
    }
}
