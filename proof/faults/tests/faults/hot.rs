// SPDX-License-Identifier: Apache-2.0

//! One group is hot: many clients write a few keys of it, all at once, each with its next request at once. The other groups share every
//! node, log and thread with it. Their clients each do some operations one after the other: each of these is done, and no quiet group
//! elects anybody anew. How long either kind takes is measured and printed; nothing depends on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mraft_api::client::Client;
use mraft_api::{Condition, Consistency};
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::{Failure, Result};
use mraft_faults::load::{Load, Size};
use mraft_faults::values::FOREIGN;
use mraft_faults::{judge, rounds, wait};
use tokio::task::JoinSet;

use super::stages;

const NODES: usize = 3;
const GROUPS: u64 = 8;
/// The one with all the load.
const HOT: u64 = 5;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: GROUPS,
    snapshot_entries: 1_000,
    compaction_overhead: 100,
    snapshot_bytes_per_second: 64 << 20,
};
const CLIENTS_HOT: usize = 256;
/// A few, so that they are hot themselves.
const KEYS_HOT: usize = 4;
const BYTES_HOT: usize = 1 << 10;
/// Before anybody quiet begins, and as long as they do: of the hot group.
const WRITES_HOT_LEAST: u64 = 2_000;
/// Of each quiet group.
const CLIENTS_QUIET: usize = 4;
const OPERATIONS_QUIET: usize = 50;
/// What is judged by the history, before and after.
const SIZE: Size = Size { writers: 16, keys_per_writer: 16, rivals: 4, shared_keys: 2 };
/// Neither a busy machine nor a slow disk is a reason to elect anybody, and a client waits for as long as it takes.
const SETTINGS: &str = "election_rtt = 200\nslow_disk_ms = 20000\n";
const PATIENCE: Duration = Duration::from_secs(120);
/// Keys are tried until each group has enough.
const KEYS_TRIED_MAX: usize = 10_000;

#[test]
fn a_hot_group_fails_no_operation_of_others() {
    super::run(async || {
        let mut cluster = Cluster::lay_out(Manner::default(), &mraft_faults::binary::find()?, SHAPE)?;
        cluster.nodes.iter_mut().for_each(|node| node.settings = SETTINGS.to_owned());
        cluster.begin().await?;
        let ended = scenario(&mut cluster).await;
        ended.map_err(|failure| super::explained(&mut cluster, failure))
    });
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let load = Load::start(cluster, SIZE)?;
    stages::progress(cluster, &load, "no group is hot", 500).await?;
    let recorded = load.finish().await?;
    let keys = keys_of_groups(cluster).await?;
    let everybody: Vec<usize> = (0..NODES).collect();
    let terms_before = rounds::terms(cluster, &everybody).await?;

    let hot = Arc::<Hot>::default();
    let mut clients_hot = JoinSet::new();
    let keys_hot = keys[HOT as usize].iter().take(KEYS_HOT).cycle();
    for (number, key) in keys_hot.take(CLIENTS_HOT).enumerate() {
        let client = cluster.client(number % NODES)?.with_timeout(PATIENCE);
        clients_hot.spawn(write_on_and_on(client, key.clone(), Arc::clone(&hot)));
    }
    hot.has_written(WRITES_HOT_LEAST).await?;
    let (began, written_before) = (Instant::now(), hot.written.load(Ordering::Relaxed));
    let mut clients_quiet = JoinSet::new();
    for group in (0..GROUPS).filter(|group| *group != HOT) {
        for (number, key) in keys[group as usize].iter().take(CLIENTS_QUIET).enumerate() {
            let client = cluster.client(number % NODES)?.with_timeout(PATIENCE);
            clients_quiet.spawn(operate(client, key.clone()));
        }
    }
    let mut took_quiet = Vec::new();
    while let Some(ended) = clients_quiet.join_next().await {
        took_quiet.extend(ended.map_err(Failure::new)??);
    }
    let (lasted, written) = (began.elapsed(), hot.written.load(Ordering::Relaxed) - written_before);
    // However fast the quiet ones were, the group was hot all the time.
    hot.has_written(written_before + WRITES_HOT_LEAST).await?;
    hot.is_over.store(true, Ordering::Relaxed);
    let mut took_hot = Vec::new();
    while let Some(ended) = clients_hot.join_next().await {
        took_hot.extend(ended.map_err(Failure::new)?);
    }
    let terms = rounds::terms(cluster, &everybody).await?;
    let quiet = |group: &usize| *group as u64 != HOT;
    let risen = (0..terms.len()).filter(quiet).filter(|group| terms[*group] > terms_before[*group]).count();

    let mut counts = Counts::new("one hot group among quiet ones");
    let all = (GROUPS as usize - 1) * CLIENTS_QUIET * OPERATIONS_QUIET;
    counts.at_least(all as u64, "operations of quiet groups, all done", took_quiet.len() as u64);
    counts.at_most(0, "quiet groups whose term rose", risen as u64);
    counts.tell("writes of the hot group while they were", written);
    counts.tell("milliseconds in which they were", millis(lasted));
    let mut tell = |name: [&'static str; 2], took: &mut Vec<Duration>| {
        took.sort_unstable();
        for (name, of_hundred) in name.into_iter().zip([50, 99]) {
            let place = took.len().saturating_sub(1) * of_hundred / 100;
            counts.tell(name, took.get(place).map_or(0, |took| millis(*took)));
        }
    };
    tell(["ms for half of the quiet operations", "ms for 99 of 100"], &mut took_quiet);
    tell(["ms for half of the hot writes", "ms for 99 of 100 of them"], &mut took_hot);
    counts.tell("hot writes that failed", hot.failed.load(Ordering::Relaxed));
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}

/// What the clients of the hot group did.
#[derive(Debug, Default)]
struct Hot {
    written: AtomicU64,
    failed: AtomicU64,
    is_over: AtomicBool,
}

impl Hot {
    async fn has_written(&self, least: u64) -> Result<()> {
        wait::until(&format!("the hot group has taken {least} writes"), async || {
            let written = self.written.load(Ordering::Relaxed);
            wait::is(written >= least, || format!("{written}"))
        })
        .await
    }
}

async fn write_on_and_on(client: Client, key: Vec<u8>, hot: Arc<Hot>) -> Vec<Duration> {
    let mut took = Vec::new();
    while !hot.is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        // Whether it is refused is not what this is about.
        match client.put(&key, &[b'h'; BYTES_HOT], Condition::None).await {
            Ok(_) => {
                hot.written.fetch_add(1, Ordering::Relaxed);
                took.push(began.elapsed());
            }
            Err(_) => _ = hot.failed.fetch_add(1, Ordering::Relaxed),
        }
    }
    took
}

/// Writes and reads by turns; each must be done. How long each took.
async fn operate(client: Client, key: Vec<u8>) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for number in 0..OPERATIONS_QUIET {
        let began = Instant::now();
        let value = (number / 2).to_string().into_bytes();
        if number % 2 == 0 {
            client.put(&key, &value, Condition::None).await?;
        } else {
            let got = client.get(&key, Consistency::Linearizable).await?;
            let is_it = got.as_ref().is_some_and(|got| got.value == value);
            wait::is(is_it, || format!("BROKEN PROMISE: it reads {got:?} where it wrote {value:?}"))?;
        }
        took.push(began.elapsed());
    }
    Ok(took)
}

/// Some keys of each group, none of which belongs to the history.
async fn keys_of_groups(cluster: &Cluster) -> Result<Vec<Vec<Vec<u8>>>> {
    let client = cluster.client(0)?;
    let mut keys = vec![Vec::new(); GROUPS as usize];
    for number in 0..KEYS_TRIED_MAX {
        let key = [FOREIGN, b"hot-", number.to_string().as_bytes()].concat();
        let written = client.put(&key, b"", Condition::None).await?;
        keys[written.served.group as usize].push(key);
        if keys.iter().all(|keys| keys.len() >= KEYS_HOT.max(CLIENTS_QUIET)) {
            return Ok(keys);
        }
    }
    Err(Failure::new(format_args!("{KEYS_TRIED_MAX} keys are not enough for each group")))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
