// SPDX-License-Identifier: Apache-2.0

//! Mutual TLS 1.3: both sides show a certificate of the same authority, and the dialer checks that the acceptor's is for the
//! host that it dialed. Which node it is, hello decides.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, Error, RootCertStore,
    ServerConfig, ServerConnection,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::config::TransportError;

/// The seed's CAFile, CertFile and KeyFile, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that peers' certificates must come from.
    pub ca_file: PathBuf,
    /// This node's certificate, and those between it and the authority.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

impl TlsFiles {
    /// Reads the files and checks that they belong together, without starting anything.
    pub fn check(&self) -> Result<(), TransportError> {
        Tls::load(self).map(|_| ())
    }
}

/// What both directions need.
pub(crate) struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    pub(crate) fn load(files: &TlsFiles) -> Result<Tls, TransportError> {
        let refuse = |file: &Path, reason: String| TransportError::Tls { file: file.to_owned(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca_file)? {
            roots.add(certificate).map_err(|error| refuse(&files.ca_file, error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&files.cert_file)?;
        let key = PrivateKeyDer::from_pem_file(&files.key_file)
            .map_err(|error| refuse(&files.key_file, pem_reason(&error, "private key")))?;
        let provider = Arc::new(ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let pair = |error: rustls::Error| {
            refuse(&files.key_file, format!("it does not fit {}: {error}", files.cert_file.display()))
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| refuse(&files.ca_file, error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(pair)?;
        // Nothing is resumed: a connection lives long, and a dialed one must stay silent so that any byte from it means an end.
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(pair)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(pair)?;
        client.resumption = Resumption::disabled();
        Ok(Tls { client: Arc::new(client), server: Arc::new(server) })
    }

    /// The dialing side of a connection to `address` (host:port).
    pub(crate) fn dialing(&self, address: &str) -> Result<Connection, String> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| format!("`{host}` cannot be in a certificate: {error}"))?;
        let mut connection =
            ClientConnection::new(self.client.clone(), name).map_err(|error| error.to_string())?;
        connection.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
        Ok(connection.into())
    }

    /// The accepting side.
    pub(crate) fn accepting(&self) -> Result<Connection, String> {
        let mut connection = ServerConnection::new(self.server.clone()).map_err(|error| error.to_string())?;
        connection.set_buffer_limit(Some(TLS_BUFFER_BYTES_MAX));
        Ok(connection.into())
    }
}

/// Why there is no connection, for whoever has to mend it: whose certificate it is about, and what is wrong with it. The same trouble is
/// the same text as long as the day lasts, because it is told when it is news.
pub(crate) fn reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => {
            format!("the peer's certificate is refused: {}", refused_by_us(error))
        }
        Error::AlertReceived(alert) => match refused_by_peer(*alert) {
            Some(why) => format!("the peer refuses this node's certificate: {why}"),
            None => format!("TLS: {error}"),
        },
        _ => format!("TLS: {error}"),
    }
}

fn refused_by_us(error: &CertificateError) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / DAY_SECONDS;
            format!("it expired {days} days ago, by this node's clock")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let days = not_before.as_secs().saturating_sub(time.as_secs()).div_ceil(DAY_SECONDS);
            format!("it is valid only in {days} days, by this node's clock")
        }
        // A signature that does not fit is what an authority's successor of the same name makes.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("it is signed by no authority of this node's CA file ({error})")
        }
        _ => error.to_string(),
    }
}

/// What the peer's alert says of our certificate, if it is about that (RFC 8446 §6.2).
fn refused_by_peer(alert: AlertDescription) -> Option<String> {
    let why = match alert {
        AlertDescription::CertificateExpired => "it is not valid by the peer's clock, expired or too new",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it is signed by no authority of the peer's CA file"
        }
        AlertDescription::BadCertificate => {
            "it is not for the host at which the peer dials this node, or damaged"
        }
        AlertDescription::CertificateRequired
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "",
        _ => return None,
    };
    Some(if why.is_empty() { format!("{alert:?}") } else { format!("{why} ({alert:?})") })
}

/// Most bytes that wait encrypted for a socket; more wait in the send queue, where they are counted.
const TLS_BUFFER_BYTES_MAX: usize = 256 << 10;

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let refuse = |error: pem::Error| TransportError::Tls {
        file: file.to_owned(),
        reason: pem_reason(&error, "certificate"),
    };
    let found = CertificateDer::pem_file_iter(file)
        .map_err(refuse)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(refuse)?;
    if found.is_empty() { Err(refuse(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn pem_reason(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("it holds no {wanted} in PEM form"),
        pem::Error::Io(error) => error.to_string(),
        other => format!("it is no PEM file: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::UnixTime;

    use super::*;

    #[test]
    fn a_certificate_that_expired_is_news_once_a_day_and_not_with_every_dial() {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        let told_at = |now: Duration| {
            let (time, not_after) = (UnixTime::since_unix_epoch(now), UnixTime::since_unix_epoch(days(7)));
            reason(&Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }))
        };
        let now = days(30);
        assert_eq!(
            told_at(now),
            "the peer's certificate is refused: it expired 23 days ago, by this node's clock"
        );
        assert_eq!(told_at(now), told_at(now + Duration::from_secs(1)));
        assert_ne!(told_at(now), told_at(now + days(1)));
    }

    #[test]
    fn an_alert_about_a_certificate_says_whose_it_is_and_another_one_is_told_as_it_came() {
        let told = |alert| reason(&Error::AlertReceived(alert));
        assert_eq!(
            told(AlertDescription::UnknownCA),
            "the peer refuses this node's certificate: it is signed by no authority of the peer's CA file (UnknownCA)"
        );
        assert_eq!(
            told(AlertDescription::CertificateRevoked),
            "the peer refuses this node's certificate: CertificateRevoked"
        );
        assert!(told(AlertDescription::InternalError).starts_with("TLS: "));
    }
}
