// SPDX-License-Identifier: Apache-2.0

//! `mraft inspect`: a stopped node's files, explained. Reads only. Ends with 1 when something is damaged or missing. What to do about a
//! condemned replica is said once, at the end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft::identity::Identity;
use mraft::meta::GroupMeta;
use mraft::{GroupList, HostError};
use mraft_disk::RealDisk;
use mraft_logstore::{Case, InspectedReplica, Inspection, Recovered, inspect, is_log};
use serde_json::{Value, json};

use super::printed;
use crate::cli::{InspectArgs, InspectCommand, InspectStateArgs};
use crate::exit::{CommandError, Exit};
use crate::output::{Table, complain, fields, print};

pub(super) fn run(command: &InspectCommand) -> Result<Exit, CommandError> {
    let args = match command {
        InspectCommand::Identity(args) | InspectCommand::Log(args) => args,
        InspectCommand::State(args) => &args.files,
    };
    let places = Places::of(args)?;
    let disk = RealDisk::new();
    // Held to the end: files that change while they are read explain nothing.
    let mut directories = vec![&places.data];
    directories.extend(Some(&places.wal).filter(|wal| **wal != places.data));
    let _locks: Vec<_> = directories
        .into_iter()
        .map(|directory| mraft::files::lock_stopped(&disk, directory))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    match command {
        InspectCommand::Identity(args) => identity(args, &places),
        InspectCommand::Log(args) => log(args, &places),
        InspectCommand::State(args) => state(args, &places),
    }
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::failed(error.to_string())
}

/// Where the node's files are, and what its data directory says of itself.
struct Places {
    data: PathBuf,
    wal: PathBuf,
    /// A damaged one does not hide the log.
    identity: Result<Identity, HostError>,
}

impl Places {
    fn of(args: &InspectArgs) -> Result<Places, CommandError> {
        let data = args.data_dir.clone();
        let identity = match mraft::identity::read(&RealDisk::new(), &data) {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => return Err(no_identity(&data)),
            Err(error) => Err(error),
        };
        let remembered =
            identity.as_ref().map_or_else(|_| data.clone(), |found| found.log.wal_directory(&data));
        let wal = args.wal_dir.clone().unwrap_or(remembered);
        Ok(Places { data, wal, identity })
    }

    fn log(&self) -> PathBuf {
        self.wal.join("log")
    }

    /// Reads the log, which must be there.
    fn read_log(&self) -> Result<Inspection, CommandError> {
        let (disk, directory) = (RealDisk::new(), self.log());
        let told = |error: String| CommandError::failed(format!("{}: {error}", directory.display()));
        let never_began = self.identity.as_ref().is_ok_and(|identity| !identity.created);
        if !never_began && !is_log(&disk, &directory).map_err(|error| told(error.to_string()))? {
            return Err(told(
                "holds no log, but the node has run: its disk is not mounted, the log is lost (`mraft repair accept-loss` shows what is \
                 left), or it has a directory of its own (--wal-dir)"
                    .to_owned(),
            ));
        }
        inspect(&disk, &directory).map_err(|error| told(error.to_string()))
    }
}

fn no_identity(directory: &Path) -> CommandError {
    CommandError::not_found(format!("{} is no node's directory: it holds no identity", directory.display()))
}

/// What is shown is shown, and then the command ends by whether it is whole.
fn ended(result: io::Result<()>, is_damaged: bool) -> Result<Exit, CommandError> {
    printed(result).map(|exit| if is_damaged { Exit::Failed } else { exit })
}

fn log(args: &InspectArgs, places: &Places) -> Result<Exit, CommandError> {
    let directory = places.log();
    let found = places.read_log()?;
    let trouble = places.identity.as_ref().err().map(ToString::to_string);
    let is_log_damaged = found.cases.keys().any(|case| case.is_damage())
        || found.replicas.iter().any(|replica| replica.recovered.condemned.is_some());
    let is_damaged = trouble.is_some() || is_log_damaged;
    let document = json!({
        "directory": directory,
        "last_batch": found.last_batch_seq,
        "durable_batch": found.durable_seq,
        "segments": found.segments.iter().map(|segment| json!({
            "file": segment.path,
            "use": segment.use_number,
            "bytes": segment.bytes,
            "needed": segment.is_needed,
            "first_batch": segment.first_batch_seq,
            "batches": segment.batches,
            "batch_bytes": segment.batch_bytes,
        })).collect::<Vec<_>>(),
        "spare_files": found.spare_files,
        "replicas": found.replicas.iter().map(replica_document).collect::<Vec<_>>(),
        "damaged": is_damaged,
        "identity": trouble,
        "found": found.cases.iter().map(|(case, count)| json!({
            "case": format!("{case:?}"), "count": count, "damage": case.is_damage(),
            "what": what(*case), "done": case.decision(), "why": case.reason(),
        })).collect::<Vec<_>>(),
    });
    let result = print(args.output.format, &document, || {
        let mut segments = Table::new(&["FILE", "#USE", "#BATCHES", "#FROM", "#BYTES", "NEEDED"]);
        for segment in &found.segments {
            segments.row([
                segment.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                segment.use_number.to_string(),
                segment.batches.to_string(),
                segment.first_batch_seq.to_string(),
                segment.batch_bytes.to_string(),
                if segment.is_needed { "yes" } else { "no: free" }.to_owned(),
            ]);
        }
        let mut replicas =
            Table::new(&["#GROUP", "REPLICA", "#FROM", "#TO", "#TERM", "VOTE", "#COMMIT", "STATE"]);
        for replica in &found.replicas {
            let recovered = &replica.recovered;
            let hard = replica.hard_state();
            replicas.row([
                recovered.key.group.to_string(),
                recovered.key.replica.to_string(),
                (recovered.start.position.index + 1).to_string(),
                recovered.last_index.to_string(),
                hard.term.to_string(),
                hard.vote.map_or_else(|| "none".to_owned(), |vote| vote.to_string()),
                hard.commit.to_string(),
                life(recovered),
            ]);
        }
        let mut summary = vec![
            ("directory", directory.display().to_string()),
            ("last batch", found.last_batch_seq.to_string()),
            ("durable", format!("up to batch {} by what is written here", found.durable_seq)),
            ("spare files", found.spare_files.len().to_string()),
            ("damage", if is_log_damaged { "yes, see below" } else { "none found" }.to_owned()),
        ];
        summary.extend(trouble.map(|trouble| ("identity", trouble)));
        let cases: Vec<String> = found.cases.iter().map(|(case, count)| sentence(*case, *count)).collect();
        let is_condemned = found.replicas.iter().any(|replica| replica.recovered.condemned.is_some());
        let advice = match found.cases.contains_key(&Case::NoSegments) {
            true => WITHOUT_SEGMENTS,
            false if is_condemned => WAY_BACK,
            false => "",
        };
        let (segments, replicas) = (segments.render(), replicas.render());
        format!("{}\n{segments}\n{replicas}\n{}{advice}", fields(&summary), cases.concat())
    });
    ended(result, is_damaged)
}

/// What to do about a condemned replica.
const WAY_BACK: &str = "\na condemned replica takes no part in its group: remove it and add the node again (`mraft group ID remove`, \
                        `add-learner`); if the group has no majority left, see `mraft repair accept-loss --help`\n";

/// What to do about a log of which only the list is left.
const WITHOUT_SEGMENTS: &str = "\nthe node does not start like this: put the segments back (is a disk not mounted?); if they are lost, remove \
                                the node from its groups and start it with another node id and an empty directory; for groups that have no \
                                majority left, see `mraft repair accept-loss --help`\n";

/// One line per case that recovery met.
fn sentence(case: Case, count: u64) -> String {
    let mark = if case.is_damage() { "DAMAGE: " } else { "" };
    format!("{mark}{count} x {}: {} ({})\n", what(case), case.decision(), case.reason())
}

/// What recovery met, in words.
fn what(case: Case) -> &'static str {
    match case {
        Case::Whole => "a whole batch",
        Case::Sealed => "a seal at the end",
        Case::Unsealed => "a last batch without a seal behind it",
        Case::TornTail => "a torn end",
        Case::DamagedRecords => "a batch that was durable, with records that are wrong now",
        Case::DamagedHeader => "a batch that was durable, without its header",
        Case::MissingBatches => "a segment that ends before what was durable in it",
        Case::MissingSegment => "a segment that is needed and not there",
        Case::NoSegments => "a list of replicas whose batches are all gone",
        Case::StaleSegment => "a segment that nobody needs any more",
        Case::BlankSegment => "a file that was never used",
        Case::HeaderlessSegment => "a file without a whole header",
        Case::LostHeader => "a file of durable batches that lost its header",
        Case::HalfHeader => "a segment with one good copy of its header",
        Case::HalfPrepared => "a file that is too short",
        Case::Repeated => "a record that was read before",
        Case::Garbage => "a record of a replica that is not here any more",
        Case::RecycledFront => "a replica whose first records are gone with a segment that was used again",
        Case::IncompleteCheckpoint => "a checkpoint without its last part",
        Case::Gap => "a gap in a replica's records",
        Case::Continued => "a replica that a lost batch did not touch",
        Case::Covered => "a replica whose gap was covered later",
        Case::Condemned => "a replica that lost records",
        Case::MarkedCondemned => "a replica that was condemned before",
        Case::UnknownVersion => "a header of another version",
        Case::MissingList => "segments without a list of replicas",
        Case::DamagedList => "a list of replicas that is not whole",
        Case::DuplicateUse => "two files with the same use",
        Case::OtherLength => "segments of another length",
    }
}

fn life(recovered: &Recovered) -> String {
    match (&recovered.condemned, &recovered.install) {
        (Some(reason), _) => format!("condemned: {reason}"),
        (None, Some((start, _))) => {
            format!("a snapshot up to {} was being installed", start.position.index)
        }
        (None, None) => "whole".to_owned(),
    }
}

fn replica_document(replica: &InspectedReplica) -> Value {
    let recovered = &replica.recovered;
    let hard = replica.hard_state();
    json!({
        "group": recovered.key.group.0,
        "uid": recovered.key.uid.to_string(),
        "replica": recovered.key.replica.to_string(),
        "first": recovered.start.position.index + 1,
        "last": recovered.last_index,
        "term": hard.term,
        "vote": hard.vote.map(|vote| vote.to_string()),
        "commit": hard.commit,
        "condemned": recovered.condemned.map(|reason| reason.to_string()),
        "installing": recovered.install.as_ref().map(|(start, _)| start.position.index),
    })
}

fn state(args: &InspectStateArgs, places: &Places) -> Result<Exit, CommandError> {
    let disk = RealDisk::new();
    let list = GroupList::read(&disk, &places.data).map_err(failed)?;
    let logs = places.read_log()?;
    let trouble = places.identity.as_ref().err().map(ToString::to_string);
    let mut is_damaged = trouble.is_some();
    let mut has_condemned = false;
    let mirror = Mirror::new().map_err(failed)?;
    let mut documents = Vec::new();
    let mut table = Table::new(&[
        "#GROUP",
        "REPLICA",
        "#PERSISTED",
        "#REVISION",
        "#LOG TO",
        "#BYTES",
        "MEMBERS",
        "STATE",
    ]);
    for record in list.records.values() {
        let log = logs.replicas.iter().find(|replica| {
            let key = replica.recovered.key;
            key.group == record.group && key.replica == record.replica
        });
        let files = mraft::files::group_directory(&places.data, record.group, record.replica);
        let mut content = None;
        let stored = mirror.of(&files).map_err(|error| error.to_string()).and_then(|copy| {
            let Some(copy) = copy else { return Ok(None) };
            let broken = |error: mraft::machines::MachineError| error.to_string();
            let stored = mraft_kv::persisted(Arc::new(RealDisk::new()), &copy).map_err(broken)?;
            if let Some(point) = stored.as_ref().filter(|_| args.content) {
                complain(&format!("reading group {}: {} bytes", record.group, point.disk_bytes));
                content = mraft_kv::content(Arc::new(RealDisk::new()), &copy).map_err(broken)?;
            }
            Ok(stored)
        });
        let meta = match &stored {
            Ok(Some(stored)) => GroupMeta::decode(&stored.host_meta).ok(),
            _ => record.genesis.clone(),
        };
        let members: Vec<String> = meta
            .iter()
            .flat_map(|meta| &meta.membership.members)
            .map(|(id, member)| format!("{id} ({})", member.role))
            .collect();
        let applied = meta.as_ref().map_or(0, |meta| meta.applied.index);
        let has_lost_state = log.is_some_and(|log| {
            let Recovered { start, install, condemned, .. } = &log.recovered;
            stored.is_ok() && condemned.is_none() && install.is_none() && start.position.index > applied
        });
        let condition = match (&stored, log) {
            (Err(error), _) => error.clone(),
            (_, Some(log)) if has_lost_state => format!(
                "its state up to {} is gone: the next start condemns it",
                log.recovered.start.position.index
            ),
            (_, _) if list.lost.contains(&record.group) => "condemned: its log is lost".to_owned(),
            (_, None) if list.logged.contains(&record.group) => {
                "not in the log, which knew it: the next start condemns it".to_owned()
            }
            (_, None) => "not in the log: its creation was cut short and is done again".to_owned(),
            (Ok(None), Some(log)) => {
                format!("{}; nothing persisted yet: all of it is in the log", life(&log.recovered))
            }
            (Ok(Some(_)), Some(log)) => life(&log.recovered),
        };
        let is_lost = log.is_none() && list.logged.contains(&record.group);
        let is_condemned = log.is_some_and(|log| log.recovered.condemned.is_some());
        has_condemned |= has_lost_state || is_lost || is_condemned || list.lost.contains(&record.group);
        is_damaged |= stored.is_err() || has_condemned;
        let point = stored.ok().flatten();
        let last = log.map(|log| log.recovered.last_index);
        table.row([
            record.group.to_string(),
            record.replica.to_string(),
            point.as_ref().map(|point| point.applied.to_string()).unwrap_or_default(),
            point.as_ref().map(|point| point.revision.to_string()).unwrap_or_default(),
            last.map(|last| last.to_string()).unwrap_or_default(),
            point.as_ref().map(|point| point.disk_bytes.to_string()).unwrap_or_default(),
            members.join(" "),
            condition.clone(),
        ]);
        documents.push(json!({
            "group": record.group.0,
            "uid": record.uid.to_string(),
            "replica": record.replica.to_string(),
            "machine": record.machine,
            "persisted": point.as_ref().map(|point| point.applied),
            "revision": point.as_ref().map(|point| point.revision),
            "disk_bytes": point.as_ref().map(|point| point.disk_bytes),
            "records": content.map(|content| content.records),
            "content_hash": content.map(|content| format!("{:032x}", content.hash)),
            "log": log.map(replica_document),
            "members": members,
            "state": condition,
        }));
    }
    let removed: Vec<String> =
        list.gone.iter().map(|(group, (_, replica))| format!("{replica} of group {group}")).collect();
    let document =
        json!({ "groups": documents, "removed": removed, "damaged": is_damaged, "identity": trouble });
    let result = print(args.files.output.format, &document, || {
        let mut text = table.render();
        if let Some(trouble) = &trouble {
            text.push_str(&format!("\nidentity: {trouble}\n"));
        }
        if has_condemned {
            text.push_str(WAY_BACK);
        }
        if !removed.is_empty() {
            text.push_str(&format!("\nremoved from here and never started again: {}\n", removed.join(", ")));
        }
        text
    });
    ended(result, is_damaged)
}

/// Links to files, so that opening a tree (which cleans up after a crash) changes nothing of the node's own.
pub(super) struct Mirror(PathBuf);

impl Mirror {
    pub(super) fn new() -> io::Result<Mirror> {
        let directory = std::env::temp_dir().join(format!("mraft-inspect-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        Ok(Mirror(directory))
    }

    /// A copy of a directory: directories are made, files are linked. `None` when there is none.
    pub(super) fn of(&self, original: &Path) -> io::Result<Option<PathBuf>> {
        if !original.is_dir() {
            return Ok(None);
        }
        let copy = self.0.join(original.file_name().unwrap_or_default());
        mirror(&original.canonicalize()?, &copy)?;
        Ok(Some(copy))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            complain(&format!("{} is left behind: {error}", self.0.display()));
        }
    }
}

fn mirror(original: &Path, copy: &Path) -> io::Result<()> {
    std::fs::create_dir(copy)?;
    for entry in std::fs::read_dir(original)? {
        let entry = entry?;
        let to = copy.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => mirror(&entry.path(), &to)?,
            false => std::os::unix::fs::symlink(entry.path(), to)?,
        }
    }
    Ok(())
}

fn identity(args: &InspectArgs, places: &Places) -> Result<Exit, CommandError> {
    let data = places.identity.as_ref().map_err(failed)?;
    let is_apart = places.wal != places.data;
    let wal = if is_apart { Some(read_identity(&places.wal)?) } else { None };
    let fits = wal.as_ref().is_none_or(|wal| wal.instance == data.instance);
    let document = json!({
        "data_dir": document_of(data),
        "wal_directory": places.wal,
        "wal_dir": wal.as_ref().map(document_of),
        "damaged": !fits,
    });
    let result = print(args.output.format, &document, || {
        let mut text = text_of(&places.data, data);
        if let Some(wal) = &wal {
            text.push('\n');
            text.push_str(&text_of(&places.wal, wal));
        }
        if !fits {
            text.push_str("\nthe two directories do not belong together: their instances differ\n");
        }
        text
    });
    ended(result, !fits)
}

fn read_identity(directory: &Path) -> Result<Identity, CommandError> {
    let read = mraft::identity::read(&RealDisk::new(), directory).map_err(failed)?;
    read.ok_or_else(|| no_identity(directory))
}

fn document_of(identity: &Identity) -> Value {
    json!({
        "deployment": identity.deployment.0,
        "node": identity.node.get(),
        "raft_address": identity.raft_address,
        "instance": identity.instance.to_string(),
        "starts": identity.boot_counter,
        "last_start_nonce": format!("{:016x}", identity.boot_nonce),
        "format_level": identity.format_level,
        "created": identity.created,
    })
}

fn text_of(directory: &Path, identity: &Identity) -> String {
    fields(&[
        ("directory", directory.display().to_string()),
        ("deployment", identity.deployment.to_string()),
        ("node", format!("{} ({})", identity.node, identity.node.to_address())),
        ("raft address", identity.raft_address.clone()),
        ("instance", identity.instance.to_string()),
        ("starts", identity.boot_counter.to_string()),
        ("format level", identity.format_level.to_string()),
        (
            "complete",
            if identity.created { "yes" } else { "no: the first start did not get through" }.to_owned(),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_an_identity_is_named_and_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = read_identity(directory.path()).expect_err("no identity");
        assert_eq!(error.exit, Exit::NotFound);
        assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
    }
}
