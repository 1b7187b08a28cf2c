// SPDX-License-Identifier: Apache-2.0

//! What a host does first when it comes back.

use std::fs;
use std::path::Path;

use mraft::machines::in_memory;
use mraft::{Machines, NodeHost};

use crate::support::{Cluster, GROUP, List};

/// Each of them is a race between the first turn of the cores and the state machines' arrival.
const RESTARTS: usize = 3;
const WRITES: usize = 100;

#[test]
fn d6_what_the_log_knows_to_be_committed_is_applied_first_after_a_restart() {
    let mut cluster = Cluster::start(1);
    cluster.close(1);
    let never_persists = || {
        Machines::new().with("list", |context| {
            Ok(in_memory(context.disk.clone(), context.directory.clone(), 1_000_000, List::default()))
        })
    };
    let host = NodeHost::open(cluster.config(1), never_persists(), None).expect("its own directory");
    cluster.hosts.insert(1, host);
    (0..WRITES).for_each(|_| cluster.write("x"));
    // What a crash at this moment would leave.
    let image = tempfile::tempdir().expect("a directory");
    copy(&cluster.data(1), image.path());
    cluster.close(1);
    for _ in 0..RESTARTS {
        fs::remove_dir_all(cluster.data(1)).expect("nobody has it open");
        copy(image.path(), &cluster.data(1));
        let host = NodeHost::open(cluster.config(1), never_persists(), None).expect("its own directory");
        cluster.hosts.insert(1, host);
        cluster.wait_until("everything is applied again", |cluster| {
            let host = &cluster.hosts[&1];
            assert_eq!(host.group_status(GROUP).expect("the group").failure, None);
            Cluster::stale(host).len() == WRITES
        });
        cluster.close(1);
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).expect("room for it");
        }
    }
}
