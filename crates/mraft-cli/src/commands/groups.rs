// SPDX-License-Identifier: Apache-2.0

//! `mraft status`, `mraft groups`, `mraft group` and `mraft node remove`: what there is, and who belongs to it.

use mraft_api::{
    AddLearnerRequest, ChangeAnswer, Client, ClientError, GroupDetail, GroupSummary, GroupsAnswer,
    NodeRequest, NodeStatus, VerifyAnswer,
};
use mraft_types::NodeId;

use super::{client, printed};
use crate::cli::{ClientArgs, GroupArgs, GroupCommand, MemberArgs};
use crate::exit::{CommandError, Exit};
use crate::output::{Table, fields, print};

pub(super) fn status(args: &ClientArgs) -> Result<Exit, CommandError> {
    let status = client::with(args, async |client| client.status().await)?;
    printed(print(args.output.format, &status, || status_text(&status)))
}

pub(super) fn list(args: &ClientArgs) -> Result<Exit, CommandError> {
    let groups = client::with(args, async |client| client.groups().await)?;
    printed(print(args.output.format, &groups, || groups_text(&groups)))
}

pub(super) fn run(args: &GroupArgs) -> Result<Exit, CommandError> {
    let (group, to) = (args.group.0, &args.client);
    match &args.command {
        None => {
            let detail = client::with(to, async |client| client.group(group).await)?;
            printed(print(to.output.format, &detail, || detail_text(&detail)))
        }
        Some(GroupCommand::AddLearner { member, change }) => {
            let answer = client::with(to, async |client| {
                let request = AddLearnerRequest {
                    node: member.node,
                    raft_address: member.raft_address.clone(),
                    change_index: Some(change_index(&client, group, change.if_change_index).await?),
                };
                client.add_learner(group, &request).await
            })?;
            changed(to, &answer, &is_a(&answer, "learner"))
        }
        Some(GroupCommand::Promote(member)) => {
            let answer = client::with(to, async |client| {
                client.promote(group, &request_of(&client, group, member).await?).await
            })?;
            changed(to, &answer, &is_a(&answer, "voter"))
        }
        Some(GroupCommand::Remove(member)) => {
            let answer = client::with(to, async |client| {
                client.remove(group, &request_of(&client, group, member).await?).await
            })?;
            changed(to, &answer, "is removed and never comes back")
        }
        Some(GroupCommand::Transfer(member)) => {
            let request = NodeRequest { node: member.node, change_index: None };
            let answer = client::with(to, async |client| client.transfer(group, &request).await)?;
            changed(to, &answer, "leads")
        }
        Some(GroupCommand::Verify) => {
            let answer = client::with(to, async |client| client.verify(group).await)?;
            printed(print(to.output.format, &answer, || verify_text(&answer)))?;
            if answer.equal {
                return Ok(Exit::Ok);
            }
            let message = format!("the replicas of group {group} could not be shown to be equal");
            Err(CommandError::failed(message))
        }
    }
}

pub(super) fn remove_node(node: NodeId, force: bool, args: &ClientArgs) -> Result<Exit, CommandError> {
    let answer = client::with(args, async |client| client.retire_node(node, force).await)?;
    printed(print(args.output.format, &answer, || {
        format!("node {} is removed for good, in {} groups\n", shown(node.get()), answer.groups.len())
    }))
}

async fn request_of(client: &Client, group: u64, member: &MemberArgs) -> Result<NodeRequest, ClientError> {
    let change_index = change_index(client, group, member.change.if_change_index).await?;
    Ok(NodeRequest { node: member.node, change_index: Some(change_index) })
}

/// The last membership change that the change is made for: the one that was given, or the one that is there now. So two people who
/// change a group at once cannot undo each other's work unseen.
async fn change_index(client: &Client, group: u64, given: Option<u64>) -> Result<u64, ClientError> {
    match given {
        Some(index) => Ok(index),
        None => Ok(client.group(group).await?.change_index),
    }
}

/// What the replica is; a repeated call may find it further on than it asked for.
fn is_a(answer: &ChangeAnswer, wanted: &str) -> String {
    format!("is a {}", answer.role.as_deref().unwrap_or(wanted))
}

fn changed(args: &ClientArgs, answer: &ChangeAnswer, what: &str) -> Result<Exit, CommandError> {
    printed(print(args.output.format, answer, || {
        let already = if answer.changed { "" } else { " (it was so already)" };
        format!(
            "replica {} of group {} {what}{already}; change index {}\n",
            answer.replica, answer.group, answer.change_index
        )
    }))
}

fn status_text(status: &NodeStatus) -> String {
    let mut text = fields(&[
        ("node", shown(status.node)),
        ("version", status.version.clone()),
        ("ready", yes(status.ready)),
        ("deployment", status.deployment.to_string()),
        ("instance", format!("{} (start {})", status.instance, status.boot)),
        ("up", format!("{} s", status.uptime_s)),
        ("raft", status.raft_address.clone()),
        ("http", status.http_address.clone()),
        (
            "groups",
            format!(
                "{} of {} held, {} led, {} without a leader, {} failed",
                status.groups_held,
                status.groups_total,
                status.groups_leading,
                status.groups_without_leader,
                status.groups_failed
            ),
        ),
        ("log", mib(status.log_bytes)),
        ("memory", format!("{} of {}", mib(status.memory_bytes), mib(status.memory_ceiling_bytes))),
    ]);
    if !status.peers.is_empty() {
        let mut peers = Table::new(&["PEER", "RAFT", "HTTP", "CONNECTED", "REASON"]);
        for peer in &status.peers {
            peers.row([
                short(peer.node),
                peer.raft_address.clone(),
                peer.http_address.clone().unwrap_or_default(),
                yes(peer.connected),
                peer.reason.clone().unwrap_or_default(),
            ]);
        }
        text.push('\n');
        text.push_str(&peers.render());
    }
    if !status.conflicts.is_empty() {
        let mut conflicts = Table::new(&["CONFLICT", "KNOWN AS INSTANCE", "CLAIMED BY INSTANCE"]);
        let instance = |id: &Option<String>| id.clone().unwrap_or_else(|| "unknown".to_owned());
        for conflict in &status.conflicts {
            conflicts.row([short(conflict.node), instance(&conflict.known), instance(&conflict.claimed)]);
        }
        text.push('\n');
        text.push_str(&conflicts.render());
        text.push_str("refused until `mraft node clear-conflict NODE` is said to every node\n");
    }
    for warning in &status.warnings {
        text.push_str(&fields(&[("warning:", warning.clone())]));
    }
    text
}

fn groups_text(groups: &GroupsAnswer) -> String {
    let mut table =
        Table::new(&["#GROUP", "STATE", "LEADER", "#TERM", "#COMMIT", "#APPLIED", "#REVISION", "NODES"]);
    for group in &groups.groups {
        table.row([
            group.group.to_string(),
            group.state.clone().unwrap_or_else(|| "elsewhere".to_owned()),
            group.leader.map_or_else(|| "none".to_owned(), short),
            group.term.to_string(),
            group.commit.to_string(),
            group.applied.to_string(),
            group.revision.to_string(),
            group.nodes.iter().map(|node| short(*node)).collect::<Vec<_>>().join(" "),
        ]);
    }
    let mut text = table.render();
    for group in groups.groups.iter().filter(|group| group.reason.is_some()) {
        // Reasons are long, and in the table they would widen every row.
        text.push_str(&format!("group {}: {}\n", group.group, state(group)));
    }
    text
}

fn state(group: &GroupSummary) -> String {
    match (&group.state, &group.reason) {
        (Some(state), Some(reason)) => format!("{state}: {reason}"),
        (Some(state), None) => state.clone(),
        (None, _) => "elsewhere".to_owned(),
    }
}

fn detail_text(detail: &GroupDetail) -> String {
    let group = &detail.summary;
    let mut pairs = vec![
        ("group", group.group.to_string()),
        ("uid", detail.uid.clone()),
        ("slots", group.slots.join(" ")),
        ("leader", group.leader.map_or_else(|| "none".to_owned(), shown)),
        ("term", group.term.to_string()),
        ("here", format!("{} on node {}", state(group), shown(detail.served_by))),
        ("log", format!("{} to {}, committed {}", detail.log_first, detail.log_last, group.commit)),
        (
            "store",
            format!("applied {}, persisted {}, revision {}", group.applied, detail.persisted, group.revision),
        ),
        (
            "compared",
            if detail.compared > 0 {
                format!("all voters equal up to {}", detail.compared)
            } else {
                "not yet since it leads".to_owned()
            },
        ),
        ("change index", detail.change_index.to_string()),
    ];
    if let Some(hash) = &detail.chain_hash {
        pairs.push(("chain hash", hash.clone()));
    }
    if !detail.removed.is_empty() {
        pairs.push(("removed", detail.removed.join(" ")));
    }
    if !detail.retired_nodes.is_empty() {
        let nodes: Vec<String> = detail.retired_nodes.iter().map(|node| shown(*node)).collect();
        pairs.push(("gone for good", nodes.join(" ")));
    }
    let mut members = Table::new(&["REPLICA", "ROLE", "RAFT", "LEADS", "#MATCHED", "#LAG", "ACTIVE"]);
    for member in &detail.members {
        members.row([
            member.replica.clone(),
            member.role.clone(),
            member.raft_address.clone(),
            if member.leader { "yes".to_owned() } else { String::new() },
            member.matched.map(|index| index.to_string()).unwrap_or_default(),
            member.lag_entries.map(|entries| entries.to_string()).unwrap_or_default(),
            member.active.map(yes).unwrap_or_default(),
        ]);
    }
    format!("{}\n{}", fields(&pairs), members.render())
}

fn verify_text(answer: &VerifyAnswer) -> String {
    let mut table = Table::new(&["REPLICA", "HASH", "REASON"]);
    for replica in &answer.replicas {
        table.row([
            replica.replica.clone(),
            replica.hash.clone().unwrap_or_else(|| "none".to_owned()),
            replica.reason.clone().unwrap_or_default(),
        ]);
    }
    let verdict = if answer.equal { "equal" } else { "not shown to be equal" };
    format!("group {} at index {}: {verdict}\n{}", answer.group, answer.index, table.render())
}

/// A node id for narrow columns: the address if it is made of one, which is also how it may be written.
fn short(node: u64) -> String {
    match NodeId::new(node) {
        Some(id) if id.to_address().port() != 0 && !id.to_address().ip().is_unspecified() => {
            id.to_address().to_string()
        }
        _ => node.to_string(),
    }
}

/// A node id both ways (row S10): the number, and the address if it is made of one that can be.
pub(super) fn shown(node: u64) -> String {
    match NodeId::new(node) {
        Some(id) if id.to_address().port() != 0 && !id.to_address().ip().is_unspecified() => {
            format!("{node} ({})", id.to_address())
        }
        _ => node.to_string(),
    }
}

fn yes(value: bool) -> String {
    if value { "yes".to_owned() } else { "no".to_owned() }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use mraft_api::{InstanceConflict, MemberRow, PeerStatus, VerifyRow};

    use super::*;

    const NODE: u64 = (0x7f00_0001 << 16) | 13890;

    #[test]
    fn s10_a_node_is_shown_both_ways() {
        assert_eq!(shown(NODE), format!("{NODE} (127.0.0.1:13890)"));
        assert_eq!(shown(7), "7");
    }

    #[test]
    fn groups_are_listed_with_leader_and_place() {
        let held = GroupSummary {
            group: 3,
            held: true,
            state: Some("condemned".to_owned()),
            reason: Some("log lost".to_owned()),
            nodes: vec![7, 8],
            ..GroupSummary::default()
        };
        let elsewhere = GroupSummary { group: 12, leader: Some(8), ..GroupSummary::default() };
        let text = groups_text(&GroupsAnswer { served_by: 7, groups: vec![held, elsewhere] });
        assert_eq!(
            text,
            "GROUP  STATE      LEADER  TERM  COMMIT  APPLIED  REVISION  NODES\n    \
             3  condemned  none       0       0        0         0  7 8\n   \
             12  elsewhere  8          0       0        0         0\n\
             group 3: condemned: log lost\n"
        );
    }

    #[test]
    fn a_group_shows_its_members_and_tombstones() {
        let member = MemberRow {
            replica: "7#0".to_owned(),
            role: "voter".to_owned(),
            leader: true,
            lag_entries: Some(4),
            ..MemberRow::default()
        };
        let text = detail_text(&GroupDetail {
            members: vec![member],
            removed: vec!["8#1".to_owned()],
            retired_nodes: vec![NODE],
            ..GroupDetail::default()
        });
        for part in ["7#0", "voter", "removed        8#1", "gone for good  ", "127.0.0.1:13890"] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
    }

    #[test]
    fn a_status_shows_peers_and_warnings() {
        let peer =
            PeerStatus { node: 8, reason: Some("deployment 1 is not 2".to_owned()), ..PeerStatus::default() };
        let status = NodeStatus {
            peers: vec![peer],
            warnings: vec!["HTTP is plain".to_owned()],
            ..NodeStatus::default()
        };
        let text = status_text(&status);
        assert!(
            text.contains("deployment 1 is not 2") && text.ends_with("warning:  HTTP is plain\n"),
            "{text}"
        );
    }

    #[test]
    fn m6_a_status_shows_both_directories_of_a_conflict_and_the_way_out() {
        let conflict =
            InstanceConflict { node: NODE, known: Some("0a".to_owned()), claimed: Some("0b".to_owned()) };
        let old = InstanceConflict { node: 8, known: Some("0c".to_owned()), claimed: None };
        let text = status_text(&NodeStatus { conflicts: vec![conflict, old], ..NodeStatus::default() });
        let expected = "CONFLICT         KNOWN AS INSTANCE  CLAIMED BY INSTANCE\n\
                        127.0.0.1:13890  0a                 0b\n\
                        8                0c                 unknown\n\
                        refused until `mraft node clear-conflict NODE` is said to every node\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_verification_says_what_each_replica_said() {
        let silent =
            VerifyRow { replica: "8#0".to_owned(), hash: None, reason: Some("no answer".to_owned()) };
        let text = verify_text(&VerifyAnswer { replicas: vec![silent], ..VerifyAnswer::default() });
        assert!(text.contains("not shown to be equal") && text.contains("no answer"), "{text}");
    }
}
