// SPDX-License-Identifier: Apache-2.0

//! How fast one thread applies puts, flush and compaction included, beside the tree crate's own memtable in the same run.
//!
//! The processor time of the thread is printed beside the elapsed time, which other load on the machine and the disk stretch.
//!
//! `cargo run --release -p mraft-kv --example apply_rate [OPERATIONS] [GROUPS] [KEYS_PER_GROUP]`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsm_tree::{AbstractTree, Config, SequenceNumberCounter};
use mraft_disk::RealDisk;
use mraft_engine::machine::{Command, Results, StateMachine, Urgency};
use mraft_kv::command::encode_put;
use mraft_kv::query::Query;
use mraft_kv::{Caches, KvMachine, KvOptions};

const BATCH: usize = 100;
const CACHE_BYTES: u64 = 64 << 20;
const OPEN_FILES: usize = 512;
const FLUSH_BYTES: u64 = 8 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let operations = arguments.next().transpose()?.unwrap_or(4_000_000);
    let groups = arguments.next().transpose()?.unwrap_or(4).max(1);
    let keys = arguments.next().transpose()?.unwrap_or(1_000_000).max(1);
    println!("{operations} puts into {groups} groups of {keys} keys, batches of {BATCH}, one thread");
    for value_bytes in [16, 128] {
        let load = Load { operations, groups, keys, value_bytes };
        let directory = tempfile::tempdir()?;
        let ours = ours(&load, directory.path())?;
        let directory = tempfile::tempdir()?;
        let memtable = memtable(&load, directory.path())?;
        println!("{value_bytes:>4} B  crate's memtable, cpu {}", rate(operations, memtable));
        println!(
            "{value_bytes:>4} B  ratio of cpu          {:.1}x",
            memtable.as_secs_f64() / ours.as_secs_f64()
        );
    }
    Ok(())
}

struct Load {
    operations: usize,
    groups: usize,
    keys: usize,
    value_bytes: usize,
}

impl Load {
    /// The keys of a batch, all of one group, in no order.
    fn batch(&self, number: usize) -> (usize, impl Iterator<Item = [u8; 16]>) {
        let keys = self.keys as u64;
        let batch = (0..BATCH).map(move |at| {
            let scattered = ((number * BATCH + at) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let mut key = *b"user:00000000000";
            let mut rest = scattered % keys;
            for byte in key.iter_mut().rev() {
                if rest == 0 {
                    break;
                }
                *byte = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            key
        });
        (number % self.groups, batch)
    }

    fn batches(&self) -> usize {
        self.operations / BATCH
    }
}

fn ours(load: &Load, directory: &Path) -> Result<Duration, Box<dyn Error>> {
    let caches = Caches::new(CACHE_BYTES, OPEN_FILES);
    let mut machines = Vec::new();
    for group in 0..load.groups {
        let dir = directory.join(group.to_string());
        let mut machine = KvMachine::new(Arc::new(RealDisk), dir, &caches, KvOptions::default());
        machine.open(None)?;
        machines.push(machine);
    }
    let value = vec![7; load.value_bytes];
    let mut results = Results::default();
    let (mut applying, mut background, mut encoding) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let began_cpu = cpu_time();
    let (mut bodies, mut ends) = (Vec::new(), Vec::new());
    for number in 0..load.batches() {
        let began = Instant::now();
        let (group, keys) = load.batch(number);
        bodies.clear();
        ends.clear();
        for key in keys {
            encode_put(&key, &value, &mut bodies);
            ends.push(bodies.len());
        }
        let index = number as u64 + 1;
        let mut start = 0;
        let commands: Vec<Command<'_>> = ends
            .iter()
            .enumerate()
            .map(|(position, end)| {
                let body = &bodies[std::mem::replace(&mut start, *end)..*end];
                Command { index, position: position as u32, unix_ms: 0, body }
            })
            .collect();
        let encoded = Instant::now();
        let machine = &mut machines[group];
        results.clear();
        machine.apply(&commands, &mut results)?;
        machine.commit(index, b"meta")?;
        let applied = Instant::now();
        while let Some(job) = machine.background(Urgency::Normal) {
            let result = job.run();
            machine.background_done(result)?;
        }
        encoding += encoded - began;
        applying += applied - encoded;
        background += applied.elapsed();
    }
    let total = applying + background;
    let cpu = cpu_time().saturating_sub(began_cpu).saturating_sub(encoding);
    let (operations, value_bytes) = (load.operations, load.value_bytes);
    println!("{value_bytes:>4} B  apply and commit      {}", rate(operations, applying));
    println!("{value_bytes:>4} B  flush and compaction  {}", rate(operations, background));
    println!("{value_bytes:>4} B  together              {}", rate(operations, total));
    println!("{value_bytes:>4} B  together, cpu         {}", rate(operations, cpu));
    println!("{value_bytes:>4} B  (encoding commands    {})", rate(operations, encoding));

    let reads = load.batches() / 10;
    let lookups: Vec<_> = machines.iter().map(KvMachine::lookup).collect();
    let (mut query, mut answer) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for number in 0..reads {
        let (group, keys) = load.batch(number * 7);
        for key in keys {
            query.clear();
            answer.clear();
            Query::Get { key: &key }.encode(&mut query);
            lookups[group].query(&query, &mut answer)?;
        }
    }
    println!("{value_bytes:>4} B  get                   {}", rate(reads * BATCH, began.elapsed()));

    let began = Instant::now();
    let scans = 200;
    for number in 0..scans {
        let (group, keys) = load.batch(number);
        query.clear();
        answer.clear();
        let prefix = keys.last().map_or(Vec::new(), |key| key[..14].to_vec());
        Query::Scan { prefix: &prefix, after: None, limit: 100, max_bytes: 1 << 20 }.encode(&mut query);
        lookups[group].query(&query, &mut answer)?;
    }
    println!("{value_bytes:>4} B  scan of a prefix      {}", rate(scans, began.elapsed()));
    Ok(cpu)
}

fn memtable(load: &Load, directory: &Path) -> Result<Duration, Box<dyn Error>> {
    let cache = Arc::new(lsm_tree::Cache::with_capacity_bytes(CACHE_BYTES));
    let files = Arc::new(lsm_tree::DescriptorTable::new(OPEN_FILES));
    let mut trees = Vec::new();
    for group in 0..load.groups {
        let (seqno, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        let tree = Config::new(directory.join(group.to_string()), seqno.clone(), visible.clone())
            .use_cache(cache.clone())
            .use_descriptor_table(Some(files.clone()))
            .open()?;
        trees.push((tree, seqno, visible));
    }
    let strategy = Arc::new(lsm_tree::compaction::Leveled::default());
    let mut value = vec![7; load.value_bytes + 11];
    let began = cpu_time();
    for number in 0..load.batches() {
        let (group, keys) = load.batch(number);
        let (tree, seqno, visible) = &trees[group];
        let batch_seqno = seqno.next();
        let mut size = 0;
        for (at, key) in keys.enumerate() {
            value[3..11].copy_from_slice(&((number * BATCH + at) as u64).to_le_bytes());
            size = tree.insert(&key[..], &value[..], batch_seqno).1;
        }
        visible.fetch_max(batch_seqno + 1);
        if size >= FLUSH_BYTES {
            tree.rotate_memtable();
            let lock = tree.get_flush_lock();
            tree.flush(&lock, batch_seqno)?;
            drop(lock);
            if tree.level_table_count(0).unwrap_or(0) >= 4 {
                tree.compact(strategy.clone(), batch_seqno)?;
            }
        }
    }
    Ok(cpu_time().saturating_sub(began))
}

/// Time that this thread has had a processor; zero where the system does not tell.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn rate(operations: usize, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    format!("{:>8.0} op/s  {:>7.0} ns/op", operations as f64 / seconds, seconds * 1e9 / operations as f64)
}
