// SPDX-License-Identifier: Apache-2.0

//! An operator accepts what condemned replicas lost (rule D9): they come back with what is left, and never in a term or with a number
//! that somebody remembers. Crashes in between: `src/loss/tests.rs`.

use std::path::Path;
use std::sync::Arc;

use mraft::loss::{Loss, NodeLoss, Scope, StoppedNode, Survey};
use mraft::machines::in_memory;
use mraft::{GroupList, GroupRecord, HostError, NodeHost, ReplicaState};
use mraft_disk::{Disk, MemoryDisk, RealDisk};
use mraft_engine::machine::StateMachine;
use mraft_logstore::{GroupWrite, LogOptions, LogStore, Mark, SegmentLog};
use mraft_types::{CondemnedReason, GroupId, ReplicaId};

use crate::support::{Cluster, GROUP, List};

const SEGMENT_BYTES: u64 = 64 << 20;

type Disks = Arc<dyn Disk>;

fn stored(
    disk: Disks,
    data: &Path,
) -> impl FnMut(&GroupRecord, Option<u64>) -> Result<Option<Vec<u8>>, String> {
    let data = data.to_owned();
    move |record, install| {
        let directory = mraft::files::group_directory(&data, record.group, record.replica);
        let mut machine: Box<dyn StateMachine> = in_memory(Arc::clone(&disk), directory, 10, List::default());
        machine.open(install).map_err(|error| error.to_string())
    }
}

fn survey(disk: &Disks, data: &Path) -> Survey {
    let stopped = StoppedNode::open(Arc::clone(disk), data, None).expect("it is stopped");
    stopped.survey(&mut stored(Arc::clone(disk), data), 0)
}

fn accept(disk: &Disks, data: &Path, scope: Scope) -> Result<Vec<Loss>, HostError> {
    let stopped = StoppedNode::open(Arc::clone(disk), data, None)?;
    let (mut look, mut open) = (stored(Arc::clone(disk), data), stored(Arc::clone(disk), data));
    stopped.accept(scope, &mut look, &mut open, 0)
}

fn refusal(result: Result<Vec<Loss>, HostError>) -> String {
    result.expect_err("refused").to_string()
}

/// Has the log of a stopped node say that its replica is condemned.
fn condemn(disk: &Disks, data: &Path, reason: CondemnedReason) {
    let options = LogOptions::new(SEGMENT_BYTES, Box::new(|| 7));
    let mut log = SegmentLog::open(Arc::clone(disk), &data.join("log"), options).expect("a whole log");
    let found = log.recovered().remove(0);
    let mark = Some(Mark::Condemned(reason));
    let write = GroupWrite { key: found.key, hard_state: found.hard_state, entries: Vec::new(), mark };
    log.write(&[write]).expect("written");
    log.seal().expect("sealed");
}

fn condemned(host: &NodeHost) -> Option<CondemnedReason> {
    host.group_status(GROUP).expect("it is listed").condemned
}

/// Waits until a node's store has persisted something: it does so beside its work.
fn wait_for_a_snapshot(cluster: &Cluster, disk: &dyn Disk, node: u64) {
    let replica = ReplicaId::new(0, Cluster::node(node));
    let state = mraft::files::group_directory(&cluster.data(node), GROUP, replica).join("state");
    cluster.wait_until("the store has a snapshot", |_| disk.exists(&state).expect("readable"));
}

/// A single node with entries, some of which its store has, on a memory disk.
fn alone() -> (Cluster, MemoryDisk, Disks) {
    let (mut cluster, disk) = (Cluster::prepare(1), MemoryDisk::new());
    cluster.put_on(1, disk.clone());
    cluster.found(1, cluster.config(1));
    (0..25).for_each(|number| cluster.write(&format!("{number} ")));
    wait_for_a_snapshot(&cluster, &disk, 1);
    cluster.close(1);
    let disks = Arc::new(disk.clone()) as Disks;
    (cluster, disk, disks)
}

fn all(count: usize) -> String {
    (0..count).map(|number| format!("{number} ")).collect()
}

#[test]
fn d9_what_the_log_still_has_is_kept_and_served_again() {
    let (mut cluster, _, disk) = alone();
    let data = cluster.data(1);
    condemn(&disk, &data, CondemnedReason::Damage);
    cluster.open(1).expect("it says what is wrong");
    assert_eq!(condemned(&cluster.hosts[&1]), Some(CondemnedReason::Damage));
    cluster.close(1);

    let before = survey(&disk, &data);
    assert_eq!((before.node, before.losses.len()), (None, 1));
    let accepted = accept(&disk, &data, Scope::Group(GROUP)).expect("possible");
    assert_eq!(accepted, before.losses, "what was shown is what was done");
    let restart = accepted[0].decision.as_ref().expect("possible");
    assert!(restart.keeps_log && Some(restart.last) == accepted[0].log.map(|log| log.last));
    assert!(survey(&disk, &data).losses.is_empty());

    cluster.open(1).expect("repaired");
    assert_eq!(cluster.read(), all(25));
    let status = cluster.hosts[&1].group_status(GROUP).expect("it is listed");
    assert_eq!((status.state, status.term), (ReplicaState::Leader, (1 << 32) + 1));
    let mut metrics = String::new();
    cluster.hosts[&1].write_prometheus(&mut metrics);
    assert!(metrics.contains("mraft_losses_accepted 1"), "{metrics}");
    cluster.close(1);
    let reason = refusal(accept(&disk, &data, Scope::Group(GROUP)));
    assert!(reason.contains("nothing to accept"), "{reason}");
}

#[test]
fn d9_a_log_that_is_gone_begins_anew_at_the_store_and_above_every_earlier_term_and_number() {
    let (mut cluster, disk, disks) = alone();
    let data = cluster.data(1);
    let mut before = (0, 0, 0);
    for times in 1..4 {
        disk.remove_dir_all(&data.join("log")).expect("nobody has it open");
        assert!(cluster.open(1).is_err(), "a node does not start without its log");
        let found = survey(&disks, &data);
        assert_eq!(found.node, Some(NodeLoss::LogGone));
        let stored = found.losses[0].stored.expect("it took a snapshot").index;
        let accepted = accept(&disks, &data, Scope::All).expect("possible");
        let restart = accepted[0].decision.as_ref().expect("possible");
        assert_eq!((restart.last, restart.keeps_log), (stored, false));
        cluster.open(1).expect("repaired");
        let shown = cluster.read();
        assert!(all(25).starts_with(&shown) && shown.len() >= all(5).len(), "{shown}");
        let status = cluster.hosts[&1].group_status(GROUP).expect("it is listed");
        let starts = cluster.hosts[&1].identity().boot_counter;
        cluster.close(1);
        let log = mraft_logstore::inspect(disks.as_ref(), &data.join("log")).expect("a log");
        let now = (status.term, starts, log.last_batch_seq);
        assert!(
            now.0 >> 32 == times && now.1 > before.1 && now.2 > before.2 + (1 << 40),
            "{before:?} {now:?}"
        );
        before = now;
    }
}

#[test]
fn d9_a_majority_without_its_logs_comes_back_and_the_rest_follows() {
    let mut cluster = Cluster::start(3);
    (0..25).for_each(|number| cluster.write(&format!("{number} ")));
    let disk = Arc::new(RealDisk::new()) as Disks;
    for node in 1..=3 {
        wait_for_a_snapshot(&cluster, disk.as_ref(), node);
        cluster.wait_until("all follow", |cluster| Cluster::stale(&cluster.hosts[&node]) == all(25));
    }
    (1..=3).for_each(|node| cluster.close(node));
    for node in [1, 2] {
        std::fs::remove_dir_all(cluster.data(node).join("log")).expect("nobody has it open");
        accept(&disk, &cluster.data(node), Scope::All).expect("possible");
    }
    // The repaired ones are a majority, and would go on without what the third has.
    [3, 1].iter().for_each(|node| cluster.open(*node).expect("whole or repaired"));
    cluster.write("25 ");
    let shown = cluster.read();
    assert_eq!(shown, all(26), "the third has the longer log, so nobody else was elected");
    cluster.open(2).expect("repaired");
    for node in 1..=3 {
        cluster.wait_until("all follow", |cluster| Cluster::stale(&cluster.hosts[&node]) == all(26));
        assert_eq!(condemned(&cluster.hosts[&node]), None, "nobody took it for an old copy");
    }
}

#[test]
fn d9_an_old_copy_is_accepted_as_a_whole_and_not_condemned_again() {
    let mut cluster = Cluster::start(3);
    cluster.write("a");
    cluster.close(1);
    let copy = cluster.data(1).with_extension("copy");
    crate::restart::copy(&cluster.data(1), &copy);
    for written in ["b", "c"] {
        cluster.open(1).expect("its own directory");
        cluster.write(written);
        cluster.wait_for_peers(1);
        cluster.close(1);
    }
    std::fs::remove_dir_all(cluster.data(1)).expect("nobody has it open");
    std::fs::rename(&copy, cluster.data(1)).expect("the old one takes its place");
    cluster.open(1).expect("by itself it cannot know");
    let old_copy = Some(CondemnedReason::OldCopy);
    cluster.wait_until("its replica is condemned", |cluster| condemned(&cluster.hosts[&1]) == old_copy);
    cluster.close(1);

    let disk = Arc::new(RealDisk::new()) as Disks;
    assert_eq!(survey(&disk, &cluster.data(1)).node, Some(NodeLoss::OldCopy));
    let reason = refusal(accept(&disk, &cluster.data(1), Scope::Group(GROUP)));
    assert!(reason.contains("--all"), "{reason}");
    accept(&disk, &cluster.data(1), Scope::All).expect("possible");
    for _ in 0..2 {
        cluster.open(1).expect("repaired");
        cluster.wait_until("it follows", |cluster| Cluster::stale(&cluster.hosts[&1]) == "abc");
        cluster.wait_for_peers(1);
        assert_eq!(condemned(&cluster.hosts[&1]), None);
        cluster.close(1);
    }
}

#[test]
fn d9_what_cannot_be_accepted_is_refused_and_nothing_changed() {
    let (cluster, disk, disks) = alone();
    let data = cluster.data(1);
    let reason = refusal(accept(&disks, &data, Scope::All));
    assert!(reason.contains("none of the 1 replicas here is condemned"), "{reason}");
    let reason = refusal(accept(&disks, &data, Scope::Group(GroupId(9))));
    assert!(reason.contains("group 9 has no condemned replica"), "{reason}");

    condemn(&disks, &data, CondemnedReason::Divergence);
    let list = GroupList::read(&disk, &data).expect("readable");
    for scope in [Scope::All, Scope::Group(GROUP)] {
        let reason = refusal(accept(&disks, &data, scope));
        assert!(reason.contains("differs") && reason.contains("add the node again"), "{reason}");
    }
    assert_eq!(GroupList::read(&disk, &data).expect("readable"), list);
    assert_eq!(survey(&disks, &data).losses[0].reason, CondemnedReason::Divergence);

    let empty = Cluster::prepare(1);
    let nothing = Arc::new(MemoryDisk::new()) as Disks;
    nothing.create_dir_all(&empty.data(1)).expect("made");
    let reason = refusal(accept(&nothing, &empty.data(1), Scope::All));
    assert!(reason.contains("no identity"), "{reason}");
}

#[test]
fn d9_a_state_that_is_gone_condemns_the_replica_durably_and_loudly() {
    let (mut cluster, disk, disks) = alone();
    let data = cluster.data(1);
    let known = |disk: &MemoryDisk| {
        let log = mraft_logstore::inspect(disk, &data.join("log")).expect("a log");
        log.replicas[0].recovered.clone()
    };
    // Until the log has forgotten something that only the state has.
    let mut number = 25;
    while known(&disk).start.position.index <= 1 {
        cluster.open(1).expect("whole");
        (0..10).for_each(|_| {
            cluster.write(&format!("{number} "));
            number += 1;
        });
        cluster.close(1);
    }
    let replica = ReplicaId::new(0, Cluster::node(1));
    disk.remove_dir_all(&mraft::files::group_directory(&data, GROUP, replica)).expect("nobody has it open");
    let lost = Some(CondemnedReason::StateLost);
    assert_eq!(survey(&disks, &data).losses[0].reason, CondemnedReason::StateLost);

    cluster.open(1).expect("the node starts, the replica does not");
    assert_eq!(condemned(&cluster.hosts[&1]), lost);
    let warnings = cluster.hosts[&1].status().warnings;
    let is_said = |warning: &String| warning.contains("condemned") && warning.contains("is gone");
    assert!(warnings.iter().any(is_said), "{warnings:?}");
    let mut metrics = String::new();
    cluster.hosts[&1].write_prometheus(&mut metrics);
    assert!(metrics.contains("mraft_replicas_condemned 1"), "{metrics}");
    cluster.close(1);
    assert_eq!(known(&disk).condemned, lost, "it stays so, whatever comes back");
    let reason = refusal(accept(&disks, &data, Scope::All));
    assert!(reason.contains("add the node again"), "{reason}");
}

#[test]
fn d9_a_replica_of_which_nothing_is_left_is_not_accepted() {
    let (mut cluster, disk) = (Cluster::prepare(1), MemoryDisk::new());
    cluster.put_on(1, disk.clone());
    cluster.found(1, cluster.config(1));
    cluster.write("too little for a snapshot");
    cluster.close(1);
    let (disks, data) = (Arc::new(disk.clone()) as Disks, cluster.data(1));
    disk.remove_dir_all(&data.join("log")).expect("nobody has it open");
    let reason = refusal(accept(&disks, &data, Scope::All));
    assert!(
        reason.contains("neither its store nor its log") && reason.contains("another node id"),
        "{reason}"
    );
    assert!(!disk.exists(&data.join("log")).expect("readable"), "no log was begun");
}

#[test]
fn d9_a_running_node_is_refused() {
    let cluster = Cluster::start(1);
    let disk = Arc::new(RealDisk::new()) as Disks;
    let reason = refusal(accept(&disk, &cluster.data(1), Scope::All));
    assert!(reason.contains("in use by another process"), "{reason}");
}
