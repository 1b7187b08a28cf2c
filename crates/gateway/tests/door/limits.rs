// SPDX-License-Identifier: Apache-2.0

//! How much at once.

use std::sync::Arc;
use std::time::Duration;

use mraft_api::Outcome;
use mraft_gateway::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{code, door_with, rest};
use crate::node::GROUPS;

#[tokio::test]
async fn a_request_too_many_is_429_at_once_and_probes_still_answer() {
    let house = Arc::new(door_with(Limits { concurrent_requests_max: 2, ..Limits::default() }).await);
    house.node.hold();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let house = Arc::clone(&house);
            tokio::spawn(async move { house.put("/v1/kv/a", b"v").await.status })
        })
        .collect();
    house.node.waiting(2).await;
    let refused = house.put("/v1/kv/a", b"v").await;
    assert_eq!(refused.refused(), code(429, "overloaded"));
    assert_eq!((refused.problem().outcome, refused.header("retry-after")), (Outcome::NotApplied, "1"));
    assert_eq!(house.get("/v1/status").await.status, 429);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(house.get(path).await.status, 200);
    }
    house.node.release();
    for waiting in waiting {
        assert_eq!(waiting.await.expect("no panic"), 200);
    }
    assert_eq!(house.put("/v1/kv/a", b"v").await.status, 200);
}

#[tokio::test]
async fn bodies_are_bounded_together() {
    let limits = Limits { value_bytes_max: 600, request_bytes_max: 1000, ..Limits::default() };
    let house = Arc::new(door_with(limits).await);
    house.node.hold();
    let first = {
        let house = Arc::clone(&house);
        tokio::spawn(async move { house.put("/v1/kv/a", &[1; 600]).await.status })
    };
    house.node.waiting(1).await;
    assert_eq!(house.put("/v1/kv/a", &[1; 401]).await.refused(), code(429, "overloaded"));
    let chunked = format!("{CHUNKED_PUT}191\r\n{}\r\n", "v".repeat(0x191));
    let refused = house.raw(chunked.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains(PROBLEM), "{refused}");
    house.node.release();
    assert_eq!(first.await.expect("no panic"), 200);
    assert_eq!(house.put("/v1/kv/a", &[1; 600]).await.status, 200);
    assert_eq!(house.used(BODY_BYTES).await, 0);
}

#[tokio::test]
async fn a_body_of_unknown_length_counts_for_what_it_is_not_for_what_it_may_be() {
    let limits = Limits { value_bytes_max: 600, request_bytes_max: 1000, ..Limits::default() };
    let house = Arc::new(door_with(limits).await);
    house.node.hold();
    let put = format!("{CHUNKED_PUT}5\r\nhello\r\n0\r\n\r\n");
    let batch = "POST /v1/batch HTTP/1.1\r\nhost: door\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
        2a\r\n{\"operations\":[{\"delete\":{\"key\":\"key1\"}}]}\r\n0\r\n\r\n";
    let sent: Vec<_> = (0..10)
        .flat_map(|_| [put.clone(), batch.to_owned()])
        .map(|request| {
            let house = Arc::clone(&house);
            tokio::spawn(async move { house.raw(request.as_bytes()).await })
        })
        .collect();
    while !sent.iter().any(tokio::task::JoinHandle::is_finished) && house.node.asked().len() < 20 {
        tokio::task::yield_now().await;
    }
    house.node.release();
    for said in sent {
        let said = said.await.expect("no panic");
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
}

#[tokio::test]
async fn a_body_that_is_only_announced_takes_nothing_from_others() {
    let limits = Limits { value_bytes_max: 600, request_bytes_max: 1000, ..Limits::default() };
    let house = door_with(limits).await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        let mut stream = house.connect().await;
        stream.write_all(ANNOUNCED_PUT.as_bytes()).await.expect("sent");
        // Said when the body is waited for.
        until_told_to_go_on(&mut stream).await;
        idle.push(stream);
    }
    assert_eq!(house.put("/v1/kv/a", &[1; 600]).await.status, 200);
}

#[tokio::test]
async fn a_slow_sender_holds_what_it_has_sent_until_there_is_really_no_room() {
    let limits = Limits { value_bytes_max: 600, request_bytes_max: 1000, ..Limits::default() };
    let house = door_with(limits).await;
    let mut slow = [house.connect().await, house.connect().await];
    for stream in &mut slow {
        stream.write_all(ANNOUNCED_PUT.as_bytes()).await.expect("sent");
        until_told_to_go_on(stream).await;
        stream.write_all(&[1; 450]).await.expect("sent");
    }
    while house.used(BODY_BYTES).await < 900 {}
    assert_eq!(house.put("/v1/kv/a", &[1; 101]).await.refused(), code(429, "overloaded"));
    assert_eq!(house.put("/v1/kv/a", &[1; 100]).await.status, 200);
    slow[0].write_all(&[1; 150]).await.expect("sent");
    let refused = rest(&mut slow[0]).await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains(PROBLEM), "{refused}");
    slow[1].write_all(&[1; 150]).await.expect("sent");
    assert!(rest(&mut slow[1]).await.starts_with("HTTP/1.1 200"), "the other one's bytes made room");
    assert_eq!(house.used(BODY_BYTES).await, 0);
}

const BODY_BYTES: &str = "bytes of request bodies at once";
const PROBLEM: &str = "content-type: application/problem+json\r\n";
const CHUNKED_PUT: &str =
    "PUT /v1/kv/a HTTP/1.1\r\nhost: door\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
const ANNOUNCED_PUT: &str = "PUT /v1/kv/a?timeout_ms=60000 HTTP/1.1\r\nhost: door\r\nconnection: close\r\n\
    expect: 100-continue\r\ncontent-length: 600\r\n\r\n";

async fn until_told_to_go_on(stream: &mut TcpStream) {
    let mut said = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut said).await.expect("an answer");
    assert!(said.starts_with(b"HTTP/1.1 100 "), "{}", said.escape_ascii());
}

#[tokio::test]
async fn scans_wait_in_line_and_the_line_is_bounded() {
    let limits = Limits { concurrent_scans_max: 1, waiting_scans_max: 2, ..Limits::default() };
    let house = Arc::new(door_with(limits).await);
    house.node.hold();
    let scan = || {
        let house = Arc::clone(&house);
        tokio::spawn(async move { house.get("/v1/scan").await.status })
    };
    let first = scan();
    house.node.waiting(GROUPS as usize).await;
    let behind = [scan(), scan()];
    while house.used(SCANS_WAITING).await < behind.len() {}
    let refused = house.get("/v1/scan").await;
    assert_eq!(refused.refused(), code(429, "overloaded"));
    assert!(refused.problem().detail.contains(SCANS_WAITING), "{}", refused.problem().detail);
    assert_eq!(house.node.asked().len(), GROUPS as usize, "who waits has asked nothing yet");
    house.node.release();
    for scan in [first].into_iter().chain(behind) {
        assert_eq!(scan.await.expect("no panic"), 200);
    }
    assert_eq!((house.used("scans at once").await, house.used(SCANS_WAITING).await), (0, 0));
}

#[tokio::test]
async fn a_scan_waits_no_longer_than_its_deadline() {
    let house = Arc::new(door_with(Limits { concurrent_scans_max: 1, ..Limits::default() }).await);
    house.node.hold();
    let first = {
        let house = Arc::clone(&house);
        tokio::spawn(async move { house.get("/v1/scan").await.status })
    };
    house.node.waiting(GROUPS as usize).await;
    let refused = house.get("/v1/scan?timeout_ms=1").await;
    assert_eq!((refused.refused(), refused.header("retry-after")), (code(429, "overloaded"), "1"));
    assert_eq!(refused.problem().outcome, Outcome::NotApplied);
    house.node.release();
    assert_eq!(first.await.expect("no panic"), 200);
}

const SCANS_WAITING: &str = "scans waiting";

#[tokio::test]
async fn a_connection_too_many_is_turned_away_and_a_closed_one_makes_room() {
    let house = door_with(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = house.connect().await;
    // Answered, so the connection is counted.
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: door\r\n\r\n").await.expect("sent");
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut second = house.connect().await;
    let said = rest(&mut second).await;
    assert!(said.starts_with("HTTP/1.1 429 ") && said.contains("connections at once"), "{said}");
    for part in ["mraft-outcome: not_applied\r\n", "retry-after: 1\r\n", "\"retry_after_ms\":100"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    drop(first);
    // The server notices the close in its own time.
    loop {
        let said = house.raw(b"GET /livez HTTP/1.1\r\nhost: door\r\nconnection: close\r\n\r\n").await;
        if said.starts_with("HTTP/1.1 200") {
            break;
        }
    }
}

/// Requests for a large value, more than the system's buffers take answers of.
fn greedy() -> Vec<u8> {
    b"GET /v1/kv/large HTTP/1.1\r\nhost: door\r\n\r\n".repeat(32)
}

#[tokio::test]
async fn t2_answers_that_are_not_taken_are_bounded_together() {
    let house = door_with(Limits { answer_bytes_max: 1 << 20, ..Limits::default() }).await;
    assert_eq!(house.put("/v1/kv/large", &[1; 1 << 20]).await.status, 200);
    assert_eq!(house.put("/v1/kv/small", b"v").await.status, 200);
    assert_eq!(house.get("/v1/kv/large").await.body.len(), 1 << 20, "one alone always finds room");
    let mut slow = house.connect().await;
    slow.write_all(&greedy()).await.expect("sent");
    // Until the system has taken what it takes, the door gives more.
    let refused = loop {
        let said = house.get("/v1/kv/large").await;
        if said.status != 200 {
            break said;
        }
    };
    assert_eq!((refused.refused(), refused.header("retry-after")), (code(429, "overloaded"), "1"));
    assert_eq!(refused.problem().outcome, Outcome::NotApplied);
    let detail = refused.problem().detail;
    assert!(detail.contains(ANSWER_BYTES), "{detail}");
    assert_eq!(
        house.put("/v1/kv/small", b"w").await.status,
        429,
        "nothing is begun that could not be answered"
    );
    assert_eq!(house.get("/livez").await.status, 200);
    drop(slow);
    while house.used(ANSWER_BYTES).await > 0 {}
    assert_eq!(house.get("/v1/kv/large").await.status, 200);
    assert_eq!(house.put("/v1/kv/small", b"w").await.status, 200);
}

#[tokio::test]
async fn t2_a_client_that_takes_nothing_is_cut_off() {
    let house = door_with(Limits { write_timeout: Duration::from_millis(5), ..Limits::default() }).await;
    assert_eq!(house.put("/v1/kv/large", &[1; 1 << 20]).await.status, 200);
    let mut slow = house.connect().await;
    slow.write_all(&greedy()).await.expect("sent");
    // The one that asks is counted, too.
    while house.used("connections at once").await > 1 {}
    assert_eq!(house.used(ANSWER_BYTES).await, 0);
    assert!(rest(&mut slow).await.matches("HTTP/1.1 200").count() < 32);
}

#[tokio::test]
async fn t2_who_was_let_in_is_answered_also_when_there_is_no_room_for_another_connection() {
    let house = door_with(Limits { connection_bytes_max: 160 << 10, ..Limits::default() }).await;
    let mut early = house.connect().await;
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(house.connect().await);
    }
    let last = others.last_mut().expect("some");
    assert!(rest(last).await.starts_with("HTTP/1.1 429"), "all the room is taken");
    // Its write would be of unknown fate if it were cut off now.
    let ask = b"PUT /v1/kv/key HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: 1\r\n\r\nv";
    early.write_all(ask).await.expect("sent");
    assert!(rest(&mut early).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn t2_heads_that_are_not_complete_are_bounded_together() {
    let house = door_with(Limits { connection_bytes_max: 160 << 10, ..Limits::default() }).await;
    let head = format!("GET /v1/kv/{}", "a".repeat(60 << 10));
    let mut unfinished = [house.connect().await, house.connect().await];
    unfinished[0].write_all(head.as_bytes()).await.expect("sent");
    while house.used(CONNECTION_BYTES).await < 84 << 10 {}
    unfinished[1].write_all(head.as_bytes()).await.expect("sent");
    assert_eq!(rest(&mut unfinished[1]).await, "", "there is no room for it");
    assert_eq!(house.get("/livez").await.status, 200, "for a small one there is");
    drop(unfinished);
    while house.used(CONNECTION_BYTES).await > 64 << 10 {}
}

const ANSWER_BYTES: &str = "bytes of answers at once";
const CONNECTION_BYTES: &str = "bytes of connections at once";
