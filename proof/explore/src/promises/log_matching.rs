// SPDX-License-Identifier: Apache-2.0

//! Log matching: if two logs have an entry with the same index and term, they are the same up to there. Compared are the logs that
//! replicas work with and those that they would come back with.

use super::View;
use crate::broken::{Broken, Promise};
use crate::summary::{Contents, Line};

pub(super) fn check(view: View<'_>, changed: u8) -> Result<(), Broken> {
    for (place, replica) in view.replicas.iter().enumerate() {
        if changed & 1 << place == 0 || replica.is_gone {
            continue;
        }
        for other in view.replicas.iter().filter(|other| !other.is_gone) {
            for one in [&replica.log, &replica.durable] {
                for another in [&other.log, &other.durable] {
                    if let Some(index) = parting(one, another, view.contents) {
                        let what = format!("two logs differ at {index} and meet again behind it");
                        return Err(Broken::new(Promise::LogMatching, what));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Where two logs differ although they share a later position.
fn parting(one: &Line, other: &Line, contents: &Contents) -> Option<u8> {
    let mut meet = false;
    for index in (2..=one.last.min(other.last)).rev() {
        let ((term, content), (other_term, other_content)) = (one.at(index)?, other.at(index)?);
        meet |= term == other_term;
        if meet && (term != other_term || !contents.may_be_one(content, other_content)) {
            return Some(index);
        }
    }
    None
}
