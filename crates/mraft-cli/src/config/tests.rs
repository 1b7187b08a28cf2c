// SPDX-License-Identifier: Apache-2.0

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

/// A directory with files, and a start in it.
struct Start {
    directory: TempDir,
    inputs: Inputs,
    identity: Option<KeptIdentity>,
}

impl Start {
    fn with(file: &str, text: &str) -> Start {
        let mut start = Start::empty();
        let path = start.directory.path().join(file);
        fs::write(&path, text).expect("written");
        start.inputs.file = Some(path);
        start
    }

    fn empty() -> Start {
        let directory = tempfile::tempdir().expect("a directory");
        Start { directory, inputs: Inputs::default(), identity: None }
    }

    fn env(mut self, name: &str, value: &str) -> Start {
        self.inputs.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Start {
        let written = format!("--set {key}={value}");
        self.inputs.flags.push(FlagValue { key: key.to_owned(), value: value.to_owned(), written });
        self
    }

    fn identity(mut self, node: u64, raft_address: &str) -> Start {
        self.identity = Some(KeptIdentity {
            deployment_id: DeploymentId(3),
            node_id: NodeId::new(node).expect("a node id"),
            raft_address: raft_address.to_owned(),
            wal_dir: None,
            settings: Vec::new(),
        });
        self
    }

    /// What the directory remembers beside that.
    fn kept(mut self, settings: &[(&'static str, &str)]) -> Start {
        let identity = self.identity.as_mut().expect("an identity first");
        identity.settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self
    }

    fn load(&self) -> Result<NodeConfig, ConfigError> {
        load(&self.inputs, |_| Ok(self.identity.clone()))
    }

    fn config(&self) -> NodeConfig {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The refusal as text, with the test's own directory taken out.
    fn refusal(&self) -> String {
        let error = self.load().expect_err("a refusal").to_string();
        error.replace(&format!("{}/", self.directory.path().display()), "")
    }

    fn files(&self) -> usize {
        fs::read_dir(self.directory.path()).expect("readable").count()
    }
}

fn toml(text: &str) -> Start {
    Start::with("node.toml", text)
}

fn json(text: &str) -> Start {
    Start::with("node.json", text)
}

/// What a start must say when it refuses: every part must occur.
fn refused(start: &Start, parts: &[&str]) {
    let (files, text) = (start.files(), start.refusal());
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert_eq!(start.files(), files, "a refused start writes nothing");
}

/// 10.0.0.1:13890, 10.0.0.2:13890 and 10.0.0.3:13890.
const ONE: u64 = (0x0a00_0001 << 16) | 13890;
const TWO: u64 = (0x0a00_0002 << 16) | 13890;
const THREE: u64 = (0x0a00_0003 << 16) | 13890;

fn seed_document() -> String {
    let members = format!(r#"{{"{ONE}":"10.0.0.1:13890","{TWO}":"10.0.0.2:13890"}}"#);
    format!(
        r#"{{"raftDir":"/data/raft","logDir":"/data/log","nodeId":{ONE},
            "join":{{"0":{{"{ONE}":false,"{TWO}":false}},"2":{{"{ONE}":true}}}},
            "initial_members":{{"0":{members},"1":{members},"2":{{"{TWO}":"10.0.0.2:13890","{THREE}":"10.0.0.3:13890"}}}},
            "ip":"10.0.0.1","raft_port":13890,"http_port":14000}}"#
    )
}

#[test]
fn s2_the_seeds_document_is_accepted_key_for_key() {
    let config = json(&seed_document()).config();
    assert_eq!(config.data_dir, PathBuf::from("/data/raft"));
    assert_eq!(config.wal_dir, None);
    assert_eq!(config.observability.log_dir, Some(PathBuf::from("/data/log")));
    assert_eq!(config.node_id.get(), ONE);
    assert_eq!(config.peers.raft_address.to_string(), "10.0.0.1:13890");
    assert_eq!(config.http.listen_address.to_string(), "10.0.0.1:14000");
    let here: Vec<Here> = config.groups.values().map(|group| group.here).collect();
    assert_eq!(here, [Here::Original, Here::Original, Here::Joiner]);
    assert_eq!(config.topology, TopologySource::Document);
    assert_eq!(config.groups.values().map(|group| group.slots.len()).sum::<usize>(), 16_384);
}

#[test]
fn s2_what_the_seeds_programs_write_for_unset_fields_means_not_configured() {
    let config = json(
        r#"{"raftDir":"d","logDir":"","nodeId":0,"join":null,"initial_members":null,"ip":"10.0.0.1","raft_port":0,"http_port":0}"#,
    )
    .config();
    assert_eq!(config.node_id.get(), ONE);
    assert_eq!(config.http.listen_address.to_string(), "10.0.0.1:13891");
    assert_eq!(config.observability.log_dir, None);
    assert!(config.groups.is_empty());
}

#[test]
fn s2_legacy_keys_are_reported_as_ignored() {
    let config = json(r#"{"raftDir":"d","native":true,"raftPeers":["a"]}"#).config();
    assert_eq!(config.notices.len(), 2);
    assert!(config.notices[0].contains("`native`") && config.notices[0].contains("ignored"));
}

#[test]
fn defaults_are_those_of_the_manual() {
    let start = toml("");
    let config = load(&Inputs { memory_bytes: Some(8 << 30), ..start.inputs }, |_| Ok(None)).expect("valid");
    assert_eq!(config.raft.tick, Duration::from_millis(20));
    assert_eq!((config.raft.election_ticks, config.raft.heartbeat_ticks), (60, 6));
    assert_eq!(config.raft.unapplied_bytes_max, Some(256 << 20));
    assert_eq!(config.peers.send_queue_bytes_max, Some(128 << 20));
    assert_eq!(config.peers.receive_queue_bytes_max, None);
    assert_eq!(config.peers.snapshot_send_bytes_per_second_max, Some(256 << 20));
    assert_eq!(config.peers.snapshot_receive_bytes_per_second_max, None);
    assert_eq!(config.storage.snapshot_entries, Some(2_500_000));
    assert_eq!(config.storage.compaction_overhead_entries, 250_000);
    assert_eq!(config.storage.log_segment_bytes, 64 << 20);
    assert_eq!(config.memory_ceiling_bytes, 4 << 30);
    assert_eq!(config.shutdown_grace, Duration::from_secs(30));
    assert_eq!(config.peers.raft_address.to_string(), "127.0.0.1:13890");
    assert_eq!(config.http.listen_address.to_string(), "127.0.0.1:13891");
    assert_eq!(config.node_id.to_address().to_string(), "127.0.0.1:13890");
    assert!(config.plain_doors().is_empty());
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "election_rtt = 40";
    assert_eq!(toml("").config().raft.election_ticks, 60);
    assert_eq!(toml(file).config().raft.election_ticks, 40);
    assert_eq!(toml(file).env("MRAFT_ELECTION_RTT", "50").config().raft.election_ticks, 50);
    let config = toml(file).env("MRAFT_ELECTION_RTT", "50").flag("election_rtt", "70").config();
    assert_eq!(config.raft.election_ticks, 70);
    assert_eq!(config.source_of("election_rtt").to_string(), "flag --set election_rtt=70");
    assert_eq!(config.source_of("heartbeat_rtt"), &Source::Default);
}

#[test]
fn one_member_of_a_table_can_be_overridden_from_the_environment() {
    let start = toml("raft_port = 1000\ninitial_members.0.7 = '127.0.0.1:1000'\nnode_id = 7")
        .env("MRAFT_INITIAL_MEMBERS__0__8", "127.0.0.1:2000")
        .env("MRAFT_JOIN__0__8", "true")
        .env("HOME", "/somewhere");
    let config = start.config();
    let group = &config.groups[&mraft_types::GroupId(0)];
    assert_eq!(group.originals.len(), 1);
    assert_eq!(group.joined.values().flatten().collect::<Vec<_>>(), ["127.0.0.1:2000"]);
}

#[test]
fn sizes_and_durations_may_carry_units() {
    let config =
        toml("log_segment_bytes = '128MiB'\nshutdown_grace_ms = '5s'\nmax_send_queue_size = 67108864")
            .env("MRAFT_MAX_IN_MEM_LOG_SIZE", "0")
            .flag("memory_ceiling_bytes", "1 GiB")
            .config();
    assert_eq!(config.storage.log_segment_bytes, 128 << 20);
    assert_eq!(config.shutdown_grace, Duration::from_secs(5));
    assert_eq!(config.peers.send_queue_bytes_max, Some(64 << 20));
    assert_eq!(config.raft.unapplied_bytes_max, None);
    assert_eq!(config.memory_ceiling_bytes, 1 << 30);
}

#[test]
fn s14_s15_the_options_are_known_by_their_earlier_names() {
    let config = toml(
        "DeploymentID = 9\nRTTMillisecond = 200\nElectionRTT = 100\nHeartbeatRTT = 10\nWALDir = 'w'\n\
         ListenAddress = '0.0.0.0:13890'\nMaxSendQueueSize = 134217728\nEnableMetrics = false\nIsWitness = false\n\
         EntryCompressionType = 'none'\nSnapshotEntries = 0\nDisableAutoCompactions = true\nCheckQuorum = false",
    )
    .config();
    assert_eq!(config.deployment_id, DeploymentId(9));
    assert_eq!(config.raft.tick, Duration::from_millis(200));
    assert_eq!(config.wal_dir, Some(PathBuf::from("w")));
    assert_eq!(config.peers.listen_address.to_string(), "0.0.0.0:13890");
    assert_eq!(config.storage.snapshot_entries, None);
    assert!(!config.observability.metrics && !config.storage.auto_compactions && !config.raft.check_quorum);
}

#[test]
fn s14_a_tick_below_one_millisecond_is_one() {
    let config = toml("rtt_ms = 0").config();
    assert_eq!(config.raft.tick, Duration::from_millis(1));
    assert!(config.notices[0].contains("rtt_ms"));
}

#[test]
fn what_is_wrong_is_refused_with_field_and_fix() {
    let members = |text: &str| format!("node_id = 7\nip = '10.0.0.1'\n{text}");
    let table: Vec<(Start, Vec<&str>)> = vec![
        // Names.
        (
            toml("electon_rtt = 1"),
            vec!["unknown key `electon_rtt`", "node.toml", "did you mean `election_rtt`?"],
        ),
        (toml("zzzzzzzzzzzzzz = 1"), vec!["`zzzzzzzzzzzzzz`", "mraft config default"]),
        (json(r#"{"RaftDir":"x"}"#), vec!["unknown key `RaftDir`", "did you mean `raftDir`?"]),
        (json(r#"{"election_rtt":1}"#), vec!["unknown key `election_rtt`", ".toml"]),
        (
            toml("").env("MRAFT_RAFT_PROT", "1"),
            vec!["environment MRAFT_RAFT_PROT", "did you mean `raft_port`?"],
        ),
        (toml("").flag("ip.x", "1"), vec!["unknown key `ip.x`", "nothing below it"]),
        (toml("").flag("join", "1"), vec!["unknown key `join`", "MRAFT_JOIN__0__7"]),
        // Files.
        (Start::with("node.yaml", ""), vec!["node.yaml", ".json", ".toml"]),
        (json("{"), vec!["node.json", "not valid JSON"]),
        (json("[]"), vec!["node.json", "a list"]),
        (json(r#"{"ip":"a","ip":"b"}"#), vec!["`ip` is given twice"]),
        (toml("ip = "), vec!["node.toml", "not valid TOML"]),
        // Types and ranges.
        (toml("rtt_ms = 'fast'"), vec!["`rtt_ms` = \"fast\" (file node.toml)", "\"5s\""]),
        (toml("election_rtt = '60'"), vec!["`election_rtt` = \"60\"", "a whole number"]),
        (toml("check_quorum = 1"), vec!["`check_quorum` = 1", "true or false"]),
        (toml("election_rtt = -1"), vec!["`election_rtt` = -1", "from 1"]),
        (toml("data_dir = 7"), vec!["`data_dir` = 7", "a path"]),
        (toml("ip = '10.0.0.1:13890'"), vec!["`ip`", "without a port"]),
        (toml("log_segment_bytes = '64MB'"), vec!["`log_segment_bytes` = \"64MB\"", "MiB"]),
        (toml("log_segment_bytes = '1MiB'"), vec!["`log_segment_bytes`", "from 64MiB"]),
        (toml("max_value_bytes = '1GiB'"), vec!["`max_value_bytes`", "from 1B to"]),
        (toml("initial_members = 7"), vec!["`initial_members` = 7", "a table of groups"]),
        (toml("initial_members.0 = 'x'"), vec!["`initial_members.0`", "a table of groups"]),
        (toml("initial_members.x.7 = '10.0.0.1:1'"), vec!["`initial_members.x.7`", "a group id"]),
        (toml("initial_members.0.x = '10.0.0.1:1'"), vec!["`initial_members.0.x`", "a node id"]),
        (
            toml("initial_members.18446744073709551615.7 = '10.0.0.1:1'"),
            vec!["a group id", "18446744073709551614"],
        ),
        (toml("initial_members.0.7 = '10.0.0.1'"), vec!["`initial_members.0.7`", "\"host:port\""]),
        (toml("initial_members.0.7 = '0.0.0.0:1'"), vec!["`initial_members.0.7`", "can dial"]),
        (toml("initial_members.0.7 = 'nhid-7'"), vec!["`initial_members.0.7`", "later release"]),
        (toml("[initial_members.0]"), vec!["`initial_members.0` is missing", "no member"]),
        (toml("join.0.7 = 'true'"), vec!["`join.0.7` = \"true\"", "true or false"]),
        (json(r#"{"raft_port":"13890"}"#), vec!["`raft_port` = \"13890\"", "a whole number from 1 to 65534"]),
        (json(r#"{"nodeId":281474976710656}"#), vec!["`nodeId` = 281474976710656", "281474976710655"]),
        (json(r#"{"raft_port":65535}"#), vec!["`raft_port` = 65535", "65534"]),
        // Combinations.
        (
            toml("election_rtt = 10\nheartbeat_rtt = 5"),
            vec!["`election_rtt` = 10", "`heartbeat_rtt` = 5", "more than 10"],
        ),
        (
            toml("http_port = 13890"),
            vec!["`raft_address` = 127.0.0.1:13890 (default)", "`http_port` = 13890", "a port each"],
        ),
        (
            toml("http_port = 1\nhttp_listen = '127.0.0.1:2'"),
            vec!["`http_listen`", "`http_port` = 1", "once"],
        ),
        (
            toml("raft_address = '10.0.0.1:5'\nraft_port = 6"),
            vec!["`raft_address`", "`raft_port` = 6", "once"],
        ),
        (toml("raft_address = '10.0.0.1:65535'"), vec!["`raft_address`", "below 65535"]),
        (toml("ip = '0.0.0.0'"), vec!["`ip`", "listen_address"]),
        (
            toml("mutual_tls = true\nca_file = 'a'\ncert_file = 'b'"),
            vec!["`mutual_tls` = true", "`key_file` = none", "PEM"],
        ),
        (
            toml("http_tls_cert_file = 'a'"),
            vec!["`http_tls_cert_file`", "`http_tls_key_file` = none", "both"],
        ),
        (toml("slow_disk_ms = 50\nstalled_disk_ms = 50"), vec!["`slow_disk_ms`", "`stalled_disk_ms`"]),
        (toml("data_dir = 'd'\nlog_dir = 'd/logs'"), vec!["`log_dir` = d/logs", "`data_dir` = d", "outside"]),
        (toml("data_dir = 'd'\nlog_dir = './d/logs'"), vec!["`log_dir` = ./d/logs", "`data_dir` = d"]),
        (toml("data_dir = 'd'\nlog_dir = 'e/../d'"), vec!["`log_dir` = e/../d", "`data_dir` = d"]),
        (
            toml("data_dir = 'd'\nwal_dir = 'w'\nlog_dir = 'x/../w/logs'"),
            vec!["`log_dir` = x/../w/logs", "`wal_dir` = w", "outside wal_dir"],
        ),
        (
            toml("data_dir = 'd'\nwal_dir = './d/wal'"),
            vec!["`wal_dir` = ./d/wal", "`data_dir` = d", "beside"],
        ),
        (toml("data_dir = 'w/data'\nwal_dir = 'w'"), vec!["`wal_dir` = w", "`data_dir` = w/data", "beside"]),
        (toml("max_in_mem_log_size = '1MiB'"), vec!["`max_in_mem_log_size` = 1MiB", "or 0"]),
        (toml("max_send_queue_size = 1"), vec!["`max_send_queue_size`", "or 0"]),
        // A host would refuse these, too, and name no key; `mraft config check` starts none.
        (
            toml("max_snapshot_send_bytes_per_second = 1"),
            vec!["`max_snapshot_send_bytes_per_second` = 1B", "at least 1MiB a second", "0 for no limit"],
        ),
        (
            toml("max_snapshot_recv_bytes_per_second = 1048575"),
            vec![
                "`max_snapshot_recv_bytes_per_second` = 1048575B",
                "at least 1MiB a second",
                "0 for no limit",
            ],
        ),
        (toml("raft_dir = 'a'\ndata_dir = 'b'"), vec!["`data_dir` = \"a\"", "`data_dir` = \"b\"", "once"]),
        (
            toml("").flag("rtt_ms", "1").flag("rtt_ms", "2"),
            vec!["flag --set rtt_ms=1", "flag --set rtt_ms=2", "once"],
        ),
        // S10, S12.
        (toml("ip = '::1'"), vec!["`node_id` is missing", "[::1]:13890", "set node_id"]),
        (toml("ip = 'node-1.example'"), vec!["`node_id` is missing", "node-1.example:13890"]),
        (
            toml("join.0.7 = false"),
            vec!["`initial_members.0.7` is missing", "`join.0.7` = false", "Raft address"],
        ),
        (
            toml(&members("initial_members.0.7 = '10.0.0.2:13890'")),
            vec!["`initial_members.0.7`", "`raft_address` = 10.0.0.1:13890", "set ip"],
        ),
        (
            toml(&members("initial_members.0.8 = '10.0.0.1:13890'")),
            vec!["`initial_members.0.8`", "`node_id` = 7", "set node_id to 8"],
        ),
        (
            toml(&members("initial_members.0.8 = '10.0.0.2:1'\ninitial_members.1.8 = '10.0.0.3:1'")),
            vec![
                "`initial_members.0.8` = 10.0.0.2:1",
                "`initial_members.1.8` = 10.0.0.3:1",
                "one Raft address",
            ],
        ),
        (
            toml(&members("initial_members.0.8 = '10.0.0.2:1'\ninitial_members.0.9 = '10.0.0.2:1'")),
            vec!["`initial_members.0.8`", "`initial_members.0.9`", "one address is one node"],
        ),
        // What a later release brings.
        (toml("gossip = false"), vec!["`gossip`", "later release", "fixed addresses"]),
        (toml("control_center = 'a:1'"), vec!["`control_center`", "later release", "--config FILE"]),
        (toml("[sessions]"), vec!["`sessions`", "later release"]),
        (toml("ttl = true"), vec!["`ttl`", "later release"]),
        (toml("slot_moves = true"), vec!["`slot_moves`", "later release"]),
        (toml("import = 'x'"), vec!["`import`", "later release"]),
        (toml("is_observer = true"), vec!["`is_observer` = true", "later release"]),
        (toml("IsWitness = true"), vec!["`is_witness` = true", "later release"]),
        (toml("quiesce = true"), vec!["`quiesce` = true", "later release"]),
        (
            toml("entry_compression = 'snappy'"),
            vec!["`entry_compression` = \"snappy\"", "later release", "none"],
        ),
        (toml("snapshot_compression = 'snappy'"), vec!["`snapshot_compression`", "later release"]),
        (toml("snapshot_compression = 'zip'"), vec!["`snapshot_compression`", "one of none, snappy"]),
        (toml("log_level = 'loud=='"), vec!["`log_level`", "info"]),
        (toml("log_level = 'warning'"), vec!["`log_level`", "warn", "`warning` is neither"]),
        (toml("log_level = ''"), vec!["`log_level`", "info"]),
        (toml("log_level = 'info,mraft'"), vec!["`log_level`", "`mraft` is neither"]),
    ];
    for (start, parts) in &table {
        refused(start, parts);
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = toml("electon_rtt = 1\nrtt_ms = 'x'\ncheck_quorum = 7").refusal();
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn without_file_and_identity_there_is_no_configuration() {
    refused(&Start::empty(), &["no configuration: give --config FILE", "control center", "later release"]);
    refused(&Start::empty().env("MRAFT_LOG_LEVEL", "debug"), &["no configuration"]);
    let members =
        Start::empty().env("MRAFT_INITIAL_MEMBERS__0__7", "127.0.0.1:13890").env("MRAFT_NODE_ID", "7");
    assert_eq!(members.config().groups.len(), 1);
}

#[test]
fn s9_a_restart_needs_nothing_but_the_data_directory() {
    let config = Start::empty().identity(7, "10.0.0.1:14000").config();
    assert_eq!((config.node_id.get(), config.deployment_id), (7, DeploymentId(3)));
    assert_eq!(config.peers.raft_address.to_string(), "10.0.0.1:14000");
    assert_eq!(config.http.listen_address.to_string(), "127.0.0.1:14001");
    assert!(matches!(config.source_of("node_id"), Source::Identity(_)));
}

#[test]
fn s9_a_restart_opens_the_doors_that_the_directory_remembers() {
    let kept = [
        ("http_listen", "10.0.0.1"),
        ("http_port", "9000"),
        ("mutual_tls", "true"),
        ("ca_file", "/tls/ca"),
        ("cert_file", "/tls/cert"),
        ("key_file", "/tls/key"),
    ];
    let again = |start: Start| start.identity(7, "10.0.0.1:14000").kept(&kept).config();
    let config = again(Start::empty());
    assert_eq!(config.http.listen_address.to_string(), "10.0.0.1:9000");
    assert_eq!(config.peers.mutual_tls.map(|files| files.key_file), Some(PathBuf::from("/tls/key")));
    assert!(config.notices.iter().any(|notice| notice.contains("has its default")), "{:?}", config.notices);
    // What is said now wins, alone or with its neighbour, and a file that does not speak of TLS does not turn it off.
    assert_eq!(again(toml("http_port = 9001")).http.listen_address.to_string(), "10.0.0.1:9001");
    assert_eq!(again(toml("http_listen = '::1'")).http.listen_address.to_string(), "[::1]:9000");
    assert_eq!(again(toml("http_listen = '127.0.0.1:9'")).http.listen_address.to_string(), "127.0.0.1:9");
    assert!(again(toml("election_rtt = 70")).peers.mutual_tls.is_some());
    let plain = again(toml("mutual_tls = false"));
    assert!(plain.peers.mutual_tls.is_none() && plain.notices.is_empty(), "{:?}", plain.notices);
}

#[test]
fn s9_a_restart_knows_where_the_log_is() {
    let mut start = Start::empty().identity(7, "10.0.0.1:14000");
    start.identity.as_mut().expect("an identity").wal_dir = Some(PathBuf::from("/fast/wal"));
    let config = start.config();
    assert_eq!(config.wal_dir, Some(PathBuf::from("/fast/wal")));
    assert!(matches!(config.source_of("wal_dir"), Source::Identity(_)));
}

#[test]
fn s3_what_is_said_now_wins_over_the_kept_identity_so_that_a_difference_is_noticed() {
    let config = toml("raft_port = 15000\ndeployment_id = 0").identity(7, "10.0.0.1:14000").config();
    assert_eq!(config.peers.raft_address.to_string(), "10.0.0.1:15000");
    assert_eq!((config.node_id.get(), config.deployment_id), (7, DeploymentId(0)));
}

#[test]
fn s12_a_joiner_needs_no_member_list() {
    let config = toml("node_id = 7\njoin.0.7 = true").config();
    let group = &config.groups[&mraft_types::GroupId(0)];
    assert_eq!((group.here, group.originals.len()), (Here::Joiner, 0));
    assert_eq!(config.topology, TopologySource::FirstPeer);
}

#[test]
fn m10_a_node_whose_rows_are_all_joins_takes_the_topology_from_the_first_peer() {
    let text = "node_id = 7\nip='10.0.0.1'\ninitial_members.0.8='10.0.0.2:1'\ninitial_members.0.7='10.0.0.1:13890'\n";
    assert_eq!(toml(&format!("{text}join.0.7 = true")).config().topology, TopologySource::FirstPeer);
    assert_eq!(toml(text).config().topology, TopologySource::Document);
}

#[test]
fn s5_a_document_lists_groups_that_this_node_does_not_hold() {
    let config = toml("node_id = 7\nip='10.0.0.1'\ninitial_members.0.8='10.0.0.2:1'").config();
    assert_eq!(config.groups[&mraft_types::GroupId(0)].here, Here::Absent);
    assert_eq!(config.topology, TopologySource::Document);
}

#[test]
fn a_plain_door_on_a_public_address_is_named() {
    let doors = toml("ip = '10.0.0.1'\nhttp_listen = '0.0.0.0'").config().plain_doors();
    assert!(doors[0].contains("10.0.0.1:13890") && doors[1].contains("0.0.0.0:13891"), "{doors:?}");
}

#[test]
fn files_of_mutual_tls_without_mutual_tls_are_noticed() {
    let config = toml("ca_file = 'a'").config();
    assert!(config.notices[0].contains("`ca_file` = a") && config.notices[0].contains("mutual_tls"));
}

#[test]
fn the_examples_are_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/config");
    let mut seen = 0;
    for entry in fs::read_dir(examples).expect("examples") {
        let file = entry.expect("an entry").path();
        let inputs = Inputs { file: Some(file.clone()), ..Inputs::default() };
        let config =
            load(&inputs, |_| Ok(None)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(config.groups.values().all(|group| group.here == Here::Original), "{}", file.display());
        seen += 1;
    }
    assert!(seen >= 2);
}
