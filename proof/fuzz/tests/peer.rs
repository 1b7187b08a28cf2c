// SPDX-License-Identifier: Apache-2.0

//! A peer that passes the hello and then says everything that the corpora hold, to nodes of the real binary, over real sockets: no process
//! ends, nothing that was acknowledged is lost, and no connection is closed but its own.
//!
//! Node 3 of three was killed, and this test speaks in its name, by its own identity. What it says is whole and wrong, or cut, or not a
//! frame at all; it is never a lie of the kind that only an honest member could tell, against which Raft promises nothing.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mraft::GroupList;
use mraft::identity::{self, Identity};
use mraft::meta::GroupMeta;
use mraft_api::{Condition, Consistency};
use mraft_disk::RealDisk;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::{binary, wait};
use mraft_fuzz::corpus;
use mraft_fuzz::targets::pieces::pieces;
use mraft_raft::{AppendReply, Body, Message};
use mraft_types::limits::FRAME_BYTES_MAX;
use mraft_types::{Entry, EntryKind, GroupUid, LogPosition, NodeId, Payload, ReplicaId};
use mraft_wire::packet::FRAME_PACKETS_MAX;
use mraft_wire::{
    FRAME_HEADER_BYTES, FrameBuilder, FrameKind, FrameReader, Hello, HelloConfirm, HelloReply, Purpose,
    Request, RequestKind, SnapshotHeader, SnapshotSum, TopologyStamp, VersionRange, encode_frame,
};

/// Nothing takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ends every conversation that a node has not ended before: no frame begins like this.
const NO_FRAME: &[u8] = b"GET / HTTP/1.1\r\nhost: nobody\r\n\r\n";
/// After so many conversations somebody must have been able to write.
const BETWEEN_WRITES: usize = 40;

#[test]
fn a_peer_that_says_everything_breaks_nothing_but_its_own_connection() {
    match conversation_with_everything_but(None) {
        Ok(said) => println!("{said}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_node_that_ends_and_a_connection_that_ends_would_be_noticed() {
    for (harm, said) in
        [(Harm::Ends, " ended with "), (Harm::Restarts, "connections between honest nodes ended")]
    {
        let failure = conversation_with_everything_but(Some(harm)).expect_err("nobody noticed");
        assert!(failure.to_string().contains(said), "{harm:?} is taken for {failure}");
    }
}

/// What the stranger might do to a node, done here by hand.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// Its process ends.
    Ends,
    /// All its connections end.
    Restarts,
}

/// What was said, in numbers. With harm done after a few words there are no more of them.
fn conversation_with_everything_but(harm: Option<Harm>) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let shape = Shape {
            nodes: 3,
            groups: 4,
            snapshot_entries: 10_000,
            compaction_overhead: 1_000,
            snapshot_bytes_per_second: 1 << 20,
        };
        let mut cluster = Cluster::start(Manner::default(), &binary::find()?, shape).await?;
        let done = attacked(&mut cluster, harm).await;
        done.map_err(|failure| failure.while_doing(cluster.last_words()))
    })
}

async fn attacked(cluster: &mut Cluster, mut harm: Option<Harm>) -> Result<String> {
    cluster.nodes[2].kill()?;
    cluster.serves().await?;
    let stranger = Arc::new(Stranger::in_the_name_of(cluster)?);
    let writer = Writer::start(cluster)?;
    writer.goes_on().await?;
    let (mut conversations, mut refused, is_whole) = (0, 0, harm.is_none());
    for target in 0..2 {
        let node = (cluster.nodes[target].id, cluster.nodes[target].raft);
        let mut lines = stranger.everything(node.0);
        lines.truncate(if is_whole { usize::MAX } else { BETWEEN_WRITES });
        for lines in lines.chunks(BETWEEN_WRITES) {
            for line in lines {
                let (stranger, line) = (Arc::clone(&stranger), line.clone());
                let talk = tokio::task::spawn_blocking(move || stranger.say(node, &line));
                let ended = talk.await.map_err(Failure::new)?;
                refused += usize::from(
                    ended.map_err(|why| Failure::new(format_args!("conversation {conversations}: {why}")))?,
                );
                conversations += 1;
            }
            match harm.take() {
                Some(Harm::Ends) => {
                    let pid = cluster.nodes[1].pid().expect("it runs").as_raw_nonzero();
                    cluster.nodes[1].strike()?;
                    wait::until("the process is dead", async || {
                        // Its first thread is dead before the others are.
                        let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?.count();
                        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
                        wait::is(threads == 1 && state.contains(") Z "), || format!("{threads}, {state}"))
                    })
                    .await?;
                }
                Some(Harm::Restarts) => {
                    cluster.nodes[1].kill()?;
                    cluster.start_node(1)?;
                    cluster.serves().await?;
                }
                None => {}
            }
            cluster.nodes.iter_mut().try_for_each(|node| node.must_be_well())?;
            writer.goes_on().await?;
        }
    }
    let address = cluster.nodes[2].raft;
    let answers = if is_whole { stranger.answers() } else { Vec::new() };
    let answered =
        tokio::task::spawn_blocking(move || answer_dials(address, &answers)).await.map_err(Failure::new)?;
    writer.goes_on().await?;
    let written = writer.stop(cluster).await?;
    for (node, other) in [(0, 1), (1, 0)] {
        let lost = format!("\"node\":\"{}\"", cluster.nodes[other].id);
        let said = cluster.nodes[node].said()?;
        let lines: Vec<&str> =
            said.lines().filter(|line| line.contains("connection ended") && line.contains(&lost)).collect();
        wait::is(lines.is_empty(), || format!("connections between honest nodes ended: {lines:?}"))?;
        wait::is(said.contains("connection ended"), || "no connection of the stranger was ended".to_owned())?;
    }
    cluster.stop()?;
    Ok(format!(
        "{conversations} conversations with two nodes, {refused} of them refused in words, {answered} dials answered; {written} writes \
         were acknowledged meanwhile and are there"
    ))
}

/// What is said in one conversation behind the hello.
#[derive(Clone, Debug)]
struct Line {
    purpose: Purpose,
    bytes: Vec<u8>,
}

/// Somebody who has the dead node's identity.
struct Stranger {
    identity: Identity,
    replica: ReplicaId,
    group: mraft_types::GroupId,
    uid: GroupUid,
    genesis: GroupMeta,
}

impl Stranger {
    fn in_the_name_of(cluster: &Cluster) -> Result<Stranger> {
        let data = cluster.nodes[2].data();
        let identity = identity::read(&RealDisk::new(), &data).map_err(Failure::new)?;
        let list = GroupList::read(&RealDisk::new(), &data).map_err(Failure::new)?;
        let record = list.records.into_values().next().ok_or_else(|| Failure::new("node 3 had no group"))?;
        Ok(Stranger {
            identity: identity.ok_or_else(|| Failure::new("node 3 had no identity"))?,
            replica: record.replica,
            group: record.group,
            uid: record.uid,
            genesis: record.genesis.ok_or_else(|| Failure::new("node 3 did not found its group"))?,
        })
    }

    fn hello(&self, to: NodeId, purpose: Purpose) -> Hello {
        let Identity { deployment, node, instance, raft_address, boot_counter, .. } = self.identity.clone();
        Hello {
            versions: VersionRange { min: 1, max: 1 },
            feature_levels: VersionRange { min: 1, max: 1 },
            deployment,
            node,
            to,
            purpose,
            instance,
            boot_counter: boot_counter + 1,
            boot_nonce: 0x5ca1_ab1e,
            durable_seq: 1 << 40,
            record_of_receiver: None,
            topology: TopologyStamp::default(),
            raft_address,
            instances: [(node, instance)].into(),
            starts: Default::default(),
            fields: Vec::new(),
        }
    }

    /// All that there is to say to this node.
    fn everything(&self, to: NodeId) -> Vec<Line> {
        let messages = |bytes: Vec<u8>| Line { purpose: Purpose::Messages, bytes };
        let snapshot = |bytes: Vec<u8>| Line { purpose: Purpose::Snapshot, bytes };
        let frame = |kind, payload: &[u8]| encode_frame(kind, |out| out.extend_from_slice(payload));
        let head = [self.identity.node.get().to_le_bytes(), to.get().to_le_bytes()].concat();
        let mut lines = Vec::new();
        for input in inputs("packets") {
            let Some((_, packets)) = input.split_first() else { continue };
            lines.push(messages(frame(FrameKind::Packets, &[&head, packets].concat())));
        }
        for input in inputs("frames") {
            lines.push(messages(input.get(1..).unwrap_or_default().to_vec()));
        }
        for (kind, name) in [
            (FrameKind::Hello, "hello"),
            (FrameKind::HelloReply, "hello"),
            (FrameKind::SnapshotReply, "snapshot-stream"),
        ] {
            // Frames that have no place here.
            lines.extend(inputs(name).iter().take(10).map(|input| messages(frame(kind, input))));
        }
        for (kinds, name) in [(1..=8, "questions"), (2..=2, "kv-command"), (1..=1, "kv-query")] {
            for kind in kinds {
                for input in inputs(name).iter().step_by(4) {
                    lines.push(messages(self.request(to, kind, input)));
                }
            }
        }
        lines.extend(self.malformed(to).into_iter().map(messages));
        lines.extend(self.crowded(to).into_iter().map(messages));
        for input in inputs("snapshot-stream") {
            let Some((kind, payload)) = input.split_first() else { continue };
            let kind = [FrameKind::SnapshotHeader, FrameKind::SnapshotEnd, FrameKind::SnapshotChunk]
                [usize::from(kind % 3)];
            lines.push(snapshot(frame(kind, payload)));
        }
        for input in inputs("kv-snapshot")
            .iter()
            .filter(|input| input.first().is_some_and(|kind| (kind & 0x7f) % 3 == 0))
        {
            lines.push(snapshot(self.snapshot(to, &input[1..])));
        }
        lines
    }

    fn request(&self, to: NodeId, kind: u8, input: &[u8]) -> Vec<u8> {
        let mut builder = FrameBuilder::new(self.identity.node, to);
        let body = match kind {
            // A question about the group that there is, with whatever follows.
            1 => [&[1][..], &self.group.0.to_le_bytes(), &[0], input].concat(),
            2 => [&[1][..], &self.group.0.to_le_bytes(), &[0, 0], input].concat(),
            _ => input.get(1..).unwrap_or_default().to_vec(),
        };
        let request =
            Request { id: 7, kind: RequestKind(kind), hops: 0, remaining_ms: 50, body: body.into() };
        builder.push_request(&request).expect("room");
        builder.finish().expect("a frame")
    }

    /// Messages of the group that there is, which no replica of it would send: frames carry them, the core refuses them.
    fn malformed(&self, to: NodeId) -> Vec<Vec<u8>> {
        let entry = |index, term, kind, payload: &[u8]| Entry {
            index,
            term,
            kind,
            payload: Payload::copy_from(payload),
        };
        let position = |index, term| LogPosition { index, term };
        let append =
            |prev, entries: Vec<Entry>| Body::Append { prev, entries, commit: u64::MAX, matched: u64::MAX };
        let bodies = [
            (0, Body::TimeoutNow),
            (u64::MAX, Body::Heartbeat { commit: 0, matched: 0, round: 1 }),
            (1, Body::PreVote { last: position(u64::MAX, u64::MAX) }),
            (1, Body::Vote { last: position(0, 7), transfer: true }),
            (1, append(position(1, 1), vec![entry(2, u64::MAX, EntryKind::Commands, b"junk")])),
            (1, append(position(5, 0), vec![entry(6, 0, EntryKind::Membership, b"junk")])),
            (1, append(position(u64::MAX - 1, 1), vec![entry(u64::MAX, 1, EntryKind::Empty, b"not empty")])),
            (1, Body::AppendReply(AppendReply::Accepted { matched: u64::MAX })),
            (1, Body::AppendReply(AppendReply::Rejected { prev: u64::MAX, hint: position(u64::MAX, 0) })),
            (1, Body::Heartbeat { commit: u64::MAX, matched: u64::MAX, round: u64::MAX }),
            (1, Body::HeartbeatReply { round: u64::MAX }),
            (1, Body::Removed { change_index: u64::MAX }),
            (1, Body::Quiesce { last: u64::MAX, life: 0, number: u64::MAX }),
        ];
        let framed = bodies.into_iter().map(|(term, body)| {
            let mut builder = FrameBuilder::new(self.identity.node, to);
            let message = Message { from: self.replica, to: ReplicaId::new(0, to), term, body };
            builder.push_raft(self.group, self.uid, &message).expect("room");
            builder.finish().expect("a frame")
        });
        framed.collect()
    }

    /// As many of the smallest packets as a frame may have, and as many as it has room for.
    fn crowded(&self, to: NodeId) -> Vec<Vec<u8>> {
        let head = [self.identity.node.get().to_le_bytes(), to.get().to_le_bytes()].concat();
        let heartbeat = [&[0x08, 77][..], &[0xab; 16], &[5, 1, 1, 1]].concat();
        let read_index = [&[0x30, 1, 3, 0, 50, 9, 1][..], &self.group.0.to_le_bytes()].concat();
        let pieces: [&[u8]; 5] =
            [&[0x31, 1, 0], &[0x20, 1, 1, 1], &[0x30, 1, 200, 0, 1, 0], &heartbeat, &read_index];
        let room = FRAME_BYTES_MAX - FRAME_HEADER_BYTES - head.len();
        let frame = |piece: &[u8], count: usize| {
            encode_frame(FrameKind::Packets, |out| {
                out.extend_from_slice(&head);
                out.extend_from_slice(&piece.repeat(count));
            })
        };
        let both = |piece: &&[u8]| [FRAME_PACKETS_MAX, room / piece.len()].map(|count| frame(piece, count));
        pieces.iter().flat_map(both).collect()
    }

    /// A snapshot of the group that there is, of an earlier term, so that a whole one is of no use, with the chunks of an input.
    fn snapshot(&self, to: NodeId, input: &[u8]) -> Vec<u8> {
        let meta = GroupMeta { applied: LogPosition { index: 1 << 30, term: 1 }, ..self.genesis.clone() };
        let header = SnapshotHeader {
            group: self.group,
            uid: self.uid,
            from: self.replica,
            to: ReplicaId::new(0, to),
            term: 1,
            start: meta.log_start(),
            format: 1,
            meta: meta.encode().into(),
        };
        let mut bytes = encode_frame(FrameKind::SnapshotHeader, |out| assert!(header.encode(out)));
        let mut sum = SnapshotSum::new();
        for data in pieces(input).into_iter().skip(1) {
            let Ok(chunk) = sum.number(Payload::copy_from(data)) else { continue };
            bytes.extend(encode_frame(FrameKind::SnapshotChunk, |out| chunk.encode(out)));
        }
        bytes.extend(encode_frame(FrameKind::SnapshotEnd, |out| sum.end().encode(out)));
        bytes
    }

    /// Has one conversation until the node ends it. Whether it said that it refuses.
    fn say(
        &self,
        (node, address): (NodeId, std::net::SocketAddrV4),
        line: &Line,
    ) -> std::result::Result<bool, String> {
        let mut stream =
            TcpStream::connect(address).map_err(|error| format!("it takes no connection: {error}"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        let ours = self.hello(node, line.purpose);
        let said = encode_frame(FrameKind::Hello, |out| ours.encode(out));
        stream.write_all(&said).map_err(|error| format!("it hears no hello: {error}"))?;
        let mut reader = FrameReader::new();
        let reply = loop {
            if let Some(frame) = reader.next_frame().map_err(|error| error.to_string())? {
                break HelloReply::decode(&frame.payload).map_err(|error| error.to_string())?;
            }
            let len = stream.read(reader.buffer()).map_err(|error| format!("it does not answer: {error}"))?;
            if len == 0 {
                return Err("it closed before it answered".to_owned());
            }
            reader.filled(len);
        };
        if let HelloReply::Refused(refused) = reply {
            return Err(format!("it refuses the hello: {refused}"));
        }
        let confirm = encode_frame(FrameKind::HelloConfirm, |out| HelloConfirm::Accepted.encode(out));
        // A node that has ended the conversation takes no more, which is no mistake of its own.
        let _ = stream.write_all(&[&confirm, line.bytes.as_slice(), NO_FRAME].concat());
        let heard = heard_until_the_end(&mut stream)?;
        Ok(!heard.is_empty())
    }

    /// What a node that dials may be answered with.
    fn answers(&self) -> Vec<Vec<u8>> {
        let replies =
            inputs("hello").into_iter().filter(|input| input.first().is_some_and(|kind| kind % 3 == 1));
        let framed = replies
            .map(|input| encode_frame(FrameKind::HelloReply, |out| out.extend_from_slice(&input[1..])));
        [NO_FRAME.to_vec(), Vec::new()].into_iter().chain(framed).take(DIALS).collect()
    }
}

/// Dials that are answered: nodes pause longer after each that fails.
const DIALS: usize = 12;

/// Takes the dials of both nodes, and answers each with one of these and then with what is no frame.
fn answer_dials(address: std::net::SocketAddrV4, answers: &[Vec<u8>]) -> usize {
    let listener = TcpListener::bind(address).expect("the dead node's address is free");
    for answer in answers {
        let (mut stream, _) = listener.accept().expect("somebody dials");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let _ = stream.write_all(&[answer.as_slice(), NO_FRAME].concat());
        heard_until_the_end(&mut stream).expect("whoever dialed ends it");
    }
    answers.len()
}

fn heard_until_the_end(stream: &mut TcpStream) -> std::result::Result<Vec<u8>, String> {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => Ok(heard),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(heard),
        Err(error) => Err(format!("it does not end the conversation: {error}")),
    }
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let inputs = corpus::load(corpus::directory(), target).expect("a corpus");
    assert!(!inputs.is_empty(), "{target} has no corpus");
    inputs
}

/// Writes one key after the other, all the time.
struct Writer {
    acknowledged: Arc<Mutex<Vec<String>>>,
    attempts: Arc<AtomicUsize>,
    is_stopping: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Result<Writer> {
        let client = cluster.client(0)?;
        let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
        let (attempts, is_stopping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (told, tried, stopping) =
            (Arc::clone(&acknowledged), Arc::clone(&attempts), Arc::clone(&is_stopping));
        let task = tokio::spawn(async move {
            while !stopping.load(Ordering::Relaxed) {
                let key = format!("honest/{}", tried.fetch_add(1, Ordering::Relaxed));
                if client.put(key.as_bytes(), key.as_bytes(), Condition::None).await.is_ok() {
                    told.lock().expect("no panic").push(key);
                }
            }
        });
        Ok(Writer { acknowledged, attempts, is_stopping, task })
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no panic").len()
    }

    /// Waits until something more was acknowledged.
    async fn goes_on(&self) -> Result<()> {
        let before = self.count();
        wait::until("a write is acknowledged", async || {
            wait::is(self.count() > before, || format!("{} attempts", self.attempts.load(Ordering::Relaxed)))
        })
        .await
    }

    /// Stops, and finds everything that was acknowledged.
    async fn stop(self, cluster: &Cluster) -> Result<usize> {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.task.await.map_err(Failure::new)?;
        let keys = self.acknowledged.lock().expect("no panic").clone();
        let client = cluster.client(1)?;
        for key in &keys {
            let got = client.get(key.as_bytes(), Consistency::Linearizable).await?;
            let is_there = got.is_some_and(|got| got.value == key.as_bytes());
            wait::is(is_there, || format!("{key} was acknowledged and is lost"))?;
        }
        Ok(keys.len())
    }
}
