// SPDX-License-Identifier: Apache-2.0

//! How old what a stale read finds may be (promise P3).
//!
//! What a follower hears from its leader does not tell: a message may have been long on its way, and a leader that was cut off may not
//! know that there is another. So a stale read asks as a linearizable one does (rules R1, R2), only not each one, and mostly without
//! waiting: the leader's index, confirmed by a majority after the question was begun, covers everything that was acknowledged before.
//! A state that has applied it is at most as old as the question. A linearizable read or a write that was answered here says as much.
//!
//! No clock of another node is trusted, and whatever delays an answer makes the figure larger, never smaller. A group whose leader
//! does not answer keeps what was confirmed last, which grows older; one of which nothing was confirmed since the node's start has no
//! figure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mraft::ReadKind;
use mraft_gateway::needs::NodeError;
use mraft_types::{GroupId, Index};

use super::exchange::{Question, Said};
use super::route::Missed;
use super::service::Service;

/// How often a group's stale reads have its leader asked: about how old their figure is at most while there is a leader.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long the read that has the leader asked waits for it: a round trip and a sync or two, so that the figure of a group that was
/// not read for long is a young one.
const ASK_WAIT: Duration = Duration::from_millis(50);
/// When a question is given up, so that the next one can go to another leader.
const ASK_TIME_MAX: Duration = Duration::from_secs(2);

/// What is known of the groups here; at most one entry per group that was ever held.
#[derive(Debug, Default)]
pub(super) struct Freshness(Mutex<HashMap<GroupId, Known>>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    confirmed: Option<Confirmed>,
    asked: Option<Instant>,
    is_asking: bool,
}

/// A state that has applied `index` holds everything that was acknowledged before `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    since: Instant,
    index: Index,
}

impl Confirmed {
    /// How old a state is that has applied this much, at most.
    pub(super) fn age_ms(self, applied: Index, now: Instant) -> Option<u64> {
        let age = now.saturating_duration_since(self.since);
        // Rounded up: the figure is a bound.
        let millis = u64::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        (applied >= self.index).then_some(millis)
    }
}

impl Freshness {
    /// Whether the leader is to be asked now. Who is told so calls [`Freshness::ended`].
    fn begins(&self, group: GroupId, now: Instant) -> bool {
        let mut groups = self.groups();
        let known = groups.entry(group).or_default();
        let is_due = known.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_EVERY);
        if !is_due || known.is_asking {
            return false;
        }
        (known.asked, known.is_asking) = (Some(now), true);
        true
    }

    /// The question that was begun last has ended; with what was confirmed.
    fn ended(&self, group: GroupId, confirmed: Option<Confirmed>) {
        let mut groups = self.groups();
        let known = groups.entry(group).or_default();
        known.is_asking = false;
        // Another answer may have come meanwhile, to something that was begun later.
        let newest =
            [known.confirmed, confirmed].into_iter().flatten().max_by_key(|confirmed| confirmed.since);
        known.confirmed = newest;
    }

    /// A read or a write that a majority confirmed, begun at `since`, was as good as a question.
    pub(super) fn heard(&self, group: GroupId, since: Instant, index: Index) {
        let mut groups = self.groups();
        let known = groups.entry(group).or_default();
        if known.confirmed.is_none_or(|confirmed| confirmed.since < since) {
            known.confirmed = Some(Confirmed { since, index });
            known.asked = known.asked.max(Some(since));
        }
    }

    /// What was confirmed last.
    pub(super) fn of(&self, group: GroupId) -> Option<Confirmed> {
        self.groups().get(&group).and_then(|known| known.confirmed)
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<GroupId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Has the group's leader asked if it is time to, and waits a moment for it.
    pub(super) async fn freshen(self: &Arc<Self>, group: GroupId) {
        let since = Instant::now();
        if !self.freshness.begins(group, since) {
            return;
        }
        let service = Arc::clone(self);
        let asking = self.runtime.spawn(async move {
            let index = tokio::time::timeout(ASK_TIME_MAX, service.confirmed_index(group, since)).await;
            let index = index.ok().and_then(Result::ok);
            service.freshness.ended(group, index.map(|index| Confirmed { since, index }));
        });
        // Whether it came or not: the read goes on with what is known.
        let _ = tokio::time::timeout(ASK_WAIT, asking).await;
    }

    /// An index that is applied here and covers everything that was acknowledged before the call.
    async fn confirmed_index(self: &Arc<Self>, group: GroupId, now: Instant) -> Result<Index, Missed> {
        let until = now + ASK_TIME_MAX;
        let leader = self.host.leader(group).and_then(|known| known.leader).map(|leader| leader.node());
        match leader {
            Some(leader) if leader == self.node() => {
                self.confirmed(group, ReadKind::Linearizable, until).await
            }
            Some(leader) => match self.pass(group, &Question::ReadIndex, leader, 0, until).await? {
                Said::Data(data) => {
                    self.confirmed(group, ReadKind::AppliedThrough(data.index), until).await?;
                    Ok(data.index)
                }
                Said::Document(_) => {
                    let odd = NodeError::Internal("the leader's read index is no index".to_owned());
                    Err(Missed::last(self.failure(odd, group, Some(leader))))
                }
            },
            None => Err(Missed::again(self.failure(NodeError::NoLeader, group, None))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);

    #[test]
    fn r3_a_figure_counts_from_the_beginning_of_the_question_and_only_grows_without_an_answer() {
        let freshness = Freshness::default();
        let begun = Instant::now();
        assert!(freshness.begins(GROUP, begun));
        assert_eq!(freshness.of(GROUP), None, "nothing is known before the first answer");
        freshness.ended(GROUP, Some(Confirmed { since: begun, index: 7 }));
        let age = |applied, millis: u64| {
            freshness.of(GROUP).and_then(|known| known.age_ms(applied, begun + Duration::from_millis(millis)))
        };
        assert_eq!((age(7, 0), age(9, 30)), (Some(0), Some(30)));
        assert_eq!(age(6, 30), None, "this state does not hold what was confirmed");
        assert!(freshness.begins(GROUP, begun + ASK_EVERY));
        freshness.ended(GROUP, None);
        assert_eq!(age(9, 5_000), Some(5_000));
    }

    #[test]
    fn r3_what_a_majority_confirmed_for_others_counts_too() {
        let freshness = Freshness::default();
        let begun = Instant::now();
        freshness.heard(GROUP, begun, 7);
        assert_eq!(freshness.of(GROUP).and_then(|known| known.age_ms(7, begun)), Some(0));
        assert!(!freshness.begins(GROUP, begun + ASK_EVERY / 2), "it is known well enough");
        assert!(freshness.begins(GROUP, begun + ASK_EVERY));
        freshness.heard(GROUP, begun + 2 * ASK_EVERY, 9);
        freshness.ended(GROUP, Some(Confirmed { since: begun + ASK_EVERY, index: 8 }));
        let known = freshness.of(GROUP).expect("confirmed");
        assert_eq!(known, Confirmed { since: begun + 2 * ASK_EVERY, index: 9 }, "the later beginning counts");
        freshness.heard(GROUP, begun, 99);
        assert_eq!(freshness.of(GROUP), Some(known));
    }

    #[test]
    fn r3_one_question_at_a_time_and_not_for_every_read() {
        let freshness = Freshness::default();
        let begun = Instant::now();
        assert!(freshness.begins(GROUP, begun));
        assert!(!freshness.begins(GROUP, begun + ASK_EVERY), "one is under way");
        freshness.ended(GROUP, None);
        assert!(!freshness.begins(GROUP, begun + ASK_EVERY / 2), "it was asked a moment ago");
        assert!(freshness.begins(GROUP, begun + ASK_EVERY));
        assert!(freshness.begins(GroupId(4), begun), "each group by itself");
    }

    #[test]
    fn a_figure_is_rounded_up() {
        let since = Instant::now();
        let confirmed = Confirmed { since, index: 1 };
        assert_eq!(confirmed.age_ms(1, since + Duration::from_nanos(1)), Some(1));
    }
}
