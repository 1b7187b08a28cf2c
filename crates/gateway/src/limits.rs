// SPDX-License-Identifier: Apache-2.0

//! How much at once, and for how long. Whatever a client can make grow has a name here, and a reason.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mraft_types::limits::{COMMAND_BYTES_MAX, VALUE_BYTES_DEFAULT};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::errors::Refused;
use crate::needs::NodeError;

/// The limits of a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest value (`max_value_bytes`). What is larger is refused by its Content-Length, or while it is read.
    pub value_bytes_max: usize,
    /// Requests that are being worked on, over all connections: each holds a ticket in the node. Probes and metrics do not count, so
    /// that a full door can still say that it is full.
    pub concurrent_requests_max: usize,
    /// Bytes of request bodies that are held at once, counted as they come: what the door adds to the node's memory.
    pub request_bytes_max: usize,
    /// Bytes of answers that their clients have not taken yet. A small answer is counted with its connection; a larger one holds its
    /// bytes until the socket has taken them, so that whoever does not read what it asked for keeps nobody's memory but these.
    pub answer_bytes_max: usize,
    /// Scans at once: each holds up to 1 MiB of answer and some pages of groups.
    pub concurrent_scans_max: usize,
    /// Scans that wait, in their order, until one of those has ended or their time is over. Each costs a connection and a request, which
    /// are bounded too; in a longer line the last one's time would be over before its turn.
    pub waiting_scans_max: usize,
    /// Connections: each holds a socket and read and write buffers.
    pub connections_max: usize,
    /// Bytes that connections hold, whatever is asked on them: so much for each, and more while a large head of a request comes in.
    pub connection_bytes_max: usize,
    /// Header fields of one request.
    pub headers_max: usize,
    /// Bytes of one request's head, which is also the read buffer of a connection. A key of 4 KiB may be 12 KiB escaped, twice in a
    /// scan.
    pub head_bytes_max: usize,
    /// How long a connection on which nothing is asked stays when the door is told to stop, at most half of the grace: longer than a busy
    /// client takes to ask again, so that hardly anybody asks a door that has just closed.
    pub linger: Duration,
    /// How long a connection may take to send the head of its next request: what a slow or idle client can hold a connection for.
    pub head_timeout: Duration,
    /// How long a connection may take nothing of its answer: what a client that does not read can hold memory for.
    pub write_timeout: Duration,
    /// How long a TLS handshake may take.
    pub tls_accept_timeout: Duration,
    /// Time for one request, its body included, when it does not say `timeout_ms`.
    pub timeout_default: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            value_bytes_max: VALUE_BYTES_DEFAULT,
            concurrent_requests_max: 16_384,
            request_bytes_max: 64 << 20,
            answer_bytes_max: 64 << 20,
            concurrent_scans_max: 8,
            waiting_scans_max: 1_024,
            connections_max: 8_192,
            connection_bytes_max: 256 << 20,
            headers_max: 64,
            head_bytes_max: 64 << 10,
            linger: Duration::from_millis(500),
            head_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            tls_accept_timeout: Duration::from_secs(5),
            timeout_default: Duration::from_millis(TIMEOUT_MS_DEFAULT),
        }
    }
}

/// How long a request may take that asks for no time of its own, unless whoever runs the door says otherwise.
pub const TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// Longest time that a request may ask for.
pub const TIMEOUT_MS_MAX: u64 = mraft_api::client::TIMEOUT_MS_MAX;
/// How much longer than the deadline a door waits for the node to say what it knows.
pub(crate) const ANSWER_SLACK: Duration = Duration::from_millis(100);
/// Most operations of one batch: bounds the answer.
pub const BATCH_OPERATIONS_MAX: usize = 10_000;
/// Largest body of a batch. JSON and base64 make a command up to twice as large; text that needs more than that is sent as base64.
pub const BATCH_BODY_BYTES_MAX: usize = 2 * COMMAND_BYTES_MAX;
/// Largest body of a membership request: two ids and an address.
pub const CHANGE_BODY_BYTES_MAX: usize = 16 << 10;
/// Most entries of one scan.
pub const SCAN_ENTRIES_MAX: usize = mraft_api::kv::SCAN_ENTRIES_MAX;
/// Entries of a scan without `limit`.
pub const SCAN_ENTRIES_DEFAULT: usize = 100;
/// Bytes of keys and values of one scan; its first entry is given whatever it weighs.
pub const SCAN_BYTES_MAX: usize = 1 << 20;
/// Groups that one scan asks at once: bounds the pages it holds beside its answer.
pub(crate) const SCAN_GROUPS_AT_ONCE: usize = 16;

/// What a connection costs: its task, its buffers while they are small, and an answer of [`SMALL_ANSWER_BYTES`], measured at 8 to 15 KiB;
/// and as much for the buffer that the head of a request is read into. That is held also while nothing is asked: whoever is let in can
/// ask, however many others want its place. Otherwise clients that come in crowds would have those cut off that are there already, and
/// these would not know what became of their writes.
pub(crate) const CONNECTION_BYTES: usize = 32 << 10;
/// How long a head may be before its bytes count beside the buffer.
pub(crate) const SMALL_HEAD_BYTES: usize = 8 << 10;
/// An answer up to this size is counted with its connection.
pub(crate) const SMALL_ANSWER_BYTES: usize = 16 << 10;

/// A bounded amount of something; who does not fit is refused at once, with its name.
#[derive(Debug)]
pub(crate) struct Gate {
    name: &'static str,
    max: usize,
    used: AtomicUsize,
    refused: AtomicU64,
}

/// An amount that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Pass<G: Borrow<Gate>> {
    gate: G,
    amount: usize,
}

impl Gate {
    pub(crate) fn new(name: &'static str, max: usize) -> Gate {
        Gate { name, max, used: AtomicUsize::new(0), refused: AtomicU64::new(0) }
    }

    /// Takes an amount, or refuses with `overloaded`.
    pub(crate) fn enter(&self, amount: usize) -> Result<Pass<&Gate>, Box<Refused>> {
        let mut pass = Pass { gate: self, amount: 0 };
        pass.add(amount)?;
        Ok(pass)
    }

    /// The same for somebody who outlives the caller.
    pub(crate) fn hold(self: &Arc<Gate>, amount: usize) -> Result<Pass<Arc<Gate>>, Box<Refused>> {
        let mut pass = Pass { gate: Arc::clone(self), amount: 0 };
        pass.add(amount)?;
        Ok(pass)
    }

    /// Takes an amount whether it fits or not.
    pub(crate) fn hold_anyway(self: &Arc<Gate>, amount: usize) -> Pass<Arc<Gate>> {
        self.used.fetch_add(amount, Ordering::Relaxed);
        Pass { gate: Arc::clone(self), amount }
    }

    /// Refuses if there is no room at all.
    pub(crate) fn is_open(&self) -> Result<(), Box<Refused>> {
        if self.used() < self.max { Ok(()) } else { Err(self.refuse()) }
    }

    pub(crate) fn refuse(&self) -> Box<Refused> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let queue = format!("{} ({})", self.name, self.max);
        Refused::by_node(NodeError::Overloaded { queue, retry_after: RETRY_AFTER }.into(), true)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl<G: Borrow<Gate>> Pass<G> {
    /// Takes more, or refuses; what is held stays held.
    pub(crate) fn add(&mut self, amount: usize) -> Result<(), Box<Refused>> {
        let gate = self.gate.borrow();
        // In one step, so that who is refused never takes the room of who would fit.
        let fits = |used: usize| used.checked_add(amount).filter(|sum| *sum <= gate.max);
        if gate.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return Err(gate.refuse());
        }
        self.amount += amount;
        Ok(())
    }

    /// Gives back what goes beyond this amount.
    pub(crate) fn shrink_to(&mut self, amount: usize) {
        let back = self.amount.saturating_sub(amount);
        self.gate.borrow().used.fetch_sub(back, Ordering::Relaxed);
        self.amount -= back;
    }

    pub(crate) fn amount(&self) -> usize {
        self.amount
    }
}

impl<G: Borrow<Gate>> Drop for Pass<G> {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// A gate with a line before it: who does not fit waits, in order, unless the line is full too.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) inside: Gate,
    pub(crate) waiting: Gate,
    places: Semaphore,
}

/// A place inside. The fields are dropped in this order: whoever gets the place finds room in the gate.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    _pass: Pass<&'a Gate>,
    _permit: SemaphorePermit<'a>,
}

impl Line {
    pub(crate) fn new(inside: Gate, waiting: Gate) -> Line {
        let places = Semaphore::new(inside.max.min(Semaphore::MAX_PERMITS));
        Line { inside, waiting, places }
    }

    /// Takes a place; waits for one until the deadline, and then refuses with `overloaded`.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<Place<'_>, Box<Refused>> {
        let permit = match self.places.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let _in_line = self.waiting.enter(1)?;
                match timeout_at(deadline, self.places.acquire()).await {
                    Ok(Ok(permit)) => permit,
                    _ => return Err(self.inside.refuse()),
                }
            }
        };
        Ok(Place { _pass: self.inside.enter(1)?, _permit: permit })
    }
}

/// When somebody whom a gate refused may come back: some requests will have left by then.
const RETRY_AFTER: Duration = Duration::from_millis(100);

// A value of the default size fits a batch, and one request never fills the door alone.
const _: () = assert!(VALUE_BYTES_DEFAULT < BATCH_BODY_BYTES_MAX);
const _: () = assert!(BATCH_BODY_BYTES_MAX < 64 << 20);
const _: () = assert!(SCAN_ENTRIES_DEFAULT <= SCAN_ENTRIES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gate_refuses_by_name_and_opens_when_somebody_leaves() {
        let gate = Gate::new("things at once", 3);
        let two = gate.enter(2).expect("room");
        let refused = gate.enter(2).expect_err("full");
        assert!(refused.problem.detail.contains("things at once"), "{}", refused.problem.detail);
        assert_eq!((gate.used(), gate.refused()), (2, 1));
        drop(two);
        let all = gate.enter(3).expect("room again");
        assert!(gate.enter(usize::MAX).is_err());
        drop(all);
        assert_eq!(gate.used(), 0);
    }

    #[test]
    fn a_pass_takes_more_while_there_is_room_and_gives_all_of_it_back() {
        let gate = Gate::new("things at once", 3);
        let mut pass = gate.enter(0).expect("nothing always fits");
        pass.add(2).expect("room");
        assert!(pass.add(2).is_err());
        assert_eq!((pass.amount(), gate.used(), gate.refused()), (2, 2, 1));
        pass.add(1).expect("room for one more");
        drop(pass);
        assert_eq!(gate.used(), 0);
    }
}
