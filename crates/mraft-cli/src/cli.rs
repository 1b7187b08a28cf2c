// SPDX-License-Identifier: Apache-2.0

//! The command line: every command, argument and help text.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use mraft_api::NodeName;
use mraft_types::{GroupId, NodeId};

use crate::exit::Exit;
use crate::output::Format;

/// Many Raft groups in one process, a replicated key-value service on top of them.
#[derive(Debug, Parser)]
#[command(name = "mraft", version, propagate_version = true, after_help = Exit::TABLE, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node, or remove one for good
    Node(NodeArgs),
    /// Run a cluster of real nodes on this machine, to try things out
    Dev(DevArgs),
    /// Check a configuration file, or print every setting
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Read and write keys
    #[command(subcommand)]
    Kv(KvCommand),
    /// Show what a node says about itself
    Status(ClientArgs),
    /// List the groups as a node sees them
    Groups(ClientArgs),
    /// Show one group, or change its members
    Group(GroupArgs),
    /// Read a stopped node's files and explain them
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// Bring a stopped node's condemned replicas back, at a price
    #[command(subcommand)]
    Repair(RepairCommand),
    /// Measure this machine with mraft
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// `mraft node`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_precedence_over_arg = true,
    after_help = "Examples:\n  mraft node --config node.toml\n  mraft node 13891 13890 --config start.json --data-dir /var/lib/mraft\n  \
                  mraft node --data-dir /var/lib/mraft        (a restart needs nothing else)\n  mraft node remove 10.0.0.3:13890\n  \
                  mraft node clear-conflict 10.0.0.3:13890 --url http://10.0.0.1:13891 --url http://10.0.0.2:13891"
)]
pub struct NodeArgs {
    /// A command about a node instead of running one.
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    /// The node to run.
    #[command(flatten)]
    pub run: NodeRunArgs,
}

/// A node to run.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeRunArgs {
    /// Port for clients [default: RAFT_PORT + 1]
    #[arg(value_name = "HTTP_PORT")]
    pub http_port: Option<u16>,
    /// Port for other nodes [default: 13890]
    #[arg(value_name = "RAFT_PORT")]
    pub raft_port: Option<u16>,
    /// Configuration file: .toml, or the earlier system's .json
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the node keeps its data (setting data_dir)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or per part
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// One setting, as in election_rtt=60 or initial_members.0.7=10.0.0.1:13890; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Drain and stop when standard input is closed
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// Commands about a node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Write a node's tombstone: its id never comes back
    #[command(
        after_help = "Remove the node's replicas first: `mraft group ID remove NODE`.\n\nExample:\n  mraft node remove 10.0.0.3:13890"
    )]
    Remove {
        /// The node: its id, or its ip:raft_port
        #[arg(value_name = "NODE")]
        node: NodeId,
        /// Also for a node that nobody ever saw; a mistyped id is then used up for good
        #[arg(long)]
        force: bool,
        /// How to reach the cluster.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Let a node whose directory was wiped or restored come back: forget which directory it was
    #[command(
        long_about = "Let a node whose directory was wiped or restored come back: forget which directory it was.\n\nNodes refuse whoever \
                      comes under a known node id with another directory, and an old copy of the known one (`mraft status` shows both \
                      instances). If the earlier directory is gone for good, remove the node's replicas from all groups (`mraft group ID \
                      remove NODE`), then say this to every other node: each has a table of its own, tells the others of it when they \
                      connect, and refuses the command while one of its groups lists the node. Every --url is asked, not only the first \
                      that answers. Saying it again is harmless.",
        after_help = "Example:\n  mraft node clear-conflict 10.0.0.3:13890 --url http://10.0.0.1:13891 --url http://10.0.0.2:13891"
    )]
    ClearConflict {
        /// The node: its id, or its ip:raft_port
        #[arg(value_name = "NODE")]
        node: NodeId,
        /// Whom to tell.
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// `mraft dev`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  mraft dev\n  mraft dev --nodes 5 --groups 48 --dir ./cluster\n  mraft dev --respawn-after never"
)]
pub struct DevArgs {
    /// How many nodes: 1, 3 or 5 [default: 3]
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(["1", "3", "5"]))]
    pub nodes: Option<String>,
    /// How many groups, with ids 0 to N-1 [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=16_384))]
    pub groups: Option<u64>,
    /// How many nodes hold each group [default: 3, or all if there are fewer]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..=5))]
    pub replicas: Option<u64>,
    /// Raft port of the first node; each further one is 10 higher, HTTP is always the Raft port + 1 [default: 13890]
    #[arg(long, value_name = "PORT")]
    pub base_port: Option<u16>,
    /// Keep the data here; without it a temporary directory is removed at the end
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// When a node that died is started again: a duration such as 5s, or never
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_respawn)]
    pub respawn_after: Respawn,
}

/// When a node that died is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Respawn {
    /// After this time.
    After(Duration),
    /// Not at all.
    Never,
}

/// `mraft config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file together with the environment, without starting or writing anything
    #[command(after_help = "Example:\n  mraft config check node.toml")]
    Check {
        /// The file: .toml, or the earlier system's .json
        file: PathBuf,
        /// For whom to write.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print every setting with its default, unit and a line of why: a valid TOML file
    #[command(after_help = "Example:\n  mraft config default > node.toml")]
    Default,
}

/// For whom to write.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct OutputArgs {
    /// Tables for people or JSON for programs
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub format: Format,
}

/// The variable that says for every command how to reach the cluster. It is no setting of a node.
pub const URL_VARIABLE: &str = "MRAFT_URL";

/// How to reach a cluster and how to answer.
#[derive(Clone, Debug, Args)]
pub struct ClientArgs {
    /// HTTP address of a node; may be repeated, any node serves everything. In the environment with commas between them
    #[arg(
        long = "url",
        global = true,
        value_name = "URL",
        env = URL_VARIABLE,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:13891"
    )]
    pub urls: Vec<String>,
    /// Authority that the nodes' HTTPS certificates are trusted by (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Time for the whole command, as in 500ms or 10s
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// For whom to write.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `mraft kv`.
#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Write a key
    #[command(
        after_help = "Examples:\n  mraft kv put greeting hello\n  mraft kv put image --file picture.png\n  \
                            mraft kv put lock me --if-absent"
    )]
    Put {
        /// The key, any bytes
        key: OsString,
        /// The value; without it and without --file it is read from standard input
        value: Option<OsString>,
        /// Take the value from a file
        #[arg(long, value_name = "FILE", conflicts_with = "value")]
        file: Option<PathBuf>,
        /// What must hold.
        #[command(flatten)]
        condition: ConditionArgs,
        /// How to reach the cluster.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Read a key; the value goes to standard output as it is
    #[command(after_help = "Examples:\n  mraft kv get greeting\n  mraft kv get greeting --stale -o json")]
    Get {
        /// The key, any bytes
        key: OsString,
        /// Take what the asked node has applied, without asking a leader
        #[arg(long)]
        stale: bool,
        /// How to reach the cluster.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete a key
    #[command(after_help = "Examples:\n  mraft kv delete greeting\n  mraft kv delete lock --if-revision 7")]
    Delete {
        /// The key, any bytes
        key: OsString,
        /// What must hold.
        #[command(flatten)]
        condition: ConditionArgs,
        /// How to reach the cluster.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List keys in bytewise order, over all groups
    #[command(after_help = "Examples:\n  mraft kv scan\n  mraft kv scan user: --limit 1000 -o json")]
    Scan {
        /// Only keys that begin with this
        #[arg(default_value = "")]
        prefix: OsString,
        /// How many keys at most
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Only keys after this one
        #[arg(long, value_name = "KEY")]
        after: Option<OsString>,
        /// Take what the asked nodes have applied, without asking leaders
        #[arg(long)]
        stale: bool,
        /// How to reach the cluster.
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// What must hold of a key for a write to happen; at most one.
#[derive(Clone, Copy, Debug, Default, Args)]
#[group(multiple = false)]
pub struct ConditionArgs {
    /// Only if the key has this revision
    #[arg(long, value_name = "REVISION")]
    pub if_revision: Option<u64>,
    /// Only if the key exists
    #[arg(long)]
    pub if_exists: bool,
    /// Only if the key does not exist
    #[arg(long)]
    pub if_absent: bool,
}

/// `mraft group`.
#[derive(Debug, Args)]
#[command(
    after_help = "A node that is gone for good is replaced so, group by group:\n  mraft group 3 add-learner 10.0.0.4:13890\n  \
                  mraft group 3 promote 10.0.0.4:13890\n  mraft group 3 remove 10.0.0.3:13890\nand then: mraft node remove 10.0.0.3:13890"
)]
pub struct GroupArgs {
    /// The group
    #[arg(value_name = "ID", value_parser = parse_group)]
    pub group: GroupId,
    /// What to do with it; without it the group is shown.
    #[command(subcommand)]
    pub command: Option<GroupCommand>,
    /// How to reach the cluster.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Changes of a group's members. Each waits until the change is committed.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Add a node as a learner; answers its replica id
    AddLearner {
        /// NODE@RAFT_ADDRESS, or just ip:raft_port, which is both
        #[arg(value_name = "NODE@RAFT_ADDRESS", value_parser = parse_new_member)]
        member: NewMember,
        /// What must hold.
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Make a learner a voter
    Promote(MemberArgs),
    /// Remove a member
    Remove(MemberArgs),
    /// Hand leadership to a member
    Transfer(MemberArgs),
    /// Compare the replicas' content
    Verify,
}

/// A member that a change is about.
#[derive(Debug, Args)]
pub struct MemberArgs {
    /// The node: its id, its ip:raft_port, or NODE#generation
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// What must hold.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// What must hold of a membership for a change to happen.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ChangeArgs {
    /// Only if this is still the index of the last membership change
    #[arg(long, value_name = "INDEX")]
    pub if_change_index: Option<u64>,
}

/// A node with the address that is committed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Which node.
    pub node: NodeName,
    /// Where it listens for peers.
    pub raft_address: String,
}

/// `mraft inspect`.
#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// Segments of the log, ranges per group, damage
    Log(InspectArgs),
    /// Each group's hard state, applied index and members
    State(InspectStateArgs),
    /// Whose directory it is
    Identity(InspectArgs),
}

/// Whose files to read.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The node must be stopped. Nothing is written. Ends with 1 when something is damaged or missing."
)]
pub struct InspectArgs {
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Its WAL directory, if it is another one than the data directory remembers
    #[arg(long, value_name = "DIR")]
    pub wal_dir: Option<PathBuf>,
    /// For whom to write.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Whose files to read, and how much of them.
#[derive(Clone, Debug, Args)]
pub struct InspectStateArgs {
    /// Whose.
    #[command(flatten)]
    pub files: InspectArgs,
    /// Read all that is persisted, so that damage anywhere in it is found; takes as long as reading the files
    #[arg(long)]
    pub content: bool,
}

/// `mraft repair`.
#[derive(Debug, Subcommand)]
pub enum RepairCommand {
    /// Accept what a condemned replica lost: it takes part again with what is left. Shows what that is, and changes nothing without --yes
    #[command(
        after_help = "For a group that has no majority left. As long as it has one, remove the replica and add the node again: that loses \
                      nothing.\nThe node must be stopped. Start the members that are whole first, then the repaired ones one by one.\n\nExamples:\n  mraft repair accept-loss --data-dir /var/lib/mraft --group 3\n  \
                      mraft repair accept-loss --data-dir /var/lib/mraft --all --yes"
    )]
    AcceptLoss(AcceptLossArgs),
}

/// `mraft repair accept-loss`.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("whose").required(true).args(["group", "all"])))]
pub struct AcceptLossArgs {
    /// The node's data directory
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Its WAL directory, if it is another one than the data directory remembers
    #[arg(long, value_name = "DIR")]
    pub wal_dir: Option<PathBuf>,
    /// The group whose replica lost something
    #[arg(long, value_name = "ID", value_parser = parse_group)]
    pub group: Option<GroupId>,
    /// Every condemned replica of the node
    #[arg(long)]
    pub all: bool,
    /// A term that another member of the group is known to be in; the replica comes back above it
    #[arg(long, value_name = "TERM", default_value_t = 0)]
    pub above_term: u64,
    /// Do it
    #[arg(long)]
    pub yes: bool,
    /// For whom to write.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `mraft bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Three hosts in this process, over loopback, with fsync
    #[command(
        after_help = "Example:\n  mraft bench host --groups 48 --outstanding 1000 --value-bytes 16 --op write -o json"
    )]
    Host(BenchHostArgs),
    /// A running cluster, over HTTP
    #[command(
        after_help = "Example:\n  mraft bench kv --url http://127.0.0.1:13891 --connections 64 --op write"
    )]
    Kv(BenchKvArgs),
    /// A node with many groups, stopped and opened again
    #[command(after_help = "Example:\n  mraft bench reopen --groups 1000")]
    Reopen(BenchReopenArgs),
    /// What the disk and loopback do by themselves
    #[command(after_help = "Example:\n  mraft bench disk --dir /var/lib/mraft")]
    Disk(BenchDiskArgs),
}

/// What a benchmark does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// Writes.
    Write,
    /// Linearizable reads.
    Read,
}

/// What a benchmark applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateMachine {
    /// A counter in memory.
    Memory,
    /// The key-value store on disk.
    Kv,
}

/// `mraft bench host`.
#[derive(Clone, Debug, Args)]
pub struct BenchHostArgs {
    /// How many groups
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    pub groups: u64,
    /// Requests under way per group
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub outstanding: u64,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub value_bytes: u64,
    /// What to do
    #[arg(long, value_enum, default_value = "write")]
    pub op: Operation,
    /// What to apply to
    #[arg(long, value_enum, default_value = "memory")]
    pub state_machine: StateMachine,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// How long the same goes on before, unmeasured: until the log has its files it fills new ones, beside the writes
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub warmup_seconds: u64,
    /// Threads of clients
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_024))]
    pub client_threads: u64,
    /// Where the hosts keep their data; without it a temporary directory is removed at the end
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Raft port of the first host; the others are 10 apart
    #[arg(long, value_name = "PORT", default_value_t = 24_890, value_parser = clap::value_parser!(u16).range(1..=65_500))]
    pub base_port: u16,
    /// For whom to write.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `mraft bench kv`.
#[derive(Clone, Debug, Args)]
pub struct BenchKvArgs {
    /// Connections, each with one request under way
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub connections: u64,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub value_bytes: u64,
    /// How many different keys
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub keys: u64,
    /// What to do
    #[arg(long, value_enum, default_value = "write")]
    pub op: Operation,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// How to reach the cluster.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `mraft bench reopen`.
#[derive(Clone, Debug, Args)]
pub struct BenchReopenArgs {
    /// How many groups
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=16_384))]
    pub groups: u64,
    /// Entries that each group's log holds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    pub entries: u64,
    /// Where the hosts keep their data; without it a temporary directory is removed at the end
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Raft port of the first host; the others are 10 apart
    #[arg(long, value_name = "PORT", default_value_t = 24_890, value_parser = clap::value_parser!(u16).range(1..=65_500))]
    pub base_port: u16,
    /// Open the directory once and say how it went: what the command runs in processes of their own
    #[arg(long, hide = true)]
    pub measure_only: bool,
    /// For whom to write.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `mraft bench disk`.
#[derive(Clone, Debug, Args)]
pub struct BenchDiskArgs {
    /// A directory on the disk to measure; without it the temporary directory's
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// For whom to write.
    #[command(flatten)]
    pub output: OutputArgs,
}

fn parse_group(text: &str) -> Result<GroupId, String> {
    text.parse().map(GroupId).map_err(|_| "a group id is a number".to_owned())
}

fn parse_new_member(text: &str) -> Result<NewMember, String> {
    let (node, raft_address) = text.split_once('@').unwrap_or((text, text));
    if !text.contains('@') && !text.contains(':') {
        return Err(format!("where does node {text} listen? write {text}@host:raft_port"));
    }
    let node: NodeName = node.parse().map_err(|error| format!("{error}"))?;
    raft_address
        .parse::<crate::config::address::HostPort>()
        .map(|address| NewMember { node, raft_address: address.to_string() })
        .map_err(|_| format!("`{raft_address}` is not a Raft address (host:port)"))
}

fn parse_respawn(text: &str) -> Result<Respawn, String> {
    if text == "never" {
        return Ok(Respawn::Never);
    }
    parse_duration(text).map(Respawn::After).map_err(|error| format!("{error}, or `never`"))
}

/// A duration with its unit: on a command line a bare number would leave people guessing.
fn parse_duration(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
        .ok_or_else(|| "a duration has a unit, as in 500ms, 5s or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself() {
        fn walk(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no help");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{path} {} has no help", argument.get_id());
            }
            for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
                walk(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        let mut command = Cli::command();
        command.build();
        walk(&command, "mraft");
    }

    #[test]
    fn s1_a_node_takes_its_ports_by_position() {
        let Ok(Command::Node(args)) = parse("mraft node 8001 8000 --set a=b --set c.d=e") else {
            panic!("a node")
        };
        assert_eq!((args.run.http_port, args.run.raft_port), (Some(8001), Some(8000)));
        assert_eq!(args.run.settings, ["a=b", "c.d=e"]);
        assert!(args.command.is_none());
        assert!(matches!(parse("mraft node"), Ok(Command::Node(NodeArgs { command: None, .. }))));
        assert!(parse("mraft node 70000").is_err());
    }

    #[test]
    fn a_node_is_removed_by_id_or_address() {
        for line in ["mraft node remove 184549392225826", "mraft node remove 10.0.0.3:13890 --url http://a:1"]
        {
            let Ok(Command::Node(NodeArgs { command: Some(NodeCommand::Remove { .. }), .. })) = parse(line)
            else {
                panic!("{line}")
            };
        }
        assert!(parse("mraft node remove").is_err());
        assert!(parse("mraft node 8001 remove 7").is_err());
    }

    #[test]
    fn m6_a_conflict_is_cleared_on_every_node_that_is_named() {
        let line = "mraft node clear-conflict 10.0.0.3:13890 --url http://a:1 --url http://b:1 -o json";
        let Ok(Command::Node(NodeArgs { command: Some(NodeCommand::ClearConflict { client, .. }), .. })) =
            parse(line)
        else {
            panic!("{line}")
        };
        assert_eq!(client.urls, ["http://a:1", "http://b:1"]);
        assert!(parse("mraft node clear-conflict").is_err());
        assert!(parse("mraft node clear-conflict 7 --force").is_err());
    }

    #[test]
    fn a_new_member_has_an_address() {
        let member =
            |text: &str| parse_new_member(text).map(|member| (member.node.to_string(), member.raft_address));
        assert_eq!(member("7@host-4:13890"), Ok(("7".to_owned(), "host-4:13890".to_owned())));
        let id = "10.0.0.4:13890".parse::<NodeId>().expect("a node").to_string();
        assert_eq!(member("10.0.0.4:13890"), Ok((id.clone(), "10.0.0.4:13890".to_owned())));
        assert_eq!(member("10.0.0.4:13890@10.0.0.4:13890").map(|(node, _)| node), Ok(id));
        for text in ["7", "7@", "7@host", "@a:1", "host:1"] {
            assert!(member(text).is_err(), "{text}");
        }
    }

    #[test]
    fn conditions_exclude_each_other() {
        assert!(parse("mraft kv put a b --if-absent --if-revision 7").is_err());
        assert!(parse("mraft kv put a b --if-revision 7").is_ok());
    }

    #[test]
    fn a_group_is_shown_or_changed() {
        assert!(matches!(parse("mraft group 3"), Ok(Command::Group(GroupArgs { command: None, .. }))));
        for change in [
            "add-learner 10.0.0.4:13890",
            "promote 7#2",
            "remove 7 --if-change-index 9",
            "transfer 7",
            "verify",
        ] {
            let line = format!("mraft group 3 {change} -o json");
            assert!(matches!(parse(&line), Ok(Command::Group(GroupArgs { command: Some(_), .. }))), "{line}");
        }
        assert!(parse("mraft group x").is_err());
        for line in ["mraft group --url http://b:1 3 verify", "mraft group 3 verify --url http://b:1"] {
            let Ok(Command::Group(args)) = parse(line) else { panic!("{line}") };
            assert_eq!(args.client.urls, ["http://b:1"], "{line}");
        }
    }

    #[test]
    fn dev_takes_what_the_manual_says() {
        let Ok(Command::Dev(args)) = parse("mraft dev --nodes 5 --respawn-after never") else {
            panic!("dev")
        };
        assert_eq!((args.nodes.as_deref(), args.respawn_after), (Some("5"), Respawn::Never));
        assert!(parse("mraft dev --nodes 2").is_err());
        assert!(parse("mraft dev --groups 0").is_err());
        assert!(parse("mraft dev --respawn-after 5").is_err());
    }
}
