// SPDX-License-Identifier: Apache-2.0

//! A client's stream, metered: what comes before a request is complete takes memory that no request is counted for yet, and what is
//! not taken of an answer holds it.
//!
//! - Bytes of a large head count while it comes in; when there is no room for more of them, the connection ends. A small one has its room
//!   from the beginning of the connection on.
//! - A client that takes nothing for [`Limits::write_timeout`](crate::Limits::write_timeout) is cut off.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::errors::Refused;
use crate::limits::{CONNECTION_BYTES, Gate, Pass, SMALL_HEAD_BYTES};

/// What a connection holds. Its stream and its requests share it.
#[derive(Debug)]
pub(crate) struct Meter(Mutex<Held>);

#[derive(Debug)]
struct Held {
    pass: Pass<Arc<Gate>>,
    /// Bytes of the head that is coming in; `None` while a request is being answered.
    head: Option<usize>,
}

impl Meter {
    /// A connection begins, if there is room for it.
    pub(crate) fn begin(gate: &Arc<Gate>) -> Result<Meter, Box<Refused>> {
        Ok(Meter(Mutex::new(Held { pass: gate.hold(CONNECTION_BYTES)?, head: Some(0) })))
    }

    /// A head is complete: from here on others count.
    pub(crate) fn head_is_complete(&self) {
        let mut held = self.held();
        held.head = None;
        held.pass.shrink_to(CONNECTION_BYTES);
    }

    /// The next bytes are a head again.
    pub(crate) fn is_answered(&self) {
        self.held().head = Some(0);
    }

    fn read(&self, bytes: usize) -> Result<(), Box<Refused>> {
        let mut held = self.held();
        let Some(before) = held.head.filter(|_| bytes > 0) else { return Ok(()) };
        let beyond = |length: usize| length.saturating_sub(SMALL_HEAD_BYTES);
        held.head = Some(before + bytes);
        held.pass.add(beyond(before + bytes) - beyond(before))
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
    write_timeout: Duration,
    /// Since when nothing is taken.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, meter: Arc<Meter>, write_timeout: Duration) -> Metered<S> {
        Metered { stream, meter, write_timeout, stalled: None }
    }

    /// Hands on what the stream said of a write; a stall ends in an error when it lasts too long.
    fn taken<T>(&mut self, context: &mut Context<'_>, taken: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if taken.is_ready() {
            self.stalled = None;
            return taken;
        }
        let timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let refused = |refused: Box<Refused>| io::Error::other(refused.problem.detail);
        Poll::Ready(self.meter.read(buffer.filled().len() - before).map_err(refused))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.taken(context, taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.taken(context, taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let taken = Pin::new(&mut self.stream).poll_flush(context);
        self.taken(context, taken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let taken = Pin::new(&mut self.stream).poll_shutdown(context);
        self.taken(context, taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_head_counts_while_it_comes_in_and_not_beyond_and_a_small_one_always_has_room() {
        let gate = Arc::new(Gate::new("bytes of connections", 2 * CONNECTION_BYTES + 10));
        let meter = Meter::begin(&gate).expect("room");
        let other = Meter::begin(&gate).expect("and for another one");
        assert!(Meter::begin(&gate).is_err(), "and for no third one");
        assert_eq!(gate.used(), 2 * CONNECTION_BYTES);
        other.read(SMALL_HEAD_BYTES).expect("room for a small head");
        meter.read(SMALL_HEAD_BYTES).expect("on either");
        assert_eq!(gate.used(), 2 * CONNECTION_BYTES);
        meter.read(10).expect("room for some more");
        assert_eq!(gate.used(), 2 * CONNECTION_BYTES + 10);
        assert!(meter.read(1).is_err(), "and no further");
        meter.head_is_complete();
        assert_eq!(gate.used(), 2 * CONNECTION_BYTES);
        meter.read(1 << 20).expect("a body is counted elsewhere");
        meter.is_answered();
        meter.read(SMALL_HEAD_BYTES + 10).expect("the next head");
        drop((meter, other));
        assert_eq!(gate.used(), 0);
    }
}
