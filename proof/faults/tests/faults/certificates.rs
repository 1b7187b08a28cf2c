// SPDX-License-Identifier: Apache-2.0

//! Certificates between nodes, under load. All of them are replaced, and then the authority that signed them, by one restart after the
//! other: no client notices. A node that comes back with one that is no good is kept out and everybody is told why, on both sides of the
//! door; the others go on, and with a good one it catches up.

use mraft_faults::authority::{self, Authority, Credentials};
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::load::{Load, Size};
use mraft_faults::{binary, judge, rounds, wait};

use super::stages;

const NODES: usize = 3;
const GROUPS: u64 = 8;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: GROUPS,
    snapshot_entries: 100,
    compaction_overhead: 50,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 8, shared_keys: 2 };
const WRITES_PER_STEP: u64 = 200;
/// A node that is kept out must not have the others elect all the time.
const TERMS_MAX: u64 = 6;

/// The authorities of a cluster: one that is to be replaced, and its successor.
struct Authorities {
    old: Authority,
    new: Authority,
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Expired,
    OfAnotherAuthority,
    ForAnotherHost,
}

/// What is said of it: by the node that has it, and by each of its peers.
const NO_GOOD: [(Wrong, &str, &str); 3] = [
    (
        Wrong::Expired,
        "the peer refuses this node's certificate: it is not valid by the peer's clock",
        "the peer's certificate is refused: it expired",
    ),
    (
        Wrong::OfAnotherAuthority,
        "the peer refuses this node's certificate: it is signed by no authority of the peer's CA file",
        "the peer's certificate is refused: it is signed by no authority of this node's CA file",
    ),
    (
        Wrong::ForAnotherHost,
        "the peer refuses this node's certificate: it is not for the host at which the peer dials this node",
        "the peer's certificate is refused: certificate not valid for name",
    ),
];

#[test]
fn certificates_and_authorities_are_replaced_and_bad_ones_are_told() {
    super::run(async || {
        let authorities = Authorities { old: Authority::new("old")?, new: Authority::new("new")? };
        let mut cluster = Cluster::lay_out(Manner::default(), &binary::find()?, SHAPE)?;
        for node in &mut cluster.nodes {
            authority::require(node);
            authority::trust(node, &[&authorities.old])?;
        }
        for node in 0..NODES {
            authorities.old.signs(&host(&cluster, node))?.give(&cluster.nodes[node])?;
        }
        cluster.begin().await?;
        let ended = scenario(&mut cluster, &authorities).await;
        ended.map_err(|failure| super::explained(&mut cluster, failure))
    });
}

async fn scenario(cluster: &mut Cluster, authorities: &Authorities) -> Result<()> {
    let Authorities { old, new } = authorities;
    let load = Load::start(cluster, SIZE)?;
    stages::progress(cluster, &load, "all nodes run", WRITES_PER_STEP).await?;
    let mut restarts = 0;
    // Nobody shows what some peer does not trust yet, and nobody stops trusting what some peer still shows.
    type Step<'a> = (&'static str, Box<dyn Fn(&Cluster, usize) -> Result<()> + 'a>);
    let steps: [Step<'_>; 4] = [
        ("keys are replaced", Box::new(|cluster, node| signed(cluster, node, old))),
        (
            "both authorities are trusted",
            Box::new(|cluster, node| authority::trust(&cluster.nodes[node], &[old, new])),
        ),
        ("certificates are replaced", Box::new(|cluster, node| signed(cluster, node, new))),
        (
            "the old authority is trusted no more",
            Box::new(|cluster, node| authority::trust(&cluster.nodes[node], &[new])),
        ),
    ];
    for (what, change) in &steps {
        for node in 0..NODES {
            cluster.nodes[node].stop()?;
            change(cluster, node)?;
            cluster.start_node(node)?;
            // The next one is only stopped when nobody needs this one to stay.
            cluster.serves().await?;
            restarts += 1;
        }
        stages::progress(cluster, &load, what, WRITES_PER_STEP).await?;
    }
    let (mut kept_out, mut terms_most) = (0, 0);
    for (node, (wrong, own_words, peers_words)) in NO_GOOD.into_iter().enumerate() {
        let host = host(cluster, node);
        let bad = match wrong {
            Wrong::Expired => new.signed_once(&host)?,
            Wrong::OfAnotherAuthority => old.signs(&host)?,
            Wrong::ForAnotherHost => new.signs("elsewhere.example")?,
        };
        let words = Words { of_itself: own_words, of_its_peers: peers_words };
        let terms = is_kept_out(cluster, &load, node, &bad, words).await;
        terms_most = terms.map_err(|failure| failure.while_doing(format_args!("{wrong:?}")))?.max(terms_most);
        kept_out += 1;
        cluster.nodes[node].stop()?;
        signed(cluster, node, new)?;
        cluster.start_node(node)?;
        cluster.serves().await?;
        stages::catches_up(cluster, node).await?;
    }
    stages::progress(cluster, &load, "all are back", WRITES_PER_STEP).await?;
    let recorded = load.finish().await?;
    let mut counts = Counts::new("certificates");
    counts.at_least((steps.len() * NODES) as u64, "restarts with other files", restarts);
    counts.at_least(NO_GOOD.len() as u64, "nodes kept out", kept_out);
    counts.at_most(TERMS_MAX, "terms of one group while a node was kept out", terms_most);
    counts.at_most(0, "operations that failed, or of unknown fate", recorded.unsure());
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}

/// The host of a node's address, which its certificate has to be for.
fn host(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node].raft.ip().to_string()
}

fn signed(cluster: &Cluster, node: usize, by: &Authority) -> Result<()> {
    by.signs(&host(cluster, node))?.give(&cluster.nodes[node])
}

/// What has to be said of a certificate.
struct Words {
    of_itself: &'static str,
    of_its_peers: &'static str,
}

/// Restarts a node with a bad certificate; how many terms the others needed meanwhile.
async fn is_kept_out(
    cluster: &mut Cluster,
    load: &Load,
    node: usize,
    bad: &Credentials,
    words: Words,
) -> Result<u64> {
    cluster.nodes[node].stop()?;
    bad.give(&cluster.nodes[node])?;
    let others: Vec<usize> = (0..NODES).filter(|other| *other != node).collect();
    let spoken: Vec<usize> =
        cluster.nodes.iter().map(|node| Ok(node.said()?.len())).collect::<Result<_>>()?;
    let terms_before = rounds::terms(cluster, &others).await?;
    cluster.start_node(node)?;
    for (place, from) in spoken.into_iter().enumerate() {
        let words = if place == node { words.of_itself } else { words.of_its_peers };
        wait::until(&format!("node {place} says: {words}"), async || {
            let said = cluster.nodes[place].said()?;
            let is_said = |line: &str| line.contains("\"WARN\"") && line.contains(words);
            wait::is(said.get(from..).unwrap_or_default().lines().any(is_said), || "not yet".to_owned())
        })
        .await?;
    }
    stages::progress(cluster, load, "a node is kept out", WRITES_PER_STEP).await?;
    let id = cluster.nodes[node].id.get();
    let alone = cluster.client_of_one(node)?.status().await?;
    wait::is(alone.groups_without_leader == GROUPS && !alone.ready, || format!("not kept out: {alone:?}"))?;
    for other in &others {
        let client = cluster.client_of_one(*other)?;
        // Its last dial may be one from before the node was up.
        wait::until("a peer's status says why the node is kept out", async || {
            let peers = client.status().await?.peers;
            let seen = peers.into_iter().find(|peer| peer.node == id).unwrap_or_default();
            let reason = seen.reason.unwrap_or_default();
            let is_told = !seen.connected && reason.contains(words.of_its_peers);
            wait::is(is_told, || format!("connected: {}; {reason:?}", seen.connected))
        })
        .await?;
    }
    let terms = rounds::terms(cluster, &others).await?;
    let growth = terms.iter().zip(&terms_before).map(|(after, before)| after.saturating_sub(*before));
    Ok(growth.max().unwrap_or(0))
}
