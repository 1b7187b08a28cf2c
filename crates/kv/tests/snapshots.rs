// SPDX-License-Identifier: Apache-2.0

//! Snapshots (rule N1): taken while writes go on, installed atomically, no leftovers after a crash at any moment.

#![allow(clippy::expect_used)]

mod support;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mraft_disk::{DirEntry, Disk, File, Lock, MemoryDisk, Open, RealDisk};
use mraft_engine::machine::{MachineError, StateMachine, Urgency};
use mraft_kv::{Caches, CountingMachine, KvMachine, KvOptions};
use support::{
    Log, Random, chunks, contents, delete, fresh_memory, kv, memory, meta, put, random_command, receive,
    run_background,
};

/// A machine with some of its content in the tree, some frozen, some active, and the log that it came from.
fn filled(dir: &Path, seed: u64) -> (KvMachine, Log) {
    let mut machine = kv(dir, 8 << 10);
    machine.open(None).expect("opens");
    let (mut log, mut random) = (Log::default(), Random::new(seed));
    for index in 0..120 {
        let commands = (0..5).map(|_| random_command(&mut random, index)).collect();
        log.write(&mut machine, commands);
        if index == 60 {
            run_background(&mut machine, Urgency::Normal);
        }
    }
    (machine, log)
}

fn stage(
    machine: &dyn StateMachine,
    directory: u64,
    meta: &[u8],
    chunks: &[Vec<u8>],
) -> Result<(), MachineError> {
    let mut stage = machine.stage(directory, meta)?;
    for chunk in chunks {
        stage.write_chunk(chunk)?;
    }
    stage.finish()
}

fn directories(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("reads")
        .map(|entry| entry.expect("reads").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "pointer" && name != "pointer.new")
        .collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_is_of_its_point_whatever_is_written_flushed_or_compacted_meanwhile() {
    let (from, to) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (mut sender, mut log) = filled(from.path(), 1);
    let at = log.last();
    let hash = sender.content_hash().expect("hashes");
    let expected = contents(&sender);
    let mut view = sender.snapshot().expect("a view");
    assert_eq!(view.meta(), meta(at));
    let mut sent = Vec::new();
    let mut random = Random::new(2);
    loop {
        let mut chunk = Vec::new();
        if !view.next_chunk(2000, &mut chunk).expect("reads") {
            break;
        }
        sent.push(chunk);
        let commands = (0..20).map(|_| random_command(&mut random, at)).collect();
        log.write(&mut sender, commands);
        run_background(&mut sender, Urgency::Pressing);
    }
    assert!(sent.len() > 3, "{} chunks: the test shows too little", sent.len());
    let mut receiver = kv(to.path(), 8 << 10);
    receiver.open(None).expect("opens");
    stage(&receiver, 7, &meta(at), &sent).expect("installs");
    assert_eq!(receiver.switch(7).expect("switches"), meta(at));
    assert_eq!(receiver.persisted(), at);
    assert_eq!(receiver.content_hash().expect("hashes"), hash);
    assert_eq!(contents(&receiver), expected);
    assert_eq!(directories(to.path()), ["7"]);
    // Both go on alike.
    log.apply(&mut receiver, at, log.last());
    assert_eq!(receiver.content_hash().expect("hashes"), sender.content_hash().expect("hashes"));
}

#[test]
fn the_machine_in_memory_and_the_one_on_disk_read_each_others_snapshots() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut on_disk, mut log) = filled(directory.path(), 3);
    let at = log.last();
    let mut in_memory = fresh_memory();
    stage(&in_memory, 4, &meta(at), &chunks(&mut *on_disk.snapshot().expect("a view"), 1000))
        .expect("installs");
    in_memory.switch(4).expect("switches");
    assert_eq!(in_memory.content_hash().expect("hashes"), on_disk.content_hash().expect("hashes"));
    log.write(&mut in_memory, vec![put("new", "value"), delete("key/1")]);
    let back = chunks(&mut *in_memory.snapshot().expect("a view"), 1 << 20);
    stage(&on_disk, 9, &meta(at + 1), &back).expect("installs");
    on_disk.switch(9).expect("switches");
    assert_eq!(contents(&on_disk), contents(&in_memory));
    assert_eq!(on_disk.persisted(), at + 1);
}

#[test]
fn all_that_is_persisted_can_be_read_from_outside_and_damage_anywhere_in_it_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut machine, _) = filled(directory.path(), 7);
    machine.persist().expect("written");
    let hash = machine.content_hash().expect("hashes");
    let records = contents(&machine).len();
    drop(machine);
    let disk = || Arc::new(RealDisk::new()) as Arc<dyn Disk>;
    let read = || mraft_kv::content(disk(), directory.path());
    let content = read().expect("whole").expect("something is persisted");
    assert_eq!((content.records, content.hash), (records as u64, hash));

    // The largest file holds the values; its middle is none of what opening a tree reads.
    let mut files = Vec::new();
    files_below(directory.path(), &mut files);
    let (len, table) = files.into_iter().max().expect("files");
    let mut bytes = std::fs::read(&table).expect("readable");
    bytes[len as usize / 3] ^= 0xff;
    std::fs::write(&table, bytes).expect("written");
    assert!(mraft_kv::persisted(disk(), directory.path()).is_ok(), "a look does not read all of it");
    let damaged = read().map(|content| content.map(|content| content.hash) == Some(hash));
    assert!(damaged.is_err(), "{damaged:?}");
}

fn files_below(directory: &Path, files: &mut Vec<(u64, PathBuf)>) {
    for entry in std::fs::read_dir(directory).expect("readable") {
        let entry = entry.expect("an entry");
        match entry.metadata().expect("it is there") {
            metadata if metadata.is_dir() => files_below(&entry.path(), files),
            metadata => files.push((metadata.len(), entry.path())),
        }
    }
}

#[test]
fn a_replaced_directory_lives_until_its_last_reader_and_job_are_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut machine, log) = filled(directory.path(), 5);
    let mut view = machine.snapshot().expect("a view");
    let job = machine.background(Urgency::Pressing).expect("a job");
    let mut other = fresh_memory();
    Log::default().write(&mut other, vec![put("only", "this")]);
    let snapshot = chunks(&mut *other.snapshot().expect("a view"), 1000);
    stage(&machine, 2, b"new meta", &snapshot).expect("installs");
    assert_eq!(machine.switch(2).expect("switches"), b"new meta");
    assert_eq!(machine.persisted(), 1);
    assert_eq!(directories(directory.path()), ["0", "2"]);
    let late = job.run();
    assert!(late.is_ok());
    machine.background_done(late).expect("harmless");
    assert_eq!(machine.persisted(), 1, "a late flush of the old state is not one of the new state");
    assert!(log.last() > 1 && !chunks(&mut *view, 1000).is_empty(), "the old view can still be read");
    assert_eq!(contents(&machine), [(b"only".to_vec(), b"this".to_vec())]);
    drop(view);
    assert_eq!(directories(directory.path()), ["2"]);
}

#[test]
fn a_staged_directory_is_kept_for_its_installation_and_deleted_otherwise() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut machine, log) = filled(directory.path(), 6);
    machine.persist().expect("persists");
    let snapshot = chunks(&mut *machine.snapshot().expect("a view"), 1000);
    stage(&machine, 3, b"finished", &snapshot).expect("installs");
    let mut unfinished = machine.stage(4, b"unfinished").expect("stages");
    unfinished.write_chunk(&snapshot[0]).expect("a chunk as it was sent");
    drop((unfinished, machine));
    let mut machine = kv(directory.path(), 8 << 10);
    assert_eq!(machine.open(Some(3)).expect("opens"), Some(meta(log.last())));
    assert_eq!(directories(directory.path()), ["0", "3"]);
    assert!(!machine.is_live(3).expect("open"), "it is only staged");
    assert_eq!(machine.switch(3).expect("switches"), b"finished");
    assert_eq!(machine.switch(3).expect("again, after a crash that forgot it"), b"finished");
    assert!(machine.discard(3).is_err() && machine.stage(3, b"").is_err(), "it is the state");
    drop(machine);
    let mut machine = kv(directory.path(), 8 << 10);
    assert_eq!(machine.open(Some(3)).expect("opens"), Some(b"finished".to_vec()));
    assert!(machine.is_live(3).expect("open") && !machine.is_live(0).expect("open"));
    assert_eq!(directories(directory.path()), ["3"]);
    let unfinished = machine.stage(5, b"unfinished").expect("stages");
    drop(unfinished);
    assert!(machine.switch(5).is_err(), "it is not complete");
    machine.discard(5).expect("discards");
    machine.discard(5).expect("discards what is not there");
    assert_eq!(directories(directory.path()), ["3"]);
}

/// The operations of a machine on the seam to files fail one after another, as if the process had died there.
#[test]
fn a_crash_at_any_step_of_an_installation_leaves_the_old_or_the_new_state_and_nothing_else() {
    let mut sender = fresh_memory();
    let mut log = Log::default();
    log.write(&mut sender, vec![put("new", "state")]);
    let snapshot = chunks(&mut *sender.snapshot().expect("a view"), 1000);
    let caches = Caches::new(1 << 20, 64);
    let (mut saw_old, mut saw_new) = (false, false);
    for crash_at in 0.. {
        let directory = tempfile::tempdir().expect("a directory");
        let mut machine = kv(directory.path(), 8 << 10);
        machine.open(None).expect("opens");
        log.write(&mut machine, vec![put("old", "state")]);
        machine.persist().expect("persists");
        drop(machine);
        let disk = Arc::new(DyingDisk::alive_and_empty());
        let mut machine =
            KvMachine::new(disk.clone(), directory.path().into(), &caches, KvOptions::default());
        machine.open(None).expect("opens");
        disk.operations_left.store(crash_at, Ordering::Relaxed);
        let result = stage(&machine, 1, b"new", &snapshot).and_then(|()| machine.switch(1).map(drop));
        drop(machine);
        let mut machine = kv(directory.path(), 8 << 10);
        machine.open(None).expect("opens");
        let found = contents(&machine);
        assert_eq!(found.len(), 1);
        let is_new = found[0].0 == b"new";
        assert!(is_new || found[0].0 == b"old", "crash at {crash_at}");
        assert!(is_new || result.is_err(), "what was answered is kept");
        assert_eq!(directories(directory.path()), [if is_new { "1" } else { "0" }], "crash at {crash_at}");
        saw_old |= !is_new;
        saw_new |= is_new && result.is_err();
        if result.is_ok() && disk.operations_left.load(Ordering::Relaxed) > 0 {
            assert!(crash_at > 5, "{crash_at} operations: the test shows too little");
            break;
        }
    }
    assert!(saw_old && saw_new);
}

#[test]
fn d10_a_snapshot_that_finds_no_room_to_begin_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Arc::new(DyingDisk::alive_and_empty());
    let caches = Caches::new(1 << 20, 64);
    let mut machine = KvMachine::new(disk.clone(), directory.path().into(), &caches, KvOptions::default());
    machine.open(None).expect("opens");
    let before = directories(directory.path());
    disk.fails_syncs.store(true, Ordering::Relaxed);
    let Err(error) = machine.stage(1, b"new") else { panic!("there is no room for a tree") };
    assert!(matches!(&error, MachineError::Io(error) if mraft_disk::is_full(error)), "{error}");
    assert_eq!(directories(directory.path()), before);
    disk.fails_syncs.store(false, Ordering::Relaxed);
    machine.stage(1, b"new").expect("there is room again");
}

#[test]
fn d10_an_installation_that_finds_no_room_changes_nothing_and_can_be_repeated() {
    let mut sender = fresh_memory();
    Log::default().write(&mut sender, vec![put("new", "state")]);
    let snapshot = chunks(&mut *sender.snapshot().expect("a view"), 1000);
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Arc::new(DyingDisk::alive_and_empty());
    let caches = Caches::new(1 << 20, 64);
    let mut machine = KvMachine::new(disk.clone(), directory.path().into(), &caches, KvOptions::default());
    machine.open(None).expect("opens");
    let mut log = Log::default();
    log.write(&mut machine, vec![put("old", "state")]);
    stage(&machine, 1, b"new", &snapshot).expect("room");
    disk.is_full.store(true, Ordering::Relaxed);
    let error = machine.switch(1).expect_err("no room for the pointer");
    assert!(matches!(&error, MachineError::Io(error) if mraft_disk::is_full(error)), "{error}");
    log.write(&mut machine, vec![put("old", "again")]);
    assert_eq!(contents(&machine), [(b"old".to_vec(), b"again".to_vec())], "it goes on as it was");
    disk.is_full.store(false, Ordering::Relaxed);
    assert_eq!(machine.switch(1).expect("room"), b"new");
    assert_eq!(contents(&machine), [(b"new".to_vec(), b"state".to_vec())]);
}

#[test]
fn the_machine_in_memory_comes_back_with_the_old_or_the_new_state_from_any_power_cut() {
    for seed in 0..6 {
        let mut installed = false;
        for crash_at in 0.. {
            let disk = MemoryDisk::new();
            let (mut machine, mut log) = (memory(&disk), Log::default());
            machine.open(None).expect("opens");
            log.write(&mut machine, vec![put("a", "1")]);
            machine.persist().expect("persists");
            log.write(&mut machine, vec![put("b", "2")]);
            let mut other = fresh_memory();
            Log::default().write(&mut other, vec![put("c", "3")]);
            let snapshot = chunks(&mut *other.snapshot().expect("a view"), 1000);
            disk.fail_from_operation(disk.operations() + crash_at);
            let persisted = machine.persist();
            let switched = if persisted.is_ok() {
                stage(&machine, 5, b"installed", &snapshot).and_then(|()| machine.switch(5).map(drop))
            } else {
                Err(MachineError::Failed(String::new()))
            };
            disk.crash(seed * 1000 + crash_at);
            let mut machine = memory(&disk);
            let found = machine.open(None).expect("opens").expect("there is a state");
            let index = machine.persisted();
            if switched.is_ok() {
                assert_eq!(found, b"installed", "what was answered is kept");
            }
            if found == b"installed" {
                assert_eq!(contents(&machine), [(b"c".to_vec(), b"3".to_vec())]);
                installed = true;
            } else {
                assert_eq!(found, meta(index));
                assert!(index == 2 || persisted.is_err(), "what was answered is kept");
                assert_eq!(contents(&machine).len() as u64, index);
            }
            // `pointer.new` is the half of an interrupted replace; the next one overwrites it.
            let is_state = |path: &Path| !path.ends_with("pointer") && !path.ends_with("pointer.new");
            let states = disk.files().into_iter().filter(|(path, _)| is_state(path));
            assert_eq!(states.count(), 1, "one state file: {:?}", disk.files());
            if switched.is_ok() {
                break;
            }
        }
        assert!(installed);
    }
}

#[test]
fn the_counting_machine_is_a_whole_machine() {
    let disk = MemoryDisk::new();
    let open = |disk: &MemoryDisk| {
        let mut machine = CountingMachine::new(Arc::new(disk.clone()), "/counts".into());
        let found = machine.open(None).expect("opens");
        (machine, found)
    };
    let (mut machine, found) = open(&disk);
    assert_eq!(found, None);
    let mut log = Log::default();
    log.append(vec![b"12345".to_vec(), b"678".to_vec()]);
    log.apply(&mut machine, 0, 1);
    assert_eq!(run_background(&mut machine, Urgency::Normal), 0);
    assert_eq!(run_background(&mut machine, Urgency::Pressing), 1);
    disk.crash(1);
    let (mut machine, found) = open(&disk);
    assert_eq!((found, machine.persisted()), (Some(meta(1)), 1));
    let mut answer = Vec::new();
    machine.lookup().query(b"", &mut answer).expect("answers");
    assert_eq!(CountingMachine::decode_answer(&answer), Ok((2, 8)));
    let (mut other, _) = open(&MemoryDisk::new());
    let snapshot = chunks(&mut *machine.snapshot().expect("a view"), 10);
    let mut incoming = other.stage(3, &meta(1)).expect("stages");
    receive(&mut *incoming, &snapshot);
    incoming.finish().expect("finishes");
    assert_eq!(other.switch(3).expect("switches"), meta(1));
    assert_eq!(other.switch(3).expect("again"), meta(1));
    assert_eq!(other.content_hash().expect("hashes"), machine.content_hash().expect("hashes"));
}

/// The real disk until it dies.
#[derive(Debug)]
struct DyingDisk {
    operations_left: AtomicU64,
    /// No file can be made.
    is_full: AtomicBool,
    /// No directory can be made durable.
    fails_syncs: AtomicBool,
}

impl DyingDisk {
    fn alive_and_empty() -> DyingDisk {
        DyingDisk {
            operations_left: AtomicU64::new(u64::MAX),
            is_full: AtomicBool::new(false),
            fails_syncs: AtomicBool::new(false),
        }
    }

    fn alive(&self) -> io::Result<RealDisk> {
        let left = self.operations_left.load(Ordering::Relaxed);
        self.operations_left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 { Err(io::Error::other("the process is dead")) } else { Ok(RealDisk) }
    }
}

impl Disk for DyingDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        if matches!(how, Open::Create | Open::CreateNew) && self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.alive()?.open(path, how)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.alive()?.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.alive()?.read_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.alive()?.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.alive()?.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.fails_syncs.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.alive()?.sync_dir(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.alive()?.exists(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.alive()?.free_bytes(path)
    }
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.alive()?.try_lock(path)
    }
}
