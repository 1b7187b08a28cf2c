// SPDX-License-Identifier: Apache-2.0

//! A data disk that is full: nothing stops, nothing is lost, and all goes on when there is room (rule D10).

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use mraft::{Answer, GroupSpec, Machines, NO_SLOT, NodeHost, NotApplied};
use mraft_disk::memory::Faults;
use mraft_disk::{Disk, MemoryDisk};
use mraft_kv::command::encode_put;
use mraft_kv::{MemoryKv, MemoryOptions};
use mraft_types::{GroupId, Payload};

use crate::support::{Cluster, GROUP, PATIENCE};

const GROUPS: [GroupId; 2] = [GROUP, GroupId(1)];
/// What the machines of the node may hold in memory.
const BUDGET_BYTES: usize = 16 << 10;

fn put(host: &NodeHost, group: GroupId, number: usize) -> Receiver<Answer> {
    let mut command = Vec::new();
    encode_put(format!("{number}").as_bytes(), &[7; 500], &mut command);
    let (answered, answer) = channel();
    host.propose(group, NO_SLOT, Payload::from(command), PATIENCE, move |answer| _ = answered.send(answer));
    answer
}

fn put_surely(host: &NodeHost, group: GroupId) {
    loop {
        match put(host, group, 0).recv().expect("every request is answered") {
            Answer::Applied { .. } => return,
            Answer::NotApplied(_) => std::thread::yield_now(),
            other => unreachable!("{other:?}"),
        }
    }
}

#[test]
fn d10_a_full_data_disk_refuses_writes_and_stops_no_replica() {
    let mut cluster = Cluster::start(1);
    cluster.close(1);
    std::fs::remove_dir_all(cluster.data(1)).expect("nobody has it open");
    let disk = Arc::new(MemoryDisk::new());
    let own = Arc::clone(&disk);
    let machines = Machines::new().with("list", move |context| {
        let disk = Arc::clone(&own) as Arc<dyn Disk>;
        Ok(Box::new(MemoryKv::new(disk, context.directory.clone(), MemoryOptions { flush_bytes: 1 << 20 })))
    });
    let mut config = cluster.config(1);
    config.unpersisted_bytes_max = BUDGET_BYTES;
    let host = NodeHost::open(config, machines, None).expect("an empty directory");
    let specs = GROUPS.map(|group| GroupSpec { group, ..cluster.spec() });
    host.start_groups(&specs).expect("two groups");
    GROUPS.iter().for_each(|group| put_surely(&host, *group));

    let used = disk.files().iter().map(|(_, bytes)| bytes).sum();
    disk.set_faults(Faults { capacity_bytes: Some(used), ..Faults::default() });
    for group in GROUPS {
        assert!(host.request_snapshot(group).is_err(), "there is no room for one");
    }
    let mut waiting = Vec::new();
    let mut refused = 0;
    for number in 0.. {
        let answers: Vec<_> = GROUPS.iter().map(|group| put(&host, *group, number)).collect();
        waiting.extend(answers);
        waiting.retain(|answer| match answer.try_recv() {
            Ok(Answer::NotApplied(NotApplied::Disk(why))) => {
                assert!(why.contains("full"), "{why}");
                refused += 1;
                false
            }
            Ok(Answer::Applied { .. }) => false,
            Ok(other) => unreachable!("{other:?}"),
            Err(_) => true,
        });
        if refused > 0
            && GROUPS.iter().all(|group| host.group_status(*group).is_ok_and(|of| of.no_room.is_some()))
        {
            break;
        }
    }
    for group in GROUPS {
        assert_eq!(host.group_status(group).expect("it is listed").failure, None);
    }

    disk.set_faults(Faults::default());
    for answer in waiting {
        let answer = answer.recv_timeout(PATIENCE).expect("what waited for room is answered");
        assert!(
            matches!(answer, Answer::Applied { .. } | Answer::NotApplied(NotApplied::Disk(_))),
            "{answer:?}"
        );
    }
    GROUPS.iter().for_each(|group| put_surely(&host, *group));
    for group in GROUPS {
        let status = host.group_status(group).expect("it is listed");
        assert_eq!((status.failure, status.no_room), (None, None));
    }
    host.close();
}
