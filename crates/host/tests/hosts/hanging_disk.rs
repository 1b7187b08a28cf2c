// SPDX-License-Identifier: Apache-2.0

//! A disk that hangs or fails under a running node: its replicas stop and say so, and nobody waits for it (rules T1, D10).

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};

use mraft::{Answer, GroupSpec, HostEvent, NO_SLOT, NodeHost, NotApplied, ReadKind, ReplicaState};
use mraft_disk::memory::Access;
use mraft_disk::{DirEntry, Disk, File, Lock, Open, RealDisk};
use mraft_types::{GroupId, Payload, ReplicaId};

use crate::support::{self, Cluster, GROUP, Gatekeeper, PATIENCE, ask, ask_leader};

const OTHER_GROUP: GroupId = GroupId(1);

/// A disk whose syncs can be made to hang or fail.
#[derive(Debug)]
struct HangingDisk {
    real: RealDisk,
    gate: Arc<Gate>,
}

/// What a sync meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Syncs {
    #[default]
    Work,
    Hang,
    Fail,
}

#[derive(Debug, Default)]
struct Gate {
    syncs: Mutex<Syncs>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, syncs: Syncs) {
        *self.syncs.lock().expect("no panic") = syncs;
        self.changed.notify_all();
    }

    fn pass(&self) -> std::io::Result<()> {
        let syncs = self.syncs.lock().expect("no panic");
        let syncs = *self.changed.wait_while(syncs, |syncs| *syncs == Syncs::Hang).expect("no panic");
        match syncs {
            Syncs::Fail => Err(std::io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }
}

/// Opens the gate at the end of a test, whichever: hosts that close wait for their syncs.
struct OpensGate(Arc<Gate>);

impl Drop for OpensGate {
    fn drop(&mut self) {
        self.0.set(Syncs::Work);
    }
}

#[derive(Debug)]
struct HangingFile {
    real: Arc<dyn File>,
    gate: Arc<Gate>,
}

impl File for HangingFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.real.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.real.write_all_at(bytes, offset)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.gate.pass()?;
        self.real.sync_data()
    }
    fn prefill(&self, len: u64) -> std::io::Result<()> {
        self.real.prefill(len)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.real.set_len(len)
    }
    fn len(&self) -> std::io::Result<u64> {
        self.real.len()
    }
}

impl Disk for HangingDisk {
    fn open(&self, path: &Path, how: Open) -> std::io::Result<Arc<dyn File>> {
        let real = self.real.open(path, how)?;
        Ok(Arc::new(HangingFile { real, gate: Arc::clone(&self.gate) }))
    }
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.real.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> std::io::Result<Vec<DirEntry>> {
        self.real.read_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.real.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        self.real.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.real.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> std::io::Result<()> {
        self.real.sync_dir(path)
    }
    fn exists(&self, path: &Path) -> std::io::Result<bool> {
        self.real.exists(path)
    }
    fn free_bytes(&self, path: &Path) -> std::io::Result<u64> {
        self.real.free_bytes(path)
    }
    fn try_lock(&self, path: &Path) -> std::io::Result<Box<dyn Lock>> {
        self.real.try_lock(path)
    }
}

/// Longer than any sync on a machine that is merely busy.
const STALLED_MS: u64 = 5_000;

/// Opens a node anew on a disk with a gate.
fn open_behind_gate(cluster: &mut Cluster, node: u64) -> OpensGate {
    cluster.close(node);
    let gate = Arc::new(Gate::default());
    let disk = Arc::new(HangingDisk { real: RealDisk::new(), gate: Arc::clone(&gate) });
    let mut config = cluster.config(node);
    (config.slow_disk_ms, config.stalled_disk_ms) = (STALLED_MS - 1, STALLED_MS);
    let host = NodeHost::open_on(disk, config, cluster.machines(), None).expect("its own directory");
    cluster.hosts.insert(node, host);
    OpensGate(gate)
}

fn leads(host: &NodeHost) -> bool {
    host.group_status(GROUP).is_ok_and(|status| status.state == ReplicaState::Leader)
}

/// A node that the disk stopped says so, shows nothing, leads nothing, and tells whoever asks why.
fn is_stopped_by_its_disk(cluster: &Cluster, node: u64) {
    cluster.wait_until("the node says that its disk stopped it", |cluster| {
        cluster.hosts[&node].stopped_by_disk().is_some()
    });
    let told = |cluster: &Cluster| {
        let answer = ask(&cluster.hosts[&node], GROUP, NO_SLOT, "too late");
        matches!(answer, Answer::NotApplied(NotApplied::Disk(_)))
    };
    cluster.wait_until("who asks is told why", told);
    let host = &cluster.hosts[&node];
    let (answered, answer) = channel();
    host.read(GROUP, ReadKind::Linearizable, PATIENCE, move |answer| _ = answered.send(answer));
    let answer = answer.recv().expect("every request is answered");
    assert!(matches!(answer, Answer::NotApplied(NotApplied::Disk(_))), "{answer:?}");
    assert_eq!(host.leader(GROUP).expect("it is listed").leader, None);
    assert!(host.lookup(GROUP).is_none());
    let status = host.group_status(GROUP).expect("it is listed");
    assert_eq!(status.state, ReplicaState::Failed);
    assert!(status.failure.is_some_and(|why| why.contains("every replica of this node stopped")));
    assert_eq!(host.status().leaders, 0);
    assert!(host.status().disk_trouble.is_some());
}

#[test]
fn t1_a_disk_that_hangs_stops_its_node_and_the_others_go_on() {
    let mut cluster = Cluster::start(3);
    let gate = open_behind_gate(&mut cluster, 1);
    cluster.write("a");
    cluster.wait_until("all three follow", |cluster| {
        cluster.hosts.values().all(|host| Cluster::stale(host) == "a")
    });
    // A node that does not lead cannot become leader while its disk hangs: it could not keep its own vote.
    cluster.wait_until("another node leads", |cluster| {
        gate.0.set(Syncs::Work);
        let to = ReplicaId::new(0, Cluster::node(2));
        let (answered, answer) = channel();
        cluster.leader().transfer_leader(GROUP, Some(to), move |answer| _ = answered.send(answer));
        answer.recv().expect("every request is answered");
        gate.0.set(Syncs::Hang);
        !leads(&cluster.hosts[&1]) && (leads(&cluster.hosts[&2]) || leads(&cluster.hosts[&3]))
    });
    cluster.write("b");
    cluster.write("c");
    assert_eq!(cluster.read(), "abc", "two of three are enough");
    is_stopped_by_its_disk(&cluster, 1);
    drop(gate);
    cluster.close(1);
    cluster.open(1).expect("nothing was lost");
    cluster.wait_until("it catches up", |cluster| Cluster::stale(&cluster.hosts[&1]) == "abc");
}

#[test]
fn t1_a_host_whose_disk_hangs_can_be_closed_and_keeps_its_directory() {
    let mut cluster = Cluster::start(1);
    let gate = open_behind_gate(&mut cluster, 1);
    cluster.write("a");
    gate.0.set(Syncs::Hang);
    let (answered, answer) = channel();
    let body = Payload::from("b");
    cluster.hosts[&1].propose(GROUP, NO_SLOT, body, PATIENCE, move |answer| _ = answered.send(answer));
    // The disk is found to hang while the host closes, or before: either way the close comes to an end.
    cluster.close(1);
    let answer = answer.recv().expect("every request is answered");
    assert!(!matches!(answer, Answer::Applied { .. }), "{answer:?}");
    let refused = cluster.open(1).expect_err("the thread that hangs in the disk may still write");
    assert!(refused.to_string().contains("in use"), "{refused}");
    drop(gate);
    let began = std::time::Instant::now();
    while let Err(error) = cluster.open(1) {
        assert!(began.elapsed() < PATIENCE, "{error}");
    }
    assert!(cluster.read().starts_with('a'));
}

#[test]
fn d10_an_error_of_the_log_stops_every_replica_and_the_process_says_so() {
    let mut cluster = Cluster::start(1);
    let gate = open_behind_gate(&mut cluster, 1);
    let events = cluster.hosts[&1].events();
    cluster.hosts[&1]
        .start_groups(&[GroupSpec { group: OTHER_GROUP, ..cluster.spec() }])
        .expect("a second group");
    cluster.write("a");
    assert!(matches!(ask_leader(&cluster.hosts[&1], OTHER_GROUP, NO_SLOT, "a"), Answer::Applied { .. }));
    gate.0.set(Syncs::Fail);
    let answer = ask(&cluster.hosts[&1], GROUP, NO_SLOT, "b");
    assert!(matches!(answer, Answer::Unknown(_) | Answer::NotApplied(_)), "{answer:?}");
    is_stopped_by_its_disk(&cluster, 1);
    let answer = ask(&cluster.hosts[&1], OTHER_GROUP, NO_SLOT, "b");
    assert!(matches!(answer, Answer::NotApplied(NotApplied::Disk(_))), "{answer:?}");
    let told = std::iter::from_fn(|| events.next_within(PATIENCE));
    assert!(told.into_iter().any(|event| matches!(event, HostEvent::LogFailed(_))));
    // A later sync that works changes nothing: what the failed one lost may be what it would be built on.
    gate.0.set(Syncs::Work);
    let answer = ask(&cluster.hosts[&1], GROUP, NO_SLOT, "c");
    assert!(matches!(answer, Answer::NotApplied(NotApplied::Disk(_))), "{answer:?}");
    let third = GroupSpec { group: GroupId(2), ..cluster.spec() };
    let refused = cluster.hosts[&1].start_groups(&[third]).expect_err("nothing starts on a log that failed");
    assert!(refused.to_string().contains("every replica of this node stopped"), "{refused}");
    assert!(
        !cluster.hosts[&1].groups().contains(&GroupId(2)),
        "what was refused is not done at the next start"
    );
    cluster.close(1);
    cluster.open(1).expect("what was acknowledged is there");
    assert!(cluster.read().starts_with('a'));
}

#[test]
fn t1_whoever_waits_for_the_log_when_its_disk_is_found_to_hang_is_told_why() {
    let (gate, disk) = support::Gate::on_a_disk(|access| access == Access::Sync);
    let mut cluster = Cluster::prepare(1);
    cluster.put_on(1, disk);
    let mut config = cluster.config(1);
    (config.slow_disk_ms, config.stalled_disk_ms) = (STALLED_MS - 1, STALLED_MS);
    cluster.found(1, config);
    cluster.write("a");
    let _opens = Gatekeeper(Arc::clone(&gate));
    gate.set_shut(true);
    let host = &cluster.hosts[&1];
    host.propose(GROUP, NO_SLOT, Payload::from("b"), PATIENCE, |_| {});
    cluster.wait_until("the log hangs in its disk", |_| gate.holds_up());
    let other = GroupSpec { group: OTHER_GROUP, ..cluster.spec() };
    let refused = host.start_groups(&[other]).expect_err("the log does not come to it");
    assert!(refused.to_string().contains("every replica of this node stopped"), "{refused}");
}

#[test]
fn t1_a_node_says_how_it_is_while_the_list_of_its_groups_hangs_in_the_disk() {
    let (gate, disk) = support::Gate::before("group-list", |access| access == Access::Sync);
    let mut cluster = Cluster::prepare(1);
    cluster.put_on(1, disk);
    cluster.found(1, cluster.config(1));
    cluster.write("a");
    let opens = Gatekeeper(Arc::clone(&gate));
    gate.set_shut(true);
    let (cluster, gate) = (&cluster, &gate);
    let host = &cluster.hosts[&1];
    std::thread::scope(|threads| {
        let other = GroupSpec { group: OTHER_GROUP, ..cluster.spec() };
        let founding = threads.spawn(move || host.start_groups(&[other]));
        cluster.wait_until("the list hangs in the disk", |_| gate.holds_up());
        let (said, status) = channel();
        threads.spawn(move || {
            let is_well = host.group_status(GROUP).is_ok();
            said.send((host.status().groups, host.groups(), is_well)).expect("somebody listens");
        });
        let said = status.recv_timeout(PATIENCE).expect("nobody waits for the disk");
        assert_eq!(said, (1, vec![GROUP], true), "what is not durable is not there");
        drop(opens);
        founding.join().expect("no panic").expect("the disk took it");
    });
    assert_eq!(host.groups(), [GROUP, OTHER_GROUP]);
}
