// SPDX-License-Identifier: Apache-2.0

//! One dial: resolve, connect, TLS, hello; all of it before one deadline.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mraft_types::NodeId;
use mraft_wire::{HelloRefused, Purpose};

use crate::handler::Connected;
use crate::handshake::{HelloFailed, say_hello};
use crate::shared::{Registered, Shared};
use crate::stats::CloseReason;
use crate::stream::Stream;

/// A connection that this node dialed, after its hello.
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    pub(crate) connected: Connected,
    /// Keeps the stream closable from outside while it blocks.
    pub(crate) registered: Registered,
}

/// Why a dial failed.
#[derive(Clone, Debug)]
pub(crate) struct DialFailed {
    pub(crate) address: String,
    pub(crate) kind: DialFailure,
}

#[derive(Clone, Debug)]
pub(crate) enum DialFailure {
    /// Nobody was reached, or no hello came back.
    Silence(String),
    /// Somebody is there, but something between us does not fit.
    Unfit(CloseReason, String),
    /// One side refused the other's hello.
    Refused {
        /// Whether it was the peer.
        by_peer: bool,
        /// Why, as this node sees it.
        reason: HelloRefused,
    },
}

impl DialFailed {
    /// Whether the peer's process may be dead (rule T5): it refused to be connected to, or said no hello.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self.kind, DialFailure::Silence(_))
    }
}

impl fmt::Display for DialFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            DialFailure::Silence(detail) | DialFailure::Unfit(_, detail) => {
                write!(f, "{}: {detail}", self.address)
            }
            DialFailure::Refused { by_peer: true, reason } => {
                write!(f, "{}: refused by the peer: {reason}", self.address)
            }
            DialFailure::Refused { by_peer: false, reason } => {
                write!(f, "{}: refused: {reason}", self.address)
            }
        }
    }
}

/// Dials a node; `timeout` is for everything together.
pub(crate) fn dial(
    shared: &Shared,
    node: NodeId,
    purpose: Purpose,
    timeout: Duration,
) -> Result<Dialed, DialFailed> {
    let address = shared.resolver.address(node).unwrap_or_default();
    let deadline = Instant::now() + timeout;
    let result = connect(shared, &address, deadline)
        .and_then(|socket| greet(shared, node, purpose, &address, socket, deadline));
    match result {
        Ok(dialed) => {
            shared.counters.dials.add(1);
            Ok(dialed)
        }
        Err(kind) => {
            shared.counters.dials_failed.add(1);
            let reason = match &kind {
                DialFailure::Silence(_) => None,
                DialFailure::Unfit(reason, _) => Some(*reason),
                DialFailure::Refused { .. } => Some(CloseReason::HelloRefused),
            };
            if let Some(reason) = reason {
                shared.counters.close(reason);
            }
            Err(DialFailed { address, kind })
        }
    }
}

fn connect(shared: &Shared, address: &str, deadline: Instant) -> Result<TcpStream, DialFailure> {
    /// Addresses of one name that are tried.
    const ADDRESSES_MAX: usize = 4;
    let unresolved =
        |error: io::Error| DialFailure::Unfit(CloseReason::Io, format!("cannot be resolved: {error}"));
    let addresses: Vec<SocketAddr> =
        address.to_socket_addrs().map_err(unresolved)?.take(ADDRESSES_MAX).collect();
    let mut failure = DialFailure::Unfit(CloseReason::Io, "no address".to_owned());
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || shared.is_closing() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            // A dead peer's port may be the one that the system gives this socket, which then connects to itself.
            Ok(socket) if socket.local_addr().ok() == socket.peer_addr().ok() => {
                failure = DialFailure::Silence("nobody listens there".to_owned());
            }
            Ok(socket) => return Ok(socket),
            Err(error) => failure = DialFailure::Silence(error.to_string()),
        }
    }
    Err(failure)
}

fn greet(
    shared: &Shared,
    node: NodeId,
    purpose: Purpose,
    address: &str,
    socket: TcpStream,
    deadline: Instant,
) -> Result<Dialed, DialFailure> {
    if purpose == Purpose::Messages {
        give_up_unacknowledged(&socket).map_err(|error| failure(HelloFailed::Broken(error.into())))?;
    }
    let socket = Arc::new(socket);
    let registered = shared.sockets.register(&socket);
    let tls = match &shared.tls {
        None => None,
        Some(tls) => {
            Some(tls.dialing(address).map_err(|reason| DialFailure::Unfit(CloseReason::Tls, reason))?)
        }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let mut stream = Stream::new(socket, tls, left).map_err(|broken| failure(HelloFailed::Broken(broken)))?;
    let connected = say_hello(&mut stream, &*shared.handler, node, purpose).map_err(failure)?;
    Ok(Dialed { stream, connected, registered })
}

/// How long bytes of messages may be under way that the peer's system has not taken. TCP itself sends them again for a quarter of an hour
/// and ever more seldom, so that after a partition of a minute a connection would stay silent for most of another one, although the network
/// is whole and a new connection would be made at once. Longer than a queue on a slow line, and than what a lost packet takes.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);

/// The system breaks the connection then; other systems are as patient as they are.
#[cfg(target_os = "linux")]
fn give_up_unacknowledged(socket: &TcpStream) -> io::Result<()> {
    let millis = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(socket, millis)?)
}

#[cfg(not(target_os = "linux"))]
fn give_up_unacknowledged(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

fn failure(failed: HelloFailed) -> DialFailure {
    match failed {
        HelloFailed::ByPeer(_, reason) => DialFailure::Refused { by_peer: true, reason },
        HelloFailed::ByUs(_, reason) => DialFailure::Refused { by_peer: false, reason },
        HelloFailed::Broken(broken) => match broken.reason {
            CloseReason::EndOfStream | CloseReason::Io | CloseReason::Idle => {
                DialFailure::Silence(format!("no hello: {broken}"))
            }
            reason => DialFailure::Unfit(reason, broken.detail),
        },
    }
}
