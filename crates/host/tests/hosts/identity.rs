// SPDX-License-Identifier: Apache-2.0

//! A directory belongs to one node: whoever else comes is refused with both values, and nothing is changed (rows S3 and S10, rule M6).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::Cluster;
use mraft::{HostConfig, HostError};
use mraft_types::DeploymentId;

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
        Err(HostError::Refused { reason }) => reason,
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
    assert!(reason.contains("the two directories belong together"), "{reason}");
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
fn d9_a_log_that_is_missing_beside_groups_is_no_empty_one() {
    let mut cluster = Cluster::start(1);
    cluster.write("x");
    cluster.close(1);
    let (log, aside) = (cluster.data(1).join("log"), cluster.data(1).join("aside"));
    std::fs::rename(&log, &aside).expect("it is there");
    let error = cluster.try_open(cluster.config(1)).err().expect("refused").to_string();
    assert!(error.contains("there is no log, but 1 groups live here"), "{error}");
    let _ = std::fs::remove_dir_all(&log);
    std::fs::rename(&aside, &log).expect("brought back");
    cluster.open(1).expect("nothing was touched");
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
    let mut cluster = Cluster::start(3);
    cluster.write("a");
    cluster.close(1);
    let copy = cluster.data(1).with_extension("copy");
    crate::restart::copy(&cluster.data(1), &copy);
    // The peers come to know two later starts: one would look like a clone.
    for written in ["b", "c"] {
        cluster.open(1).expect("its own directory");
        cluster.write(written);
        let expected = format!("a{written}").len();
        cluster.wait_until("it follows", |cluster| Cluster::stale(&cluster.hosts[&1]).len() >= expected);
        cluster.wait_until("its peers know it", |cluster| {
            let peers = cluster.hosts[&1].peers().expect("open");
            peers.status().iter().all(|peer| peer.is_connected)
        });
        cluster.close(1);
    }
    std::fs::remove_dir_all(cluster.data(1)).expect("nobody has it open");
    std::fs::rename(&copy, cluster.data(1)).expect("the old one takes its place");
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
    host.clear_conflict(Cluster::node(9)).expect("nobody lists it");
    let cleared = mraft::HostEvent::ConflictCleared(Cluster::node(9));
    assert!(std::iter::from_fn(|| events.try_next()).any(|event| event == cleared));
}
