// SPDX-License-Identifier: Apache-2.0

//! What happened before a world begins: good weather, in which everything is durable at once and arrives in order.

use std::collections::VecDeque;

use crate::broken::Broken;
use crate::replica::{Fact, Happened, Hosting, Not, Parcel, Replica, Step, place_of};
use crate::world::{Before, World};

const AT_ONCE: Hosting = Hosting { disk_at_once: true, apply_at_once: true, poll_at_once: true };

/// Plays it, and tells of every fact.
pub fn play(
    world: &World,
    replicas: &mut [Replica],
    mut tell: impl FnMut(usize, &[Fact]) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let changes = world.changes();
    let mut cut = 0u8;
    for before in world.before {
        let (node, step) = match *before {
            Before::Cut(node) => {
                cut |= 1 << (node - 1);
                continue;
            }
            Before::IsWiped(node) | Before::IsCondemned(node) => {
                let replica = &mut replicas[node as usize - 1];
                *replica = replica.damaged(&world.genesis(), matches!(before, Before::IsCondemned(_)))?;
                continue;
            }
            Before::Leads(node) => (node, Step::Campaign),
            Before::Proposes(node) => (node, Step::Propose),
            Before::Beats(node) => (node, Step::Beat),
            Before::Truncates(node, keep) => (node, Step::Truncate { keep }),
            Before::Changes(node, change) => (node, Step::Change(&changes[change])),
        };
        let mut on_the_way: VecDeque<Parcel> = VecDeque::new();
        let mut happen = |place: usize, step: Step<'_>, on_the_way: &mut VecDeque<Parcel>| {
            let mut happened = Happened::default();
            match replicas[place].happen(step, AT_ONCE, &mut happened) {
                Err(Not::Kept(broken)) => return Err(broken),
                Err(Not::Possible) | Ok(()) => {}
            }
            tell(place, &happened.facts)?;
            on_the_way.extend(happened.sent);
            Ok(())
        };
        happen(node as usize - 1, step, &mut on_the_way)?;
        while let Some(parcel) = on_the_way.pop_front() {
            let (from, to) = (place_of(parcel.from()), place_of(parcel.to()));
            if cut & (1 << from | 1 << to) == 0 {
                happen(to, Step::Deliver(&parcel), &mut on_the_way)?;
            }
        }
    }
    Ok(())
}
