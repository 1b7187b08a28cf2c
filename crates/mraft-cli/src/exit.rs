// SPDX-License-Identifier: Apache-2.0

//! How a command ends: the one table of exit codes, and an error that knows its row.

use std::fmt;
use std::process::ExitCode;

use mraft_api::{ClientError, Outcome, Problem};
use serde_json::json;

use crate::config::ConfigError;

/// Exit codes. Scripts decide by them, so a number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was done.
    Ok = 0,
    /// It failed, and trying again the same way will not help.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was begun.
    Usage = 2,
    /// The key, group or member does not exist.
    NotFound = 3,
    /// The condition of a write did not hold; nothing was changed.
    ConditionFailed = 4,
    /// Nobody knows whether it happened.
    OutcomeUnknown = 5,
    /// Nobody could serve it now; nothing was changed, so it may be tried again.
    Unavailable = 6,
}

impl Exit {
    /// Every row.
    pub const ALL: [Exit; 7] = [
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::NotFound,
        Exit::ConditionFailed,
        Exit::OutcomeUnknown,
        Exit::Unavailable,
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// For `--help`.
    pub const TABLE: &'static str = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not found, 4 condition failed, \
                                     5 outcome unknown, 6 unavailable (nothing was changed).";

    fn from_code(code: u8) -> Exit {
        Exit::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Exit::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// The row of the table.
    pub exit: Exit,
    /// What happened and what to do, in sentences for a person.
    pub message: String,
    /// The node's own words, if a node answered.
    pub problem: Option<Box<Problem>>,
}

impl CommandError {
    /// It failed.
    pub fn failed(message: impl Into<String>) -> CommandError {
        CommandError { exit: Exit::Failed, message: message.into(), problem: None }
    }

    /// It was asked for wrongly.
    pub fn usage(message: impl Into<String>) -> CommandError {
        CommandError { exit: Exit::Usage, message: message.into(), problem: None }
    }

    /// It does not exist.
    pub fn not_found(message: impl Into<String>) -> CommandError {
        CommandError { exit: Exit::NotFound, message: message.into(), problem: None }
    }

    /// For programs (`-o json`, on standard error).
    pub fn to_json(&self) -> serde_json::Value {
        json!({ "error": self.message, "exit_code": self.exit.code(), "problem": self.problem })
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CommandError {}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> CommandError {
        CommandError::usage(error.to_string())
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> CommandError {
        let exit = Exit::from_code(error.exit_code());
        let mut message = error.to_string();
        if error.outcome() == Outcome::Unknown {
            message.push_str("; nobody knows whether it happened: read before you try again");
        }
        CommandError { exit, message, problem: error.problem().cloned().map(Box::new) }
    }
}

#[cfg(test)]
mod tests {
    use mraft_api::ErrorCode;

    use super::*;

    #[test]
    fn every_number_is_its_row() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6]);
        for exit in Exit::ALL {
            assert_eq!(Exit::from_code(exit.code()), exit);
            assert!(Exit::TABLE.contains(&format!("{} ", exit.code())), "{exit:?}");
        }
    }

    #[test]
    fn a_nodes_error_ends_a_command_as_the_table_says() {
        let exit = |code, is_write| {
            let problem = Problem::new(code, is_write, "why");
            CommandError::from(ClientError::Problem(Box::new(problem))).exit
        };
        assert_eq!(exit(ErrorCode::KeyNotFound, false), Exit::NotFound);
        assert_eq!(exit(ErrorCode::ConditionFailed, true), Exit::ConditionFailed);
        assert_eq!(exit(ErrorCode::OutcomeUnknown, true), Exit::OutcomeUnknown);
        assert_eq!(exit(ErrorCode::NoLeader, true), Exit::Unavailable);
        assert_eq!(exit(ErrorCode::BadKey, true), Exit::Usage);
        assert_eq!(exit(ErrorCode::ChangeRefused, true), Exit::Failed);
    }

    #[test]
    fn an_unknown_outcome_says_what_to_do() {
        let lost =
            ClientError::Lost { endpoint: "http://a".to_owned(), detail: "reset".to_owned(), is_write: true };
        let error = CommandError::from(lost);
        assert_eq!(error.exit, Exit::OutcomeUnknown);
        assert!(error.message.contains("read before you try again"));
        assert_eq!(error.to_json()["exit_code"], 5);
    }
}
