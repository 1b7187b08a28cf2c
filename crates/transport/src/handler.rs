// SPDX-License-Identifier: Apache-2.0

//! What a transport asks of the node that it serves. Calls come from the transport's threads, no lock held; a call that takes
//! long holds up the connection that it is about, and no other.

use std::fmt;

use mraft_types::{NodeId, Payload};
use mraft_wire::{Accepted, DecodeError, Hello, HelloRefused, Purpose, SnapshotHeader};

use crate::receive::Received;
use crate::stats::{CloseReason, Dropped};

/// The node behind a transport.
pub trait Handler: Send + Sync {
    /// What this node says of itself to `peer` now.
    fn hello(&self, peer: NodeId, purpose: Purpose) -> Hello;

    /// Decides about a peer's hello, given ours; whatever it learned is durable when this returns `Ok` (rule M6). `dialed` is the
    /// node that was meant to answer; `None` when the peer dialed.
    fn check_hello(
        &self,
        ours: &Hello,
        theirs: &Hello,
        dialed: Option<NodeId>,
    ) -> Result<Accepted, HelloRefused>;

    /// A frame of packets from a peer. An error closes the connection: the peer does not speak the language.
    fn frame(&self, from: NodeId, frame: Received) -> Result<(), DecodeError>;

    /// Frames can be sent to this node from now on. Comes again without [`Handler::disconnected`] in between never.
    fn connected(&self, node: NodeId, connected: &Connected);

    /// The connection for sending to this node ended; frames on their way may be lost.
    fn disconnected(&self, node: NodeId, disconnected: &Disconnected);

    /// The node's process is probably dead (rule T5). Said once until it is connected again.
    fn suspected(&self, node: NodeId);

    /// A connection was refused by either side for a reason that hello gives. Said again only when the reason changes.
    fn refused(&self, refusal: &Refusal);

    /// A peer wants to send a snapshot; the error is the reason that it is told.
    fn snapshot_begin(&self, header: SnapshotHeader) -> Result<Box<dyn SnapshotReceiver>, String>;
}

/// Where an incoming snapshot goes. Dropped without [`SnapshotReceiver::finish`], it was cut short.
pub trait SnapshotReceiver: Send {
    /// The next chunk of data. It is checked, but its content is not trusted.
    fn chunk(&mut self, data: Payload) -> Result<(), String>;

    /// Everything arrived and its count and hash are right. When this returns `Ok`, it is staged and synced (rule N1, step 1).
    fn finish(self: Box<Self>) -> Result<(), String>;
}

/// Where an outgoing snapshot comes from.
pub trait SnapshotSource: Send {
    /// The next data, about [`mraft_wire::SNAPSHOT_CHUNK_BYTES_TARGET`] bytes and at most
    /// [`mraft_wire::SNAPSHOT_CHUNK_BYTES_MAX`]; `None` when there is no more.
    fn next_chunk(&mut self) -> Result<Option<Payload>, String>;
}

/// Both hellos were accepted.
#[derive(Clone, Debug)]
pub struct Connected {
    /// What the peer said of itself.
    pub hello: Hello,
    /// What was agreed.
    pub accepted: Accepted,
}

/// A connection ended.
#[derive(Clone, Debug)]
pub struct Disconnected {
    /// Why, for counting.
    pub reason: CloseReason,
    /// Why, for people.
    pub detail: String,
}

/// A hello that did not lead to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The peer, as far as known.
    pub node: NodeId,
    /// Its address.
    pub address: String,
    /// Whether the peer refused us, or we it.
    pub by_peer: bool,
    /// Why; *ours* is always this node's value.
    pub reason: HelloRefused,
}

/// Why a snapshot did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotFailed {
    /// It was not begun.
    NotSent(Dropped),
    /// As many snapshots are being sent as may be; try again later.
    TooMany(usize),
    /// No connection.
    NotConnected(String),
    /// The receiver said no, or failed.
    RefusedByPeer(String),
    /// The store that it is read from failed.
    Source(String),
    /// The connection broke or stalled.
    Broken(String),
    /// The transport was closed.
    Closing,
}

impl fmt::Display for SnapshotFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotFailed::NotSent(dropped) => write!(f, "not sent: {dropped}"),
            SnapshotFailed::TooMany(limit) => write!(f, "{limit} snapshots are being sent already"),
            SnapshotFailed::NotConnected(reason) => write!(f, "no connection: {reason}"),
            SnapshotFailed::RefusedByPeer(reason) => write!(f, "refused by the receiver: {reason}"),
            SnapshotFailed::Source(reason) => write!(f, "reading it failed: {reason}"),
            SnapshotFailed::Broken(reason) => write!(f, "the connection broke: {reason}"),
            SnapshotFailed::Closing => f.write_str("the transport is closing"),
        }
    }
}

impl std::error::Error for SnapshotFailed {}
