// SPDX-License-Identifier: Apache-2.0

//! Clients that never stop until they are told to, and record what they saw.
//!
//! *Writers* have keys of their own, which they overwrite with value after value, so that many writes are under way at any moment and
//! each key says which of its writes survived. *Rivals* share a few keys, read, write, delete, and compare-and-set what they saw last, so
//! that the order of operations matters. Both leave it to the typed client to send again what certainly was not applied. *Watchers* read
//! all keys, each from one node only ([`crate::watch`]), and *probers* measure gaps ([`crate::probe`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mraft_api::client::Client;
use mraft_api::{ClientError, Condition, Consistency, ErrorCode};
use mraft_history::{Call, ClientId, History, KeyId, OperationId, Outcome, Seen, ValueId};
use tokio::task::JoinSet;

use crate::acks::Acks;
use crate::cluster::Cluster;
use crate::failure::{Failure, Result};
use crate::latency::Latencies;
use crate::probe::{self, Prober};
use crate::values::{self, Dice};
use crate::watch::{Watched, Watcher};

/// How large a load is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Clients with keys of their own.
    pub writers: u32,
    /// Keys of each of them.
    pub keys_per_writer: u64,
    /// Clients that share keys.
    pub rivals: u32,
    /// Keys that they share; a few rivals per key, or nobody could say what the order was.
    pub shared_keys: u64,
}

/// Clients that share one typed client and so its connections; not more than it keeps alive.
const CLIENTS_PER_CONNECTION_POOL: u32 = 32;
/// Of so many operations of a writer one is a read, …
const READ_EVERY: u64 = 16;
/// … and of so many one is a delete.
const DELETE_EVERY: u64 = 64;
/// Shared keys have numbers from here on.
const SHARED_KEYS_FROM: KeyId = 1 << 32;
/// Keys of probers have numbers from here on, those of each node from a multiple of it on.
const PROBED_KEYS_FROM: KeyId = 1 << 33;
/// Answers that break the contract; more than these say nothing new.
const ODDITIES_MAX: usize = 16;

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    size: Size,
    pause: Duration,
    /// Of each node what its watchers count.
    watched: Vec<Arc<Watched>>,
    next_client: ClientId,
}

/// What a load saw.
#[derive(Debug)]
pub struct Recorded {
    /// Every operation.
    pub history: History,
}

impl Recorded {
    /// How many operations failed, or are of unknown fate.
    pub fn unsure(&self) -> u64 {
        let is_unsure = |outcome| matches!(outcome, Outcome::Unknown | Outcome::NotApplied);
        self.history.operations().iter().filter(|operation| is_unsure(operation.outcome)).count() as u64
    }
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    history: Mutex<History>,
    next_value: AtomicU64,
    writes_in_flight: AtomicU64,
    writes_acknowledged: AtomicU64,
    acks: Acks,
    latencies: Latencies,
    is_stopping: AtomicBool,
    oddities: Mutex<Vec<String>>,
}

impl Load {
    /// Starts it; its clients ask all nodes of the cluster, each group of them another one first.
    pub fn start(cluster: &Cluster, size: Size) -> Result<Load> {
        Load::start_paced(cluster, size, Duration::ZERO)
    }

    /// The same with a pause after each operation of a client: for runs that are long rather than dense.
    pub fn start_paced(cluster: &Cluster, size: Size, pause: Duration) -> Result<Load> {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        let clients_in_all = size.writers + size.rivals;
        // Each node is the first choice of some of them, writers and rivals.
        let pools = (clients_in_all.div_ceil(CLIENTS_PER_CONNECTION_POOL) as usize).max(cluster.nodes.len());
        let pools: Vec<Client> =
            (0..pools).map(|pool| cluster.client(pool % cluster.nodes.len())).collect::<Result<_>>()?;
        for number in 0..clients_in_all {
            let client = pools[number as usize % pools.len()].clone();
            let dice = Dice::new(u64::from(number));
            let worker = Worker { number, client, dice, pause, shared: Arc::clone(&shared) };
            match number.checked_sub(size.writers) {
                None => {
                    let first = u64::from(number) * size.keys_per_writer;
                    clients.spawn(worker.write(first..first + size.keys_per_writer));
                }
                Some(rival) => {
                    let key = SHARED_KEYS_FROM + u64::from(rival) % size.shared_keys;
                    clients.spawn(worker.compete(key));
                }
            }
        }
        Ok(Load { shared, clients, size, pause, watched: Vec::new(), next_client: clients_in_all })
    }

    /// Adds so many watchers to each of the cluster's nodes.
    pub fn watch(&mut self, cluster: &Cluster, per_node: u32, consistency: Consistency) {
        let of_writers = 0..u64::from(self.size.writers) * self.size.keys_per_writer;
        let shared_keys = SHARED_KEYS_FROM..SHARED_KEYS_FROM + self.size.shared_keys;
        let keys: Vec<KeyId> = of_writers.chain(shared_keys).collect();
        for (place, node) in cluster.nodes.iter().enumerate() {
            if place == self.watched.len() {
                self.watched.push(Arc::default());
            }
            for _ in 0..per_node {
                let watcher = Watcher {
                    number: self.next_client,
                    at: node.http,
                    consistency,
                    keys: keys.clone(),
                    pause: self.pause,
                    watched: Arc::clone(&self.watched[place]),
                    shared: Arc::clone(&self.shared),
                };
                self.next_client += 1;
                self.clients.spawn(watcher.watch());
            }
        }
    }

    /// Adds a prober for each node and group.
    pub async fn probe(&mut self, cluster: &Cluster) -> Result<()> {
        let groups = cluster.client(0)?.groups().await?;
        for (place, node) in cluster.nodes.iter().enumerate() {
            for key in probe::keys_of(&groups, PROBED_KEYS_FROM * (place as u64 + 1))? {
                let (number, shared) = (self.next_client, Arc::clone(&self.shared));
                self.next_client += 1;
                let prober = Prober { number, at: node.http, key, pause: self.pause, shared };
                self.clients.spawn(prober.probe());
            }
        }
        Ok(())
    }

    /// What the watchers of a node count; it has some.
    pub fn watched(&self, node: usize) -> &Watched {
        &self.watched[node]
    }

    /// When writes were acknowledged.
    pub fn acks(&self) -> &Acks {
        &self.shared.acks
    }

    /// How long writes of writers and rivals took.
    pub fn latencies(&self) -> &Latencies {
        &self.shared.latencies
    }

    /// Writes that were begun and not answered.
    pub fn writes_in_flight(&self) -> u64 {
        self.shared.writes_in_flight.load(Ordering::Relaxed)
    }

    /// Writes that were acknowledged.
    pub fn writes_acknowledged(&self) -> u64 {
        self.shared.writes_acknowledged.load(Ordering::Relaxed)
    }

    /// Lets every client finish what it has begun, and hands over what they saw.
    pub async fn finish(mut self) -> Result<Recorded> {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.map_err(Failure::new)?;
        }
        let oddities = std::mem::take(&mut *lock(&self.shared.oddities));
        match oddities.is_empty() {
            true => Ok(Recorded { history: std::mem::take(&mut *lock(&self.shared.history)) }),
            false => Err(Failure::new(format_args!("odd answers:\n{}", oddities.join("\n")))),
        }
    }
}

/// One client.
struct Worker {
    number: ClientId,
    client: Client,
    dice: Dice,
    pause: Duration,
    shared: Arc<Shared>,
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn invoke(&self, client: ClientId, key: KeyId, call: Call) -> OperationId {
        lock(&self.history).invoke(client, key, call)
    }

    pub(crate) fn complete(&self, id: OperationId, outcome: Outcome) {
        lock(&self.history).complete(id, outcome);
    }

    pub(crate) fn new_value(&self) -> ValueId {
        self.next_value.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A write to this group is acknowledged.
    pub(crate) fn acknowledged(&self, group: u64) {
        self.writes_acknowledged.fetch_add(1, Ordering::Relaxed);
        self.acks.add(group);
    }

    /// Something that no node may answer.
    pub(crate) fn odd(&self, what: String) -> Outcome {
        let mut oddities = lock(&self.oddities);
        if oddities.len() < ODDITIES_MAX {
            oddities.push(what);
        }
        Outcome::Unknown
    }
}

impl Worker {
    async fn write(mut self, keys: std::ops::Range<KeyId>) {
        let mut rounds = 0_u64;
        while !self.shared.is_stopping() {
            self.rest().await;
            rounds += 1;
            let key = keys.start + self.dice.below(keys.end - keys.start);
            if rounds.is_multiple_of(DELETE_EVERY) {
                self.delete(key).await;
            } else if rounds.is_multiple_of(READ_EVERY) {
                self.get(key).await;
            } else {
                self.put(key, None).await;
            }
        }
    }

    async fn compete(mut self, key: KeyId) {
        // What it knows of the key: `None` when it has to look first.
        let mut known: Option<Option<Seen>> = None;
        while !self.shared.is_stopping() {
            self.rest().await;
            let written = match (self.dice.below(16), known) {
                (0, _) => {
                    self.delete(key).await;
                    None
                }
                (1..=3, _) => self.put(key, None).await,
                (4..=11, Some(expected)) => self.put(key, Some(expected)).await,
                _ => {
                    known = self.get(key).await;
                    continue;
                }
            };
            known = written.map(Some);
        }
    }

    async fn rest(&self) {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
    }

    /// What was there, if an answer came.
    async fn get(&self, key: KeyId) -> Option<Option<Seen>> {
        let id = self.invoke(key, Call::Get);
        let answer = self.client.get(&values::key(key), Consistency::Linearizable).await;
        let outcome = match answer {
            Ok(None) => Outcome::Read(None),
            Ok(Some(got)) => match values::value_of(&got.value) {
                Some(value) => Outcome::Read(Some(Seen { value, revision: got.served.revision })),
                None => self.odd(format!("key {key} holds bytes that nobody wrote: {:?}", lossy(&got.value))),
            },
            Err(error) => self.failed(&error),
        };
        self.complete(id, outcome);
        match outcome {
            Outcome::Read(seen) => Some(seen),
            _ => None,
        }
    }

    /// Writes a new value, if asked to only over what it expects; the value, if it was acknowledged.
    async fn put(&self, key: KeyId, expected: Option<Option<Seen>>) -> Option<Seen> {
        let value = self.shared.new_value();
        let (call, condition) = match expected {
            None => (Call::Put(value), Condition::None),
            Some(None) => (Call::CompareAndSet { expected: None, value }, Condition::Absent),
            Some(Some(seen)) => (
                Call::CompareAndSet { expected: Some(seen.value), value },
                Condition::Revision(seen.revision),
            ),
        };
        let (name, bytes) = (values::key(key), values::value(value));
        let id = self.invoke(key, call);
        let answer = self.counted(self.client.put(&name, &bytes, condition)).await;
        let outcome = match answer {
            Ok(answer) => {
                self.shared.acks.add(answer.served.group);
                Outcome::Written(answer.served.revision)
            }
            Err(ClientError::Problem(problem))
                if problem.code == ErrorCode::ConditionFailed && expected.is_some() =>
            {
                Outcome::ConditionFailed
            }
            Err(error) => self.failed(&error),
        };
        self.complete(id, outcome);
        match outcome {
            Outcome::Written(revision) => Some(Seen { value, revision }),
            _ => None,
        }
    }

    async fn delete(&self, key: KeyId) {
        let name = values::key(key);
        let id = self.invoke(key, Call::Delete);
        let answer = self.counted(self.client.delete(&name, Condition::None)).await;
        let outcome = match answer {
            Ok(answer) => Outcome::Deleted(answer.deleted == 1),
            Err(error) => self.failed(&error),
        };
        self.complete(id, outcome);
    }

    async fn counted<T>(
        &self,
        write: impl Future<Output = std::result::Result<T, ClientError>>,
    ) -> std::result::Result<T, ClientError> {
        self.shared.writes_in_flight.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let answer = write.await;
        self.shared.writes_in_flight.fetch_sub(1, Ordering::Relaxed);
        if answer.is_ok() {
            self.shared.writes_acknowledged.fetch_add(1, Ordering::Relaxed);
            self.shared.latencies.add(begun.elapsed());
        }
        answer
    }

    fn failed(&self, error: &ClientError) -> Outcome {
        match error {
            ClientError::BadAnswer { .. } => return self.odd(error.to_string()),
            ClientError::Problem(problem) if problem.code == ErrorCode::Internal => {
                return self.odd(error.to_string());
            }
            _ => {}
        }
        match error.outcome() {
            mraft_api::Outcome::NotApplied => Outcome::NotApplied,
            mraft_api::Outcome::Unknown => Outcome::Unknown,
            mraft_api::Outcome::Applied => self.odd(format!("an error that was applied: {error}")),
        }
    }

    fn odd(&self, what: String) -> Outcome {
        self.shared.odd(what)
    }

    fn invoke(&self, key: KeyId, call: Call) -> OperationId {
        self.shared.invoke(self.number, key, call)
    }

    fn complete(&self, id: OperationId, outcome: Outcome) {
        self.shared.complete(id, outcome);
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
