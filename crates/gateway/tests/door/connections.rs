// SPDX-License-Identifier: Apache-2.0

//! Connections: pipelining, hostile bytes, slow clients, TLS, drain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mraft_api::{Client, ClientConfig, ClientError, Condition, Consistency};
use mraft_gateway::{Drained, Limits, ServerTls, listen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{door, door_with, house, rest};

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_their_order() {
    let house = door().await;
    let mut bytes = Vec::new();
    for (number, value) in ["one", "two", "three"].iter().enumerate() {
        let last = if number == 2 { "connection: close\r\n" } else { "" };
        let (put, get) = (value.len(), format!("GET /v1/kv/k HTTP/1.1\r\nhost: door\r\n{last}\r\n"));
        let put = format!("PUT /v1/kv/k HTTP/1.1\r\nhost: door\r\ncontent-length: {put}\r\n\r\n{value}{get}");
        bytes.extend_from_slice(put.as_bytes());
    }
    let said = house.raw(&bytes).await;
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 6, "{said}");
    let places: Vec<usize> =
        ["one", "two", "three"].iter().map(|value| said.find(value).expect("answered")).collect();
    assert!(places.is_sorted());
}

#[test]
fn many_connections_at_once_are_taken_before_anybody_accepts_them() {
    const BURST_MAX: usize = 400;
    let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
    let burst = allowed.trim().parse().map_or(BURST_MAX, |allowed: usize| allowed.min(BURST_MAX));
    let listener = listen("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // The time is only for giving up: who finds no room is not answered at all, as nobody ever accepts.
    let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(10));
    let taken: Vec<_> = (0..burst).map_while(|number| connect(number).ok()).collect();
    assert_eq!(taken.len(), burst);
}

#[tokio::test]
async fn hostile_bytes_are_refused_and_the_door_stays_open() {
    let house = door().await;
    let many: String = (0..200).map(|number| format!("h{number}: v\r\n")).collect();
    let long = format!("x: {}\r\n", "v".repeat(70 << 10));
    for (bytes, status) in [
        ("\0\0\0\0\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("GET /v1/kv/a HTTP/1.1\r\nhost: a\r\nx y: z\r\n\r\n".to_owned(), "400"),
        ("GET /v1/kv/a HTTP/1.1\r\nhost: a\r\nif-match: \0\r\n\r\n".to_owned(), "400"),
        ("PUT /v1/kv/a HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n".to_owned(), "400"),
        (
            "PUT /v1/kv/a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(),
            "400",
        ),
        ("PUT /v1/kv/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(), "400"),
        ("PUT /v1/kv/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(), "400"),
        (format!("GET /v1/kv/a HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "431"),
        (format!("GET /v1/kv/a HTTP/1.1\r\nhost: a\r\n{long}\r\n"), "431"),
    ] {
        let said = house.raw(bytes.as_bytes()).await;
        let sent: String = bytes.escape_debug().to_string().chars().take(90).collect();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{sent} → {said:.100}");
    }
    assert_eq!(house.get("/livez").await.status, 200);
    assert_eq!(house.node.asked().len(), 0, "none of this reaches the node");
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let house = door_with(Limits { head_timeout: Duration::from_millis(5), ..Limits::default() }).await;
    let mut stream = house.connect().await;
    stream.write_all(b"GET /v1/kv/a HTTP/1.1\r\nho").await.expect("sent");
    rest(&mut stream).await;
    let mut silent = house.connect().await;
    rest(&mut silent).await;
    assert_eq!(house.node.asked().len(), 0);
}

#[tokio::test]
async fn a_request_in_flight_is_finished_when_the_door_stops() {
    let house = Arc::new(door_with(Limits { linger: Duration::ZERO, ..Limits::default() }).await);
    house.node.hold();
    let mut idle = house.connect().await;
    let flying = {
        let house = Arc::clone(&house);
        let address = house.address;
        tokio::spawn(async move {
            let client = Client::new(&ClientConfig::new([address.to_string()])).expect("a client");
            client.put(b"a", b"v", Condition::None).await
        })
    };
    house.node.waiting(1).await;
    let node = Arc::clone(&house.node);
    let address = house.address;
    let stopped = Arc::into_inner(house).expect("the only one left").stop();
    assert_eq!(rest(&mut idle).await, "", "an idle connection is closed when its time is over");
    assert!(!flying.is_finished());
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    node.release();
    assert!(flying.await.expect("no panic").is_ok());
    let drained = stopped.await.expect("no panic").expect("no error");
    assert_eq!(drained.cut_off, 0);
}

#[tokio::test]
async fn who_asks_a_door_that_was_told_to_stop_is_answered_for_the_last_time() {
    let house = door_with(Limits { linger: Duration::from_secs(3600), ..Limits::default() }).await;
    let (address, node) = (house.address, Arc::clone(&house.node));
    let mut idle = house.connect().await;
    let ask = b"PUT /v1/kv/a HTTP/1.1\r\nhost: door\r\ncontent-length: 1\r\n\r\nv";
    idle.write_all(ask).await.expect("sent");
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    let mut waits = house.connect().await;
    let stopped = house.stop();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    for stream in [&mut idle, &mut waits] {
        stream.write_all(ask).await.expect("sent");
        let answers = rest(stream).await;
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
        assert!(answers.contains("connection: close"), "{answers}");
    }
    assert_eq!(node.asked().len(), 3);
    assert_eq!(stopped.await.expect("no panic").expect("no error").cut_off, 0);
}

#[tokio::test]
async fn what_is_not_finished_within_the_grace_is_cut_off() {
    let house = house(Limits::default(), None, Duration::ZERO).await;
    house.node.hold();
    let mut stream = house.connect().await;
    stream.write_all(b"GET /v1/kv/a HTTP/1.1\r\nhost: door\r\n\r\n").await.expect("sent");
    house.node.waiting(1).await;
    let drained = house.stop().await.expect("no panic").expect("no error");
    assert_eq!(drained, Drained { open: 1, cut_off: 1 });
    assert_eq!(rest(&mut stream).await, "");
}

/// Certificates for 127.0.0.1 in files: authority, certificate, key.
fn certificates(directory: &tempfile::TempDir) -> [PathBuf; 3] {
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(vec![]).expect("names");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
    let certificate = server.signed_by(&key, &issuer).expect("a certificate");
    let contents = [authority_certificate.pem(), certificate.pem(), key.serialize_pem()];
    let files = ["ca.pem", "cert.pem", "key.pem"].map(|name| directory.path().join(name));
    for (file, content) in files.iter().zip(contents) {
        std::fs::write(file, content).expect("written");
    }
    files
}

#[tokio::test]
async fn https_is_for_those_who_trust_the_authority() {
    let directory = tempfile::tempdir().expect("a directory");
    let [authority, certificate, key] = certificates(&directory);
    let tls = ServerTls::load(&certificate, &key).expect("a certificate with its key");
    let house = house(Limits::default(), Some(tls), Duration::from_secs(60)).await;
    let endpoint = format!("https://{}", house.address);
    let config = ClientConfig { ca_file: Some(authority), ..ClientConfig::new([endpoint.clone()]) };
    let client = Client::new(&config).expect("a client");
    client.put(b"a", b"v", Condition::None).await.expect("written");
    let got = client.get(b"a", Consistency::Linearizable).await.expect("read").expect("there");
    assert_eq!((&got.value[..], got.served.revision), (&b"v"[..], 1));

    let stranger = tempfile::tempdir().expect("a directory");
    let [other_authority, ..] = certificates(&stranger);
    let config = ClientConfig {
        ca_file: Some(other_authority),
        timeout: Duration::from_millis(50),
        ..ClientConfig::new([endpoint])
    };
    let client = Client::new(&config).expect("a client");
    loop {
        match client.put(b"a", b"w", Condition::None).await {
            Err(ClientError::Unreachable { .. }) => break,
            // The handshake had not come so far as to fail.
            Err(ClientError::Deadline { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(house.node.asked().len(), 2, "only what was trusted");
    let plain = house.raw(b"GET /livez HTTP/1.1\r\n\r\n").await;
    assert!(!plain.contains("HTTP/1.1 200"));
}

#[test]
fn a_certificate_that_cannot_be_used_says_which_file_and_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let [authority, certificate, key] = certificates(&directory);
    let missing = directory.path().join("missing.pem");
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "nothing").expect("written");
    for (certificate, key, file, why) in [
        (&missing, &key, &missing, "No such file"),
        (&certificate, &missing, &missing, "No such file"),
        (&empty, &key, &empty, "no certificate"),
        (&certificate, &certificate, &certificate, "no private key"),
        (&authority, &key, &authority, "does not go with the key"),
    ] {
        let error = ServerTls::load(certificate, key).expect_err("refused");
        assert_eq!(&error.file, file);
        assert!(error.reason.contains(why), "{error}");
    }
}
