// SPDX-License-Identifier: Apache-2.0

//! Why a host does not start, or does not do what it was asked to. What becomes of single requests is an
//! [`mraft_engine::effect::Answer`], not one of these.

use std::fmt;
use std::path::{Path, PathBuf};

use mraft_types::{GroupId, NodeId};

/// Errors of a host.
#[derive(Debug)]
#[non_exhaustive]
pub enum HostError {
    /// A setting is impossible: the field, what it is, and the fix.
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file or directory could not be read, written or locked.
    Io {
        /// The path.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file is damaged; nothing was touched.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration says something else than the directory; nothing was touched.
    Disagrees {
        /// What, with both values and the fix.
        reason: String,
    },
    /// The data directory belongs to somebody else, is in use, or is not whole; nothing was touched.
    Refused {
        /// Why, with both values.
        reason: String,
    },
    /// The log.
    Log(mraft_logstore::LogError),
    /// The system does not give the host the threads that it needs.
    Threads(std::io::Error),
    /// Peers cannot be listened for.
    Listen {
        /// Where.
        address: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The network.
    Network(String),
    /// A group's state machine.
    Machine {
        /// The group.
        group: GroupId,
        /// What is wrong.
        reason: String,
    },
    /// The group is here already.
    GroupExists(GroupId),
    /// The group is not here.
    NoSuchGroup(GroupId),
    /// The group's replica here was stopped by a call.
    GroupStopped(GroupId),
    /// Groups here list the node as a member, so what is known of it stays known (rule M6).
    NodeListed {
        /// The node.
        node: NodeId,
        /// All of these groups.
        groups: Vec<GroupId>,
    },
    /// A named limit would be exceeded.
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// The disk stopped every replica of the node.
    Stopped {
        /// What it did.
        reason: String,
    },
    /// Something was not done in time; nobody knows whether it will be.
    Late {
        /// What is in its way.
        reason: String,
    },
    /// The host is closing.
    Closed,
}

impl HostError {
    pub(crate) fn io(path: &Path, error: std::io::Error) -> HostError {
        HostError::Io { path: path.to_owned(), error }
    }

    /// Why the log in this directory could not be opened; what the system says does not name it.
    pub(crate) fn opening_log(directory: &Path, error: mraft_logstore::LogError) -> HostError {
        match error {
            mraft_logstore::LogError::Failed(error) => HostError::io(directory, error),
            error => HostError::Log(error),
        }
    }

    pub(crate) fn damaged(path: &Path, reason: String) -> HostError {
        HostError::Damaged { path: path.to_owned(), reason }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostError::Config { field, reason } => write!(f, "{field}: {reason}"),
            HostError::Io { path, error } => write!(f, "{}: {error}", path.display()),
            HostError::Damaged { path, reason } => {
                write!(f, "{}: damaged: {reason}; nothing was touched", path.display())
            }
            HostError::Disagrees { reason } | HostError::Refused { reason } => f.write_str(reason),
            HostError::Log(error) => error.fmt(f),
            HostError::Threads(error) => {
                write!(
                    f,
                    "threads cannot be started: {error}; let the process have more (pids.max of its control group, ulimit -u)"
                )
            }
            HostError::Listen { address, error } => {
                write!(
                    f,
                    "cannot listen for other nodes on {address}: {error}; set listen_address to a free one"
                )
            }
            HostError::Network(reason) => f.write_str(reason),
            HostError::Machine { group, reason } => write!(f, "group {group}: {reason}"),
            HostError::GroupExists(group) => write!(f, "group {group} is on this node already"),
            HostError::NoSuchGroup(group) => write!(f, "group {group} is not on this node"),
            HostError::GroupStopped(group) => {
                write!(f, "group {group} is stopped on this node: start it again")
            }
            HostError::NodeListed { node, groups } => {
                let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
                write!(f, "group {} lists node {node}: remove it from its groups first", groups.join(", "))
            }
            HostError::Limit { what, max } => write!(f, "too many {what}: the limit is {max}"),
            HostError::Stopped { reason } => {
                write!(f, "{reason}: mend the disk and start the node again")
            }
            HostError::Late { reason } => f.write_str(reason),
            HostError::Closed => f.write_str("the host is closing"),
        }
    }
}

impl std::error::Error for HostError {}

impl From<mraft_logstore::LogError> for HostError {
    fn from(error: mraft_logstore::LogError) -> HostError {
        HostError::Log(error)
    }
}
