// SPDX-License-Identifier: Apache-2.0

//! `mraft inspect`: a stopped node's files, explained. Reads only.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft::GroupList;
use mraft::identity::Identity;
use mraft::meta::GroupMeta;
use mraft_disk::RealDisk;
use mraft_logstore::{InspectedReplica, Recovered, inspect};
use serde_json::{Value, json};

use super::printed;
use crate::cli::{InspectArgs, InspectCommand};
use crate::exit::{CommandError, Exit};
use crate::output::{Table, complain, fields, print};

pub(super) fn run(command: &InspectCommand) -> Result<Exit, CommandError> {
    let (InspectCommand::Identity(args) | InspectCommand::Log(args) | InspectCommand::State(args)) = command;
    let disk = RealDisk::new();
    // Held to the end: files that change while they are read explain nothing.
    let _locks: Vec<_> = [Some(&args.data_dir), args.wal_dir.as_ref()]
        .into_iter()
        .flatten()
        .map(|directory| mraft::files::lock_stopped(&disk, directory))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    match command {
        InspectCommand::Identity(args) => identity(args),
        InspectCommand::Log(args) => log(args),
        InspectCommand::State(args) => state(args),
    }
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::failed(error.to_string())
}

fn log_directory(args: &InspectArgs) -> PathBuf {
    args.wal_dir.as_ref().unwrap_or(&args.data_dir).join("log")
}

fn log(args: &InspectArgs) -> Result<Exit, CommandError> {
    read_identity(&args.data_dir)?;
    let directory = log_directory(args);
    let found = inspect(&RealDisk::new(), &directory)
        .map_err(|error| CommandError::failed(format!("{}: {error}", directory.display())))?;
    let cases: Vec<(String, u64)> =
        found.cases.iter().map(|(case, count)| (format!("{case:?}"), *count)).collect();
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
        "found": cases.iter().map(|(case, count)| json!({ "case": case, "count": count })).collect::<Vec<_>>(),
    });
    printed(print(args.output.format, &document, || {
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
        let damage: Vec<String> = cases.iter().map(|(case, count)| format!("{case} {count}")).collect();
        let summary = fields(&[
            ("directory", directory.display().to_string()),
            ("last batch", found.last_batch_seq.to_string()),
            ("durable", format!("up to batch {} by what is written here", found.durable_seq)),
            ("spare files", found.spare_files.len().to_string()),
            ("found", damage.join(", ")),
        ]);
        format!("{summary}\n{}\n{}", segments.render(), replicas.render())
    }))
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

fn state(args: &InspectArgs) -> Result<Exit, CommandError> {
    read_identity(&args.data_dir)?;
    let disk = RealDisk::new();
    let list = GroupList::read(&disk, &args.data_dir).map_err(failed)?;
    let directory = log_directory(args);
    let logs = inspect(&disk, &directory)
        .map_err(|error| CommandError::failed(format!("{}: {error}", directory.display())))?;
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
        let files = mraft::files::group_directory(&args.data_dir, record.group, record.replica);
        let stored = mirror.of(&files).map_err(|error| error.to_string()).and_then(|copy| match copy {
            Some(copy) => {
                mraft_kv::persisted(Arc::new(RealDisk::new()), &copy).map_err(|error| error.to_string())
            }
            None => Ok(None),
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
        let condition = match (&stored, log) {
            (Err(error), _) => error.clone(),
            (_, None) => "not in the log: its creation was cut short and is done again".to_owned(),
            (Ok(None), Some(log)) => {
                format!("{}; nothing persisted yet: all of it is in the log", life(&log.recovered))
            }
            (Ok(Some(_)), Some(log)) => life(&log.recovered),
        };
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
            "log": log.map(replica_document),
            "members": members,
            "state": condition,
        }));
    }
    let removed: Vec<String> =
        list.gone.iter().map(|(group, (_, replica))| format!("{replica} of group {group}")).collect();
    let document = json!({ "groups": documents, "removed": removed });
    printed(print(args.output.format, &document, || {
        let mut text = table.render();
        if !removed.is_empty() {
            text.push_str(&format!("\nremoved from here and never started again: {}\n", removed.join(", ")));
        }
        text
    }))
}

/// Links to files, so that opening a tree (which cleans up after a crash) changes nothing of the node's own.
struct Mirror(PathBuf);

impl Mirror {
    fn new() -> io::Result<Mirror> {
        let directory = std::env::temp_dir().join(format!("mraft-inspect-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        Ok(Mirror(directory))
    }

    /// A copy of a directory: directories are made, files are linked. `None` when there is none.
    fn of(&self, original: &Path) -> io::Result<Option<PathBuf>> {
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

fn identity(args: &InspectArgs) -> Result<Exit, CommandError> {
    let data = read_identity(&args.data_dir)?;
    let wal = args.wal_dir.as_deref().map(read_identity).transpose()?;
    let document = json!({ "data_dir": document_of(&data), "wal_dir": wal.as_ref().map(document_of) });
    printed(print(args.output.format, &document, || {
        let mut text = text_of(&args.data_dir, &data);
        if let (Some(directory), Some(wal)) = (&args.wal_dir, &wal) {
            text.push('\n');
            text.push_str(&text_of(directory, wal));
            if wal.instance != data.instance {
                text.push_str("\nthe two directories do not belong together: their instances differ\n");
            }
        }
        text
    }))
}

fn read_identity(directory: &Path) -> Result<Identity, CommandError> {
    let read = mraft::identity::read(&RealDisk::new(), directory);
    read.map_err(|error| CommandError::failed(error.to_string()))?.ok_or_else(|| {
        CommandError::not_found(format!(
            "{} is no node's directory: it holds no identity",
            directory.display()
        ))
    })
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
