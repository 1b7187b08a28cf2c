// SPDX-License-Identifier: Apache-2.0

//! Why a run is not as it should be.

use std::fmt;

use mraft_api::ClientError;
use mraft_history::Broken;

/// One sentence for whoever reads the test's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

/// What everything here answers with.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure in these words.
    pub fn new(text: impl fmt::Display) -> Failure {
        Failure(text.to_string())
    }

    /// The same failure, with what was being done when it happened.
    #[must_use]
    pub fn while_doing(self, what: impl fmt::Display) -> Failure {
        Failure(format!("{what}: {}", self.0))
    }

    /// The same failure with what the nodes said last. The reason comes before it and behind it: whoever reads has the beginning of a
    /// long output, or its end.
    #[must_use]
    pub fn with_last_words(self, words: impl fmt::Display) -> Failure {
        Failure(format!("{reason}\n{words}\n--- the run failed: {reason}", reason = self.0))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::new(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::new(error)
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Failure {
        Failure::new(format_args!("BROKEN PROMISE: {broken}"))
    }
}
