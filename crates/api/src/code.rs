// SPDX-License-Identifier: Apache-2.0

//! The table of error codes: the one place that relates a stable name to status, outcome and what a client may do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is known about the effect of a request that was not answered with success (rule E3). Always true, so a client may build on
/// it; for requests that change nothing it is always [`Outcome::NotApplied`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened.
    Applied,
    /// It did not and will not happen: safe to send again.
    NotApplied,
    /// It may have happened, or may still happen.
    Unknown,
}

impl Outcome {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::NotApplied => "not_applied",
            Outcome::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether another attempt may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request gets the same answer.
    Never,
    /// Later, or at another node.
    Later,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident $text:literal $status:literal $outcome:ident $retry:ident $title:literal;)*) => {
        /// Why a request failed. The strings are part of the contract: programs decide by them, so one never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
            /// A code that this build does not know; never sent.
            #[serde(other, rename = "unknown_code")]
            UnknownCode,
        }

        impl ErrorCode {
            /// Every code that a door may send.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),*];

            /// The stable string.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* ErrorCode::UnknownCode => "unknown_code" }
            }

            /// The HTTP status that it is sent with.
            pub const fn status(self) -> u16 {
                match self { $(ErrorCode::$name => $status,)* ErrorCode::UnknownCode => 500 }
            }

            /// The outcome of a write that failed with it.
            pub const fn write_outcome(self) -> Outcome {
                match self { $(ErrorCode::$name => Outcome::$outcome,)* ErrorCode::UnknownCode => Outcome::Unknown }
            }

            /// Whether another attempt may help; for a write only where the outcome allows one (rule E4).
            pub const fn retry(self) -> Retry {
                match self { $(ErrorCode::$name => Retry::$retry,)* ErrorCode::UnknownCode => Retry::Never }
            }

            /// One short sentence, the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(ErrorCode::$name => $title,)* ErrorCode::UnknownCode => "an error that this build does not know" }
            }
        }
    };
}

error_codes! {
    /// The request is not what the route takes.
    BadRequest "bad_request" 400 NotApplied Never "the request is not what this route takes";
    /// The key is empty, too long or wrongly escaped.
    BadKey "bad_key" 400 NotApplied Never "not a key";
    /// A query parameter that the route does not know.
    UnknownParameter "unknown_parameter" 400 NotApplied Never "no such query parameter";
    /// A query parameter with a value that it cannot have.
    BadParameter "bad_parameter" 400 NotApplied Never "a query parameter has a value that it cannot have";
    /// A condition header that a write cannot be made of.
    BadCondition "bad_condition" 400 NotApplied Never "not a condition";
    /// The keys of a batch are not of one slot (rule E6).
    ManySlots "many_slots" 400 NotApplied Never "the keys of a batch must be of one slot";
    /// The key does not exist.
    KeyNotFound "key_not_found" 404 NotApplied Never "no such key";
    /// No such group.
    GroupNotFound "group_not_found" 404 NotApplied Never "no such group";
    /// The node or replica is not a member of the group.
    NotAMember "not_a_member" 404 NotApplied Never "not a member of the group";
    /// No such route.
    RouteNotFound "route_not_found" 404 NotApplied Never "no such route";
    /// The route does not take this method.
    MethodNotAllowed "method_not_allowed" 405 NotApplied Never "the route does not take this method";
    /// The body did not arrive before the request's deadline.
    BodyTimeout "body_timeout" 408 NotApplied Later "the body did not arrive in time";
    /// Another operation is under way that excludes this one.
    Conflict "conflict" 409 NotApplied Later "another operation is under way";
    /// The change would break a rule of the group; the same at every retry.
    ChangeRefused "change_refused" 409 NotApplied Never "the change is refused";
    /// A condition did not hold.
    ConditionFailed "condition_failed" 412 NotApplied Never "a condition does not hold";
    /// The body, a value or the whole batch is too large.
    TooLarge "too_large" 413 NotApplied Never "too large";
    /// No holder of the group was found within the hops that a request may take.
    NoHolder "no_holder" 421 NotApplied Later "no node that holds the group was found";
    /// The bytes are not UTF-8, which this route needs.
    NotUtf8 "not_utf8" 422 NotApplied Never "the bytes are not UTF-8";
    /// A queue or a limit is full.
    Overloaded "overloaded" 429 NotApplied Later "too much at once";
    /// A defect of the server.
    Internal "internal" 500 Unknown Never "a defect of the server";
    /// Refused by name until a later release.
    NotInThisRelease "not_in_this_release" 501 NotApplied Never "not in this release";
    /// The group has no leader, or none that can be reached.
    NoLeader "no_leader" 503 NotApplied Later "the group has no leader";
    /// The slot belongs to another group than the one that was asked (rule E5).
    Moved "moved" 503 NotApplied Later "the slot has moved";
    /// The entry lost its place in the log to another leader's (rule E3).
    Superseded "superseded" 503 NotApplied Later "another leader took over";
    /// The node is stopping.
    Stopping "stopping" 503 NotApplied Later "the node is stopping";
    /// The replica may not serve: condemned, stopped or still waiting for its state.
    ReplicaUnfit "replica_unfit" 503 NotApplied Later "the replica cannot serve";
    /// The disk is full.
    DiskFull "disk_full" 503 NotApplied Later "the disk is full";
    /// The disk does not answer (rule T1).
    DiskStalled "disk_stalled" 503 NotApplied Later "the disk does not answer";
    /// The deadline passed before the request was proposed or sent on (rule E4).
    NotStarted "not_started" 503 NotApplied Later "the deadline passed before the request was begun";
    /// Nobody knows whether it happened.
    OutcomeUnknown "outcome_unknown" 504 Unknown Later "the outcome is unknown";
}

impl ErrorCode {
    /// The URI of the problem type.
    pub fn type_uri(self) -> String {
        format!("urn:mraft:problem:{}", self.as_str())
    }

    /// The outcome of a request that failed with this code.
    pub const fn outcome(self, is_write: bool) -> Outcome {
        if is_write { self.write_outcome() } else { Outcome::NotApplied }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_come_back_from_json() {
        let mut names: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(code).expect("serialisable");
            assert_eq!(json, format!("\"{}\"", code.as_str()));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).expect("known"), *code);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        assert_eq!(
            serde_json::from_str::<ErrorCode>("\"later\"").expect("tolerated"),
            ErrorCode::UnknownCode
        );
    }

    #[test]
    fn only_504_and_500_leave_the_outcome_of_a_write_open() {
        for code in ErrorCode::ALL {
            let open = code.write_outcome() == Outcome::Unknown;
            assert_eq!(open, matches!(code.status(), 500 | 504), "{code}");
            assert_eq!(code.outcome(false), Outcome::NotApplied);
        }
    }
}
