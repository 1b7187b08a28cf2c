// SPDX-License-Identifier: Apache-2.0

//! A directory belongs to one node: whoever else comes is refused with both values, and nothing is changed (rows S3 and S10, rule M6).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use std::sync::Arc;

use crate::support::{Cluster, GROUP};
use mraft::peers::InstanceConflict;
use mraft::{GroupSpec, HostConfig, HostError, HostEvent, NodeHost, ReplicaState, TlsFiles};
use mraft_disk::{Disk, MemoryDisk};
use mraft_types::{DeploymentId, SlotRange, SlotSet};

/// Every file with its bytes, lock files apart.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if path.extension().is_none_or(|extension| extension != "log") {
            found.insert(path.clone(), std::fs::read(&path).expect("a file"));
        }
    }
    found
}

fn refusal(cluster: &Cluster, config: HostConfig) -> String {
    match cluster.try_open(config) {
        Err(HostError::Refused { reason } | HostError::Disagrees { reason }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened"),
    }
}

#[test]
fn s3_another_id_address_or_deployment_is_refused_and_nothing_changed() {
    let mut cluster = Cluster::start(1);
    cluster.write("x");
    cluster.close(1);
    let before = contents(&cluster.data(1));
    let own = cluster.config(1);

    let reason = refusal(&cluster, HostConfig { node: Cluster::node(2), ..own.clone() });
    assert!(reason.contains("node 1") && reason.contains("says 2"), "{reason}");
    let reason = refusal(&cluster, HostConfig { deployment: DeploymentId(8), ..own.clone() });
    assert!(reason.contains("deployment 7") && reason.contains("says 8"), "{reason}");
    let reason = refusal(&cluster, HostConfig { raft_address: "127.0.0.1:1".to_owned(), ..own.clone() });
    assert!(reason.contains(&own.raft_address) && reason.contains("127.0.0.1:1"), "{reason}");
    assert_eq!(contents(&cluster.data(1)), before);

    cluster.open(1).expect("the right node still opens");
    assert_eq!(cluster.read(), "x");
}

#[test]
fn m6_a_second_process_and_a_directory_of_something_else_are_refused() {
    let cluster = Cluster::start(1);
    let reason = refusal(&cluster, cluster.config(1));
    assert!(reason.contains("in use by another process"), "{reason}");

    let other = tempfile::tempdir().expect("a directory");
    std::fs::write(other.path().join("letter.txt"), "dear").expect("written");
    let config = HostConfig { data_directory: other.path().to_owned(), ..cluster.config(2) };
    let reason = refusal(&cluster, config);
    assert!(reason.contains("letter.txt"), "{reason}");
    assert_eq!(contents(other.path()).len(), 1);
}

#[test]
fn m6_a_wal_directory_from_another_time_is_refused() {
    let mut cluster = Cluster::start(1);
    cluster.close(1);
    let wal = tempfile::tempdir().expect("a directory");
    let config = HostConfig { wal_directory: Some(wal.path().to_owned()), ..cluster.config(1) };
    let reason = refusal(&cluster, config);
    assert!(reason.contains(&wal.path().display().to_string()), "{reason}");
    assert!(reason.contains(&cluster.data(1).display().to_string()), "{reason}");
    cluster.open(1).expect("as it was");
}

#[test]
fn m3_a_group_list_that_is_missing_beside_a_log_with_replicas_is_no_empty_one() {
    let mut cluster = Cluster::start(1);
    cluster.write("x");
    cluster.close(1);
    let list = cluster.data(1).join("group-list");
    let aside = cluster.data(1).join("aside");
    std::fs::rename(&list, &aside).expect("it is there");
    let error = cluster.try_open(cluster.config(1)).err().expect("refused").to_string();
    assert!(error.contains("group-list") && error.contains("the log knows 1 replicas"), "{error}");
    std::fs::rename(&aside, &list).expect("brought back");
    cluster.open(1).expect("nothing was touched");
    assert_eq!(cluster.read(), "x");
}

#[test]
fn s9_a_restart_finds_a_wal_of_its_own_without_being_told() {
    let mut cluster = Cluster::start(1);
    let (data, wal) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let plain = HostConfig { data_directory: data.path().to_owned(), ..cluster.config(1) };
    let config = HostConfig { wal_directory: Some(wal.path().to_owned()), ..plain.clone() };
    cluster.close(1);
    let host = cluster.try_open(config).expect("fresh directories");
    host.start_groups(&[cluster.spec()]).expect("a group starts");
    cluster.hosts.insert(1, host);
    cluster.write("kept");
    cluster.close(1);
    let host = cluster.try_open(plain).expect("nothing but the data directory");
    cluster.hosts.insert(1, host);
    assert_eq!(cluster.read(), "kept");
    assert!(!data.path().join("log").exists(), "no second log was begun");
}

#[test]
fn d9_a_node_that_has_run_does_not_start_without_its_log() {
    let mut cluster = Cluster::start(1);
    cluster.write("x");
    cluster.close(1);
    let (log, away) = (cluster.data(1).join("log"), cluster.data(1).with_extension("away"));
    std::fs::rename(&log, &away).expect("nobody has it open");
    let before = contents(&cluster.data(1));
    let reason = refusal(&cluster, cluster.config(1));
    assert!(reason.contains(&log.display().to_string()) && reason.contains("mount"), "{reason}");
    std::fs::create_dir(&log).expect("an unmounted disk leaves an empty directory");
    refusal(&cluster, cluster.config(1));
    assert_eq!(contents(&cluster.data(1)), before);
    std::fs::remove_dir(&log).expect("it is empty");
    std::fs::rename(&away, &log).expect("it comes back");
    cluster.open(1).expect("nothing was lost");
    assert_eq!(cluster.read(), "x");
}

#[test]
fn m4_another_founding_of_a_group_that_is_here_is_refused_with_both_member_lists() {
    let cluster = Cluster::start(1);
    let mut spec = cluster.spec();
    let member = spec.members.members.values().next().expect("a member").clone();
    spec.members.members.insert(mraft_types::ReplicaId::new(0, Cluster::node(2)), member);
    let error = cluster.hosts[&1].start_groups(&[spec]).expect_err("refused").to_string();
    let ids = |nodes: &[u64]| {
        let ids: Vec<_> = nodes.iter().map(|id| mraft_types::ReplicaId::new(0, Cluster::node(*id))).collect();
        format!("{ids:?}")
    };
    assert!(error.contains(&format!("founded with members {}", ids(&[1]))), "{error}");
    assert!(error.contains(&format!("configuration says {}", ids(&[1, 2]))), "{error}");
    assert!(error.contains("join"), "{error}");
}

#[test]
fn m7_the_replicas_of_an_old_copy_of_a_directory_are_condemned_for_good() {
    an_old_copy_is_condemned(2);
}

#[test]
fn m7_an_old_copy_that_starts_with_the_boot_counter_of_the_only_later_start_is_condemned_too() {
    an_old_copy_is_condemned(1);
}

#[test]
fn m7_a_replica_of_an_old_copy_that_is_stopped_when_that_is_noticed_is_condemned_when_it_starts() {
    let mut cluster = with_an_old_copy(2);
    cluster.open(1).expect("by itself it cannot know");
    let host = &cluster.hosts[&1];
    host.stop_group(GROUP).expect("it stops");
    cluster.wait_until("a peer refuses the directory", |_| {
        host.peers().expect("open").status().iter().any(|peer| peer.refusal.is_some())
    });
    for _ in 0..2 {
        host.start_group(GROUP).expect("it starts");
        let condemned = host.group_status(GROUP).expect("it is listed").condemned;
        assert_eq!(condemned, Some(mraft_types::CondemnedReason::OldCopy));
        host.stop_group(GROUP).expect("it stops");
    }
}

fn an_old_copy_is_condemned(starts_since: usize) {
    let mut cluster = with_an_old_copy(starts_since);
    cluster.open(1).expect("by itself it cannot know");
    let condemned = |cluster: &Cluster| {
        cluster.hosts[&1].group_status(crate::support::GROUP).expect("it is listed").condemned
    };
    let old_copy = Some(mraft_types::CondemnedReason::OldCopy);
    cluster.wait_until("its replica is condemned", |cluster| condemned(cluster) == old_copy);
    // The mark is durable before it is shown to those who ask twice: a turn of the log later.
    cluster.close(1);
    cluster.open(1).expect("its own directory");
    assert_eq!(condemned(&cluster), old_copy, "durably");
}

/// Brings back a copy of node 1's directory that is this many starts old, all of which the peers came to know.
fn with_an_old_copy(starts_since: usize) -> Cluster {
    let mut cluster = Cluster::start(3);
    cluster.write("a");
    cluster.close(1);
    let copy = cluster.data(1).with_extension("copy");
    crate::restart::copy(&cluster.data(1), &copy);
    let mut written = 1;
    for _ in 0..starts_since {
        cluster.open(1).expect("its own directory");
        for text in ["b", "c", "d"] {
            cluster.write(text);
            written += 1;
            // One log batch after the other, so that the copy lacks more than a start writes by itself.
            cluster.wait_until("it follows", |cluster| Cluster::stale(&cluster.hosts[&1]).len() >= written);
        }
        for peer in [2, 3] {
            // A hello after the writes tells how far the log is, without waiting for a beat.
            cluster.close(peer);
            cluster.open(peer).expect("its own directory");
            cluster.wait_for_peers(peer);
        }
        cluster.close(1);
    }
    std::fs::remove_dir_all(cluster.data(1)).expect("nobody has it open");
    std::fs::rename(&copy, cluster.data(1)).expect("the old one takes its place");
    cluster
}

#[test]
fn m6_what_is_known_of_a_node_is_cleared_only_when_no_group_lists_it() {
    let cluster = Cluster::start(3);
    cluster.write("a");
    let host = &cluster.hosts[&1];
    let events = host.events();
    let listed = host.clear_conflict(Cluster::node(2)).expect_err("it is a member").to_string();
    assert!(listed.contains("lists node 2"), "{listed}");
    let own = host.clear_conflict(Cluster::node(1)).expect_err("itself").to_string();
    assert!(own.contains("is this one"), "{own}");
    let unknown = host.clear_conflict(Cluster::node(9)).expect("nobody lists it");
    assert_eq!((unknown.changed, unknown.known), (false, None), "nothing is known of it");
    let cleared = |event| matches!(event, HostEvent::ConflictCleared(_));
    assert!(!std::iter::from_fn(|| events.try_next()).any(cleared), "and nothing was done");
}

#[test]
fn m6_a_wiped_directory_is_refused_until_an_operator_clears_the_conflict() {
    let mut cluster = Cluster::start(1);
    let (own, other) = (Cluster::node(1), Cluster::node(2));
    let instance = |cluster: &Cluster| cluster.hosts[&2].status().instance;
    let talk = |cluster: &mut Cluster| {
        cluster.open(2).expect("it opens");
        let peers = cluster.hosts[&2].peers().expect("open");
        peers.add(own, &cluster.address(1)).expect("an address");
    };
    let are_connected = |cluster: &Cluster| {
        let one = cluster.hosts[&1].peers().expect("open").is_connected(other);
        one && cluster.hosts[&2].peers().expect("open").is_connected(own)
    };
    talk(&mut cluster);
    cluster.wait_until("they talk", are_connected);
    let known = instance(&cluster);
    let well = cluster.hosts[&1].clear_conflict(other).expect("nobody lists it");
    assert_eq!((well.changed, well.known, well.claimed), (false, Some(known), None), "nobody disputes it");
    assert!(are_connected(&cluster), "it is left alone");

    cluster.close(2);
    std::fs::remove_dir_all(cluster.data(2)).expect("nobody has it open");
    talk(&mut cluster);
    let claimed = instance(&cluster);
    let conflicts = |cluster: &Cluster| cluster.hosts[&1].peers().expect("open").conflicts();
    cluster.wait_until("the other directory is refused", |cluster| !conflicts(cluster).is_empty());
    let conflict = InstanceConflict { node: other, known: Some(known), claimed: Some(claimed) };
    assert_eq!(conflicts(&cluster), [conflict], "both are named");

    let host = &cluster.hosts[&1];
    let events = host.events();
    let cleared = host.clear_conflict(other).expect("nobody lists it");
    assert_eq!((cleared.changed, cleared.known, cleared.claimed), (true, Some(known), Some(claimed)));
    let told = HostEvent::ConflictCleared(other);
    assert!(std::iter::from_fn(|| events.try_next()).any(|event| event == told));
    cluster.wait_until("it is accepted", are_connected);
    let again = cluster.hosts[&1].clear_conflict(other).expect("nobody lists it");
    assert_eq!((again.changed, again.known), (false, Some(claimed)), "saying it twice changes nothing");
    assert_eq!(conflicts(&cluster), []);
}

#[test]
fn d9_a_replica_that_the_log_lost_is_condemned_and_stays_so() {
    let mut cluster = Cluster::start(3);
    cluster.write("x");
    cluster.close(1);
    // Another log, whose list does not know the replica.
    let log = cluster.data(1).join("log");
    std::fs::remove_dir_all(&log).expect("nobody has it open");
    let other = tempfile::tempdir().expect("a directory");
    let config = HostConfig { data_directory: other.path().to_owned(), ..cluster.config(1) };
    cluster.try_open(config).expect("a fresh directory").close();
    std::fs::rename(other.path().join("log"), &log).expect("one file system");
    for _ in 0..2 {
        cluster.open(1).expect("the node says what is wrong");
        let host = &cluster.hosts[&1];
        assert_eq!(host.group_status(GROUP).expect("it is listed").state, ReplicaState::Condemned);
        host.stop_group(GROUP).expect("it stops");
        host.start_group(GROUP).expect("it starts, and is what it was");
        assert_eq!(host.group_status(GROUP).expect("it is listed").state, ReplicaState::Condemned);
        cluster.close(1);
    }
}

#[test]
fn s3_a_port_in_use_leaves_no_trace_and_another_port_works() {
    let cluster = Cluster::start(1);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let fresh = tempfile::tempdir().expect("a directory");
    let config = HostConfig {
        data_directory: fresh.path().join("data"),
        raft_address: address.clone(),
        node: Cluster::node(2),
        ..cluster.config(2)
    };
    let error = cluster.try_open(config.clone()).err().expect("the port is taken");
    assert!(matches!(error, HostError::Listen { .. }), "{error:?}");
    assert!(error.to_string().contains(&address), "{error}");
    assert!(!config.data_directory.exists(), "nothing was written");
    cluster
        .try_open(HostConfig { raft_address: cluster.address(2), ..config })
        .expect("another port")
        .close();
}

#[test]
fn s3_certificates_that_cannot_be_read_leave_no_trace() {
    let cluster = Cluster::start(1);
    let fresh = tempfile::tempdir().expect("a directory");
    let missing = |name: &str| fresh.path().join(name);
    let tls = TlsFiles { ca_file: missing("ca"), cert_file: missing("cert"), key_file: missing("key") };
    let data_directory = missing("data");
    let config = HostConfig { data_directory: data_directory.clone(), tls: Some(tls), ..cluster.config(2) };
    let error = cluster.try_open(config).err().expect("there are none");
    assert!(matches!(error, HostError::Config { field: "ca_file", .. }), "{error:?}");
    assert!(!data_directory.exists(), "nothing was written");
}

#[test]
fn m6_a_first_start_that_a_crash_cut_short_is_begun_anew() {
    let mut cluster = Cluster::start(1);
    cluster.close(1);
    // Every operation on the identity has a test of its own; this one is about what comes after it.
    for crash_at in (0..).step_by(5) {
        let disk = Arc::new(MemoryDisk::new());
        let open = || {
            let disk = Arc::clone(&disk) as Arc<dyn Disk>;
            NodeHost::open_on(disk, cluster.config(1), cluster.machines(), None)
        };
        disk.fail_from_operation(crash_at);
        let opened = open().map(|host| host.close());
        disk.crash(crash_at);
        let again = open().unwrap_or_else(|error| panic!("crash at {crash_at}: {error}"));
        again.start_groups(&[cluster.spec()]).unwrap_or_else(|error| panic!("crash at {crash_at}: {error}"));
        assert_eq!(again.groups(), [GROUP]);
        again.close();
        if opened.is_ok() {
            break;
        }
    }
}

#[test]
fn s9_another_founding_is_refused_with_what_differs() {
    let cluster = Cluster::start(1);
    let slots = SlotSet::from_ranges(vec![SlotRange { first: 7, last: 99 }]).expect("a range");
    let error =
        cluster.hosts[&1].start_groups(&[GroupSpec { slots, ..cluster.spec() }]).expect_err("other slots");
    let text = error.to_string();
    assert!(text.contains("slots []") && text.contains("slots [7-99]"), "{text}");
}
