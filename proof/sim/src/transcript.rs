// SPDX-License-Identifier: Apache-2.0

//! What happened in a run, for people: who did what, and what everybody believed at certain moments.

use std::fmt;

/// Longest transcript in lines: of one that is longer, the end is kept, where the promise broke.
const LINES_MAX: usize = 200_000;

/// The lines so far.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    lines: std::collections::VecDeque<(u64, String)>,
    dropped: u64,
}

impl Transcript {
    /// Something happened at this moment of virtual time.
    pub fn say(&mut self, now_us: u64, what: String) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back((now_us, what));
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dropped > 0 {
            writeln!(f, "({} lines before these are left out)", self.dropped)?;
        }
        for (now_us, what) in &self.lines {
            writeln!(f, "{:10.3} ms  {what}", *now_us as f64 / 1000.0)?;
        }
        Ok(())
    }
}
