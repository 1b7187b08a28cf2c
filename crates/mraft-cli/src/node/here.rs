// SPDX-License-Identifier: Apache-2.0

//! Questions about a group whose replica here can answer them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mraft::{Answer, HostError, NotApplied, ReadKind, Unknown};
use mraft_api::Consistency;
use mraft_gateway::needs::{Failure, NodeError};
use mraft_raft::{ChangeError, ProposeRefused};
use mraft_types::{GroupId, Index, Payload};
use tokio::sync::oneshot;

use super::exchange::{Data, Question, Said};
use super::lookups::NoAnswer;
use super::route::Missed;
use super::service::Service;

/// When to come back to a full queue: a few turns of the log.
const RETRY_AFTER_BUSY: Duration = Duration::from_millis(20);

impl Service {
    /// Answers at this replica. Linearizable reads and writes need it to lead.
    pub(super) async fn here(
        self: &Arc<Self>,
        group: GroupId,
        question: &Question,
        until: Instant,
    ) -> Result<Said, Missed> {
        match question {
            Question::Read { consistency: Consistency::Stale, query } => {
                self.stale(group, query, until).await
            }
            Question::Read { consistency: Consistency::Linearizable, query } => {
                let since = Instant::now();
                let index = self.confirmed(group, ReadKind::Linearizable, until).await?;
                self.freshness.heard(group, since, index);
                self.look_up(group, query, index, until).await
            }
            Question::ReadIndex | Question::Write { .. } => {
                let (sender, answered) = oneshot::channel();
                // The receiver is gone when the client is.
                self.begin(group, question, until, move |said| _ = sender.send(said));
                answered.await.unwrap_or_else(|_| Err(Missed::last(self.unknown(group, Unknown::Stopped))))
            }
            Question::Change(change) => self.change_here(group, change, until).await,
            Question::Detail => {
                let detail = self.detail_here(group).await.map_err(Missed::last)?;
                self.document(&detail).map_err(Missed::last)
            }
            Question::Hash(index) => self.hash_here(group, *index, until).await,
            Question::Verify => self.verify_here(group, until).await,
        }
    }

    /// Begins a write or a question for the read index. `done` runs on a thread of the host, so that a peer is answered without waking
    /// a thread of the doors; looking something up there could keep the host waiting for its disk.
    pub(super) fn begin(
        self: &Arc<Self>,
        group: GroupId,
        question: &Question,
        until: Instant,
        done: impl FnOnce(Result<Said, Missed>) + Send + 'static,
    ) {
        let within = match self.left(group, until) {
            Ok(within) => within,
            Err(missed) => return done(Err(missed)),
        };
        let (service, since) = (Arc::clone(self), Instant::now());
        match question {
            Question::Write { slot, command } => {
                self.host.propose(group, *slot, command.clone(), within, move |answer| {
                    done(service.unless_failed(group, answer).and_then(|answer| match answer {
                        Answer::Applied { position, result } => {
                            service.freshness.heard(group, since, position.index);
                            Ok(Said::Data(service.data(group, position.index, result)))
                        }
                        Answer::Moved { epoch } => {
                            Err(Missed::again(service.failure(NodeError::Moved { epoch }, group, None)))
                        }
                        other => Err(service.odd(group, &other)),
                    }));
                });
            }
            _ => self.host.read(group, ReadKind::IndexOnly, within, move |answer| {
                let index = service.read_index(group, answer);
                done(index.map(|index| Said::Data(service.data(group, index, Payload::new()))));
            }),
        }
    }

    /// A linearizable read with the leader's index: waits until it is applied here.
    pub(super) async fn read_here_from(
        self: &Arc<Self>,
        group: GroupId,
        question: &Question,
        index: Index,
        until: Instant,
    ) -> Result<Said, Missed> {
        let Question::Read { query, .. } = question else {
            let odd = NodeError::Internal("only reads are answered behind the leader".to_owned());
            return Err(Missed::last(self.failure(odd, group, None)));
        };
        // Mostly it was applied while the leader was asked.
        let said = self.look_up(group, query, index, until).await?;
        if let Said::Data(data) = &said
            && mraft_kv::query::applied_of(&data.answer).is_ok_and(|applied| applied >= index)
        {
            return Ok(said);
        }
        let index = self.confirmed(group, ReadKind::AppliedThrough(index), until).await?;
        self.look_up(group, query, index, until).await
    }

    /// What is here, and how old it may be.
    async fn stale(self: &Arc<Self>, group: GroupId, query: &[u8], until: Instant) -> Result<Said, Missed> {
        self.freshen(group).await;
        // Taken before the state is looked at: what is confirmed later, that state may not hold.
        let confirmed = self.freshness.of(group);
        let mut said = self.look_up(group, query, 0, until).await?;
        if let (Said::Data(data), Some(confirmed)) = (&mut said, confirmed) {
            let applied = mraft_kv::query::applied_of(&data.answer).ok();
            data.stale_ms = applied.and_then(|applied| confirmed.age_ms(applied, Instant::now()));
        }
        Ok(said)
    }

    pub(super) async fn confirmed(
        &self,
        group: GroupId,
        kind: ReadKind,
        until: Instant,
    ) -> Result<Index, Missed> {
        let (sender, answered) = oneshot::channel();
        let within = self.left(group, until)?;
        self.host.read(group, kind, within, move |answer| _ = sender.send(answer));
        self.read_index(group, self.answered(group, answered).await?)
    }

    fn read_index(&self, group: GroupId, answer: Answer) -> Result<Index, Missed> {
        match self.unless_failed(group, answer)? {
            Answer::ReadReady { index } => Ok(index),
            other => Err(self.odd(group, &other)),
        }
    }

    async fn look_up(
        &self,
        group: GroupId,
        query: &[u8],
        index: Index,
        until: Instant,
    ) -> Result<Said, Missed> {
        let unfit = |why| Missed::again(self.failure(NodeError::ReplicaUnfit(why), group, None));
        let Some(lookup) = self.host.lookup(group) else {
            return Err(unfit("the replica here is not running".to_owned()));
        };
        match self.lookups.ask(lookup, query, until).await {
            Ok(answer) => Ok(Said::Data(self.data(group, index, Payload::from(answer)))),
            Err(NoAnswer::Machine(error)) => Err(unfit(error.to_string())),
            Err(NoAnswer::Late) => Err(Missed::last(self.failure(NodeError::NotStarted, group, None))),
        }
    }

    fn data(&self, group: GroupId, index: Index, answer: Payload) -> Data {
        let leader = self.host.leader(group).and_then(|known| known.leader).map(|leader| leader.node());
        Data { served_by: self.node(), leader, index, stale_ms: None, answer }
    }

    pub(super) fn left(&self, group: GroupId, until: Instant) -> Result<Duration, Missed> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Missed::last(self.failure(NodeError::NotStarted, group, None)));
        }
        Ok(left)
    }

    /// The host's answer, or why there is none.
    pub(super) async fn answered(
        &self,
        group: GroupId,
        answered: oneshot::Receiver<Answer>,
    ) -> Result<Answer, Missed> {
        match answered.await {
            Ok(answer) => self.unless_failed(group, answer),
            Err(_) => Err(Missed::last(self.unknown(group, Unknown::Stopped))),
        }
    }

    fn unless_failed(&self, group: GroupId, answer: Answer) -> Result<Answer, Missed> {
        match answer {
            Answer::NotApplied(why) => Err(self.not_applied(group, why)),
            Answer::Unknown(why) => Err(Missed::last(self.unknown(group, why))),
            answer => Ok(answer),
        }
    }

    pub(super) fn odd(&self, group: GroupId, answer: &Answer) -> Missed {
        let odd = NodeError::Internal(format!("the host answered with {answer:?}"));
        Missed::last(self.failure(odd, group, None))
    }

    fn unknown(&self, group: GroupId, why: Unknown) -> Box<Failure> {
        self.failure(NodeError::Unknown(why.to_string()), group, None)
    }

    fn not_applied(&self, group: GroupId, why: NotApplied) -> Missed {
        let of = |error, leader| self.failure(error, group, leader);
        match why {
            NotApplied::NotLeader(leader) => {
                Missed::again(of(NodeError::NoLeader, leader.map(|leader| leader.node())))
            }
            NotApplied::Transferring(to) => Missed::again(of(NodeError::Transferring(to), Some(to.node()))),
            NotApplied::Busy(queue) => {
                let retry_after = RETRY_AFTER_BUSY;
                Missed::last(of(NodeError::Overloaded { queue: queue.to_owned(), retry_after }, None))
            }
            NotApplied::Deadline => Missed::last(of(NodeError::NotStarted, None)),
            NotApplied::Overwritten => Missed::again(of(NodeError::Superseded, None)),
            NotApplied::NoSuchGroup | NotApplied::Stopped => {
                Missed::again(of(NodeError::NoHolder { hops: 0 }, None))
            }
            NotApplied::Stopping => Missed::last(of(NodeError::Stopping, None)),
            NotApplied::Condemned(reason) => Missed::again(of(
                NodeError::ReplicaUnfit(format!("the replica is condemned: {reason}")),
                None,
            )),
            disputed @ NotApplied::Disputed(_) => {
                Missed::again(of(NodeError::ReplicaUnfit(disputed.to_string()), None))
            }
            NotApplied::TooLarge { bytes, max_bytes } => {
                let (bytes, bytes_max) = (bytes as u64, max_bytes as u64);
                Missed::last(of(NodeError::TooLarge { what: "the command", bytes, bytes_max }, None))
            }
            NotApplied::TransferFailed(to) => Missed::last(of(NodeError::TransferFailed(to), None)),
            NotApplied::Disk(why) if why.contains("full") => {
                Missed::last(of(NodeError::DiskFull(why.to_owned()), None))
            }
            NotApplied::Disk(why) => Missed::last(of(NodeError::DiskStalled(why.to_owned()), None)),
            NotApplied::Change(error) => self.change_refused(group, error),
            other => Missed::last(of(NodeError::Internal(other.to_string()), None)),
        }
    }

    fn change_refused(&self, group: GroupId, error: ChangeError) -> Missed {
        let of = |error, leader| self.failure(error, group, leader);
        match error {
            ChangeError::Impossible(refused) => Missed::last(of(NodeError::Change(refused), None)),
            ChangeError::NotReady => Missed::again(of(NodeError::NoLeader, None)),
            ChangeError::HandingOver(to) => Missed::again(of(NodeError::Transferring(to), Some(to.node()))),
            ChangeError::Refused(ProposeRefused::NotLeader(leader)) => {
                Missed::again(of(NodeError::NoLeader, leader.map(|leader| leader.node())))
            }
            ChangeError::Refused(ProposeRefused::Transferring(to)) => {
                Missed::again(of(NodeError::Transferring(to), Some(to.node())))
            }
            other => Missed::last(of(NodeError::Conflict(other.to_string()), None)),
        }
    }

    /// An error of the host itself.
    pub(super) fn host_failed(&self, group: GroupId, error: &HostError) -> Box<Failure> {
        let error = match error {
            HostError::NoSuchGroup(_) | HostError::GroupStopped(_) => NodeError::NoHolder { hops: 0 },
            HostError::Closed => NodeError::Stopping,
            other => NodeError::ReplicaUnfit(other.to_string()),
        };
        self.failure(error, group, None)
    }
}
