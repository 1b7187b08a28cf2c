// SPDX-License-Identifier: Apache-2.0

//! Rule L5: a log that grows too long makes groups persist their state, and its segments are used again.

use std::sync::mpsc::channel;

use mraft::machines::{Command, InMemoryMachine, in_memory};
use mraft::{Answer, Machines, NO_SLOT, NodeHost};
use mraft_types::Payload;

use crate::support::{Cluster, GROUP, PATIENCE};

/// Counts commands.
#[derive(Default)]
struct Count(u64);

impl InMemoryMachine for Count {
    fn apply(&mut self, _command: &Command<'_>, answer: &mut Vec<u8>) {
        self.0 += 1;
        answer.extend_from_slice(&self.0.to_le_bytes());
    }

    fn query(&self, _query: &[u8], answer: &mut Vec<u8>) {
        answer.extend_from_slice(&self.0.to_le_bytes());
    }

    fn save(&self, state: &mut Vec<u8>) {
        state.extend_from_slice(&self.0.to_le_bytes());
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.0 = u64::from_le_bytes(state.try_into().map_err(|_| "a count has eight bytes")?);
        Ok(())
    }
}

#[test]
fn l5_a_long_log_makes_groups_persist_and_is_used_again() {
    let mut cluster = Cluster::start(1);
    cluster.close(1);
    let mut config = cluster.config(1);
    // Left alone, the group would keep everything for ever.
    config.compaction_overhead_entries = 1_000_000;
    config.log_segments_target = 2;
    let machines = Machines::new().with("list", |context| {
        Ok(in_memory(context.disk.clone(), context.directory.clone(), 1_000_000, Count::default()))
    });
    let host = NodeHost::open(config, machines, None).expect("its own directory");
    let body = Payload::from(vec![b'v'; 1 << 20]);
    let mut written = 0;
    while host.metrics().figures().segments_recycled < 2 {
        assert!(written < 4_000, "4 GiB were written, and no segment was used again");
        let (answered, answer) = channel();
        host.propose(GROUP, NO_SLOT, body.clone(), PATIENCE, move |answer| {
            // The test waits for it.
            let _ = answered.send(answer);
        });
        match answer.recv().expect("an answer") {
            Answer::Applied { .. } => written += 1,
            // No leader yet.
            Answer::NotApplied(_) => std::thread::yield_now(),
            other => unreachable!("{other:?}"),
        }
    }
    let status = host.group_status(GROUP).expect("the group");
    assert!(status.log_start > 1, "nothing is kept for followers that lag while the log is too long");
    host.close();
}
