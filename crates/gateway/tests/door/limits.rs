// SPDX-License-Identifier: Apache-2.0

//! How much at once.

use std::sync::Arc;

use mraft_api::Outcome;
use mraft_gateway::Limits;

use crate::harness::{code, door_with, rest};

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
    let chunked = "PUT /v1/kv/a HTTP/1.1\r\nhost: door\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
    assert!(house.raw(chunked.as_bytes()).await.starts_with("HTTP/1.1 429"));
    house.node.release();
    assert_eq!(first.await.expect("no panic"), 200);
    assert_eq!(house.put("/v1/kv/a", &[1; 600]).await.status, 200);
}

#[tokio::test]
async fn scans_are_bounded_together() {
    let house = Arc::new(door_with(Limits { concurrent_scans_max: 1, ..Limits::default() }).await);
    house.node.hold();
    let first = {
        let house = Arc::clone(&house);
        tokio::spawn(async move { house.get("/v1/scan").await.status })
    };
    house.node.waiting(3).await;
    assert_eq!(house.get("/v1/scan").await.refused(), code(429, "overloaded"));
    house.node.release();
    assert_eq!(first.await.expect("no panic"), 200);
}

#[tokio::test]
async fn a_connection_too_many_is_turned_away_and_a_closed_one_makes_room() {
    let house = door_with(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = house.connect().await;
    // Answered, so the connection is counted.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
