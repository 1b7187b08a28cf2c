// SPDX-License-Identifier: Apache-2.0

//! Which groups of a document a node founds, and what the document is told of otherwise (row S9).
//!
//! A group is founded once, by what the document said at the node's first start; the routing table that is kept since then repeats it. At a
//! restart the document changes nothing: what it says otherwise is reported as ignored, one sentence per difference. Only a group that the
//! kept table has exactly like the document, and that the host does not know, is founded then: a crash came between the table and it.

use std::collections::BTreeMap;

use mraft::{GroupSpec, HostError, NodeHost};
use mraft_types::{GroupId, Member, Membership, ReplicaId, Role};

use super::run::KV;
use super::topology::Topology;
use crate::config::{GroupPlan, Here};

/// What is to be founded, and what to say.
#[derive(Debug, Default)]
pub(super) struct Founding {
    specs: Vec<GroupSpec>,
    ignored: Vec<String>,
}

impl Founding {
    /// At a node's first start: everything that the document makes it an original member of.
    pub(super) fn first(plans: &BTreeMap<GroupId, GroupPlan>) -> Founding {
        let originals = plans.iter().filter(|(_, plan)| plan.here == Here::Original);
        Founding { specs: originals.map(|(group, plan)| spec(*group, plan)).collect(), ignored: Vec::new() }
    }

    /// At every other start. `told` is the document's table, if it has one.
    pub(super) fn again(
        plans: &BTreeMap<GroupId, GroupPlan>,
        told: Option<&Topology>,
        kept: &Topology,
    ) -> Founding {
        let mut founding = Founding::default();
        let Some(told) = told else { return founding };
        for (group, row) in told.groups() {
            match (kept.groups().get(group), plans.get(group)) {
                (Some(known), Some(plan)) if known == row => {
                    founding.specs.extend((plan.here == Here::Original).then(|| spec(*group, plan)));
                }
                (Some(known), _) if known.members == row.members => founding.ignored.push(format!(
                    "the number of groups in initial_members gives group {group} other slots than it was founded with: slots stay \
                     where they are"
                )),
                (Some(_), _) => founding.ignored.push(format!(
                    "initial_members.{group} (with join) names other members than at this node's first start: they count at a group's \
                     founding only; to change them, use `mraft group {group} add` and `remove`"
                )),
                (None, _) => founding.ignored.push(format!(
                    "initial_members.{group} is new since this node's first start: the group is not founded"
                )),
            }
        }
        for group in kept.groups().keys().filter(|group| !told.groups().contains_key(group)) {
            founding.ignored.push(format!(
                "initial_members leaves out group {group}, which this node was started with: the group stays"
            ));
        }
        founding
    }

    /// Founds what is not here yet, and says what is ignored.
    pub(super) fn begin(mut self, host: &NodeHost) -> Result<(), HostError> {
        for notice in &self.ignored {
            tracing::warn!("ignored: {notice}");
        }
        // The host compares foundings, for whoever embeds it; here the document does not count for a group that is there.
        let here = host.groups();
        self.specs.retain(|spec| here.binary_search(&spec.group).is_err());
        host.start_groups(&self.specs)
    }
}

fn spec(group: GroupId, plan: &GroupPlan) -> GroupSpec {
    let member = |(node, address): (&mraft_types::NodeId, &String)| {
        let member = Member { role: Role::Voter, raft_address: address.clone() };
        (ReplicaId::new(0, *node), member)
    };
    GroupSpec {
        group,
        members: Membership {
            change_index: 1,
            members: plan.originals.iter().map(member).collect(),
            ..Membership::default()
        },
        slots: plan.slots.clone(),
        machine: KV.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::{NodeId, SlotSet};

    use super::*;

    /// Groups with the nodes that found them.
    type Document<'a> = &'a [(u64, &'a [u64])];

    fn plans(groups: Document<'_>) -> BTreeMap<GroupId, GroupPlan> {
        let address = |node: &u64| (NodeId::new(*node).expect("a node id"), format!("10.0.0.{node}:13890"));
        let plan = |(position, (group, nodes)): (usize, &(u64, &[u64]))| {
            let plan = GroupPlan {
                originals: nodes.iter().map(address).collect(),
                joined: BTreeMap::new(),
                here: if nodes.contains(&1) { Here::Original } else { Here::Absent },
                slots: SlotSet::even_share(position as u64, groups.len() as u64),
            };
            (GroupId(*group), plan)
        };
        groups.iter().enumerate().map(plan).collect()
    }

    fn again(now: Document<'_>, first: Document<'_>) -> (Vec<GroupId>, Vec<String>) {
        let (now, kept) = (plans(now), Topology::of_plans(&plans(first)));
        let Founding { specs, ignored } = Founding::again(&now, Some(&Topology::of_plans(&now)), &kept);
        (specs.into_iter().map(|spec| spec.group).collect(), ignored)
    }

    #[test]
    fn s9_the_same_document_founds_what_a_crash_left_out_and_says_nothing() {
        let same: Document<'_> = &[(0, &[1, 2, 3]), (1, &[2, 3])];
        assert_eq!(again(same, same), (vec![GroupId(0)], Vec::new()));
        assert_eq!(Founding::first(&plans(same)).specs.len(), 1);
    }

    #[test]
    fn s9_what_a_document_says_otherwise_later_is_ignored_with_a_sentence_each() {
        let first: Document<'_> = &[(0, &[1, 2, 3]), (1, &[1, 2, 3])];
        let cases: [(Document<'_>, &[&str]); 3] = [
            (
                &[(0, &[1, 2, 3]), (1, &[1, 2, 3]), (2, &[1, 2, 3])],
                &["group 0 other slots", "group 1 other slots", "initial_members.2 is new"],
            ),
            (&[(0, &[1, 2, 3])], &["group 0 other slots", "leaves out group 1"]),
            (&[(0, &[1, 2, 4]), (1, &[1, 2, 3])], &["initial_members.0 (with join) names other members"]),
        ];
        for (now, parts) in cases {
            let (founded, ignored) = again(now, first);
            assert!(!founded.contains(&GroupId(2)), "a group that is new is not founded");
            assert_eq!(ignored.len(), parts.len(), "{ignored:?}");
            for (sentence, part) in ignored.iter().zip(parts) {
                assert!(sentence.contains(part), "`{part}` is not in: {sentence}");
            }
        }
    }
}
