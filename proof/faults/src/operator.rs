// SPDX-License-Identifier: Apache-2.0

//! An operator at a terminal: runs the binary's commands and reads their answers.

use serde_json::Value;
use tokio::task::spawn_blocking;

use std::process::{Command, Stdio};

use crate::cluster::Cluster;
use crate::failure::{Failure, Result};

/// Runs `mraft ARGUMENTS… --url NODE… -o json` against the running nodes; the document, or the exit code with what was said.
pub async fn run(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(cluster.binary());
    command.args(arguments).args(["-o", "json"]).stdin(Stdio::null());
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        command.args(["--url", &node.url()]);
    }
    let shown = format!("mraft {}", arguments.join(" "));
    let output = spawn_blocking(move || command.output()).await.map_err(Failure::new)??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format_args!("{shown} ended with {}: {}", output.status, said.trim())));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::new(format_args!("{shown} did not answer with JSON: {error}")))
}
