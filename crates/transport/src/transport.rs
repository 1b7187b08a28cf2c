// SPDX-License-Identifier: Apache-2.0

//! The public face: start, peers, send, close.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mraft_types::NodeId;
use mraft_types::limits::FRAME_BYTES_MAX;
use mraft_wire::{FRAME_HEADER_BYTES, SnapshotHeader};

use crate::config::{TransportConfig, TransportError, is_exposed_without_tls};
use crate::handler::{Handler, SnapshotFailed, SnapshotSource};
use crate::listener;
use crate::peer::Peer;
use crate::rate::Pacer;
use crate::receive::ReceiveBudget;
use crate::resolver::Resolver;
use crate::shared::{Shared, Slots, Sockets, Threads, TlsFailures};
use crate::snapshot;
use crate::stats::{Counters, Dropped, TransportStats};
use crate::tls::Tls;
use crate::waker::Waker;

/// An address that is this process's, with what its connections need: nobody is accepted or dialed yet.
pub struct Listening {
    config: TransportConfig,
    tls: Option<Tls>,
    listener: TcpListener,
    local_address: SocketAddr,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listening({} at {})", self.config.node, self.local_address)
    }
}

impl Listening {
    /// Checks the settings, reads the TLS files, takes the address.
    pub fn bind(config: TransportConfig) -> Result<Listening, TransportError> {
        config.validate()?;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        let listen = |error| TransportError::Listen { address: config.listen_address.clone(), error };
        let listener = TcpListener::bind(&config.listen_address).map_err(listen)?;
        // Once more, because the standard library asks for 128; a socket that listens takes the new number.
        rustix::net::listen(&listener, BACKLOG_MAX).map_err(|error| listen(error.into()))?;
        listener.set_nonblocking(true).map_err(TransportError::System)?;
        let local_address = listener.local_addr().map_err(TransportError::System)?;
        Ok(Listening { config, tls, listener, local_address })
    }
}

/// Connections that wait to be accepted, as far as the system allows (`net.core.somaxconn`). Who comes when so many wait is not answered
/// and tries again after a second: a node that comes back is dialed by all its peers at once.
const BACKLOG_MAX: i32 = 1_024;

/// The connections of one node. Closed when dropped.
pub struct Transport {
    shared: Arc<Shared>,
    local_address: SocketAddr,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({} at {})", self.shared.config.node, self.local_address)
    }
}

impl Transport {
    /// Checks the settings, reads the TLS files, listens. Peers are dialed from [`Transport::set_peer`] on.
    pub fn start(config: TransportConfig, handler: Arc<dyn Handler>) -> Result<Transport, TransportError> {
        Transport::start_on(Listening::bind(config)?, handler)
    }

    /// The same on an address that was taken before.
    pub fn start_on(listening: Listening, handler: Arc<dyn Handler>) -> Result<Transport, TransportError> {
        let Listening { config, tls, listener, local_address } = listening;
        if is_exposed_without_tls(&config.listen_address, tls.is_some()) {
            tracing::warn!(
                address = config.listen_address,
                "WITHOUT TLS, anybody who reaches this address can pose as a peer and read and change all data"
            );
        }
        let pacer = |rate| Pacer::new(rate, config.clock.clone());
        let shared = Arc::new(Shared {
            tls,
            handler,
            closing: AtomicBool::new(false),
            counters: Counters::default(),
            resolver: Resolver::default(),
            peers: RwLock::default(),
            send_bytes: AtomicUsize::new(0),
            receive: ReceiveBudget::new(config.receive_queue_bytes_max, config.receive_ceiling_bytes),
            send_pacer: pacer(config.snapshot_send_bytes_per_second),
            receive_pacer: pacer(config.snapshot_receive_bytes_per_second),
            sockets: Arc::new(Sockets::default()),
            inbound: Mutex::default(),
            inbound_slots: Slots::new(config.inbound_connections_max),
            handshake_slots: Slots::new(config.handshakes_max),
            snapshot_send_slots: Slots::new(config.snapshot_sends_max),
            snapshot_receive_slots: Slots::new(config.snapshot_receives_max),
            refusals: Mutex::default(),
            tls_failures: TlsFailures::default(),
            listen_waker: Waker::new().map_err(TransportError::System)?,
            threads: Threads::default(),
            config,
        });
        shared
            .spawn("mraft-listen".to_owned(), move |shared| listener::run(&listener, shared))
            .map_err(TransportError::System)?;
        Ok(Transport { shared, local_address })
    }

    /// Where peers are accepted; tells the port when the system chose it.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Makes the node a peer, or tells its new address. Repeating the call is harmless.
    pub fn set_peer(&self, node: NodeId, address: &str) -> Result<(), TransportError> {
        let refuse = |reason| Err(TransportError::BadAddress { node, address: address.to_owned(), reason });
        if self.shared.is_closing() {
            return Err(TransportError::Closed);
        }
        if node == self.shared.config.node {
            return refuse("it is this node itself");
        }
        let is_new_address = self.shared.resolver.set(node, address)?;
        let mut peers = self.shared.peers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&node) {
            if is_new_address {
                peer.address_changed();
            }
            return Ok(());
        }
        let peer = Arc::new(Peer::new(node).map_err(TransportError::System)?);
        let of_thread = peer.clone();
        self.shared
            .spawn(format!("mraft-peer-{node}"), move |shared| of_thread.run(shared))
            .map_err(TransportError::System)?;
        peers.insert(node, peer);
        Ok(())
    }

    /// The node is no peer any more: its connections are closed, either way. Harmless for one that is none.
    pub fn remove_peer(&self, node: NodeId) {
        let peer = self.shared.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
        self.shared.resolver.remove(node);
        self.shared.close_inbound(node);
        // Whoever comes under this id later is somebody else, also if he is refused for the same reason.
        self.shared.forget_refusal(node);
        if let Some(peer) = peer {
            peer.remove();
        }
    }

    /// Sends a finished frame of packets ([`mraft_wire::FrameBuilder`]); writes it at once if nothing waits before it and the
    /// socket takes it. Never blocks. After an error no byte of it has left; after `Ok` it may still be lost with the connection.
    pub fn send(&self, node: NodeId, frame: Vec<u8>) -> Result<(), Dropped> {
        let result = if self.shared.is_closing() {
            Err(Dropped::Closing)
        } else if !(FRAME_HEADER_BYTES..=FRAME_BYTES_MAX).contains(&frame.len()) {
            Err(Dropped::NotAFrame)
        } else {
            match self.shared.peer(node) {
                Some(peer) => peer.send(&self.shared, frame),
                None => Err(Dropped::UnknownPeer),
            }
        };
        if let Err(reason) = result {
            self.shared.counters.drop_frames(reason, 1);
        }
        result
    }

    /// Sends a snapshot on a thread and a connection of its own. After `Ok`, `done` is called exactly once, on that thread; after
    /// an error never.
    pub fn send_snapshot(
        &self,
        node: NodeId,
        header: SnapshotHeader,
        mut source: Box<dyn SnapshotSource>,
        done: Box<dyn FnOnce(Result<(), SnapshotFailed>) + Send>,
    ) -> Result<(), SnapshotFailed> {
        if self.shared.is_closing() {
            return Err(SnapshotFailed::Closing);
        }
        if self.shared.peer(node).is_none() {
            return Err(SnapshotFailed::NotSent(Dropped::UnknownPeer));
        }
        let slots = &self.shared.snapshot_send_slots;
        let slot = slots.take().ok_or(SnapshotFailed::TooMany(slots.max()))?;
        self.shared
            .spawn(format!("mraft-snap-{node}"), move |shared| {
                let result = snapshot::send(shared, node, &header, &mut *source);
                // The view of the store is closed before anybody hears that the snapshot is sent.
                drop((source, slot));
                done(result);
            })
            .map_err(|error| SnapshotFailed::NotConnected(error.to_string()))
    }

    /// Whether the node is a peer, connected or not.
    pub fn is_peer(&self, node: NodeId) -> bool {
        self.shared.peer(node).is_some()
    }

    /// Where the node is dialled, if it is a peer.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.shared.resolver.address(node)
    }

    /// Whether frames can be sent to the node at this moment.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.shared.peer(node).is_some_and(|peer| peer.stats(String::new()).is_connected)
    }

    /// Counters and gauges.
    pub fn stats(&self) -> TransportStats {
        let shared = &self.shared;
        let mut stats = shared.counters.snapshot();
        stats.inbound_connections = shared.inbound_slots.taken();
        stats.send_queue_bytes = shared.send_bytes.load(Ordering::Acquire);
        stats.receive_queue_bytes = shared.receive.bytes();
        let peers = shared.peers.read().unwrap_or_else(PoisonError::into_inner).clone();
        stats.peers = peers
            .iter()
            .map(|(node, peer)| peer.stats(shared.resolver.address(*node).unwrap_or_default()))
            .collect();
        stats
    }

    /// Closes all connections and waits for all threads, at most a dial and five seconds; whether all ended. Not to be called by
    /// the handler, whose threads it waits for. Harmless to repeat.
    pub fn close(&self) -> bool {
        const GRACE: Duration = Duration::from_secs(5);
        self.begin_close();
        let running = self.shared.threads.wait_for_end(self.shared.config.dial_timeout + GRACE);
        if running > 0 {
            tracing::warn!(running, "threads of the transport did not end in time");
        }
        running == 0
    }

    /// Closes all connections and waits for nobody: nothing is sent and nothing new is taken from here on.
    pub fn begin_close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.listen_waker.wake();
        self.shared.sockets.close();
        for peer in self.shared.all_peers() {
            peer.wake();
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn many_peers_at_once_are_taken_before_anybody_accepts_them() {
        const BURST_MAX: usize = 400;
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
        let burst = allowed.trim().parse().map_or(BURST_MAX, |allowed: usize| allowed.min(BURST_MAX));
        let node = NodeId::new(1).expect("a node id");
        let config = TransportConfig::new(node, "127.0.0.1:0", Arc::new(|| 0));
        let listening = Listening::bind(config).expect("a port");
        // The time is only for giving up: who finds no room is not answered at all, as nobody ever accepts.
        let connect = |_| TcpStream::connect_timeout(&listening.local_address, Duration::from_secs(10));
        let taken: Vec<_> = (0..burst).map_while(|number| connect(number).ok()).collect();
        assert_eq!(taken.len(), burst);
    }
}
