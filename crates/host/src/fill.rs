// SPDX-License-Identifier: Apache-2.0

//! The thread that fills the log's next segment, without getting into the way of the log's own syncs.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mraft_logstore::Fill;

use crate::persist::LogJob;
use crate::runtime::Shared;

/// A filling rests so many times as long as its last step took, unless the log needs the file soon.
const FILL_RESTS: u32 = 8;
/// However slow the disk is, it does not rest for longer.
const FILL_REST_MAX: Duration = Duration::from_millis(100);
/// How often it looks meanwhile.
const FILL_POLL: Duration = Duration::from_millis(2);

/// Fills the log's next segment with zeros, beside the log's own thread.
pub(crate) fn fill_thread(shared: &Shared, fills: &Receiver<Option<Fill>>) {
    while let Ok(Some(fill)) = fills.recv() {
        let mut began = Instant::now();
        let filled = fill.run_with_rests(|is_needed_soon| {
            let until = Instant::now() + (began.elapsed() * FILL_RESTS).min(FILL_REST_MAX);
            while Instant::now() < until && !is_needed_soon() && !shared.stop.load(Ordering::Relaxed) {
                std::thread::sleep(FILL_POLL);
            }
            began = Instant::now();
        });
        // The log is closed only when the host closes; the next start finds the file.
        let _ = shared.log.send(LogJob::Filled(filled));
    }
}
