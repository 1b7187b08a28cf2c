// SPDX-License-Identifier: Apache-2.0

//! Snapshots on their way out of and into state machines.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;

use mraft_engine::machine::{MachineError, SnapshotStage, SnapshotView};
use mraft_transport::{SnapshotReceiver, SnapshotSource};
use mraft_types::{LogStart, Payload, ReplicaId, Term};
use mraft_wire::SNAPSHOT_CHUNK_BYTES_TARGET;

use crate::apply_worker::ApplyMail;
use crate::core::{Incarnation, Input};
use crate::events::HostEvent;
use crate::node_host::Inner;

/// A snapshot that is going out, a chunk at a time.
pub(super) struct Source {
    pub(super) view: Box<dyn SnapshotView>,
    pub(super) inner: Weak<Inner>,
    pub(super) of: Incarnation,
    pub(super) to: ReplicaId,
}

impl SnapshotSource for Source {
    fn next_chunk(&mut self) -> Result<Option<Payload>, String> {
        // The transport asks for a chunk when the one before it has left.
        if let Some(shared) = self.inner.upgrade().and_then(|inner| inner.shared().ok()) {
            shared.snapshot_progress(self.of, self.to);
        }
        let mut chunk = Vec::new();
        match unpanicked(|| self.view.next_chunk(SNAPSHOT_CHUNK_BYTES_TARGET, &mut chunk))? {
            true => Ok(Some(Payload::from(chunk))),
            false => Ok(None),
        }
    }
}

/// A snapshot that is coming in.
pub(super) struct Incoming {
    pub(super) inner: Weak<Inner>,
    pub(super) of: Incarnation,
    pub(super) from: ReplicaId,
    pub(super) to: ReplicaId,
    pub(super) term: Term,
    pub(super) start: LogStart,
    pub(super) directory: u64,
    pub(super) stage: Option<Box<dyn SnapshotStage>>,
}

impl SnapshotReceiver for Incoming {
    fn chunk(&mut self, data: Payload) -> Result<(), String> {
        let stage = self.stage.as_mut().ok_or("the snapshot is finished")?;
        unpanicked(|| stage.write_chunk(&data))
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        let inner = self.inner.upgrade().ok_or("the node is closing")?;
        inner.has_log_room()?;
        let stage = self.stage.take().ok_or("the snapshot is finished")?;
        let (group, index) = (self.of.group, self.start.position.index);
        if let Err(error) = unpanicked(|| stage.finish()) {
            let _ = inner.mail(group, ApplyMail::Discard(self.of, self.directory));
            return Err(error);
        }
        inner.metrics().count("mraft_snapshots_total", "what", "received");
        inner.tell(&HostEvent::SnapshotReceived { group, index });
        let input = Input::Staged {
            of: self.of,
            from: self.from,
            to: self.to,
            term: self.term,
            start: self.start.clone(),
            directory: self.directory,
        };
        let shared = inner.shared().map_err(|error| error.to_string())?;
        shared.step(group).send(input).map_err(|_| "the node is closing".to_owned())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Cut short: what is staged is of no use.
        if self.stage.take().is_some()
            && let Some(inner) = self.inner.upgrade()
        {
            let _ = inner.mail(self.of.group, ApplyMail::Discard(self.of, self.directory));
        }
    }
}

/// A piece of a user's machine on a thread that serves all groups: a panic ends this snapshot and nothing else (rule T4).
pub(super) fn unpanicked<T>(part: impl FnOnce() -> Result<T, MachineError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(part)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the state machine panicked".to_owned()),
    }
}
