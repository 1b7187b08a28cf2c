// SPDX-License-Identifier: Apache-2.0

//! What can go wrong on the client's side, and what each error says about the effect.

use std::fmt;

use crate::code::{ErrorCode, Outcome, Retry};
use crate::problem::Problem;

/// A client that cannot be made. Always the caller's to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub(super) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// A request that failed, after every attempt that was safe and had time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientError {
    /// A node answered with an error.
    Problem(Box<Problem>),
    /// No byte of the request left.
    Unreachable {
        /// Which endpoint was tried last.
        endpoint: String,
        /// Why it could not be reached.
        detail: String,
    },
    /// The connection broke after bytes may have left and before the answer was complete.
    Lost {
        /// Which endpoint.
        endpoint: String,
        /// How it broke.
        detail: String,
        /// Whether the request was a write.
        is_write: bool,
    },
    /// The deadline passed.
    Deadline {
        /// Which endpoint was being asked.
        endpoint: String,
        /// Whether bytes of a write may have left in the last attempt.
        write_may_have_left: bool,
    },
    /// A node answered something that is not of the contract.
    BadAnswer {
        /// Which endpoint.
        endpoint: String,
        /// What is wrong with it.
        detail: String,
        /// Whether the request was a write.
        is_write: bool,
    },
}

impl ClientError {
    /// What is known about the effect.
    pub fn outcome(&self) -> Outcome {
        let unknown_if = |open: bool| if open { Outcome::Unknown } else { Outcome::NotApplied };
        match self {
            ClientError::Problem(problem) => problem.outcome,
            ClientError::Unreachable { .. } => Outcome::NotApplied,
            ClientError::Lost { is_write, .. } | ClientError::BadAnswer { is_write, .. } => {
                unknown_if(*is_write)
            }
            ClientError::Deadline { write_may_have_left, .. } => unknown_if(*write_may_have_left),
        }
    }

    /// The node's error, if it was one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// The exit code of a command that ends with this error: 1 failed, 2 usage, 3 not found, 4 condition failed,
    /// 5 outcome unknown, 6 unavailable and nothing applied.
    pub fn exit_code(&self) -> u8 {
        match self {
            ClientError::Problem(problem) => match problem.code {
                ErrorCode::KeyNotFound | ErrorCode::GroupNotFound | ErrorCode::NotAMember => 3,
                ErrorCode::ConditionFailed => 4,
                _ if problem.outcome == Outcome::Unknown => 5,
                _ if matches!(problem.status, 400 | 413) => 2,
                code if code.retry() == Retry::Later && code != ErrorCode::Conflict => 6,
                _ => 1,
            },
            ClientError::BadAnswer { is_write: false, .. } => 1,
            _ if self.outcome() == Outcome::Unknown => 5,
            _ => 6,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Problem(problem) => problem.fmt(f),
            ClientError::Unreachable { endpoint, detail } => {
                write!(f, "{endpoint} cannot be reached: {detail}")
            }
            ClientError::Lost { endpoint, detail, .. } => {
                write!(f, "the connection to {endpoint} broke before the answer was complete: {detail}")
            }
            ClientError::Deadline { endpoint, .. } => {
                write!(f, "the deadline passed while {endpoint} was being asked")
            }
            ClientError::BadAnswer { endpoint, detail, .. } => {
                write!(f, "{endpoint} did not answer as a node of mraft does: {detail}")
            }
        }
    }
}

impl std::error::Error for ClientError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_apart_what_a_script_must_tell_apart() {
        let problem = |code, is_write| {
            ClientError::Problem(Box::new(Problem::new(code, is_write, "detail"))).exit_code()
        };
        assert_eq!(problem(ErrorCode::BadKey, false), 2);
        assert_eq!(problem(ErrorCode::TooLarge, true), 2);
        assert_eq!(problem(ErrorCode::KeyNotFound, false), 3);
        assert_eq!(problem(ErrorCode::ConditionFailed, true), 4);
        assert_eq!(problem(ErrorCode::OutcomeUnknown, true), 5);
        assert_eq!(problem(ErrorCode::OutcomeUnknown, false), 6);
        assert_eq!(problem(ErrorCode::NoLeader, true), 6);
        assert_eq!(problem(ErrorCode::Overloaded, true), 6);
        assert_eq!(problem(ErrorCode::Conflict, true), 1);
        assert_eq!(problem(ErrorCode::ChangeRefused, true), 1);
        let endpoint = || "http://a".to_owned();
        let lost = |is_write| ClientError::Lost { endpoint: endpoint(), detail: String::new(), is_write };
        assert_eq!((lost(true).exit_code(), lost(false).exit_code()), (5, 6));
        let deadline =
            |write_may_have_left| ClientError::Deadline { endpoint: endpoint(), write_may_have_left };
        assert_eq!((deadline(true).exit_code(), deadline(false).exit_code()), (5, 6));
    }
}
