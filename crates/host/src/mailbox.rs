// SPDX-License-Identifier: Apache-2.0

//! A queue between threads that hands over everything at once.
//!
//! The receiver takes the whole backlog with one lock, so the cost of a hand-over does not grow with the load: the busier a thread
//! is, the more it finds when it looks. Bounds are kept by the senders, each for its own kind of item (`pending_bytes_max`,
//! the transport's receive bound, one log job per turn), because an answer such as "persisted" must never be refused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a busy receiver looks out for more before it sleeps, as long as nobody else wants its processor.
const LINGER: Duration = Duration::from_micros(200);
/// How often it may hand its processor to somebody else meanwhile: where others are ready, more switches cost more than a wake
/// (measured: twice the reads of three nodes on two cores).
const LINGER_HANDOVERS_MAX: u32 = 4;
/// A yield that took longer than this let somebody else run.
const HANDOVER: Duration = Duration::from_micros(4);
/// A wait below this one means that the receiver is busy.
const SHORT_WAIT: Duration = Duration::from_micros(500);

/// Many senders, one receiver.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    /// Whether something lies there, to be looked at without the lock. Only a hint: the lock decides.
    is_filled: AtomicBool,
    /// Whether the receiver's last wait was so short that going to sleep for the next one is not worth it.
    is_busy: AtomicBool,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    closed: bool,
    waiting: bool,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Mailbox<T> {
        Mailbox {
            state: Mutex::new(State { items: Vec::new(), closed: false, waiting: false }),
            filled: Condvar::new(),
            is_filled: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
        }
    }

    /// Puts an item in; gives it back when the receiver is gone.
    pub(crate) fn send(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        state.items.push(item);
        self.is_filled.store(true, Ordering::Relaxed);
        self.wake(state);
        Ok(())
    }

    /// Puts many in with one lock, so that nothing comes between them; `false` when the receiver is gone.
    pub(crate) fn send_all(&self, items: impl IntoIterator<Item = T>) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.items.extend(items);
        if !state.items.is_empty() {
            self.is_filled.store(true, Ordering::Relaxed);
            self.wake(state);
        }
        true
    }

    /// Puts many in without waking the receiver: it finds them when something else wakes it.
    pub(crate) fn leave_all(&self, items: impl IntoIterator<Item = T>) {
        let mut state = self.lock();
        if !state.closed {
            state.items.extend(items);
        }
    }

    /// Wakes the receiver if there is something for it.
    pub(crate) fn nudge(&self) {
        let state = self.lock();
        if !state.items.is_empty() {
            self.is_filled.store(true, Ordering::Relaxed);
            self.wake(state);
        }
    }

    /// Waits for items at most `timeout` and swaps them for `taken`, which should be empty. `false` when the mailbox is closed and
    /// nothing is left.
    pub(crate) fn receive(&self, taken: &mut Vec<T>, timeout: Option<Duration>) -> bool {
        self.linger();
        let began = Instant::now();
        let mut state = self.lock();
        let waits = state.items.is_empty();
        while state.items.is_empty() && !state.closed {
            state.waiting = true;
            state = match timeout {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let (mut state, _) =
                        self.filled.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
                    state.waiting = false;
                    std::mem::swap(&mut state.items, taken);
                    self.received(began);
                    return !(state.closed && taken.is_empty());
                }
            };
            state.waiting = false;
        }
        std::mem::swap(&mut state.items, taken);
        if waits {
            self.received(began);
        } else {
            self.is_filled.store(false, Ordering::Relaxed);
        }
        !(state.closed && taken.is_empty())
    }

    /// Takes what is there without waiting.
    pub(crate) fn take(&self, taken: &mut Vec<T>) {
        std::mem::swap(&mut self.lock().items, taken);
    }

    /// Nothing more comes in; the receiver still gets what is there.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.is_filled.store(true, Ordering::Relaxed);
        self.filled.notify_all();
    }

    /// Under load something comes within the time that falling asleep and being woken take: then the receiver gives its processor to
    /// others that are ready, a few times, before it sleeps. One wait that was long, and it sleeps at once again: an idle host is idle.
    fn linger(&self) {
        if !self.is_busy.load(Ordering::Relaxed) {
            return;
        }
        let began = Instant::now();
        let (mut now, mut handovers) = (began, 0);
        while now - began < LINGER
            && handovers < LINGER_HANDOVERS_MAX
            && !self.is_filled.load(Ordering::Relaxed)
        {
            std::thread::yield_now();
            let before = std::mem::replace(&mut now, Instant::now());
            handovers += u32::from(now - before > HANDOVER);
        }
    }

    fn received(&self, began: Instant) {
        self.is_filled.store(false, Ordering::Relaxed);
        self.is_busy.store(began.elapsed() < SHORT_WAIT, Ordering::Relaxed);
    }

    fn wake(&self, state: MutexGuard<'_, State<T>>) {
        let waiting = state.waiting;
        drop(state);
        if waiting {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what waits in a mailbox and has a bound, beside what never may be refused.
#[derive(Debug, Default)]
pub(crate) struct WaitingBytes(AtomicUsize);

impl WaitingBytes {
    /// Counts `bytes` in, unless something waits already and there would be more than `bytes_max`.
    pub(crate) fn admit(&self, bytes: usize, bytes_max: usize) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(bytes) <= bytes_max;
        if !fits {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// What was counted in waits no more.
    pub(crate) fn release(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn t2_what_waits_is_bounded_and_one_alone_always_gets_in() {
        let waiting = WaitingBytes::default();
        assert!(waiting.admit(150, 100), "nothing else waits");
        assert!(!waiting.admit(1, 100));
        waiting.release(150);
        assert!(waiting.admit(60, 100) && waiting.admit(40, 100));
        assert!(!waiting.admit(1, 100));
        waiting.release(40);
        assert!(waiting.admit(40, 100), "what was refused is not counted");
    }

    #[test]
    fn everything_sent_comes_out_once_and_in_order() {
        let mailbox = Arc::new(Mailbox::new());
        let sender = {
            let mailbox = Arc::clone(&mailbox);
            std::thread::spawn(move || {
                for number in 0..10_000u32 {
                    mailbox.send(number).expect("open");
                }
                mailbox.close();
            })
        };
        let mut all = Vec::new();
        let mut taken = Vec::new();
        while mailbox.receive(&mut taken, None) {
            all.append(&mut taken);
        }
        sender.join().expect("no panic");
        assert_eq!(all, (0..10_000).collect::<Vec<_>>());
        assert_eq!(mailbox.send(1), Err(1), "closed");
    }
}
