// SPDX-License-Identifier: Apache-2.0

//! What follows from a disk that keeps callers waiting, or has no room for them (rules T1, D10): nothing, leadership elsewhere, or the end
//! of every replica of the node. Decided here, from how long they have waited; measured and carried out by who calls this.

use std::collections::BTreeMap;

use mraft_types::{GroupId, Membership, NodeId, ReplicaId, Term};

use crate::config::HostConfig;

/// A group's leadership is moved away at most this often.
pub const MOVE_PAUSE_MS: u64 = 60_000;
/// A group that is led here as before is asked to move again after so long: the first attempt came to nothing.
pub const MOVE_AGAIN_MS: u64 = 1_000;

/// A process that did not look at its disk for so long stood still itself.
const PAUSE_MS: u64 = 500;

/// Why leadership should be elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Somebody has waited for the disk for this long.
    Slow,
    /// Writes have been refused for want of room for this long.
    Full,
}

/// What a look at a disk leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Well,
    /// Leadership moves to nodes that are better off.
    MoveLeaders {
        /// Why.
        trouble: Trouble,
        /// Since when, in milliseconds.
        for_ms: u64,
    },
    /// Every replica of the node stops; the process stays up to say so.
    Stop {
        /// For how long somebody has waited, in milliseconds.
        waited_ms: u64,
    },
}

/// From when on a disk is slow, and from when on it has stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// [`HostConfig::slow_disk_ms`].
    pub slow_disk_ms: u64,
    /// [`HostConfig::stalled_disk_ms`].
    pub stalled_disk_ms: u64,
}

impl Patience {
    /// That of a host.
    pub fn of(config: &HostConfig) -> Patience {
        Patience { slow_disk_ms: config.slow_disk_ms, stalled_disk_ms: config.stalled_disk_ms }
    }

    /// What is to become of a node whose disk keeps somebody waiting for `waited_ms`, and has had no room for writes for `full_ms`.
    pub fn judge(self, waited_ms: u64, full_ms: u64) -> Verdict {
        if waited_ms >= self.stalled_disk_ms {
            Verdict::Stop { waited_ms }
        } else if waited_ms >= self.slow_disk_ms {
            Verdict::MoveLeaders { trouble: Trouble::Slow, for_ms: waited_ms }
        } else if full_ms >= self.slow_disk_ms {
            Verdict::MoveLeaders { trouble: Trouble::Full, for_ms: full_ms }
        } else {
            Verdict::Well
        }
    }
}

/// Notices that the process stood still: stopped, starved, or its machine was. Whoever waited for the disk meanwhile waited for that, and
/// what is under way is given time anew; a node must not stop its replicas because it was put to sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    looked_ms: Option<u64>,
}

impl Pauses {
    /// To be asked many times a second, with a monotonic clock: whether the process stood still since the last time.
    pub fn stood_still(&mut self, now_ms: u64) -> bool {
        let looked_ms = self.looked_ms.replace(now_ms).unwrap_or(now_ms);
        now_ms.saturating_sub(looked_ms) >= PAUSE_MS
    }
}

/// A group that this node leads.
#[derive(Clone, Copy, Debug)]
pub struct Led<'a> {
    /// Which.
    pub group: GroupId,
    /// In which term.
    pub term: Term,
    /// Its members.
    pub members: &'a Membership,
}

/// Which groups' leadership was moved away, when, by the caller's monotonic clock in milliseconds, and in which term. One entry per group
/// that this node ever led on a slow disk.
#[derive(Clone, Debug, Default)]
pub struct Moves(BTreeMap<GroupId, (u64, Term)>);

impl Moves {
    /// Where the leadership of a group is to go: to the member whose node's disk keeps nobody waiting for half as long as the disk here.
    /// `None` when there is no such member, or when it was moved a moment ago. `now_ms` is of a monotonic clock; `waited_ms_on` says what
    /// a node that can be reached said last of its own disk.
    pub fn choose(
        &mut self,
        now_ms: u64,
        own: NodeId,
        led: Led<'_>,
        for_ms: u64,
        waited_ms_on: impl Fn(NodeId) -> Option<u64>,
    ) -> Option<ReplicaId> {
        let is_too_soon = |(at_ms, term): &(u64, Term)| {
            let pause_ms = if *term == led.term { MOVE_AGAIN_MS } else { MOVE_PAUSE_MS };
            now_ms.saturating_sub(*at_ms) < pause_ms
        };
        if self.0.get(&led.group).is_some_and(is_too_soon) {
            return None;
        }
        let others = led.members.counting().filter(|id| id.node() != own);
        let known = others.filter_map(|id| Some((waited_ms_on(id.node())?, id)));
        let (_, to) = known.filter(|(waited_ms, _)| *waited_ms < for_ms / 2).min()?;
        self.0.insert(led.group, (now_ms, led.term));
        Some(to)
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::{Member, Role};

    use super::*;

    const GROUP: GroupId = GroupId(7);
    const PATIENCE: Patience = Patience { slow_disk_ms: 2_000, stalled_disk_ms: 30_000 };

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("a node id")
    }

    fn members(roles: &[Role]) -> Membership {
        let member = |(at, role): (usize, &Role)| {
            (ReplicaId::new(0, node(at as u64 + 1)), Member { role: *role, raft_address: String::new() })
        };
        Membership { members: roles.iter().enumerate().map(member).collect(), ..Membership::default() }
    }

    /// Asks for a group of these roles, led by node 1 in this term, whose disks on nodes 2 and up have these ages.
    fn choose(
        moves: &mut Moves,
        now_ms: u64,
        term: Term,
        roles: &[Role],
        ages_ms: &[Option<u64>],
    ) -> Option<u64> {
        let members = members(roles);
        let led = Led { group: GROUP, term, members: &members };
        let to = moves.choose(now_ms, node(1), led, 4_000, |node| ages_ms[node.get() as usize - 2]);
        to.map(|id| id.node().get())
    }

    #[test]
    fn t1_a_disk_is_judged_by_who_waits_for_it_and_by_what_it_refuses() {
        let judged = |waited_ms, full_ms| PATIENCE.judge(waited_ms, full_ms);
        assert_eq!(judged(1_999, 1_999), Verdict::Well);
        let slow = |for_ms| Verdict::MoveLeaders { trouble: Trouble::Slow, for_ms };
        assert_eq!((judged(2_000, 0), judged(29_999, 90_000)), (slow(2_000), slow(29_999)));
        assert_eq!(judged(0, 90_000), Verdict::MoveLeaders { trouble: Trouble::Full, for_ms: 90_000 });
        assert_eq!(judged(30_000, 90_000), Verdict::Stop { waited_ms: 30_000 });
    }

    #[test]
    fn t1_a_process_that_did_not_look_for_long_stood_still() {
        let mut pauses = Pauses::default();
        let seen: Vec<bool> =
            [90_000, 90_100, 90_599, 91_099, 91_100, 170_000].map(|now_ms| pauses.stood_still(now_ms)).into();
        assert_eq!(seen, [false, false, false, true, false, true]);
    }

    #[test]
    fn t1_leadership_goes_to_the_voter_that_is_best_off_if_that_is_much_better() {
        let voters = [Role::Voter; 4];
        let to =
            |roles: &[Role], ages_ms: &[Option<u64>]| choose(&mut Moves::default(), 0, 5, roles, ages_ms);
        assert_eq!(to(&voters, &[Some(1_500), Some(20), None]), Some(3));
        assert_eq!(to(&voters, &[Some(2_000), None, Some(1_999)]), Some(4));
        assert_eq!(to(&voters, &[Some(2_000), None, Some(9_000)]), None, "nobody is twice as fast");
        let learner = [Role::Voter, Role::Learner, Role::Voter];
        assert_eq!(to(&learner, &[Some(0), Some(1_000)]), Some(3), "a learner cannot lead");
    }

    #[test]
    fn t1_a_group_moves_once_a_minute_and_what_came_to_nothing_is_tried_again_soon() {
        let (mut moves, voters, ages) = (Moves::default(), [Role::Voter; 2], [Some(0)]);
        let mut at = |now_ms, term| choose(&mut moves, now_ms, term, &voters, &ages).is_some();
        assert!(at(10_000, 5));
        assert!(!at(10_999, 5) && at(11_000, 5), "it still leads in the same term");
        assert!(!at(12_000, 7) && !at(70_999, 7), "it came back");
        assert!(at(71_000, 7));
    }
}
