// SPDX-License-Identifier: Apache-2.0

//! What clients were told that ask for too much: how often which status, and whether each refusal says what it has to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mraft_api::headers;

use crate::failure::{Failure, Result};
use crate::raw::Answer;

/// Stands for no status at all: there was no connection, or it was closed without a word.
pub const NO_ANSWER: u16 = 0;

/// Answers, counted.
#[derive(Debug, Default)]
pub struct Told {
    statuses: Mutex<BTreeMap<u16, u64>>,
    /// An answer that the contract does not allow.
    odd: Mutex<Option<String>>,
}

impl Told {
    /// Takes in an answer, or that there was none.
    pub fn hear(&self, answer: &Result<Answer>) {
        let status = answer.as_ref().map_or(NO_ANSWER, |answer| answer.status);
        *lock(&self.statuses).entry(status).or_default() += 1;
        let Ok(answer) = answer else { return };
        let text = || String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned();
        let is_right = match status {
            200 | 404 => true,
            // What is no HTTP is answered without a body.
            400 | 431 => true,
            408 | 413 => answer.field(headers::OUTCOME) == Some("not_applied"),
            429 | 503 => answer.number("retry-after").is_some() && answer.field(headers::OUTCOME).is_some(),
            504 => answer.field(headers::OUTCOME).is_some(),
            _ => false,
        };
        if !is_right {
            *lock(&self.odd) = Some(format!("odd answer: {status} with {:?}: {}", answer.fields, text()));
        }
    }

    /// How often a status was answered.
    pub fn count(&self, status: u16) -> u64 {
        lock(&self.statuses).get(&status).copied().unwrap_or(0)
    }

    /// An error if some answer broke the contract.
    pub fn is_right(&self) -> Result<()> {
        lock(&self.odd).as_ref().map_or(Ok(()), |odd| Err(Failure::new(odd)))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", lock(&self.statuses))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
