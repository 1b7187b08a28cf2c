// SPDX-License-Identifier: Apache-2.0

//! The threads of a host that are beside the way of a write: snapshots, the clock, the log's next segment.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mraft_engine::event::{Event, NodeEvent};
use mraft_logstore::Fill;
use mraft_wire::HostBeat;

use super::{Pace, Shared, millis};
use crate::apply_worker::{ApplyMail, SnapshotSend};
use crate::core::{Incarnation, Input};
use crate::panics::CaughtView;
use crate::persist::LogJob;
use crate::slow_disk::Pauses;

/// A filling rests so many times as long as its last step took, unless the log needs the file soon.
const FILL_RESTS: u32 = 8;
/// However slow the disk is, it does not rest for longer.
const FILL_REST_MAX: Duration = Duration::from_millis(100);
/// How often it looks meanwhile.
const FILL_POLL: Duration = Duration::from_millis(2);

/// Streams snapshots, one at a time.
pub(super) fn snapshot_thread(shared: &Shared, sends: &Mutex<Receiver<Option<SnapshotSend>>>) {
    loop {
        let next = sends.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Some(SnapshotSend { of, order, meta, view })) = next else { return };
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let to = order.to;
        let (view, panicked) = CaughtView::over(view);
        let send = SnapshotSend { of, order, meta, view };
        let ok = shared.outbox().is_some_and(|outbox| outbox.stream(send));
        if let Some(reason) = panicked.get() {
            // The apply thread is gone only when the host closes.
            let _ = shared.apply(of.group).send(ApplyMail::Fail(of, reason.clone()));
        }
        let input = Input::Own(of, Event::SnapshotSent { to, ok });
        if !shared.puts_off(&input) {
            shared.deliver_inputs(vec![(of.group, input)]);
        }
    }
}

/// Moves the logical clock. After a pause of the process the missed ticks are dropped (rule T1): they would let every timeout pass
/// at once although nobody had a chance to speak. Nor did the disk have one.
pub(super) fn ticker(shared: &Shared, pace: &Pace) {
    let every = pace.tick;
    let mut next = Instant::now() + every;
    let mut random = crate::random::seed();
    let mut pauses = Pauses::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if let Some(wait) = next.checked_duration_since(now) {
            std::thread::sleep(wait);
        }
        next = (next + every).max(Instant::now());
        if pauses.stood_still(millis(shared.started.elapsed())) {
            shared.touching.goes_on();
        }
        let tick = shared.tick.fetch_add(1, Ordering::Relaxed) + 1;
        if tick.is_multiple_of(pace.beat_ticks.max(1)) {
            let (waits, disk_age) = shared.disk_wait();
            let refuses_for = shared.refuses_for();
            shared.listener.beat(waits, disk_age, refuses_for);
            if let Some(outbox) = shared.outbox() {
                outbox.beat(HostBeat {
                    durable_seq: shared.durable_seq(),
                    disk_age_ms: millis(disk_age.max(refuses_for)),
                    unix_ms: shared.now().unix_ms,
                });
            }
        }
        let failed =
            |(of, to): (Incarnation, _)| (of.group, Input::Own(of, Event::SnapshotSent { to, ok: false }));
        shared.deliver_inputs(shared.retries.due().into_iter().map(failed).collect());
        random = crate::random::next(random);
        shared.broadcast(|| Input::Node(NodeEvent::Tick { random }));
    }
}

/// Fills the log's next segment with zeros, beside the log's own thread.
pub(super) fn fill_thread(shared: &Shared, fills: &Receiver<Option<Fill>>) {
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
