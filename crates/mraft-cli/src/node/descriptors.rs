// SPDX-License-Identifier: Apache-2.0

//! Who may have how many of the process's file descriptors (rule T2).
//!
//! A log that cannot open its next file has failed, and a store that cannot read one ends its replica. So whoever connects, be it a
//! stranger, must not be able to take the last descriptor: clients have what is left when the node has its own.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the node itself may need beside the files of its stores: the log's, those of snapshots that come and go, connections of peers,
/// and hellos of strangers, of which the transport takes a few at a time.
const OWN: u64 = 192;
/// Files that all trees of a node keep open: fewer cost reads, more bring nothing.
const FILES: std::ops::RangeInclusive<u64> = 64..=512;
/// Connections of clients. Fewer than the least would not be a service.
const CLIENTS: std::ops::RangeInclusive<u64> = 16..=8_192;
/// Enough for everything.
const ENOUGH: u64 = OWN + *FILES.end() + *CLIENTS.end();

/// Descriptors, shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// How many the process may have.
    pub(super) limit: u64,
    /// Files that stores keep open.
    pub(super) files: usize,
    /// Connections of clients.
    pub(super) clients: usize,
}

impl Descriptors {
    /// Asks the system for as many as it gives without being told to, and shares them out.
    pub(super) fn of_process() -> Descriptors {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let wanted = maximum.unwrap_or(u64::MAX).min(ENOUGH);
        let mut limit = current.unwrap_or(u64::MAX);
        if limit < wanted {
            match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
                Ok(()) => limit = wanted,
                Err(error) => tracing::warn!(%error, limit, wanted, "the limit of open files stays low"),
            }
        }
        let share = Descriptors::share(limit);
        if limit < ENOUGH {
            tracing::warn!(
                limit,
                clients = share.clients,
                enough = ENOUGH,
                "the limit of open files bounds the connections of clients; raise it (ulimit -n, LimitNOFILE=)"
            );
        }
        share
    }

    fn share(limit: u64) -> Descriptors {
        let files = (limit / 4).clamp(*FILES.start(), *FILES.end());
        let clients = limit.saturating_sub(OWN + files).clamp(*CLIENTS.start(), *CLIENTS.end());
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Descriptors { limit, files: count(files), clients: count(clients) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t2_clients_have_what_the_node_does_not_need() {
        for limit in [280, 300, 1_024, 4_096, ENOUGH, 1 << 20, u64::MAX] {
            let Descriptors { files, clients, .. } = Descriptors::share(limit);
            let given = OWN + files as u64 + clients as u64;
            assert!(given <= limit, "{limit}: {files} files and {clients} clients");
        }
        assert_eq!(Descriptors::share(1_024), Descriptors { limit: 1_024, files: 256, clients: 576 });
        assert_eq!(Descriptors::share(ENOUGH).clients, 8_192);
        assert_eq!(Descriptors::share(1).clients, 16, "it starts all the same, and says so");
    }

    #[test]
    fn t2_the_process_takes_what_it_may_have() {
        let before = getrlimit(Resource::Nofile);
        let share = Descriptors::of_process();
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.maximum, before.maximum);
        assert!(after.current.unwrap_or(u64::MAX) >= before.maximum.unwrap_or(u64::MAX).min(ENOUGH));
        assert_eq!(share.limit, after.current.unwrap_or(u64::MAX));
    }
}
