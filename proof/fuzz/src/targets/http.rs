// SPDX-License-Identifier: Apache-2.0

//! The HTTP door: whatever a client may send on one connection, in front of a node that answers at once.
//!
//! ```text
//! input := mode:u8 (bit 0: the length of the body is made right)  bytes of the connection (the rest)
//! ```

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use mraft_api::{
    ChangeAnswer, ClearConflictAnswer, Condition, Consistency, GroupDetail, GroupSummary, NodeStatus,
    Problem, RetireAnswer, Served, VerifyAnswer,
};
use mraft_gateway::needs::{
    Change, Found, Health, Node, NodeError, Operation, OperationResult, PageAnswer, PageEntry, PageRequest,
    ReadAnswer, Reply, WriteAnswer,
};
use mraft_gateway::{Door, Limits, serve_stream};
use mraft_types::limits::KEY_BYTES_MAX;
use mraft_types::{GroupId, NodeId, Payload};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;

use super::samples;
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

pub const HTTP: Target = Target {
    name: "http",
    about: "gateway: paths, queries, headers and bodies of requests, on a connection in memory",
    run,
    seeds,
    words: || {
        vec![
            b"GET ",
            b"HEAD ",
            b"PUT ",
            b"POST ",
            b"DELETE ",
            b"OPTIONS ",
            b"/v1/kv/",
            b"/v1/batch",
            b"/v1/scan",
            b"/v1/status",
            b"/v1/groups",
            b"/v1/groups/0/add-learner",
            b"/v1/groups/0/promote",
            b"/v1/groups/0/remove",
            b"/v1/groups/0/transfer",
            b"/v1/groups/0/verify",
            b"/v1/nodes/7",
            b"/v1/nodes/7/clear-conflict",
            b"/v1/openapi.json",
            b"/livez",
            b"/readyz",
            b"/metrics",
            b"/raft/info",
            b"/raft/key",
            b"/raft/join",
            b"/raft/del",
            b"?key=",
            b"&val=",
            b"&sync=true",
            b"?addr=",
            b"&force=true",
            b"?consistency=stale",
            b"&timeout_ms=1000",
            b"?prefix=",
            b"?prefix_base64=",
            b"&after=",
            b"&after_base64=",
            b"&limit=",
            b"&verbose",
            b"?per_group=true",
            b" HTTP/1.1\r\n",
            b" HTTP/1.0\r\n",
            b"host: x\r\n",
            b"content-length: ",
            b"transfer-encoding: chunked\r\n",
            b"connection: close\r\n",
            b"if-match: \"1\"\r\n",
            b"if-none-match: *\r\n",
            b"if-match: W/\"7\", \"8\"\r\n",
            b"expect: 100-continue\r\n",
            b"accept: application/json\r\n",
            b"\r\n\r\n",
            b"0\r\n\r\n",
            b"%2F",
            b"%00",
            b"%",
            b"+",
            b"..",
            b"//",
            b"?",
            b"&",
            b"=",
            b"#",
            b"{\"node\":\"8\"}",
            b"{\"operations\":[",
            b"{\"put\":{\"key\":\"{t}a\",\"value\":\"1\"}}",
            b"{\"check\":{\"key\":\"{t}b\",\"absent\":true}}",
            b"18446744073709551616",
            b"-1",
        ]
    },
    shape: Shape::Behind(1, &Shape::Request),
    bytes_max: 1024,
    cost: 4,
};

/// What a connection may hold: buffers of both ends, the head and the routes' own, and what it may for each byte of its input.
const BYTES_ALWAYS: usize = 512 << 10;
const BYTES_PER_BYTE: usize = 256;

fn run(input: &[u8]) -> Said {
    thread_local! {
        static DOOR: (Door, Runtime) = door();
    }
    let Some((mode, bytes)) = input.split_first() else { return Said::Refused };
    let request = if mode & 1 != 0 { with_length(bytes) } else { bytes.to_vec() };
    DOOR.with(|(door, runtime)| {
        let allowed = BYTES_ALWAYS + BYTES_PER_BYTE * input.len();
        let answer = bounded("a connection", allowed, || runtime.block_on(exchange(door, &request)));
        judge(&answer)
    })
}

fn door() -> (Door, Runtime) {
    let limits = Limits { value_bytes_max: 256, ..Limits::default() };
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => (Door::new(Arc::new(Still), limits), runtime),
        Err(error) => panic!("there is no runtime: {error}"),
    }
}

/// Sends everything, waits until nothing more is answered, ends, and has heard everything.
async fn exchange(door: &Door, request: &[u8]) -> Vec<u8> {
    let wire = Rc::new(RefCell::new(Wire { request: request.to_vec(), ..Wire::default() }));
    let mut connection = pin!(serve_stream(door, Client(Rc::clone(&wire))));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let (mut before, mut idle) = ((0, 0), 0);
    while idle < IDLE_TURNS {
        if connection.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return std::mem::take(&mut wire.borrow_mut().answer);
        }
        // What the door has others do is done meanwhile.
        tokio::task::yield_now().await;
        let mut wire = wire.borrow_mut();
        let now = (wire.request.len(), wire.answer.len());
        // Of what it has read it does a piece a turn, and wakes itself.
        let goes_on = woken.0.swap(false, Ordering::Relaxed) || now != before;
        idle = if goes_on { 0 } else { idle + 1 };
        before = now;
        if idle == IDLE_TURNS && !wire.is_ended {
            (wire.is_ended, idle) = (true, 0);
        }
    }
    panic!("a connection stands although its client has gone")
}

/// Whether the connection asked to be looked at again.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Turns without a byte after which nothing more comes: the node answers at once.
const IDLE_TURNS: usize = 64;

/// Both directions of a connection.
#[derive(Default)]
struct Wire {
    /// What the door has not read yet.
    request: Vec<u8>,
    is_ended: bool,
    answer: Vec<u8>,
}

/// The client's end. Nobody is woken: the connection is looked at in turns.
struct Client(Rc<RefCell<Wire>>);

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        if wire.request.is_empty() && !wire.is_ended {
            return Poll::Pending;
        }
        let len = buffer.remaining().min(wire.request.len());
        buffer.put_slice(&wire.request[..len]);
        wire.request.drain(..len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().answer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The body's length as the last header but for those that there are; what is no head stays as it is.
fn with_length(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else { return bytes.to_vec() };
    let body = &bytes[end + 4..];
    [&bytes[..end], format!("\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// What every answer is, and whether the request was understood.
fn judge(answer: &[u8]) -> Said {
    if answer.is_empty() {
        return Said::Refused;
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let head = end.and_then(|end| std::str::from_utf8(&answer[..end]).ok());
    let Some(head) = head else { panic!("an answer without a head: {}", answer.escape_ascii()) };
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|status| status.parse::<u16>().ok());
    let Some(status) = status else { panic!("an answer without a status: {head}") };
    assert!(status != 500, "a defect: {}", answer.escape_ascii());
    let body = &answer[end.unwrap_or(0) + 4..];
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    if head.contains("application/problem+json")
        && let Some(body) = length.and_then(|length| body.get(..length))
        // Behind the head that answers `HEAD` comes the next answer.
        && !(body.is_empty() || body.starts_with(b"HTTP/1."))
    {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => assert_eq!(problem.status, status, "an error says another status"),
            Err(error) => panic!("an error that cannot be read ({error}): {}", body.escape_ascii()),
        }
    }
    Said::of(matches!(status, 200..=399 | 404 | 412))
}

/// A node that answers at once: one key is there, and everything can be done.
struct Still;

const REVISION: u64 = 7;

fn served() -> Served {
    Served { group: 0, revision: REVISION, index: 1007, leader: Some(7), served_by: 7, stale_ms: None }
}

fn at_once<T: Send + 'static>(answer: Result<T, Box<mraft_gateway::needs::Failure>>) -> Reply<T> {
    Box::pin(async move { answer })
}

fn is_key(key: &[u8]) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len())
}

impl Node for Still {
    fn id(&self) -> NodeId {
        samples::node(7)
    }

    fn read(&self, key: &[u8], _: Consistency, _: Instant) -> Reply<ReadAnswer> {
        assert!(is_key(key), "a door lets an impossible key pass");
        let found =
            key.starts_with(b"k").then(|| Found { revision: REVISION, value: Payload::copy_from(key) });
        at_once(Ok(ReadAnswer { served: served(), found }))
    }

    fn write(&self, operations: &[Operation<'_>], _: Instant) -> Reply<WriteAnswer> {
        assert!(!operations.is_empty() && operations.iter().all(|operation| is_key(operation.key())));
        let slot = mraft_types::slot_of_key(operations[0].key());
        assert!(
            operations.iter().all(|operation| mraft_types::slot_of_key(operation.key()) == slot),
            "rule E6"
        );
        let mut results = Vec::new();
        for (at, operation) in (0..).zip(operations) {
            let (Operation::Put { condition, .. }
            | Operation::Delete { condition, .. }
            | Operation::Check { condition, .. }) = operation;
            let current = operation.key().starts_with(b"k").then_some(REVISION);
            let holds = match condition {
                Condition::None => true,
                Condition::Revision(revision) => current == Some(*revision),
                Condition::Exists => current.is_some(),
                Condition::Absent => current.is_none(),
            };
            if !holds {
                let failed = NodeError::ConditionFailed { served: served(), operation: at, current };
                return at_once(Err(failed.into()));
            }
            results.push(match operation {
                Operation::Put { value, .. } => {
                    assert!(value.len() <= 256, "a door lets a value pass that is too large");
                    OperationResult::Put { revision: REVISION + 1 }
                }
                Operation::Delete { .. } if current.is_some() => {
                    OperationResult::Deleted { revision: REVISION + 1 }
                }
                Operation::Delete { .. } => OperationResult::NothingToDelete,
                Operation::Check { .. } => OperationResult::Checked,
            });
        }
        at_once(Ok(WriteAnswer { served: served(), results }))
    }

    fn groups_of(&self, _: Option<u16>) -> Vec<GroupId> {
        vec![GroupId(0), GroupId(1)]
    }

    fn scan(&self, page: PageRequest<'_>, _: Consistency, _: Instant) -> Reply<PageAnswer> {
        assert!(page.entries_max > 0);
        let entry = |key: &[u8]| PageEntry { key: key.to_vec(), revision: 1, value: b"\xffv".to_vec() };
        let keys: [&[u8]; 3] = [b"ka", b"kb", b"k\xff"];
        let wanted =
            |key: &&&[u8]| key.starts_with(page.prefix) && page.after.is_none_or(|after| **key > after);
        let mut entries: Vec<PageEntry> = keys.iter().filter(wanted).map(|key| entry(key)).collect();
        let is_cut = entries.len() > page.entries_max;
        entries.truncate(page.entries_max);
        let next = entries.last().filter(|_| is_cut).map(|entry| entry.key.clone());
        at_once(Ok(PageAnswer { served: Served { group: page.group.0, ..served() }, entries, next }))
    }

    fn status(&self, _: Instant) -> Reply<NodeStatus> {
        at_once(Ok(NodeStatus { node: 7, ..NodeStatus::default() }))
    }

    fn groups(&self, _: Instant) -> Reply<Vec<GroupSummary>> {
        at_once(Ok(vec![GroupSummary::default()]))
    }

    fn group(&self, group: GroupId, _: Instant) -> Reply<GroupDetail> {
        let summary = GroupSummary { group: group.0, ..GroupSummary::default() };
        at_once(Ok(GroupDetail { summary, ..GroupDetail::default() }))
    }

    fn change(&self, group: GroupId, _: Change, _: Instant) -> Reply<ChangeAnswer> {
        at_once(Ok(ChangeAnswer { group: group.0, ..ChangeAnswer::default() }))
    }

    fn verify(&self, group: GroupId, _: Instant) -> Reply<VerifyAnswer> {
        at_once(Ok(VerifyAnswer { group: group.0, ..VerifyAnswer::default() }))
    }

    fn retire(&self, node: NodeId, _: bool, _: Instant) -> Reply<RetireAnswer> {
        at_once(Ok(RetireAnswer { node: node.get(), groups: vec![0] }))
    }

    fn clear_conflict(&self, node: NodeId, _: Instant) -> Reply<ClearConflictAnswer> {
        at_once(Ok(ClearConflictAnswer { node: node.get(), ..ClearConflictAnswer::default() }))
    }

    fn health(&self) -> Health {
        Health::default()
    }

    fn metrics(&self, _: bool) -> Option<String> {
        Some("mraft_node_up 1\n".to_owned())
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let requests = [
        ("GET /v1/kv/key", "", ""),
        ("GET /v1/kv/k%2Fa?consistency=stale&timeout_ms=1000", "if-none-match: \"7\"\r\n", ""),
        ("HEAD /v1/kv/nothing", "if-match: W/\"7\", \"8\"\r\n", ""),
        ("PUT /v1/kv/k", "if-match: \"7\"\r\n", "value"),
        ("POST /v1/kv/other", "if-none-match: *\r\n", "value"),
        ("DELETE /v1/kv/k", "", ""),
        (
            "POST /v1/batch",
            "content-type: application/json\r\n",
            r#"{"operations":[{"put":{"key":"{t}a","value":"1"}},{"delete":{"key":"{t}b"}},{"check":{"key":"{t}c","absent":true}}]}"#,
        ),
        ("GET /v1/scan?prefix=k&limit=2", "", ""),
        ("GET /v1/scan?prefix_base64=aw==&after=ka", "", ""),
        ("GET /v1/status", "", ""),
        ("GET /v1/groups", "", ""),
        ("GET /v1/groups/0", "", ""),
        ("POST /v1/groups/0/add-learner", "", r#"{"node":"8","raft_address":"10.0.0.8:13890"}"#),
        ("POST /v1/groups/0/promote", "", r#"{"node":8,"change_index":3}"#),
        ("POST /v1/groups/0/remove", "", r#"{"node":"8#1"}"#),
        ("POST /v1/groups/0/transfer", "", r#"{"node":"10.0.0.8:13890"}"#),
        ("POST /v1/groups/0/verify", "", ""),
        ("DELETE /v1/nodes/8?force=true", "", ""),
        ("POST /v1/nodes/8/clear-conflict", "", ""),
        ("GET /v1/openapi.json", "", ""),
        ("GET /livez?verbose", "", ""),
        ("GET /readyz", "", ""),
        ("GET /metrics?per_group=true", "", ""),
        ("GET /raft/info", "", ""),
        ("GET /raft/key?key=k&sync=true", "", ""),
        ("POST /raft/key?key=a+b&val=%2B", "", ""),
        ("DELETE /raft/key?key=k", "", ""),
        ("DELETE /raft/del?addr=8&force=true", "", ""),
    ];
    let mut seeds: Vec<Vec<u8>> = requests
        .iter()
        .map(|(line, fields, body)| {
            format!("\x01{line} HTTP/1.1\r\nhost: x\r\n{fields}\r\n{body}").into_bytes()
        })
        .collect();
    seeds.push(
        b"\x00PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET /v1/kv/k HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
    );
    seeds
}
