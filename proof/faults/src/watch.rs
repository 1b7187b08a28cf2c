// SPDX-License-Identifier: Apache-2.0

//! Readers that ask one node and never another one: of a node that was stopped or cut off and does not know it yet, they would get what
//! is no longer true. What they see is part of the load's history.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mraft_api::{Consistency, ErrorCode, Problem, headers, paths};
use mraft_history::{Call, KeyId, Outcome, Seen};
use tokio::time::timeout;

use crate::failure::{Failure, Result};
use crate::load::Shared;
use crate::raw::{Answer, Wire};
use crate::values::{self, Dice};

/// A reader does not wait for longer, but asks again: of a node that goes on after a pause, some reads began when it had long lost its
/// groups.
const READ_TIME_MAX: Duration = Duration::from_millis(500);
/// The node's own clock for a read, which goes on while it is stopped: long, so that it answers what waited for it.
const NODE_TIME_MS: u64 = 60_000;
/// After a node that refuses connections, so that a dead one does not fill the history.
const PAUSE: Duration = Duration::from_millis(20);

/// What the readers of one node count.
#[derive(Debug, Default)]
pub struct Watched {
    /// Reads begun.
    pub begun: AtomicU64,
    /// Reads answered with what the key is or with that it does not exist.
    pub answered: AtomicU64,
}

/// One reader.
pub(crate) struct Watcher {
    pub(crate) number: u32,
    pub(crate) at: SocketAddrV4,
    pub(crate) consistency: Consistency,
    pub(crate) keys: Vec<KeyId>,
    pub(crate) watched: Arc<Watched>,
    pub(crate) shared: Arc<Shared>,
}

impl Watcher {
    pub(crate) async fn watch(self) {
        let mut dice = Dice::new(u64::from(self.number));
        let mut wire = None;
        while !self.shared.is_stopping() {
            let key = self.keys[dice.below(self.keys.len() as u64) as usize];
            let id = self.shared.invoke(self.number, key, Call::Get);
            self.watched.begun.fetch_add(1, Ordering::Relaxed);
            let read = match timeout(READ_TIME_MAX, self.read(&mut wire, key)).await {
                Ok(read) => read,
                Err(_) => Err(Failure::new("no answer")),
            };
            match &read {
                Ok(Some(outcome)) => self.shared.complete(id, *outcome),
                Ok(None) | Err(_) => self.shared.complete(id, Outcome::Unknown),
            }
            match read {
                Ok(Some(_)) => _ = self.watched.answered.fetch_add(1, Ordering::Relaxed),
                Ok(None) => tokio::time::sleep(PAUSE).await,
                Err(_) => {
                    wire = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// `None`: the node answered that it cannot say.
    async fn read(&self, wire: &mut Option<Wire>, key: KeyId) -> Result<Option<Outcome>> {
        let wire = match wire {
            Some(wire) => wire,
            None => wire.insert(Wire::open(self.at).await?),
        };
        let path = paths::kv(&values::key(key));
        let target = format!("{path}?consistency={}&timeout_ms={NODE_TIME_MS}", self.consistency.as_str());
        let answer = wire.ask("GET", &target, &[]).await?;
        Ok(self.outcome(key, &answer))
    }

    fn outcome(&self, key: KeyId, answer: &Answer) -> Option<Outcome> {
        let problem = || serde_json::from_slice::<Problem>(&answer.body).ok();
        match (answer.status, answer.number(headers::REVISION)) {
            (200, Some(revision)) => match values::value_of(&answer.body) {
                Some(value) => Some(Outcome::Read(Some(Seen { value, revision }))),
                None => Some(self.shared.odd(format!("key {key} holds bytes that nobody wrote"))),
            },
            (404, _) if problem().is_some_and(|problem| problem.code == ErrorCode::KeyNotFound) => {
                Some(Outcome::Read(None))
            }
            (429 | 503 | 504 | 421, _) if problem().is_some() => None,
            _ => {
                let body = String::from_utf8_lossy(&answer.body);
                Some(self.shared.odd(format!("a read was answered with {}: {body}", answer.status)))
            }
        }
    }
}
