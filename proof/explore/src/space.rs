// SPDX-License-Identifier: Apache-2.0

//! The states of a world and the ways between them.
//!
//! A state is six numbers: one for each replica, one for what was sent, one for the ledger and what is left. Replicas meet in many
//! combinations but there are few of each, so what a step does to one of them is computed once and remembered; walking from state to
//! state is looking numbers up.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use mraft_raft::{Body, Message};
use mraft_types::{LogStart, MembershipChange};

use crate::broken::{Broken, Promise};
use crate::ledger::{Chosen, Fact, Ledger, TERMS_MAX};
use crate::prelude::Prelude;
use crate::promises::{self, View};
use crate::replica::{REPLICAS_MAX, Replica, place_of};
use crate::step::{self, Happened, Not, Parcel, Step};
use crate::summary::{Contents, Members, Summary};
use crate::symmetry::{Renaming, SYMMETRIES_MAX};
use crate::table::{Folding, NumberMap, Table};
use crate::twins::{Renamed, Twins};
use crate::world::{Elections, Left, World};

/// A state, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub(crate) replicas: [u32; REPLICAS_MAX],
    pub(crate) sent: u32,
    pub(crate) rest: u32,
}

/// A way from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Something happens to one replica.
    Step {
        /// Which, by place.
        place: u8,
        /// What.
        code: Code,
    },
    /// A replica campaigns, and these helpers answer its pre-votes at once.
    Election {
        /// Which, by place.
        place: u8,
        /// Who answers, as bits.
        helpers: u8,
    },
}

/// A [`Step`] without what it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A parcel, by number.
    Deliver(u32),
    /// As in [`Step`].
    Persist,
    /// As in [`Step`].
    Apply,
    /// As in [`Step`].
    Poll,
    /// As in [`Step`].
    Campaign,
    /// As in [`Step`].
    Doubt,
    /// As in [`Step`].
    Beat,
    /// As in [`Step`].
    Propose,
    /// As in [`Step`].
    Read,
    /// A change, by its place in the world's list.
    Change(u8),
    /// To the replica at this place.
    Transfer(u8),
    /// As in [`Step`].
    Truncate(u8),
    /// To the replica at this place.
    SnapshotFails(u8),
    /// The node of the replica at this place.
    PeerLost(u8),
    /// As in [`Step`].
    LoseDisk,
    /// As in [`Step`].
    Crash(u8, bool),
}

/// How much different there is of everything that states are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Replicas.
    pub replicas: usize,
    /// Parcels.
    pub parcels: usize,
    /// Sets of parcels on their way.
    pub sent: usize,
    /// Ledgers.
    pub ledgers: usize,
    /// Steps of one replica.
    pub outcomes: usize,
    /// Steps that would have left the world's bounds.
    pub beyond: u64,
}

/// What a step does to a replica.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) next: u32,
    pub(crate) sent: Box<[u32]>,
    facts: Box<[Fact]>,
    /// Whether the ledger has to hear of it.
    is_noted: bool,
    pub(crate) broken: Option<Box<Broken>>,
}

/// What the walk needs to know of a parcel.
#[derive(Clone, Copy, Debug)]
struct Address {
    receiver: u8,
    is_pre_vote: bool,
}

/// Stands in the memory of outcomes for a step that cannot happen or changes nothing.
pub(crate) const NOTHING: u32 = u32::MAX;
/// Stands there for a step beyond the world's bounds.
pub(crate) const BEYOND: u32 = u32::MAX - 1;

/// Everything that a search of one world knows.
#[derive(Debug)]
pub struct Space {
    world: World,
    pub(crate) changes: Vec<MembershipChange>,
    founding: LogStart,
    genesis: Members,
    pub(crate) contents: Contents,
    /// The ways to change names that lead to states like those before.
    pub(crate) renamings: Vec<Renaming>,
    pub(crate) twins: Twins,
    replicas: Table<Box<Replica>>,
    summaries: Vec<Summary>,
    pub(crate) parcels: Table<Parcel>,
    addresses: Vec<Address>,
    pub(crate) sent: Table<Box<[u32]>>,
    pub(crate) ledgers: Table<Ledger>,
    lefts: Table<Left>,
    pub(crate) rests: Table<(u32, u32)>,
    pub(crate) outcomes: Vec<Outcome>,
    steps: NumberMap<(u32, Code)>,
    sendings: NumberMap<(u32, u32)>,
    notings: NumberMap<(u32, u32)>,
    prunings: NumberMap<(u32, u8, u8)>,
    removals: NumberMap<(u32, u32)>,
    cuts: HashMap<u32, Rc<[u32]>, BuildHasherDefault<Folding>>,
    pub(crate) renamed: Renamed,
    /// Steps that would have left the world's bounds.
    beyond: u64,
}

impl Space {
    /// The world's first state and the space around it.
    pub fn new(world: &World) -> Result<(Space, State), Broken> {
        assert!(
            usize::from(world.term_max) <= TERMS_MAX,
            "{}: a ledger has no room for its terms",
            world.name
        );
        let genesis = world.genesis();
        let mut space = Space {
            world: world.clone(),
            changes: world.changes(),
            genesis: Members::of(&genesis.membership),
            founding: genesis,
            contents: Contents::default(),
            renamings: vec![Renaming::NONE],
            twins: Twins::default(),
            replicas: Table::new(),
            summaries: Vec::new(),
            parcels: Table::new(),
            addresses: Vec::new(),
            sent: Table::new(),
            ledgers: Table::new(),
            lefts: Table::new(),
            rests: Table::new(),
            outcomes: Vec::new(),
            steps: NumberMap::default(),
            sendings: NumberMap::default(),
            notings: NumberMap::default(),
            prunings: NumberMap::default(),
            removals: NumberMap::default(),
            cuts: HashMap::default(),
            renamed: Default::default(),
            beyond: 0,
        };
        let prelude = Prelude::play(world)?;
        space.renamings = space.renamings_of(&prelude)?;
        let mut ledger = Ledger::default();
        for (place, fact) in &prelude.facts {
            ledger.note(*place, space.numbered(fact), &space.contents)?;
        }
        let mut state = State { replicas: [u32::MAX; REPLICAS_MAX], sent: 0, rest: 0 };
        for (place, replica) in prelude.replicas.into_iter().enumerate() {
            state.replicas[place] = space.number(replica);
            let durable_term = space.summaries[state.replicas[place] as usize].durable_term;
            ledger.forget_vote(place, u64::from(durable_term));
        }
        // In the first state everybody's twin is whoever stands where it would stand.
        let renamings = space.renamings.clone();
        for place in 0..world.replicas() {
            let twins = renamings.iter().map(|renaming| state.replicas[renaming.place(place)]);
            space.twins.set(state.replicas[place], twins);
        }
        state.sent = space.sent.number(Box::default()).0;
        state.rest = space.rest(ledger, world.left);
        space.check(state, u8::MAX)?;
        Ok((space, state))
    }

    fn rest(&mut self, ledger: Ledger, left: Left) -> u32 {
        let ledger = self.ledgers.number(ledger).0;
        let left = self.lefts.number(left).0;
        self.rests.number((ledger, left)).0
    }

    fn number(&mut self, replica: Replica) -> u32 {
        let (number, is_new) = self.replicas.number(Box::new(replica));
        if is_new {
            let summary = Summary::of(self.replicas.get(number), &mut self.contents);
            self.summaries.push(summary);
            self.twins.add(self.renamings.len());
        }
        number
    }

    /// The replicas of a state, in few words.
    pub fn summary(&self, state: State, place: usize) -> &Summary {
        &self.summaries[state.replicas[place] as usize]
    }

    /// The replica at `place`.
    pub fn replica(&self, state: State, place: usize) -> &Replica {
        self.replicas.get(state.replicas[place])
    }

    /// What was promised.
    pub fn ledger(&self, state: State) -> &Ledger {
        self.ledgers.get(self.rests.get(state.rest).0)
    }

    /// What may still happen.
    pub fn left(&self, state: State) -> Left {
        *self.lefts.get(self.rests.get(state.rest).1)
    }

    /// What was sent, and may arrive at any time, any number of times, or never.
    pub fn sent(&self, state: State) -> &[u32] {
        self.sent.get(state.sent)
    }

    /// Whether a parcel is for the replica at `place`.
    pub fn is_for(&self, parcel: u32, place: usize) -> bool {
        usize::from(self.addresses[parcel as usize].receiver) == place
    }

    /// The pre-vote, or the answer to one, that an outcome sends to `place`.
    pub(crate) fn pre_vote_for(&self, outcome: u32, place: usize) -> Option<u32> {
        let sent = self.outcomes[outcome as usize].sent.iter().copied();
        let mut pre_votes = sent.filter(|parcel| self.addresses[*parcel as usize].is_pre_vote);
        pre_votes.find(|parcel| self.is_for(*parcel, place))
    }

    /// The world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Of how much different states are made.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            replicas: self.replicas.len(),
            parcels: self.parcels.len(),
            sent: self.sent.len(),
            ledgers: self.ledgers.len(),
            outcomes: self.outcomes.len(),
            beyond: self.beyond,
        }
    }

    /// Looks whether every promise is kept in a state in which the replicas of `changed` are new.
    pub fn check(&self, state: State, changed: u8) -> Result<(), Broken> {
        let count = self.world.replicas();
        let mut replicas = [Summary::default(); REPLICAS_MAX];
        for (place, summary) in replicas.iter_mut().enumerate().take(count) {
            *summary = *self.summary(state, place);
        }
        let view = View {
            replicas: &replicas[..count],
            ledger: self.ledger(state),
            contents: &self.contents,
            genesis: self.genesis,
        };
        promises::check(view, changed)
    }

    /// Whether the group recovers in calm weather.
    pub fn calm(&self, state: State) -> Result<(), Broken> {
        let replicas = (0..self.world.replicas()).map(|place| self.replica(state, place).clone());
        crate::calm::check(replicas.collect())
    }

    /// The step that a code stands for.
    pub fn step(&self, code: Code) -> Step<'_> {
        let id = |place: u8| self.world.id(usize::from(place));
        match code {
            Code::Deliver(parcel) => Step::Deliver(self.parcels.get(parcel)),
            Code::Persist => Step::Persist,
            Code::Apply => Step::Apply,
            Code::Poll => Step::Poll,
            Code::Campaign => Step::Campaign,
            Code::Doubt => Step::Doubt,
            Code::Beat => Step::Beat,
            Code::Propose => Step::Propose,
            Code::Read => Step::Read,
            Code::Change(at) => Step::Change(&self.changes[usize::from(at)]),
            Code::Transfer(to) => Step::Transfer(id(to)),
            Code::Truncate(keep) => Step::Truncate { keep: u64::from(keep) },
            Code::SnapshotFails(to) => Step::SnapshotFails(id(to)),
            Code::PeerLost(peer) => Step::PeerLost(id(peer).node()),
            Code::LoseDisk => Step::LoseDisk(&self.founding),
            Code::Crash(kept, applied) => Step::Crash { kept: usize::from(kept), applied },
        }
    }

    /// What a step does to the replica at `place`: the number of its outcome, if it has one.
    pub(crate) fn outcome_at(&mut self, state: State, place: usize, code: Code) -> Option<u32> {
        let replica = state.replicas[place];
        let found = match self.steps.get(&(replica, code)) {
            Some(found) => *found,
            None => self.discover(replica, code),
        };
        self.beyond += u64::from(found == BEYOND);
        (found < BEYOND).then_some(found)
    }

    /// Finds out what a step does to a replica, and that all its twins do the same.
    fn discover(&mut self, replica: u32, code: Code) -> u32 {
        let mut found = [NOTHING; SYMMETRIES_MAX];
        for at in 0..self.renamings.len() {
            let (twin, code) = (self.twins.of(replica, at), self.renamed_code(code, at));
            found[at] = match self.steps.get(&(twin, code)) {
                Some(found) => *found,
                None => self.carry_out(twin, code),
            };
            self.steps.insert((twin, code), found[at]);
        }
        if self.renamings.len() > 1
            && let Err(what) = self.link(found)
        {
            let what = format!("replica {replica} and its twins: {what}");
            let broken = Some(Box::new(Broken::new(Promise::NamesDoNotMatter, what)));
            let outcome =
                Outcome { next: replica, sent: [].into(), facts: [].into(), is_noted: false, broken };
            let broken = self.remember(outcome);
            self.steps.insert((replica, code), broken);
            return broken;
        }
        found[0]
    }

    fn carry_out(&mut self, number: u32, code: Code) -> u32 {
        let mut replica = Replica::clone(self.replicas.get(number));
        let mut happened = Happened::default();
        let (step, hosting) = (self.step(code), self.world.hosting);
        let done = catch_unwind(AssertUnwindSafe(|| replica.happen(step, hosting, &mut happened)));
        let broken = match done {
            Ok(Ok(())) => None,
            Ok(Err(Not::Possible)) => return NOTHING,
            Ok(Err(Not::Kept(broken))) => Some(Box::new(broken)),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
                Some(Box::new(Broken::new(Promise::ReplicaIsSound, format!("the core panics: {said}"))))
            }
        };
        if broken.is_some() {
            return self.remember(Outcome {
                next: number,
                sent: [].into(),
                facts: [].into(),
                is_noted: false,
                broken,
            });
        }
        if replica.raft().term() > u64::from(self.world.term_max) {
            return BEYOND;
        }
        let facts: Box<[Fact]> = happened.facts.iter().map(|fact| self.numbered(fact)).collect();
        let is_there = |id| (0..self.world.replicas()).any(|place| self.world.id(place) == id);
        let arrives = |parcel: &Parcel| {
            is_there(parcel.to())
                && !(self.world.loses_snapshots && matches!(parcel, Parcel::Snapshot { .. }))
        };
        let sent: Vec<Parcel> = happened.sent.into_iter().filter(arrives).collect();
        let mut sent: Vec<u32> = sent.into_iter().map(|parcel| self.parcel(parcel)).collect();
        sent.sort_unstable();
        sent.dedup();
        let next = self.number(replica);
        if next == number && sent.is_empty() && facts.is_empty() {
            return NOTHING;
        }
        let durable_term = |number: u32| self.summaries[number as usize].durable_term;
        let is_noted = !facts.is_empty() || durable_term(next) != durable_term(number);
        self.remember(Outcome { next, sent: sent.into(), facts, is_noted, broken: None })
    }

    fn remember(&mut self, outcome: Outcome) -> u32 {
        self.outcomes.push(outcome);
        self.outcomes.len() as u32 - 1
    }

    pub(crate) fn parcel(&mut self, parcel: Parcel) -> u32 {
        let is_pre_vote = match &parcel {
            Parcel::Message(message) => {
                matches!(message.body, Body::PreVote { .. } | Body::PreVoteReply { .. })
            }
            Parcel::Snapshot { .. } | Parcel::Arrived { .. } => false,
        };
        let address = Address { receiver: place_of(parcel.to()) as u8, is_pre_vote };
        let (number, is_new) = self.parcels.number(parcel);
        if is_new {
            self.addresses.push(address);
        }
        number
    }

    fn numbered(&mut self, fact: &step::Fact) -> Fact {
        match fact {
            step::Fact::Leads(term) => Fact::Leads(*term as u8),
            step::Fact::Committed(known_in, entry) => Fact::Committed {
                known_in: *known_in as u8,
                entry: Chosen {
                    index: entry.index as u8,
                    term: entry.term as u8,
                    content: self.contents.number(entry),
                },
            },
            step::Fact::Voted(term, candidate) => {
                Fact::Voted { term: *term as u8, candidate: place_of(*candidate) as u8 }
            }
            step::Fact::ReadBegan(round) => Fact::ReadBegan(*round as u8),
            step::Fact::ReadServed(round, index) => {
                Fact::ReadServed { round: *round as u8, index: *index as u8 }
            }
            step::Fact::ReadsVoid(round) => Fact::ReadsVoid(*round as u8),
            step::Fact::Gone => Fact::Gone,
            step::Fact::Restarted => Fact::Restarted,
        }
    }

    /// The state after an outcome.
    pub(crate) fn after(&mut self, state: State, place: usize, outcome: u32) -> Result<State, Box<Broken>> {
        let Outcome { next, is_noted, ref sent, ref broken, .. } = self.outcomes[outcome as usize];
        if let Some(broken) = broken {
            return Err(broken.clone());
        }
        let mut after = state;
        let before = state.replicas[place];
        after.replicas[place] = next;
        if !sent.is_empty() {
            after.sent = self.with_sent(state.sent, outcome);
        }
        if is_noted {
            let (ledger, left) = *self.rests.get(state.rest);
            let ledger = self.noted(ledger, place, outcome)?;
            after.rest = self.rests.number((ledger, left)).0;
        }
        let durable_term = |number: u32| self.summaries[number as usize].durable_term;
        let (was, is) = (durable_term(before), durable_term(next));
        if was != is {
            after.sent = self.pruned(after.sent, place, is);
        }
        Ok(after)
    }

    /// The same state with so much left.
    pub(crate) fn with_left(&mut self, mut state: State, left: Left) -> State {
        let ledger = self.rests.get(state.rest).0;
        let left = self.lefts.number(left).0;
        state.rest = self.rests.number((ledger, left)).0;
        state
    }

    fn with_sent(&mut self, sent: u32, outcome: u32) -> u32 {
        if let Some(found) = self.sendings.get(&(sent, outcome)) {
            return *found;
        }
        let mut all = self.sent.get(sent).to_vec();
        // Where pre-votes are answered at once, none is on its way.
        let travels = |parcel: &&u32| {
            self.world.elections == Elections::Asked || !self.addresses[**parcel as usize].is_pre_vote
        };
        all.extend(self.outcomes[outcome as usize].sent.iter().filter(travels));
        all.sort_unstable();
        all.dedup();
        let number = self.sent.number(all.into()).0;
        self.sendings.insert((sent, outcome), number);
        number
    }

    /// What may be left of what was sent when no more may be on the way than the world allows.
    pub(crate) fn cut_down(&mut self, sent: u32) -> Rc<[u32]> {
        if let Some(found) = self.cuts.get(&sent) {
            return Rc::clone(found);
        }
        let (all, max) = (self.sent.get(sent).to_vec(), self.world.in_flight_max);
        let mut kept: Vec<Vec<u32>> = vec![Vec::new()];
        for (at, parcel) in all.iter().enumerate() {
            let behind = all.len() - at - 1;
            let with = kept.iter().filter(|some| some.len() < max).map(|some| {
                let mut with = some.clone();
                with.push(*parcel);
                with
            });
            let with: Vec<_> = with.collect();
            kept.retain(|some| some.len() + behind >= max);
            kept.extend(with);
        }
        let numbers: Rc<[u32]> = kept.into_iter().map(|some| self.sent.number(some.into()).0).collect();
        self.cuts.insert(sent, Rc::clone(&numbers));
        numbers
    }

    /// What was sent, without one parcel.
    pub(crate) fn without(&mut self, sent: u32, parcel: u32) -> u32 {
        if let Some(found) = self.removals.get(&(sent, parcel)) {
            return *found;
        }
        let mut kept = self.sent.get(sent).to_vec();
        kept.retain(|other| *other != parcel);
        let number = self.sent.number(kept.into()).0;
        self.removals.insert((sent, parcel), number);
        number
    }

    fn noted(&mut self, ledger: u32, place: usize, outcome: u32) -> Result<u32, Box<Broken>> {
        if let Some(found) = self.notings.get(&(ledger, outcome)) {
            return Ok(*found);
        }
        let mut next = self.ledgers.get(ledger).clone();
        let Outcome { next: replica, ref facts, .. } = self.outcomes[outcome as usize];
        facts.iter().try_for_each(|fact| next.note(place, *fact, &self.contents))?;
        next.forget_vote(place, u64::from(self.summaries[replica as usize].durable_term));
        let number = self.ledgers.number(next).0;
        self.notings.insert((ledger, outcome), number);
        Ok(number)
    }

    /// Without the answers to `place` that came for a term that its disk has left: nothing will ever follow from them.
    fn pruned(&mut self, sent: u32, place: usize, durable_term: u8) -> u32 {
        if let Some(found) = self.prunings.get(&(sent, place as u8, durable_term)) {
            return *found;
        }
        let mut kept = self.sent.get(sent).to_vec();
        kept.retain(|parcel| {
            let is_stale = || is_stale_answer(self.parcels.get(*parcel), u64::from(durable_term));
            !self.is_for(*parcel, place) || !is_stale()
        });
        let number = self.sent.number(kept.into()).0;
        self.prunings.insert((sent, place as u8, durable_term), number);
        number
    }
}

/// Whether a parcel is an answer, or an order, of a term before `term`.
fn is_stale_answer(parcel: &Parcel, term: u64) -> bool {
    let Parcel::Message(Message { term: of, body, .. }) = parcel else { return false };
    match body {
        Body::VoteReply { .. }
        | Body::AppendReply(_)
        | Body::HeartbeatReply { .. }
        | Body::PreVoteReply { granted: false }
        | Body::QuiesceReply { .. }
        | Body::TimeoutNow => *of < term,
        Body::PreVoteReply { granted: true } => *of <= term,
        _ => false,
    }
}
