// SPDX-License-Identifier: Apache-2.0

//! Clients that take too much of one node: they do not read what they asked for, open more connections than it has room for, or send
//! what never ends. What they are answered with must be a refusal that says what became of the request and when to come back.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use mraft_api::paths;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::failure::Result;
use crate::fault::{Fault, Scene};
use crate::raw::{Wire, head, request};
use crate::told::Told;
use crate::values::FOREIGN;
use crate::wait;

/// What they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greed {
    /// Clients that ask for large values, one after the other, and read none.
    Unread,
    /// Connections on which nothing comes, or half of a head.
    Idle,
    /// Bodies of which half comes.
    HalfBodies,
    /// Heads, targets, bodies that do not end, and bytes that are no request.
    Endless,
    /// Scans of everything, all at once.
    Scans,
    /// Large values written and read as fast as they are taken.
    Heavy,
}

/// Clients of a kind, all of them of one node.
#[derive(Debug)]
pub struct Greedy {
    greed: Greed,
    /// Its place among the nodes, those first that lead most groups.
    whose: usize,
    told: Arc<Told>,
    clients: JoinSet<()>,
}

const CLIENTS_UNREAD: usize = 400;
const CLIENTS_IDLE: usize = 2_000;
const CLIENTS_HALF: usize = 64;
const CLIENTS_ENDLESS: usize = 24;
const CLIENTS_SCANS: usize = 128;
const CLIENTS_HEAVY: usize = 64;
/// Large values: as large as one may be.
const LARGE_VALUES: usize = 4;
const LARGE_BYTES: usize = 1 << 20;
/// After a refusal, so that they are many and not a busy loop.
const PAUSE: Duration = Duration::from_millis(500);

/// Writes what they will ask for. Keys of theirs are foreign to every history.
pub async fn prepare(cluster: &Cluster) -> Result<()> {
    for number in 0..LARGE_VALUES {
        write_large(cluster, number).await?;
    }
    Ok(())
}

/// Writes one of the large values.
pub async fn write_large(cluster: &Cluster, number: usize) -> Result<()> {
    let (client, key) = (cluster.client(0)?, large(number));
    wait::until("a large value is written", async || {
        Ok(client.put(&key, &vec![b'g'; LARGE_BYTES], mraft_api::Condition::None).await?)
    })
    .await?;
    Ok(())
}

fn large(number: usize) -> Vec<u8> {
    [FOREIGN, (number % LARGE_VALUES).to_string().as_bytes()].concat()
}

impl Greedy {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Greedy> {
        use Greed::{Endless, HalfBodies, Heavy, Idle, Scans, Unread};
        [Unread, Idle, HalfBodies, Endless, Scans, Heavy].into_iter().map(Greedy::new)
    }

    /// This one, at the node that leads most groups.
    pub fn new(greed: Greed) -> Greedy {
        Greedy::at(0, greed)
    }

    /// This one, at the node that leads so many groups that only `whose` others lead more.
    pub fn at(whose: usize, greed: Greed) -> Greedy {
        Greedy { greed, whose, told: Arc::default(), clients: JoinSet::new() }
    }

    /// How often each of them must have been answered: of large values more than a file of the log holds.
    fn least(&self) -> u64 {
        if self.greed == Greed::Heavy { 80 } else { 1 }
    }

    /// Statuses that must have been answered.
    fn wanted(&self) -> &'static [u16] {
        match self.greed {
            Greed::Unread | Greed::Idle => &[429],
            Greed::HalfBodies => &[429, 408],
            Greed::Endless => &[400, 413, 431],
            Greed::Scans | Greed::Heavy => &[200],
        }
    }
}

impl Fault for Greedy {
    fn name(&self) -> &'static str {
        match self.greed {
            Greed::Unread => "400 clients do not read",
            Greed::Idle => "2000 idle connections",
            Greed::HalfBodies => "half bodies",
            Greed::Endless => "endless requests",
            Greed::Scans => "128 scans at once",
            Greed::Heavy => "values of 1 MB",
        }
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let at = scene.cluster.nodes[scene.by_groups_led[self.whose]].http;
        self.told = Arc::default();
        let count = match self.greed {
            Greed::Unread => CLIENTS_UNREAD,
            Greed::Idle => CLIENTS_IDLE,
            Greed::HalfBodies => CLIENTS_HALF,
            Greed::Endless => CLIENTS_ENDLESS,
            Greed::Scans => CLIENTS_SCANS,
            Greed::Heavy => CLIENTS_HEAVY,
        };
        for number in 0..count {
            let client = Client { number, at, told: Arc::clone(&self.told) };
            match self.greed {
                Greed::Unread => self.clients.spawn(client.does_not_read()),
                Greed::Idle => self.clients.spawn(client.does_not_ask()),
                Greed::HalfBodies => self.clients.spawn(client.sends_half()),
                Greed::Endless => self.clients.spawn(client.does_not_end()),
                Greed::Scans => self.clients.spawn(client.scans()),
                Greed::Heavy => self.clients.spawn(client.writes_large_values()),
            };
        }
        Ok(())
    }

    fn has_hit(&self, _: &Cluster) -> Result<()> {
        self.told.is_right()?;
        let lacks = self.wanted().iter().find(|status| self.told.count(**status) < self.least());
        wait::is(lacks.is_none(), || format!("too few were answered with {lacks:?}: {}", self.told))
    }

    fn lift(&mut self, _: &mut Scene<'_>) -> Result<()> {
        self.clients.abort_all();
        self.told.is_right()
    }
}

struct Client {
    number: usize,
    at: SocketAddrV4,
    told: Arc<Told>,
}

impl Client {
    /// Most ask and do not read; some read, and must be told that there is no room.
    async fn does_not_read(self) {
        const ONE_READS_OF: usize = 50;
        let ask = head("GET", &paths::kv(&large(self.number)), 0);
        if self.number.is_multiple_of(ONE_READS_OF) {
            return self.sends_over_and_over(&ask, &[]).await;
        }
        if let Ok(mut wire) = Wire::open_narrow(self.at).await
            && wire.send(&ask.repeat(16)).await.is_ok()
        {
            std::future::pending::<()>().await;
        }
    }

    async fn does_not_ask(self) {
        let half_a_head = format!("GET /v1/kv/{}", "a".repeat(60_000));
        let sent = if self.number.is_multiple_of(2) { half_a_head.as_bytes() } else { &[] };
        self.sends_over_and_over(sent, &[]).await;
    }

    async fn sends_half(self) {
        let target = format!("{}?timeout_ms=2000", paths::kv(&large(self.number)));
        let mut bytes = head("PUT", &target, LARGE_BYTES as u64);
        bytes.resize(bytes.len() + LARGE_BYTES - 1000, b'h');
        self.sends_over_and_over(&bytes, &[]).await;
    }

    async fn does_not_end(self) {
        let key = paths::kv(&large(self.number));
        let (start, more): (Vec<u8>, Vec<u8>) = match self.number % 5 {
            0 => (head("PUT", &key, u64::MAX >> 1), Vec::new()),
            1 => {
                let start = format!("PUT {key} HTTP/1.1\r\nhost: node\r\ntransfer-encoding: chunked\r\n\r\n");
                (start.into_bytes(), [b"8000\r\n", &[b'e'; 0x8000][..], b"\r\n"].concat())
            }
            2 => (b"GET / HTTP/1.1\r\n".to_vec(), format!("x: {}\r\n", "y".repeat(500)).into_bytes()),
            3 => (b"GET /v1/kv/".to_vec(), vec![b'a'; 4096]),
            _ => (vec![0, 1, 2, 3, b'\r', b'\n', b'\r', b'\n'], Vec::new()),
        };
        self.sends_over_and_over(&start, &more).await;
    }

    async fn scans(self) {
        let target = format!("{}?limit=1000&timeout_ms=2000", paths::SCAN);
        self.sends_over_and_over(&head("GET", &target, 0), &[]).await;
    }

    async fn writes_large_values(self) {
        const ONE_READS_OF: usize = 4;
        let key = paths::kv(&[FOREIGN, b"heavy-", self.number.to_string().as_bytes()].concat());
        let sent = match self.number.is_multiple_of(ONE_READS_OF) {
            true => head("GET", &key, 0),
            false => request("PUT", &key, &vec![b'w'; LARGE_BYTES - 1]),
        };
        self.sends_over_and_over(&sent, &[]).await;
    }

    /// A connection for each try, and on each something to begin with, then more and more until it is told that it is enough.
    async fn sends_over_and_over(&self, start: &[u8], more: &[u8]) {
        loop {
            let answer = match Wire::open(self.at).await {
                Ok(mut wire) => {
                    // It may be refused before it is all sent.
                    let mut is_taken = wire.send(start).await.is_ok();
                    while is_taken && !more.is_empty() {
                        is_taken = wire.send(more).await.is_ok();
                    }
                    wire.answer().await
                }
                Err(failure) => Err(failure),
            };
            self.told.hear(&answer);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
