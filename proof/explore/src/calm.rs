// SPDX-License-Identifier: Apache-2.0

//! What is left when everything works again: whatever was on its way is lost, every disk is quick, time passes evenly. A group that has a
//! majority then elects a leader, commits, and takes everybody along who belongs to it.

use std::collections::VecDeque;

use crate::broken::{Broken, Promise};
use crate::replica::{Replica, place_of};
use crate::step::{Happened, Hosting, Not, Parcel, Step};
use crate::table;

/// Ticks within which a group must have recovered: several elections, a transfer and a snapshot that are given up on, one after another.
const TICKS_MAX: u64 = 120;
/// Parcels that one tick may set off; more would be a storm.
const PARCELS_MAX: usize = 600;

const AT_ONCE: Hosting = Hosting { disk_at_once: true, apply_at_once: true, poll_at_once: true };

/// Whether a group of these replicas recovers.
pub fn check(replicas: Vec<Replica>) -> Result<(), Broken> {
    let mut calm = Calm { replicas, on_the_way: VecDeque::new() };
    calm.begin()?;
    let mut goal = None;
    for tick in 0..TICKS_MAX {
        for place in 0..calm.replicas.len() {
            let random = table::hash(&(tick, place));
            calm.happen(place, Step::Tick(tick, random))?;
        }
        calm.deliver()?;
        if goal.is_none() {
            goal = calm.propose()?;
            calm.deliver()?;
        } else if goal.is_some_and(|goal| calm.has_recovered(goal)) {
            return Ok(());
        }
        // A leader may have been deposed with what it proposed.
        if tick % 40 == 39 {
            goal = None;
        }
    }
    let lives: Vec<String> =
        calm.replicas.iter().map(|replica| format!("{:?}", replica.raft().life())).collect();
    Err(Broken::new(Promise::CalmRecovers, format!("after {TICKS_MAX} ticks: {}", lives.join(", "))))
}

struct Calm {
    replicas: Vec<Replica>,
    on_the_way: VecDeque<Parcel>,
}

impl Calm {
    fn begin(&mut self) -> Result<(), Broken> {
        for place in 0..self.replicas.len() {
            self.happen(place, Step::Poll)?;
            for peer in self.replicas[place].sending().collect::<Vec<_>>() {
                self.happen(place, Step::SnapshotFails(peer))?;
            }
        }
        self.on_the_way.clear();
        Ok(())
    }

    fn happen(&mut self, place: usize, step: Step<'_>) -> Result<(), Broken> {
        let mut happened = Happened::default();
        match self.replicas[place].happen(step, AT_ONCE, &mut happened) {
            Err(Not::Kept(broken)) => return Err(broken),
            Err(Not::Possible) | Ok(()) => {}
        }
        self.on_the_way.extend(happened.sent);
        Ok(())
    }

    fn deliver(&mut self) -> Result<(), Broken> {
        for _ in 0..PARCELS_MAX {
            let Some(parcel) = self.on_the_way.pop_front() else { return Ok(()) };
            let place = place_of(parcel.to());
            if self.replicas.get(place).is_some_and(|replica| replica.raft().id() == parcel.to()) {
                self.happen(place, Step::Deliver(&parcel))?;
            }
        }
        Err(Broken::new(Promise::CalmRecovers, "they never stop talking".to_owned()))
    }

    /// The youngest leader takes a command.
    fn propose(&mut self) -> Result<Option<u64>, Broken> {
        let leaders = self
            .replicas
            .iter()
            .enumerate()
            .filter(|(_, replica)| !replica.is_gone() && replica.raft().has_committed_in_term());
        let Some(place) = leaders.max_by_key(|(_, replica)| replica.raft().term()).map(|(place, _)| place)
        else {
            return Ok(None);
        };
        let before = self.replicas[place].raft().last_index();
        self.happen(place, Step::Propose)?;
        let after = self.replicas[place].raft().last_index();
        Ok((after > before).then_some(after))
    }

    /// Whether one leads and all members of its group have applied everything up to `goal`; and who is no member any more knows it, unless
    /// nobody whom it knows is left to tell it.
    fn has_recovered(&self, goal: u64) -> bool {
        let leaders = self.replicas.iter().filter(|replica| !replica.is_gone() && replica.raft().is_leader());
        let Some(leader) = leaders.max_by_key(|replica| replica.raft().term()) else { return false };
        let members = leader.raft().committed_membership();
        let is_there =
            |id| self.replicas.iter().any(|replica| replica.raft().id() == id && !replica.is_gone());
        members == leader.raft().membership()
            && self.replicas.iter().filter(|replica| !replica.is_damaged()).all(|replica| {
                let raft = replica.raft();
                let mut known = raft.membership().members.keys().filter(|id| **id != raft.id());
                match members.members.contains_key(&raft.id()) {
                    true => !replica.is_gone() && raft.applied() >= goal,
                    false => replica.is_gone() || raft.is_memberless() || !known.any(|id| is_there(*id)),
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::Prelude;
    use crate::world::{Before, World};
    use crate::worlds::named;

    fn after(before: &'static [Before]) -> Result<(), Broken> {
        let world = World { before, ..named("trio").expect("a world").clone() };
        check(Prelude::play(&world)?.replicas)
    }

    #[test]
    fn a_majority_recovers_and_a_minority_does_not() {
        assert_eq!(after(&[]), Ok(()));
        assert_eq!(after(&[Before::Leads(1), Before::Cut(3), Before::Proposes(1)]), Ok(()));
        assert_eq!(after(&[Before::Leads(1), Before::IsCondemned(2)]), Ok(()));
        let lost = after(&[Before::Leads(1), Before::IsCondemned(2), Before::IsCondemned(3)]);
        assert_eq!(lost.map_err(|broken| broken.promise), Err(Promise::CalmRecovers));
    }
}
