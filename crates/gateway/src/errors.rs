// SPDX-License-Identifier: Apache-2.0

//! The one table from an error inside to what is said outside: status, code, outcome, hint, pause.
//!
//! Status and outcome hang on the code (`mraft_api::code`); this file says which code, which words and which pause.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use mraft_api::problem::PROBLEM_MEDIA_TYPE;
use mraft_api::{ErrorCode, Problem, Served, headers};
use mraft_types::{ChangeRefused, GroupId};

use crate::http::answer::{Response, name_of, put_served};
use crate::needs::{Failure, NodeError};

/// A request that ends with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What is said.
    pub(crate) problem: Problem,
    /// Who said it, of which state, when a group did.
    pub(crate) served: Option<Served>,
    /// The methods that the route takes, when this one is not among them.
    pub(crate) allow: Option<String>,
}

impl Refused {
    /// The door itself refuses, before the node was asked.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Box<Refused> {
        // Nothing was begun, so whatever it was, it is not applied.
        Box::new(Refused { problem: Problem::new(code, false, detail), served: None, allow: None })
    }

    /// The same with a hint.
    pub(crate) fn with_hint(mut self: Box<Self>, hint: impl Into<String>) -> Box<Refused> {
        self.problem.hint = Some(hint.into());
        self
    }

    /// The same, said by a group that was asked.
    pub(crate) fn with_served(mut self: Box<Self>, served: Served) -> Box<Refused> {
        self.problem.group = Some(served.group);
        self.problem.leader = served.leader;
        self.served = Some(served);
        self
    }

    /// The node refused or failed.
    #[expect(clippy::boxed_local, reason = "it arrives boxed from every call")]
    pub(crate) fn by_node(failure: Box<Failure>, is_write: bool) -> Box<Refused> {
        let Failure { error, group, leader, leader_http } = *failure;
        let said = said_of(&error);
        let mut problem = Problem::new(said.code, is_write, said.detail);
        problem.hint = said.hint.map(str::to_owned);
        problem.retry_after_ms = said.retry_after.map(|pause| pause.as_millis() as u64);
        problem.group = group.map(|group| group.0);
        problem.leader = leader.map(|leader| leader.get());
        problem.leader_http = leader_http;
        let mut refused = Refused { problem, served: None, allow: None };
        if let NodeError::ConditionFailed { served, operation, current } = error {
            refused.problem.group = Some(served.group);
            refused.problem.leader = served.leader;
            refused.problem.revision = current;
            refused.problem.operation = Some(operation);
            refused.served = Some(served);
        }
        Box::new(refused)
    }
}

impl IntoResponse for Box<Refused> {
    fn into_response(self) -> Response {
        let Refused { problem, served, allow } = *self;
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        fields.insert(name_of(headers::OUTCOME), HeaderValue::from_static(problem.outcome.as_str()));
        if let Some(millis) = problem.retry_after_ms {
            fields.insert(RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
        }
        if let Some(served) = &served {
            put_served(fields, served);
        }
        if let Some(allow) = allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
            fields.insert(ALLOW, allow);
        }
        response
    }
}

/// What is said of it outside, in one sentence.
impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&said_of(self).detail)
    }
}

/// One row of the table.
struct Said {
    code: ErrorCode,
    detail: String,
    hint: Option<&'static str>,
    retry_after: Option<Duration>,
}

fn said_of(error: &NodeError) -> Said {
    use ErrorCode as Code;
    let said = |code, detail: String| Said { code, detail, hint: None, retry_after: None };
    let hinted = |code, detail: String, hint| Said { hint: Some(hint), ..said(code, detail) };
    let later = |code, detail: String, millis, hint| Said {
        retry_after: Some(Duration::from_millis(millis)),
        ..hinted(code, detail, hint)
    };
    match error {
        NodeError::GroupNotFound(group) => hinted(
            Code::GroupNotFound,
            format!("there is no group {group}"),
            "GET /v1/groups lists all groups",
        ),
        NodeError::ConditionFailed { current: Some(revision), .. } => hinted(
            Code::ConditionFailed,
            format!("the key has revision {revision}"),
            "read the key again and decide anew",
        ),
        NodeError::ConditionFailed { current: None, .. } => hinted(
            Code::ConditionFailed,
            "the key does not exist".to_owned(),
            "read the key again and decide anew",
        ),
        NodeError::Conflict(why) => {
            later(Code::Conflict, why.clone(), 200, "wait until the other operation has ended")
        }
        NodeError::Change(refused) => said_of_change(refused),
        NodeError::ChangedMeanwhile { expected, current } => hinted(
            Code::ChangeRefused,
            format!("the last membership change is at index {current}, not at {expected}"),
            "look at the group again and decide anew",
        ),
        NodeError::ChangeIndexMissing => hinted(
            Code::ChangeRefused,
            "the change does not say for which membership it was made (ordered_config_change is on)"
                .to_owned(),
            "give `change_index` in the body, as GET /v1/groups/{group} shows it",
        ),
        NodeError::TransferFailed(to) => later(
            Code::Conflict,
            format!("replica {to} did not take leadership over in time"),
            1000,
            "look whether it is connected and caught up, then try again",
        ),
        NodeError::TooLarge { what, bytes, bytes_max } => {
            said(Code::TooLarge, format!("{what} has {bytes} bytes, at most {bytes_max} are taken"))
        }
        NodeError::NoHolder { hops } => later(
            Code::NoHolder,
            format!("no node that holds the group was found within {hops} hops"),
            200,
            "the topology is changing or its holders are down; try again, or another node",
        ),
        NodeError::Overloaded { queue, retry_after } => Said {
            retry_after: Some(*retry_after),
            ..hinted(
                Code::Overloaded,
                format!("full: {queue}"),
                "send less at once, and wait before the next attempt",
            )
        },
        NodeError::NoLeader => later(
            Code::NoLeader,
            "the group has no leader that can be reached".to_owned(),
            200,
            "it elects one if a majority of its voters is up; a read may be made with consistency=stale",
        ),
        NodeError::Transferring(to) => later(
            Code::NoLeader,
            format!("leadership is being handed to replica {to}"),
            50,
            "try again in a moment",
        ),
        NodeError::Moved { epoch } => later(
            Code::Moved,
            format!("the slot belongs to another group since epoch {epoch}"),
            50,
            "try again; the node learns where it went",
        ),
        NodeError::Superseded => later(
            Code::Superseded,
            "another leader's entry took its place in the log".to_owned(),
            20,
            "it was not applied and will not be; send it again",
        ),
        NodeError::Stopping => later(
            Code::Stopping,
            "this node is stopping and takes nothing new".to_owned(),
            100,
            "ask another node",
        ),
        NodeError::ReplicaUnfit(why) => {
            later(Code::ReplicaUnfit, why.clone(), 1000, "ask another node; GET /v1/groups shows the state")
        }
        NodeError::DiskFull(why) => {
            later(Code::DiskFull, why.clone(), 1000, "free space on the node's disk; it goes on by itself")
        }
        NodeError::DiskStalled(why) => {
            later(Code::DiskStalled, why.clone(), 1000, "ask another node; look at this one's disk")
        }
        NodeError::NotStarted => later(
            Code::NotStarted,
            "the deadline passed before anything was proposed or sent on".to_owned(),
            20,
            "send it again, with more time (timeout_ms)",
        ),
        NodeError::Unknown(why) => hinted(
            Code::OutcomeUnknown,
            why.clone(),
            "read the key, or look at the group, to see what became of it",
        ),
        NodeError::NodeListed { node, groups } => hinted(
            Code::ChangeRefused,
            format!("node {node} is still a member of group {}", listed(groups)),
            "remove it there first (POST /v1/groups/{group}/remove); the node that it was may still be counted on",
        ),
        NodeError::Refused(why) => said(Code::ChangeRefused, why.clone()),
        NodeError::NotInThisRelease(what) => {
            said(Code::NotInThisRelease, format!("{what} comes with a later release"))
        }
        NodeError::Internal(what) => {
            hinted(Code::Internal, what.clone(), "this is a defect; please report it with the node's log")
        }
    }
}

fn listed(groups: &[GroupId]) -> String {
    groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn said_of_change(refused: &ChangeRefused) -> Said {
    let (code, hint) = match refused {
        ChangeRefused::NotAMember(_) => {
            (ErrorCode::NotAMember, Some("GET /v1/groups/{group} lists the members"))
        }
        ChangeRefused::BadAddress(_) => (ErrorCode::BadRequest, None),
        ChangeRefused::Removed(_) => {
            (ErrorCode::ChangeRefused, Some("add the node again as a learner; it gets the next generation"))
        }
        ChangeRefused::NodeHasReplica(_) => (ErrorCode::ChangeRefused, Some("remove that replica first")),
        ChangeRefused::LastVoter(_) => (ErrorCode::ChangeRefused, Some("promote another member first")),
        _ => (ErrorCode::ChangeRefused, None),
    };
    Said { code, detail: refused.to_string(), hint, retry_after: None }
}

#[cfg(test)]
mod tests {
    use mraft_api::Outcome;
    use mraft_types::{NodeId, ReplicaId};

    use super::*;

    fn replica() -> ReplicaId {
        ReplicaId::new(1, NodeId::new(7).expect("a node id"))
    }

    /// Every error, with the status, code and outcome that a write which fails with it is answered with.
    fn table() -> Vec<(NodeError, u16, &'static str, Outcome)> {
        use Outcome::{NotApplied, Unknown};
        let text = || "why".to_owned();
        let condition =
            |current| NodeError::ConditionFailed { served: Served::default(), operation: 0, current };
        let overloaded = NodeError::Overloaded { queue: text(), retry_after: Duration::from_millis(7) };
        vec![
            (NodeError::GroupNotFound(GroupId(3)), 404, "group_not_found", NotApplied),
            (condition(None), 412, "condition_failed", NotApplied),
            (condition(Some(4)), 412, "condition_failed", NotApplied),
            (NodeError::Conflict(text()), 409, "conflict", NotApplied),
            (NodeError::Change(ChangeRefused::NotAMember(replica())), 404, "not_a_member", NotApplied),
            (NodeError::Change(ChangeRefused::BadAddress(text())), 400, "bad_request", NotApplied),
            (NodeError::Change(ChangeRefused::LastVoter(replica())), 409, "change_refused", NotApplied),
            (NodeError::Change(ChangeRefused::Removed(replica())), 409, "change_refused", NotApplied),
            (NodeError::ChangedMeanwhile { expected: 1, current: 2 }, 409, "change_refused", NotApplied),
            (NodeError::ChangeIndexMissing, 409, "change_refused", NotApplied),
            (NodeError::TransferFailed(replica()), 409, "conflict", NotApplied),
            (NodeError::TooLarge { what: "it", bytes: 2, bytes_max: 1 }, 413, "too_large", NotApplied),
            (NodeError::NoHolder { hops: 2 }, 421, "no_holder", NotApplied),
            (overloaded, 429, "overloaded", NotApplied),
            (NodeError::NoLeader, 503, "no_leader", NotApplied),
            (NodeError::Transferring(replica()), 503, "no_leader", NotApplied),
            (NodeError::Moved { epoch: 2 }, 503, "moved", NotApplied),
            (NodeError::Superseded, 503, "superseded", NotApplied),
            (NodeError::Stopping, 503, "stopping", NotApplied),
            (NodeError::ReplicaUnfit(text()), 503, "replica_unfit", NotApplied),
            (NodeError::DiskFull(text()), 503, "disk_full", NotApplied),
            (NodeError::DiskStalled(text()), 503, "disk_stalled", NotApplied),
            (NodeError::NotStarted, 503, "not_started", NotApplied),
            (NodeError::Unknown(text()), 504, "outcome_unknown", Unknown),
            (
                NodeError::NodeListed { node: replica().node(), groups: vec![GroupId(3)] },
                409,
                "change_refused",
                NotApplied,
            ),
            (NodeError::Refused(text()), 409, "change_refused", NotApplied),
            (NodeError::NotInThisRelease("it"), 501, "not_in_this_release", NotApplied),
            (NodeError::Internal(text()), 500, "internal", Unknown),
        ]
    }

    #[test]
    fn every_error_has_its_row() {
        for (error, status, code, outcome) in table() {
            let refused = Refused::by_node(error.clone().into(), true);
            let problem = &refused.problem;
            assert_eq!((problem.status, problem.code.as_str(), problem.outcome), (status, code, outcome));
            assert!(!problem.detail.is_empty() && problem.detail != problem.title, "{error:?}");
            let read = Refused::by_node(error.into(), false);
            assert_eq!(read.problem.outcome, Outcome::NotApplied, "a read changes nothing");
            let response = refused.into_response();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()["mraft-outcome"], outcome.as_str());
        }
    }

    #[test]
    fn what_may_help_later_says_when() {
        for (error, ..) in table() {
            let problem = Refused::by_node(error.into(), true).problem;
            let says_when = problem.retry_after_ms.is_some();
            let may_help = problem.code.retry() == mraft_api::code::Retry::Later
                && problem.outcome == Outcome::NotApplied;
            assert_eq!(says_when, may_help, "{}", problem.code);
        }
    }

    #[test]
    fn retry_after_is_whole_seconds_rounded_up() {
        let overloaded =
            NodeError::Overloaded { queue: "q".to_owned(), retry_after: Duration::from_millis(1001) };
        let response = Refused::by_node(overloaded.into(), true).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
