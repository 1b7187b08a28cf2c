// SPDX-License-Identifier: Apache-2.0

//! SIGTERM, SIGINT, and SIGHUP unless it is ignored: the first asks for a drain, the second ends it.

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
    let mut signals = {
        let _inside = runtime.enter();
        // Whoever starts a process with nohup wants it to go on when its terminal is closed.
        let hangup = (!is_hangup_ignored()).then(|| signal(SignalKind::hangup())).transpose()?;
        Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut count = 0;
        while runtime.block_on(signals.next()).is_some() {
            count += 1;
            on_signal(count);
        }
    });
    thread.map(drop).map_err(no_thread)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    async fn next(&mut self) -> Option<()> {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            seen = self.terminate.recv() => seen,
            seen = self.interrupt.recv() => seen,
            seen = hangup => seen,
        }
    }
}

/// Whether this process was started with SIGHUP ignored; where the system does not tell, it was not.
fn is_hangup_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

fn ignores_hangup(status: &str) -> bool {
    // Signal 1 is the lowest bit of the mask.
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 == 1)
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
    let thread = thread::Builder::new().name("stdin".to_owned()).spawn(move || {
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
    });
    thread.map(drop).map_err(no_thread)
}

/// The system's own words do not say of what there is too little.
fn no_thread(error: io::Error) -> io::Error {
    let hint = "let the process have more (pids.max of its control group, ulimit -u)";
    io::Error::new(error.kind(), format!("a thread cannot be started: {error}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_stays_ignored() {
        assert!(ignores_hangup("Name:\tmraft\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }

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
