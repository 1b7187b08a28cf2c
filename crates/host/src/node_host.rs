// SPDX-License-Identifier: Apache-2.0

//! The public face: a node full of groups.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use mraft_disk::{Disk, RealDisk};
use mraft_engine::StateHash;
use mraft_engine::effect::Answer;
use mraft_engine::error::NotApplied;
use mraft_engine::event::{Event, Proposal, ReadKind, Ticket};
use mraft_engine::machine::{Lookup, MachineError, StateMachine};
use mraft_logstore::{LogOptions, SegmentLog};
use mraft_types::{
    CondemnedReason, GroupId, GroupUid, Index, Membership, MembershipChange, NodeId, Payload, ReplicaId,
    SlotSet, Term,
};

use crate::apply::CheckpointHash;
use crate::apply_worker::ApplyMail;
use crate::completions::{CompletionQueue, Completions};
use crate::config::HostConfig;
use crate::core::{Core, CoreConfig, Input};
use crate::error::HostError;
use crate::events::{EventReceiver, Events, HostEvent};
use crate::identity::{self, Claim, Identity};
use crate::metrics::Metrics;
use crate::opening;
use crate::peer_table::PeerTable;
use crate::peers::{ClearedConflict, Peers, RequestHandler};
use crate::persist::{LogJob, LogWorker};
use crate::progress::Progress;
use crate::registry::{GroupRecord, Published, Registry};
use crate::runtime::{Listener, Pace, Runtime, Shared};
use crate::slow_disk::Moves;
use crate::status::{GroupStatus, HostStatus};

/// How long a caller of a blocking method waits for the threads of a healthy host.
pub(crate) const INTERNAL_WAIT: Duration = Duration::from_secs(60);
/// How long after its deadline a proposal is answered for whoever has it: the core, as long as it has it, says at the deadline itself what
/// it knows, and that is more.
const LATE_ANSWER_GRACE: Duration = Duration::from_secs(1);
/// A truncation frees a tenth of the overhead, but need not wait for more entries than this.
const TRUNCATE_STEP_ENTRIES_MAX: u64 = 1_000;

/// What a state machine is made for.
#[derive(Clone)]
pub struct MachineContext {
    /// The group.
    pub group: GroupId,
    /// The replica here.
    pub replica: ReplicaId,
    /// A directory of its own; may not exist yet.
    pub directory: PathBuf,
    /// The disk it should be on.
    pub disk: Arc<dyn Disk>,
}

/// Makes the state machines of one kind.
pub type MachineFactory =
    Arc<dyn Fn(&MachineContext) -> Result<Box<dyn StateMachine>, MachineError> + Send + Sync>;

/// The kinds of state machines that a program offers, by the names that are persisted with each group.
#[derive(Clone, Default)]
pub struct Machines(pub(crate) BTreeMap<String, MachineFactory>);

impl Machines {
    /// None yet.
    pub fn new() -> Machines {
        Machines::default()
    }

    /// Offers a kind; a name of at most 64 bytes that must stay the same over restarts.
    #[must_use]
    pub fn with(
        mut self,
        name: &str,
        factory: impl Fn(&MachineContext) -> Result<Box<dyn StateMachine>, MachineError> + Send + Sync + 'static,
    ) -> Machines {
        self.0.insert(name.to_owned(), Arc::new(factory));
        self
    }
}

/// A group to be founded: the same on every original member.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// The group.
    pub group: GroupId,
    /// The original members; the node itself must be among them. Voters and learners: witnesses and observers are refused.
    pub members: Membership,
    /// The slots whose keys live in it; empty for machines without routing.
    pub slots: SlotSet,
    /// The kind of state machine.
    pub machine: String,
}

/// What is known of who leads a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, as far as this node knows.
    pub leader: Option<ReplicaId>,
    /// The term.
    pub term: Term,
}

/// A node full of groups.
///
/// Opening it restarts everything that lives in its directory; [`NodeHost::close`] ends it cleanly, dropping it does the same.
/// All methods may be called from any thread. Requests are answered through [`CompletionQueue`]s or functions; a request is
/// answered exactly once, and never with more certainty than there is ([`Answer`]).
///
/// # Panics
///
/// A panic of a group's state machine, in whatever it does for the host (applying, background work, snapshots), stops that group's replica
/// here, with a reason in its status, and no other. A panic anywhere else on a thread of the host, in a function that was given to be
/// called with an answer for example, **aborts the process**: such a thread works for many groups, and nobody knows what it left half
/// done. Other nodes take over, and the next start recovers.
pub struct NodeHost {
    pub(crate) inner: Arc<Inner>,
}

/// Shared by the public face, the threads' listener and the peers' handler.
pub(crate) struct Inner {
    me: Weak<Inner>,
    pub(crate) config: HostConfig,
    pub(crate) identity: Identity,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) machines: Machines,
    /// Held while the list of groups is changed, which takes as long as the disk takes; who only wants to know asks `groups`.
    pub(crate) registry: Mutex<Registry>,
    pub(crate) groups: Published,
    /// Held while replicas come or go: each takes several steps, and waits for other threads in between.
    pub(crate) replica_changes: Mutex<()>,
    pub(crate) runtime: Mutex<Option<Runtime>>,
    pub(crate) shared: RwLock<Option<Arc<Shared>>>,
    pub(crate) peers: RwLock<Option<Arc<Peers>>>,
    pub(crate) completions: Arc<Completions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: Events,
    pub(crate) lookups: RwLock<BTreeMap<GroupId, Arc<dyn Lookup>>>,
    pub(crate) leaders: RwLock<BTreeMap<GroupId, Leadership>>,
    /// The memberships in force when the groups were restored, then the committed ones.
    pub(crate) memberships: Mutex<BTreeMap<GroupId, Membership>>,
    /// New members of groups that this node leads, whose nodes have not said yet that the replica runs there.
    pub(crate) joining: Mutex<BTreeSet<(GroupId, ReplicaId)>>,
    pub(crate) failures: Mutex<BTreeMap<GroupId, String>>,
    /// Replicas here that may never vote or acknowledge again (rule D9).
    pub(crate) condemned: Mutex<BTreeMap<GroupId, CondemnedReason>>,
    /// Groups that were stopped to be started again.
    pub(crate) stopped: Mutex<BTreeSet<GroupId>>,
    /// Why every replica here was condemned, also those that start later.
    pub(crate) all_condemned: OnceLock<CondemnedReason>,
    pub(crate) disk_trouble: Mutex<Option<String>>,
    /// Leadership that was moved because of a slow or full disk (rule T1).
    pub(crate) moved_for_disk: Mutex<Moves>,
    pub(crate) stalled: std::sync::atomic::AtomicBool,
    pub(crate) log_waits: Mutex<BTreeMap<u64, SyncSender<()>>>,
    /// For whatever needs a number that this process never gives out twice.
    pub(crate) next_token: AtomicU64,
    pub(crate) staged: AtomicU64,
    /// Held while the host is open: a second process on the directory is refused.
    pub(crate) _locks: Vec<Box<dyn std::any::Any + Send + Sync>>,
}

impl NodeHost {
    /// Opens a node's directory, restarts its groups and begins to talk to its peers. `requests` answers what other hosts ask.
    pub fn open(
        config: HostConfig,
        machines: Machines,
        requests: Option<Arc<dyn RequestHandler>>,
    ) -> Result<NodeHost, HostError> {
        NodeHost::open_on(Arc::new(RealDisk::new()), config, machines, requests)
    }

    /// The same on a disk that the caller made: one that fails, in tests.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        config: HostConfig,
        machines: Machines,
        requests: Option<Arc<dyn RequestHandler>>,
    ) -> Result<NodeHost, HostError> {
        config.validate()?;
        let data = config.data_directory.clone();
        let wal = identity::wal_directory(disk.as_ref(), &data, config.wal_directory.as_deref())?;
        let claim = Claim {
            deployment: config.deployment,
            node: config.node,
            raft_address: config.raft_address.clone(),
        };
        let io = |error| HostError::io(&data, error);
        let fresh = (crate::random::instance_id().map_err(io)?, crate::random::seed());
        let salts = crate::random::salts().map_err(io)?;
        // Everything is checked, and the address taken, before the first byte is written, the locks' files included.
        opening::claim(disk.as_ref(), &data, &wal, &claim, fresh)?;
        for directory in [&data, &wal] {
            crate::files::lock_stopped(disk.as_ref(), directory)?;
        }
        let listening = crate::network::listen(&config)?;
        let locks = crate::files::lock_directories(disk.as_ref(), &data, &wal)?;
        let kept_max = usize::try_from(config.log_segments_target).unwrap_or(usize::MAX).saturating_add(2);
        let options = LogOptions::new(config.log_segment_bytes, salts).with_segments_kept_max(kept_max);
        let opened = opening::open(&disk, &data, &wal, &claim, fresh, options)?;
        let opening::Opened { mut identity, registry, log } = opened;
        let completions = Completions::new();
        let inner = Arc::new_cyclic(|me| Inner {
            me: Weak::clone(me),
            config,
            identity: identity.clone(),
            disk: Arc::clone(&disk),
            machines,
            groups: registry.published(),
            registry: Mutex::new(registry),
            replica_changes: Mutex::default(),
            runtime: Mutex::new(None),
            shared: RwLock::new(None),
            peers: RwLock::new(None),
            completions,
            metrics: Arc::new(Metrics::default()),
            events: Events::default(),
            lookups: RwLock::default(),
            leaders: RwLock::default(),
            memberships: Mutex::default(),
            joining: Mutex::default(),
            failures: Mutex::default(),
            condemned: Mutex::default(),
            stopped: Mutex::default(),
            all_condemned: OnceLock::new(),
            disk_trouble: Mutex::default(),
            moved_for_disk: Mutex::default(),
            stalled: std::sync::atomic::AtomicBool::new(false),
            log_waits: Mutex::default(),
            next_token: AtomicU64::new(1),
            staged: AtomicU64::new(0),
            _locks: locks,
        });
        // From here on an error drops the host, which ends its threads and lets the locks go.
        let host = NodeHost { inner };
        host.inner.finish_removals();
        host.inner.start(log)?;
        identity::mark_created(disk.as_ref(), &data, &wal, &mut identity)?;
        let table = PeerTable::open(Arc::clone(&disk), &data)?;
        let peers = Peers::start(&host.inner, table, listening, requests)?;
        host.inner.connect(peers);
        Ok(host)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.config.node
    }

    /// What the directory says of itself.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Founds groups here, as one of their original members. Groups that are here already are left alone when they were founded
    /// alike, stopped ones too ([`NodeHost::start_group`]), and refused with both member lists when not.
    pub fn start_groups(&self, specs: &[GroupSpec]) -> Result<(), HostError> {
        self.inner.start_groups(specs)
    }

    /// Starts a memberless replica that waits for its group's first snapshot (rule M4): what the leader that added `replica` asks
    /// of its node.
    pub fn join_group(
        &self,
        group: GroupId,
        uid: GroupUid,
        replica: ReplicaId,
        machine: &str,
    ) -> Result<(), HostError> {
        let machine = machine.to_owned();
        self.inner.add_replicas(vec![GroupRecord { group, uid, replica, genesis: None, machine }])
    }

    /// Stops a group's replica here and forgets it for good: its log records and its state are deleted. For replicas that were
    /// removed from their group.
    pub fn remove_replica(&self, group: GroupId) -> Result<(), HostError> {
        let record =
            self.inner.groups.get().records.get(&group).cloned().ok_or(HostError::NoSuchGroup(group))?;
        self.inner.remove_replica(group, record.replica)
    }

    /// The groups here, in order.
    pub fn groups(&self) -> Vec<GroupId> {
        self.inner.groups.get().records.keys().copied().collect()
    }

    /// A queue for answers in batches.
    pub fn completion_queue(&self) -> Result<CompletionQueue, HostError> {
        self.inner.completions.queue().ok_or(HostError::Limit { what: "completion queues", max: 1 << 24 })
    }

    /// Proposes commands; each is answered through its ticket, at its deadline at the latest unless it is with the state machine by then:
    /// whoever owns the queue stops waiting for one that hangs.
    pub fn propose_batch(&self, group: GroupId, proposals: Vec<Proposal>) {
        self.inner.input(group, Event::Propose(proposals));
    }

    /// Proposes one command; `answered` is called once, on a thread of the host: it must neither
    /// block nor panic. It is called soon after `within` at the latest, also when the state machine hangs: the outcome is
    /// unknown then.
    pub fn propose(
        &self,
        group: GroupId,
        slot: u16,
        body: Payload,
        within: Duration,
        answered: impl FnOnce(Answer) + Send + 'static,
    ) {
        let (metrics, began) = (Arc::clone(&self.inner.metrics), Instant::now());
        let deadline_tick = self.inner.deadline_tick(within);
        let expires_tick = deadline_tick.saturating_add(self.inner.deadline_ticks(LATE_ANSWER_GRACE));
        let ticket = self.inner.completions.call_until(expires_tick, move |answer| {
            metrics.answered(began.elapsed());
            answered(answer);
        });
        self.inner.input(group, Event::Propose(vec![Proposal { ticket, slot, deadline_tick, body }]));
    }

    /// Asks for a linearizable read: after `Answer::ReadReady` a [`NodeHost::lookup`] sees everything acknowledged before the call.
    pub fn read(
        &self,
        group: GroupId,
        kind: ReadKind,
        within: Duration,
        answered: impl FnOnce(Answer) + Send + 'static,
    ) {
        let ticket = self.inner.completions.call(answered);
        self.read_batch(group, kind, vec![ticket], within);
    }

    /// Linearizable reads that share a round.
    pub fn read_batch(&self, group: GroupId, kind: ReadKind, tickets: Vec<Ticket>, within: Duration) {
        let deadline_tick = self.inner.deadline_tick(within);
        self.inner.input(group, Event::Read { kind, tickets, deadline_tick });
    }

    /// Looks up what is published here, without any promise how old it is.
    pub fn lookup(&self, group: GroupId) -> Option<Arc<dyn Lookup>> {
        self.inner.lookups.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// The tick at which a request that waits at most `within` gives up; for [`Proposal::deadline_tick`].
    pub fn deadline_tick(&self, within: Duration) -> u64 {
        self.inner.deadline_tick(within)
    }

    /// Changes a group's membership; answered with the membership once it is committed.
    pub fn change_membership(
        &self,
        group: GroupId,
        change: MembershipChange,
        expected_change_index: Option<Index>,
        within: Duration,
        answered: impl FnOnce(Answer) + Send + 'static,
    ) {
        let ticket = self.inner.completions.call(answered);
        let deadline_tick = self.inner.deadline_tick(within);
        self.inner.input(group, Event::Change { ticket, change, expected_change_index, deadline_tick });
    }

    /// Hands leadership to a voter (`None`: the one that is furthest); answered when it is handed over or the attempt ended.
    pub fn transfer_leader(
        &self,
        group: GroupId,
        to: Option<ReplicaId>,
        answered: impl FnOnce(Answer) + Send + 'static,
    ) {
        let ticket = self.inner.completions.call(answered);
        self.inner.input(group, Event::Transfer { ticket, to });
    }

    /// Where a node is by what a group here says, and which one; by its connection, for a node that has one.
    pub fn known_address(&self, node: NodeId) -> Option<(Option<GroupId>, String)> {
        if node == self.inner.config.node {
            return Some((None, self.inner.config.raft_address.clone()));
        }
        if let Some(peers) = self.peers()
            && let Some(connected) = peers.connected_address(node)
        {
            return Some((None, connected));
        }
        let memberships = self.inner.memberships();
        memberships.iter().find_map(|(group, membership)| {
            let replica = membership.replica_on(node)?;
            Some((Some(*group), membership.members.get(&replica)?.raft_address.clone()))
        })
    }

    /// Who leads a group, as far as this node knows; `None` when the group is not here or stopped.
    pub fn leader(&self, group: GroupId) -> Option<Leadership> {
        self.inner.leaders.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// Persists a group's state now, so that its log can be truncated (a snapshot request). The index that is persisted.
    pub fn request_snapshot(&self, group: GroupId) -> Result<Index, HostError> {
        self.inner.is_not_stopped(group)?;
        let (done, result) = sync_channel(1);
        self.inner.mail(group, ApplyMail::Persist { group, done })?;
        wait(&result)?.map_err(|reason| HostError::Machine { group, reason })
    }

    /// Hashes a group's state here; equal on all replicas at the same index (rule E8).
    pub fn state_hash(&self, group: GroupId) -> Result<StateHash, HostError> {
        self.inner.is_not_stopped(group)?;
        let (done, result) = sync_channel(1);
        self.inner.mail(group, ApplyMail::Hash { group, done })?;
        wait(&result)?.map_err(|reason| HostError::Machine { group, reason })
    }

    /// Proposes a checkpoint: every replica keeps its state's hash at that entry for [`NodeHost::checkpoint_hash`] (rule E8). Answered
    /// with the entry's position.
    pub fn checkpoint(&self, group: GroupId, answered: impl FnOnce(Answer) + Send + 'static) {
        let ticket = self.inner.completions.call(answered);
        self.inner.input(group, Event::ProposeCheckpoint(ticket));
    }

    /// What the replica here kept at a checkpoint.
    pub fn checkpoint_hash(&self, group: GroupId, index: Index) -> Result<CheckpointHash, HostError> {
        self.inner.is_not_stopped(group)?;
        let (done, result) = sync_channel(1);
        self.inner.mail(group, ApplyMail::CheckpointHash { group, index, done })?;
        wait(&result)?.ok_or(HostError::NoSuchGroup(group))
    }

    /// Clears what is known of a node id: which directory it is, that two claim it, how far its log was (rules M6, M7). For an operator who
    /// knows that the earlier directory is gone for good; to be said on every node, because they tell each other. Refused while a group
    /// here lists the node: its votes may be counted on. A node that is connected and that no other directory claims is left alone.
    pub fn clear_conflict(&self, node: NodeId) -> Result<ClearedConflict, HostError> {
        self.inner.clear_conflict(node)
    }

    /// Whether the disk stopped every replica of this node (rules D8, T1).
    pub fn is_stopped_by_disk(&self) -> bool {
        self.inner.stalled.load(Ordering::Relaxed)
    }

    /// Why the disk stopped every replica of this node, if it did: requests end `not_applied` from then on.
    pub fn stopped_by_disk(&self) -> Option<String> {
        self.inner.stopped_by_disk()
    }

    /// What happens on this node from now on, and first of all which replicas have failed already.
    pub fn events(&self) -> EventReceiver {
        let failures = self.inner.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |(group, reason): (&GroupId, &String)| HostEvent::ReplicaFailed {
            group: *group,
            reason: reason.clone(),
        };
        self.inner.events.listen(failures.iter().map(failed))
    }

    /// Asks the peers; see [`crate::peers`].
    pub fn peers(&self) -> Option<Arc<Peers>> {
        self.inner.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node at a glance.
    pub fn status(&self) -> HostStatus {
        self.inner.status()
    }

    /// One group's replica here.
    pub fn group_status(&self, group: GroupId) -> Result<GroupStatus, HostError> {
        self.inner.group_status(group)
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Everything that is counted, in Prometheus' text format.
    pub fn write_prometheus(&self, out: &mut String) {
        self.inner.metrics.write_prometheus(out);
        self.inner.write_queues(out);
        if let Some(peers) = self.peers() {
            peers.write_prometheus(out);
        }
    }

    /// Hands over the leadership of every group that this node leads, if there is another voter to take it, within `within`. How many
    /// of those it still leads afterwards.
    pub fn drain(&self, within: Duration) -> usize {
        let until = Instant::now() + within;
        let own = self.inner.config.node;
        let can_be_taken = |group: &GroupId| {
            let memberships = self.inner.memberships();
            memberships.get(group).is_none_or(|members| members.counting().any(|voter| voter.node() != own))
        };
        let mut led = self.inner.led_groups();
        led.retain(can_be_taken);
        let (done, ended) = sync_channel(led.len().max(1));
        for group in &led {
            let done = done.clone();
            self.transfer_leader(*group, None, move |_| {
                // The receiver is gone once the time is up.
                let _ = done.try_send(());
            });
        }
        drop(done);
        for _ in &led {
            let Some(left) = until.checked_duration_since(Instant::now()) else { break };
            if ended.recv_timeout(left).is_err() {
                break;
            }
        }
        self.inner.led_groups().into_iter().filter(can_be_taken).count()
    }

    /// Ends the host: connections close, the log is sealed, all threads end. Requests are answered `not_applied` from then on. State that
    /// the machines have only in memory is not persisted first: the next start applies it again from the log, as after a crash.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Drop for NodeHost {
    fn drop(&mut self) {
        self.inner.close();
    }
}

impl Inner {
    fn start(self: &Arc<Inner>, log: SegmentLog) -> Result<(), HostError> {
        let mut worker = LogWorker::new(Box::new(log));
        let mut progress = Progress::new(self.groups.get().records.len(), Instant::now());
        let recovery = opening::recover(&mut self.registry(), &mut worker, |record, log| {
            let replica = self.put_together(record, log);
            progress.one_more(Instant::now(), "opening the groups that live here");
            replica
        })?;
        for (group, error) in &recovery.not_started {
            self.not_started(*group, error);
        }
        for (record, replica) in &recovery.replicas {
            let condemned = replica.seat.raft.condemned();
            if recovery.lost.contains(&record.group) {
                tracing::error!(
                    group = %record.group, replica = %record.replica,
                    "the log has lost this replica: it is condemned; remove it from the group and add the node again, or, if the group has no \
                     majority left, stop the node and see `mraft repair accept-loss`"
                );
            }
            self.remember_loss(record, condemned.is_some());
            if let Some(reason) = condemned {
                self.note_condemned(record.group, reason);
            }
        }
        let mut cores: Vec<Core> = (0..self.config.step_workers.max(1)).map(|_| self.new_core()).collect();
        let workers = cores.len();
        let (mut appliers, mut discards) = (Vec::new(), Vec::new());
        for (GroupRecord { group, .. }, replica) in recovery.replicas {
            discards.extend(replica.discard.map(|directory| (replica.seat.incarnation, directory)));
            self.memberships().insert(group, replica.seat.raft.membership().clone());
            if replica.seat.raft.condemned() != Some(CondemnedReason::Divergence) {
                self.lookups_mut().insert(group, replica.applier.lookup());
            }
            self.leaders_mut().insert(group, Leadership { leader: None, term: replica.seat.raft.term() });
            cores[crate::runtime::share(group, workers)].handle(Input::Start(Box::new(replica.seat)));
            appliers.push((group, Box::new(replica.applier)));
        }
        let pace = Pace {
            tick: Duration::from_millis(self.config.tick_ms),
            beat_ticks: u64::from(self.config.heartbeat_ticks),
            apply_threads: self.config.apply_threads,
            background_threads: self.config.background_threads,
            unpersisted_bytes_max: self.config.unpersisted_bytes_max,
            snapshot_entries: self.config.snapshot_entries,
            log_segments_target: self.config.log_segments_target.max(2),
        };
        let listener: Arc<dyn Listener> = Arc::clone(self) as Arc<dyn Listener>;
        let runtime = Runtime::start(
            cores,
            appliers,
            worker,
            Arc::clone(&self.completions),
            Arc::clone(&self.metrics),
            listener,
            pace,
        )
        .map_err(HostError::Threads)?;
        let shared = Arc::clone(runtime.shared());
        for (of, directory) in discards {
            // Nobody closes the mailboxes before the runtime is handed over.
            let _ = shared.apply(of.group).send(ApplyMail::Discard(of, directory));
        }
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = Some(shared);
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
        Ok(())
    }

    fn new_core(&self) -> Core {
        Core::new(CoreConfig {
            node: self.config.node,
            limits: self.config.limits,
            compaction_overhead_entries: self.config.compaction_overhead_entries,
            truncates_on_request_only: self.config.truncates_on_request_only,
            truncate_step_entries: (self.config.compaction_overhead_entries / 10)
                .clamp(10, TRUNCATE_STEP_ENTRIES_MAX),
        })
    }

    /// From here on frames go out and come in.
    fn connect(&self, peers: Arc<Peers>) {
        for record in self.groups.get().records.values() {
            if let Some(genesis) = &record.genesis {
                peers.learn(&genesis.membership);
            }
        }
        for membership in self.memberships.lock().unwrap_or_else(PoisonError::into_inner).values() {
            peers.learn(membership);
        }
        if let Ok(shared) = self.shared() {
            shared.connect(Arc::clone(&peers) as Arc<dyn crate::runtime::Outbox>);
        }
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = Some(peers);
    }

    /// Sends the log a job and waits until it is durable.
    pub(crate) fn log_job(&self, job: impl FnOnce(u64) -> LogJob) -> Result<(), HostError> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let (done, durable) = sync_channel(1);
        self.log_waits.lock().unwrap_or_else(PoisonError::into_inner).insert(token, done);
        // The disk may have stopped the log before this was in the list that is emptied then.
        let sent = self
            .is_served_by_disk()
            .and_then(|()| self.shared()?.log.send(job(token)).map_err(|_| HostError::Closed));
        let result = sent.and_then(|()| {
            wait(&durable).or_else(|error| self.is_served_by_disk().and(Err(self.said_of_disk(error))))
        });
        self.log_waits.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
        result
    }

    /// Of whoever waited in vain for the log: what it is that it waits for.
    fn said_of_disk(&self, error: HostError) -> HostError {
        let trouble = self.disk_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (error, trouble) {
            (HostError::Late { reason }, Some(trouble)) => {
                HostError::Late { reason: format!("{trouble} ({reason})") }
            }
            (error, _) => error,
        }
    }

    /// An error with the reason once the disk stopped every replica: then the log does nothing more.
    pub(crate) fn is_served_by_disk(&self) -> Result<(), HostError> {
        self.stopped_by_disk().map_or(Ok(()), |reason| Err(HostError::Stopped { reason }))
    }

    pub(crate) fn shared(&self) -> Result<Arc<Shared>, HostError> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(HostError::Closed)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Itself, to be handed to a thread.
    pub(crate) fn me(&self) -> Option<Arc<Inner>> {
        self.me.upgrade()
    }

    pub(crate) fn tell(&self, event: &HostEvent) {
        self.events.tell(event);
    }

    /// A directory number that this process has not used yet and an earlier one cannot have left behind finished.
    pub(crate) fn next_staged_directory(&self) -> u64 {
        (self.identity.boot_counter << 32) | (self.staged.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn mail(&self, group: GroupId, mail: ApplyMail) -> Result<(), HostError> {
        self.shared()?.apply(group).send(mail).map_err(|_| HostError::Closed)
    }

    /// An event for a group's core; requests in it are answered even when the host is closing.
    pub(crate) fn input(&self, group: GroupId, event: Event) {
        let shared = self.shared();
        // As much as one group may have waiting: a worker that keeps up looks long before.
        let bytes_max = self.config.limits.pending_bytes_max;
        let is_refused = match (&shared, &event) {
            (Ok(shared), Event::Propose(proposals)) => !shared.admit_proposals(group, proposals, bytes_max),
            _ => false,
        };
        let (rejected, reason) = match shared {
            _ if is_refused => (event, NotApplied::Busy("the step worker's mailbox")),
            Ok(shared) => match shared.step(group).send(Input::Group(group, event)) {
                Ok(()) => return,
                Err(Input::Group(_, event)) => (event, NotApplied::Stopping),
                Err(_) => return,
            },
            Err(_) => (event, NotApplied::Stopping),
        };
        let answer = Answer::NotApplied(reason);
        let tickets = rejected.into_tickets().into_iter();
        self.completions.deliver(tickets.map(|ticket| (ticket, answer.clone())).collect());
    }

    pub(crate) fn deadline_tick(&self, within: Duration) -> u64 {
        let now = self.shared().map_or(0, |shared| shared.now().tick);
        now.saturating_add(self.deadline_ticks(within)).saturating_add(1)
    }

    fn deadline_ticks(&self, within: Duration) -> u64 {
        u64::try_from(within.as_millis()).unwrap_or(u64::MAX).div_ceil(self.config.tick_ms.max(1))
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lookups_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<GroupId, Arc<dyn Lookup>>> {
        self.lookups.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leaders_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<GroupId, Leadership>> {
        self.leaders.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memberships(&self) -> MutexGuard<'_, BTreeMap<GroupId, Membership>> {
        self.memberships.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leads(&self, group: GroupId) -> bool {
        let leaders = self.leaders.read().unwrap_or_else(PoisonError::into_inner);
        let leader = leaders.get(&group).and_then(|known| known.leader);
        leader.is_some_and(|leader| leader.node() == self.config.node)
    }

    pub(crate) fn led_groups(&self) -> Vec<GroupId> {
        self.led_in_terms().into_iter().map(|(group, _)| group).collect()
    }

    /// The groups that this node leads, with their terms.
    pub(crate) fn led_in_terms(&self) -> Vec<(GroupId, Term)> {
        let leaders = self.leaders.read().unwrap_or_else(PoisonError::into_inner);
        let own = |leadership: &Leadership| leadership.leader.is_some_and(|id| id.node() == self.config.node);
        leaders.iter().filter(|(_, led)| own(led)).map(|(group, led)| (*group, led.term)).collect()
    }

    pub(crate) fn stopped_by_disk(&self) -> Option<String> {
        let trouble = || self.disk_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_stopped = self.stalled.load(Ordering::Relaxed);
        is_stopped.then(|| trouble().unwrap_or_else(|| "the log cannot be written".to_owned()))
    }

    fn close(&self) {
        let peers = self.peers.write().unwrap_or_else(PoisonError::into_inner).take();
        let disk_is_well = !self.stalled.load(Ordering::Relaxed);
        if let Some(peers) = peers {
            peers.close(disk_is_well);
        }
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.stop(disk_is_well, Duration::from_millis(self.config.stalled_disk_ms));
        }
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.lookups_mut().clear();
    }
}

pub(crate) fn wait<T>(receiver: &std::sync::mpsc::Receiver<T>) -> Result<T, HostError> {
    receiver.recv_timeout(INTERNAL_WAIT).map_err(|error| match error {
        RecvTimeoutError::Disconnected => HostError::Closed,
        RecvTimeoutError::Timeout => {
            HostError::Late { reason: format!("no answer within {} s", INTERNAL_WAIT.as_secs()) }
        }
    })
}
