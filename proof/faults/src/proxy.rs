// SPDX-License-Identifier: Apache-2.0

//! A proxy before every node's Raft port: what its peers send it comes late, in pieces, damaged, or not at all.
//!
//! It stands for a bad network where the kernel has no `netem`, and it does so above TCP: packets that are lost or overtake each other
//! are seen by a process as bytes that come late (TCP sends again and sorts) or as a connection that breaks. Those two it makes, and
//! three that no checksum of TCP would let through: bits that flip, streams that end within a frame, and connections that stand but
//! carry nothing.
//!
//! Missing on purpose: dropping or swapping bytes of a stream, which TCP never does.

use std::net::{SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::failure::Result;
use crate::ground::Ground;
use crate::values::Dice;

/// What becomes of the bytes on their way to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// They arrive so much later, …
    pub delay: Duration,
    /// … and up to so much more, but in order.
    pub jitter: Duration,
    /// One piece of so many is late by [`RESENT_AFTER`] and everything behind it with it, as when its packet was lost; 0: none.
    pub late_one_in: u64,
    /// At most so many per second; 0: no limit.
    pub bytes_per_second: u64,
    /// Nothing passes; connections stand.
    pub is_stalled: bool,
    /// A connection ends in good order when it carried about so many, wherever that is within a frame; 0: never.
    pub cut_after_bytes: u64,
    /// One bit of about so many bytes is another one; 0: none.
    pub flip_every_bytes: u64,
    /// Connections that stood when this number grew are reset.
    pub resets: u64,
}

/// How long TCP waits at least before it sends a lost packet again, on most systems.
pub const RESENT_AFTER: Duration = Duration::from_millis(200);

/// What a proxy did.
#[derive(Debug, Default)]
pub struct Harm {
    /// Pieces that came late.
    pub delayed: AtomicU64,
    /// Times that a connection that had something to carry was made to wait.
    pub stalled: AtomicU64,
    /// Bits that were flipped.
    pub flipped: AtomicU64,
    /// Connections that were ended within a stream.
    pub cut: AtomicU64,
    /// Connections that were reset.
    pub reset: AtomicU64,
}

impl Harm {
    /// All of it.
    pub fn total(&self) -> u64 {
        let parts = [&self.delayed, &self.stalled, &self.flipped, &self.cut, &self.reset];
        parts.iter().map(|part| part.load(Ordering::Relaxed)).sum()
    }
}

/// The proxy of one node. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    /// Where peers reach the node now.
    pub at: SocketAddrV4,
    /// What it did.
    pub harm: Arc<Harm>,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

/// One read. Small, so that what is done to single pieces is done often.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces of a connection that are held back at once; beyond them the sender waits.
const PIECES_MAX: usize = 256;

impl Proxy {
    /// Stands before the node that listens at this place on this address.
    pub fn before(ground: &Ground, place: usize, node: SocketAddrV4) -> Result<Proxy> {
        let (listener, at) = ground.listen_before(place)?;
        listener.set_nonblocking(true)?;
        let (weather, lane) = watch::channel(Weather::default());
        let harm = Arc::new(Harm::default());
        let line = Line { ground: ground.clone(), place, node, lane, harm: Arc::clone(&harm) };
        let accepting = tokio::spawn(line.accept(listener));
        Ok(Proxy { at, harm, weather, accepting })
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        // Resets are counted here, whoever sets the rest.
        self.weather.send_modify(|now| *now = Weather { resets: now.resets, ..weather });
    }

    /// Resets every connection that stands.
    pub fn reset(&self) {
        self.resets()();
    }

    /// The same for somebody else to do.
    pub fn resets(&self) -> impl Fn() + Send + Sync + use<> {
        let weather = self.weather.clone();
        move || weather.send_modify(|now| now.resets += 1)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Line {
    ground: Ground,
    place: usize,
    node: SocketAddrV4,
    lane: watch::Receiver<Weather>,
    harm: Arc<Harm>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// One side closed it or broke.
    Over,
    /// The proxy closed it within the stream.
    Cut,
    /// The proxy reset it.
    Reset,
}

impl Line {
    async fn accept(self, listener: TcpListener) {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        // They end with this task.
        let mut connections = JoinSet::new();
        let mut number = 0;
        loop {
            tokio::select! {
                Some(_) = connections.join_next() => {}
                Ok((peer, _)) = listener.accept() => {
                    // A node that is dead refuses its proxy, and the proxy cannot but break off.
                    let Ok(socket) = self.ground.within(self.place, || Ok(TcpSocket::new_v4()?)) else { continue };
                    number += 1;
                    let (node, lane, harm) = (self.node, self.lane.clone(), Arc::clone(&self.harm));
                    connections.spawn(async move {
                        match socket.connect(node.into()).await {
                            Ok(node) => carry(peer, node, lane, harm, number).await,
                            Err(_) => reset(&peer),
                        }
                    });
                }
            }
        }
    }
}

async fn carry(
    mut peer: TcpStream,
    mut node: TcpStream,
    lane: watch::Receiver<Weather>,
    harm: Arc<Harm>,
    number: u64,
) {
    for stream in [&peer, &node] {
        // A connection that is just breaking cannot be set up, and ends by itself.
        let _ = stream.set_nodelay(true);
    }
    let resets_before = lane.borrow().resets;
    let end = {
        let (from_peer, to_peer) = peer.split();
        let (from_node, to_node) = node.split();
        let there = Lane::new(lane.clone(), Arc::clone(&harm), 2 * number);
        let back = Lane::new(lane.clone(), Arc::clone(&harm), 2 * number + 1);
        let mut lane = lane;
        tokio::select! {
            end = there.carry(from_peer, to_node) => end,
            end = back.carry(from_node, to_peer) => end,
            _ = lane.wait_for(|weather| weather.resets > resets_before) => End::Reset,
        }
    };
    match end {
        End::Over => {}
        End::Cut => _ = harm.cut.fetch_add(1, Ordering::Relaxed),
        End::Reset => {
            harm.reset.fetch_add(1, Ordering::Relaxed);
            reset(&peer);
            reset(&node);
        }
    }
}

/// Its end will be a reset.
fn reset(stream: &TcpStream) {
    // One that is broken already needs none.
    let _ = stream.set_zero_linger();
}

/// One direction of one connection.
struct Lane {
    weather: watch::Receiver<Weather>,
    harm: Arc<Harm>,
    dice: Dice,
    /// Bytes until the next bit flips.
    until_flip: Option<u64>,
    carried: u64,
    cut_at: Option<u64>,
}

impl Lane {
    fn new(weather: watch::Receiver<Weather>, harm: Arc<Harm>, seed: u64) -> Lane {
        let mut dice = Dice::new(seed);
        let cut_after = weather.borrow().cut_after_bytes;
        let cut_at = (cut_after > 0).then(|| cut_after / 2 + dice.below(cut_after));
        Lane { weather, harm, dice, until_flip: None, carried: 0, cut_at }
    }

    async fn carry(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> End {
        let (give, mut take) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
        let weather = self.weather.clone();
        let reading = async move {
            let mut buffer = vec![0; PIECE_BYTES];
            loop {
                let read = match from.read(&mut buffer).await {
                    Ok(0) | Err(_) => return End::Over,
                    Ok(read) => read,
                };
                let mut piece = buffer[..read].to_vec();
                let (due, end) = self.harm(&mut piece).await;
                if give.send((due, piece)).await.is_err() {
                    return End::Over;
                }
                if let Some(end) = end {
                    return end;
                }
            }
        };
        let writing = async move {
            let mut weather = weather;
            while let Some((due, piece)) = take.recv().await {
                tokio::time::sleep_until(due).await;
                let passes = weather.wait_for(|weather| !weather.is_stalled).await.map(drop);
                if passes.is_err() || to.write_all(&piece).await.is_err() {
                    return false;
                }
            }
            true
        };
        // What was read before the end is still carried.
        let (end, _) = tokio::join!(reading, writing);
        end
    }

    /// Does to a piece what the weather says; when it is to arrive, and whether the connection ends with it.
    async fn harm(&mut self, piece: &mut Vec<u8>) -> (Instant, Option<End>) {
        let weather = *self.weather.borrow_and_update();
        if weather.is_stalled {
            self.harm.stalled.fetch_add(1, Ordering::Relaxed);
            // Its end is nothing to wait for: whoever ends the proxy ends this task.
            let _ = self.weather.wait_for(|weather| !weather.is_stalled).await;
        }
        if let Some(micros) = (piece.len() as u64 * 1_000_000).checked_div(weather.bytes_per_second) {
            self.harm.delayed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
        let mut late = weather.delay;
        if !weather.jitter.is_zero() {
            late += Duration::from_micros(self.dice.below(weather.jitter.as_micros() as u64));
        }
        if weather.late_one_in > 0 && self.dice.below(weather.late_one_in) == 0 {
            late += RESENT_AFTER;
        }
        if !late.is_zero() {
            self.harm.delayed.fetch_add(1, Ordering::Relaxed);
        }
        self.flip(piece, weather.flip_every_bytes);
        let carried = self.carried;
        self.carried += piece.len() as u64;
        let end = match self.cut_at.filter(|cut_at| *cut_at < self.carried) {
            Some(cut_at) => {
                piece.truncate(cut_at.saturating_sub(carried) as usize);
                Some(End::Cut)
            }
            None => None,
        };
        (Instant::now() + late, end)
    }

    fn flip(&mut self, piece: &mut [u8], every_bytes: u64) {
        if every_bytes == 0 {
            self.until_flip = None;
            return;
        }
        let mut at = self.until_flip.unwrap_or_else(|| self.dice.below(2 * every_bytes));
        while let Some(byte) = piece.get_mut(at as usize) {
            *byte ^= 1 << self.dice.below(8);
            self.harm.flipped.fetch_add(1, Ordering::Relaxed);
            at += 1 + self.dice.below(2 * every_bytes);
        }
        self.until_flip = Some(at - piece.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that sends back what it gets, behind its proxy.
    async fn echo() -> Proxy {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    drop(tokio::io::copy(&mut from, &mut to).await);
                });
            }
        });
        let node = SocketAddrV4::new([127, 0, 0, 1].into(), port);
        Proxy::before(&Ground::Loopback([127, 0, 0, 1].into()), 0, node).expect("a proxy")
    }

    const SENT: usize = 200_000;

    fn whole() -> Vec<u8> {
        (0..SENT).map(|at| (at % 251) as u8).collect()
    }

    /// Sends bytes through the proxy and back, and says what came of them.
    async fn carried(proxy: &Proxy) -> Vec<u8> {
        let mut stream = TcpStream::connect(proxy.at).await.expect("connected");
        let (mut from, mut to) = stream.split();
        let (sent, mut came) = (whole(), Vec::new());
        let reading = async {
            let mut buffer = [0; 4096];
            while came.len() < SENT {
                match from.read(&mut buffer).await {
                    Ok(read) if read > 0 => came.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
        };
        // A connection that is cut takes no more.
        let _ = tokio::join!(to.write_all(&sent), reading);
        came
    }

    #[tokio::test]
    async fn bytes_come_late_but_whole_and_in_order() {
        let proxy = echo().await;
        assert!(carried(&proxy).await == whole() && proxy.harm.total() == 0);
        let (delay, jitter) = (Duration::from_millis(1), Duration::from_millis(5));
        proxy.set(Weather { delay, jitter, late_one_in: 50, ..Weather::default() });
        assert!(carried(&proxy).await == whole());
        assert!(proxy.harm.delayed.load(Ordering::Relaxed) > 0);
    }

    #[tokio::test]
    async fn bits_flip_streams_end_and_connections_break() {
        let proxy = echo().await;
        proxy.set(Weather { flip_every_bytes: 10_000, ..Weather::default() });
        let came = carried(&proxy).await;
        assert!(came.len() == SENT && came != whole() && proxy.harm.flipped.load(Ordering::Relaxed) > 0);

        proxy.set(Weather { cut_after_bytes: 50_000, ..Weather::default() });
        assert!(carried(&proxy).await.len() < SENT);

        proxy.set(Weather::default());
        let mut stream = TcpStream::connect(proxy.at).await.expect("connected");
        stream.write_all(b"x").await.expect("written");
        let mut byte = [0];
        stream.read_exact(&mut byte).await.expect("it stands");
        proxy.reset();
        let broken = stream.read(&mut byte).await.expect_err("it was reset");
        assert_eq!(broken.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_stalled_connection_stands_and_goes_on() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.at).await.expect("connected");
        proxy.set(Weather { is_stalled: true, ..Weather::default() });
        stream.write_all(b"x").await.expect("written");
        while proxy.harm.stalled.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let nothing = stream.try_read(&mut [0]).expect_err("nothing came");
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        proxy.set(Weather::default());
        let mut byte = [0];
        stream.read_exact(&mut byte).await.expect("it goes on");
        assert_eq!(&byte, b"x");
    }
}
