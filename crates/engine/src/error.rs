// SPDX-License-Identifier: Apache-2.0

//! The two ways in which a request fails (rule E3).

use std::fmt;

use mraft_raft::ChangeError;
use mraft_types::{CondemnedReason, Index, ReplicaId};

/// Not applied, and never will be: safe to try again elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotApplied {
    /// Another replica leads, or none that is known.
    NotLeader(Option<ReplicaId>),
    /// Leadership is being handed to this voter; try there in a moment.
    Transferring(ReplicaId),
    /// This queue is full.
    Busy(&'static str),
    /// The deadline passed before anything was proposed or sent.
    Deadline,
    /// Another leader's entry took its place in the log.
    Overwritten,
    /// The group is not here.
    NoSuchGroup,
    /// The replica is stopping or stopped.
    Stopping,
    /// The group was stopped on this node by a call, and is there until it is started again.
    Stopped,
    /// The replica is condemned.
    Condemned(CondemnedReason),
    /// The replicas' states differ at this entry, and no majority of voters has the same: nobody knows which is right (rule E8).
    Disputed(Index),
    /// The command is larger than it may be.
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// The membership change was not taken.
    Change(ChangeError),
    /// The transfer did not happen in time.
    TransferFailed(ReplicaId),
    /// The disk is slow, stalled or full: the node takes no writes for now.
    Disk(&'static str),
}

/// It may have been applied, or may be later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// The deadline passed after it was proposed.
    Deadline,
    /// The replica stopped.
    Stopped,
    /// A snapshot covered its place in the log.
    CoveredBySnapshot,
    /// The connection over which it had been sent on broke.
    ConnectionLost,
}

impl fmt::Display for NotApplied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotApplied::NotLeader(Some(leader)) => write!(f, "replica {leader} leads the group"),
            NotApplied::NotLeader(None) => f.write_str("the group has no leader that is known here"),
            NotApplied::Transferring(to) => write!(f, "leadership is being handed to replica {to}"),
            NotApplied::Busy(queue) => write!(f, "{queue} is full"),
            NotApplied::Deadline => f.write_str("the deadline passed before it was proposed"),
            NotApplied::Overwritten => f.write_str("another leader's entry took its place in the log"),
            NotApplied::NoSuchGroup => f.write_str("the group is not on this node"),
            NotApplied::Stopping => f.write_str("the replica is stopping"),
            NotApplied::Stopped => {
                f.write_str("the group is stopped on this node: start it again, or ask another member")
            }
            NotApplied::Condemned(reason) => write!(f, "the replica is condemned: {reason}"),
            NotApplied::Disputed(index) => write!(
                f,
                "the replicas' states differ at entry {index} and no majority has the same: the group serves again when one is found"
            ),
            NotApplied::TooLarge { bytes, max_bytes } => {
                write!(f, "the command has {bytes} bytes, more than the {max_bytes} it may have")
            }
            NotApplied::Change(error) => error.fmt(f),
            NotApplied::TransferFailed(to) => write!(f, "replica {to} did not take over in time"),
            NotApplied::Disk(why) => f.write_str(why),
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unknown::Deadline => "the deadline passed while it was being replicated",
            Unknown::Stopped => "the replica stopped while it was being replicated",
            Unknown::CoveredBySnapshot => "a snapshot covered its place in the log",
            Unknown::ConnectionLost => "the connection broke after it was sent",
        })
    }
}

impl std::error::Error for NotApplied {}
impl std::error::Error for Unknown {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mraft_types::NodeId;

    use super::*;

    #[test]
    fn every_failure_has_words_of_its_own_and_says_what_it_is_about() {
        let other = ReplicaId::new(0, NodeId::new(7).expect("a node id"));
        let about = [
            (NotApplied::NotLeader(Some(other)), other.to_string()),
            (NotApplied::NotLeader(None), "no leader".to_owned()),
            (NotApplied::Transferring(other), other.to_string()),
            (NotApplied::Busy("the queue"), "the queue".to_owned()),
            (NotApplied::Deadline, "before".to_owned()),
            (NotApplied::Overwritten, "took its place".to_owned()),
            (NotApplied::NoSuchGroup, "not on this node".to_owned()),
            (NotApplied::Stopping, "stopping".to_owned()),
            (NotApplied::Stopped, "start it again".to_owned()),
            (NotApplied::Condemned(CondemnedReason::LogLost), CondemnedReason::LogLost.to_string()),
            (NotApplied::Disputed(41), "entry 41".to_owned()),
            (NotApplied::TooLarge { bytes: 12, max_bytes: 10 }, "12 bytes, more than the 10".to_owned()),
            (NotApplied::Change(ChangeError::Pending(5)), ChangeError::Pending(5).to_string()),
            (NotApplied::TransferFailed(other), other.to_string()),
            (NotApplied::Disk("the disk hangs"), "the disk hangs".to_owned()),
        ];
        let unknown = [
            (Unknown::Deadline, "while"),
            (Unknown::Stopped, "stopped"),
            (Unknown::CoveredBySnapshot, "snapshot"),
            (Unknown::ConnectionLost, "connection"),
        ];
        let about = about.map(|(failure, about)| (failure.to_string(), about));
        let unknown = unknown.map(|(failure, about)| (failure.to_string(), about.to_owned()));
        let all: Vec<(String, String)> = about.into_iter().chain(unknown).collect();
        for (text, about) in &all {
            assert!(!about.is_empty() && text.contains(about.as_str()), "{text:?} does not say {about:?}");
        }
        assert_eq!(all.iter().map(|(text, _)| text).collect::<BTreeSet<_>>().len(), all.len());
    }
}
