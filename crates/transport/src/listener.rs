// SPDX-License-Identifier: Apache-2.0

//! Accepting: one thread takes connections, each gets a thread of its own that hears the hello and then reads.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use mraft_types::NodeId;
use mraft_wire::{FrameKind, HelloRefused, HelloReply, Purpose, encode_frame};
use rustix::event::PollFlags;

use crate::handler::Refusal;
use crate::handshake::{HelloFailed, hear_hello};
use crate::shared::{Shared, Slot};
use crate::snapshot;
use crate::stats::CloseReason;
use crate::stream::{Broken, Stream, unexpected};

/// The accepting thread.
pub(crate) fn run(listener: &TcpListener, shared: &Arc<Shared>) {
    /// Pause after the system gave no connection (no descriptors, no memory): accepting again at once would spin.
    const PAUSE: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(3600);
    while !shared.is_closing() {
        match listener.accept() {
            Ok((socket, address)) => admit(shared, socket, address),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let ready = shared.listen_waker.wait(Some((listener.as_fd(), PollFlags::IN)), LONG);
                if let Err(error) = ready {
                    tracing::error!("waiting for connections failed: {error}");
                    std::thread::sleep(PAUSE);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!("accepting a connection failed: {error}");
                let _ = shared.listen_waker.wait(None, PAUSE);
            }
        }
    }
}

/// Gives the connection a thread, if there is a place for it.
fn admit(shared: &Arc<Shared>, socket: TcpStream, address: SocketAddr) {
    let Some(slot) = shared.inbound_slots.take() else {
        return turn_away(shared, &socket, CloseReason::TooManyConnections, shared.inbound_slots.max());
    };
    let Some(handshake) = shared.handshake_slots.take() else {
        return turn_away(shared, &socket, CloseReason::TooManyHandshakes, shared.handshake_slots.max());
    };
    let spawned = shared.spawn(format!("mraft-in-{address}"), move |shared| {
        let _slot = slot;
        let reason = serve(shared, socket, address, handshake);
        shared.counters.close(reason);
    });
    if let Err(error) = spawned {
        tracing::warn!(%address, "no thread for a connection: {error}");
    }
}

/// Says why, if that is possible without waiting.
fn turn_away(shared: &Shared, mut socket: &TcpStream, reason: CloseReason, limit: usize) {
    shared.counters.close(reason);
    tracing::warn!(limit, "a connection was turned away: {reason}");
    if shared.tls.is_none() && socket.set_nonblocking(true).is_ok() {
        let refused = HelloReply::Refused(HelloRefused::TooManyConnections { limit: limit as u64 });
        let _ = socket.write(&encode_frame(FrameKind::HelloReply, |out| refused.encode(out)));
    }
}

fn serve(shared: &Arc<Shared>, socket: TcpStream, address: SocketAddr, handshake: Slot) -> CloseReason {
    let socket = Arc::new(socket);
    let registered = shared.sockets.register(&socket);
    let mut of_messages = None;
    let greeted = greet(shared, &socket).and_then(|mut stream| {
        let connected = hear_hello(&mut stream, &*shared.handler, |hello| {
            // Before the dialer can know, because it then closes its older connection, which must not look like a loss.
            if hello.purpose == Purpose::Messages {
                shared.supersede(hello.node, registered.id, socket.clone());
                of_messages = Some(hello.node);
            }
        })?;
        Ok((stream, connected))
    });
    drop(handshake);
    let (stream, connected) = match greeted {
        Ok(greeted) => greeted,
        Err(failed) => {
            if let Some(node) = of_messages {
                shared.forget_inbound(node, registered.id);
            }
            return tell_failure(shared, address, failed);
        }
    };
    let node = connected.hello.node;
    shared.counters.accepts.add(1);
    shared.forget_refusal(node);
    shared.tls_failures.forget(address.ip());
    tracing::debug!(%node, %address, purpose = %connected.hello.purpose, "accepted");
    match connected.hello.purpose {
        Purpose::Messages => {
            if let Some(peer) = shared.peer(node) {
                peer.inbound_arrived();
            }
            let broken = read_messages(shared, stream, node);
            end_of_messages(shared, node, registered.id, broken)
        }
        Purpose::Snapshot => snapshot::receive(shared, stream, node),
    }
}

fn greet(shared: &Shared, socket: &Arc<TcpStream>) -> Result<Stream, HelloFailed> {
    let tls = match &shared.tls {
        None => None,
        Some(tls) => Some(tls.accepting().map_err(|reason| Broken::new(CloseReason::Tls, reason))?),
    };
    Ok(Stream::new(socket.clone(), tls, shared.config.hello_timeout)?)
}

fn tell_failure(shared: &Shared, address: SocketAddr, failed: HelloFailed) -> CloseReason {
    let reason = failed.close_reason();
    let (by_peer, node, refused) = match failed {
        HelloFailed::ByPeer(node, refused) => (true, node, refused),
        HelloFailed::ByUs(node, refused) => (false, node, refused),
        HelloFailed::Broken(broken) => {
            // No hello says who it is, and it may be a peer that this node can dial well: nobody else would tell.
            let is_told = reason == CloseReason::Tls && !shared.is_closing();
            if is_told && shared.tls_failures.is_news(address.ip(), &broken.detail) {
                tracing::warn!(%address, "somebody cannot connect to this node: {broken}");
            } else if !shared.is_closing() {
                tracing::debug!(%address, reason = reason.label(), "no hello: {broken}");
            }
            return reason;
        }
    };
    if let Some(node) = node {
        shared.tell_refusal(Refusal { node, address: address.to_string(), by_peer, reason: refused });
    }
    reason
}

/// Reads until the connection ends; why it did.
fn read_messages(shared: &Shared, mut stream: Stream, node: NodeId) -> Broken {
    let of_peer = shared.receive.of_peer(node);
    if let Err(broken) = stream.set_patience(shared.config.idle_timeout) {
        return broken;
    }
    loop {
        let frame = match stream.read_frame() {
            Ok(frame) => frame,
            Err(broken) => return broken,
        };
        match frame.kind {
            FrameKind::Keepalive => {}
            FrameKind::Packets => {
                let bytes = frame.payload.len() as u64;
                let Some((received, waited)) = shared.receive.admit(&of_peer, frame.payload, &shared.closing)
                else {
                    return Broken::new(CloseReason::Closing, "the transport is closing");
                };
                shared.counters.frames_received.add(1);
                shared.counters.bytes_received.add(bytes);
                shared.counters.receive_waits.add(waited.into());
                shared.counters.frames_over_limit.add(received.is_over_limit().into());
                if let Err(error) = shared.handler.frame(node, received) {
                    return error.into();
                }
            }
            other => return unexpected(other, FrameKind::Packets),
        }
    }
}

/// Tells a loss (rule T5) from closes of our own, and counts.
fn end_of_messages(shared: &Shared, node: NodeId, id: u64, broken: Broken) -> CloseReason {
    let was_current = shared.forget_inbound(node, id);
    if shared.is_closing() {
        return CloseReason::Closing;
    }
    if !was_current {
        return CloseReason::Superseded;
    }
    tracing::info!(%node, reason = broken.reason.label(), "the peer's connection ended: {broken}");
    let by_peer = matches!(broken.reason, CloseReason::EndOfStream | CloseReason::Io);
    if let Some(peer) = shared.peer(node)
        && by_peer
    {
        peer.inbound_lost();
    }
    broken.reason
}
