// SPDX-License-Identifier: Apache-2.0

//! The clients' requests on their way, and their answers. Every request is answered within its deadline.

use mraft::core::Input;
use mraft::{Answer, NotApplied, Proposal, ReadKind, Ticket};
use mraft_engine::event::Event;
use mraft_engine::packing::NO_SLOT;
use mraft_kv::query::QueryAnswer;
use mraft_raft::ChangeError;
use mraft_types::{GroupId, Payload, ReplicaId};

use super::nonsense::{NONSENSE_TICKET, REPEATED_TICKET};
use super::{Action, World, running};
use crate::check::linearizable::Question;
use crate::check::{Broken, promise};
use crate::clients::{Asked, Wish, draw, next_node, put, query};
use crate::mix::TICK_US;

/// So many ticks after its deadline at the latest a request is answered: what is committed by then still has to be applied.
const ANSWER_SLACK_TICKS: u64 = 30;
/// A client asks so many nodes before it takes a refusal for an answer.
const ATTEMPTS_MAX: u32 = 5;
/// Longest pause of a client before it asks another node when nobody knows who leads.
const RETRY_US_MAX: u64 = 40_000;
/// Longest pause of a client between two operations in the calm phase.
const CALM_THINK_US_MAX: u64 = 50_000;

impl World {
    pub(super) fn ask(&mut self, client: usize) -> Result<(), Broken> {
        if self.are_clients_done() || self.has_gone(client) {
            return Ok(());
        }
        self.series += 1;
        let mut group = GroupId(self.random.load.draw() % self.mix.groups);
        let number = self.random.load.index(self.mix.groups as usize);
        let owed = self.owed.pick(number).filter(|_| self.calm);
        group = owed.unwrap_or(group);
        let model = self.checks.models.entry(group).or_default();
        let wish = match owed {
            Some(_) => put(&self.mix, &mut self.random.load, self.series, group),
            None => draw(&self.mix, &mut self.random.load, self.series, group, model),
        };
        let anywhere = self.ids[self.random.load.index(self.ids.len())];
        let node = match self.clients[client].leader {
            Some((known, node)) if known == group && !matches!(wish, Wish::StaleRead(_)) => node,
            _ => anywhere,
        };
        let floor = self.checks.order.floor(group);
        self.clients[client].series += 1;
        let asked = Asked {
            group,
            wish,
            floor,
            asked_us: self.now_us,
            node,
            index: None,
            attempts: 0,
            boot: 0,
            deadline_tick: 0,
        };
        self.clients[client].asked = Some(asked);
        self.send_wish(client)
    }

    /// A client asks elsewhere.
    pub(super) fn retry(&mut self, client: usize, series: u64) -> Result<(), Broken> {
        if self.clients[client].series == series { self.send_wish(client) } else { Ok(()) }
    }

    /// Hands the client's operation to its node, if that runs.
    fn send_wish(&mut self, client: usize) -> Result<(), Broken> {
        let series = self.clients[client].series;
        let ticket = Ticket((client as u64) << 32 | series);
        let Some(asked) = self.clients[client].asked.as_mut() else { return Ok(()) };
        let Some(at) = self.ids.iter().position(|id| *id == asked.node) else { return Ok(()) };
        if self.nodes[at].frozen_until_us > self.now_us {
            // It is heard when the process goes on.
            let wait = self.nodes[at].frozen_until_us - self.now_us;
            self.after(wait, Action::Retry { client, series });
            return Ok(());
        }
        asked.boot = self.nodes[at].boot;
        let (group, attempt) = (asked.group, asked.attempts);
        let wait = (self.mix.patience_ticks + ANSWER_SLACK_TICKS) * TICK_US;
        let Some(process) = self.nodes[at].process.as_mut() else {
            self.after(wait, Action::Overdue { client, series, attempt });
            let answer = Answer::NotApplied(NotApplied::Stopping);
            self.after(1_000, Action::Answer { client, series, answer });
            return Ok(());
        };
        let deadline_tick = process.tick + self.mix.patience_ticks;
        asked.deadline_tick = deadline_tick;
        let read = |kind| Event::Read { kind, tickets: vec![ticket], deadline_tick };
        let event = match (&asked.wish, asked.index) {
            (Wish::Write(body), _) => {
                let body = Payload::copy_from(body);
                Event::Propose(vec![Proposal { ticket, slot: NO_SLOT, deadline_tick, body }])
            }
            (Wish::Read(_), _) => read(ReadKind::Linearizable),
            (Wish::FollowerRead(_), None) => read(ReadKind::IndexOnly),
            (Wish::FollowerRead(_), Some(index)) => read(ReadKind::AppliedThrough(index)),
            (Wish::StaleRead(_), _) => {
                let answer = Answer::ReadReady { index: 0 };
                self.after(1, Action::Answer { client, series, answer });
                return Ok(());
            }
        };
        process.core.handle(Input::Group(group, event));
        self.after(wait, Action::Overdue { client, series, attempt });
        self.pump(at)
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) -> Result<(), Broken> {
        match &answer {
            Answer::NotApplied(reason) => {
                self.marks.see(reason);
                if let NotApplied::Change(refused) = reason {
                    self.marks.see(refused);
                    if let ChangeError::Impossible(refused) = refused {
                        self.marks.see(refused);
                    }
                }
            }
            Answer::Unknown(reason) => self.marks.see(reason),
            _ => {}
        }
        if ticket == NONSENSE_TICKET || ticket == REPEATED_TICKET {
            return self.answered_nonsense(ticket, &answer);
        }
        let (client, series) = ((ticket.0 >> 32) as usize, ticket.0 & u64::from(u32::MAX));
        if client >= self.clients.len() {
            return Ok(());
        }
        // A read is looked up on the node at once; a write's answer needs a moment to reach the client.
        let wait =
            if matches!(answer, Answer::ReadReady { .. }) { 0 } else { self.random.load.between(10, 500) };
        self.after(wait, Action::Answer { client, series, answer });
        Ok(())
    }

    pub(super) fn answered(&mut self, client: usize, series: u64, answer: Answer) -> Result<(), Broken> {
        if self.clients[client].series != series {
            return Ok(());
        }
        let Some(asked) = self.clients[client].asked.take() else { return Ok(()) };
        let group = asked.group;
        self.say(|| format!("client {client} hears {answer:?} of its {:?}", asked.wish));
        let hint = match (&asked.wish, answer) {
            (Wish::Write(body), Answer::Applied { position, result }) => {
                self.trace_bytes(&result);
                self.checks.is_true(group, body, position.index, &result)?;
                self.checks.wrote(group, asked.floor, position.index)?;
                self.checks.acknowledged.add(group, position.index);
                self.owed.wrote(group, asked.asked_us, self.now_us);
                self.clients[client].leader = Some((group, asked.node));
                self.report.operations += 1;
                None
            }
            (Wish::Read(question), Answer::ReadReady { .. }) => {
                if let Some(found) = self.look_up(&asked, question) {
                    self.checks.read(group, question, asked.floor, &found)?;
                }
                self.clients[client].leader = Some((group, asked.node));
                None
            }
            (Wish::FollowerRead(question), Answer::ReadReady { .. }) if asked.index.is_some() => {
                if let Some(found) = self.look_up(&asked, question) {
                    self.checks.read(group, question, asked.floor, &found)?;
                }
                None
            }
            (Wish::FollowerRead(_), Answer::ReadReady { index }) => {
                let node = self.ids[self.random.load.index(self.ids.len())];
                let asked = Asked { node, index: Some(index), attempts: asked.attempts + 1, ..asked };
                self.clients[client].asked = Some(asked);
                return self.send_wish(client);
            }
            (Wish::StaleRead(question), Answer::ReadReady { .. }) => {
                if let Some(found) = self.look_up(&asked, question) {
                    let replica = self.replica_at(&asked);
                    self.checks.read_stale(group, (replica, asked.boot), question, &found)?;
                }
                None
            }
            (_, Answer::NotApplied(NotApplied::NotLeader(hint))) => Some(hint),
            (_, Answer::NotApplied(NotApplied::Transferring(to))) => Some(Some(to)),
            (_, Answer::NotApplied(_)) => Some(None),
            _ => {
                self.report.unknown += 1;
                None
            }
        };
        if let Some(hint) = hint {
            self.clients[client].leader = None;
            if asked.attempts < ATTEMPTS_MAX && asked.index.is_none() {
                let node = next_node(hint, &self.ids, &mut self.random.load);
                self.clients[client].asked = Some(Asked { node, attempts: asked.attempts + 1, ..asked });
                let wait = match hint {
                    Some(_) => 100,
                    // An election may be going on.
                    None => self.random.load.between(5_000, RETRY_US_MAX),
                };
                self.after(wait, Action::Retry { client, series });
                return Ok(());
            }
            self.report.refused += 1;
            if let Wish::Write(body) = &asked.wish {
                self.checks.refused(group, body)?;
            }
        }
        // In the calm each group must have taken a write soon.
        let longest =
            if self.calm { self.mix.think_us_max.min(CALM_THINK_US_MAX) } else { self.mix.think_us_max };
        let wait = self.random.load.between(100, longest) + self.rest_us();
        self.after(wait, Action::Client(client));
        Ok(())
    }

    /// Asks the process that holds a client's operation what it has published; nothing when it is gone or the group is not there.
    fn look_up(&mut self, asked: &Asked, question: &Question) -> Option<QueryAnswer> {
        let at = self.ids.iter().position(|id| *id == asked.node)?;
        let raft = self.raft(at, asked.group);
        if raft.is_some_and(|raft| self.checks.is_outside(asked.group, raft)) {
            return None;
        }
        let process = running(&mut self.nodes, at, asked.boot)?;
        let mut found = Vec::new();
        let looked = process.lookups.get(&asked.group)?.query(&query(question), &mut found);
        looked.ok()?;
        self.trace_bytes(&found);
        self.report.operations += 1;
        QueryAnswer::decode(&found).ok()
    }

    /// Which replica answers at the node of an operation.
    fn replica_at(&self, asked: &Asked) -> ReplicaId {
        let process = self.place_of(asked.node).and_then(|at| self.nodes[at].process.as_ref());
        let record = process.and_then(|process| process.registry.records().get(&asked.group));
        record.map_or(ReplicaId::new(0, asked.node), |record| record.replica)
    }

    /// The time is over by which an attempt must have been answered.
    pub(super) fn overdue(&mut self, client: usize, series: u64, attempt: u32) -> Result<(), Broken> {
        let waits = |asked: &&Asked| asked.attempts == attempt;
        let Some(asked) = self.clients[client].asked.as_ref().filter(waits) else { return Ok(()) };
        if self.clients[client].series != series {
            return Ok(());
        }
        let Some(at) = self.place_of(asked.node) else { return Ok(()) };
        // Deadlines are ticks of the process, which may have stood still; a disk that hangs holds up what is committed, and when a process
        // ends its clients are being told.
        let late_tick = asked.deadline_tick + ANSWER_SLACK_TICKS;
        let tick = running(&mut self.nodes, at, asked.boot).map_or(u64::MAX, |process| process.tick);
        let slow_until_us = self.nodes[at].slow.map_or(0, |(until_us, _)| until_us);
        let held_until_us = slow_until_us.max(self.nodes[at].ended_us) + ANSWER_SLACK_TICKS * TICK_US;
        if tick < late_tick || held_until_us > self.now_us {
            self.after(TICK_US, Action::Overdue { client, series, attempt });
            return Ok(());
        }
        let Some(asked) = self.clients[client].asked.as_ref() else { return Ok(()) };
        Err(Broken::new(
            promise::ANSWERED,
            format!(
                "{:?} of group {} at node {} had no answer {ANSWER_SLACK_TICKS} ticks after its deadline",
                asked.wish, asked.group, asked.node
            ),
        ))
    }
}
