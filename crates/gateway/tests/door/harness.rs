// SPDX-License-Identifier: Apache-2.0

//! One way in: [`door`] starts a server on loopback, [`House`] speaks to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use mraft_api::Problem;
use mraft_gateway::{Door, Drained, Limits, ServerTls, listen, serve};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::node::{MemoryNode, Shared};

/// A server and the node behind it.
pub struct House {
    pub node: Arc<MemoryNode>,
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<std::io::Result<Drained>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub async fn door() -> House {
    door_with(Limits::default()).await
}

pub async fn door_with(limits: Limits) -> House {
    house(limits, None, Duration::from_secs(60)).await
}

/// A server that cuts off after `grace`.
pub async fn house(limits: Limits, tls: Option<ServerTls>, grace: Duration) -> House {
    let node = Arc::new(MemoryNode::default());
    let listener = listen("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel();
    let door = Door::new(Arc::new(Shared(Arc::clone(&node))), limits);
    let stopped = async move { drop(stopped.await) };
    let served = tokio::spawn(serve(door, listener, tls, stopped, grace));
    House { node, address, stop: Some(stop), served }
}

impl House {
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Said {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        let method: Method = method.parse().expect("a method");
        let mut request = Request::builder().method(method).uri(path).header("host", "door");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request");
        let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Said { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub async fn get(&self, path: &str) -> Said {
        self.send("GET", path, &[], b"").await
    }

    pub async fn put(&self, path: &str, body: &[u8]) -> Said {
        self.send("PUT", path, &[], body).await
    }

    pub async fn delete(&self, path: &str) -> Said {
        self.send("DELETE", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, json: &str) -> Said {
        self.send("POST", path, &[("content-type", "application/json")], json.as_bytes()).await
    }

    /// What one of the door's limits holds now.
    pub async fn used(&self, limit: &str) -> usize {
        let metrics = self.get("/metrics").await;
        let line = format!("mraft_http_used{{limit=\"{limit}\"}} ");
        let used = metrics.text().lines().find_map(|text| text.strip_prefix(&line));
        used.expect("a limit").parse().expect("a number")
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// Sends these bytes and reads until the server closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.expect("sent");
        rest(&mut stream).await
    }

    /// Tells the server to stop and hands back how it ended, to be awaited.
    pub fn stop(mut self) -> JoinHandle<std::io::Result<Drained>> {
        drop(self.stop.take());
        self.served
    }
}

/// Everything until the other side closes; a reset is a close.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        bytes.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Said {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_slice(&self.body).expect("the contract's JSON")
    }

    /// The problem, whose status must be the answer's.
    #[track_caller]
    pub fn problem(&self) -> Problem {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem: Problem = serde_json::from_slice(&self.body).expect("a problem");
        assert_eq!(problem.status, self.status);
        assert_eq!(problem.outcome.as_str(), self.header("mraft-outcome"));
        problem
    }

    /// Status and code in one.
    #[track_caller]
    pub fn refused(&self) -> (u16, String) {
        (self.status, self.problem().code.to_string())
    }
}

/// What [`Said::refused`] is compared with.
pub fn code(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
