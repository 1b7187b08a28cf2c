// SPDX-License-Identifier: Apache-2.0

//! How many elections nodes began since they were started, whatever for: counted by them, so that no machine is too slow for it.

use crate::cluster::Cluster;
use crate::failure::Result;
use crate::{metrics, wait};

/// Why replicas begin one.
const REASONS: [&str; 3] = ["suspicion", "timeout", "transfer"];

/// Of all running nodes together.
pub async fn since_start(cluster: &Cluster) -> Result<u64> {
    let mut begun = 0;
    for node in (0..cluster.nodes.len()).filter(|node| cluster.nodes[*node].is_running()) {
        let client = cluster.client_of_one(node)?;
        let told = wait::until("a node tells its metrics", async || Ok(client.metrics().await?)).await?;
        let of = |reason| metrics::value(&told, &format!("mraft_elections_total{{reason=\"{reason}\"}}"));
        begun += REASONS.into_iter().map(of).sum::<u64>();
    }
    Ok(begun)
}
