// SPDX-License-Identifier: Apache-2.0

//! What hosts see of each other and tell of it: events, metrics, warnings, certificates, strangers.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use mraft::{EventReceiver, HostEvent, NodeHost, TlsFiles};
use mraft_types::{DeploymentId, InstanceId, MembershipChange, NodeId, ReplicaId};
use mraft_wire::{
    FrameKind, FrameReader, Hello, HelloConfirm, HelloReply, Purpose, TopologyStamp, VersionRange,
    encode_frame,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::cluster::change;
use crate::support::{Cluster, GROUP, PATIENCE};

/// Waits for an event of this kind.
fn wait_for(events: &EventReceiver, what: &str, is_it: impl Fn(&HostEvent) -> bool) {
    let told = std::iter::from_fn(|| events.next_within(PATIENCE));
    assert!(told.into_iter().any(|event| is_it(&event)), "{what} was not told");
}

#[test]
fn a_listener_is_told_of_peers_leaders_members_and_snapshots() {
    let mut cluster = Cluster::start(3);
    let events = cluster.hosts[&1].events();
    cluster.write("a");
    cluster.close(3);
    let third = Cluster::node(3);
    wait_for(&events, "the loss", |event| *event == HostEvent::PeerDisconnected(third));
    wait_for(&events, "the suspicion", |event| *event == HostEvent::PeerSuspected(third));
    cluster.open(3).expect("its own directory");
    wait_for(&events, "the return", |event| *event == HostEvent::PeerConnected(third));

    let events = cluster.hosts[&1].events();
    cluster.open(4).expect("a fresh directory opens");
    let fourth = cluster.hosts[&4].events();
    let node = Cluster::node(4);
    let added = ReplicaId::new(0, node);
    change(&cluster, MembershipChange::AddLearner { node, raft_address: cluster.address(4) });
    let is_member = |event: &HostEvent| matches!(event, HostEvent::MembershipChanged { group: GROUP, membership } if membership.members.keys().any(|id| id.node() == node));
    wait_for(&events, "the new member", is_member);
    wait_for(&fourth, "its snapshot", |event| {
        matches!(event, HostEvent::SnapshotReceived { group: GROUP, .. })
    });
    let joined = cluster.leader().group_status(GROUP).expect("here").membership.replica_on(node);
    change(&cluster, MembershipChange::Remove(joined.unwrap_or(added)));
    wait_for(&fourth, "its removal", |event| matches!(event, HostEvent::ReplicaRemoved { group: GROUP, .. }));

    let events: Vec<EventReceiver> = cluster.hosts.values().map(NodeHost::events).collect();
    cluster.wait_until("another leads", |cluster| {
        let (answered, answer) = std::sync::mpsc::channel();
        cluster.leader().transfer_leader(GROUP, None, move |answer| _ = answered.send(answer));
        matches!(answer.recv().expect("every request is answered"), mraft::Answer::Transferred { .. })
    });
    wait_for(&events[0], "the new leader", |event| {
        matches!(event, HostEvent::LeaderChanged { group: GROUP, leader: Some(_), .. })
    });
    assert_eq!(events[0].lost(), 0);
}

#[test]
fn m10_a_routing_table_that_differs_is_an_event_and_a_warning_and_no_refusal() {
    let cluster = Cluster::start(2);
    let peers = |node: u64| cluster.hosts[&node].peers().expect("open");
    let events = cluster.hosts[&1].events();
    // A hello that was exchanged before would be compared after, and end the conflict.
    (1..=2).for_each(|node| cluster.wait_for_peers(node));
    peers(1).set_topology(3, [1; 16]);
    peers(2).set_topology(3, [2; 16]);
    // What a hello says counts from the next connection on.
    let again = || peers(1).reconnect(Cluster::node(2)).expect("a peer");
    again();
    wait_for(&events, "the conflict", |event| {
        *event == HostEvent::TopologyConflict { node: Cluster::node(2), version: 3 }
    });
    let warns = |cluster: &Cluster| {
        let warnings = cluster.hosts[&1].status().warnings;
        warnings.iter().any(|warning| warning.contains("routing table of node 2"))
    };
    assert!(warns(&cluster));
    cluster.write("a");
    peers(2).set_topology(3, [1; 16]);
    again();
    cluster.wait_until("the warning ends with the conflict", |cluster| !warns(cluster));
}

#[test]
fn metrics_name_every_family_once() {
    let cluster = Cluster::start(3);
    cluster.write("a");
    cluster.wait_until("all are connected", |cluster| {
        let connected = |host: &NodeHost| {
            let peers = host.peers().expect("open").status();
            peers.len() == 2 && peers.iter().all(|peer| peer.is_connected)
        };
        cluster.hosts.values().all(connected)
    });
    let mut text = String::new();
    cluster.leader().write_prometheus(&mut text);
    let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let families: BTreeSet<&str> = types.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(types.len(), families.len(), "a family is described twice: {types:?}");
    for family in [
        "mraft_log_sync_seconds",
        "mraft_apply_batch_seconds",
        "mraft_proposal_seconds",
        "mraft_log_bytes",
        "mraft_log_payload_bytes",
        "mraft_log_batches",
        "mraft_log_segments_recycled",
        "mraft_log_segments_live",
        "mraft_log_segments_free",
        "mraft_log_size_bytes",
        "mraft_log_index_bytes",
        "mraft_commands_applied",
        "mraft_held_bytes",
        "mraft_unpersisted_bytes",
        "mraft_elections",
        "mraft_pending_bytes",
        "mraft_pending_proposals",
        "mraft_apply_lag_entries",
        "mraft_transport_dropped",
        "mraft_transport_closed",
        "mraft_transport_queue_bytes",
        "mraft_transport_connected",
        "mraft_transport_suspected",
        "mraft_transport_receive_queue_bytes",
        "mraft_transport_inbound_connections",
        "mraft_transport_sent_bytes",
        "mraft_transport_received_bytes",
        "mraft_transport_over_limit",
        "mraft_transport_receive_waits",
        "mraft_transport_suspicions",
        "mraft_transport_dials_failed",
        "mraft_snapshot_sent_bytes",
        "mraft_snapshot_received_bytes",
        "mraft_snapshot_throttled_milliseconds",
    ] {
        assert!(families.contains(family), "{family} is missing in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
        let name = series.split('{').next().expect("a name");
        let mut ends = ["_total", "_bucket", "_sum", "_count", ""].into_iter();
        let is_described =
            ends.any(|end| name.strip_suffix(end).is_some_and(|family| families.contains(family)));
        assert!(is_described, "{name} has no family");
    }
}

/// The files of a node, signed by an authority of its own directory.
fn certificate(
    directory: &Path,
    issuer: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    host: &str,
) -> TlsFiles {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, issuer).expect("signed");
    let file = |end: &str| directory.join(format!("{name}.{end}"));
    let files = TlsFiles { ca_file: file("ca"), cert_file: file("pem"), key_file: file("key") };
    std::fs::write(&files.ca_file, issuer.pem()).expect("written");
    std::fs::write(&files.cert_file, certificate.pem()).expect("written");
    std::fs::write(&files.key_file, key.serialize_pem()).expect("written");
    files
}

#[test]
fn hosts_with_mutual_tls_serve_and_hear_nobody_without_it() {
    let mut cluster = Cluster::start(3);
    (1..=3).for_each(|node| cluster.close(node));
    let directory = tempfile::tempdir().expect("a directory");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
    let host = cluster.address(1).rsplit_once(':').expect("host:port").0.to_owned();
    for node in 1..=2 {
        let mut config = cluster.config(node);
        config.tls = Some(certificate(directory.path(), &issuer, &node.to_string(), &host));
        let host = cluster.try_open(config).expect("its own directory");
        cluster.hosts.insert(node, host);
    }
    cluster.open(3).expect("its own directory");
    cluster.write("a");
    assert_eq!(cluster.read(), "a", "two of three with certificates are enough");
    let connected =
        |of: u64, to: u64| cluster.hosts[&of].peers().expect("open").is_connected(Cluster::node(to));
    assert!(!connected(1, 3) && !connected(2, 3) && !connected(3, 1) && !connected(3, 2));
    assert_eq!(Cluster::stale(&cluster.hosts[&3]), "", "a node without one hears nothing");
    let refused = |text: &mut String| cluster.hosts[&1].write_prometheus(text);
    cluster.wait_until("the refusals are counted", |_| {
        let mut text = String::new();
        refused(&mut text);
        let count =
            text.lines().find_map(|line| line.strip_prefix("mraft_transport_closed_total{reason=\"tls\"} "));
        count.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 0)
    });
}

#[test]
fn a_host_that_others_reach_without_tls_says_so_in_its_status() {
    let mut cluster = Cluster::start(1);
    assert_eq!(cluster.hosts[&1].status().warnings, Vec::<String>::new(), "nobody else reaches it");
    cluster.close(1);
    let mut config = cluster.config(1);
    let port = config.raft_address.rsplit_once(':').expect("host:port").1.to_owned();
    config.listen_address = format!("0.0.0.0:{port}");
    let host = cluster.try_open(config).expect("its own directory");
    let warnings = host.status().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("without TLS")), "{warnings:?}");
    host.close();
}

/// Dials a host as a node that is in no group, and gets through the hello. What it answered.
fn knock(address: &str, from: u64, to: NodeId) -> (TcpStream, HelloReply) {
    let from = Cluster::node(from);
    let hello = Hello {
        versions: VersionRange { min: 1, max: 1 },
        feature_levels: VersionRange { min: 1, max: 1 },
        deployment: DeploymentId(7),
        node: from,
        to,
        purpose: Purpose::Messages,
        instance: InstanceId([from.get() as u8; 16]),
        boot_counter: 1,
        boot_nonce: 1,
        durable_seq: 0,
        record_of_receiver: None,
        topology: TopologyStamp::default(),
        // Nobody is there.
        raft_address: "127.0.0.1:1".to_owned(),
        instances: Default::default(),
        starts: Default::default(),
        fields: Vec::new(),
    };
    let mut socket = TcpStream::connect(address).expect("reachable");
    socket.write_all(&encode_frame(FrameKind::Hello, |out| hello.encode(out))).expect("written");
    let mut frames = FrameReader::new();
    let reply = loop {
        if let Some(frame) = frames.next_frame().expect("a good frame") {
            break HelloReply::decode(&frame.payload).expect("a good reply");
        }
        let len = socket.read(frames.buffer()).expect("an answer");
        assert!(len > 0, "no answer");
        frames.filled(len);
    };
    socket
        .write_all(&encode_frame(FrameKind::HelloConfirm, |out| HelloConfirm::Accepted.encode(out)))
        .expect("written");
    (socket, reply)
}

#[test]
fn nodes_of_no_group_become_a_bounded_number_of_peers() {
    let cluster = Cluster::start(1);
    let host = &cluster.hosts[&1];
    let mut open = Vec::new();
    for stranger in 100..200 {
        let (socket, reply) = knock(&cluster.address(1), stranger, host.node());
        assert!(matches!(reply, HelloReply::Accepted { .. }), "{reply:?}");
        open.push(socket);
    }
    let peers = host.peers().expect("open").status();
    assert!(peers.len() <= 64, "{} peers for nothing", peers.len());
    assert!(peers.iter().any(|peer| peer.node == Cluster::node(199)), "the newest is among them");
}

#[test]
fn s10_a_wrong_address_does_not_cut_off_a_node_that_is_connected() {
    let cluster = Cluster::start(3);
    let (host, other) = (&cluster.hosts[&1], Cluster::node(2));
    let peers = host.peers().expect("open");
    cluster.wait_until("they are connected", |_| peers.is_connected(other));
    let wrong = "127.0.0.1:1";
    let refusal = peers.add(other, wrong).expect_err("it is elsewhere").to_string();
    assert!(refusal.contains(wrong) && refusal.contains(&cluster.address(2)), "{refusal}");
    assert_eq!(host.known_address(other), Some((None, cluster.address(2))));
    cluster.write("still there ");
    assert!(peers.is_connected(other), "the connection stays");
    assert_eq!(host.known_address(Cluster::node(1)), Some((None, cluster.address(1))));
    assert_eq!(host.known_address(Cluster::node(9)), None);
}
