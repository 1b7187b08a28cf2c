// SPDX-License-Identifier: Apache-2.0

//! Received bytes that the handler has not released: counted per peer (MaxReceiveQueueSize) and in all (rule T2).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use mraft_types::{NodeId, Payload};

/// The payload of a frame of packets.
#[derive(Debug)]
pub struct Received {
    payload: Payload,
    permit: ReceivePermit,
    is_over_limit: bool,
}

impl Received {
    /// The bytes; read them with [`mraft_wire::PacketReader`].
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Whether the peer has more unreleased bytes here than MaxReceiveQueueSize: entries in this frame are to be dropped; the
    /// leader sends them again. Everything else is worth its few bytes.
    pub fn is_over_limit(&self) -> bool {
        self.is_over_limit
    }

    /// Counts the frame's bytes as waiting until it and all its clones are dropped.
    pub fn permit(&self) -> ReceivePermit {
        self.permit.clone()
    }
}

/// Keep it with what waits of a frame; the bytes are released with the last clone.
#[derive(Clone)]
pub struct ReceivePermit {
    held: Arc<Held>,
}

impl fmt::Debug for ReceivePermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceivePermit({} bytes)", self.held.bytes)
    }
}

struct Held {
    bytes: usize,
    of_peer: Arc<AtomicUsize>,
    budget: Arc<ReceiveBudget>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of_peer.fetch_sub(self.bytes, Ordering::AcqRel);
        *self.budget.total() -= self.bytes;
        self.budget.released.notify_all();
    }
}

#[derive(Debug)]
pub(crate) struct ReceiveBudget {
    ceiling_bytes: usize,
    peer_bytes_max: usize,
    total: Mutex<usize>,
    released: Condvar,
    peers: Mutex<BTreeMap<NodeId, Arc<AtomicUsize>>>,
}

impl ReceiveBudget {
    pub(crate) fn new(peer_bytes_max: usize, ceiling_bytes: usize) -> Arc<ReceiveBudget> {
        Arc::new(ReceiveBudget {
            ceiling_bytes,
            peer_bytes_max,
            total: Mutex::default(),
            released: Condvar::new(),
            peers: Mutex::default(),
        })
    }

    /// The count of one peer, the same for all its connections.
    pub(crate) fn of_peer(&self, node: NodeId) -> Arc<AtomicUsize> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default().clone()
    }

    pub(crate) fn bytes(&self) -> usize {
        *self.total()
    }

    /// Counts a frame, once there is room below the ceiling; one frame alone always has. `None` when closing; otherwise also
    /// whether it had to wait.
    pub(crate) fn admit(
        self: &Arc<ReceiveBudget>,
        of_peer: &Arc<AtomicUsize>,
        payload: Payload,
        closing: &AtomicBool,
    ) -> Option<(Received, bool)> {
        /// How late a close may be noticed.
        const SLICE: Duration = Duration::from_millis(50);
        let bytes = payload.len();
        let (mut total, mut waited) = (self.total(), false);
        while *total > 0 && total.saturating_add(bytes) > self.ceiling_bytes {
            if closing.load(Ordering::Acquire) {
                return None;
            }
            waited = true;
            total = self.released.wait_timeout(total, SLICE).unwrap_or_else(PoisonError::into_inner).0;
        }
        *total += bytes;
        drop(total);
        let before = of_peer.fetch_add(bytes, Ordering::AcqRel);
        let is_over_limit =
            self.peer_bytes_max > 0 && before > 0 && before.saturating_add(bytes) > self.peer_bytes_max;
        let held = Arc::new(Held { bytes, of_peer: of_peer.clone(), budget: self.clone() });
        Some((Received { payload, permit: ReceivePermit { held }, is_over_limit }, waited))
    }

    fn total(&self) -> std::sync::MutexGuard<'_, usize> {
        self.total.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(budget: &Arc<ReceiveBudget>, of_peer: &Arc<AtomicUsize>, bytes: usize) -> Received {
        budget.admit(of_peer, vec![0; bytes].into(), &AtomicBool::new(false)).expect("not closing").0
    }

    #[test]
    fn s14_above_the_receive_limit_frames_ask_to_be_shed_until_bytes_are_released() {
        let budget = ReceiveBudget::new(100, 1000);
        let peer = budget.of_peer(NodeId::new(1).expect("a node id"));
        let first = admit(&budget, &peer, 90);
        assert!(!first.is_over_limit());
        assert!(admit(&budget, &peer, 20).is_over_limit());
        let (permit, copy) = (first.permit(), first.permit());
        drop((first, permit));
        assert!(admit(&budget, &peer, 20).is_over_limit(), "a clone still holds the bytes");
        drop(copy);
        assert!(!admit(&budget, &peer, 20).is_over_limit());
        assert!(!admit(&budget, &peer, 500).is_over_limit(), "a frame alone passes whatever its size");
        assert_eq!(budget.bytes(), 0);
    }

    #[test]
    fn s14_zero_is_no_limit_of_its_own() {
        let budget = ReceiveBudget::new(0, 1 << 30);
        let peer = budget.of_peer(NodeId::new(1).expect("a node id"));
        let held: Vec<_> = (0..100).map(|_| admit(&budget, &peer, 1 << 20)).collect();
        assert!(held.iter().all(|received| !received.is_over_limit()));
    }

    #[test]
    fn t2_above_the_ceiling_a_reader_waits_for_room() {
        let budget = ReceiveBudget::new(0, 100);
        let peer = budget.of_peer(NodeId::new(1).expect("a node id"));
        let first = admit(&budget, &peer, 90);
        assert!(budget.admit(&peer, vec![0; 20].into(), &AtomicBool::new(true)).is_none());
        let reader = std::thread::spawn({
            let (budget, peer) = (budget.clone(), peer.clone());
            move || budget.admit(&peer, vec![0; 20].into(), &AtomicBool::new(false)).map(|(_, waited)| waited)
        });
        drop(first);
        assert!(reader.join().expect("no panic").is_some());
        assert_eq!(budget.bytes(), 0);
    }
}
