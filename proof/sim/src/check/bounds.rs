// SPDX-License-Identifier: Apache-2.0

//! Queues and memory stay within their bounds (rule T2).

use mraft_raft::Raft;
use mraft_types::GroupId;
use mraft_types::limits::ENTRY_BYTES_MAX;

use super::Broken;

/// See the module.
pub const PROMISE: &str = "queues and memory stay within their bounds";

/// Jobs that wait for a log: a replica writes once per turn, and a log that is held up lets nobody propose for long.
pub const LOG_JOBS_MAX: usize = 4_096;
/// Mail that waits for state machines.
pub const MAIL_MAX: usize = 4_096;

/// What one replica holds in memory.
pub fn replica(group: GroupId, replica: &Raft) -> Result<(), Broken> {
    let config = replica.config();
    let most = config.cache_bytes_max + config.unapplied_bytes_max + ENTRY_BYTES_MAX;
    let held = replica.cached_bytes();
    if held <= most {
        return Ok(());
    }
    let how = format!("{} of group {group} holds {held} bytes of entries, {most} at most", replica.id());
    Err(Broken::new(PROMISE, how))
}

/// A queue of a node.
pub fn queue(what: &str, len: usize, most: usize) -> Result<(), Broken> {
    if len <= most {
        return Ok(());
    }
    Err(Broken::new(PROMISE, format!("{len} {what} wait, {most} at most")))
}
