// SPDX-License-Identifier: Apache-2.0

//! Who is whose twin (see `symmetry`), and which of a state's twins stands for all of them.

use crate::broken::Broken;
use crate::prelude::Prelude;
use crate::space::{BEYOND, Code, Space, State};
use crate::symmetry::{Renaming, SYMMETRIES_MAX};
use crate::table::NumberMap;

/// Stands for a twin that is not known yet.
const UNKNOWN: u32 = u32::MAX;

/// The twins of every replica, in the order of the renamings.
#[derive(Debug, Default)]
pub(crate) struct Twins {
    twins: Vec<u32>,
    stride: usize,
}

/// Numbers under other names; the second number is that of the renaming.
#[derive(Debug, Default)]
pub(crate) struct Renamed {
    parcels: NumberMap<(u32, u8)>,
    sent: NumberMap<(u32, u8)>,
    rests: NumberMap<(u32, u8)>,
}

impl Twins {
    /// One more replica.
    pub(crate) fn add(&mut self, stride: usize) {
        self.stride = stride;
        self.twins.extend(std::iter::repeat_n(UNKNOWN, stride));
    }

    /// The twin under the renaming numbered `at`.
    pub(crate) fn of(&self, replica: u32, at: usize) -> u32 {
        // Under its own name everything is its own twin.
        if at == 0 { replica } else { self.twins[replica as usize * self.stride + at] }
    }

    /// Whether these are its twins; they are if none were known.
    pub(crate) fn set(&mut self, replica: u32, twins: impl Iterator<Item = u32>) -> bool {
        let from = replica as usize * self.stride;
        let known = &mut self.twins[from..from + self.stride];
        twins.zip(known).all(|(twin, known)| {
            let is_one = *known == UNKNOWN || *known == twin;
            *known = twin;
            is_one
        })
    }
}

impl Space {
    /// The ways to change names under which the world is the same. Together they are closed: one after the other is one of them.
    pub(crate) fn renamings_of(&self, prelude: &Prelude) -> Result<Vec<Renaming>, Broken> {
        let world = self.world();
        if !world.renames {
            return Ok(vec![Renaming::NONE]);
        }
        let mut renamings = Vec::new();
        for renaming in Renaming::all(world.replicas()) {
            let role = |place: usize| world.roles.get(place);
            let keeps_roles = (0..world.replicas()).all(|place| role(place) == role(renaming.place(place)));
            let keeps_changes =
                self.changes.iter().all(|change| self.changes.contains(&renaming.change(change)));
            if keeps_roles && keeps_changes && prelude.is_the_same(world, renaming)? {
                renamings.push(renaming);
            }
        }
        if renamings.len() > SYMMETRIES_MAX {
            renamings.retain(|renaming| renaming.place(0) == 0);
        }
        Ok(renamings)
    }

    /// Twins do the same: what follows from twin steps are twins, and they say the same under other names.
    pub(crate) fn link(&mut self, found: [u32; SYMMETRIES_MAX]) -> Result<(), &'static str> {
        let found = &found[..self.renamings.len()];
        if found[0] >= BEYOND {
            return if found.iter().all(|other| *other == found[0]) {
                Ok(())
            } else {
                Err("one does nothing")
            };
        }
        if found.iter().any(|other| *other >= BEYOND) {
            return Err("one does nothing");
        }
        let outcome = |space: &Space, at: usize| space.outcomes[found[at] as usize].clone();
        let first = outcome(self, 0);
        if first.broken.is_some() {
            return Ok(());
        }
        let nexts: Vec<u32> = (0..found.len()).map(|at| outcome(self, at).next).collect();
        for at in 0..found.len() {
            let mut sent: Vec<u32> =
                first.sent.iter().map(|parcel| self.renamed_parcel(*parcel, at)).collect();
            sent.sort_unstable();
            if *sent != *outcome(self, at).sent {
                return Err("they say different things");
            }
            // The twin under one renaming of the twin under another is the twin under both.
            let twins: Vec<u32> = (0..found.len()).map(|then| nexts[self.composed(then, at)]).collect();
            if !self.twins.set(nexts[at], twins.into_iter()) {
                return Err("one has two twins");
            }
        }
        Ok(())
    }

    /// The number of the renaming that is the one numbered `first` and then that numbered `then`.
    fn composed(&self, then: usize, first: usize) -> usize {
        let both = self.renamings[then].after(self.renamings[first]);
        self.renamings.iter().position(|renaming| *renaming == both).unwrap_or(0)
    }

    pub(crate) fn renamed_code(&mut self, code: Code, at: usize) -> Code {
        let renaming = self.renamings[at];
        let place = |place: u8| renaming.place(usize::from(place)) as u8;
        match code {
            Code::Deliver(parcel) => Code::Deliver(self.renamed_parcel(parcel, at)),
            Code::Change(change) => {
                let renamed = renaming.change(&self.changes[usize::from(change)]);
                let number = self.changes.iter().position(|other| *other == renamed);
                Code::Change(number.map_or(change, |number| number as u8))
            }
            Code::Transfer(to) => Code::Transfer(place(to)),
            Code::SnapshotFails(to) => Code::SnapshotFails(place(to)),
            Code::PeerLost(peer) => Code::PeerLost(place(peer)),
            code => code,
        }
    }

    fn renamed_parcel(&mut self, parcel: u32, at: usize) -> u32 {
        if at == 0 {
            return parcel;
        }
        if let Some(found) = self.renamed.parcels.get(&(parcel, at as u8)) {
            return *found;
        }
        let renamed = self.renamings[at].parcel(self.parcels.get(parcel));
        let number = self.parcel(renamed);
        self.renamed.parcels.insert((parcel, at as u8), number);
        number
    }

    fn renamed_sent(&mut self, sent: u32, at: usize) -> u32 {
        if let Some(found) = self.renamed.sent.get(&(sent, at as u8)) {
            return *found;
        }
        let parcels = self.sent.get(sent).to_vec();
        let mut renamed: Vec<u32> =
            parcels.into_iter().map(|parcel| self.renamed_parcel(parcel, at)).collect();
        renamed.sort_unstable();
        let number = self.sent.number(renamed.into()).0;
        self.renamed.sent.insert((sent, at as u8), number);
        number
    }

    fn renamed_rest(&mut self, rest: u32, at: usize) -> u32 {
        if let Some(found) = self.renamed.rests.get(&(rest, at as u8)) {
            return *found;
        }
        let (ledger, left) = *self.rests.get(rest);
        let renamed = self.ledgers.get(ledger).renamed(self.renamings[at], &mut self.contents);
        let number = self.ledgers.number(renamed).0;
        let number = self.rests.number((number, left)).0;
        self.renamed.rests.insert((rest, at as u8), number);
        number
    }

    fn twin(&mut self, state: State, at: usize) -> State {
        let mut twin = State { replicas: self.twin_replicas(state, at), sent: 0, rest: 0 };
        twin.sent = self.renamed_sent(state.sent, at);
        twin.rest = self.renamed_rest(state.rest, at);
        twin
    }

    fn twin_replicas(&self, state: State, at: usize) -> [u32; crate::replica::REPLICAS_MAX] {
        let mut replicas = state.replicas;
        for place in 0..self.world().replicas() {
            replicas[self.renamings[at].place(place)] = self.twins.of(state.replicas[place], at);
        }
        replicas
    }

    /// The state that stands for this one and all its twins.
    pub(crate) fn representative(&mut self, state: State) -> State {
        let mut least = state;
        for at in 1..self.renamings.len() {
            if self.twin_replicas(state, at) <= least.replicas {
                least = least.min(self.twin(state, at));
            }
        }
        least
    }

    /// How many states this one stands for.
    pub(crate) fn stands_for(&mut self, state: State) -> u64 {
        let same = (0..self.renamings.len()).filter(|at| *at == 0 || self.twin(state, *at) == state).count();
        (self.renamings.len() / same) as u64
    }
}
