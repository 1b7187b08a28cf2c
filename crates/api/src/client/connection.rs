// SPDX-License-Identifier: Apache-2.0

//! One endpoint: its address, its idle connections, and sending one request so that "no byte left" is known for certain.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use mraft_types::limits::COMMAND_BYTES_MAX;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::client::error::ConfigError;

/// Idle connections that are kept per endpoint; more requests than that at once open connections that are closed again.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// A connection that was idle for longer is not used again. Well below the time after which a door closes it, so that a write is
/// not lost on a connection that is just being closed.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// A node that does not accept within this time is left for another one.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Largest answer: a page of a scan with one value of the largest size, which may come escaped to six times its bytes, beside the rest.
const ANSWER_BYTES_MAX: usize = 8 * COMMAND_BYTES_MAX;

type Sender = SendRequest<Full<Bytes>>;

/// Where a node's door is.
pub(super) struct Endpoint {
    scheme: &'static str,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    idle: Mutex<Vec<(Sender, Instant)>>,
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

/// A request without an answer.
pub(super) enum SendFailure {
    /// No byte of it left.
    NotSent(String),
    /// Bytes may have left.
    Lost(String),
}

impl Endpoint {
    /// An endpoint from `http://host:port`, `https://host:port` or `host:port` (plain HTTP).
    pub(super) fn parse(text: &str, tls: Option<&TlsConnector>) -> Result<Endpoint, ConfigError> {
        let bad = |why: &str| ConfigError(format!("endpoint `{text}`: {why}"));
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = full.parse().map_err(|_| bad("not http://host:port or https://host:port"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => "http",
            Some("https") => "https",
            _ => return Err(bad("the scheme must be http or https")),
        };
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(bad("a path is not part of an endpoint"));
        }
        let authority = uri.authority().ok_or_else(|| bad("the host is missing"))?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(bad("not host:port"));
        }
        let port = authority.port_u16().ok_or_else(|| bad("the port is missing or impossible"))?;
        let tls = match (scheme, tls) {
            ("https", None) => return Err(bad("https needs a CA file")),
            ("https", Some(tls)) => Some(tls.clone()),
            _ => None,
        };
        let host = authority.host().to_owned();
        Ok(Endpoint { scheme, host, port, tls, idle: Mutex::new(Vec::new()) })
    }

    /// Another node's endpoint, spoken to like this one.
    pub(super) fn like_this(&self, authority: &str) -> Result<Endpoint, ConfigError> {
        Endpoint::parse(&format!("{}://{authority}", self.scheme), self.tls.as_ref())
    }

    /// `scheme://host:port`.
    pub(super) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.authority())
    }

    /// `host:port`.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Sends the request over an idle or a new connection and reads the whole answer.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, SendFailure> {
        loop {
            let (mut sender, is_fresh) = match self.take_idle() {
                Some(sender) => (sender, false),
                None => (self.connect().await.map_err(SendFailure::NotSent)?, true),
            };
            if let Err(error) = sender.ready().await {
                if is_fresh {
                    return Err(SendFailure::NotSent(error.to_string()));
                }
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
                    let body = body.map_err(|error| SendFailure::Lost(error.to_string()))?.to_bytes();
                    self.put_idle(sender);
                    return Ok(Answer { status: parts.status, headers: parts.headers, body });
                }
                Err(mut error) => match error.take_message() {
                    // The request came back untouched: the idle connection had been closed in the meantime.
                    Some(untouched) if !is_fresh => request = untouched,
                    Some(_) => return Err(SendFailure::NotSent(error.error().to_string())),
                    None => return Err(SendFailure::Lost(error.error().to_string())),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Sender, String> {
        let opening = async {
            let host = self.host.trim_start_matches('[').trim_end_matches(']');
            let stream = TcpStream::connect((host, self.port)).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            match &self.tls {
                None => handshake(stream).await,
                Some(tls) => {
                    let name = server_name(host)?;
                    handshake(tls.connect(name, stream).await.map_err(|error| error.to_string())?).await
                }
            }
        };
        match timeout(CONNECT_MAX, opening).await {
            Ok(result) => result,
            Err(_) => Err(format!("no connection within {} ms", CONNECT_MAX.as_millis())),
        }
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((sender, since)) = idle.pop() {
            if !sender.is_closed() && since.elapsed() < IDLE_MAX {
                return Some(sender);
            }
        }
        None
    }

    fn put_idle(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS_MAX && !sender.is_closed() {
            idle.push((sender, Instant::now()));
        }
    }
}

/// TLS 1.3 that trusts the certificates of this file and no others.
pub(super) fn trust(ca_file: &Path) -> Result<TlsConnector, ConfigError> {
    let bad = |why: String| ConfigError(format!("CA file {}: {why}", ca_file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| bad(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(ServerName::from(address)),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(|error| error.to_string()),
    }
}

async fn handshake<S>(stream: S) -> Result<Sender, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends when the sender is dropped; its errors reach whoever waits for an answer.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<String, String> {
        Endpoint::parse(text, None).map(|endpoint| endpoint.url()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        assert_eq!(url("127.0.0.1:13891"), Ok("http://127.0.0.1:13891".to_owned()));
        assert_eq!(url("http://node-1.example:80/"), Ok("http://node-1.example:80".to_owned()));
        assert_eq!(url("http://[::1]:80"), Ok("http://[::1]:80".to_owned()));
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, why) in [
            ("", "not http"),
            ("127.0.0.1", "port is missing"),
            ("ftp://a:1", "scheme"),
            ("http://a:1/v1", "path"),
            ("http://user@a:1", "host:port"),
            ("https://a:1", "CA file"),
            ("a:99999", "port is missing or impossible"),
        ] {
            let error = url(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
