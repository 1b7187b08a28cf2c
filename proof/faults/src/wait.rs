// SPDX-License-Identifier: Apache-2.0

//! Waiting for a condition, never for time, unless a fault is made of it: the bound only ends runs that would not end by themselves, and says what they waited for.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// Far more than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Looks until there is something to answer with. `look` says in its error why not yet; it is told when the time is up.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let not_yet = match look().await {
            Ok(found) => return Ok(found),
            Err(not_yet) => not_yet,
        };
        if Instant::now() >= deadline {
            let waited = PATIENCE.as_secs();
            return Err(not_yet.while_doing(format_args!("waited {waited} s until {what}")));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Lets time pass: for faults that have a length, and for nothing else.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// For conditions that are or are not: an error that says what is.
pub fn is(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Failure::new(otherwise())) }
}
