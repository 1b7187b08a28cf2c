// SPDX-License-Identifier: Apache-2.0

//! What a panic ends (rule T4): inside one group's own state that group's replica, anywhere else the process.
//!
//! A thread of the host that is gone would leave its groups silent, its mailbox growing and its peers waiting, and nobody knows what it
//! left half done. A process that ends is noticed at once, elections follow, and recovery is made for it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use mraft_engine::machine::{MachineError, SnapshotView};

/// Runs something that belongs to one group; the reason for which its replica stops, when it panics. What it worked on must be discarded.
pub(crate) fn caught<T>(what: &str, part: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(part)).map_err(|panic| format!("{what} panicked: {}", text(panic.as_ref())))
}

/// Runs a thread's whole life. A panic that nobody caught for a group ends the process.
pub(crate) fn or_abort(thread: &str, run: impl FnOnce()) {
    if let Err(reason) = caught("the thread", run) {
        tracing::error!(
            thread,
            "{reason}; it serves many groups, and nobody can go on for it: the process ends"
        );
        std::process::abort();
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it does not say why")
}

/// A view whose panics are caught and remembered: it is read on a thread that streams for other groups too.
pub(crate) struct CaughtView {
    view: Box<dyn SnapshotView>,
    panicked: Arc<OnceLock<String>>,
}

impl CaughtView {
    /// The view, and where the reason is found once it panicked.
    pub(crate) fn over(view: Box<dyn SnapshotView>) -> (Box<dyn SnapshotView>, Arc<OnceLock<String>>) {
        let panicked = Arc::default();
        (Box::new(CaughtView { view, panicked: Arc::clone(&panicked) }), panicked)
    }
}

impl SnapshotView for CaughtView {
    fn meta(&self) -> &[u8] {
        self.view.meta()
    }

    fn next_chunk(&mut self, max_bytes: usize, out: &mut Vec<u8>) -> Result<bool, MachineError> {
        if let Some(reason) = self.panicked.get() {
            return Err(MachineError::Failed(reason.clone()));
        }
        let view = &mut self.view;
        caught("the view of its snapshot", || view.next_chunk(max_bytes, out))
            .unwrap_or_else(|reason| Err(MachineError::Failed(self.panicked.get_or_init(|| reason).clone())))
    }
}
