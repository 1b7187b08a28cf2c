// SPDX-License-Identifier: Apache-2.0

//! Rule L5: a log that grows too long makes groups persist their state, and its segments are used again.

use std::sync::mpsc::channel;

use mraft::{Answer, NO_SLOT};
use mraft_types::Payload;

use crate::support::{Cluster, GROUP, PATIENCE, counts};

#[test]
fn l5_a_long_log_makes_groups_persist_and_is_used_again() {
    let mut cluster = Cluster::start(1);
    cluster.close(1);
    let mut config = cluster.config(1);
    // Left alone, the group would keep everything for ever.
    config.compaction_overhead_entries = 1_000_000;
    config.log_segments_target = 2;
    let host = cluster.open_with(config, counts()).expect("its own directory");
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
