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
