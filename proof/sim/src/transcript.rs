// SPDX-License-Identifier: Apache-2.0

//! What happened in a run, for people: who did what, and what everybody believed at certain moments.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

/// Longest transcript in lines: of one that is longer, the end is kept, where the promise broke.
const LINES_MAX: usize = 200_000;

/// The lines so far. A clone has the same lines, those that are yet to come included: so they are there when a run panics.
#[derive(Clone, Debug, Default)]
pub struct Transcript(Rc<RefCell<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<(u64, String)>,
    dropped: u64,
}

impl Transcript {
    /// Something happened at this moment of virtual time.
    pub fn say(&mut self, now_us: u64, what: String) {
        let mut all = self.0.borrow_mut();
        if all.lines.len() == LINES_MAX {
            all.lines.pop_front();
            all.dropped += 1;
        }
        all.lines.push_back((now_us, what));
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.borrow();
        if all.dropped > 0 {
            writeln!(f, "({} lines before these are left out)", all.dropped)?;
        }
        for (now_us, what) in &all.lines {
            writeln!(f, "{:10.3} ms  {what}", *now_us as f64 / 1000.0)?;
        }
        Ok(())
    }
}
