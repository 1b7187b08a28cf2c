// SPDX-License-Identifier: Apache-2.0

//! Lookups on the doors' threads, never on the last of them (rule T1).
//!
//! A lookup is a few microseconds of work that is best done where the request is. But it may need the disk, and a disk that does not answer
//! keeps the thread: if it could have all of them, nobody would be left to say how the node is. So as many as there are threads but one are
//! done at once. Further ones go to threads for that, which costs a hand-over; they wait for one of few, and are given up at their deadline.
//! Those threads are not all for lookups either: whoever asks how a group is needs one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mraft::machines::{Lookup, MachineError};
use tokio::sync::Semaphore;

/// Threads beside the doors' own, which the runtime starts when they are needed: each takes a stack of the memory that the node may have.
pub(super) const BESIDE_THREADS_MAX: usize = 64;
/// Lookups on them at once.
const BESIDE_MAX: usize = BESIDE_THREADS_MAX / 2;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The deadline passed.
    Late,
    /// The state machine says no.
    Machine(MachineError),
}

/// Counts the lookups that are under way on the doors' threads.
#[derive(Debug)]
pub(super) struct Lookups {
    at_once_max: usize,
    under_way: AtomicUsize,
    beside: Arc<Semaphore>,
}

impl Lookups {
    /// For doors with so many threads.
    pub(super) fn new(door_threads: usize) -> Lookups {
        Lookups {
            at_once_max: door_threads.saturating_sub(1),
            under_way: AtomicUsize::new(0),
            beside: Arc::new(Semaphore::new(BESIDE_MAX)),
        }
    }

    /// Asks a state machine.
    pub(super) async fn ask(
        &self,
        lookup: Arc<dyn Lookup>,
        query: &[u8],
        until: Instant,
    ) -> Result<Vec<u8>, NoAnswer> {
        if let Some(_one_of_few) = self.enter() {
            return answer(lookup.as_ref(), query).map_err(NoAnswer::Machine);
        }
        let beside = Arc::clone(&self.beside).acquire_owned();
        let Ok(Ok(beside)) = tokio::time::timeout_at(until.into(), beside).await else {
            return Err(NoAnswer::Late);
        };
        let query = query.to_vec();
        let asked = tokio::task::spawn_blocking(move || {
            // Also when nobody waits for the answer any more.
            let _one_of_few = beside;
            answer(lookup.as_ref(), &query)
        });
        match tokio::time::timeout_at(until.into(), asked).await {
            Ok(Ok(answered)) => answered.map_err(NoAnswer::Machine),
            Ok(Err(error)) => Err(NoAnswer::Machine(MachineError::Failed(error.to_string()))),
            Err(_) => Err(NoAnswer::Late),
        }
    }

    fn enter(&self) -> Option<UnderWay<'_>> {
        let own = UnderWay(&self.under_way);
        (self.under_way.fetch_add(1, Ordering::Relaxed) < self.at_once_max).then_some(own)
    }
}

/// Counted until it is dropped, also by a panic.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn answer(lookup: &dyn Lookup, query: &[u8]) -> Result<Vec<u8>, MachineError> {
    let mut answer = Vec::new();
    lookup.query(query, &mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use super::*;

    /// Hangs until its sender is dropped, unless it is asked for nothing.
    struct Hangs(Mutex<Receiver<()>>);

    impl Lookup for Hangs {
        fn query(&self, query: &[u8], answer: &mut Vec<u8>) -> Result<(), MachineError> {
            if !query.is_empty() {
                // It ends when the sender is gone.
                let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
            answer.extend_from_slice(query);
            Ok(())
        }
    }

    #[test]
    fn t1_lookups_that_hang_leave_a_thread_to_the_doors() {
        const THREADS: usize = 2;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BESIDE_THREADS_MAX)
            .enable_all()
            .build()
            .expect("a runtime");
        let (let_go, hangs) = channel();
        let lookup: Arc<dyn Lookup> = Arc::new(Hangs(Mutex::new(hangs)));
        let lookups = Arc::new(Lookups::new(THREADS));
        let ask = |until| {
            let (lookup, lookups) = (Arc::clone(&lookup), Arc::clone(&lookups));
            runtime.spawn(async move { lookups.ask(lookup, b"hang", until).await })
        };
        let far = Instant::now() + Duration::from_secs(600);
        let waiting: Vec<_> = (0..8).map(|_| ask(far)).collect();
        // Whatever hangs, this one is answered: by a thread that none of them has.
        let late = runtime.block_on(async {
            let soon = Instant::now() + Duration::from_millis(20);
            let (lookup, lookups) = (Arc::clone(&lookup), Arc::clone(&lookups));
            tokio::spawn(async move {
                while lookups.under_way.load(Ordering::Relaxed) < THREADS - 1 {
                    tokio::task::yield_now().await;
                }
                lookups.ask(lookup, b"hang", soon).await
            })
            .await
        });
        assert!(matches!(late, Ok(Err(NoAnswer::Late))), "{late:?}");
        // They cannot have all the threads beside either.
        let soon = Instant::now() + Duration::from_millis(20);
        let many: Vec<_> = (0..2 * BESIDE_THREADS_MAX).map(|_| ask(soon)).collect();
        for asked in many {
            let late = runtime.block_on(asked).expect("no panic");
            assert!(matches!(late, Err(NoAnswer::Late)), "{late:?}");
        }
        let status = runtime.block_on(async { tokio::task::spawn_blocking(|| 7).await });
        assert_eq!(status.expect("no panic"), 7, "there is a thread for somebody else");
        drop(let_go);
        for asked in waiting {
            let answered = runtime.block_on(asked).expect("no panic");
            assert_eq!(answered.expect("it came back"), b"hang");
        }
        assert_eq!(lookups.under_way.load(Ordering::Relaxed), 0);
    }
}
