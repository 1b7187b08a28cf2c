// SPDX-License-Identifier: Apache-2.0

//! From a file, the environment and flags to one validated [`NodeConfig`].
//!
//! Nothing is written before everything is known to be right, every problem found is reported at once, and each names the
//! field, the values with where they came from, and the fix.

pub mod address;
pub mod document;
mod dynamic;
pub mod groups;
pub mod kept;
pub mod keys;
mod layers;
pub mod machine;
pub mod model;
mod raw;
mod source;
pub mod suggest;
mod validate;
mod value;

use std::path::{Path, PathBuf};

use mraft_types::{DeploymentId, NodeId};

pub use groups::{GroupPlan, Here, TopologySource};
pub use keys::{KEYS, Key, MEMORY_CEILING_BYTES_MIN};
pub use layers::{ENVIRONMENT_PREFIX, FlagValue};
pub use model::NodeConfig;
pub use source::{ConfigError, Given, Problem, Source};
pub use validate::RAFT_PORT_DEFAULT;
pub use value::{Bytes, Value};

use keys::Settings;
use layers::Layers;

/// What is known before a configuration exists.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The file named by `--config`.
    pub file: Option<PathBuf>,
    /// The environment; everything that does not begin with `MRAFT_` is passed over.
    pub environment: Vec<(String, String)>,
    /// What the command line says about settings.
    pub flags: Vec<FlagValue>,
    /// Memory of the machine or of the container around us, if known.
    pub memory_bytes: Option<u64>,
}

/// What a data directory remembers from its first start (row S9): enough to start it again without a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptIdentity {
    /// Which deployment it belongs to.
    pub deployment_id: DeploymentId,
    /// Which node it is.
    pub node_id: NodeId,
    /// Where peers reach it.
    pub raft_address: String,
    /// Where its log is, if that is not the data directory.
    pub wal_dir: Option<PathBuf>,
    /// Its doors.
    pub settings: kept::Kept,
}

/// Reads and checks everything. `identity_in` tells what a data directory remembers of itself; an error of it is a sentence.
pub fn load(
    inputs: &Inputs,
    identity_in: impl FnOnce(&Path) -> Result<Option<KeptIdentity>, String>,
) -> Result<NodeConfig, ConfigError> {
    let mut problems = Vec::new();
    let mut layers = Layers::default();
    if let Some(file) = &inputs.file {
        layers.add_file(file, &mut problems);
    }
    let environment = inputs.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    layers.add_environment(environment, &mut problems);
    layers.add_flags(&inputs.flags, &mut problems);
    let settings = Settings::read(&layers, &mut problems);
    let Some(settings) = settings.filter(|_| problems.is_empty()) else { return Err(ConfigError(problems)) };

    let directory = settings.data_dir.value;
    let identity = identity_in(&directory)
        .map_err(|why| ConfigError(vec![Problem::File { path: directory.clone(), why }]))?;
    match identity {
        Some(identity) => {
            let mut kept = identity.settings;
            kept.extend([
                ("deployment_id", identity.deployment_id.to_string()),
                ("node_id", identity.node_id.to_string()),
                ("raft_address", identity.raft_address),
            ]);
            // What is no UTF-8 cannot be a setting; the node finds its log by itself.
            let wal_dir = identity.wal_dir.as_deref().and_then(Path::to_str);
            kept.extend(wal_dir.map(|wal_dir| ("wal_dir", wal_dir.to_owned())));
            layers.add_identity(&directory, &kept);
            if inputs.file.is_none() {
                layers.notice(format!(
                    "no configuration file: {} remembers the node's identity, its WAL directory and its doors (addresses and \
                     certificates); every other setting that is not given has its default",
                    directory.display()
                ));
            }
        }
        None if inputs.file.is_none() && !layers.names_groups() => {
            return Err(ConfigError(vec![Problem::NoConfiguration]));
        }
        None => {}
    }
    finish(&layers, inputs.memory_bytes)
}

/// A duration with its unit, as settings and flags write it ("500ms", "5s").
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
    value::milliseconds(text).map(std::time::Duration::from_millis)
}

fn finish(layers: &Layers, memory_bytes: Option<u64>) -> Result<NodeConfig, ConfigError> {
    let mut problems = Vec::new();
    let config = Settings::read(layers, &mut problems).and_then(|settings| {
        let notices = layers.notices().to_vec();
        validate::validate(&settings, memory_bytes, notices, &mut problems)
    });
    config.ok_or(ConfigError(problems))
}

#[cfg(test)]
mod tests;
