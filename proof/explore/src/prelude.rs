// SPDX-License-Identifier: Apache-2.0

//! What happened before a world begins: good weather, in which everything is durable at once and arrives in order.

use std::collections::VecDeque;

use mraft_types::MembershipChange;

use crate::broken::Broken;
use crate::disk::Disk;
use crate::replica::{Replica, place_of};
use crate::step::{Fact, Happened, Hosting, Not, Parcel, Step};
use crate::symmetry::Renaming;
use crate::world::{Before, World};

const AT_ONCE: Hosting = Hosting { disk_at_once: true, apply_at_once: true, poll_at_once: true };

/// What happened, one thing after the other.
pub struct Prelude {
    /// Where everybody stands afterwards.
    pub replicas: Vec<Replica>,
    /// What others may rely on.
    pub facts: Vec<(usize, Fact)>,
    played: Vec<(usize, Played)>,
}

enum Played {
    Campaign,
    Propose,
    Beat,
    Truncate(u64),
    Change(MembershipChange),
    Deliver(Parcel),
    Damage { is_known: bool },
}

impl Prelude {
    /// Plays it.
    pub fn play(world: &World) -> Result<Prelude, Broken> {
        let mut prelude = Prelude { replicas: founded(world)?, facts: Vec::new(), played: Vec::new() };
        let changes = world.changes();
        let mut cut = 0u8;
        for before in world.before {
            let (node, played) = match *before {
                Before::Cut(node) => {
                    cut |= 1 << (node - 1);
                    continue;
                }
                Before::IsWiped(node) => (node, Played::Damage { is_known: false }),
                Before::IsCondemned(node) => (node, Played::Damage { is_known: true }),
                Before::Leads(node) => (node, Played::Campaign),
                Before::Proposes(node) => (node, Played::Propose),
                Before::Beats(node) => (node, Played::Beat),
                Before::Truncates(node, keep) => (node, Played::Truncate(keep)),
                Before::Changes(node, change) => (node, Played::Change(changes[change].clone())),
            };
            let mut on_the_way = VecDeque::from([(node as usize - 1, played)]);
            while let Some((place, played)) = on_the_way.pop_front() {
                let happened = played.happen(world, &mut prelude.replicas[place])?;
                prelude.facts.extend(happened.facts.into_iter().map(|fact| (place, fact)));
                prelude.played.push((place, played));
                let arrives =
                    |parcel: &Parcel| cut & (1 << place_of(parcel.from()) | 1 << place_of(parcel.to())) == 0;
                let sent = happened.sent.into_iter().filter(arrives);
                on_the_way.extend(sent.map(|parcel| (place_of(parcel.to()), Played::Deliver(parcel))));
            }
        }
        Ok(prelude)
    }

    /// Whether everybody would stand where somebody stands now if the same had happened under these names.
    pub fn is_the_same(&self, world: &World, renaming: Renaming) -> Result<bool, Broken> {
        let mut replicas = founded(world)?;
        for (place, played) in &self.played {
            played.renamed(renaming).happen(world, &mut replicas[renaming.place(*place)])?;
        }
        Ok(replicas == self.replicas)
    }
}

fn founded(world: &World) -> Result<Vec<Replica>, Broken> {
    let genesis = world.genesis();
    let start = |place: usize| {
        let disk = if place < world.roles.len() { Disk::founded(&genesis) } else { Disk::empty() };
        Replica::start(world.config(place), disk, false)
    };
    (0..world.replicas()).map(start).collect()
}

impl Played {
    fn happen(&self, world: &World, replica: &mut Replica) -> Result<Happened, Broken> {
        let step = match self {
            Played::Damage { is_known } => {
                *replica = replica.damaged(&world.genesis(), *is_known)?;
                return Ok(Happened::default());
            }
            Played::Campaign => Step::Campaign,
            Played::Propose => Step::Propose,
            Played::Beat => Step::Beat,
            Played::Truncate(keep) => Step::Truncate { keep: *keep },
            Played::Change(change) => Step::Change(change),
            Played::Deliver(parcel) => Step::Deliver(parcel),
        };
        let mut happened = Happened::default();
        match replica.happen(step, AT_ONCE, &mut happened) {
            Err(Not::Kept(broken)) => Err(broken),
            Err(Not::Possible) | Ok(()) => Ok(happened),
        }
    }

    fn renamed(&self, renaming: Renaming) -> Played {
        match self {
            Played::Campaign => Played::Campaign,
            Played::Propose => Played::Propose,
            Played::Beat => Played::Beat,
            Played::Truncate(keep) => Played::Truncate(*keep),
            Played::Change(change) => Played::Change(renaming.change(change)),
            Played::Deliver(parcel) => Played::Deliver(renaming.parcel(parcel)),
            Played::Damage { is_known } => Played::Damage { is_known: *is_known },
        }
    }
}
