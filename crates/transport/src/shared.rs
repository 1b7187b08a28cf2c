// SPDX-License-Identifier: Apache-2.0

//! What all threads of a transport share, and how they are counted, limited and ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use mraft_types::NodeId;
use mraft_wire::HelloRefused;

use crate::config::TransportConfig;
use crate::handler::{Handler, Refusal};
use crate::peer::Peer;
use crate::rate::Pacer;
use crate::receive::ReceiveBudget;
use crate::resolver::{PEERS_MAX, Resolver};
use crate::stats::Counters;
use crate::tls::Tls;
use crate::waker::Waker;

pub(crate) struct Shared {
    pub(crate) config: TransportConfig,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) tls: Option<Tls>,
    pub(crate) closing: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) resolver: Resolver,
    pub(crate) peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    /// Bytes in all send queues.
    pub(crate) send_bytes: AtomicUsize,
    pub(crate) receive: Arc<ReceiveBudget>,
    pub(crate) send_pacer: Pacer,
    pub(crate) receive_pacer: Pacer,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) inbound: Mutex<BTreeMap<NodeId, Inbound>>,
    pub(crate) inbound_slots: Arc<Slots>,
    pub(crate) handshake_slots: Arc<Slots>,
    pub(crate) snapshot_send_slots: Arc<Slots>,
    pub(crate) snapshot_receive_slots: Arc<Slots>,
    /// The latest refusal per node, so that each is told once.
    pub(crate) refusals: Mutex<BTreeMap<NodeId, HelloRefused>>,
    /// What came of TLS with who dialed, so that each is told once.
    pub(crate) tls_failures: TlsFailures,
    pub(crate) listen_waker: Waker,
    pub(crate) threads: Threads,
}

/// The connection on which a peer sends its messages now.
pub(crate) struct Inbound {
    pub(crate) id: u64,
    socket: Arc<TcpStream>,
}

impl Shared {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    pub(crate) fn all_peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Makes this the connection of the peer's messages and closes the one before it: a close of our own (rule T5).
    pub(crate) fn supersede(&self, node: NodeId, id: u64, socket: Arc<TcpStream>) {
        if let Some(older) = lock(&self.inbound).insert(node, Inbound { id, socket }) {
            let _ = older.socket.shutdown(Shutdown::Both);
        }
    }

    /// Closes the connection of the peer's messages: a close of our own (rule T5).
    pub(crate) fn close_inbound(&self, node: NodeId) {
        if let Some(inbound) = lock(&self.inbound).remove(&node) {
            let _ = inbound.socket.shutdown(Shutdown::Both);
        }
    }

    /// Forgets an ended connection; whether it was still the peer's, so that its end was not our doing.
    pub(crate) fn forget_inbound(&self, node: NodeId, id: u64) -> bool {
        let mut inbound = lock(&self.inbound);
        let is_current = inbound.get(&node).is_some_and(|current| current.id == id);
        if is_current {
            inbound.remove(&node);
        }
        is_current
    }

    /// Tells log and handler of a refused hello, unless the same was the last that they heard of this node.
    pub(crate) fn tell_refusal(&self, refusal: Refusal) {
        let Refusal { node, address, by_peer, reason } = &refusal;
        {
            let mut refusals = lock(&self.refusals);
            if refusals.get(node) == Some(reason) {
                return;
            }
            if refusals.len() >= PEERS_MAX {
                refusals.clear();
            }
            refusals.insert(*node, reason.clone());
        }
        if *by_peer {
            tracing::debug!(%node, address, "the peer refuses this node: {reason}");
        } else {
            tracing::debug!(%node, address, "refused: {reason}");
        }
        self.handler.refused(&refusal);
    }

    /// The node's hello was accepted: a refusal after this is news again.
    pub(crate) fn forget_refusal(&self, node: NodeId) {
        lock(&self.refusals).remove(&node);
    }

    /// Starts a thread that [`Threads::wait_for_end`] waits for.
    pub(crate) fn spawn(
        self: &Arc<Shared>,
        name: String,
        run: impl FnOnce(&Arc<Shared>) + Send + 'static,
    ) -> io::Result<()> {
        /// Handlers decode and route frames on these stacks.
        const STACK_BYTES: usize = 1 << 20;
        let shared = self.clone();
        *lock(&self.threads.running) += 1;
        let spawned = std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
            let running = Running(shared);
            run(&running.0);
        });
        if spawned.is_err() {
            self.threads.ended();
        }
        spawned
            .map(drop)
            .map_err(|error| io::Error::new(error.kind(), format!("a thread cannot be started: {error}")))
    }
}

struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.threads.ended();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Threads {
    running: Mutex<usize>,
    changed: Condvar,
}

impl Threads {
    fn ended(&self) {
        *lock(&self.running) -= 1;
        self.changed.notify_all();
    }

    /// Waits until all threads ended, at most so long; how many did not.
    pub(crate) fn wait_for_end(&self, timeout: Duration) -> usize {
        let deadline = Instant::now() + timeout;
        let mut running = lock(&self.running);
        while *running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            running = self.changed.wait_timeout(running, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *running
    }
}

/// Why connections from which address did not come about. Whoever dials is nobody before its hello, so an address has to do.
#[derive(Debug, Default)]
pub(crate) struct TlsFailures(Mutex<BTreeSet<(IpAddr, String)>>);

impl TlsFailures {
    /// Strangers can bring about some of them, from many addresses: what is more is forgotten and told again.
    const COUNT_MAX: usize = 1024;

    /// Whether this was not told yet.
    pub(crate) fn is_news(&self, address: IpAddr, why: &str) -> bool {
        let mut told = lock(&self.0);
        if told.len() >= TlsFailures::COUNT_MAX {
            told.clear();
        }
        told.insert((address, why.to_owned()))
    }

    /// A peer came through from there: what is wrong after this is news again.
    pub(crate) fn forget(&self, address: IpAddr) {
        lock(&self.0).retain(|(of, _)| *of != address);
    }
}

/// Sockets in which a thread may be blocked; shut down when the transport closes.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    sockets: BTreeMap<u64, Arc<TcpStream>>,
    is_closed: bool,
}

impl Sockets {
    pub(crate) fn register(self: &Arc<Sockets>, socket: &Arc<TcpStream>) -> Registered {
        let mut open = lock(&self.open);
        open.next += 1;
        let id = open.next;
        if open.is_closed {
            let _ = socket.shutdown(Shutdown::Both);
        }
        open.sockets.insert(id, socket.clone());
        Registered { id, sockets: self.clone() }
    }

    pub(crate) fn close(&self) {
        let mut open = lock(&self.open);
        open.is_closed = true;
        for socket in open.sockets.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Keeps a socket registered.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) id: u64,
    sockets: Arc<Sockets>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.sockets.open).sockets.remove(&self.id);
    }
}

/// A bounded number of places.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: AtomicUsize,
    max: usize,
}

impl Slots {
    pub(crate) fn new(max: usize) -> Arc<Slots> {
        Arc::new(Slots { taken: AtomicUsize::new(0), max })
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    pub(crate) fn take(self: &Arc<Slots>) -> Option<Slot> {
        let has_room = |taken| (taken < self.max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, has_room).ok()?;
        Some(Slot { slots: self.clone() })
    }
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A panic in a handler must not make every later caller panic too (rule T4 decides about the process).
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_went_wrong_with_tls_is_news_once_per_address_until_somebody_comes_through() {
        let failures = TlsFailures::default();
        let [here, there] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
        let is_news = |address, why: &str| failures.is_news(address, why);
        assert!(is_news(here, "expired") && is_news(there, "expired") && is_news(here, "unknown"));
        assert!(!is_news(here, "expired") && !is_news(there, "expired") && !is_news(here, "unknown"));
        failures.forget(here);
        assert!(is_news(here, "expired") && !is_news(there, "expired"));
        for number in 0..3 * TlsFailures::COUNT_MAX {
            is_news(here, &number.to_string());
        }
        assert!(lock(&failures.0).len() <= TlsFailures::COUNT_MAX);
    }
}
