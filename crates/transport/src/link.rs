// SPDX-License-Identifier: Apache-2.0

//! The writing end of a connection of messages: never blocks, whoever writes; and the queue before it.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::Connection;

use crate::stats::CloseReason;
use crate::stream::Broken;

/// A connection after its hello. Nothing is expected from the peer on it: whatever can be read is its end.
pub(crate) struct Link {
    socket: Arc<TcpStream>,
    tls: Option<Box<Connection>>,
}

/// How far a flush came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing waits any more.
    All,
    /// The socket takes no more now.
    Blocked,
    /// As much was written as was allowed at once.
    Paused,
}

impl Link {
    pub(crate) fn new(socket: Arc<TcpStream>, tls: Option<Box<Connection>>) -> Link {
        Link { socket, tls }
    }

    pub(crate) fn socket(&self) -> Arc<TcpStream> {
        self.socket.clone()
    }

    /// Writes what waits, at most about `bytes_max`; bytes written are taken off the queue.
    pub(crate) fn flush(&mut self, queue: &mut SendQueue, bytes_max: usize) -> io::Result<Flushed> {
        let mut written = 0;
        loop {
            if let Some(tls) = &mut self.tls {
                while tls.wants_write() {
                    match tls.write_tls(&mut &*self.socket) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Ok(Flushed::Blocked);
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            if queue.is_empty() {
                return Ok(Flushed::All);
            }
            if written >= bytes_max {
                return Ok(Flushed::Paused);
            }
            let len = match &mut self.tls {
                Some(tls) => tls.writer().write(queue.front()),
                None => (&*self.socket).write_vectored(&queue.slices()),
            };
            match len {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    queue.advance(len);
                    written += len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks at what the peer sent: an error unless it is nothing, or TLS talking to itself.
    pub(crate) fn check_input(&mut self) -> Result<(), Broken> {
        let closed = || Broken::new(CloseReason::EndOfStream, "the peer closed the connection");
        let spoke =
            || Broken::new(CloseReason::Protocol, "the peer spoke on a connection that is not its own");
        match &mut self.tls {
            None => match (&*self.socket).read(&mut [0; 16]) {
                Ok(0) => Err(closed()),
                Ok(_) => Err(spoke()),
                Err(error) if is_transient(&error) => Ok(()),
                Err(error) => Err(error.into()),
            },
            Some(tls) => match tls.read_tls(&mut &*self.socket) {
                Ok(0) => Err(closed()),
                Ok(_) => {
                    let state = tls.process_new_packets()?;
                    match (state.peer_has_closed(), state.plaintext_bytes_to_read()) {
                        (true, _) => Err(closed()),
                        (false, 0) => Ok(()),
                        _ => Err(spoke()),
                    }
                }
                Err(error) if is_transient(&error) => Ok(()),
                Err(error) => Err(error.into()),
            },
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Frames that wait for one peer. Counts what is not written; whether it may grow is decided by who pushes.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    frames: VecDeque<Vec<u8>>,
    /// Bytes of the first frame that are written.
    head_written: usize,
    bytes: usize,
}

impl SendQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Forgets everything; how many frames that were.
    pub(crate) fn clear(&mut self) -> usize {
        let frames = std::mem::take(self).frames;
        frames.len()
    }

    fn front(&self) -> &[u8] {
        self.frames.front().map_or(&[], |frame| &frame[self.head_written..])
    }

    fn slices(&self) -> Vec<IoSlice<'_>> {
        /// Frames of one call to the system.
        const SLICES_MAX: usize = 64;
        let rest = self.frames.iter().skip(1).map(Vec::as_slice);
        std::iter::once(self.front()).chain(rest).take(SLICES_MAX).map(IoSlice::new).collect()
    }

    fn advance(&mut self, mut len: usize) {
        self.bytes -= len.min(self.bytes);
        while len > 0 {
            let left = self.front().len();
            if len < left {
                self.head_written += len;
                return;
            }
            len -= left;
            self.head_written = 0;
            if self.frames.pop_front().is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_forgets_what_was_written_and_nothing_else() {
        let mut queue = SendQueue::default();
        queue.push(vec![1; 10]);
        queue.push(vec![2; 5]);
        queue.push(vec![3; 1]);
        queue.advance(4);
        assert_eq!((queue.front(), queue.bytes()), (&[1; 6][..], 12));
        queue.advance(6);
        assert_eq!((queue.front(), queue.bytes()), (&[2; 5][..], 6));
        queue.advance(6);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
        queue.push(vec![4; 3]);
        queue.advance(1);
        assert_eq!(queue.slices().iter().map(|slice| slice.len()).sum::<usize>(), 2);
        assert_eq!(queue.clear(), 1);
        assert_eq!(queue.bytes(), 0);
    }
}
