// SPDX-License-Identifier: Apache-2.0

//! The machine on disk against its dumb twin: whatever is flushed, compacted or lost when, both answer the same.

#![allow(clippy::expect_used)]

mod support;

use mraft_engine::machine::{BackgroundJob, StateMachine, Urgency};
use mraft_kv::query::Query;
use support::{Log, Random, ask, contents, fresh_memory, kv, meta, random_command, run_background};

struct World {
    directory: tempfile::TempDir,
    random: Random,
    log: Log,
    machine: mraft_kv::KvMachine,
    twin: mraft_kv::MemoryKv,
    job: Option<Box<dyn BackgroundJob>>,
    flush_bytes: usize,
    reopened: usize,
    jobs: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let directory = tempfile::tempdir().expect("a directory");
        let mut random = Random::new(seed);
        let flush_bytes = [1 << 10, 16 << 10, 256 << 10][random.below(3) as usize];
        let mut machine = kv(directory.path(), flush_bytes);
        assert_eq!(machine.open(None).expect("opens"), None);
        let (log, twin) = (Log::default(), fresh_memory());
        World { directory, random, log, machine, twin, job: None, flush_bytes, reopened: 0, jobs: 0 }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=9 => self.write(),
            10..=12 => self.read(),
            13 | 14 => self.hand_out_a_job(),
            15..=17 => self.finish_the_job(),
            18 if self.random.one_in(4) => self.reopen(),
            19 if self.random.one_in(8) => self.compare(),
            _ => {}
        }
    }

    fn write(&mut self) {
        let before = self.log.last();
        for _ in 0..1 + self.random.below(3) {
            let commands = (0..self.random.below(6))
                .map(|_| {
                    let revision = self.log.last();
                    random_command(&mut self.random, revision)
                })
                .collect();
            self.log.append(commands);
        }
        let until = self.log.last();
        let ours = self.log.apply(&mut self.machine, before, until);
        assert_eq!(ours, self.log.apply(&mut self.twin, before, until), "answers at {until}");
    }

    fn read(&mut self) {
        let key = format!("key/{}", self.random.below(60)).into_bytes();
        let prefix = [&b""[..], b"key/", b"key/1", b"{1}", b"absent"][self.random.below(5) as usize];
        let after = self.random.one_in(2).then_some(&key[..]);
        let (limit, max_bytes) = (self.random.below(20) as usize, self.random.below(2000) as usize);
        for query in [Query::Get { key: &key }, Query::Scan { prefix, after, limit, max_bytes }] {
            assert_eq!(ask(&*self.machine.lookup(), query), ask(&*self.twin.lookup(), query), "{query:?}");
        }
    }

    fn hand_out_a_job(&mut self) {
        let urgency = if self.random.one_in(3) { Urgency::Pressing } else { Urgency::Normal };
        if let Some(job) = self.machine.background(urgency) {
            assert!(self.job.is_none(), "one job at a time");
            self.job = Some(job);
        }
    }

    fn finish_the_job(&mut self) {
        if let Some(job) = self.job.take() {
            let result = job.run();
            self.machine.background_done(result).expect("succeeds");
            self.jobs += 1;
        }
    }

    /// The process dies: what is not persisted is gone, what is comes back with its own meta, and the log does the rest.
    fn reopen(&mut self) {
        let persisted = self.machine.persisted();
        self.job = None;
        self.machine = kv(self.directory.path(), self.flush_bytes);
        let found = self.machine.open(None).expect("opens");
        assert_eq!(found, (persisted > 0).then(|| meta(persisted)));
        assert_eq!(self.machine.persisted(), persisted);
        self.log.apply(&mut self.machine, persisted, self.log.last());
        self.reopened += 1;
        self.compare();
    }

    fn compare(&mut self) {
        assert_eq!(self.machine.content_hash().expect("hashes"), self.twin.content_hash().expect("hashes"));
        assert_eq!(contents(&self.machine), contents(&self.twin));
    }
}

#[test]
fn the_machine_on_disk_is_its_twin_in_memory() {
    let (mut reopened, mut jobs) = (0, 0);
    for seed in 0..12 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            world.step();
        }
        world.finish_the_job();
        run_background(&mut world.machine, Urgency::Pressing);
        world.compare();
        world.machine.persist().expect("persists");
        assert_eq!(world.machine.persisted(), world.log.last(), "seed {seed}");
        world.reopen();
        reopened += world.reopened;
        jobs += world.jobs;
    }
    println!("{reopened} reopened, {jobs} background jobs");
    assert!(reopened > 24 && jobs > 100, "{reopened} reopened, {jobs} jobs: the test shows too little");
}
