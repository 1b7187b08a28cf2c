// SPDX-License-Identifier: Apache-2.0

//! When a request may be sent again (rule E4), as a pure decision.
//!
//! | what happened | read | write |
//! | --- | --- | --- |
//! | no byte left | again | again |
//! | bytes may have left, no answer | again | **never** |
//! | an error that another attempt may help | again | only if its outcome is `not_applied` |
//! | any other error | never | never |

use std::time::Duration;

use crate::client::error::ClientError;
use crate::code::{Outcome, Retry};

/// Most attempts of one request; the deadline nearly always comes first.
pub(super) const ATTEMPTS_MAX: u32 = 64;
/// The first pause after every endpoint was tried once; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause, also when a node asks for more: another node may answer earlier.
const PAUSE_MAX: Duration = Duration::from_millis(1000);

/// What to do after a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send again after this pause.
    Again(Duration),
    /// Hand the error to the caller.
    GiveUp,
}

/// Decides after the `attempt`-th failure (from 1) with so many endpoints to try.
pub(super) fn next(error: &ClientError, is_write: bool, attempt: u32, endpoints: usize) -> Next {
    let safe = match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Lost { .. } => !is_write,
        ClientError::Problem(problem) => {
            problem.code.retry() == Retry::Later && (!is_write || problem.outcome == Outcome::NotApplied)
        }
        ClientError::Deadline { .. } | ClientError::BadAnswer { .. } => false,
    };
    if !safe || attempt >= ATTEMPTS_MAX {
        return Next::GiveUp;
    }
    let rounds = attempt / endpoints.clamp(1, ATTEMPTS_MAX as usize) as u32;
    let pause = match error.problem().and_then(|problem| problem.retry_after_ms) {
        Some(millis) => Duration::from_millis(millis),
        None if rounds == 0 => Duration::ZERO,
        None => PAUSE_MIN * (1 << (rounds - 1).min(6)),
    };
    Next::Again(pause.min(PAUSE_MAX))
}

/// How long one attempt may take. A read leaves time to ask another node, in case this one hangs; a write is sent once.
pub(super) fn attempt_budget(is_write: bool, left: Duration, endpoints: usize) -> Duration {
    if is_write || endpoints < 2 { left } else { left / 2 }
}

/// The `timeout_ms` that goes with an attempt: a little less than its budget, so that the node's answer, which knows more than our
/// own clock, comes first.
pub(super) fn timeout_ms(budget: Duration) -> u64 {
    const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(500);
    let millis = (budget - (budget / 10).min(ANSWER_MARGIN_MAX)).as_millis();
    (millis as u64).clamp(1, crate::client::TIMEOUT_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::ErrorCode;
    use crate::problem::Problem;

    fn again(error: &ClientError, is_write: bool) -> bool {
        next(error, is_write, 1, 3) != Next::GiveUp
    }

    #[test]
    fn e4_what_never_left_may_always_be_sent_again() {
        let error = ClientError::Unreachable { endpoint: String::new(), detail: String::new() };
        assert!(again(&error, true) && again(&error, false));
    }

    #[test]
    fn e4_a_write_that_may_have_left_is_never_sent_again() {
        for is_write in [true, false] {
            let error = ClientError::Lost { endpoint: String::new(), detail: String::new(), is_write };
            assert_eq!(again(&error, is_write), !is_write);
        }
    }

    #[test]
    fn e4_the_table_of_codes_decides_about_answers() {
        for code in ErrorCode::ALL {
            for is_write in [true, false] {
                let error = ClientError::Problem(Box::new(Problem::new(*code, is_write, "")));
                let expected = code.retry() == Retry::Later
                    && (!is_write || code.write_outcome() == Outcome::NotApplied);
                assert_eq!(again(&error, is_write), expected, "{code} write={is_write}");
            }
        }
        let mut claims_applied = Problem::new(ErrorCode::NoLeader, true, "");
        claims_applied.outcome = Outcome::Unknown;
        assert!(!again(&ClientError::Problem(Box::new(claims_applied)), true));
    }

    #[test]
    fn every_endpoint_is_tried_before_the_first_pause() {
        let error = ClientError::Unreachable { endpoint: String::new(), detail: String::new() };
        let pauses: Vec<Next> = (1..=7).map(|attempt| next(&error, false, attempt, 3)).collect();
        let pause = |millis| Next::Again(Duration::from_millis(millis));
        let expected = [0, 0, 20, 20, 20, 40, 40].map(pause);
        assert_eq!(pauses, expected);
        assert_eq!(next(&error, false, ATTEMPTS_MAX, 3), Next::GiveUp);
    }

    #[test]
    fn a_node_says_when_but_not_for_longer_than_we_wait() {
        let mut problem = Problem::new(ErrorCode::Overloaded, true, "");
        problem.retry_after_ms = Some(7);
        let pause = |problem: &Problem| next(&ClientError::Problem(Box::new(problem.clone())), true, 1, 1);
        assert_eq!(pause(&problem), Next::Again(Duration::from_millis(7)));
        problem.retry_after_ms = Some(u64::MAX);
        assert_eq!(pause(&problem), Next::Again(PAUSE_MAX));
    }

    #[test]
    fn a_node_answers_before_our_own_clock_does() {
        assert_eq!(timeout_ms(Duration::from_secs(1)), 900);
        assert_eq!(timeout_ms(Duration::from_secs(20)), 19_500);
        assert_eq!(timeout_ms(Duration::ZERO), 1);
    }
}
