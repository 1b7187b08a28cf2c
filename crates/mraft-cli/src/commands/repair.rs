// SPDX-License-Identifier: Apache-2.0

//! `mraft repair`: what a condemned replica of a stopped node lost is shown and, with `--yes`, accepted. This and the commands of
//! [`super::groups`] are the only ones after which a group may have lost something; this one says what.

use std::sync::Arc;

use mraft::GroupRecord;
use mraft::loss::{Loss, NodeLoss, Scope, StoppedNode, Survey, opened_by};
use mraft_disk::{Disk, RealDisk};
use serde_json::{Value, json};

use super::inspect::Mirror;
use super::printed;
use crate::cli::AcceptLossArgs;
use crate::exit::{CommandError, Exit};
use crate::node::{KV, stopped_machines};
use crate::output::{Table, print};

const RISK: &str = "Whatever was acknowledged above those entries is lost, unless a member that is whole holds it and leads: start \
                    that one first, and repaired members one by one. A member that has applied what the others gave up stays behind and must be removed and \
                    added again. While a majority of a group is well, do not do this: remove the replica and add the node again. Should \
                    another member show a term that is not below the one shown here, name it with --above-term.";

/// Shows or accepts.
pub(super) fn accept_loss(args: &AcceptLossArgs) -> Result<Exit, CommandError> {
    let scope = args.group.map_or(Scope::All, Scope::Group);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let stopped =
        StoppedNode::open(Arc::clone(&disk), &args.data_dir, args.wal_dir.as_deref()).map_err(failed)?;
    let mirror = Mirror::new().map_err(failed)?;
    let mut look = |record: &GroupRecord, _install: Option<u64>| persisted(&mirror, args, record);
    let survey = stopped.survey(&mut look, args.above_term);
    let chosen: Vec<Loss> = survey.chosen(scope).map_err(failed)?.into_iter().cloned().collect();
    let directory = stopped.log_directory();
    if args.yes {
        let machines = stopped_machines();
        let mut open = opened_by(&machines, &disk, &args.data_dir);
        stopped.accept(scope, &mut look, &mut open, args.above_term).map_err(failed)?;
    }
    let is_chosen = |loss: &Loss| chosen.iter().any(|chosen| chosen.group == loss.group);
    let document = json!({
        "accepted": args.yes,
        "log_directory": directory,
        "node": survey.node.map(node_word),
        "replicas": survey.losses.iter().map(|loss| document_of(loss, is_chosen(loss))).collect::<Vec<_>>(),
        "risk": RISK,
    });
    printed(print(args.output.format, &document, || text(args, &survey, &chosen)))
}

fn failed(error: impl ToString) -> CommandError {
    CommandError::failed(error.to_string())
}

/// What a store has, without touching it.
fn persisted(
    mirror: &Mirror,
    args: &AcceptLossArgs,
    record: &GroupRecord,
) -> Result<Option<Vec<u8>>, String> {
    if record.machine != KV {
        return Err(format!(
            "its state machine is of kind `{}`, which this program does not offer",
            record.machine
        ));
    }
    let files = mraft::files::group_directory(&args.data_dir, record.group, record.replica);
    let Some(copy) = mirror.of(&files).map_err(|error| error.to_string())? else { return Ok(None) };
    let found = mraft_kv::persisted(Arc::new(RealDisk::new()), &copy).map_err(|error| error.to_string());
    std::fs::remove_dir_all(&copy).map_err(|error| error.to_string())?;
    Ok(found?.map(|found| found.host_meta))
}

fn node_word(node: NodeLoss) -> &'static str {
    match node {
        NodeLoss::LogGone => "log_gone",
        NodeLoss::OldCopy => "old_copy",
    }
}

fn document_of(loss: &Loss, is_chosen: bool) -> Value {
    json!({
        "group": loss.group.0,
        "replica": loss.replica.to_string(),
        "reason": loss.reason.to_string(),
        "chosen": is_chosen,
        "stored": loss.stored.map(|stored| json!({ "index": stored.index, "term": stored.term })),
        "log": loss.log.map(|log| json!({
            "first": log.start + 1, "last": log.last, "commit": log.hard_state.commit, "term": log.hard_state.term,
        })),
        "restart": loss.decision.as_ref().ok().map(|restart| json!({
            "last": restart.last, "keeps_log": restart.keeps_log, "term": restart.hard_state.term,
            "known_committed": restart.committed,
        })),
        "refused": loss.decision.as_ref().err(),
    })
}

fn text(args: &AcceptLossArgs, survey: &Survey, chosen: &[Loss]) -> String {
    let mut text = match survey.node {
        Some(NodeLoss::LogGone) => "The node's log is not there, or nothing is left of it: every replica here forgot what it had promised. If its disk is only \
                                    not mounted, mount it.\n\n"
            .to_owned(),
        Some(NodeLoss::OldCopy) => {
            "The directory is an old copy of itself: every replica here forgot what it had promised.\n\n".to_owned()
        }
        None => String::new(),
    };
    let mut table =
        Table::new(&["#GROUP", "REPLICA", "CONDEMNED", "#STORE TO", "LOG", "#GOES ON FROM", "#TERM"]);
    for loss in &survey.losses {
        let restart =
            loss.decision.as_ref().ok().filter(|_| chosen.iter().any(|one| one.group == loss.group));
        let log = loss.log.map(|log| format!("{} to {}", log.start + 1, log.last));
        table.row([
            loss.group.to_string(),
            loss.replica.to_string(),
            loss.reason.to_string(),
            loss.stored.map_or_else(|| "nothing".to_owned(), |stored| stored.index.to_string()),
            log.unwrap_or_else(|| "lost".to_owned()),
            restart.map_or_else(|| "stays".to_owned(), |restart| restart.last.to_string()),
            restart.map(|restart| restart.hard_state.term.to_string()).unwrap_or_default(),
        ]);
    }
    text.push_str(&table.render());
    text.push('\n');
    for loss in &survey.losses {
        text.push_str(&sentence(args, loss, chosen));
    }
    let end = match args.yes {
        true => "Done. Start the node.",
        false => "Nothing was changed. To do it, say --yes.",
    };
    text.push_str(&format!("\n{RISK}\n{end}\n"));
    text
}

/// What becomes of one replica.
fn sentence(args: &AcceptLossArgs, loss: &Loss, chosen: &[Loss]) -> String {
    let group = loss.group;
    let restart = match &loss.decision {
        Err(reason) => return format!("group {group} stays condemned: {reason}\n"),
        Ok(_) if !chosen.iter().any(|one| one.group == group) => {
            return format!("group {group} stays condemned: it was not asked for\n");
        }
        Ok(restart) => restart,
    };
    let (gives_up, from) = match args.yes {
        true => ("gave up", "went back to"),
        false => ("gives up", "goes back to"),
    };
    let what = match restart.keeps_log {
        true => format!("keeps the entries of its log and {gives_up} what it had above {}", restart.last),
        false => format!(
            "{from} what its store has and {gives_up} all entries above {}{}",
            restart.last,
            loss.log.filter(|log| log.last > restart.last).map_or_else(String::new, |log| format!(
                "; what is left of its log, up to {}, does not join that",
                log.last
            ))
        ),
    };
    let known = match restart.committed > restart.last {
        true => format!("; {} to {} are known to have been committed", restart.last + 1, restart.committed),
        false => String::new(),
    };
    format!("group {group} {what}{known}\n")
}
