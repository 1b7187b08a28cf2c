// SPDX-License-Identifier: Apache-2.0

//! Groups that lose the logs of a majority, and operators who accept that (rule D9): in some seeds, when everything else is over.
//!
//! Several nodes die at once, and of some of them the log is gone then, or bits of it are flipped. A group that has a majority left lacks
//! nothing. One that has none waits until operators have accepted what its members lost, node by node, as `docs/operate/repair.md` says
//! but in any order; what accepts it dies at any of its disk operations, too. Then the group goes on from where [`crate::check::losses`]
//! allows, and in the end all its members are whole again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use mraft::GroupRecord;
use mraft::files::group_directory;
use mraft::loss::{Chance, Loss, NodeLoss, Salts, Scope, StoppedNode, Survey};
use mraft_disk::{Disk, MemoryDisk};
use mraft_types::{GroupId, Index, Membership, Term};

use super::probe::Owed;
use super::{Action, ELECTION_US, WRITTEN_ELECTIONS, World};
use crate::check::{Broken, losses};
use crate::mix::{Fault, Own};
use crate::node::{BATCH_BYTES_MAX, DATA};
use crate::random::{Concern, Random};
use crate::stores::Stores;

/// Of a thousand runs so many lose their majorities twice.
const TWICE_PER_MILLE: u64 = 400;
/// Clients ask for so long before anything is lost.
const BEFORE_US: (u64, u64) = (100_000, 1_500_000);
/// A group that lacks something is waited for, …
const WAIT_US: u64 = 50_000;
/// … for so many election timeouts.
const WHOLE_ELECTIONS: u64 = 30;
/// An operator looks at a node within this time.
const LOOKED_AT_US: (u64, u64) = (20_000, 800_000);
/// Accepting a loss takes about so many disk operations.
const REPAIR_OPERATIONS: u64 = 150;
/// Bits of a log that are flipped at most.
const FLIPS_MAX: u64 = 6;
/// Operations after everything was accepted.
const OPERATIONS_AFTER: u64 = 150;

/// What operators do about nodes that lost their logs, or something of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Repairs {
    /// By node, the groups whose loss is to be accepted, and the last entry that their replicas were shown to have left.
    open: BTreeMap<usize, BTreeMap<GroupId, Index>>,
}

impl Repairs {
    /// Whether some node waits for one.
    pub(super) fn are_under_way(&self) -> bool {
        !self.open.is_empty()
    }
}

impl World {
    /// How often groups lose their majority: what was accepted once must be remembered when it is lost again.
    pub(super) fn strikes(&mut self) -> usize {
        let has_any = self.mix.faults.contains_key(&Fault::QuorumLost);
        let has_two = has_any && self.random.operators.per_mille(TWICE_PER_MILLE);
        usize::from(has_any) + usize::from(has_two)
    }

    /// Lets clients ask once more, and then something happen.
    pub(super) fn plan_strike(&mut self) {
        // All members are equal: whatever they may have lost is there again.
        self.atlas = Default::default();
        self.ask_for(OPERATIONS_AFTER);
        let wait = self.random.disks.between(BEFORE_US.0, BEFORE_US.1);
        self.after(wait, Action::Strike);
    }

    fn ask_for(&mut self, operations: u64) {
        self.quiet_us = None;
        self.calm_us = self.now_us;
        self.mix.least.operations = self.report.operations + operations;
        for client in 0..self.clients.len() {
            if self.clients[client].asked.is_none() {
                self.clients[client].series += 1;
                self.after(1, Action::Client(client));
            }
        }
    }

    /// Several nodes die at once, and the logs of some are lost.
    pub(super) fn strike(&mut self) -> Result<(), Broken> {
        let groups = || (0..self.mix.groups).map(GroupId);
        if !groups().all(|group| self.is_whole(group)) {
            self.after(WAIT_US, Action::Strike);
            let is_late = self.now_us > self.calm_us + WHOLE_ELECTIONS * ELECTION_US;
            return if is_late { self.check_back() } else { Ok(()) };
        }
        let memberships: BTreeMap<GroupId, Membership> =
            groups().filter_map(|group| Some((group, self.serving_leader(group)?.1))).collect();
        let mut struck: Vec<usize> = (0..self.nodes.len()).filter(|at| self.is_of_use(*at)).collect();
        for _ in self.random.disks.between(1, struck.len() as u64)..struck.len() as u64 {
            struck.swap_remove(self.random.disks.index(struck.len()));
        }
        let with_power = self.random.disks.per_mille(700);
        for node in 0..self.nodes.len() {
            if struck.contains(&node) || self.random.disks.per_mille(200) {
                self.crash(node, with_power);
            }
        }
        let mut found = BTreeMap::new();
        for node in struck {
            if let Some(survey) = self.hurt_log(node, &memberships) {
                found.insert(node, survey);
            }
        }
        *self.report.faults.entry(Fault::QuorumLost).or_default() += u64::from(!found.is_empty());
        self.plan_repairs(&memberships, &found);
        self.end_repairs();
        Ok(())
    }

    fn is_of_use(&self, node: usize) -> bool {
        let own = &self.nodes[node];
        own.process.is_some() && !own.is_gone && !own.is_hurt && own.outcast.is_none()
    }

    /// The log of a node that does not run is gone, or bits of it are flipped. What an operator is shown then; `None`, and nothing happened,
    /// where that leaves nothing to go on with, lacks nothing, or lacks a change of members: who must be there then is another question.
    fn hurt_log(&mut self, node: usize, memberships: &BTreeMap<GroupId, Membership>) -> Option<Survey> {
        let disk = self.nodes[node].disk.fork();
        let log = Path::new(DATA).join("log");
        if self.random.disks.per_mille(600) {
            disk.remove_dir_all(&log).ok()?;
            disk.sync_dir(Path::new(DATA)).ok()?;
        } else {
            let segments: Vec<_> = disk
                .files()
                .into_iter()
                .filter(|(path, _)| path.starts_with(&log) && path.extension().is_some())
                .collect();
            for _ in 0..self.random.disks.between(1, FLIPS_MAX) {
                let (path, _) = segments.get(self.random.disks.index(segments.len().max(1)))?;
                self.flip_written(&disk, node, path);
            }
        }
        let chance = self.random.disks.draw();
        let survey = stopped(&disk, chance).ok()?.survey(&mut look(&disk, &self.mix.own[node]), 0);
        let is_fit = |loss: &Loss| {
            let members_since = memberships.get(&loss.group).map_or(0, |members| members.change_index);
            loss.decision.as_ref().is_ok_and(|restart| restart.last >= members_since)
        };
        if survey.losses.is_empty() || !survey.losses.iter().all(is_fit) {
            return None;
        }
        self.say(|| format!("node {} has lost {:?}", self.ids[node], survey.losses));
        self.nodes[node].disk = disk;
        self.nodes[node].is_hurt = true;
        self.nodes[node].is_put_away = true;
        self.nodes[node].copy = None;
        Some(survey)
    }

    fn flip_written(&mut self, disk: &MemoryDisk, node: usize, path: &Path) {
        let kept = self.nodes[node].last_write(path).unwrap_or_default();
        let bytes = disk.peek(path).unwrap_or_default();
        let written: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at] != 0 && !kept.contains(&(*at as u64))).collect();
        if !written.is_empty() {
            let at = written[self.random.disks.index(written.len())];
            disk.flip_bit(path, at as u64 * 8 + self.random.disks.between(0, 7));
        }
    }

    /// Which losses are accepted: those of groups without a majority, and no more of them than one needs, if that is how somebody does it.
    fn plan_repairs(&mut self, memberships: &BTreeMap<GroupId, Membership>, found: &BTreeMap<usize, Survey>) {
        let losses = |group: GroupId| {
            found.iter().filter_map(move |(node, survey)| {
                survey.losses.iter().find(|loss| loss.group == group).map(|loss| (*node, loss))
            })
        };
        for (group, membership) in memberships {
            let mut lost: Vec<(usize, &Loss)> = losses(*group).collect();
            for (_, loss) in &lost {
                self.atlas.is_lost(*group, loss.replica);
            }
            let voters: BTreeSet<_> = membership.counting().collect();
            lost.retain(|(_, loss)| voters.contains(&loss.replica));
            let whole = voters.len() - lost.len();
            let needed = (voters.len() / 2 + 1).saturating_sub(whole);
            if needed == 0 {
                continue;
            }
            self.report.quorums_lost += 1;
            self.say(|| format!("group {group} has lost its majority"));
            while lost.len() > needed && self.random.operators.per_mille(300) {
                lost.swap_remove(self.random.operators.index(lost.len()));
            }
            for (node, loss) in lost {
                let last = loss.decision.as_ref().map_or(0, |restart| restart.last);
                self.repairs.open.entry(node).or_default().insert(*group, last);
            }
        }
        for (node, survey) in found {
            if self.repairs.open.contains_key(node) {
                let wait = self.random.operators.between(LOOKED_AT_US.0, LOOKED_AT_US.1);
                self.after(wait, Action::Repair(*node));
                continue;
            }
            // Its groups have a majority without it.
            let own = &mut self.nodes[*node];
            own.is_put_away = false;
            own.is_hurt = survey.node == Some(NodeLoss::LogGone);
            if own.is_hurt {
                own.outcast = Some("its log is gone".to_owned());
            }
        }
    }

    /// An operator accepts what a node lost, and starts it.
    pub(super) fn repair(&mut self, node: usize) -> Result<(), Broken> {
        let Some(shown) = self.repairs.open.get(&node).cloned() else { return Ok(()) };
        if self.random.operators.per_mille(500) {
            let operations = self.random.operators.between(0, REPAIR_OPERATIONS);
            self.nodes[node].arm(operations);
        }
        let accepted = shown.iter().try_for_each(|(group, last)| self.accept(node, *group, *last));
        if self.dies(node) {
            let wait = self.random.operators.between(LOOKED_AT_US.0, LOOKED_AT_US.1);
            self.after(wait, Action::Repair(node));
            return Ok(());
        }
        let broken = |how: String| Broken::new(losses::AS_SHOWN, how);
        accepted.map_err(|how| broken(format!("node {}: {how}", self.ids[node])))?;
        self.repairs.open.remove(&node);
        let own = &mut self.nodes[node];
        (own.is_put_away, own.is_hurt, own.crash_at) = (false, false, None);
        own.change_faults(|faults| faults.all_from_operation = None);
        self.start(node)?;
        for (group, last) in shown {
            let raft = self.raft(node, group);
            let is_as_shown =
                raft.is_some_and(|raft| raft.condemned().is_none() && raft.last_index() >= last);
            if !is_as_shown {
                let how =
                    format!("group {group} on node {} has no replica with {last} entries", self.ids[node]);
                return Err(broken(how));
            }
        }
        self.end_repairs();
        Ok(())
    }

    /// Accepts what one replica lost, if that is not done yet.
    fn accept(&mut self, node: usize, group: GroupId, shown: Index) -> Result<(), String> {
        let terms = self.nodes.iter().filter_map(|node| node.process.as_ref()?.core.engine().raft(group));
        let above: Term = terms.map(|raft| raft.term()).max().unwrap_or_default();
        let (disk, chance) = (self.nodes[node].disk.clone(), self.random.operators.draw());
        let own = self.mix.own[node];
        let stopped = stopped(&disk, chance).map_err(|error| error.to_string())?;
        let survey = stopped.survey(&mut look(&disk, &own), above);
        let Some(loss) = survey.losses.into_iter().find(|loss| loss.group == group) else { return Ok(()) };
        let restart = loss.decision.map_err(|why| format!("group {group} was to be accepted: {why}"))?;
        if restart.last != shown {
            return Err(format!("group {group} was shown to have {shown} entries, and now {}", restart.last));
        }
        self.say(|| {
            format!("an operator accepts on node {} what group {group} lost: {restart:?}", self.ids[node])
        });
        self.checks.losses.accepted(group, restart.hard_state.term);
        self.atlas.is_accepted(group, loss.replica);
        let mut open = stored(Stores::Memory(disk.clone()), own);
        let accepted = stopped.accept(Scope::Group(group), &mut look(&disk, &own), &mut open, above);
        accepted.map(|_| ()).map_err(|error| error.to_string())
    }

    /// When everything was accepted that is to be, all groups must come back.
    fn end_repairs(&mut self) {
        if self.repairs.are_under_way() {
            return;
        }
        self.ask_for(OPERATIONS_AFTER);
        self.owed = Owed::since(self.now_us, self.mix.groups);
        self.after(WRITTEN_ELECTIONS * ELECTION_US, Action::WrittenByNow);
        self.plan_quiet();
    }
}

/// A node's directory, for whoever repairs it.
fn stopped(disk: &MemoryDisk, chance: u64) -> Result<StoppedNode, mraft::HostError> {
    let salts = move || {
        let mut random = Random::new(chance, Concern::Disks);
        Ok(Box::new(move || random.draw()) as Salts)
    };
    let chance = Chance { nonce: chance, salts: Box::new(salts) };
    let stopped = StoppedNode::open(Arc::new(disk.clone()), Path::new(DATA), None)?;
    Ok(stopped.simulated(BATCH_BYTES_MAX, chance))
}

/// What a store has persisted, read from a copy.
fn look(
    disk: &MemoryDisk,
    own: &Own,
) -> impl FnMut(&GroupRecord, Option<u64>) -> Result<Option<Vec<u8>>, String> {
    let copy = disk.fork();
    copy.kill();
    copy.set_faults(Default::default());
    stored(Stores::Memory(copy), *own)
}

/// What a store has persisted, opened for good.
fn stored(
    stores: Stores,
    own: Own,
) -> impl FnMut(&GroupRecord, Option<u64>) -> Result<Option<Vec<u8>>, String> {
    move |record, install| {
        let directory = group_directory(stores.data(), record.group, record.replica);
        stores.machine(&own, directory).open(install).map_err(|error| error.to_string())
    }
}
