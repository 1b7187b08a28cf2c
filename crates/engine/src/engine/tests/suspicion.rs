// SPDX-License-Identifier: Apache-2.0

//! Who campaigns when when the node that led many groups is suspected (rule T5).

use super::*;

/// More than two waves of them.
const GROUPS: u64 = 2 * SUSPECTED_PER_TICK_MAX as u64 + 100;
/// Until everybody had its turn.
const TICKS: u64 = 10;

fn uid(group: u64) -> GroupUid {
    let half = group.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut uid = [0; 16];
    uid[..8].copy_from_slice(&half);
    GroupUid(uid)
}

/// When each group's replica on this node asks for pre-votes after node 3, which leads all of them in `term`, is suspected.
fn campaigns(node: u64, term: Term) -> BTreeMap<GroupId, u64> {
    let mut engine = Engine::new(replica(node).node(), Limits::default());
    let mut campaigns = BTreeMap::new();
    let mut turn = |engine: &mut Engine, tick| {
        while !engine.is_idle() {
            let mut effects = Vec::new();
            engine.turn(&mut effects);
            for (group, effect) in effects {
                match effect {
                    Effect::Write(write) => {
                        engine.handle_event(group, Event::Persisted { write: write.number })
                    }
                    Effect::Send { message: Message { body: Body::PreVote { .. }, .. }, .. } => {
                        campaigns.entry(group).or_insert(tick);
                    }
                    _ => {}
                }
            }
        }
    };
    for group in 0..GROUPS {
        assert!(engine.add_group(GroupId(group), uid(group), follower_on(node), 1));
        let body = Body::Heartbeat { commit: 1, matched: 0, round: 0 };
        let message = Message { from: replica(3), to: replica(node), term, body };
        engine.handle_event(GroupId(group), Event::Message { uid: uid(group), message });
    }
    turn(&mut engine, 0);
    engine.handle_node_event(NodeEvent::NodeSuspected { node: replica(3).node() });
    for tick in 0..TICKS {
        if tick > 0 {
            engine.set_now(Now { tick, ..Now::default() });
            engine.handle_node_event(NodeEvent::Tick { random: 0 });
        }
        turn(&mut engine, tick);
    }
    campaigns
}

#[test]
fn t5_groups_of_a_suspected_node_campaign_a_bounded_number_per_tick_and_their_voters_in_turn() {
    for term in 2..6 {
        let [one, two] = [1, 2].map(|node| campaigns(node, term));
        let mut per_tick: BTreeMap<u64, u32> = BTreeMap::new();
        one.values().for_each(|tick| *per_tick.entry(*tick).or_default() += 1);
        assert!(per_tick.values().all(|groups| *groups <= SUSPECTED_PER_TICK_MAX), "{per_tick:?}");
        let mut first = 0;
        for group in (0..GROUPS).map(GroupId) {
            let (one, two) = (one[&group], two[&group]);
            assert_eq!(one.abs_diff(two), 3, "{group}: {one} {two}: a round trip of votes apart");
            first += u64::from(one < two);
        }
        assert!((GROUPS / 3..GROUPS * 2 / 3).contains(&first), "node 1 is first in {first} of {GROUPS}");
    }
}
