// SPDX-License-Identifier: Apache-2.0

//! Groups played by hand. Each file of `tests/scripts` is a situation: lines that begin with `>` are commands, the lines
//! after one are what followed, `#` begins a comment. `UPDATE=1 cargo test -p mraft-raft --test scripts` writes the
//! transcripts anew; `expect` commands fail whatever is updated.
//!
//! ```text
//! group VOTERS [learners=4] [witnesses=5] [observers=6] [KEY=VALUE of the configuration …]
//! join 4#1                    a memberless replica starts
//! campaign 1                  ticks 1 until it starts an election
//! tick 1|all [xN]             one tick each, N times
//! skip [xN]                   N ticks that nobody hears of
//! deliver [1->2] [xN]         everything in flight (of one link; N messages), and what follows
//! drop|repeat|show 1->2       what is in flight on a link is lost, doubled, shown
//! keep 1->2 · replay          copies what is in flight on a link; puts the copies in flight again
//! cut|heal 1->2|1             a link (both ways with 1<->2), or all links of a replica
//! hold|release 1              writes wait; everything is written
//! persist 1 [xN]              the oldest N writes (all) are durable
//! hold-apply|release-apply 1
//! hold-log|read-log 1         reading old entries waits; the oldest order is carried out
//! refuse-log 1                the oldest order is answered that there is no time for it now
//! crash|restart|wipe 1        power cut; start again; lose the disk but not the name
//! propose 1 TEXT [xN]         read 1
//! change 1 add 4|promote 4|demote 3|remove 3|retire 3 [expecting=N]
//! transfer 1 to 2
//! truncate 1 [keep=N]         the store persists what it applied; the log forgets it
//! ship 1->3 [fails|unheard]   the snapshot that was asked for arrives; install 3 carries it out
//! progress 1->3               1 hears that a part of the snapshot was sent
//! shipped 1->3                1 hears that a snapshot that was shipped unheard has arrived
//! lives all|1                 replicas hear how all nodes live; those of the other nodes that are down are silent
//! live 1 node 2 as 7          1 hears that node 2 lives so, whatever is true
//! lost 1 node 2 · suspect 1 node 2 after N · condemn 1
//! lose-log 1 from 5 [term=1]  entries are gone, and with a term what was voted later, too
//! accept-loss 1               the operator gives up what a condemned replica lost; restart 1 begins with the rest
//! status [1] · log 1
//! expect 1 FIELD VALUE        life, term, leader, commit, applied, last, durable, start, members, change, commands, removed, asleep
//! ```
//!
//! A command that ends in `quietly` prints nothing.

#![allow(clippy::expect_used, reason = "a test that cannot go on should stop")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mraft_raft::{Config, Event};
use mraft_types::{CondemnedReason, MembershipChange, NodeId, Payload, ReplicaId, Role};

mod support;

use support::{Disk, Group, Happened, text};

#[test]
fn every_script_has_its_transcript() {
    let update = std::env::var_os("UPDATE").is_some();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .expect("the directory of scripts")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "script"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for path in files {
        let before = std::fs::read_to_string(&path).expect("a script");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let after = std::panic::catch_unwind(|| Stage::default().play(&before));
        match after {
            Err(_) => wrong.push(format!("{name}: panicked")),
            Ok(Err(error)) => wrong.push(format!("{name}: {error}")),
            Ok(Ok(after)) if update => std::fs::write(&path, after).expect("a writable script"),
            Ok(Ok(after)) if after != before => {
                let line = after.lines().zip(before.lines()).position(|(a, b)| a != b);
                let line = line.unwrap_or_else(|| after.lines().count().min(before.lines().count()));
                wrong.push(format!(
                    "{name}:{}: expected\n    {}\nbut it is\n    {}",
                    line + 1,
                    before.lines().nth(line).unwrap_or("(end)"),
                    after.lines().nth(line).unwrap_or("(end)"),
                ));
            }
            Ok(Ok(_)) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[derive(Default)]
struct Stage {
    group: Group,
    kept: Vec<mraft_raft::Message>,
}

type Outcome = Result<String, String>;

impl Stage {
    /// Plays a script; answers it with the transcript of this run.
    fn play(&mut self, script: &str) -> Outcome {
        let mut transcript = String::new();
        for (number, line) in script.lines().enumerate() {
            if line.starts_with('#') || line.is_empty() {
                writeln!(transcript, "{line}").expect("a string");
            } else if let Some(command) = line.strip_prefix("> ") {
                writeln!(transcript, "{line}").expect("a string");
                let said = self.command(command).map_err(|error| format!("line {}: {error}", number + 1))?;
                transcript += &said;
            }
        }
        Ok(transcript)
    }

    fn command(&mut self, command: &str) -> Outcome {
        let mut words: Vec<&str> = command.split_whitespace().collect();
        let quietly = words.last() == Some(&"quietly");
        if quietly {
            words.pop();
        }
        let answer = self.act(words[0], &words[1..])?;
        let mut said = String::new();
        for happened in std::mem::take(&mut self.group.happened) {
            match happened {
                Happened::Delivered(message) => writeln!(said, "  {}", text::message(&message)),
                Happened::Lost(message) => writeln!(said, "  {} (lost)", text::message(&message)),
                Happened::Effect(id, effect) => match text::effect(&effect) {
                    Some(line) => writeln!(said, "  {id:?}: {line}"),
                    None => Ok(()),
                },
            }
            .expect("a string");
        }
        for (id, node) in &mut self.group.nodes {
            for line in node.raft.as_mut().map(text::ignored).unwrap_or_default() {
                writeln!(said, "  {id:?}: {line}").expect("a string");
            }
        }
        for line in answer.lines() {
            writeln!(said, "  {line}").expect("a string");
        }
        Ok(if quietly { String::new() } else { said })
    }

    fn act(&mut self, verb: &str, words: &[&str]) -> Outcome {
        let group = &mut self.group;
        let first = || words.first().copied().ok_or("who?").and_then(|word| id(word).map_err(|_| "who?"));
        match verb {
            "group" => *group = new_group(words)?,
            "join" => group.join(first()?),
            "skip" => group.tick += times(words, 1) as u64,
            "campaign" => {
                let id = first()?;
                let elections = |group: &Group| {
                    let started = |happened: &Happened| {
                        matches!(happened, Happened::Effect(_, mraft_raft::Effect::ElectionStarted(_)))
                    };
                    group.happened.iter().filter(|happened| started(happened)).count()
                };
                for _ in 0..2 * group.node(id).config.election_ticks {
                    if elections(group) == 0 {
                        group.tick(id, 0);
                    }
                }
            }
            "tick" => {
                for _ in 0..times(words, 1) {
                    match words[0] {
                        "all" => {
                            for id in group.nodes.keys().copied().collect::<Vec<_>>() {
                                group.tick(id, 0);
                                group.tick -= 1;
                            }
                            group.tick += 1;
                        }
                        one => group.tick(id(one)?, 0),
                    }
                }
            }
            "deliver" => {
                let link = words.first().and_then(|word| link(word).ok());
                for _ in 0..times(words, 10_000) {
                    let on_link = |message: &mraft_raft::Message| {
                        link.is_none_or(|(from, to)| (message.from, message.to) == (from, to))
                    };
                    let Some(at) = group.wire.iter().position(on_link) else { break };
                    group.deliver_at(at);
                }
            }
            "drop" | "repeat" | "show" | "keep" => {
                let (from, to) = link(words[0])?;
                let on_link = |message: &&mraft_raft::Message| (message.from, message.to) == (from, to);
                let found: Vec<_> = group.wire.iter().filter(on_link).cloned().collect();
                match verb {
                    "drop" => group.wire.retain(|message| !on_link(&message)),
                    "repeat" => group.wire.extend(found.iter().cloned()),
                    "keep" => self.kept.extend(found.iter().cloned()),
                    _ => {}
                }
                let lines: Vec<String> = found.iter().map(text::message).collect();
                return Ok(if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") });
            }
            "replay" => group.wire.extend(self.kept.drain(..)),
            "cut" | "heal" => {
                for (from, to) in links(group, words[0])? {
                    match verb {
                        "cut" => group.cut.insert((from, to)),
                        _ => group.cut.remove(&(from, to)),
                    };
                }
            }
            "hold" => group.node_mut(first()?).disk_held = true,
            "release" => {
                group.node_mut(first()?).disk_held = false;
                group.persist(first()?, usize::MAX);
            }
            "persist" => group.persist(first()?, times(words, usize::MAX)),
            "hold-apply" => group.node_mut(first()?).apply_held = true,
            "release-apply" => {
                group.node_mut(first()?).apply_held = false;
                group.poll(first()?);
            }
            "hold-log" => group.node_mut(first()?).log_held = true,
            "read-log" | "refuse-log" => {
                if !group.read_log(first()?, verb == "read-log") {
                    return Ok("nothing is to be read".to_owned());
                }
            }
            "crash" => group.crash(first()?),
            "restart" => group.restart(first()?),
            "wipe" => {
                group.crash(first()?);
                group.node_mut(first()?).disk = Disk::default();
                group.node_mut(first()?).machine = Default::default();
            }
            "lose-log" => {
                let from: u64 = words[2].parse().map_err(|_| "from where?")?;
                group.crash(first()?);
                let disk = &mut group.node_mut(first()?).disk;
                disk.entries.retain(|entry| entry.index < from);
                let last = disk.last();
                disk.hard_state.commit = disk.hard_state.commit.min(last);
                if let Some(term) = words.iter().find_map(|word| word.strip_prefix("term=")) {
                    disk.hard_state.term = term.parse().map_err(|_| "which term?")?;
                    disk.hard_state.vote = None;
                }
            }
            "accept-loss" => {
                group.crash(first()?);
                if !group.node_mut(first()?).disk.accept_loss() {
                    return Ok("it is not condemned".to_owned());
                }
            }
            "propose" => {
                let raft = group.raft_mut(first()?).ok_or("it is down")?;
                let mut answer = String::new();
                for _ in 0..times(words, 1) {
                    let payload = Payload::copy_from(words[1].as_bytes());
                    answer = match raft.propose(payload) {
                        Ok(position) => format!("proposed at {}", text::position(position)),
                        Err(refused) => format!("refused: {refused}"),
                    };
                }
                group.poll(first()?);
                return Ok(answer);
            }
            "read" => {
                let raft = group.raft_mut(first()?).ok_or("it is down")?;
                let answer = match raft.read() {
                    Ok(round) => format!("joined round {round}"),
                    Err(refused) => format!("refused: {refused:?}"),
                };
                group.poll(first()?);
                return Ok(answer);
            }
            "change" => {
                let (change, expected) = change(words)?;
                let raft = group.raft_mut(first()?).ok_or("it is down")?;
                let answer = match raft.propose_change(&change, expected) {
                    Ok((position, next)) => {
                        format!("proposed at {}: {{{}}}", text::position(position), text::membership(&next))
                    }
                    Err(error) => format!("refused: {error}"),
                };
                group.poll(first()?);
                return Ok(answer);
            }
            "transfer" => group.step(first()?, Event::TransferLeader { to: id(words[2])? }),
            "truncate" => {
                let keep = words.iter().find_map(|word| word.strip_prefix("keep="));
                let keep = keep.map_or(Ok(0), str::parse).map_err(|_| "keep how many?")?;
                group.truncate(first()?, keep);
            }
            "ship" => {
                let (from, to) = link(words[0])?;
                let is_asked_for = match words.last() {
                    Some(&"unheard") => group.ship_unheard(from, to),
                    last => group.ship(from, to, last != Some(&"fails")),
                };
                if !is_asked_for {
                    return Ok("nobody asked for that".to_owned());
                }
            }
            "progress" => {
                let (from, to) = link(words[0])?;
                group.step(from, Event::SnapshotProgress { to });
            }
            "shipped" => {
                let (from, to) = link(words[0])?;
                if !group.shipped(from, to) {
                    return Ok("nothing was shipped".to_owned());
                }
            }
            "install" => {
                if !group.install(first()?) {
                    return Ok("nothing to install".to_owned());
                }
            }
            "lives" => {
                let all = group.nodes.keys().copied().collect();
                let ids: Vec<ReplicaId> = if words[0] == "all" { all } else { vec![first()?] };
                ids.into_iter().for_each(|id| group.tell_lives(id));
            }
            "live" => {
                let life = words[4].parse().map_err(|_| "how?")?;
                group.tell_life(first()?, id(words[2])?.node(), Some(life));
            }
            "lost" => group.step(first()?, Event::PeerLost { node: id(words[2])?.node() }),
            "suspect" => {
                let campaign_after_ticks = words[4].parse().map_err(|_| "after how long?")?;
                let node = id(words[2])?.node();
                group.step(first()?, Event::NodeSuspected { node, campaign_after_ticks });
            }
            "condemn" => group.step(first()?, Event::Condemn { reason: CondemnedReason::Divergence }),
            "status" => {
                let all = group.nodes.keys().copied().collect();
                let ids: Vec<ReplicaId> = if words.is_empty() { all } else { vec![first()?] };
                let lines: Vec<_> = ids.iter().map(|id| text::status(*id, group.node(*id))).collect();
                return Ok(lines.join("\n"));
            }
            "log" => return Ok(text::entries(&group.node(first()?).disk.entries)),
            "expect" => {
                let is = field(group, first()?, words[1])?;
                let expected = words[2..].join(" ");
                if is != expected {
                    return Err(format!("{} of {} is {is}, not {expected}", words[1], words[0]));
                }
            }
            _ => return Err(format!("unknown command {verb}")),
        }
        Ok(String::new())
    }
}

fn id(word: &str) -> Result<ReplicaId, String> {
    word.parse().map_err(|error| format!("{error}"))
}

fn link(word: &str) -> Result<(ReplicaId, ReplicaId), String> {
    let (from, to) = word.split_once("->").ok_or("which link?")?;
    Ok((id(from)?, id(to)?))
}

fn links(group: &Group, word: &str) -> Result<Vec<(ReplicaId, ReplicaId)>, String> {
    if let Some((one, other)) = word.split_once("<->") {
        let (one, other) = (id(one)?, id(other)?);
        return Ok(vec![(one, other), (other, one)]);
    }
    if let Ok(link) = link(word) {
        return Ok(vec![link]);
    }
    let one = id(word)?;
    Ok(group.nodes.keys().flat_map(|other| [(one, *other), (*other, one)]).collect())
}

fn times(words: &[&str], default: usize) -> usize {
    let last = words.last().and_then(|word| word.strip_prefix('x'));
    last.and_then(|count| count.parse().ok()).unwrap_or(default)
}

fn new_group(words: &[&str]) -> Result<Group, String> {
    let mut roles = Vec::new();
    let mut settings = Vec::new();
    for word in words {
        let (key, value) = word.split_once('=').ok_or("key=value")?;
        let role = match key {
            "voters" => Role::Voter,
            "learners" => Role::Learner,
            "observers" => Role::Observer,
            "witnesses" => Role::Witness,
            _ => {
                settings.push((key, value));
                continue;
            }
        };
        for word in value.split(',') {
            roles.push((id(word)?, role));
        }
    }
    let set = |config: &mut Config| {
        for (key, value) in &settings {
            let number = || value.parse::<usize>().expect("a number");
            match *key {
                "election_ticks" => config.election_ticks = number() as u32,
                "heartbeat_ticks" => config.heartbeat_ticks = number() as u32,
                "check_quorum" => config.check_quorum = *value == "true",
                "append_bytes_max" => config.append_bytes_max = number(),
                "inflight_bytes_max" => config.inflight_bytes_max = number(),
                "inflight_messages_max" => config.inflight_messages_max = number(),
                "unapplied_bytes_max" => config.unapplied_bytes_max = number(),
                "cache_bytes_max" => config.cache_bytes_max = number(),
                "quiesce_after_ticks" => config.quiesce_after_ticks = Some(number() as u32),
                "snapshot_deadline_ticks" => config.snapshot_deadline_ticks = number() as u32,
                _ => panic!("no setting {key}"),
            }
        }
    };
    Ok(Group::new(&roles, set))
}

fn change(words: &[&str]) -> Result<(MembershipChange, Option<u64>), String> {
    let who = id(words[2])?;
    let node: NodeId = who.node();
    let change = match words[1] {
        "add" => MembershipChange::AddLearner { node, raft_address: format!("n{node}:1") },
        "promote" => MembershipChange::Promote(who),
        "demote" => MembershipChange::Demote(who),
        "remove" => MembershipChange::Remove(who),
        "retire" => MembershipChange::RetireNode(node),
        other => return Err(format!("no change {other}")),
    };
    let expected = words.iter().find_map(|word| word.strip_prefix("expecting="));
    Ok((change, expected.map(|index| index.parse().expect("an index"))))
}

fn field(group: &Group, id: ReplicaId, name: &str) -> Outcome {
    let node = group.node(id);
    if name == "removed" {
        return Ok(node.removed.to_string());
    }
    if name == "commands" {
        let commands = node.machine.commands.iter();
        let texts: Vec<_> = commands.map(|(_, _, body)| String::from_utf8_lossy(body).into_owned()).collect();
        return Ok(texts.join(" "));
    }
    let raft = node.raft.as_ref().ok_or("it is down")?;
    Ok(match name {
        "life" => format!("{:?}", raft.life()).to_lowercase(),
        "term" => raft.term().to_string(),
        "leader" => raft.leader().map_or("-".to_owned(), |leader| format!("{leader:?}")),
        "commit" => raft.commit().to_string(),
        "applied" => raft.applied().to_string(),
        "last" => raft.last_index().to_string(),
        "durable" => raft.durable_index().to_string(),
        "start" => raft.start().position.index.to_string(),
        "members" => text::membership(raft.membership()),
        "change" => raft.membership().change_index.to_string(),
        "asleep" => raft.is_asleep().to_string(),
        _ => return Err(format!("no field {name}")),
    })
}
