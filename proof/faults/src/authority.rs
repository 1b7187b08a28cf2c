// SPDX-License-Identifier: Apache-2.0

//! Certificates between nodes: authorities, what they sign, and the files in which a node looks for it.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

use crate::failure::{Failure, Result};
use crate::node::Node;

/// Signs certificates.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Credentials {
    certificate: String,
    key: String,
}

impl Authority {
    /// One with a key of its own.
    pub fn new(name: &str) -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::new()).map_err(Failure::new)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, new_key()?).map(Authority).map_err(Failure::new)
    }

    /// What those hold who trust it.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A new certificate of a new key, for this host.
    pub fn signs(&self, host: &str) -> Result<Credentials> {
        self.sign(CertificateParams::new(vec![host.to_owned()]).map_err(Failure::new)?)
    }

    /// The same, of long ago.
    pub fn signed_once(&self, host: &str) -> Result<Credentials> {
        let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(Failure::new)?;
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 2, 3));
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Credentials> {
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.0).map_err(Failure::new)?;
        Ok(Credentials { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate().map_err(Failure::new)
}

impl Credentials {
    /// Puts them where the node looks for them when it starts the next time.
    pub fn give(&self, to: &Node) -> Result<()> {
        fs::write(to.home().join(CERTIFICATE), &self.certificate)?;
        Ok(fs::write(to.home().join(KEY), &self.key)?)
    }
}

/// From its next start on, the node trusts these authorities and no other.
pub fn trust(node: &Node, authorities: &[&Authority]) -> Result<()> {
    let bundle: String = authorities.iter().map(|authority| authority.pem()).collect();
    Ok(fs::write(node.home().join(AUTHORITIES), bundle)?)
}

/// Has the node look for its files in its home.
pub fn require(node: &mut Node) {
    let file = |name: &str| serde_json::Value::from(node.home().join(name).to_string_lossy());
    // A JSON string is a TOML string, too.
    let (authorities, certificate, key) = (file(AUTHORITIES), file(CERTIFICATE), file(KEY));
    let lines =
        format!("mutual_tls = true\nca_file = {authorities}\ncert_file = {certificate}\nkey_file = {key}\n");
    node.settings.push_str(&lines);
}

const AUTHORITIES: &str = "authorities.pem";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
