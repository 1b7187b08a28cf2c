// SPDX-License-Identifier: Apache-2.0

//! The clients' requests on their way, and their answers. Every request is answered within its deadline.

use mraft::core::Input;
use mraft::{Answer, NotApplied, Proposal, ReadKind, Ticket};
use mraft_engine::event::Event;
use mraft_engine::packing::NO_SLOT;
use mraft_types::Payload;
use mraft_types::codec::Writer;

use super::{Action, TICK_US, World, running};
use crate::check::{Broken, Learned, promise};
use crate::clients::{Asked, Wish, draw, next_node};
use crate::machine::{decode_answer, decode_stored};
use crate::planted::Planted;

/// So many ticks after its deadline at the latest a request is answered: what is committed by then still has to be applied.
const ANSWER_SLACK_TICKS: u64 = 30;
/// A client asks so many nodes before it takes a refusal for an answer.
const ATTEMPTS_MAX: u32 = 5;

/// Longest pause of a client between two operations in the calm phase.
const CALM_THINK_US_MAX: u64 = 150_000;

impl World {
    pub(super) fn ask(&mut self, client: usize) -> Result<(), Broken> {
        if self.is_quiet() {
            return Ok(());
        }
        let (group, wish) =
            draw(&self.mix, &mut self.random, &mut self.values, |group, key| self.checks.floor(group, key));
        let key = match wish {
            Wish::Write(op) => {
                self.checks.asks(&op);
                op.key()
            }
            Wish::Read(key) => key,
        };
        let node = match self.clients[client].leader {
            Some((known, node)) if known == group => node,
            _ => self.ids[self.random.index(self.ids.len())],
        };
        let floor = self.checks.floor(group, key);
        self.clients[client].series += 1;
        let asked = Asked { group, wish, floor, in_calm: self.calm, node, attempts: 0, boot: 0 };
        self.clients[client].asked = Some(asked);
        self.send_wish(client)
    }

    /// Hands the client's operation to its node, if that runs.
    fn send_wish(&mut self, client: usize) -> Result<(), Broken> {
        let Some(mut asked) = self.clients[client].asked else { return Ok(()) };
        let series = self.clients[client].series;
        let ticket = Ticket((client as u64) << 32 | series);
        let Some(at) = self.ids.iter().position(|id| *id == asked.node) else { return Ok(()) };
        asked.boot = self.nodes[at].boot;
        self.clients[client].asked = Some(asked);
        let wait = (self.mix.patience_ticks + ANSWER_SLACK_TICKS) * TICK_US;
        self.after(wait, Action::Overdue { client, series, attempt: asked.attempts });
        let Some(process) = self.nodes[at].process.as_mut() else {
            let answer = Answer::NotApplied(NotApplied::Stopping);
            self.after(1_000, Action::Answer { client, series, answer });
            return Ok(());
        };
        let deadline_tick = process.tick + self.mix.patience_ticks;
        let event = match asked.wish {
            Wish::Write(op) => {
                let body = Payload::from(op.encode());
                Event::Propose(vec![Proposal { ticket, slot: NO_SLOT, deadline_tick, body }])
            }
            Wish::Read(_) => {
                let leads = process.core.engine().raft(asked.group).is_some_and(|raft| raft.is_leader());
                if self.planted == Some(Planted::ReadWithoutRound) && leads {
                    let index = 0;
                    self.after(1, Action::Answer { client, series, answer: Answer::ReadReady { index } });
                    return Ok(());
                }
                Event::Read { kind: ReadKind::Linearizable, tickets: vec![ticket], deadline_tick }
            }
        };
        process.core.handle(Input::Group(asked.group, event));
        self.pump(at)
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let (client, series) = ((ticket.0 >> 32) as usize, ticket.0 & u64::from(u32::MAX));
        if client >= self.clients.len() {
            return;
        }
        // A read is looked up on the node at once; a write's answer needs a moment to reach the client.
        let wait = if matches!(answer, Answer::ReadReady { .. }) { 0 } else { self.random.between(10, 500) };
        self.after(wait, Action::Answer { client, series, answer });
    }

    pub(super) fn answered(&mut self, client: usize, series: u64, answer: Answer) -> Result<(), Broken> {
        if self.clients[client].series != series {
            return Ok(());
        }
        let Some(asked) = self.clients[client].asked else { return Ok(()) };
        let group = asked.group;
        let mut retry = None;
        match (&asked.wish, &answer) {
            (Wish::Write(op), Answer::Applied { result, .. }) => {
                self.trace_bytes(result);
                let Some((changed, revision)) = decode_answer(result) else {
                    return Err(Broken {
                        promise: promise::HONEST_OUTCOMES,
                        how: "an answer that nobody can read".to_owned(),
                    });
                };
                let learned = if changed { Learned::Changed(revision) } else { Learned::Unchanged(revision) };
                self.checks.learned(group, op.key(), Some(op), asked.floor, learned)?;
                if asked.in_calm {
                    self.written_in_calm.insert(group);
                }
                self.clients[client].leader = Some((group, asked.node));
                self.report.operations += 1;
            }
            (Wish::Read(key), Answer::ReadReady { .. }) => {
                let Some(at) = self.ids.iter().position(|id| *id == asked.node) else { return Ok(()) };
                if let Some(process) = running(&mut self.nodes, at, asked.boot) {
                    let mut query = Vec::new();
                    query.put_u64(*key);
                    let mut found = Vec::new();
                    let looked = process.lookups.get(&group).map(|lookup| lookup.query(&query, &mut found));
                    if let (Some(Ok(())), Some(stored)) = (looked, decode_stored(&found)) {
                        self.trace(stored.revision);
                        self.checks.learned(group, *key, None, asked.floor, Learned::Saw(stored))?;
                        self.report.operations += 1;
                    }
                }
            }
            (_, Answer::NotApplied(NotApplied::NotLeader(hint))) => retry = Some(*hint),
            (_, Answer::NotApplied(NotApplied::Transferring(to))) => retry = Some(Some(*to)),
            (_, Answer::NotApplied(_)) => retry = Some(None),
            _ => self.report.unknown += 1,
        }
        if let Some(hint) = retry {
            self.clients[client].leader = None;
            if asked.attempts < ATTEMPTS_MAX {
                let node = next_node(hint, &self.ids, &mut self.random);
                self.clients[client].asked = Some(Asked { node, attempts: asked.attempts + 1, ..asked });
                return self.send_wish(client);
            }
            self.report.refused += 1;
            if let Wish::Write(op) = &asked.wish {
                self.checks.refused(op)?;
            }
        }
        self.clients[client].asked = None;
        // In the calm each group must have taken a write before its end.
        let longest =
            if self.calm { self.mix.think_us_max.min(CALM_THINK_US_MAX) } else { self.mix.think_us_max };
        let wait = self.random.between(100, longest);
        self.after(wait, Action::Client(client));
        Ok(())
    }

    /// The time is over by which an attempt must have been answered.
    pub(super) fn overdue(&mut self, client: usize, series: u64, attempt: u32) -> Result<(), Broken> {
        let waits = self.clients[client].series == series
            && self.clients[client].asked.is_some_and(|asked| asked.attempts == attempt);
        let Some(asked) = self.clients[client].asked.filter(|_| waits) else { return Ok(()) };
        Err(Broken {
            promise: promise::ANSWERED,
            how: format!(
                "{:?} of group {} at node {} had no answer {ANSWER_SLACK_TICKS} ticks after its deadline",
                asked.wish, asked.group, asked.node
            ),
        })
    }
}
