// SPDX-License-Identifier: Apache-2.0

//! A node's configuration: the seed's JSON document or our TOML, the environment, flags, and what a data directory remembers.
//!
//! ```text
//! input := mode:u8  pieces: text of the file, others*
//! mode  := bit 0: JSON instead of TOML   bit 1: there is no file   bit 2: the directory remembers something
//! other := "-" KEY "=" VALUE (a flag)  |  NAME "=" VALUE (of the environment, behind MRAFT_)
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use mraft_cli::config::{
    ENVIRONMENT_PREFIX, FlagValue, Inputs, KEYS, KeptIdentity, Key, document, load, parse_duration,
};
use mraft_types::DeploymentId;

use super::pieces::{Scratch, pieces, put_pieces};
use super::samples;
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

/// What reading may hold for each byte of its input: a value of three bytes takes some hundred in the tables of three layers.
const BYTES_PER_BYTE: usize = 256;
/// Every setting with its source, twice.
const BYTES_ALWAYS: usize = 64 << 10;

pub const CONFIG: Target = Target {
    name: "config",
    about: "cli: TOML and JSON documents, environment and flags, all the way to a checked configuration",
    run,
    seeds,
    words,
    shape: Shape::Either(&Shape::Made(made), &Shape::Behind(1, &Shape::Pieces(&[Shape::Lines]))),
    bytes_max: 4096,
    cost: 40,
};

fn words() -> Vec<&'static [u8]> {
    let keys = KEYS.iter().flat_map(|key| {
        let names = [Some(key.name), key.json].into_iter().flatten().chain(key.aliases.iter().copied());
        names.chain(key.choices.iter().copied()).chain([key.default])
    });
    let signs = [
        " = ",
        "\"",
        "'",
        "\"\"\"",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "\n",
        ".",
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1e9",
        "0x10",
        "1_000",
        "18446744073709551615",
        "18446744073709551616",
        "281474976710655",
        "64MiB",
        "5s",
        "1h",
        "10.0.0.1:13890",
        "[::1]:1",
        "localhost",
        "0.0.0.0",
        "\"0\"",
        "\"7\"",
        "initial_members.0.7",
        "join.0.7",
        "control_center",
        "native",
        "\\u0000",
        "\\uD800",
        "INITIAL_MEMBERS__0__7=",
        "-data_dir=/d",
        "2024-01-01",
        "inf",
        "nan",
        "[[a]]",
        "[initial_members.0]",
        "[[",
        "{{",
    ];
    keys.chain(signs).filter(|word| !word.is_empty()).map(str::as_bytes).collect()
}

fn run(input: &[u8]) -> Said {
    let Some((mode, bytes)) = input.split_first() else { return Said::Refused };
    let pieces = pieces(bytes);
    let Some((text, others)) = pieces.split_first() else { return Said::Refused };
    let mut inputs = Inputs { memory_bytes: Some(8 << 30), ..Inputs::default() };
    if mode & 2 == 0 {
        inputs.file = Some(written(text, mode & 1 != 0));
    }
    for other in others {
        let Some((name, value)) = std::str::from_utf8(other).ok().and_then(|other| other.split_once('='))
        else {
            continue;
        };
        if let Some(key) = name.strip_prefix('-') {
            let (key, value) = (key.to_owned(), value.to_owned());
            inputs.flags.push(FlagValue { written: format!("--set {key}={value}"), key, value });
        } else {
            inputs.environment.push((format!("{ENVIRONMENT_PREFIX}{name}"), value.to_owned()));
        }
        // What flags of the command line say of time is read by the same words.
        let _ = parse_duration(value);
    }
    let remembered = (mode & 4 != 0).then(remembered);
    let allowed = BYTES_PER_BYTE * input.len() + BYTES_ALWAYS;
    let loaded = bounded("a configuration", allowed, || load(&inputs, |_| Ok(remembered.clone())));
    match &loaded {
        Ok(config) => {
            assert!(!config.data_dir.as_os_str().is_empty() && config.memory_ceiling_bytes > 0);
        }
        Err(error) => {
            assert!(!error.0.is_empty(), "refused without a reason");
            assert!(error.0.iter().all(|problem| !problem.to_string().is_empty()));
        }
    }
    let again = load(&inputs, |_| Ok(remembered.clone()));
    assert_eq!(loaded, again, "the same words mean something else the second time");
    Said::of(loaded.is_ok())
}

/// Sources of a setting in what is made, `NOWHERE` among them.
const NOWHERE: usize = 0;
const IN_FILE: usize = 1;
const IN_ENVIRONMENT: usize = 2;
const SOURCES: usize = 4;

/// All settings at once, each from some source or none. Up to one of them they are right, and behind it some are wrong as well: whoever
/// reads them gives up there, and lets go of what the others were.
fn made(draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let is_json = draw(8) == 0;
    let wrong_at = draw(KEYS.len() + KEYS.len() / 4);
    let rarely_wrong = 2 + draw(8);
    let (mut file, mut others) = (Vec::new(), Vec::new());
    for (at, key) in KEYS.iter().enumerate() {
        let is_wrong = at == wrong_at || at > wrong_at && draw(rarely_wrong) == 0;
        let source = draw(SOURCES);
        // Who does not say where the node keeps its data says nothing.
        let source = if at == 0 && !is_wrong { IN_FILE } else { source };
        let value = if is_wrong { wrong_value(draw) } else { right_value(key, draw) };
        let plain = value.trim_matches('\'');
        match source {
            NOWHERE if !is_wrong => {}
            NOWHERE | IN_FILE if is_json => {
                file.push(format!("\"{}\":{}", key.json.unwrap_or(key.name), value.replace('\'', "\"")));
            }
            NOWHERE | IN_FILE => file.push(format!("{} = {value}\n", key.name)),
            IN_ENVIRONMENT if key.is_map => {
                others.push(format!("{}__0__7={plain}", key.name.to_ascii_uppercase()));
            }
            IN_ENVIRONMENT => others.push(format!("{}={plain}", key.name.to_ascii_uppercase())),
            _ if key.is_map => others.push(format!("-{}.0.7={plain}", key.name)),
            _ => others.push(format!("-{}={plain}", key.name)),
        }
    }
    let text = if is_json { format!("{{{}}}", file.join(",")) } else { file.concat() };
    let mut input = vec![u8::from(is_json) | (draw(4) as u8 / 3) << 2];
    put_pieces(&mut input, &[vec![text], others].concat());
    input
}

fn right_value(key: &Key, draw: &mut dyn FnMut(usize) -> usize) -> String {
    let value = match (key.name, key.kind) {
        ("initial_members", _) => return "{ 0 = { 7 = 'a:1' } }".to_owned(),
        ("join", _) => return "{ 0 = { 7 = true } }".to_owned(),
        (_, "boolean") => return ["true", "false"][draw(2)].to_owned(),
        _ if !key.default.is_empty() => key.default,
        (_, "port") => "7",
        (_, "size") => "1GiB",
        (_, "node id") => "7",
        (_, "path") => "/d",
        (_, "address") => "a:1",
        _ => "a",
    };
    match value.parse::<u64>() {
        Ok(_) if draw(2) == 0 => value.to_owned(),
        _ => format!("'{value}'"),
    }
}

fn wrong_value(draw: &mut dyn FnMut(usize) -> usize) -> String {
    ["-1", "[]", "''", "'a b'", "1.5", "99999999999999999999"][draw(6)].to_owned()
}

/// A file with this text, which the next one replaces.
fn written(text: &[u8], is_json: bool) -> PathBuf {
    thread_local! {
        static FILES: [(Scratch, File); 2] = ["toml", "json"].map(new_file);
    }
    FILES.with(|files| {
        let (scratch, file) = &files[usize::from(is_json)];
        let done = file.set_len(0).and_then(|()| file.write_all_at(text, 0));
        assert!(done.is_ok(), "a file cannot be written: {done:?}");
        scratch.path().to_owned()
    })
}

fn new_file(ending: &str) -> (Scratch, File) {
    let scratch = Scratch::new(&format!("config.{ending}"));
    match File::options().create(true).truncate(true).write(true).open(scratch.path()) {
        Ok(file) => (scratch, file),
        Err(error) => panic!("{}: {error}", scratch.path().display()),
    }
}

fn remembered() -> KeptIdentity {
    KeptIdentity {
        deployment_id: DeploymentId(3),
        node_id: samples::node((0x0a00_0001 << 16) | 13890),
        raft_address: "10.0.0.1:13890".to_owned(),
        wal_dir: Some("/wal".into()),
        settings: vec![("http_port", "8001".to_owned())],
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let seed = |mode: u8, parts: &[&str]| {
        let mut seed = vec![mode];
        put_pieces(&mut seed, parts);
        seed
    };
    let (one, two) = ((0x0a00_0001_u64 << 16) | 13890, (0x0a00_0002_u64 << 16) | 13890);
    let json = format!(
        r#"{{"raftDir":"/d","logDir":"/l","nodeId":{one},"join":{{"0":{{"{one}":false}}}},"initial_members":{{"0":{{"{one}":"10.0.0.1:13890","{two}":"10.0.0.2:13890"}}}},"ip":"10.0.0.1","raft_port":13890,"http_port":14000}}"#
    );
    let toml = format!(
        "data_dir = \"/d\"\nnode_id = {one}\nraft_address = \"10.0.0.1:13890\"\nelection_rtt = 60\nmemory_ceiling_bytes = \"1GiB\"\n[initial_members.0]\n{one} = \"10.0.0.1:13890\"\n{two} = \"10.0.0.2:13890\"\n"
    );
    let least = format!("data_dir = '/d'\nnode_id = {one}\nip = '10.0.0.1'\n");
    let members = format!("INITIAL_MEMBERS__0__{one}=10.0.0.1:13890");
    // Every setting, a few at a time: an input has its length.
    let every = document::default_toml();
    let is_setting =
        |line: &&str| !line.starts_with('#') && line.contains('=') && !line.starts_with("data_dir");
    let settings: Vec<&str> = every.lines().filter(is_setting).collect();
    let mut seeds = vec![
        seed(1, &[&json]),
        seed(0, &[&toml]),
        seed(0, &[&least, &members, "-http_port=9000", "SNAPSHOT_ENTRIES=5"]),
        seed(6, &["", "-data_dir=/d"]),
        seed(4, &["data_dir = '/d'\n"]),
    ];
    for some in settings.chunks(6) {
        let plain: Vec<&str> = some.iter().filter_map(|line| line.split("   #").next()).collect();
        seeds.push(seed(0, &[&format!("{least}{}\n", plain.join("\n")), &members]));
    }
    seeds
}
