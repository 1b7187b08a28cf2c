// SPDX-License-Identifier: Apache-2.0

//! Whether the cluster serves yet: asked from outside, as a client would.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use mraft_api::{Client, ClientConfig};
use tokio::runtime::Runtime;

use super::plan::Plan;

/// A node that does not answer by then is asked again in the next round.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);

/// Tells how far the cluster is.
pub trait Probe: Send + 'static {
    /// How many groups have a leader now.
    fn groups_led(&mut self) -> u64;
}

/// Asks the nodes' HTTP doors.
pub struct HttpProbe {
    runtime: Runtime,
    clients: Vec<Client>,
}

impl HttpProbe {
    /// A probe of the plan's nodes.
    pub fn new(plan: &Plan) -> io::Result<HttpProbe> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut clients = Vec::new();
        for node in plan.nodes() {
            let mut config = ClientConfig::new([format!("http://{}", node.http)]);
            config.timeout = ANSWER_TIME_MAX;
            clients.push(Client::new(&config).map_err(io::Error::other)?);
        }
        Ok(HttpProbe { runtime, clients })
    }
}

impl Probe for HttpProbe {
    /// A group counts when a node says that it leads it; that others have heard of a leader is not enough.
    fn groups_led(&mut self) -> u64 {
        let mut led = BTreeSet::new();
        for client in &self.clients {
            let groups =
                self.runtime.block_on(client.groups()).map(|answer| answer.groups).unwrap_or_default();
            let leading = groups.iter().filter(|group| group.state.as_deref() == Some("leader"));
            led.extend(leading.map(|group| group.group));
        }
        led.len() as u64
    }
}
