// SPDX-License-Identifier: Apache-2.0

//! The listener: accepts, bounds, drains.
//!
//! A connection costs a task, a socket and two buffers, and ends when it does not send a request's head in time, whether it was never
//! going to (slow on purpose) or was only idle. When the door is told to stop it accepts nobody any more and lets every connection finish
//! the request that it is in. Who has a connection and nothing to ask may be about to: closing it then would leave a client that asks at
//! this very moment without an answer, not knowing what became of its write. So such a connection stays for a moment
//! ([`crate::Limits::linger`]), and the answer to what comes by then says that it was the last (`connection: close`, RFC 9112 §9.6). What
//! is not finished after the grace is cut off.
//!
//! A panic in a connection's task is handed on to whoever awaits [`serve`] (rule T4): the door does not go on with what it cannot
//! explain.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Write};
use std::net::{TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::door::{Admitted, Door};
use crate::errors::Refused;
use crate::metered::{Meter, Metered};
use crate::tls::ServerTls;

/// How a door ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open when it was told to stop.
    pub open: usize,
    /// Those of them that had to be cut off.
    pub cut_off: usize,
}

/// Takes the address of a door. Connections are taken from here on, and answered from [`serve`] on.
pub fn listen(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Once more, because the standard library asks for 128; a socket that listens takes the new number.
    rustix::net::listen(&listener, BACKLOG_MAX)?;
    Ok(listener)
}

/// Connections that wait to be accepted, as far as the system allows (`net.core.somaxconn`). Who comes when so many wait is not answered
/// and tries again after a second: many clients often start at once, and each connection here costs the system alone.
const BACKLOG_MAX: i32 = 1_024;

/// Serves connections of this listener until `stop` resolves, then drains for at most `grace`. Needs a Tokio runtime with time and IO.
pub async fn serve(
    door: Door,
    listener: TcpListener,
    tls: Option<ServerTls>,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> io::Result<Drained> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let acceptor = tls.map(|tls| TlsAcceptor::from(tls.0));
    let (stopping, told_to_stop) = watch::channel(());
    let told_to_stop = ToldToStop { by: told_to_stop, linger: door.shared.limits.linger.min(grace / 2) };
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    // Decided here, so that those who are turned away do not pile up before their tasks run.
    let take_in = |stream, connections: &mut JoinSet<()>| match door.admit() {
        Ok(admitted) => {
            let (acceptor, door) = (acceptor.clone(), door.clone());
            connections.spawn(connection(stream, acceptor, door, admitted, told_to_stop.clone()));
        }
        Err(refused) if acceptor.is_none() => turn_away(stream, refused),
        Err(_) => {}
    };
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next() => hand_on_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => take_in(stream, &mut connections),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // Those who wait to be accepted may have asked already; there are not more of them.
    for _ in 0..BACKLOG_MAX {
        let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await else { break };
        take_in(stream, &mut connections);
    }
    drop(listener);
    drop(stopping);
    let open = connections.len();
    let all_end = async {
        while let Some(ended) = connections.join_next().await {
            hand_on_panic(ended)
        }
    };
    let cut_off = match timeout(grace, all_end).await {
        Ok(()) => 0,
        Err(_) => connections.len(),
    };
    connections.shutdown().await;
    Ok(Drained { open, cut_off })
}

/// Whether a door was told to stop, and how long a connection stays then that is idle.
#[derive(Clone, Debug)]
struct ToldToStop {
    /// The other end is dropped then.
    by: watch::Receiver<()>,
    linger: Duration,
}

impl ToldToStop {
    fn is(&self) -> bool {
        self.by.has_changed().is_err()
    }

    async fn told(&mut self) {
        while self.by.changed().await.is_ok() {}
    }
}

/// After a failed accept, which mostly means that the process has no descriptors left: until some connections have ended.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn connection(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    door: Door,
    admitted: Admitted,
    told_to_stop: ToldToStop,
) {
    let meter = admitted.meter;
    // Answers are small and each is waited for.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection cannot be set to send at once");
    }
    match acceptor {
        None => exchange(stream, &door, &meter, told_to_stop).await,
        Some(acceptor) => {
            match timeout(door.shared.limits.tls_accept_timeout, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => exchange(stream, &door, &meter, told_to_stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        }
    }
}

/// Serves one connection that is there already, until it ends: for whoever has streams of another kind than sockets. It counts like any
/// other; when the door has no room, it is closed without an answer.
pub async fn serve_stream<S>(door: &Door, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(admitted) = door.admit() else { return };
    let (_never, by) = watch::channel(());
    exchange(stream, door, &admitted.meter, ToldToStop { by, linger: Duration::ZERO }).await;
}

async fn exchange<S>(stream: S, door: &Door, meter: &Arc<Meter>, mut told_to_stop: ToldToStop)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &door.shared.limits;
    let stopping = told_to_stop.clone();
    let service = service_fn(|request| {
        let stopping = &stopping;
        async move {
            meter.head_is_complete();
            let mut response = door.answer(request).await;
            meter.is_answered();
            if stopping.is() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let stream = Metered::new(stream, Arc::clone(meter), limits.write_timeout);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_headers(limits.headers_max)
            .max_header_size(limits.head_bytes_max)
            .max_buf_size(limits.head_bytes_max)
            // Answers are written from where they are, and counted until then; otherwise they would be copied, and the copies not counted.
            .writev(true)
            .serve_connection(TokioIo::new(stream), service)
    );
    let linger = told_to_stop.linger;
    let told_and_idle = async {
        told_to_stop.told().await;
        sleep(linger).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told_and_idle => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Says why to somebody beyond the last connection, as far as the socket's buffer takes it at once.
fn turn_away(stream: TcpStream, refused: Box<Refused>) {
    let refused = refused.with_hint("ask another node");
    let body = serde_json::to_string(&refused.problem).unwrap_or_default();
    let said = refused.into_response();
    let mut text = format!("HTTP/1.1 {}\r\n", said.status());
    for (name, value) in said.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    text.push_str(&format!("connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    let written = stream.into_std().and_then(|mut stream| stream.write_all(text.as_bytes()));
    if let Err(error) = written {
        tracing::debug!(%error, "a connection was turned away without a word");
    }
}

fn hand_on_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
