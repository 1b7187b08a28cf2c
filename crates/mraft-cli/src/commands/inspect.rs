// SPDX-License-Identifier: Apache-2.0

//! `mraft inspect`: a stopped node's files, explained. Reads only.

use std::path::Path;

use mraft::identity::Identity;
use mraft_disk::RealDisk;
use serde_json::{Value, json};

use super::printed;
use crate::cli::{InspectArgs, InspectCommand};
use crate::exit::{CommandError, Exit};
use crate::output::{fields, print};

pub(super) fn run(command: &InspectCommand) -> Result<Exit, CommandError> {
    match command {
        InspectCommand::Identity(args) => identity(args),
        InspectCommand::Log(args) => later(args, "the log"),
        InspectCommand::State(args) => later(args, "the groups' state"),
    }
}

fn later(args: &InspectArgs, what: &str) -> Result<Exit, CommandError> {
    read_identity(&args.data_dir)?;
    Err(CommandError::failed(format!("{}: this build cannot read {what} yet", args.data_dir.display())))
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
