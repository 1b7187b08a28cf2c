// SPDX-License-Identifier: Apache-2.0

//! The checkers against histories that are known to be good or bad, and against a dumb twin.

mod known;
mod million;
mod script;
mod twin;
