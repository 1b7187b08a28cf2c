// SPDX-License-Identifier: Apache-2.0

//! Snapshots on connections of their own: limited in number and rate, checked chunk by chunk and as a whole (rules N1, N2).

use std::sync::Arc;

use mraft_types::{GroupId, NodeId};
use mraft_wire::{
    FrameKind, Purpose, SnapshotChunk, SnapshotEnd, SnapshotHeader, SnapshotReply, SnapshotSum,
};

use crate::dial::{Dialed, dial};
use crate::handler::{SnapshotFailed, SnapshotReceiver, SnapshotSource};
use crate::shared::Shared;
use crate::stats::CloseReason;
use crate::stream::{Broken, Stream, unexpected};

/// Sends one snapshot; runs on a thread of its own.
pub(crate) fn send(
    shared: &Arc<Shared>,
    node: NodeId,
    header: &SnapshotHeader,
    source: &mut dyn SnapshotSource,
) -> Result<(), SnapshotFailed> {
    let result = try_send(shared, node, header, source);
    match &result {
        Ok(()) => shared.counters.snapshots_sent.add(1),
        Err(failed) => {
            shared.counters.snapshots_failed.add(1);
            // The caller is told, and says it where it knows what follows.
            tracing::debug!(%node, group = %header.group, "sending a snapshot failed: {failed}");
        }
    }
    result
}

fn try_send(
    shared: &Arc<Shared>,
    node: NodeId,
    header: &SnapshotHeader,
    source: &mut dyn SnapshotSource,
) -> Result<(), SnapshotFailed> {
    let Dialed { mut stream, registered, .. } =
        dial(shared, node, Purpose::Snapshot, shared.config.dial_timeout)
            .map_err(|failed| SnapshotFailed::NotConnected(failed.to_string()))?;
    stream.set_patience(shared.config.snapshot_stall_timeout).map_err(broken)?;
    let mut is_encoded = false;
    stream.write(FrameKind::SnapshotHeader, |out| is_encoded = header.encode(out)).map_err(broken)?;
    if !is_encoded {
        return Err(SnapshotFailed::Source("its meta is longer than it may be".to_owned()));
    }
    expect_reply(&mut stream, SnapshotReply::Accepted)?;
    let mut sum = SnapshotSum::new();
    while let Some(data) = source.next_chunk().map_err(SnapshotFailed::Source)? {
        let bytes = data.len() as u64;
        let chunk = sum.number(data).map_err(|error| SnapshotFailed::Source(error.to_string()))?;
        let waited = shared.send_pacer.pace(bytes, &shared.closing);
        shared.counters.snapshot_throttled_ms.add(waited.as_millis() as u64);
        if shared.is_closing() {
            return Err(SnapshotFailed::Closing);
        }
        if stream.has_input().map_err(broken)? {
            return Err(early_end(&mut stream, None));
        }
        if let Err(error) = stream.write(FrameKind::SnapshotChunk, |out| chunk.encode(out)) {
            return Err(early_end(&mut stream, Some(error)));
        }
        shared.counters.snapshot_bytes_sent.add(bytes);
    }
    let end = sum.end();
    if let Err(error) = stream.write(FrameKind::SnapshotEnd, |out| end.encode(out)) {
        return Err(early_end(&mut stream, Some(error)));
    }
    stream.set_patience(shared.config.snapshot_finish_timeout).map_err(broken)?;
    expect_reply(&mut stream, SnapshotReply::Finished)?;
    drop(registered);
    Ok(())
}

/// The receiver ended it before its time; its reason is worth more than ours.
fn early_end(stream: &mut Stream, ours: Option<Broken>) -> SnapshotFailed {
    match read_reply(stream) {
        Ok(SnapshotReply::Refused(reason)) => SnapshotFailed::RefusedByPeer(reason),
        Ok(_) => SnapshotFailed::Broken("an answer that was not due".to_owned()),
        Err(theirs) => broken(ours.unwrap_or(theirs)),
    }
}

fn expect_reply(stream: &mut Stream, expected: SnapshotReply) -> Result<(), SnapshotFailed> {
    match read_reply(stream).map_err(broken)? {
        SnapshotReply::Refused(reason) => Err(SnapshotFailed::RefusedByPeer(reason)),
        reply if reply == expected => Ok(()),
        reply => Err(SnapshotFailed::Broken(format!("{reply:?} where {expected:?} was due"))),
    }
}

fn read_reply(stream: &mut Stream) -> Result<SnapshotReply, Broken> {
    Ok(SnapshotReply::decode(&stream.read_kind(FrameKind::SnapshotReply)?)?)
}

fn broken(broken: Broken) -> SnapshotFailed {
    SnapshotFailed::Broken(broken.detail)
}

/// Receives one snapshot on an accepted connection.
pub(crate) fn receive(shared: &Arc<Shared>, mut stream: Stream, from: NodeId) -> CloseReason {
    let mut group = None;
    let refused = match try_receive(shared, &mut stream, from, &mut group) {
        Ok(()) => {
            // Counted before the sender can know.
            shared.counters.snapshots_received.add(1);
            let told = stream.write(FrameKind::SnapshotReply, |out| SnapshotReply::Finished.encode(out));
            return told.map_or_else(|broken| broken.reason, |()| CloseReason::Done);
        }
        Err(refused) => refused,
    };
    shared.counters.snapshots_failed.add(1);
    let group = group.map(|group| group.to_string());
    tracing::warn!(node = %from, group, "a snapshot was not taken in and is asked for again: {}", refused.broken.detail);
    if refused.is_answerable {
        let reply = SnapshotReply::Refused(refused.broken.detail);
        if stream.write(FrameKind::SnapshotReply, |out| reply.encode(out)).is_ok() {
            stream.close_gently();
        }
    }
    refused.broken.reason
}

/// A snapshot that is not taken; whether the sender can still be told.
struct NotTaken {
    broken: Broken,
    is_answerable: bool,
}

impl From<Broken> for NotTaken {
    fn from(broken: Broken) -> NotTaken {
        let is_answerable = broken.reason == CloseReason::Protocol;
        NotTaken { broken, is_answerable }
    }
}

fn refuse(reason: String) -> NotTaken {
    NotTaken { broken: Broken::new(CloseReason::Done, reason), is_answerable: true }
}

fn try_receive(
    shared: &Arc<Shared>,
    stream: &mut Stream,
    from: NodeId,
    group: &mut Option<GroupId>,
) -> Result<(), NotTaken> {
    stream.set_patience(shared.config.snapshot_stall_timeout)?;
    let header = stream.read_kind(FrameKind::SnapshotHeader)?;
    let header = SnapshotHeader::decode(&header).map_err(Broken::from)?;
    *group = Some(header.group);
    if header.from.node() != from || header.to.node() != shared.config.node {
        let detail = format!("a snapshot from {} to {} on the wrong connection", header.from, header.to);
        return Err(Broken::new(CloseReason::Protocol, detail).into());
    }
    let slots = &shared.snapshot_receive_slots;
    let _slot = slots
        .take()
        .ok_or_else(|| refuse(format!("{} snapshots are being received already", slots.max())))?;
    let mut receiver = shared.handler.snapshot_begin(header).map_err(refuse)?;
    stream.write(FrameKind::SnapshotReply, |out| SnapshotReply::Accepted.encode(out))?;
    take_chunks(shared, stream, &mut *receiver)?;
    receiver.finish().map_err(refuse)
}

fn take_chunks(
    shared: &Arc<Shared>,
    stream: &mut Stream,
    receiver: &mut dyn SnapshotReceiver,
) -> Result<(), NotTaken> {
    let protocol = |error: mraft_wire::StreamError| Broken::new(CloseReason::Protocol, error.to_string());
    let mut sum = SnapshotSum::new();
    loop {
        let frame = stream.read_frame()?;
        match frame.kind {
            FrameKind::SnapshotChunk => {
                let chunk = SnapshotChunk::decode(&frame.payload).map_err(Broken::from)?;
                sum.receive(&chunk).map_err(protocol)?;
                let bytes = chunk.data.len() as u64;
                receiver.chunk(chunk.data).map_err(refuse)?;
                shared.counters.snapshot_bytes_received.add(bytes);
                let waited = shared.receive_pacer.pace(bytes, &shared.closing);
                shared.counters.snapshot_throttled_ms.add(waited.as_millis() as u64);
            }
            FrameKind::SnapshotEnd => {
                let end = SnapshotEnd::decode(&frame.payload).map_err(Broken::from)?;
                return Ok(sum.verify(&end).map_err(protocol)?);
            }
            other => return Err(unexpected(other, FrameKind::SnapshotChunk).into()),
        }
    }
}
