// SPDX-License-Identifier: Apache-2.0

//! A user's own state machine on three hosts in one process: `cargo run --example embedded -p mraft`.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use mraft::machines::{Command, InMemoryMachine, in_memory};
use mraft::{Answer, GroupSpec, HostConfig, Machines, NO_SLOT, NodeHost, ReadKind};
use mraft_types::{DeploymentId, GroupId, Member, Membership, NodeId, Payload, ReplicaId, Role, SlotSet};

/// Adds numbers up.
#[derive(Default)]
struct Sum(u64);

impl InMemoryMachine for Sum {
    fn apply(&mut self, command: &Command<'_>, answer: &mut Vec<u8>) {
        let number = command.body.try_into().map_or(0, u64::from_le_bytes);
        self.0 = self.0.wrapping_add(number);
        answer.extend_from_slice(&self.0.to_le_bytes());
    }

    fn query(&self, _query: &[u8], answer: &mut Vec<u8>) {
        answer.extend_from_slice(&self.0.to_le_bytes());
    }

    fn save(&self, state: &mut Vec<u8>) {
        state.extend_from_slice(&self.0.to_le_bytes());
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.0 = u64::from_le_bytes(state.try_into().map_err(|_| "a sum has eight bytes")?);
        Ok(())
    }
}

/// Nothing takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);
const NUMBERS: u64 = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let group = GroupId(0);
    let directory = std::env::temp_dir().join(format!("mraft-embedded-{}", std::process::id()));
    let address = |node: u64| format!("127.0.0.1:{}", 23_890 + 10 * node);
    let nodes: Vec<NodeId> = (1..=3).filter_map(NodeId::new).collect();
    let member = |node: &NodeId| {
        (ReplicaId::new(0, *node), Member { role: Role::Voter, raft_address: address(node.get()) })
    };
    let members = Membership { members: nodes.iter().map(member).collect(), ..Membership::default() };
    let machines = Machines::new().with("sum", |context| {
        Ok(in_memory(context.disk.clone(), context.directory.clone(), 1_000, Sum::default()))
    });
    let mut hosts = Vec::new();
    for node in &nodes {
        let data = directory.join(node.to_string());
        let config = HostConfig::new(DeploymentId(0), *node, address(node.get()), data);
        let host = NodeHost::open(config, machines.clone(), None)?;
        let spec = GroupSpec {
            group,
            members: members.clone(),
            slots: SlotSet::default(),
            machine: "sum".to_owned(),
        };
        host.start_groups(&[spec])?;
        hosts.push(host);
    }
    let began = Instant::now();
    let leader = loop {
        let leads = |host: &&NodeHost| {
            host.leader(group)
                .is_some_and(|known| known.leader.is_some_and(|leader| leader.node() == host.node()))
        };
        if let Some(host) = hosts.iter().find(leads) {
            break host;
        }
        if began.elapsed() > PATIENCE {
            return Err("nobody leads".into());
        }
        std::thread::yield_now();
    };
    let (answered, answers) = channel();
    for number in 1..=NUMBERS {
        let answered = answered.clone();
        let body = Payload::copy_from(&number.to_le_bytes());
        leader.propose(group, NO_SLOT, body, PATIENCE, move |answer| _ = answered.send(answer));
    }
    for _ in 0..NUMBERS {
        match answers.recv()? {
            Answer::Applied { .. } => {}
            other => return Err(format!("not applied: {other:?}").into()),
        }
    }
    let (ready, confirmed) = channel();
    leader.read(group, ReadKind::Linearizable, PATIENCE, move |answer| _ = ready.send(answer));
    let (index, lookup) = match (confirmed.recv()?, leader.lookup(group)) {
        (Answer::ReadReady { index }, Some(lookup)) => (index, lookup),
        (other, _) => return Err(format!("not read: {other:?}").into()),
    };
    let mut sum = Vec::new();
    lookup.query(b"", &mut sum)?;
    let sum = u64::from_le_bytes(sum.try_into().map_err(|_| "a sum has eight bytes")?);
    println!("1 + … + {NUMBERS} = {sum}, read at index {index}");
    if sum != NUMBERS * (NUMBERS + 1) / 2 {
        return Err(format!("the sum is {sum}").into());
    }
    hosts.iter().for_each(NodeHost::close);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
