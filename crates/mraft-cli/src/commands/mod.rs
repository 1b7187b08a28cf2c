// SPDX-License-Identifier: Apache-2.0

//! One file per command. Each turns arguments into calls and answers into text; none decides.

mod bench;
mod client;
mod config;
mod conflict;
mod dev;
mod groups;
mod inspect;
mod kv;
mod node;
mod repair;

use std::io;

use crate::cli::{
    BenchCommand, Cli, Command, ConfigCommand, InspectCommand, KvCommand, NodeCommand, RepairCommand,
};
use crate::exit::{CommandError, Exit};
use crate::output::Format;

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<Exit, CommandError> {
    match cli.command {
        Command::Node(args) => match args.command {
            Some(NodeCommand::Remove { node, force, client }) => groups::remove_node(node, force, &client),
            Some(NodeCommand::ClearConflict { node, client }) => conflict::clear(node, &client),
            None => node::run(&args.run),
        },
        Command::Dev(args) => dev::run(&args),
        Command::Config(command) => config::run(&command),
        Command::Kv(command) => kv::run(command),
        Command::Status(client) => groups::status(&client),
        Command::Groups(client) => groups::list(&client),
        Command::Group(args) => groups::run(&args),
        Command::Inspect(command) => inspect::run(&command),
        Command::Repair(RepairCommand::AcceptLoss(args)) => repair::accept_loss(&args),
        Command::Bench(command) => bench::run(command),
    }
}

/// How the command's errors are to be written, too.
pub fn format(cli: &Cli) -> Format {
    let client = match &cli.command {
        Command::Node(args) => match &args.command {
            Some(NodeCommand::Remove { client, .. } | NodeCommand::ClearConflict { client, .. }) => client,
            None => return Format::Table,
        },
        Command::Status(client) | Command::Groups(client) => client,
        Command::Kv(
            KvCommand::Put { client, .. }
            | KvCommand::Get { client, .. }
            | KvCommand::Delete { client, .. }
            | KvCommand::Scan { client, .. },
        ) => client,
        Command::Group(args) => &args.client,
        Command::Inspect(InspectCommand::Log(args) | InspectCommand::Identity(args)) => {
            return args.output.format;
        }
        Command::Inspect(InspectCommand::State(args)) => return args.files.output.format,
        Command::Repair(RepairCommand::AcceptLoss(args)) => return args.output.format,
        Command::Config(ConfigCommand::Check { output, .. }) => return output.format,
        Command::Bench(BenchCommand::Host(args)) => return args.output.format,
        Command::Bench(BenchCommand::Disk(args)) => return args.output.format,
        Command::Bench(BenchCommand::Reopen(args)) => return args.output.format,
        Command::Bench(BenchCommand::Kv(args)) => &args.client,
        Command::Config(ConfigCommand::Default) | Command::Dev(_) => return Format::Table,
    };
    client.output.format
}

/// What a failed write to standard output means: nobody is reading any more.
fn printed(result: io::Result<()>) -> Result<Exit, CommandError> {
    match result {
        Ok(()) => Ok(Exit::Ok),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(error) => Err(CommandError::failed(format!("standard output cannot be written: {error}"))),
    }
}
