// SPDX-License-Identifier: Apache-2.0

#![allow(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

//! Nodes that write down what happens to them, and peers that do what no honest node would. Everything waits for conditions,
//! with a deadline that only a broken test reaches.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mraft_transport::{
    CloseReason, Connected, Disconnected, Handler, ReceivePermit, Received, Refusal, SnapshotReceiver,
    Transport, TransportConfig, TransportStats,
};
use mraft_types::{DeploymentId, InstanceId, NodeId, Payload};
use mraft_wire::{
    Accepted, DecodeError, Expected, Frame, FrameBuilder, FrameKind, FrameReader, Hello, HelloConfirm,
    HelloRefused, HelloReply, Packet, PacketReader, Purpose, Response, SnapshotHeader, TopologyStamp,
    VersionRange, check, encode_frame,
};

pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("a node id")
}

pub fn hello(from: NodeId, to: NodeId, purpose: Purpose) -> Hello {
    Hello {
        versions: VersionRange { min: 1, max: 1 },
        feature_levels: VersionRange { min: 1, max: 1 },
        deployment: DeploymentId(7),
        node: from,
        to,
        purpose,
        instance: InstanceId([from.get() as u8; 16]),
        boot_counter: 1,
        boot_nonce: 1,
        durable_seq: 0,
        record_of_receiver: None,
        topology: TopologyStamp::default(),
        raft_address: "127.0.0.1:1".to_owned(),
        instances: BTreeMap::new(),
        starts: Default::default(),
        fields: Vec::new(),
    }
}

/// A frame with one response whose body is this text.
pub fn frame(from: NodeId, to: NodeId, text: &str) -> Vec<u8> {
    frame_of(from, to, text.as_bytes().to_vec())
}

pub fn frame_of(from: NodeId, to: NodeId, body: Vec<u8>) -> Vec<u8> {
    let mut builder = FrameBuilder::new(from, to);
    builder.push_response(&Response { id: 1, body: body.into() }).expect("room");
    builder.finish().expect("a frame")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    Text(NodeId, String),
    Connected(NodeId),
    Disconnected(NodeId, CloseReason),
    Suspected(NodeId),
    Refused(Refusal),
    SnapshotBegun(SnapshotHeader),
    SnapshotFinished(Vec<u8>),
    SnapshotCut(usize),
}

/// How a node behaves; changed while it runs.
pub struct Behaviour {
    pub deployment: DeploymentId,
    pub unknown: BTreeSet<NodeId>,
    /// Keeps the permits of frames instead of releasing them.
    pub holds_frames: bool,
    pub refuses_snapshots: Option<String>,
    /// Fails at this chunk.
    pub fails_at_chunk: Option<usize>,
}

#[derive(Default)]
struct Log {
    happenings: Vec<Happening>,
    held: Vec<ReceivePermit>,
    over_limit: Vec<bool>,
}

pub struct Recorder {
    node: NodeId,
    pub behaviour: Mutex<Behaviour>,
    log: Mutex<Log>,
    changed: Condvar,
}

impl Recorder {
    pub fn new(node: NodeId) -> Arc<Recorder> {
        let behaviour = Behaviour {
            deployment: DeploymentId(7),
            unknown: BTreeSet::new(),
            holds_frames: false,
            refuses_snapshots: None,
            fails_at_chunk: None,
        };
        Arc::new(Recorder {
            node,
            behaviour: behaviour.into(),
            log: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub fn behaves(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().expect("no panic")
    }

    fn note(&self, happening: Happening) {
        self.log.lock().expect("no panic").happenings.push(happening);
        self.changed.notify_all();
    }

    pub fn happenings(&self) -> Vec<Happening> {
        self.log.lock().expect("no panic").happenings.clone()
    }

    pub fn count(&self, wanted: &Happening) -> usize {
        self.happenings().iter().filter(|happening| *happening == wanted).count()
    }

    pub fn over_limit(&self) -> Vec<bool> {
        self.log.lock().expect("no panic").over_limit.clone()
    }

    pub fn release(&self) {
        self.log.lock().expect("no panic").held.clear();
    }

    /// Waits for a happening of this kind.
    pub fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&Happening) -> Option<T>) -> T {
        self.wait(what, |log| log.happenings.iter().find_map(&mut find))
    }

    pub fn wait_for_count(&self, wanted: &Happening, count: usize) {
        self.wait(&format!("{count} times {wanted:?}"), |log| {
            (log.happenings.iter().filter(|found| *found == wanted).count() >= count).then_some(())
        });
    }

    /// Waits for anything to become true, looking again whenever something happens or a moment has passed.
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition() {
            assert!(Instant::now() < deadline, "{what} never came; {:?}", self.happenings());
            let log = self.log.lock().expect("no panic");
            drop(self.changed.wait_timeout(log, Duration::from_millis(5)).expect("no panic"));
        }
    }

    fn wait<T>(&self, what: &str, mut find: impl FnMut(&Log) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut log = self.log.lock().expect("no panic");
        loop {
            if let Some(found) = find(&log) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} never came; {:?}", log.happenings);
            log = self.changed.wait_timeout(log, left).expect("no panic").0;
        }
    }
}

impl Handler for Recorder {
    fn hello(&self, peer: NodeId, purpose: Purpose) -> Hello {
        Hello { deployment: self.behaves().deployment, ..hello(self.node, peer, purpose) }
    }

    fn check_hello(
        &self,
        ours: &Hello,
        theirs: &Hello,
        dialed: Option<NodeId>,
    ) -> Result<Accepted, HelloRefused> {
        if self.behaves().unknown.contains(&theirs.node) {
            return Err(HelloRefused::UnknownNode { node: theirs.node });
        }
        check(ours, theirs, &Expected { dialed, ..Expected::default() })
    }

    fn frame(&self, from: NodeId, frame: Received) -> Result<(), DecodeError> {
        let mut texts = Vec::new();
        for packet in PacketReader::new(frame.payload(), from, self.node)? {
            let Packet::Response(response) = packet? else { continue };
            let shown = &response.body[..response.body.len().min(32)];
            texts.push(Happening::Text(from, String::from_utf8_lossy(shown).into_owned()));
        }
        let holds_frames = self.behaves().holds_frames;
        let mut log = self.log.lock().expect("no panic");
        log.over_limit.push(frame.is_over_limit());
        log.happenings.extend(texts);
        if holds_frames {
            log.held.push(frame.permit());
        }
        self.changed.notify_all();
        Ok(())
    }

    fn connected(&self, node: NodeId, _: &Connected) {
        self.note(Happening::Connected(node));
    }

    fn disconnected(&self, node: NodeId, disconnected: &Disconnected) {
        self.note(Happening::Disconnected(node, disconnected.reason));
    }

    fn suspected(&self, node: NodeId) {
        self.note(Happening::Suspected(node));
    }

    fn refused(&self, refusal: &Refusal) {
        self.note(Happening::Refused(refusal.clone()));
    }

    fn snapshot_begin(&self, header: SnapshotHeader) -> Result<Box<dyn SnapshotReceiver>, String> {
        panic!("a node of this test receives no snapshots: {header:?}")
    }
}

/// A recorder that takes snapshots.
pub struct SnapshotTaker(pub Arc<Recorder>);

struct Taking {
    recorder: Arc<Recorder>,
    data: Vec<u8>,
    chunks: usize,
    is_finished: bool,
}

impl SnapshotReceiver for Taking {
    fn chunk(&mut self, data: Payload) -> Result<(), String> {
        if self.recorder.behaves().fails_at_chunk == Some(self.chunks) {
            return Err("the disk is full".to_owned());
        }
        self.chunks += 1;
        self.data.extend_from_slice(&data);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        self.is_finished = true;
        self.recorder.note(Happening::SnapshotFinished(std::mem::take(&mut self.data)));
        Ok(())
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if !self.is_finished {
            self.recorder.note(Happening::SnapshotCut(self.chunks));
        }
    }
}

impl Handler for SnapshotTaker {
    fn hello(&self, peer: NodeId, purpose: Purpose) -> Hello {
        self.0.hello(peer, purpose)
    }

    fn check_hello(
        &self,
        ours: &Hello,
        theirs: &Hello,
        dialed: Option<NodeId>,
    ) -> Result<Accepted, HelloRefused> {
        self.0.check_hello(ours, theirs, dialed)
    }

    fn frame(&self, from: NodeId, frame: Received) -> Result<(), DecodeError> {
        self.0.frame(from, frame)
    }

    fn connected(&self, node: NodeId, connected: &Connected) {
        self.0.connected(node, connected);
    }

    fn disconnected(&self, node: NodeId, disconnected: &Disconnected) {
        self.0.disconnected(node, disconnected);
    }

    fn suspected(&self, node: NodeId) {
        self.0.suspected(node);
    }

    fn refused(&self, refusal: &Refusal) {
        self.0.refused(refusal);
    }

    fn snapshot_begin(&self, header: SnapshotHeader) -> Result<Box<dyn SnapshotReceiver>, String> {
        if let Some(reason) = self.0.behaves().refuses_snapshots.clone() {
            return Err(reason);
        }
        self.0.note(Happening::SnapshotBegun(header));
        let recorder = self.0.clone();
        Ok(Box::new(Taking { recorder, data: Vec::new(), chunks: 0, is_finished: false }))
    }
}

/// A node of a test.
pub struct TestNode {
    pub id: NodeId,
    pub transport: Transport,
    pub recorder: Arc<Recorder>,
}

/// Settings for tests: an address that is nobody else's after the node is gone, timeouts that a slow machine does not reach.
pub fn config(id: u64) -> TransportConfig {
    let dice = AtomicU64::new(id);
    let jitter = Arc::new(move || dice.fetch_add(0x9e37_79b9, Ordering::Relaxed));
    let mut config = TransportConfig::new(node(id), format!("{}:0", own_address()), jitter);
    config.heartbeat_interval = DEADLINE;
    config.dial_timeout = DEADLINE;
    config.hello_timeout = DEADLINE;
    config.idle_timeout = DEADLINE;
    config.backoff_min = Duration::from_millis(1);
    config.backoff_max = Duration::from_millis(20);
    config
}

impl TestNode {
    pub fn start(id: u64) -> TestNode {
        TestNode::start_with(config(id))
    }

    pub fn start_with(config: TransportConfig) -> TestNode {
        let recorder = Recorder::new(config.node);
        TestNode::start_as(config, recorder)
    }

    pub fn start_as(config: TransportConfig, recorder: Arc<Recorder>) -> TestNode {
        let id = config.node;
        let transport = Transport::start(config, Arc::new(SnapshotTaker(recorder.clone()))).expect("started");
        TestNode { id, transport, recorder }
    }

    pub fn address(&self) -> String {
        self.transport.local_address().to_string()
    }

    pub fn knows(&self, peer: &TestNode) {
        self.transport.set_peer(peer.id, &peer.address()).expect("an address");
    }

    /// Makes it a peer and waits until frames can be sent.
    pub fn connects_to(&self, id: NodeId, address: SocketAddr) {
        self.transport.set_peer(id, &address.to_string()).expect("an address");
        self.recorder.wait_for_count(&Happening::Connected(id), 1);
    }

    pub fn says(&self, to: NodeId, text: &str) {
        self.transport.send(to, frame(self.id, to, text)).expect("connected, with room");
    }

    pub fn hears(&self, from: NodeId, text: &str) {
        self.recorder.wait_for_count(&Happening::Text(from, text.to_owned()), 1);
    }

    pub fn stats(&self) -> TransportStats {
        self.transport.stats()
    }

    /// Waits until a dial of the other one failed; what is told of it.
    pub fn cannot_dial(&self, other: &TestNode) -> String {
        let failure = || self.stats().peers.into_iter().find(|peer| peer.node == other.id)?.failure;
        self.recorder.wait_until("a dial that failed", || failure().is_some());
        failure().expect("it failed")
    }

    pub fn waits_for_close(&self, reason: CloseReason, count: u64) {
        self.recorder
            .wait_until(&format!("{count} closes for {reason}"), || self.stats().closed_for(reason) >= count);
    }
}

/// Two nodes that can send to each other.
pub fn pair(first: TransportConfig, second: TransportConfig) -> (TestNode, TestNode) {
    let (one, two) = (TestNode::start_with(first), TestNode::start_with(second));
    one.connects_to(two.id, two.transport.local_address());
    two.connects_to(one.id, one.transport.local_address());
    (one, two)
}

/// A peer made by hand.
pub struct RawPeer {
    pub socket: TcpStream,
    frames: FrameReader,
}

impl RawPeer {
    pub fn dial(address: SocketAddr) -> RawPeer {
        RawPeer::on(TcpStream::connect(address).expect("reachable"))
    }

    pub fn on(socket: TcpStream) -> RawPeer {
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut frames = FrameReader::new();
        frames.hello_is_done();
        RawPeer { socket, frames }
    }

    pub fn write(&mut self, kind: FrameKind, fill: impl FnOnce(&mut Vec<u8>)) {
        self.write_bytes(&encode_frame(kind, fill));
    }

    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("written");
    }

    /// The next frame; `None` when the connection ended.
    pub fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.next_frame().expect("good frames") {
                return Some(frame);
            }
            match self.socket.read(self.frames.buffer()) {
                Ok(0) => return None,
                Ok(len) => self.frames.filled(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("nothing came"),
                Err(_) => return None,
            }
        }
    }

    pub fn read_reply(&mut self) -> HelloReply {
        let frame = self.read().expect("an answer");
        assert_eq!(frame.kind, FrameKind::HelloReply);
        HelloReply::decode(&frame.payload).expect("a good reply")
    }

    /// Dials as `from` and gets through the hello.
    pub fn greeted(from: NodeId, to: &TestNode, purpose: Purpose) -> RawPeer {
        RawPeer::try_greeted(from, to, purpose).expect("an answer")
    }

    /// The same; `None` when the real `from` dialed at that moment and took its place again.
    pub fn try_greeted(from: NodeId, to: &TestNode, purpose: Purpose) -> Option<RawPeer> {
        let mut raw = RawPeer::dial(to.transport.local_address());
        raw.write(FrameKind::Hello, |out| hello(from, to.id, purpose).encode(out));
        let frame = raw.read()?;
        assert_eq!(frame.kind, FrameKind::HelloReply);
        let reply = HelloReply::decode(&frame.payload).expect("a good reply");
        assert!(matches!(reply, HelloReply::Accepted { .. }), "{reply:?}");
        raw.write(FrameKind::HelloConfirm, |out| HelloConfirm::Accepted.encode(out));
        Some(raw)
    }

    /// Answers a hello as node `id`, and hears that it is accepted.
    pub fn answers(&mut self, id: NodeId) {
        let frame = self.read().expect("a hello");
        let theirs = Hello::decode(&frame.payload).expect("a good hello");
        let reply = HelloReply::Accepted {
            version: 1,
            feature_level: 1,
            hello: Box::new(hello(id, theirs.node, theirs.purpose)),
        };
        self.write(FrameKind::HelloReply, |out| reply.encode(out));
        let frame = self.read().expect("a confirmation");
        assert_eq!(HelloConfirm::decode(&frame.payload), Ok(HelloConfirm::Accepted));
    }
}

/// Where a peer made by hand is dialed.
pub struct RawListener(TcpListener);

impl RawListener {
    pub fn new() -> RawListener {
        RawListener(TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    pub fn accept(&self) -> RawPeer {
        RawPeer::on(self.0.accept().expect("a connection").0)
    }
}

/// An address of its own in 127.0.0.0/8, where nobody else looks for a port; the usual one on systems that have no other.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    let [_, high, middle, low] = number.to_be_bytes();
    let own = Ipv4Addr::new(127, 128 | (high & 127), middle, low.clamp(1, 254));
    if TcpListener::bind((own, 0)).is_ok() { own } else { Ipv4Addr::LOCALHOST }
}
