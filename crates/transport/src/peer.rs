// SPDX-License-Identifier: Apache-2.0

//! One peer: the queue before it, the connection to it, and the thread that dials and writes what callers could not.
//!
//! Everything that callers and the thread share stands under one lock, which is never held over a blocking call: the socket does
//! not block, the handler is called without it.

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mraft_types::NodeId;
use mraft_wire::{FrameKind, Purpose, encode_frame};
use rustix::event::PollFlags;

use crate::backoff::Backoff;
use crate::config::KEEPALIVES_PER_IDLE_TIMEOUT;
use crate::dial::{DialFailed, DialFailure, Dialed, dial};
use crate::handler::{Connected, Disconnected, Refusal};
use crate::link::{Flushed, Link, SendQueue};
use crate::shared::{Shared, lock};
use crate::stats::{CloseReason, Dropped, PeerStats};
use crate::stream::Broken;
use crate::waker::Waker;

pub(crate) struct Peer {
    node: NodeId,
    waker: Waker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    queue: SendQueue,
    /// The socket takes no more: the thread waits until it does.
    is_blocked: bool,
    /// Bytes were taken by the socket since the thread last looked.
    has_progress: bool,
    /// Why there is no link any more.
    broken: Option<Broken>,
    is_removed: bool,
    has_new_address: bool,
    /// The peer's own connection to us broke: see whether it lives (rule T5).
    is_in_doubt: bool,
    /// The peer reached us, so it is worth dialing now.
    is_back: bool,
    is_suspected: bool,
    /// Why the last dial failed, as long as none succeeded since.
    failure: Option<String>,
}

/// Why the thread stopped serving a connection.
enum Ended {
    Closing,
    AddressChanged,
    Lost(Broken),
    /// Lost, and the dial that is to follow a loss has failed already.
    Dead(Broken, DialFailed),
}

impl Peer {
    pub(crate) fn new(node: NodeId) -> std::io::Result<Peer> {
        Ok(Peer { node, waker: Waker::new()?, state: Mutex::default() })
    }

    /// Writes the frame, or queues it. After an error no byte of it has left.
    pub(crate) fn send(&self, shared: &Shared, frame: Vec<u8>) -> Result<(), Dropped> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if state.is_removed {
            return Err(Dropped::UnknownPeer);
        }
        let Some(link) = &mut state.link else { return Err(Dropped::NotConnected) };
        let (config, len) = (&shared.config, frame.len());
        let is_direct = state.queue.is_empty() && !state.is_blocked;
        if !state.queue.is_empty() {
            let max = config.send_queue_bytes_max;
            if max > 0 && state.queue.bytes() + len > max {
                return Err(Dropped::QueueFull);
            }
            // A peer that takes what it is sent is not held up by those that do not.
            if shared.send_bytes.load(Ordering::Acquire) + len > config.send_ceiling_bytes {
                return Err(Dropped::Ceiling);
            }
        }
        shared.send_bytes.fetch_add(len, Ordering::AcqRel);
        shared.counters.frames_taken.add(1);
        state.queue.push(frame);
        if is_direct {
            let flushed = flush(shared, link, &mut state.queue, usize::MAX, &mut state.has_progress);
            match flushed {
                Ok(Flushed::All) => shared.counters.frames_direct.add(1),
                Ok(_) => {
                    state.is_blocked = true;
                    self.waker.wake();
                }
                Err(error) => {
                    state.break_off(shared, error.into());
                    self.waker.wake();
                }
            }
        }
        Ok(())
    }

    pub(crate) fn stats(&self, address: String) -> PeerStats {
        let state = lock(&self.state);
        PeerStats {
            node: self.node,
            address,
            is_connected: state.link.is_some(),
            is_suspected: state.is_suspected,
            queued_bytes: state.queue.bytes(),
            failure: state.failure.clone().filter(|_| state.link.is_none()),
        }
    }

    /// The thread ends; the connection is closed.
    pub(crate) fn remove(&self) {
        self.tell(|state| state.is_removed = true);
    }

    pub(crate) fn address_changed(&self) {
        self.tell(|state| state.has_new_address = true);
    }

    /// The connection on which the peer sends broke, and not by our doing.
    pub(crate) fn inbound_lost(&self) {
        self.tell(|state| state.is_in_doubt = true);
    }

    /// The peer dialed us and was accepted.
    pub(crate) fn inbound_arrived(&self) {
        self.tell(|state| state.is_back = true);
    }

    /// Looks at the state again: the transport is closing.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.waker.wake();
    }

    /// The peer's thread: dial, serve until it ends, dial again; at once after a loss, later and later after failures.
    pub(crate) fn run(&self, shared: &Arc<Shared>) {
        let config = &shared.config;
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let mut was_lost = false;
        while self.begin_dial(shared) {
            let timeout = if was_lost { config.heartbeat_interval } else { config.dial_timeout };
            let failed = match self.dial(shared, timeout) {
                Ok((link, connected)) => {
                    backoff.reset();
                    self.attach(shared, link, &connected);
                    let (broken, failed, lost) = match self.serve(shared) {
                        Ended::Closing => (closing_reason(shared), None, false),
                        Ended::AddressChanged => {
                            let detail = "the node has another address now";
                            (Broken::new(CloseReason::AddressChanged, detail), None, false)
                        }
                        Ended::Lost(broken) => {
                            let by_peer = matches!(broken.reason, CloseReason::EndOfStream | CloseReason::Io);
                            (broken, None, by_peer)
                        }
                        Ended::Dead(broken, failed) => (broken, Some(failed), true),
                    };
                    was_lost = lost;
                    self.detach(shared, broken);
                    failed
                }
                Err(failed) => Some(failed),
            };
            if let Some(failed) = failed {
                self.tell_failure(shared, failed, was_lost);
                was_lost = false;
                self.pause(shared, backoff.next((config.jitter)()));
            }
        }
        let mut state = lock(&self.state);
        state.break_off(shared, closing_reason(shared));
    }

    /// Whether to go on; what was asked for before this dial is answered by it.
    fn begin_dial(&self, shared: &Shared) -> bool {
        let mut state = lock(&self.state);
        (state.is_in_doubt, state.is_back, state.has_new_address) = (false, false, false);
        !state.is_removed && !shared.is_closing()
    }

    fn dial(&self, shared: &Shared, timeout: Duration) -> Result<(Link, Connected), DialFailed> {
        let Dialed { stream, connected, registered } = dial(shared, self.node, Purpose::Messages, timeout)?;
        let link = stream.into_link().map_err(|broken| DialFailed {
            address: shared.resolver.address(self.node).unwrap_or_default(),
            kind: DialFailure::Unfit(broken.reason, broken.detail),
        })?;
        drop(registered);
        Ok((link, connected))
    }

    fn attach(&self, shared: &Shared, link: Link, connected: &Connected) {
        {
            let mut state = lock(&self.state);
            state.broken = None;
            state.is_blocked = false;
            state.is_suspected = false;
            state.link = Some(link);
            state.failure = None;
        }
        shared.forget_refusal(self.node);
        tracing::info!(node = %self.node, "connected");
        shared.handler.connected(self.node, connected);
    }

    fn detach(&self, shared: &Shared, broken: Broken) {
        lock(&self.state).break_off(shared, broken.clone());
        shared.counters.close(broken.reason);
        tracing::info!(node = %self.node, reason = broken.reason.label(), "disconnected: {broken}");
        let disconnected = Disconnected { reason: broken.reason, detail: broken.detail };
        shared.handler.disconnected(self.node, &disconnected);
    }

    /// Waits for what there is to do on a connection, and does it: asked for, readable, writable, or nothing for a while.
    fn serve(&self, shared: &Arc<Shared>) -> Ended {
        let tick = shared.config.idle_timeout / KEEPALIVES_PER_IDLE_TIMEOUT;
        let (mut next_tick, mut stalled_ticks) = (Instant::now() + tick, 0);
        loop {
            let (socket, is_blocked) = match self.poll_state(shared) {
                Ok(Some(polled)) => polled,
                Ok(None) => match self.probe(shared) {
                    None => continue,
                    Some(ended) => return ended,
                },
                Err(ended) => return ended,
            };
            let wanted = if is_blocked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let left = next_tick.saturating_duration_since(Instant::now());
            let ready = match self.waker.wait(Some((socket.as_fd(), wanted)), left) {
                Ok(ready) => ready,
                Err(error) => return Ended::Lost(error.into()),
            };
            let mut state = lock(&self.state);
            if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                state.check_input(shared, ready);
            }
            if ready.contains(PollFlags::OUT) {
                state.flush_some(shared);
            }
            if Instant::now() >= next_tick {
                next_tick += tick;
                stalled_ticks = if state.is_blocked && !state.has_progress { stalled_ticks + 1 } else { 0 };
                if stalled_ticks >= KEEPALIVES_PER_IDLE_TIMEOUT {
                    let detail = "the peer reads nothing";
                    state.break_off(shared, Broken::new(CloseReason::Stalled, detail));
                } else if !state.has_progress {
                    state.keep_alive(shared);
                }
                state.has_progress = false;
            }
        }
    }

    /// What to wait for: the socket, and whether it takes no more; `None` when the peer is in doubt; an error when the connection
    /// is over.
    fn poll_state(&self, shared: &Shared) -> Result<Option<(Arc<TcpStream>, bool)>, Ended> {
        let mut state = lock(&self.state);
        if state.is_removed || shared.is_closing() {
            return Err(Ended::Closing);
        }
        if state.has_new_address {
            return Err(Ended::AddressChanged);
        }
        if let Some(broken) = state.broken.take() {
            return Err(Ended::Lost(broken));
        }
        if std::mem::take(&mut state.is_in_doubt) {
            return Ok(None);
        }
        match &state.link {
            Some(link) => Ok(Some((link.socket(), state.is_blocked))),
            None => Err(Ended::Lost(Broken::new(CloseReason::Io, "no connection"))),
        }
    }

    /// The peer's own connection broke: dials it anew, and only then lets go of the connection in use (see the crate's head).
    fn probe(&self, shared: &Arc<Shared>) -> Option<Ended> {
        match self.dial(shared, shared.config.heartbeat_interval) {
            Ok((link, connected)) => {
                let detail = "replaced, because the peer's own connection had broken";
                let older = lock(&self.state).link.take();
                self.detach(shared, Broken::new(CloseReason::Replaced, detail));
                self.attach(shared, link, &connected);
                drop(older);
                None
            }
            Err(failed) => {
                let detail = "the peer's own connection broke, and it could not be dialed";
                Some(Ended::Dead(Broken::new(CloseReason::EndOfStream, detail), failed))
            }
        }
    }

    fn tell_failure(&self, shared: &Shared, failed: DialFailed, was_lost: bool) {
        if was_lost && failed.is_silence() && !shared.is_closing() {
            lock(&self.state).is_suspected = true;
            shared.counters.suspicions.add(1);
            tracing::warn!(node = %self.node, "suspected to be dead: {failed}");
            shared.handler.suspected(self.node);
        }
        let failure = failed.to_string();
        let is_news = lock(&self.state).failure.replace(failure.clone()) != Some(failure);
        match &failed.kind {
            // Somebody is there, so this does not go away by itself; each reason is said once.
            DialFailure::Unfit(..) if is_news => {
                tracing::warn!(node = %self.node, "cannot connect, and that is no lack of an answer: {failed}");
            }
            _ => tracing::debug!(node = %self.node, "dial failed: {failed}"),
        }
        if let DialFailure::Refused { by_peer, reason } = failed.kind {
            shared.tell_refusal(Refusal { node: self.node, address: failed.address, by_peer, reason });
        }
    }

    /// Waits before the next dial, unless there is a reason to dial now.
    fn pause(&self, shared: &Shared, duration: Duration) {
        let until = Instant::now() + duration;
        loop {
            {
                let state = lock(&self.state);
                if state.is_removed || state.is_back || state.has_new_address || shared.is_closing() {
                    return;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.waker.wait(None, left).is_err() {
                return;
            }
        }
    }
}

impl State {
    /// Lets go of the connection and of what waited for it.
    fn break_off(&mut self, shared: &Shared, broken: Broken) {
        shared.send_bytes.fetch_sub(self.queue.bytes(), Ordering::AcqRel);
        let frames = self.queue.clear();
        shared.counters.drop_frames(Dropped::ConnectionLost, frames);
        self.link = None;
        self.is_blocked = false;
        self.broken = Some(broken);
    }

    fn check_input(&mut self, shared: &Shared, ready: PollFlags) {
        let Some(link) = &mut self.link else { return };
        let checked = link.check_input();
        let hung_up = ready.intersects(PollFlags::HUP | PollFlags::ERR);
        match checked {
            Ok(()) if hung_up => {
                self.break_off(shared, Broken::new(CloseReason::Io, "the connection hung up"));
            }
            Ok(()) => {}
            Err(broken) => self.break_off(shared, broken),
        }
    }

    fn flush_some(&mut self, shared: &Shared) {
        /// Written under the lock at once, so that callers of `send` do not wait long.
        const FLUSH_BYTES: usize = 1 << 20;
        let Some(link) = &mut self.link else { return };
        match flush(shared, link, &mut self.queue, FLUSH_BYTES, &mut self.has_progress) {
            Ok(Flushed::All) => self.is_blocked = false,
            Ok(_) => {}
            Err(error) => self.break_off(shared, error.into()),
        }
    }

    fn keep_alive(&mut self, shared: &Shared) {
        if self.link.is_none() || self.is_blocked {
            return;
        }
        let frame = encode_frame(FrameKind::Keepalive, |_| {});
        shared.send_bytes.fetch_add(frame.len(), Ordering::AcqRel);
        self.queue.push(frame);
        self.is_blocked = true;
        self.flush_some(shared);
    }
}

fn flush(
    shared: &Shared,
    link: &mut Link,
    queue: &mut SendQueue,
    bytes_max: usize,
    has_progress: &mut bool,
) -> std::io::Result<Flushed> {
    let before = queue.bytes();
    let flushed = link.flush(queue, bytes_max);
    let written = before - queue.bytes();
    *has_progress |= written > 0;
    shared.send_bytes.fetch_sub(written, Ordering::AcqRel);
    shared.counters.bytes_sent.add(written as u64);
    flushed
}

fn closing_reason(shared: &Shared) -> Broken {
    if shared.is_closing() {
        Broken::new(CloseReason::Closing, "the transport is closing")
    } else {
        Broken::new(CloseReason::PeerRemoved, "the node is no peer any more")
    }
}
