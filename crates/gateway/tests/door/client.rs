// SPDX-License-Identifier: Apache-2.0

//! The typed client against doors, and against servers that break off (rule E4).

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mraft_api::{
    AddLearnerRequest, BatchOperation, BatchRequest, BatchResult, Client, ClientConfig, ClientError,
    Condition, Consistency, NodeName, NodeRequest, Outcome, ScanRequest,
};
use mraft_gateway::needs::NodeError;
use mraft_types::NodeId;
use tokio::io::AsyncReadExt;

use crate::harness::{House, door};
use crate::node::{NODE, elsewhere, overloaded};

fn client_of(houses: &[&House]) -> Client {
    Client::new(&ClientConfig::new(houses.iter().map(|house| house.address.to_string()))).expect("a client")
}

/// An address where nobody listens, in a part of 127.0.0.0/8 where nobody else looks for a port; the usual one on systems that have no
/// other.
fn nobody() -> String {
    let [.., high, middle, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 32 | (high & 31), middle, low.clamp(1, 254));
    let listener = TcpListener::bind((own, 0)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    listener.expect("a port").local_addr().expect("an address").to_string()
}

/// A server that reads a little and breaks off, and counts how often.
async fn breaking_off() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 16];
            if stream.read(&mut some).await.is_ok_and(|read| read > 0) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (address, count)
}

#[tokio::test]
async fn every_call_speaks_the_contract() {
    let house = door().await;
    let client = client_of(&[&house]);
    let key = b"{t}\xff\0/..? #%";
    assert_eq!(client.get(key, Consistency::Linearizable).await, Ok(None));
    let written = client.put(key, b"\0\xff", Condition::Absent).await.expect("written");
    let got = client.get(key, Consistency::Stale).await.expect("read").expect("there");
    assert_eq!((&got.value[..], got.served.revision), (&b"\0\xff"[..], written.served.revision));
    assert_eq!((got.served.stale_ms, got.served.served_by, got.served.leader), (Some(12), NODE, Some(NODE)));
    client.put(key, b"2", Condition::Revision(written.served.revision)).await.expect("written");
    client.put(key, b"3", Condition::Exists).await.expect("written");
    let failed = client.put(key, b"4", Condition::Revision(1)).await.expect_err("refused");
    assert_eq!((failed.exit_code(), failed.problem().and_then(|problem| problem.revision)), (4, Some(3)));
    let operations = vec![
        BatchOperation::Check { key: key.to_vec(), revision: Some(3) },
        BatchOperation::Put { key: b"{t}b".to_vec(), value: vec![0xfe] },
    ];
    let batch = client.batch(&BatchRequest { operations }).await.expect("applied");
    assert_eq!(batch.results, [BatchResult::Check { revision: Some(3) }, BatchResult::Put { revision: 4 }]);
    let scan = ScanRequest { prefix: b"{t}".to_vec(), limit: Some(1), ..ScanRequest::default() };
    let page = client.scan(&scan).await.expect("a page");
    assert_eq!((page.entries.len(), page.next.as_deref()), (1, Some(&b"{t}b"[..])));
    let page = client.scan(&ScanRequest { after: page.next, ..scan }).await.expect("a page");
    assert_eq!((&page.entries[0].key[..], page.next), (&key[..], None));
    assert_eq!(client.delete(key, Condition::None).await.expect("deleted").deleted, 1);
}

#[tokio::test]
async fn the_operators_calls_speak_the_contract() {
    let house = door().await;
    let client = client_of(&[&house]);
    let node = NodeName::from(NodeId::new(8).expect("a node id"));
    assert_eq!(client.status().await.expect("a status").node, NODE);
    assert_eq!(client.groups().await.expect("groups").groups.len(), 3);
    assert_eq!(client.group(1).await.expect("a group").summary.group, 1);
    assert_eq!(client.group(9).await.expect_err("none").exit_code(), 3);
    let learner = AddLearnerRequest { node, raft_address: "a:1".to_owned(), change_index: None };
    assert_eq!(client.add_learner(1, &learner).await.expect("added").replica, "8#1");
    let request = NodeRequest { node, change_index: None };
    assert!(client.promote(1, &request).await.expect("promoted").changed);
    assert!(client.remove(1, &request).await.expect("removed").changed);
    assert!(client.transfer(1, &request).await.expect("transferred").changed);
    assert!(client.verify(1).await.expect("verified").equal);
    assert_eq!(client.retire_node(node.node, false).await.expect("retired").node, 8);
    assert!(client.clear_conflict(node.node).await.expect("cleared").changed);
    assert!(client.metrics().await.expect("metrics").ends_with("# EOF\n"));
    assert!(client.ready().await.expect("checks").ready);
    house.node.unready("why");
    let ready = client.ready().await.expect("checks");
    assert!(!ready.ready && ready.checks.contains("why"));
}

#[tokio::test]
async fn e4_a_write_is_sent_again_after_not_applied() {
    let house = door().await;
    house.node.fail(overloaded());
    house.node.fail(NodeError::Superseded);
    client_of(&[&house]).put(b"a", b"v", Condition::None).await.expect("written");
    assert_eq!(house.node.asked().len(), 3);
}

#[tokio::test]
async fn e4_a_write_is_not_sent_again_after_unknown_but_a_read_is() {
    let house = door().await;
    house.node.fail(NodeError::Unknown("why".to_owned()));
    let client = client_of(&[&house]);
    let error = client.put(b"a", b"v", Condition::None).await.expect_err("unknown");
    assert_eq!((error.outcome(), error.exit_code(), house.node.asked().len()), (Outcome::Unknown, 5, 1));
    house.node.fail(NodeError::Unknown("why".to_owned()));
    assert_eq!(client.get(b"a", Consistency::Linearizable).await, Ok(None));
    assert_eq!(house.node.asked().len(), 3);
}

#[tokio::test]
async fn e4_an_answer_that_no_retry_changes_is_final() {
    let house = door().await;
    house.node.fail(NodeError::Refused("why".to_owned()));
    let error = client_of(&[&house]).put(b"a", b"v", Condition::None).await.expect_err("refused");
    assert_eq!((error.exit_code(), house.node.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_node_that_nobody_listens_at_is_passed_over() {
    let house = door().await;
    let client = Client::new(&ClientConfig::new([nobody(), house.address.to_string()])).expect("a client");
    client.put(b"a", b"v", Condition::None).await.expect("written");
    client.put(b"a", b"v", Condition::None).await.expect("written");
    assert_eq!(house.node.asked().len(), 2);
}

#[tokio::test]
async fn with_nobody_left_nothing_is_applied() {
    let config =
        ClientConfig { timeout: Duration::from_millis(30), ..ClientConfig::new([nobody(), nobody()]) };
    let error = Client::new(&config).expect("a client").put(b"a", b"v", Condition::None).await;
    let error = error.expect_err("unreachable");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert_eq!((error.outcome(), error.exit_code()), (Outcome::NotApplied, 6));
}

#[tokio::test]
async fn e4_a_connection_that_breaks_leaves_a_write_unknown_and_moves_a_read_on() {
    let house = door().await;
    let (address, count) = breaking_off().await;
    let client = Client::new(&ClientConfig::new([address, house.address.to_string()])).expect("a client");
    let error = client.put(b"a", b"v", Condition::None).await.expect_err("lost");
    assert!(matches!(error, ClientError::Lost { is_write: true, .. }), "{error:?}");
    assert_eq!((error.outcome(), count.load(Ordering::Relaxed)), (Outcome::Unknown, 1));
    assert_eq!(house.node.asked().len(), 0, "the write went nowhere else");
    assert_eq!(client.get(b"a", Consistency::Linearizable).await, Ok(None));
    assert_eq!((count.load(Ordering::Relaxed), house.node.asked().len()), (2, 1));
}

#[tokio::test]
async fn a_leader_hint_is_followed_also_to_a_node_that_was_not_listed() {
    let (follower, leader) = (door().await, door().await);
    follower.node.fail(elsewhere(NodeError::NoLeader, &leader.address.to_string()));
    let client = client_of(&[&follower]);
    client.put(b"a", b"v", Condition::None).await.expect("written");
    client.put(b"a", b"v", Condition::None).await.expect("written");
    assert_eq!((follower.node.asked().len(), leader.node.asked().len()), (1, 2));
}

#[tokio::test]
async fn a_write_that_hangs_is_unknown_and_a_read_is_asked_elsewhere() {
    let (hanging, house) = (door().await, door().await);
    hanging.node.hold();
    let client = client_of(&[&hanging, &house]).with_timeout(Duration::from_millis(40));
    let error = client.put(b"a", b"v", Condition::None).await.expect_err("unknown");
    assert_eq!((error.outcome(), house.node.asked().len()), (Outcome::Unknown, 0));
    let client = client.with_timeout(Duration::from_secs(2));
    assert_eq!(client.get(b"a", Consistency::Linearizable).await, Ok(None));
    assert_eq!(house.node.asked().len(), 1);
}

#[tokio::test]
async fn e4_one_deadline_holds_for_all_calls_together() {
    let house = door().await;
    let client = client_of(&[&house]).with_timeout(Duration::from_secs(60));
    let later = client.with_deadline(tokio::time::Instant::now() + Duration::from_secs(60));
    later.put(b"a", b"v", Condition::None).await.expect("there is time");
    let over = client.with_deadline(tokio::time::Instant::now());
    let error = over.put(b"a", b"w", Condition::None).await.expect_err("no time is left");
    assert_eq!((error.outcome(), error.exit_code()), (Outcome::NotApplied, 6), "{error}");
    assert_eq!(house.node.asked(), ["write a"]);
}

#[tokio::test]
async fn the_largest_value_comes_back_in_a_scan_whatever_it_holds() {
    let house = door().await;
    let value = vec![1; mraft_types::limits::COMMAND_BYTES_MAX];
    house.node.put(b"a", &value);
    let page = client_of(&[&house]).scan(&ScanRequest::default()).await.expect("a page");
    assert!(page.entries[0].value == value, "another value");
}

#[tokio::test]
async fn what_is_no_door_is_said_to_be_none() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            if stream.read(&mut head).await.is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
                drop(tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await);
            }
        }
    });
    let client = Client::new(&ClientConfig::new([address])).expect("a client");
    let error = client.status().await.expect_err("no door");
    assert!(matches!(error, ClientError::BadAnswer { .. }) && error.exit_code() == 1, "{error:?}");
    let error = client.put(b"a", b"v", Condition::None).await.expect_err("no door");
    assert_eq!(error.outcome(), Outcome::Unknown);
}
