// SPDX-License-Identifier: Apache-2.0

//! A blocking connection, plain or TLS: how hellos and snapshots are exchanged and how frames are read.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mraft_wire::{DecodeError, Frame, FrameError, FrameKind, FrameReader, encode_frame};
use rustls::Connection;

use crate::link::Link;
use crate::stats::CloseReason;
use crate::tls;

/// Why a connection is of no use any more.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) reason: CloseReason,
    pub(crate) detail: String,
}

impl Broken {
    pub(crate) fn new(reason: CloseReason, detail: impl Into<String>) -> Broken {
        Broken { reason, detail: detail.into() }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof => CloseReason::EndOfStream,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                return Broken::new(CloseReason::Idle, "nothing happened for too long");
            }
            _ => CloseReason::Io,
        };
        Broken::new(reason, error.to_string())
    }
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Broken {
        Broken::new(CloseReason::Protocol, error.to_string())
    }
}

impl From<DecodeError> for Broken {
    fn from(error: DecodeError) -> Broken {
        Broken::new(CloseReason::Protocol, error.to_string())
    }
}

impl From<rustls::Error> for Broken {
    fn from(error: rustls::Error) -> Broken {
        Broken::new(CloseReason::Tls, tls::reason(&error))
    }
}

pub(crate) struct Stream {
    io: Io,
    frames: FrameReader,
}

struct Io {
    socket: Arc<TcpStream>,
    tls: Option<Box<Connection>>,
    deadline: Option<Instant>,
}

impl Stream {
    /// A connection on which everything has to happen before the deadline, until [`Stream::set_patience`].
    pub(crate) fn new(
        socket: Arc<TcpStream>,
        tls: Option<Connection>,
        timeout: Duration,
    ) -> Result<Stream, Broken> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(false)?;
        let deadline = Some(Instant::now() + timeout);
        let mut io = Io { socket, tls: tls.map(Box::new), deadline };
        io.handshake()?;
        Ok(Stream { io, frames: FrameReader::new() })
    }

    /// From now on, how long each read and each write may take.
    pub(crate) fn set_patience(&mut self, timeout: Duration) -> Result<(), Broken> {
        self.io.deadline = None;
        self.io.socket.set_read_timeout(Some(timeout))?;
        self.io.socket.set_write_timeout(Some(timeout))?;
        Ok(())
    }

    /// Both sides accepted: from here on every kind of frame is taken.
    pub(crate) fn hello_is_done(&mut self) {
        self.frames.hello_is_done();
    }

    pub(crate) fn read_frame(&mut self) -> Result<Frame, Broken> {
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return Ok(frame);
            }
            let len = self.io.read(self.frames.buffer())?;
            if len == 0 {
                let inside = if self.frames.is_inside_frame() { " inside a frame" } else { "" };
                let detail = format!("the peer closed the connection{inside}");
                return Err(Broken::new(CloseReason::EndOfStream, detail));
            }
            self.frames.filled(len);
        }
    }

    /// The payload of the next frame, which must be of this kind.
    pub(crate) fn read_kind(&mut self, kind: FrameKind) -> Result<mraft_types::Payload, Broken> {
        let frame = self.read_frame()?;
        if frame.kind == kind { Ok(frame.payload) } else { Err(unexpected(frame.kind, kind)) }
    }

    pub(crate) fn write(&mut self, kind: FrameKind, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Broken> {
        self.io.write_all(&encode_frame(kind, fill))
    }

    /// Whether the peer said something that was not read yet, or closed.
    pub(crate) fn has_input(&self) -> Result<bool, Broken> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        if self.frames.is_inside_frame() {
            return Ok(true);
        }
        let mut fds = [PollFd::new(&*self.io.socket, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(io::Error::from)?;
        Ok(!fds[0].revents().is_empty())
    }

    /// Ends the connection so that the peer still reads what was written last: what it has under way is read and thrown away,
    /// because closing over unread bytes would reset the connection.
    pub(crate) fn close_gently(mut self) {
        const DRAINED_BYTES_MAX: usize = 64 << 20;
        const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
        if let Some(tls) = &mut self.io.tls {
            tls.send_close_notify();
            let _ = self.io.flush_tls();
        }
        let _ = self.io.socket.shutdown(Shutdown::Write);
        let _ = self.io.socket.set_read_timeout(Some(DRAIN_TIMEOUT));
        let mut buffer = vec![0; 64 << 10];
        let mut drained = 0;
        while drained < DRAINED_BYTES_MAX {
            match (&*self.io.socket).read(&mut buffer) {
                Ok(len) if len > 0 => drained += len,
                _ => return,
            }
        }
    }

    /// The connection for writing only, from which nothing more is expected.
    pub(crate) fn into_link(self) -> Result<Link, Broken> {
        if self.frames.is_inside_frame() {
            return Err(Broken::new(CloseReason::Protocol, "the peer spoke after its hello"));
        }
        self.io.socket.set_nonblocking(true)?;
        Ok(Link::new(self.io.socket, self.io.tls))
    }
}

pub(crate) fn unexpected(found: FrameKind, expected: FrameKind) -> Broken {
    Broken::new(CloseReason::Protocol, format!("a {found:?} frame where {expected:?} was due"))
}

impl Io {
    fn handshake(&mut self) -> Result<(), Broken> {
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.flush_tls()?;
            if self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) && self.fill_tls()? == 0 {
                let detail = "the peer closed the connection during the TLS handshake";
                return Err(Broken::new(CloseReason::Tls, detail));
            }
        }
        self.flush_tls()
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
        self.arm()?;
        loop {
            let read = match &mut self.tls {
                None => (&*self.socket).read(buffer),
                Some(tls) => match tls.reader().read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.flush_tls()?;
                        self.fill_tls()?;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                    read => read,
                },
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return Ok(read?),
            }
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        self.arm()?;
        if self.tls.is_none() {
            return Ok((&*self.socket).write_all(bytes)?);
        }
        while !bytes.is_empty() {
            if let Some(tls) = &mut self.tls {
                let len = tls.writer().write(bytes)?;
                bytes = &bytes[len..];
            }
            self.flush_tls()?;
        }
        Ok(())
    }

    fn flush_tls(&mut self) -> Result<(), Broken> {
        while self.tls.as_ref().is_some_and(|tls| tls.wants_write()) {
            self.arm()?;
            if let Some(tls) = &mut self.tls {
                retry(|| tls.write_tls(&mut &*self.socket))?;
            }
        }
        Ok(())
    }

    /// Takes in what the peer sent; 0 at the end of the stream.
    fn fill_tls(&mut self) -> Result<usize, Broken> {
        self.arm()?;
        let Some(tls) = &mut self.tls else { return Ok(0) };
        let len = retry(|| tls.read_tls(&mut &*self.socket))?;
        if let Err(error) = tls.process_new_packets() {
            // The peer is told why, if it still listens; our own reason matters more than whether that worked.
            let _ = self.flush_tls();
            return Err(error.into());
        }
        Ok(len)
    }

    /// Leaves the next operation no more time than is left in all.
    fn arm(&self) -> Result<(), Broken> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket.set_write_timeout(Some(left))?;
        Ok(())
    }
}

fn retry(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
