// SPDX-License-Identifier: Apache-2.0

//! The certificates that a configuration names: read and checked before a node writes anything, and by `mraft config check`.

use mraft::TlsFiles;
use mraft_gateway::ServerTls;

use crate::config::NodeConfig;
use crate::config::model::{HttpTlsFiles, MutualTlsFiles};
use crate::exit::CommandError;

/// What was read.
pub struct Certificates {
    /// For the HTTP door; plain HTTP if `None`.
    pub http: Option<ServerTls>,
}

impl Certificates {
    /// Reads all of them. Those between nodes are only checked: the host reads them itself.
    pub fn load(config: &NodeConfig) -> Result<Certificates, CommandError> {
        if let Some(files) = &config.peers.mutual_tls {
            of_peers(files).check().map_err(|error| CommandError::usage(error.to_string()))?;
        }
        let http = config.http.tls.as_ref().map(of_http).transpose()?;
        Ok(Certificates { http })
    }
}

/// As the host takes them.
pub(super) fn of_peers(files: &MutualTlsFiles) -> TlsFiles {
    TlsFiles {
        ca_file: files.ca_file.clone(),
        cert_file: files.cert_file.clone(),
        key_file: files.key_file.clone(),
    }
}

fn of_http(files: &HttpTlsFiles) -> Result<ServerTls, CommandError> {
    ServerTls::load(&files.cert_file, &files.key_file).map_err(|error| {
        let setting = if error.file == files.key_file { "http_tls_key_file" } else { "http_tls_cert_file" };
        CommandError::usage(format!("{setting}: {error}; give a PEM file that can be read"))
    })
}
