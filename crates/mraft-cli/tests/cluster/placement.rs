// SPDX-License-Identifier: Apache-2.0

//! Five nodes of which each holds some of the groups: any of them serves any key, through a holder (row S5).

use mraft_types::slot_of_key;
use rustix::process::Signal;

use crate::support::{Dev, done, free_base_port, http, run, signal, wait_until};

const GROUPS: u64 = 5;

/// A key of this group.
fn key_of(group: u64) -> String {
    let holds = |key: &String| {
        let slots = mraft_types::SlotSet::even_share(group, GROUPS);
        slots.contains(slot_of_key(key.as_bytes()))
    };
    (0..).map(|number| format!("key-{number}")).find(holds).expect("every group has keys")
}

/// Group G lives on the nodes at G, G + 1 and G + 2.
fn holds(at: usize, group: u64) -> bool {
    let group = usize::try_from(group).expect("a small number");
    (0..3).any(|offset| (group + offset) % 5 == at)
}

#[test]
fn s5_a_node_serves_keys_of_groups_that_it_does_not_hold_while_a_holder_lives() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let dev = Dev::start(
        directory.path(),
        &[
            "--base-port",
            &base,
            "--nodes",
            "5",
            "--groups",
            "5",
            "--replicas",
            "3",
            "--respawn-after",
            "never",
        ],
    );
    let urls = dev.urls();
    let id =
        |at: usize| dev.nodes[at].raft.parse::<mraft_types::NodeId>().expect("an address").get().to_string();
    for group in 0..GROUPS {
        let path = format!("/v1/kv/{}", key_of(group));
        for at in 0..5 {
            let value = format!("{group} through {at}");
            let put = http(urls[at], "PUT", &path, &[], value.as_bytes());
            assert_eq!(put.status, 200, "{}", put.text());
            for (other, url) in urls.iter().enumerate() {
                let got = http(url, "GET", &path, &[], b"");
                assert_eq!((got.status, got.text()), (200, value.as_str()), "group {group} at node {other}");
                let by = got.header("mraft-served-by").expect("who served");
                let by = (0..5).find(|at| id(*at) == by).expect("one of them");
                assert!(holds(by, group), "group {group} was served by node {by}");
                assert!(!holds(other, group) || by == other, "a holder reads by itself");
                let stale = http(url, "GET", &format!("{path}?consistency=stale"), &[], b"");
                assert_eq!(stale.status, 200, "{}", stale.text());
            }
        }
    }

    // A holder that hangs is not waited for until the end: another one is asked.
    let path = format!("/v1/kv/{}?timeout_ms=4000", key_of(1));
    for hanging in 1..4 {
        signal(dev.nodes[hanging].pid, Signal::STOP);
        wait_until("a read is served although a holder hangs", || {
            http(urls[4], "GET", &path, &[], b"").status == 200
        });
        signal(dev.nodes[hanging].pid, Signal::CONT);
    }

    // Node 4 does not hold group 1 and has learned who leads it. That leader dies: the next request finds another one.
    let asked = urls[4];
    let path = format!("/v1/kv/{}", key_of(1));
    assert!(!holds(4, 1));
    let leader = http(asked, "GET", "/v1/groups/1", &[], b"").json()["leader"].as_u64().expect("a leader");
    let leader = (0..5).find(|at| id(*at) == leader.to_string()).expect("one of them");
    assert!(holds(leader, 1));
    dev.kill(leader);
    // A read may be sent twice, so it survives the death of who was asked first.
    let read = http(asked, "GET", &path, &[], b"");
    assert_eq!(read.status, 200, "{}", read.text());
    let put = http(asked, "PUT", &path, &[], b"after");
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(http(asked, "GET", &path, &[], b"").text(), "after");
    assert_ne!(put.header("mraft-leader"), Some(id(leader).as_str()));

    // The other holders die as well. There is nobody to send it to, and that is what is said; other groups go on.
    for at in (0..5).filter(|at| holds(*at, 1) && *at != leader) {
        dev.kill(at);
    }
    wait_until("nobody holds the group", || {
        let refused = http(asked, "GET", &format!("{path}?timeout_ms=500"), &[], b"");
        (refused.status, refused.header("mraft-outcome")) == (421, Some("not_applied"))
    });
    let refused = http(asked, "PUT", &format!("{path}?timeout_ms=500"), &[], b"never");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (421, Some("no_holder")));
    // The command line tries for its whole time; nearly always it ends with a node's word that nothing was changed.
    wait_until("the command line says that nobody can serve it", || {
        run(&[asked], &["kv", "put", &key_of(1), "x", "--timeout", "1s"]).status.code() == Some(6)
    });
    drop(done(&[asked], &["status"]));
}
