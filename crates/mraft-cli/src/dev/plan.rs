// SPDX-License-Identifier: Apache-2.0

//! Which nodes there are, which groups each holds, and what each is told. Pure.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use mraft_types::NodeId;
use serde::{Deserialize, Serialize};

use super::directory::data_of;

const NODES_DEFAULT: u64 = 3;
const GROUPS_DEFAULT: u64 = 16;
const REPLICAS_DEFAULT: u64 = 3;
const BASE_PORT_DEFAULT: u16 = crate::config::RAFT_PORT_DEFAULT;
/// Distance of the nodes' ports.
const PORT_STEP: u64 = 10;
/// Small enough for five nodes on a laptop.
const MEMORY_CEILING_MIB: u64 = 512;

/// What the command line asks for; what it does not say is kept or a default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// How many nodes.
    pub nodes: Option<u64>,
    /// How many groups.
    pub groups: Option<u64>,
    /// How many nodes hold each group.
    pub replicas: Option<u64>,
    /// Raft port of the first node.
    pub base_port: Option<u16>,
}

/// A cluster. Kept beside its data, because none of it may change later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// How many nodes.
    pub nodes: u64,
    /// How many groups; their ids are 0 to this less one.
    pub groups: u64,
    /// How many nodes hold each group.
    pub replicas: u64,
    /// Raft port of the first node.
    pub base_port: u16,
}

/// One node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevNode {
    /// From 1.
    pub number: u64,
    /// Where its peers reach it.
    pub raft: SocketAddrV4,
    /// Where its clients reach it.
    pub http: SocketAddrV4,
}

impl Plan {
    /// What is asked for, with defaults for the rest. With `kept`, the plan of an existing directory, everything asked for must
    /// agree with it.
    pub fn of(asked: Asked, kept: Option<Plan>) -> Result<Plan, String> {
        if let Some(kept) = kept {
            let differs = |name: &str, kept: u64, asked: u64| {
                format!(
                    "the directory was made with --{name} {kept}, not {asked}: leave --{name} out, or give another --dir"
                )
            };
            let pairs = [
                ("nodes", kept.nodes, asked.nodes),
                ("groups", kept.groups, asked.groups),
                ("replicas", kept.replicas, asked.replicas),
                ("base-port", kept.base_port.into(), asked.base_port.map(u64::from)),
            ];
            let different = pairs
                .into_iter()
                .find_map(|(name, kept, asked)| Some((name, kept, asked.filter(|asked| *asked != kept)?)));
            return different.map_or(Ok(kept), |(name, kept, asked)| Err(differs(name, kept, asked)));
        }
        let nodes = asked.nodes.unwrap_or(NODES_DEFAULT);
        let plan = Plan {
            nodes,
            groups: asked.groups.unwrap_or(GROUPS_DEFAULT),
            replicas: asked.replicas.unwrap_or(REPLICAS_DEFAULT.min(nodes)),
            base_port: asked.base_port.unwrap_or(BASE_PORT_DEFAULT),
        };
        plan.check()?;
        Ok(plan)
    }

    /// Whether it can be run at all; a kept plan may have been edited.
    pub fn check(&self) -> Result<(), String> {
        if ![1, 3, 5].contains(&self.nodes) || self.groups == 0 || self.replicas == 0 {
            return Err(format!(
                "a cluster needs 1, 3 or 5 nodes, a group and a replica: nodes {}, groups {}, replicas {}",
                self.nodes, self.groups, self.replicas
            ));
        }
        if self.replicas > self.nodes {
            return Err(format!(
                "--replicas {} is more than --nodes {}: a node holds a group once at most",
                self.replicas, self.nodes
            ));
        }
        let last_port = u64::from(self.base_port) + PORT_STEP * (self.nodes - 1) + 1;
        if self.base_port == 0 {
            return Err("--base-port must be from 1 on".to_owned());
        }
        if last_port > u64::from(u16::MAX) {
            return Err(format!(
                "--base-port {} leaves no room: the last port would be {last_port}",
                self.base_port
            ));
        }
        Ok(())
    }

    /// The nodes in order.
    pub fn nodes(&self) -> Vec<DevNode> {
        let at = |port: u64| SocketAddrV4::new(Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap_or(u16::MAX));
        let node = |number: u64| {
            let port = u64::from(self.base_port) + PORT_STEP * (number - 1);
            DevNode { number, raft: at(port), http: at(port + 1) }
        };
        (1..=self.nodes).map(node).collect()
    }

    /// The configuration file of one node, whose data and logs lie in `directory`. Every file lists every group.
    pub fn configuration(&self, node: &DevNode, directory: &Path) -> Result<String, String> {
        let nodes = self.nodes();
        let mut text = String::from("# Written by `mraft dev`; written anew at each start.\n\n");
        let _ = writeln!(text, "data_dir = {}", quoted(&data_of(directory))?);
        let _ = writeln!(text, "log_dir = {}", quoted(&directory.join("logs"))?);
        let _ = writeln!(text, "ip = \"{}\"", node.raft.ip());
        let _ = writeln!(text, "raft_port = {}\nhttp_port = {}", node.raft.port(), node.http.port());
        let _ = writeln!(text, "memory_ceiling_bytes = \"{MEMORY_CEILING_MIB}MiB\"");
        for group in 0..self.groups {
            let _ = writeln!(text, "\n[initial_members.{group}]");
            for offset in 0..self.replicas {
                let place = usize::try_from((group + offset) % self.nodes).unwrap_or_default();
                let raft = nodes[place].raft;
                let id = NodeId::from_address(raft).map(NodeId::get).unwrap_or_default();
                let _ = writeln!(text, "{id} = \"{raft}\"");
            }
        }
        Ok(text)
    }
}

/// A JSON string is a TOML string, too.
fn quoted(path: &Path) -> Result<String, String> {
    let text = path.to_str().ok_or_else(|| format!("{} is no UTF-8: give another --dir", path.display()))?;
    serde_json::to_string(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Here, Inputs, load};

    #[test]
    fn without_wishes_it_is_three_nodes_with_sixteen_groups() {
        let plan = Plan::of(Asked::default(), None).expect("a plan");
        assert_eq!(plan, Plan { nodes: 3, groups: 16, replicas: 3, base_port: 13890 });
        let addresses: Vec<String> =
            plan.nodes().iter().map(|node| format!("{} {}", node.raft, node.http)).collect();
        assert_eq!(
            addresses,
            [
                "127.0.0.1:13890 127.0.0.1:13891",
                "127.0.0.1:13900 127.0.0.1:13901",
                "127.0.0.1:13910 127.0.0.1:13911"
            ]
        );
        assert_eq!(
            Plan::of(Asked { nodes: Some(1), ..Asked::default() }, None).map(|plan| plan.replicas),
            Ok(1)
        );
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_both_values() {
        let refusal = |asked| Plan::of(asked, None).expect_err("a refusal");
        let replicas = refusal(Asked { replicas: Some(4), ..Asked::default() });
        assert!(replicas.contains("--replicas 4") && replicas.contains("--nodes 3"), "{replicas}");
        let port = refusal(Asked { base_port: Some(65_520), ..Asked::default() });
        assert!(port.contains("65520") && port.contains("65541"), "{port}");
        refusal(Asked { base_port: Some(0), ..Asked::default() });
    }

    #[test]
    fn a_kept_plan_stands_and_a_different_wish_is_refused() {
        let kept = Plan { nodes: 5, groups: 7, replicas: 3, base_port: 14000 };
        assert_eq!(Plan::of(Asked::default(), Some(kept)), Ok(kept));
        assert_eq!(Plan::of(Asked { nodes: Some(5), ..Asked::default() }, Some(kept)), Ok(kept));
        let refusal =
            Plan::of(Asked { groups: Some(8), ..Asked::default() }, Some(kept)).expect_err("different");
        assert!(refusal.contains("--groups 7, not 8"), "{refusal}");
    }

    #[test]
    fn every_node_is_told_all_groups_and_holds_its_share() {
        let plan = Plan { nodes: 5, groups: 10, replicas: 3, base_port: 13890 };
        let directory = tempfile::tempdir().expect("a directory");
        let mut held = 0;
        for node in plan.nodes() {
            let file = directory.path().join("node.toml");
            let home = directory.path().join(format!("node \"{}\"", node.number));
            std::fs::write(&file, plan.configuration(&node, &home).expect("a text")).expect("written");
            let config =
                load(&Inputs { file: Some(file), ..Inputs::default() }, |_| Ok(None)).expect("valid");
            assert_eq!(config.groups.len(), 10);
            assert_eq!(config.data_dir, home.join("data"));
            assert_eq!(config.memory_ceiling_bytes, 512 << 20);
            assert_eq!(config.http.listen_address.to_string(), node.http.to_string());
            held += config.groups.values().filter(|group| group.here == Here::Original).count();
        }
        assert_eq!(held, 30);
    }
}
