// SPDX-License-Identifier: Apache-2.0

//! A node's disks get full, a real file system on a loop device for its log and one for everything else: before the first start, of
//! states, of the log, and while snapshots come in. It says so wherever somebody may look, leadership leaves it, the others go on, nothing
//! half-written is taken for whole, and everything clears by itself when there is room again. The small files that a start writes are
//! refused room one by one.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use mraft_api::Condition;
use mraft_api::client::Client;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::Result;
use mraft_faults::load::{Load, Size};
use mraft_faults::skips::skipped;
use mraft_faults::values::{Dice, FOREIGN};
use mraft_faults::{judge, wait};
use mraft_frail::{Image, Kind, Times, Trouble};

use super::disks::Said;
use super::{disks, stages};

const GROUPS: u64 = 4;
const SHAPE: Shape = Shape {
    nodes: 3,
    groups: GROUPS,
    snapshot_entries: 200,
    compaction_overhead: 1_000,
    snapshot_bytes_per_second: 0,
};
const SIZE: Size = Size { writers: 32, keys_per_writer: 16, rivals: 8, shared_keys: 4 };
const SETTINGS: &str = "election_rtt = 25\n";
const WRITES_BETWEEN: u64 = 500;
/// The node whose disks get full.
const HURT: usize = 0;
/// Room for three files of the log: the one in use, the next one, and the reserve.
const LOG_DISK_BYTES: u64 = 224 << 20;
const DATA_DISK_BYTES: u64 = 96 << 20;
/// As large as a value may be.
const LARGE_BYTES: usize = 1 << 20;
/// Keys with large values that stay: what a snapshot is made of.
const LARGE_KEYS: usize = 16;
/// Too little for the snapshot of any group.
const TOO_LITTLE_BYTES: u64 = 300 << 10;
/// What the system says, and so the node.
const ENOSPC: &str = "No space left on device";
/// Writes of large values that do not fill a log, a memory and a disk: far more than they hold.
const HEAVY_WRITES_MAX: usize = 2_000;
/// Snapshots that must have found no room before there is some again.
const SNAPSHOTS_LEAST: u64 = 3;
/// So many tries of a group come soon after each other, then less than one in a second. What was mended here tried some thirty times.
const TRIES_FIRST: u64 = 6;

struct Full {
    cluster: Cluster,
    log: Image,
    data: Image,
}

impl Drop for Full {
    fn drop(&mut self) {
        // Whoever writes to a disk ends before it is taken away.
        self.cluster.nodes.clear();
    }
}

#[test]
fn a_disk_that_gets_full_stops_nobody_and_all_goes_on_when_there_is_room() {
    if let Some(why) = mraft_frail::image_why_not() {
        return skipped(format_args!("no disk can be filled here: {why}"));
    }
    super::run(async || {
        let mut full = Full::lay_out()?;
        let ended = scenario(&mut full).await;
        ended.map_err(|failure| super::explained(&mut full.cluster, failure))
    });
}

async fn scenario(full: &mut Full) -> Result<()> {
    let mut counts = Counts::new("disks that get full");
    counts.at_least(2, "first starts refused", first_starts(full).await?);
    full.cluster.begin().await?;
    let load = Load::start(&full.cluster, SIZE)?;
    let mut heavy = Heavy { client: full.cluster.client(HURT + 1)?, written: 0 };
    while heavy.written < LARGE_KEYS {
        heavy.write().await?;
    }
    stages::progress(&mut full.cluster, &load, "all nodes run", WRITES_BETWEEN).await?;

    load.acks().begin();
    states_and_log_fill_up(full, &load, &mut heavy, &mut counts).await?;
    counts.tell("ms without a write in the group where it was longest", millis(load.acks().gap().of_one));
    stages::progress(&mut full.cluster, &load, "there is room again", WRITES_BETWEEN).await?;
    snapshots_find_no_room(full, &load, &mut heavy, &mut counts).await?;

    stages::progress(&mut full.cluster, &load, "it has caught up", WRITES_BETWEEN).await?;
    counts.tell("large values written", heavy.written as u64);
    let recorded = load.finish().await?;
    let judged = judge::judge(&mut full.cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    full.cluster.stop()
}

/// Neither disk has room for a node's first files; how many starts were refused.
async fn first_starts(full: &mut Full) -> Result<u64> {
    let mut refused = 0;
    for is_log in [false, true] {
        let image = if is_log { &mut full.log } else { &mut full.data };
        image.fill(0)?;
        full.cluster.start_node(HURT)?;
        let said = disks::ended(&mut full.cluster, HURT, "there is no room for its first files").await?;
        wait::is(said.contains(ENOSPC), || format!("it does not say why: {said}"))?;
        say(&said);
        refused += 1;
        let image = if is_log { &mut full.log } else { &mut full.data };
        image.make_room()?;
    }
    Ok(refused)
}

/// The groups' states find no room: they stay in memory until that is full, too, and then in the log until that is full, too.
async fn states_and_log_fill_up(
    full: &mut Full,
    load: &Load,
    heavy: &mut Heavy,
    counts: &mut Counts,
) -> Result<()> {
    full.lead_something().await?;
    full.data.fill(0)?;
    let said = heavy
        .until(full, "its states find no room", |said| warns(said, "no room for the groups' states"))
        .await?;
    wait::is(said.ready.0 == 200 || is_refusing(&said), || format!("it serves still: {said:?}"))?;
    stages::progress(&mut full.cluster, load, "states stay in memory", WRITES_BETWEEN).await?;

    let said = heavy.until(full, "the memory for its states is full", is_refusing).await?;
    wait::is(said.live.0 == 200 && said.metrics == (0, 0), || format!("nothing stopped: {said:?}"))?;
    let began = Instant::now();
    full.leads_nothing().await?;
    counts.tell("ms until leadership had left, from when it was refusing writes", millis(began.elapsed()));
    stages::progress(&mut full.cluster, load, "it refuses writes", WRITES_BETWEEN).await?;

    full.log.fill(0)?;
    let has_no_log = |said: &Said| said.ready.1.contains("[-]log-room failed");
    let said = heavy.until(full, "its log is full, too", has_no_log).await?;
    wait::is(said.live.0 == 200 && said.metrics == (0, 0), || format!("nothing stopped: {said:?}"))?;
    stages::progress(&mut full.cluster, load, "its log is full", WRITES_BETWEEN).await?;

    // Room for the states is all that it takes: what they hold, the log need not.
    full.data.make_room()?;
    full.is_well("its states have room").await?;
    full.log.make_room()?;
    Ok(())
}

/// It was away for so long that it needs snapshots, and has no room for any.
async fn snapshots_find_no_room(
    full: &mut Full,
    load: &Load,
    heavy: &mut Heavy,
    counts: &mut Counts,
) -> Result<()> {
    full.cluster.nodes[HURT].kill()?;
    // The values that stay are others by then, so that it lacks much of each group.
    let written = heavy.written;
    while heavy.written < written + LARGE_KEYS {
        heavy.write().await?;
    }
    stages::is_left_behind(&full.cluster, HURT).await?;
    full.data.fill(TOO_LITTLE_BYTES)?;
    let spoken = full.cluster.nodes[HURT].said()?.len();
    full.cluster.start_node(HURT)?;
    let began = Instant::now();
    wait::until("it says of enough snapshots that there is no room for them", async || {
        full.cluster.nodes[HURT].must_be_well()?;
        // A start takes away what the kill left half-made: megabytes, at times enough for a snapshot.
        full.data.fill(TOO_LITTLE_BYTES)?;
        let (refused, free_bytes) = (full.snapshots_refused(spoken)?, full.data.free_bytes()?);
        wait::is(refused >= SNAPSHOTS_LEAST, || format!("{refused} snapshots, {free_bytes} bytes are free"))
    })
    .await?;
    stages::progress(&mut full.cluster, load, "snapshots find no room", WRITES_BETWEEN).await?;
    let (refused, seconds) = (full.snapshots_refused(spoken)?, began.elapsed().as_secs());
    counts.at_least(SNAPSHOTS_LEAST, "snapshots that found no room", refused);
    counts.at_most(GROUPS * (TRIES_FIRST + seconds), "of them at most", refused);
    let said = disks::ask(&full.cluster, HURT).await?;
    wait::is(said.live.0 == 200 && said.metrics == (0, 0), || format!("nothing stopped: {said:?}"))?;
    full.data.make_room()?;
    full.is_well("snapshots have room").await
}

impl Full {
    /// A cluster of which one node stands on two images: its log on one, everything else on the other.
    fn lay_out() -> Result<Full> {
        let mut cluster = Cluster::lay_out(Manner::default(), &mraft_faults::binary::find()?, SHAPE)?;
        cluster.nodes.iter_mut().for_each(|node| node.settings = SETTINGS.to_owned());
        let home = cluster.nodes[HURT].home().to_owned();
        let mount = |name: &str, bytes: u64| {
            let at = home.join(name);
            fs::create_dir(&at)?;
            Image::mount(&home.join(format!("{name}.image")), &at, bytes)
        };
        let log = mount("log-disk", LOG_DISK_BYTES)?;
        let data = mount("data-disk", DATA_DISK_BYTES)?;
        fs::create_dir(data.path().join("data"))?;
        symlink(data.path().join("data"), cluster.nodes[HURT].data())?;
        let wal = log.path().join("wal");
        cluster.nodes[HURT].settings.push_str(&format!("wal_dir = {wal:?}\n"));
        Ok(Full { cluster, log, data })
    }

    async fn lead_something(&self) -> Result<()> {
        disks::has_led(&self.cluster, HURT).await
    }

    async fn leads_nothing(&self) -> Result<()> {
        disks::leads_nothing(&self.cluster, HURT).await
    }

    /// Waits until the node says that nothing is the matter with it.
    async fn is_well(&mut self, when: &str) -> Result<()> {
        self.cluster.serves().await?;
        wait::until(&format!("the node is well when {when}"), async || {
            let said = disks::ask(&self.cluster, HURT).await?;
            let is_well = said.is_well() && !warns(&said, "no room");
            wait::is(is_well, || format!("{said:?}"))
        })
        .await
    }

    fn snapshots_refused(&self, spoken: usize) -> Result<u64> {
        let lines = disks::logged(&self.cluster, HURT, "WARN", spoken)?;
        Ok(lines
            .iter()
            .filter(|line| line.contains("a snapshot was not taken in") && line.contains(ENOSPC))
            .count() as u64)
    }
}

fn warns(said: &Said, words: &str) -> bool {
    said.status.warnings.iter().any(|warning| warning.contains(words))
}

fn is_refusing(said: &Said) -> bool {
    said.ready.0 == 503 && said.ready.1.contains("[-]state-room failed")
}

/// Large values, written one after the other, over each other from some number on.
struct Heavy {
    client: Client,
    written: usize,
}

impl Heavy {
    async fn write(&mut self) -> Result<()> {
        let key = [FOREIGN, b"full-", (self.written % LARGE_KEYS).to_string().as_bytes()].concat();
        // Nothing makes it smaller.
        let mut dice = Dice::new(self.written as u64);
        let value: Vec<u8> = (0..LARGE_BYTES / 8).flat_map(|_| dice.below(u64::MAX).to_le_bytes()).collect();
        let client = self.client.clone();
        wait::until("a large value is written", async || {
            Ok(client.put(&key, &value, Condition::None).await?)
        })
        .await?;
        self.written += 1;
        Ok(())
    }

    /// Writes until the node says what is expected.
    async fn until(&mut self, full: &Full, what: &str, says: impl Fn(&Said) -> bool) -> Result<Said> {
        let mut said = disks::ask(&full.cluster, HURT).await?;
        for _ in 0..HEAVY_WRITES_MAX {
            if says(&said) {
                return Ok(said);
            }
            self.write().await?;
            said = disks::ask(&full.cluster, HURT).await?;
        }
        let words =
            format_args!("{HEAVY_WRITES_MAX} large values were written and not this: {what}: {said:?}");
        Err(mraft_faults::failure::Failure::new(words))
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a first start writes, file by file, and what a node says that finds no room for it.
const SMALL_FILES: &[(&str, &str)] = &[
    ("identity.new", "/identity"),
    ("settings.new", "/settings"),
    ("topology.new", "/topology"),
    ("group-list.new", "/group-list"),
];
/// The log waits a minute for room, so this costs one: the environment may ask for it.
const LOG_FILE: (&str, &str) = ("log/replicas.new", "the disk is full: no proposals are taken");
const LOG_FILE_VARIABLE: &str = "MRAFT_FAULTS_FULL_LOG";

#[test]
fn a_first_start_without_room_for_a_small_file_says_so_and_another_one_founds() {
    let shape = Shape { groups: 2, ..SHAPE };
    disks::run_from_nothing(shape, SETTINGS, async |on_disks| {
        let mut refused = 0;
        let log_file = std::env::var_os(LOG_FILE_VARIABLE).map(|_| &LOG_FILE);
        if log_file.is_none() {
            skipped(format_args!(
                "a first start without room for {} takes a minute: {LOG_FILE_VARIABLE}=1 asks for it",
                LOG_FILE.0
            ));
        }
        for (number, (file, named)) in SMALL_FILES.iter().chain(log_file).enumerate() {
            let node = number % SHAPE.nodes;
            let trouble = on_disks.disk(node).trouble(&[Kind::Write], *file, Trouble::NoRoom, Times::Always);
            on_disks.cluster.start_node(node)?;
            let said = disks::ended(&mut on_disks.cluster, node, &format!("no room for {file}")).await?;
            let is_full = said.contains(ENOSPC) || said.contains("full");
            wait::is(said.contains(named) && is_full, || format!("{file}: {said}"))?;
            say(&said);
            refused += 1;
            on_disks.disk(node).mend(trouble);
        }
        // What it was told by others is needed later, so it connects to nobody and goes on trying.
        let trouble = on_disks.disk(0).trouble(&[Kind::Write], "peers.new", Trouble::NoRoom, Times::Always);
        (0..SHAPE.nodes).try_for_each(|node| on_disks.cluster.start_node(node))?;
        wait::until("it says that it cannot remember its peers", async || {
            on_disks.cluster.nodes[0].must_be_well()?;
            let errors = disks::logged(&on_disks.cluster, 0, "ERROR", 0)?;
            let says = |line: &&String| line.contains("cannot be remembered") && line.contains(ENOSPC);
            wait::is(errors.iter().find(says).is_some(), || format!("{errors:?}"))
        })
        .await?;
        on_disks.disk(0).mend(trouble);
        on_disks.cluster.serves().await?;
        let load = Load::start(&on_disks.cluster, SIZE)?;
        stages::progress(&mut on_disks.cluster, &load, "it was founded", WRITES_BETWEEN).await?;
        let recorded = load.finish().await?;
        let mut counts = Counts::new("first starts without room for a file");
        counts.at_least(SMALL_FILES.len() as u64, "starts refused", refused);
        let judged = judge::judge(&mut on_disks.cluster, &recorded, &mut counts).await;
        let enough = counts.close();
        judged?;
        enough?;
        on_disks.cluster.stop()
    });
}
