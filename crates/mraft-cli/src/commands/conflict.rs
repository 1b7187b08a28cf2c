// SPDX-License-Identifier: Apache-2.0

//! `mraft node clear-conflict`: said to every node that is named, because each has a table of its own.

use std::time::Instant;

use mraft_api::ClearConflictAnswer;
use mraft_types::NodeId;

use super::groups::shown;
use super::{client, printed};
use crate::cli::ClientArgs;
use crate::exit::{CommandError, Exit};
use crate::output::print;

/// What was cleared is printed although another node refuses: the command ends as the first failure says.
pub(super) fn clear(node: NodeId, args: &ClientArgs) -> Result<Exit, CommandError> {
    let until = Instant::now() + args.timeout;
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    for url in &args.urls {
        let timeout = until.saturating_duration_since(Instant::now());
        let to = ClientArgs { urls: vec![url.clone()], timeout, ..args.clone() };
        match client::with(&to, async |client| client.clear_conflict(node).await) {
            Ok(answer) => answers.push(answer),
            Err(error) => failures.push((url, error)),
        }
    }
    if !answers.is_empty() {
        printed(print(args.output.format, &answers, || text_of(&answers)))?;
    }
    match failures.is_empty() {
        true => Ok(Exit::Ok),
        false => Err(in_one(node, args.urls.len(), failures)),
    }
}

fn text_of(answers: &[ClearConflictAnswer]) -> String {
    let unnamed = || "another directory".to_owned();
    let mut text = String::new();
    for answer in answers {
        let (node, by) = (shown(answer.node), shown(answer.served_by));
        let said = match (answer.changed, &answer.known) {
            (true, known) => {
                let known = known.clone().unwrap_or_else(unnamed);
                let claim = match &answer.claimed {
                    Some(claimed) => format!("instance {claimed} claimed its id"),
                    None => "no other claimed its id".to_owned(),
                };
                format!("node {by} forgot that node {node} is instance {known}; {claim}")
            }
            (false, None) => format!("node {by} has nothing to clear: it knows nothing of node {node}"),
            (false, Some(known)) => format!(
                "node {by} has nothing to clear: node {node} is connected as instance {known}, and no other claims its id"
            ),
        };
        text.push_str(&said);
        text.push('\n');
    }
    text.push_str(
        "every node has a table of its own: say it to each that refuses the node, one --url for each\n",
    );
    text
}

/// All failures as one: which nodes they are of, and the first one's row of the table of exit codes.
fn in_one(node: NodeId, asked: usize, failures: Vec<(&String, CommandError)>) -> CommandError {
    let told: Vec<String> = failures.iter().map(|(url, error)| format!("{url}: {error}")).collect();
    let failed = failures.len();
    let what = format!("node {} is not cleared on {failed} of {asked} nodes", shown(node.get()));
    let first = failures.into_iter().next().map(|(_, error)| error);
    let (exit, problem) = first.map_or((Exit::Failed, None), |error| (error.exit, error.problem));
    CommandError { exit, message: format!("{what}: {}", told.join("; ")), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(changed: bool, known: Option<&str>, claimed: Option<&str>) -> ClearConflictAnswer {
        let owned = |instance: Option<&str>| instance.map(str::to_owned);
        ClearConflictAnswer { node: 8, served_by: 7, changed, known: owned(known), claimed: owned(claimed) }
    }

    #[test]
    fn m6_every_node_says_what_it_forgot_or_that_there_was_nothing() {
        let text = text_of(&[
            answer(true, Some("0a"), Some("0b")),
            answer(true, Some("0a"), None),
            answer(false, None, None),
            answer(false, Some("0b"), None),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "node 7 forgot that node 8 is instance 0a; instance 0b claimed its id",
                "node 7 forgot that node 8 is instance 0a; no other claimed its id",
                "node 7 has nothing to clear: it knows nothing of node 8",
                "node 7 has nothing to clear: node 8 is connected as instance 0b, and no other claims its id",
                "every node has a table of its own: say it to each that refuses the node, one --url for each",
            ]
        );
    }

    #[test]
    fn failures_of_several_nodes_end_as_the_first_one_does() {
        let (a, b) = ("http://a:1".to_owned(), "http://b:1".to_owned());
        let node = NodeId::new(8).expect("a node id");
        let away = CommandError { exit: Exit::Unavailable, ..CommandError::failed("away") };
        let error = in_one(node, 3, vec![(&a, away), (&b, CommandError::failed("listed"))]);
        assert_eq!(error.exit, Exit::Unavailable);
        let message = "node 8 is not cleared on 2 of 3 nodes: http://a:1: away; http://b:1: listed";
        assert_eq!(error.message, message);
    }
}
