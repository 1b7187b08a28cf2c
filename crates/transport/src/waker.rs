// SPDX-License-Identifier: Apache-2.0

//! Wakes a thread that waits for sockets.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

/// A wake-up that comes before the wait counts; several count as one.
#[derive(Debug)]
pub(crate) struct Waker {
    sender: UnixStream,
    receiver: UnixStream,
    pending: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        let (sender, receiver) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Waker { sender, receiver, pending: AtomicBool::new(false) })
    }

    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // A full pipe is as good as a written byte: the reader wakes up either way.
            let _ = (&self.sender).write(&[1]);
        }
    }

    /// Waits until woken, until `socket` is ready for what is asked of it, or for `timeout`; what the socket is ready for.
    pub(crate) fn wait(
        &self,
        socket: Option<(BorrowedFd<'_>, PollFlags)>,
        timeout: Duration,
    ) -> io::Result<PollFlags> {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.receiver.as_fd(), PollFlags::IN)];
        fds.extend(socket.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[0].revents().is_empty() {
            // Drained before the flag falls: a wake in between is one too many, never one too few.
            let _ = (&self.receiver).read(&mut [0; 16]);
            self.pending.store(false, Ordering::Release);
        }
        Ok(fds.get(1).map_or(PollFlags::empty(), PollFd::revents))
    }
}
