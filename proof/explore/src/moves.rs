// SPDX-License-Identifier: Apache-2.0

//! What can happen in a state.

use crate::broken::Broken;
use crate::space::{Code, Move, Space, State};
use crate::summary::Summary;
use crate::world::{Elections, Left};

/// A successor, or what broke on the way to it.
pub type Next = (Move, Result<State, Box<Broken>>);

impl Space {
    /// Everything that can happen in a state and leads to another one.
    pub fn next(&mut self, state: State, out: &mut Vec<Next>) {
        let left = self.left(state);
        for place in 0..self.world().replicas() {
            let summary = *self.summary(state, place);
            if !summary.is_gone {
                self.next_of(state, place, &summary, left, out);
            }
        }
    }

    fn next_of(&mut self, state: State, place: usize, summary: &Summary, left: Left, out: &mut Vec<Next>) {
        let world = self.world();
        let (hosting, elections, term_max) = (world.hosting, world.elections, world.term_max);
        let (changes, replicas) = (world.changes.len() as u8, world.replicas() as u8);
        for at in 0..self.sent(state).len() {
            let parcel = self.sent(state)[at];
            if self.is_for(parcel, place) {
                self.deliver(state, place, parcel, left, out);
            }
        }
        if summary.jobs > 0 {
            self.try_step(state, place, Code::Persist, None, out);
        }
        if !hosting.apply_at_once {
            self.try_step(state, place, Code::Apply, None, out);
        }
        if !hosting.poll_at_once {
            self.try_step(state, place, Code::Poll, None, out);
        }
        if !summary.leads && summary.may_time_out && summary.term < term_max {
            match elections {
                Elections::Asked => self.try_step(state, place, Code::Campaign, None, out),
                Elections::AtOnce => self.try_elections(state, place, out),
            }
        }
        if elections == Elections::Asked && summary.leader != 0 && !summary.leads {
            self.try_step(state, place, Code::Doubt, None, out);
        }
        let peers = (0..replicas).filter(|peer| usize::from(*peer) != place);
        if summary.leads {
            type Spend = fn(&mut Left) -> &mut u8;
            let mut ask = |code: Code, spend: Spend| self.try_step(state, place, code, Some(spend), out);
            ask(Code::Propose, |left| &mut left.proposals);
            ask(Code::Beat, |left| &mut left.beats);
            ask(Code::Read, |left| &mut left.reads);
            for change in 0..changes {
                ask(Code::Change(change), |left| &mut left.changes);
            }
            for peer in peers.clone() {
                ask(Code::Transfer(peer), |left| &mut left.transfers);
                ask(Code::PeerLost(peer), |left| &mut left.losses);
            }
        }
        if left.failures > 0 {
            for peer in peers.filter(|peer| summary.sending & 1 << peer != 0) {
                self.try_step(state, place, Code::SnapshotFails(peer), Some(|left| &mut left.failures), out);
            }
        }
        if left.truncations > 0 {
            self.try_step(state, place, Code::Truncate(0), Some(|left| &mut left.truncations), out);
        }
        if left.disks > 0 {
            self.try_step(state, place, Code::LoseDisk, Some(|left| &mut left.disks), out);
        }
        if left.crashes > 0 {
            for kept in 0..=summary.jobs {
                for applied in [false, true] {
                    let code = Code::Crash(kept, applied);
                    self.try_step(state, place, code, Some(|left| &mut left.crashes), out);
                }
            }
        }
    }

    /// A parcel arrives, and comes once more or not.
    fn deliver(&mut self, state: State, place: usize, parcel: u32, left: Left, out: &mut Vec<Next>) {
        let code = Code::Deliver(parcel);
        let Some(outcome) = self.outcome_at(state, place, code) else { return };
        let mut gone = state;
        gone.sent = self.without(state.sent, parcel);
        let way = Move::Step { place: place as u8, code };
        let after = self.after(gone, place, outcome);
        self.push(state, way, after, out);
        if let Some(duplicates) = left.duplicates.checked_sub(1) {
            let after = self.after(state, place, outcome);
            let after = after.map(|after| self.with_left(after, Left { duplicates, ..left }));
            self.push(state, way, after, out);
        }
    }

    /// A way to another state, or to several: of what is too much on the way, anything may be lost.
    fn push(&mut self, before: State, way: Move, after: Result<State, Box<Broken>>, out: &mut Vec<Next>) {
        match after {
            Err(broken) => out.push((way, Err(broken))),
            Ok(after) if self.sent(after).len() <= self.world().in_flight_max => {
                if after != before {
                    out.push((way, Ok(after)));
                }
            }
            Ok(after) => {
                let kept = self.cut_down(after.sent);
                for sent in kept.iter() {
                    let mut after = after;
                    after.sent = *sent;
                    if after != before {
                        out.push((way, Ok(after)));
                    }
                }
            }
        }
    }

    fn try_step(
        &mut self,
        state: State,
        place: usize,
        code: Code,
        spend: Option<fn(&mut Left) -> &mut u8>,
        out: &mut Vec<Next>,
    ) {
        let mut left = self.left(state);
        if let Some(spend) = spend {
            match spend(&mut left).checked_sub(1) {
                Some(less) => *spend(&mut left) = less,
                None => return,
            }
        }
        let Some(outcome) = self.outcome_at(state, place, code) else { return };
        let after = self.after(state, place, outcome);
        let after = after.map(|after| if spend.is_some() { self.with_left(after, left) } else { after });
        self.push(state, Move::Step { place: place as u8, code }, after, out);
    }

    /// Every bare majority that may answer at once.
    fn try_elections(&mut self, state: State, place: usize, out: &mut Vec<Next>) {
        let counting = self.summary(state, place).log.in_force.counting;
        let others = counting & !(1 << place);
        let needed = counting.count_ones() / 2 + 1 - u32::from(counting & 1 << place != 0);
        for helpers in (0..=others).filter(|some| some & !others == 0 && some.count_ones() == needed) {
            let after = match self.election(state, place, helpers, &mut Vec::new()) {
                Ok(Some(after)) => Ok(after),
                Ok(None) => continue,
                Err(broken) => Err(broken),
            };
            self.push(state, Move::Election { place: place as u8, helpers }, after, out);
        }
    }

    /// The state after an election that these helpers make possible, if they do. Adds the steps that it is made of.
    pub(crate) fn election(
        &mut self,
        state: State,
        place: usize,
        helpers: u8,
        steps: &mut Vec<(usize, Code)>,
    ) -> Result<Option<State>, Box<Broken>> {
        let mut now = state;
        let Some(campaign) = self.outcome_at(now, place, Code::Campaign) else { return Ok(None) };
        steps.push((place, Code::Campaign));
        now = self.after(now, place, campaign)?;
        for helper in (0..self.world().replicas()).filter(|helper| helpers & 1 << helper != 0) {
            let Some(question) = self.pre_vote_for(campaign, helper) else { return Ok(None) };
            let leader = usize::from(self.summary(now, helper).leader);
            if leader != 0
                && leader != place + 1
                && let Some(doubt) = self.outcome_at(now, helper, Code::Doubt)
            {
                steps.push((helper, Code::Doubt));
                now = self.after(now, helper, doubt)?;
            }
            let Some(grant) = self.outcome_at(now, helper, Code::Deliver(question)) else { return Ok(None) };
            steps.push((helper, Code::Deliver(question)));
            now = self.after(now, helper, grant)?;
            let Some(answer) = self.pre_vote_for(grant, place) else { return Ok(None) };
            let Some(counted) = self.outcome_at(now, place, Code::Deliver(answer)) else { return Ok(None) };
            steps.push((place, Code::Deliver(answer)));
            now = self.after(now, place, counted)?;
        }
        let has_begun = self.summary(now, place).term > self.summary(state, place).term;
        Ok(has_begun.then_some(now))
    }
}
