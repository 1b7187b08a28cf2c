// SPDX-License-Identifier: Apache-2.0

//! `mraft config`: what a node would be told, without a node.

use serde_json::json;

use crate::cli::ConfigCommand;
use crate::config::{Here, Inputs, NodeConfig, document, load, machine};
use crate::exit::{CommandError, Exit};
use crate::node::Certificates;
use crate::output::{self, fields};

pub(super) fn run(command: &ConfigCommand) -> Result<Exit, CommandError> {
    match command {
        ConfigCommand::Check { file, output } => {
            let inputs = Inputs {
                file: Some(file.clone()),
                environment: super::node::environment()?,
                flags: Vec::new(),
                memory_bytes: machine::memory_bytes(),
            };
            let config = load(&inputs, |_| Ok(None))?;
            Certificates::load(&config)?;
            let summary = Summary::of(&config);
            let document = json!({
                "file": file, "valid": true, "node": config.node_id.get(),
                "raft_address": config.peers.raft_address.to_string(),
                "http_address": config.http.listen_address.to_string(),
                "data_dir": config.data_dir, "groups": config.groups.len(),
                "original_in": summary.original_in, "joins": summary.joins, "notices": summary.notices,
            });
            super::printed(output::print(output.format, &document, || {
                format!("{} is valid\n{}", file.display(), summary.text(&config))
            }))
        }
        ConfigCommand::Default => super::printed(output::write(document::default_toml().as_bytes())),
    }
}

/// What a configuration amounts to.
struct Summary {
    original_in: usize,
    joins: usize,
    notices: Vec<String>,
}

impl Summary {
    fn of(config: &NodeConfig) -> Summary {
        let count = |here| config.groups.values().filter(|group| group.here == here).count();
        let notices = config.notices.iter().cloned().chain(config.plain_doors()).collect();
        Summary { original_in: count(Here::Original), joins: count(Here::Joiner), notices }
    }

    fn text(&self, config: &NodeConfig) -> String {
        let mut text = fields(&[
            ("node", format!("{} ({})", config.node_id, config.source_of("node_id"))),
            ("raft", config.peers.raft_address.to_string()),
            ("http", config.http.listen_address.to_string()),
            ("data", config.data_dir.display().to_string()),
            (
                "groups",
                format!(
                    "{} listed, original member of {}, joins {}",
                    config.groups.len(),
                    self.original_in,
                    self.joins
                ),
            ),
        ]);
        for notice in &self.notices {
            text.push_str(&format!("note: {notice}\n"));
        }
        text
    }
}
