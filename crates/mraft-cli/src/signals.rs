// SPDX-License-Identifier: Apache-2.0

//! SIGTERM and SIGINT: the first asks for a drain, the second ends it (item 17: a second signal stops at once).

use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A request to stop, shared by everybody who may ask and everybody who waits.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<State>);

#[derive(Debug, Default)]
struct State {
    reason: Mutex<Option<&'static str>>,
    changed: Condvar,
}

impl Shutdown {
    /// Asks to stop. Only the first reason counts.
    pub fn request(&self, reason: &'static str) {
        let mut current = self.0.reason.lock().unwrap_or_else(PoisonError::into_inner);
        current.get_or_insert(reason);
        self.0.changed.notify_all();
    }

    /// Why to stop, once somebody asked.
    pub fn requested(&self) -> Option<&'static str> {
        *self.0.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until somebody asks, and says why. Blocks the thread.
    pub fn wait(&self) -> &'static str {
        let mut current = self.0.reason.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *current {
                Some(reason) => return reason,
                None => current = self.0.changed.wait(current).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// From now on the process's signals come here: `on_signal` is called with 1 for the first, 2 for the second, and so on.
pub fn on_signals(mut on_signal: impl FnMut(u32) + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // Registered before this returns, so that no signal after it can end the process unseen.
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut count = 0;
        while runtime.block_on(next(&mut terminate, &mut interrupt)).is_some() {
            count += 1;
            on_signal(count);
        }
    })?;
    Ok(())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> Option<()> {
    tokio::select! {
        seen = terminate.recv() => seen,
        seen = interrupt.recv() => seen,
    }
}

/// A shutdown that the first signal requests; the second one ends the process at once with `status`.
pub fn shutdown_on_signals(status: u8) -> io::Result<Shutdown> {
    let shutdown = Shutdown::default();
    let requested = shutdown.clone();
    on_signals(move |count| match count {
        1 => requested.request("signal"),
        _ => std::process::exit(status.into()),
    })?;
    Ok(shutdown)
}

/// Requests the shutdown when the reader ends: how a node notices that its supervisor is gone, whatever killed that.
pub fn shutdown_at_end_of(mut reader: impl Read + Send + 'static, shutdown: Shutdown) -> io::Result<()> {
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut bytes = [0; 64];
        loop {
            match reader.read(&mut bytes) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        shutdown.request("standard input closed");
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts_and_reaches_who_waits() {
        let shutdown = Shutdown::default();
        assert_eq!(shutdown.requested(), None);
        let waiting = thread::spawn({
            let shutdown = shutdown.clone();
            move || shutdown.wait()
        });
        shutdown.request("signal");
        shutdown.request("other");
        assert_eq!(waiting.join().expect("no panic"), "signal");
    }

    #[test]
    fn a_closed_standard_input_asks_to_stop() {
        let shutdown = Shutdown::default();
        shutdown_at_end_of(io::Cursor::new(b"anything".to_vec()), shutdown.clone()).expect("a thread");
        assert_eq!(shutdown.wait(), "standard input closed");
    }
}
