// SPDX-License-Identifier: Apache-2.0

//! What a worker does when its machines hold more in memory than they may, find no room on disk, or panic.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::sync_channel;

use mraft_engine::effect::{ApplyJob, EntryTickets};
use mraft_engine::machine::{Command, ContentView, Lookup, Results, StateMachine};
use mraft_engine::packing::{CommandKind, EntryBuilder, NO_SLOT, PackedCommand};
use mraft_engine::{Depth, Dispute};
use mraft_logstore::{LogError, LogKey};
use mraft_types::{DeploymentId, Entry, EntryKind, LogPosition, Membership, SlotSet};

use super::*;

const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);
/// The one directory that can be switched to.
const STAGED: u64 = 7;
/// What every command leaves in memory.
const COMMAND_BYTES: usize = 100;

/// How a machine is at the moment; shared with the test.
#[derive(Clone, Default)]
struct Mood(Arc<AtomicU8>);

impl Mood {
    const WELL: u8 = 0;
    /// Nothing can be written.
    const FULL: u8 = 1;
    /// It has a bug.
    const PANICS: u8 = 2;
    /// It had one.
    const PANICKED: u8 = 3;

    fn set(&self, mood: u8) {
        self.0.store(mood, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), MachineError> {
        match self.0.load(Ordering::Relaxed) {
            Mood::WELL => Ok(()),
            Mood::FULL => Err(full()),
            _ => {
                // Once per thing that happens to it: a panic within a panic would end the process.
                self.0.store(Mood::PANICKED, Ordering::Relaxed);
                unreachable!("the machine has a bug")
            }
        }
    }
}

fn full() -> MachineError {
    MachineError::Io(std::io::ErrorKind::StorageFull.into())
}

/// Whether a machine has work for the background, and what it says when there was no room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Jobs {
    #[default]
    None,
    /// It passes the error on.
    Plain,
    /// It goes on by itself.
    Calm,
}

/// Remembers how much waits. Its only job is to do nothing.
#[derive(Default)]
struct Heavy {
    mood: Mood,
    applied: Index,
    persisted: Index,
    waiting_bytes: usize,
    jobs: Jobs,
}

impl Drop for Heavy {
    fn drop(&mut self) {
        assert_ne!(self.mood.0.load(Ordering::Relaxed), Mood::PANICS, "the machine has a bug");
    }
}

impl StateMachine for Heavy {
    fn open(&mut self, _staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
        Ok(None)
    }
    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        self.waiting_bytes += commands.len() * COMMAND_BYTES;
        commands.iter().for_each(|_| results.push(b""));
        Ok(())
    }
    fn commit(&mut self, applied: Index, _meta: &[u8]) -> Result<(), MachineError> {
        self.applied = applied;
        Ok(())
    }
    fn persisted(&self) -> Index {
        self.persisted
    }
    fn background(&mut self, _urgency: Urgency) -> Option<Box<dyn BackgroundJob>> {
        (self.jobs != Jobs::None).then(|| Box::new(Idle) as Box<dyn BackgroundJob>)
    }
    fn background_done(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError> {
        if self.jobs == Jobs::Calm { Ok(()) } else { result }
    }
    fn unpersisted_bytes(&self) -> usize {
        self.waiting_bytes
    }
    fn lookup(&self) -> Arc<dyn Lookup> {
        Arc::new(Idle)
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        self.mood.check()?;
        Err(none())
    }
    fn stage(&self, _directory: u64, _meta: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError> {
        self.mood.check()?;
        Err(none())
    }
    fn switch(&mut self, directory: u64) -> Result<Vec<u8>, MachineError> {
        self.mood.check()?;
        if directory == STAGED { Ok(meta(GROUP, 20).encode()) } else { Err(none()) }
    }
    fn is_live(&self, _directory: u64) -> Result<bool, MachineError> {
        Ok(false)
    }
    fn discard(&mut self, _directory: u64) -> Result<(), MachineError> {
        Ok(())
    }
    fn persist(&mut self) -> Result<(), MachineError> {
        self.mood.check()?;
        (self.persisted, self.waiting_bytes) = (self.applied, 0);
        Ok(())
    }
    fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError> {
        self.mood.check()?;
        Err(none())
    }
}

fn none() -> MachineError {
    MachineError::Failed("this machine has no snapshots".to_owned())
}

struct Idle;

impl BackgroundJob for Idle {
    fn run(self: Box<Self>) -> Result<(), MachineError> {
        Ok(())
    }
}

impl Lookup for Idle {
    fn query(&self, _query: &[u8], _answer: &mut Vec<u8>) -> Result<(), MachineError> {
        Ok(())
    }
}

#[derive(Debug)]
struct NoLog;

impl LogReader for NoLog {
    fn entries(&self, _: LogKey, from: Index, _: Index, _: usize) -> Result<Vec<Entry>, LogError> {
        Err(LogError::NotHere { index: from })
    }
}

fn incarnation(group: GroupId) -> Incarnation {
    Incarnation { group, number: 5 }
}

fn meta(group: GroupId, index: Index) -> GroupMeta {
    let genesis = GroupMeta::genesis(DeploymentId(1), group, Membership::default(), SlotSet::default());
    GroupMeta { applied: LogPosition { index, term: 1 }, ..genesis }
}

fn worker(groups: &[GroupId], unpersisted_bytes_max: usize) -> (ApplyWorker, Mood) {
    worker_of(groups, unpersisted_bytes_max, Jobs::None)
}

/// A worker and the mood of all its machines.
fn worker_of(groups: &[GroupId], unpersisted_bytes_max: usize, jobs: Jobs) -> (ApplyWorker, Mood) {
    let mut worker = ApplyWorker::new(Arc::new(NoLog), unpersisted_bytes_max, 0);
    let mood = Mood::default();
    for group in groups {
        let meta = meta(*group, 1);
        let replica = mraft_types::ReplicaId::new(0, mraft_types::NodeId::new(1).expect("a node id"));
        let key = LogKey { group: *group, uid: meta.uid, replica };
        let machine = Heavy { mood: mood.clone(), jobs, ..Heavy::default() };
        let applier = Applier::new(key, incarnation(*group), Box::new(machine), meta);
        worker.handle(ApplyMail::Add(*group, Box::new(applier)), &mut ApplyOutput::default());
    }
    (worker, mood)
}

fn entry(index: Index, commands: &[PackedCommand<'_>]) -> Entry {
    let mut builder = EntryBuilder::with_capacity(64);
    commands.iter().for_each(|command| builder.push(command));
    Entry { index, term: 1, kind: EntryKind::Commands, payload: builder.finish(1, 7).into() }
}

fn ordered(group: GroupId, entry: Entry, tickets: Vec<EntryTickets>) -> ApplyMail {
    let (first, last) = (entry.index, entry.index);
    let job = ApplyJob { first, last, entries: Some(vec![entry]), tickets };
    ApplyMail::Order(incarnation(group), ApplyOrder::Job(job))
}

fn handle(worker: &mut ApplyWorker, mail: ApplyMail) -> ApplyOutput {
    let mut out = ApplyOutput::default();
    worker.handle(mail, &mut out);
    worker.finish(&mut out);
    out
}

fn retry(worker: &mut ApplyWorker) -> ApplyOutput {
    let mut out = ApplyOutput::default();
    worker.retry(&mut out);
    worker.finish(&mut out);
    out
}

/// Has a group apply one entry with so many commands.
fn apply(worker: &mut ApplyWorker, group: GroupId, index: Index, commands: usize) -> ApplyOutput {
    let commands = vec![PackedCommand::user(NO_SLOT, b"x"); commands];
    let out = handle(worker, ordered(group, entry(index, &commands), Vec::new()));
    assert!(out.failed.is_empty(), "{:?}", out.failed);
    out
}

/// Has a group apply one entry with one command of the group's own.
fn apply_own(worker: &mut ApplyWorker, index: Index, kind: CommandKind, body: &[u8]) -> ApplyOutput {
    let command = PackedCommand { kind, ..PackedCommand::user(NO_SLOT, body) };
    let out = handle(worker, ordered(GROUP, entry(index, &[command]), Vec::new()));
    assert!(out.failed.is_empty(), "{:?}", out.failed);
    out
}

/// Has a group apply one entry with one command that somebody waits for.
fn asked(worker: &mut ApplyWorker, index: Index, ticket: Ticket) -> ApplyOutput {
    let entry = entry(index, &[PackedCommand::user(NO_SLOT, b"x")]);
    let tickets = vec![EntryTickets { position: entry.position(), tickets: vec![ticket] }];
    handle(worker, ordered(GROUP, entry, tickets))
}

/// What cores were told of room.
fn room(out: &ApplyOutput) -> Vec<(GroupId, bool)> {
    let told = out.inputs.iter().filter_map(|(_, input)| match input {
        Input::StoreFull { of, full } => Some((of.group, *full)),
        _ => None,
    });
    told.collect()
}

#[test]
fn d11_a_machine_that_claims_to_have_persisted_more_than_it_applied_is_not_believed() {
    let meta = meta(GROUP, 20);
    let replica = mraft_types::ReplicaId::new(0, mraft_types::NodeId::new(1).expect("a node id"));
    let key = LogKey { group: GROUP, uid: meta.uid, replica };
    let claims = |persisted| {
        let machine = Heavy { mood: Mood::default(), persisted, ..Heavy::default() };
        Applier::new(key, incarnation(GROUP), Box::new(machine), meta.clone()).persisted()
    };
    assert_eq!((claims(19), claims(20), claims(900)), (19, 20, 20));
}

#[test]
fn t2_a_worker_over_its_budget_persists_before_it_goes_on() {
    let (mut worker, _) = worker(&[GROUP], 10 * COMMAND_BYTES);
    let out = apply(&mut worker, GROUP, 2, 10);
    assert_eq!((out.stalls, worker.unpersisted_bytes()), (0, 10 * COMMAND_BYTES));
    let out = apply(&mut worker, GROUP, 3, 1);
    assert_eq!((out.stalls, worker.unpersisted_bytes()), (1, 0));
    let persisted = |input: &(GroupId, Input)| matches!(input.1, Input::Applied { persisted: 3, .. });
    assert!(out.inputs.iter().any(persisted), "the core hears of it");
}

#[test]
fn t2_what_a_group_that_stopped_held_is_not_counted_any_more() {
    let (mut worker, _) = worker(&[GROUP, OTHER], 100 * COMMAND_BYTES);
    apply(&mut worker, GROUP, 2, 60);
    apply(&mut worker, OTHER, 2, 10);
    let (done, _removed) = std::sync::mpsc::sync_channel(1);
    worker.handle(ApplyMail::Remove { group: GROUP, persist: false, done }, &mut ApplyOutput::default());
    assert_eq!(worker.unpersisted_bytes(), 10 * COMMAND_BYTES);
    worker.handle(
        ApplyMail::Order(incarnation(OTHER), ApplyOrder::Switch { directory: 9 }),
        &mut ApplyOutput::default(),
    );
    assert_eq!(worker.unpersisted_bytes(), 0, "a machine that fails is dropped");
}

#[test]
fn d10_a_full_disk_stops_no_replica_and_what_was_committed_waits_for_room() {
    let (mut worker, mood) = worker(&[GROUP, OTHER], 10 * COMMAND_BYTES);
    mood.set(Mood::FULL);
    let out = apply(&mut worker, GROUP, 2, 11);
    assert_eq!((out.stalls, out.found_full), (1, 1));
    assert_eq!(room(&out), [(GROUP, true), (OTHER, true)], "the budget is everybody's");
    let ticket = Ticket(5);
    let out = asked(&mut worker, 3, ticket);
    assert!(
        out.answers.is_empty() && out.failed.is_empty() && out.found_full == 0,
        "nothing is tried in vain"
    );
    let out = retry(&mut worker);
    assert!(worker.waits_for_room() && out.answers.is_empty() && out.failed.is_empty());
    mood.set(Mood::WELL);
    let out = retry(&mut worker);
    assert_eq!(room(&out), [(GROUP, false), (OTHER, false)]);
    assert!(matches!(out.answers[..], [(Ticket(5), Answer::Applied { .. })]), "{:?}", out.answers);
    assert!(!worker.waits_for_room());
    assert_eq!(worker.unpersisted_bytes(), COMMAND_BYTES, "only what came last waits");
}

#[test]
fn d10_a_full_disk_below_the_budget_only_delays_flushing() {
    for jobs in [Jobs::Plain, Jobs::Calm] {
        let (mut worker, _) = worker_of(&[GROUP], 10 * COMMAND_BYTES, jobs);
        assert_eq!(apply(&mut worker, GROUP, 2, 1).jobs.len(), 1);
        let out = handle(&mut worker, ApplyMail::BackgroundDone(incarnation(GROUP), Err(full())));
        assert!(out.failed.is_empty() && out.jobs.is_empty(), "not again at once");
        assert!(apply(&mut worker, GROUP, 3, 6).jobs.is_empty());
        assert!(worker.waits_for_room());
        assert!(!retry(&mut worker).jobs.is_empty(), "now it is tried again");
    }
}

#[test]
fn d10_a_snapshot_request_on_a_full_disk_is_refused_and_stops_nobody() {
    let (mut worker, mood) = worker(&[GROUP], 10 * COMMAND_BYTES);
    apply(&mut worker, GROUP, 2, 1);
    mood.set(Mood::FULL);
    let (done, answer) = sync_channel(1);
    let out = handle(&mut worker, ApplyMail::Persist { group: GROUP, done });
    assert!(answer.recv().expect("answered").is_err() && out.failed.is_empty());
    let (done, answer) = sync_channel(1);
    let out = handle(&mut worker, ApplyMail::Hash { group: GROUP, done });
    assert!(answer.recv().expect("answered").is_err() && out.failed.is_empty());
}

#[test]
fn d10_a_checkpoint_that_finds_no_room_is_left_out() {
    let (mut worker, mood) = worker(&[GROUP], 10 * COMMAND_BYTES);
    mood.set(Mood::FULL);
    let checkpoint = PackedCommand { kind: CommandKind::Checkpoint, ..PackedCommand::user(NO_SLOT, b"") };
    let out = handle(&mut worker, ordered(GROUP, entry(2, &[checkpoint]), Vec::new()));
    assert!(out.failed.is_empty() && out.hashes.is_empty(), "{:?}", out.failed);
    let passed = worker.applier(GROUP).expect("it goes on").checkpoint(2);
    assert_eq!(passed, CheckpointHash::Passed);
}

#[test]
fn d10_an_installation_that_finds_no_room_waits_and_what_is_behind_it_too() {
    let (mut worker, mood) = worker(&[GROUP], 10 * COMMAND_BYTES);
    mood.set(Mood::FULL);
    let switch = ApplyOrder::Switch { directory: STAGED };
    let out = handle(&mut worker, ApplyMail::Order(incarnation(GROUP), switch));
    assert!(out.failed.is_empty() && worker.waits_for_room());
    let out = asked(&mut worker, 21, Ticket(5));
    assert!(out.answers.is_empty() && out.failed.is_empty());
    let out = retry(&mut worker);
    assert!(out.answers.is_empty() && out.failed.is_empty() && worker.waits_for_room());
    mood.set(Mood::WELL);
    let out = retry(&mut worker);
    assert!(out.inputs.iter().any(|(_, input)| matches!(input, Input::Switched { .. })));
    assert!(matches!(out.answers[..], [(Ticket(5), Answer::Applied { .. })]), "{:?}", out.answers);
}

#[test]
fn e3_whoever_waits_for_what_waits_for_room_is_answered_when_the_replica_stops() {
    for removes in [true, false] {
        let (mut worker, mood) = worker(&[GROUP], COMMAND_BYTES);
        mood.set(Mood::FULL);
        apply(&mut worker, GROUP, 2, 2);
        assert!(asked(&mut worker, 3, Ticket(5)).answers.is_empty());
        let mut out = ApplyOutput::default();
        if removes {
            let (done, _removed) = sync_channel(1);
            worker.handle(ApplyMail::Remove { group: GROUP, persist: false, done }, &mut out);
        } else {
            worker.close(&mut out);
        }
        assert_eq!(out.answers, [(Ticket(5), Answer::Unknown(Unknown::Stopped))]);
    }
}

#[test]
fn t4_a_panic_anywhere_in_a_machine_stops_its_replica_and_no_other() {
    let send = SnapshotOrder {
        to: mraft_types::ReplicaId::new(0, mraft_types::NodeId::new(2).expect("a node id")),
        from: mraft_types::ReplicaId::new(0, mraft_types::NodeId::new(1).expect("a node id")),
        uid: meta(GROUP, 1).uid,
        at_least: 1,
        term: 1,
    };
    let (staged, stage) = sync_channel(1);
    let (persisted, persist) = sync_channel(1);
    let mail = [
        ApplyMail::Order(incarnation(GROUP), ApplyOrder::Send(send)),
        ApplyMail::Stage { group: GROUP, directory: 1, meta: Vec::new(), reply: staged },
        ApplyMail::Persist { group: GROUP, done: persisted },
        ApplyMail::Order(incarnation(GROUP), ApplyOrder::Switch { directory: STAGED }),
    ];
    for mail in mail {
        let (mut worker, mood) = worker(&[GROUP, OTHER], 10 * COMMAND_BYTES);
        mood.set(Mood::PANICS);
        let mut out = ApplyOutput::default();
        worker.handle(mail, &mut out);
        assert!(
            matches!(&out.failed[..], [(Incarnation { group: GROUP, .. }, why)] if why.contains("panicked")),
            "{:?}",
            out.failed
        );
        mood.set(Mood::WELL);
        apply(&mut worker, OTHER, 2, 1);
    }
    assert!(stage.recv().expect("answered").is_err() && persist.recv().expect("answered").is_err());
}

#[test]
fn m3_what_ends_late_for_an_earlier_replica_of_the_group_is_nothing_to_the_one_in_its_place() {
    let (mut worker, _) = worker_of(&[GROUP], 10 * COMMAND_BYTES, Jobs::Plain);
    let earlier = Incarnation { number: incarnation(GROUP).number - 1, ..incarnation(GROUP) };
    let failed = || MachineError::Failed("the earlier one's".to_owned());
    let late = [
        ApplyMail::BackgroundDone(earlier, Err(failed())),
        ApplyMail::Hashed(earlier, Err(failed())),
        ApplyMail::Fail(earlier, PANICKED.to_owned()),
    ];
    worker.finish(&mut ApplyOutput::default());
    for mail in late {
        let out = handle(&mut worker, mail);
        assert!(out.failed.is_empty() && out.inputs.is_empty() && out.jobs.is_empty(), "{:?}", out.failed);
    }
    let next = entry(2, &[PackedCommand::user(NO_SLOT, b"x")]);
    let tickets = vec![EntryTickets { position: next.position(), tickets: vec![Ticket(5)] }];
    let job = ApplyJob { first: 2, last: 2, entries: Some(vec![next]), tickets };
    let out = handle(&mut worker, ApplyMail::Order(earlier, ApplyOrder::Job(job)));
    assert_eq!(out.answers, [(Ticket(5), Answer::Unknown(Unknown::Stopped))], "it was the earlier one's");
    assert_eq!((out.commands, out.inputs.len()), (0, 0));
    let out = handle(&mut worker, ApplyMail::Fail(incarnation(GROUP), PANICKED.to_owned()));
    assert!(matches!(&out.failed[..], [(of, _)] if *of == incarnation(GROUP)), "{:?}", out.failed);
}

#[test]
fn m3_whoever_starts_the_next_machine_waits_for_the_jobs_of_the_one_before() {
    let (mut worker, _) = worker_of(&[GROUP], usize::MAX, Jobs::Plain);
    let await_job = |worker: &mut ApplyWorker, group| {
        let (done, ended) = sync_channel(1);
        worker.handle(ApplyMail::AwaitJob { group, done }, &mut ApplyOutput::default());
        ended
    };
    await_job(&mut worker, GROUP).try_recv().expect("nothing is under way yet");
    assert_eq!(apply(&mut worker, GROUP, 2, 1).jobs.len(), 1);
    let (done, removed) = sync_channel(1);
    handle(&mut worker, ApplyMail::Remove { group: GROUP, persist: false, done });
    removed.try_recv().expect("told").expect("nothing fails");
    let waiting = await_job(&mut worker, GROUP);
    assert!(waiting.try_recv().is_err(), "its job is still under way");
    await_job(&mut worker, OTHER).try_recv().expect("it has none");
    handle(&mut worker, ApplyMail::BackgroundDone(incarnation(GROUP), Ok(())));
    waiting.try_recv().expect("it ended");
    await_job(&mut worker, GROUP).try_recv().expect("it ended before");
}

#[test]
fn t4_a_machine_that_panics_while_it_is_removed_is_gone_all_the_same() {
    for persist in [true, false] {
        let (mut worker, mood) = worker(&[GROUP], 10 * COMMAND_BYTES);
        mood.set(Mood::PANICS);
        let (done, removed) = sync_channel(1);
        let out = handle(&mut worker, ApplyMail::Remove { group: GROUP, persist, done });
        assert!(removed.recv().expect("answered").is_err() && out.failed.is_empty());
        assert!(worker.applier(GROUP).is_none());
    }
}

/// What becomes of a committed entry with this payload: why the replica stopped, if it did.
fn committed(kind: EntryKind, payload: &[u8]) -> Option<String> {
    let (mut worker, _) = worker(&[GROUP], 10 * COMMAND_BYTES);
    let entry = Entry { index: 2, term: 1, kind, payload: payload.to_vec().into() };
    let out = handle(&mut worker, ordered(GROUP, entry, Vec::new()));
    out.failed.into_iter().next().map(|(_, reason)| reason)
}

#[test]
fn t4_a_poisonous_committed_entry_is_an_error_of_that_replica_and_never_a_panic() {
    let whole = entry(2, &[PackedCommand::user(NO_SLOT, b"body"), PackedCommand::user(7, b"")]).payload;
    assert_eq!(committed(EntryKind::Commands, &whole), None);
    let mut patterns: Vec<Vec<u8>> = (0..whole.len()).map(|len| whole[..len].to_vec()).collect();
    patterns.extend((0..whole.len() * 8).map(|bit| {
        let mut flipped = whole.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    }));
    patterns.extend((0..=u8::MAX).map(|byte| vec![byte; 40]));
    for payload in patterns {
        for kind in [EntryKind::Commands, EntryKind::Membership] {
            let reason = committed(kind, &payload).unwrap_or_default();
            assert!(!reason.contains("panicked"), "{payload:?}: {reason}");
        }
    }
    for len in 0..whole.len() {
        let reason = committed(EntryKind::Commands, &whole[..len]).expect("half an entry is none");
        assert!(reason.contains("committed entry 2"), "{reason}");
    }
}

#[test]
fn e1_commands_of_reserved_kinds_stop_a_build_that_does_not_know_their_meaning() {
    use CommandKind::{CloseSession, Import, RegisterSession, SetSlots, TimeTick};
    for kind in [TimeTick, RegisterSession, CloseSession, SetSlots, Import] {
        let command = PackedCommand { kind, ..PackedCommand::user(NO_SLOT, b"") };
        let reason = committed(EntryKind::Commands, &entry(2, &[command]).payload).expect("refused");
        assert!(reason.contains("command.kind") && reason.contains(&(kind as u8).to_string()), "{reason}");
    }
}

#[test]
fn t3_an_entry_of_a_higher_feature_level_stops_the_replica_and_says_which_build_it_needs() {
    let mut builder = EntryBuilder::with_capacity(64);
    builder.push(&PackedCommand::user(NO_SLOT, b"x"));
    let payload = builder.finish(crate::meta::FEATURE_LEVEL + 1, 7);
    let reason = committed(EntryKind::Commands, &payload).expect("it stopped");
    assert!(reason.contains("feature level 2") && reason.contains("run the newer release"), "{reason}");
}

#[test]
fn e8_a_dispute_in_the_log_is_told_and_kept_until_the_log_settles_it() {
    let (mut worker, _) = worker(&[GROUP], 100 * COMMAND_BYTES);
    let dispute = Dispute { index: 5, shown_by: Depth::Content };
    let told = |out: &ApplyOutput| {
        let told = out.inputs.iter().find_map(|(_, input)| match input {
            Input::Applied { disputed, .. } => Some(*disputed),
            _ => None,
        });
        told.expect("the core is told how far it is")
    };
    assert_eq!(told(&apply(&mut worker, GROUP, 2, 1)), None);
    let mut body = Vec::new();
    dispute.encode(&mut body);
    assert_eq!(told(&apply_own(&mut worker, 3, CommandKind::Dispute, &body)), Some(dispute));
    assert_eq!(told(&apply(&mut worker, GROUP, 4, 1)), Some(dispute));
    let mut settle = |index, content| {
        let mut body = Vec::new();
        StateHash { index: 2, chain: 1, content }.encode(&mut body);
        told(&apply_own(&mut worker, index, CommandKind::CheckpointHash, &body))
    };
    assert_eq!(settle(5, None), Some(dispute), "a hash of the chain does not settle what the content shows");
    assert_eq!(settle(6, Some(1)), None);
}
