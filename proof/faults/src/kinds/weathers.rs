// SPDX-License-Identifier: Apache-2.0

//! What a proxy does to what nodes are sent by their peers.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::failure::{Failure, Result};
use crate::fault::{Fault, Scene};
use crate::proxy::{Proxy, Weather};
use crate::wait;

/// Kinds of bad weather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything comes late, by differing times.
    Late,
    /// Some pieces are late by a retransmission: what packet loss and reorder look like behind TCP.
    Lossy,
    /// Few bytes a second.
    Slow,
    /// Connections to the leader stand and carry nothing.
    Stalled,
    /// Connections are reset, again and again.
    Reset,
    /// Connections end within frames.
    Cut,
    /// Bits flip.
    Damaged,
}

/// Between two resets: enough for some frames.
const RESET_EVERY: Duration = Duration::from_millis(300);

/// Bad weather.
#[derive(Debug)]
pub struct Weathered {
    kind: Kind,
    harm_before: u64,
    hit: Vec<usize>,
    resetting: Option<JoinHandle<()>>,
}

impl Weathered {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Weathered> {
        use Kind::{Cut, Damaged, Late, Lossy, Reset, Slow, Stalled};
        [Late, Lossy, Slow, Stalled, Reset, Cut, Damaged].into_iter().map(Weathered::new)
    }

    /// This one.
    pub fn new(kind: Kind) -> Weathered {
        Weathered { kind, harm_before: 0, hit: Vec::new(), resetting: None }
    }

    fn weather(&self) -> Weather {
        let calm = Weather::default();
        let millis = Duration::from_millis;
        match self.kind {
            Kind::Late => Weather { delay: millis(40), jitter: millis(80), ..calm },
            Kind::Lossy => Weather { late_one_in: 20, ..calm },
            Kind::Slow => Weather { bytes_per_second: 256 << 10, ..calm },
            Kind::Stalled => Weather { is_stalled: true, ..calm },
            Kind::Reset => calm,
            Kind::Cut => Weather { cut_after_bytes: 256 << 10, ..calm },
            Kind::Damaged => Weather { flip_every_bytes: 256 << 10, ..calm },
        }
    }
}

impl Fault for Weathered {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Late => "40 to 120 ms late",
            Kind::Lossy => "1 in 20 is late by 200 ms",
            Kind::Slow => "256 KiB/s into each node",
            Kind::Stalled => "nothing into the leader",
            Kind::Reset => "connections reset",
            Kind::Cut => "connections cut in frames",
            Kind::Damaged => "bits flipped",
        }
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.hit = match self.kind {
            Kind::Stalled => scene.by_groups_led[..1].to_vec(),
            _ => scene.by_groups_led.clone(),
        };
        self.harm_before = harm(scene.cluster);
        let weather = self.weather();
        for proxy in proxies(scene, &self.hit)? {
            proxy.set(weather);
            // Cuts are decided when a connection begins.
            if self.kind == Kind::Cut {
                proxy.reset();
            }
        }
        if self.kind == Kind::Reset {
            let resets: Vec<_> = proxies(scene, &self.hit)?.into_iter().map(Proxy::resets).collect();
            self.resetting = Some(tokio::spawn(async move {
                loop {
                    resets.iter().for_each(|reset| reset());
                    tokio::time::sleep(RESET_EVERY).await;
                }
            }));
        }
        Ok(())
    }

    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        if let Some(resetting) = self.resetting.take() {
            resetting.abort();
        }
        for proxy in proxies(scene, &self.hit)? {
            proxy.set(Weather::default());
        }
        Ok(())
    }

    fn has_hit(&self, cluster: &Cluster) -> Result<()> {
        wait::is(harm(cluster) > self.harm_before, || "it did no harm to anything".to_owned())
    }

    fn deceived(&self) -> &[usize] {
        match self.kind {
            Kind::Stalled => &self.hit,
            _ => &[],
        }
    }
}

fn proxies<'a>(scene: &'a Scene<'_>, nodes: &[usize]) -> Result<Vec<&'a Proxy>> {
    let proxy = |node: &usize| {
        let proxy = scene.cluster.nodes[*node].proxy.as_ref();
        proxy.ok_or_else(|| Failure::new("the cluster has no proxies"))
    };
    nodes.iter().map(proxy).collect()
}

fn harm(cluster: &Cluster) -> u64 {
    cluster.nodes.iter().filter_map(|node| Some(node.proxy.as_ref()?.harm.total())).sum()
}
