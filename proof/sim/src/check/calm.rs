// SPDX-License-Identifier: Apache-2.0

//! What must hold once everything has healed: the liveness half of all promises (P7 among them).

/// Every group takes a write soon.
pub const GROUPS_COME_BACK: &str = "every group takes a write within ten election timeouts of the calm";
/// Nobody disturbs a leader that everybody hears.
pub const TERMS_REST: &str = "terms stop growing in the calm";
/// Nobody is left behind.
pub const MEMBERS_EQUAL: &str = "all members of a group are equal in the end";
/// What is not needed any more is given back.
pub const SPACE_COMES_BACK: &str = "disk space is given back in the calm";
