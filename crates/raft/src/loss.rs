// SPDX-License-Identifier: Apache-2.0

//! The term of a replica whose loss an operator accepted (rule D9).
//!
//! What it voted, and in which terms, is lost with its log. If it came back in a term that it may have voted in, it could vote there a
//! second time, and two leaders of one term would commit different entries at one index. So it comes back in a term that no election can
//! have reached: terms are counted in epochs of 2^32, which elections never fill, and it begins the epoch after the last one that
//! anything still knows of, without a vote. The others learn the term from its first answer and go on from there.

use mraft_types::{Term, planted};

use crate::admission::POSITION_MAX;

/// Elections move the lower half of a term, accepted losses the upper one.
const EPOCH_BITS: u32 = 32;

/// The term in which a replica comes back that knows of no later one than `known`; `None` when terms are used up.
pub fn term_after_loss(known: Term) -> Option<Term> {
    if planted!(AcceptedTermKept) {
        return Some(known);
    }
    let epoch = (known >> EPOCH_BITS) + 1;
    Some(epoch << EPOCH_BITS).filter(|term| *term < POSITION_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d9_the_next_epoch_begins_above_every_term_of_this_one() {
        assert_eq!(term_after_loss(0), Some(1 << 32));
        assert_eq!(term_after_loss((1 << 32) - 1), Some(1 << 32));
        assert_eq!(term_after_loss(1 << 32), Some(2 << 32));
        assert_eq!(term_after_loss(POSITION_MAX - 1), None, "a term must stay below what could overflow");
    }
}
