// SPDX-License-Identifier: Apache-2.0

//! What must be true, one file for each promise that a state or a step shows. What was promised before is in the `ledger`: one leader per
//! term, one vote per term, one entry per index, reads that are fresh. Calm weather is in `calm`.

pub(crate) mod durable_before_acknowledged;
mod leader_completeness;
mod log_matching;
pub(crate) mod quorums_intersect;
pub(crate) mod removed_leaders_go;
pub(crate) mod replica_is_sound;

use crate::broken::Broken;
use crate::ledger::Ledger;
use crate::summary::{Contents, Members, Summary};

/// A state, as the checks see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The replicas.
    pub replicas: &'a [Summary],
    /// What was promised.
    pub ledger: &'a Ledger,
    /// What entries hold.
    pub contents: &'a Contents,
    /// The first members.
    pub genesis: Members,
}

/// Looks at a state in which something happened to the replicas of `changed` (bits by place): what holds between two others held before.
pub fn check(view: View<'_>, changed: u8) -> Result<(), Broken> {
    log_matching::check(view, changed)?;
    leader_completeness::check(view)?;
    quorums_intersect::check(view)
}

#[cfg(test)]
pub(crate) mod tests {
    use mraft_types::{Entry, EntryKind, Membership, Payload};

    use super::*;
    use crate::broken::Promise;
    use crate::ledger::{Chosen, Fact};
    use crate::summary::Line;
    use crate::world::tests::members;

    pub(crate) const EMPTY: u8 = 0;
    const A: u8 = 1;
    const STRIPPED: u8 = 2;
    const B: u8 = 3;
    const PAIR: u8 = 4;
    const ONE: u8 = 5;

    /// Contents as the constants name them.
    pub(crate) fn contents() -> Contents {
        let mut contents = Contents::default();
        let membership = |nodes: &[u64]| {
            let mut payload = Vec::new();
            let membership = Membership { members: members(nodes), ..Membership::default() };
            membership.encode(&mut payload);
            (EntryKind::Membership, Payload::from(payload))
        };
        let kinds = [
            (EntryKind::Empty, Payload::new()),
            (EntryKind::Commands, "a".into()),
            (EntryKind::Commands, Payload::new()),
            (EntryKind::Commands, "b".into()),
            membership(&[1, 2]),
            membership(&[3]),
        ];
        for (number, (kind, payload)) in (0..).zip(kinds) {
            assert_eq!(contents.number(&Entry { index: 0, term: 0, kind, payload }), number);
        }
        contents
    }

    /// What is said of replicas with these logs, durable as they stand, when so many entries of term 2 are committed.
    fn broken(
        logs: &[&[(u8, u8)]],
        committed: &[(u8, u8)],
        tune: impl Fn(&mut [Summary]),
    ) -> Option<Promise> {
        let contents = contents();
        let mut ledger = Ledger::default();
        for (index, (term, content)) in (2..).zip(committed) {
            let entry = Chosen { index, term: *term, content: *content };
            ledger.note(0, Fact::Committed { known_in: 2, entry }, &contents).expect("the first ones");
        }
        let everybody = (1 << logs.len()) - 1;
        let replica = |log: &&[(u8, u8)]| {
            let log = Line::of(log, everybody);
            Summary { log, durable: log, ..Summary::default() }
        };
        let mut replicas: Vec<Summary> = logs.iter().map(replica).collect();
        tune(&mut replicas);
        let genesis = Members { all: everybody, counting: everybody, may_lead: everybody };
        let view = View { replicas: &replicas, ledger: &ledger, contents: &contents, genesis };
        check(view, u8::MAX).err().map(|broken| broken.promise)
    }

    #[test]
    fn logs_that_share_a_position_share_what_stands_before() {
        let as_they_are = |_: &mut [Summary]| ();
        assert_eq!(broken(&[&[(2, EMPTY), (2, A)], &[(2, EMPTY)], &[(3, EMPTY)]], &[], as_they_are), None);
        let parted = broken(&[&[(2, EMPTY), (4, EMPTY)], &[(3, EMPTY), (4, EMPTY)], &[]], &[], as_they_are);
        assert_eq!(parted, Some(Promise::LogMatching));
        let unlike = broken(&[&[(2, EMPTY), (2, A)], &[(2, EMPTY), (2, B)], &[]], &[], as_they_are);
        assert_eq!(unlike, Some(Promise::LogMatching));
        let witness = broken(&[&[(2, EMPTY), (2, A)], &[(2, EMPTY), (2, STRIPPED)], &[]], &[], as_they_are);
        assert_eq!(witness, None, "a witness keeps no data");
    }

    #[test]
    fn whoever_could_be_elected_has_what_was_committed() {
        let committed = [(2, EMPTY), (2, A)];
        let (whole, short) = (&committed[..], &committed[..1]);
        assert_eq!(broken(&[whole, whole, short], &committed, |_| ()), None);
        let lost = broken(&[whole, short, short], &committed, |_| ());
        assert_eq!(lost, Some(Promise::LeaderCompleteness), "two of three can do without");
        let after_a_power_cut = broken(&[whole, whole, short], &committed, |replicas| {
            replicas[1].durable = replicas[2].durable;
        });
        assert_eq!(after_a_power_cut, Some(Promise::LeaderCompleteness));
        let without_a_voice = broken(&[whole, short, short], &committed, |replicas| {
            replicas[2].is_memberless = true;
        });
        assert_eq!(without_a_voice, None, "nobody has a majority");
    }

    #[test]
    fn a_leader_of_a_later_term_has_what_was_committed() {
        let committed = [(2, EMPTY)];
        let leads = |term: u8| {
            move |replicas: &mut [Summary]| {
                replicas[2].leads = true;
                replicas[2].term = term;
            }
        };
        let logs: [&[(u8, u8)]; 3] = [&committed, &committed, &[]];
        assert_eq!(broken(&logs, &committed, leads(3)), Some(Promise::LeaderCompleteness));
        assert_eq!(broken(&logs, &committed, leads(2)), None, "it does not know yet that it was deposed");
    }

    #[test]
    fn memberships_behind_what_is_committed_share_their_quorums_with_it() {
        let as_they_are = |_: &mut [Summary]| ();
        let with = |content: u8| {
            let log: &[(u8, u8)] = &[(2, EMPTY), (2, content)];
            broken(&[log, log, log], &[(2, EMPTY)], as_they_are)
        };
        assert_eq!(with(PAIR), None);
        assert_eq!(with(ONE), Some(Promise::QuorumsIntersect));
    }
}
