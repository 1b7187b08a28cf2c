// SPDX-License-Identifier: Apache-2.0

//! Where a node is put together.

use crate::config::NodeConfig;
use crate::exit::{CommandError, Exit};
use crate::signals::Shutdown;

/// Runs a node until it is told to stop. The configuration has been validated; nothing has been written yet but log files.
pub fn run_node(config: NodeConfig, shutdown: &Shutdown) -> Result<Exit, CommandError> {
    let _ = shutdown;
    Err(CommandError::failed(format!(
        "node {} is configured well, but this build cannot run a node yet; see the README's status",
        config.node_id
    )))
}
