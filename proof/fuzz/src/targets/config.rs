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

use mraft_cli::config::keys::{LATER, LEGACY};
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
/// Groups of a map, and nodes of a group.
const GROUPS_MAX: usize = 3;
const NODES_MAX: usize = 24;

/// A document, and what comes from elsewhere.
#[derive(Default)]
struct Made {
    is_json: bool,
    file: Vec<String>,
    others: Vec<String>,
}

impl Made {
    /// Puts a setting where it comes from. `path` is the group and the node in a map.
    fn put(&mut self, key: &Key, source: usize, path: Option<(usize, u64)>, value: &str) {
        let plain = value.trim_matches('\'');
        let joined = |name: &str, between: &str| match path {
            Some((group, node)) => format!("{name}{between}{group}{between}{node}"),
            None => name.to_owned(),
        };
        match source {
            IN_ENVIRONMENT => {
                self.others.push(format!("{}={plain}", joined(&key.name.to_ascii_uppercase(), "__")));
            }
            NOWHERE | IN_FILE if self.is_json => {
                let name = key.json.unwrap_or(key.name);
                self.file.push(format!("\"{name}\":{}", value.replace('\'', "\"")));
            }
            NOWHERE | IN_FILE => self.file.push(format!("{} = {value}\n", joined(key.name, "."))),
            _ => self.others.push(format!("-{}={plain}", joined(key.name, "."))),
        }
    }

    fn input(self, draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
        let Made { is_json, file, others } = self;
        let text =
            if is_json { format!("{{{}}}", file.join(",").replace('\'', "\"")) } else { file.concat() };
        let mut input = vec![u8::from(is_json) | (draw(4) as u8 / 3) << 2];
        put_pieces(&mut input, &[vec![text], others].concat());
        input
    }

    fn put_map(&mut self, key: &Key, source: usize, draw: &mut dyn FnMut(usize) -> usize) {
        let mut groups = Vec::new();
        let nodes_max = 1 + draw(NODES_MAX);
        for group in 0..draw(1 + GROUPS_MAX) {
            let mut members = Vec::new();
            for place in 0..draw(1 + nodes_max) as u64 {
                let node = ((0x0a00_0000 + place) << 16) | 13890;
                let value = match (key.name, draw(16)) {
                    (_, 0) => wrong_value(draw),
                    ("join", _) => ["true", "false"][draw(2)].to_owned(),
                    (_, 1) => "'a:1'".to_owned(),
                    _ => format!("'10.0.0.{place}:13890'"),
                };
                match self.is_json && matches!(source, NOWHERE | IN_FILE) {
                    true => members.push(format!("\"{node}\":{value}")),
                    false => self.put(key, source, Some((group, node)), &value),
                }
            }
            groups.push(format!("\"{group}\":{{{}}}", members.join(",")));
        }
        if self.is_json && matches!(source, NOWHERE | IN_FILE) {
            self.put(key, source, None, &format!("{{{}}}", groups.join(",")));
        }
    }
}

/// All settings at once, each from some source or none. Up to one of them they are right, and behind it some are wrong as well: whoever
/// reads them gives up there, and lets go of what the others were. Now and then only who and where the node is, and its groups.
fn made(draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    if draw(8) == 0 {
        return made_of_names(draw);
    }
    let mut made = Made { is_json: draw(4) == 0, ..Made::default() };
    let is_about_groups = draw(2) == 0;
    let wrong_at = if is_about_groups { KEYS.len() } else { draw(KEYS.len() + KEYS.len() / 4) };
    let rarely_wrong = 2 + draw(8);
    for (at, key) in KEYS.iter().enumerate() {
        let is_wrong = at == wrong_at || at > wrong_at && draw(rarely_wrong) == 0;
        let source = match draw(SOURCES) {
            // Who does not say where the node keeps its data says nothing.
            _ if at == 0 && !is_wrong => IN_FILE,
            _ if is_about_groups && !(key.is_map || key.json.is_some()) => NOWHERE,
            drawn => drawn,
        };
        if is_wrong {
            made.put(key, source, key.is_map.then_some((0, 7)), &wrong_value(draw));
        } else if key.is_map {
            // Another source may have more of it.
            made.put_map(key, source, draw);
            if draw(4) == 0 {
                made.put_map(key, IN_ENVIRONMENT, draw);
            }
        } else if source != NOWHERE {
            made.put(key, source, None, &right_value(key, draw));
        }
    }
    made.input(draw)
}

/// A value that is right by itself, mostly; of the node's own addresses and number one that the members know.
fn right_value(key: &Key, draw: &mut dyn FnMut(usize) -> usize) -> String {
    let node = ((0x0a00_0000_u64 + draw(4) as u64) << 16 | 13890).to_string();
    let value = match (key.name, key.kind) {
        ("log_level", _) if draw(4) != 0 => return format!("'{}'", levels(draw)),
        // Right or not: what belongs together has limits of its own.
        (_, "whole number" | "size" | "duration" | "port") if draw(4) == 0 => {
            let (least, most) = (key.range.start().to_string(), key.range.end().to_string());
            return [least.as_str(), most.as_str(), "0", "1", "13", "4096", "200000000"][draw(7)].to_owned();
        }
        (_, "boolean") => return ["true", "false"][draw(2)].to_owned(),
        (_, "string") if draw(4) == 0 && !key.choices.is_empty() => key.choices[draw(key.choices.len())],
        _ if !key.default.is_empty() => key.default,
        (_, "port") => "13890",
        (_, "size") => "1GiB",
        (_, "node id") => &node,
        (_, "path") => "/d",
        (_, "address") => "10.0.0.1:13890",
        _ => "10.0.0.1",
    };
    match value.parse::<u64>() {
        Ok(_) if draw(2) == 0 => value.to_owned(),
        _ => format!("'{value}'"),
    }
}

/// A word as it is written, or in other letters, or with one that is another, or without the last ones.
fn nearly(word: &str, draw: &mut dyn FnMut(usize) -> usize) -> String {
    let at = draw(word.len());
    let (before, after) = word.split_at(at);
    let letter = &after[..1];
    match draw(6) {
        0 => format!("{before}{}{}", letter.to_ascii_uppercase(), &after[1..]),
        1 => format!("{before}{}{}", ["a", "e", "o", "_", "-", "z"][draw(6)], &after[1..]),
        2 => before.to_owned(),
        3 => word.to_ascii_uppercase(),
        4 => format!("{before}{}", after.to_ascii_uppercase()),
        _ => word.to_owned(),
    }
}

/// Levels of parts.
fn levels(draw: &mut dyn FnMut(usize) -> usize) -> String {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let mut words = Vec::new();
    for _ in 0..1 + draw(3) {
        let part = ["", "", "mraft_raft=", "mraft::core=", "=", "a b=", "a=b="][draw(7)];
        words.push(format!("{part}{}", nearly(LEVELS[draw(LEVELS.len())], draw)));
    }
    words.join(",")
}

/// What a node needs, a level, and names that are nearly known ones.
fn made_of_names(draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let mut made = Made { is_json: draw(3) == 0, ..Made::default() };
    let later = LATER.iter().map(|(name, _)| *name);
    let known = KEYS
        .iter()
        .flat_map(|key| [Some(key.name), key.json].into_iter().flatten().chain(key.aliases.iter().copied()));
    let names: Vec<&str> = later.clone().chain(later).chain(LEGACY).chain(known).collect();
    let (between, end) = if made.is_json { ("\":", "") } else { (" = ", "\n") };
    let begin = if made.is_json { "\"" } else { "" };
    let directory = if made.is_json { "raftDir" } else { "data_dir" };
    for (name, value) in [(directory, "'/d'"), ("ip", "'10.0.0.1'")] {
        made.file.push(format!("{begin}{name}{between}{value}{end}"));
    }
    for _ in 0..draw(4) {
        let name = nearly(names[draw(names.len())], draw);
        let value = wrong_value(draw);
        match draw(4) {
            0 => made.others.push(format!("-{name}={value}")),
            1 => made.others.push(format!("{}={value}", name.to_ascii_uppercase())),
            _ => made.file.push(format!("{begin}{name}{between}{value}{end}")),
        }
    }
    made.others.push(format!("-log_level={}", levels(draw)));
    made.input(draw)
}

fn wrong_value(draw: &mut dyn FnMut(usize) -> usize) -> String {
    let values = [
        "true",
        "{}",
        "{a=1}",
        "{\"a\":{\"b\":[1]}}",
        "[1,'a',true]",
        "[{a=1},[]]",
        "2024-01-01",
        "'\\u0000'",
        "-1",
        "[]",
        "''",
        "'a b'",
        "1.5",
        "99999999999999999999",
        "999999999999999999999999999999999999999999",
    ];
    values[draw(values.len())].to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_understood_or_refused() {
        let mut state = 1_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let inputs: Vec<Vec<u8>> = (0..2000).map(|_| made(&mut draw)).collect();
        assert!(inputs.iter().filter(|input| input.len() <= CONFIG.bytes_max).count() > 1800);
        let read = inputs.iter().filter(|input| run(input) == Said::Read).count();
        assert!((10..1990).contains(&read), "{read}");
    }
}
