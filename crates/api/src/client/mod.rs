// SPDX-License-Identifier: Apache-2.0

//! A typed client: a list of endpoints, one deadline per call, and no attempt that rule E4 forbids.
//!
//! Every node serves every key, so the client does not route. It stays with the endpoint that answered last, follows a leader hint
//! when an error carries one, and goes on to the next endpoint when one cannot be reached. What may be sent again is decided in
//! one pure function (`retry.rs`); whether a byte had left is known from the connection (`connection.rs`), not guessed.
//!
//! Missing on purpose: sessions (a write whose outcome is unknown is the caller's to look at), and redirects of HTTP itself.

mod calls;
mod connection;
mod error;
mod retry;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

pub use calls::{Condition, Got, Readiness, ScanRequest};
pub use error::{ClientError, ConfigError};

use crate::client::connection::{Answer, Endpoint, SendFailure};
use crate::client::retry::Next;
use crate::problem::Problem;

/// Longest `timeout_ms` that a door takes.
pub const TIMEOUT_MS_MAX: u64 = 60_000;
/// Most endpoints, those learned from hints included.
const ENDPOINTS_MAX: usize = 256;

/// How to reach a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// `http://host:port`, `https://host:port` or `host:port`; at least one.
    pub endpoints: Vec<String>,
    /// PEM file of the authorities that `https` endpoints are trusted by; the system's are not asked.
    pub ca_file: Option<PathBuf>,
    /// Time for one call, all attempts together.
    pub timeout: Duration,
}

impl ClientConfig {
    /// Plain access to these endpoints with 10 s per call.
    pub fn new<T: Into<String>>(endpoints: impl IntoIterator<Item = T>) -> ClientConfig {
        ClientConfig {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ca_file: None,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Cheap to clone; clones share connections. Needs a Tokio runtime with time and IO.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
    /// No call takes longer than until then.
    deadline: Option<Instant>,
}

struct Shared {
    endpoints: Mutex<Vec<Arc<Endpoint>>>,
    /// Position of the endpoint that answered last.
    preferred: AtomicUsize,
}

impl Client {
    /// A client; connects nowhere yet.
    pub fn new(config: &ClientConfig) -> Result<Client, ConfigError> {
        let tls: Option<TlsConnector> = config.ca_file.as_deref().map(connection::trust).transpose()?;
        let mut endpoints = Vec::with_capacity(config.endpoints.len());
        for text in &config.endpoints {
            endpoints.push(Arc::new(Endpoint::parse(text, tls.as_ref())?));
        }
        if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
            let count = endpoints.len();
            return Err(ConfigError(format!("1 to {ENDPOINTS_MAX} endpoints are needed, {count} are given")));
        }
        let shared = Shared { endpoints: Mutex::new(endpoints), preferred: AtomicUsize::new(0) };
        Ok(Client { shared: Arc::new(shared), timeout: config.timeout, deadline: None })
    }

    /// The same client with another time per call.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { shared: Arc::clone(&self.shared), timeout, deadline: self.deadline }
    }

    /// The same client with one deadline for all calls together.
    pub fn with_deadline(&self, deadline: Instant) -> Client {
        Client { shared: Arc::clone(&self.shared), timeout: self.timeout, deadline: Some(deadline) }
    }

    /// Sends a call until it is answered, may not be sent again, or the deadline passes.
    async fn call(&self, call: Call) -> Result<Answer, ClientError> {
        let within = Instant::now() + self.timeout;
        let deadline = self.deadline.map_or(within, |deadline| deadline.min(within));
        let mut position = self.shared.preferred.load(Ordering::Relaxed);
        let mut attempt = 0;
        let mut told = None;
        loop {
            attempt += 1;
            let endpoints = self.shared.endpoints();
            position %= endpoints.len();
            let endpoint = &endpoints[position];
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // What an attempt was told says more than that the time is over.
                let over = || ClientError::Deadline { endpoint: endpoint.url(), write_may_have_left: false };
                return Err(told.unwrap_or_else(over));
            }
            let budget = retry::attempt_budget(call.is_write, left, endpoints.len());
            let error = match self.attempt(&call, endpoint, budget).await {
                Ok(answer) => {
                    self.shared.preferred.store(position, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let Next::Again(pause) = retry::next(&error, call.is_write, attempt, endpoints.len()) else {
                return Err(error);
            };
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            let hint = error.problem().and_then(|problem| problem.leader_http.as_deref());
            position = hint
                .and_then(|authority| self.shared.position_of(authority, endpoint))
                .filter(|hinted| *hinted != position)
                .unwrap_or(position + 1);
            told = Some(error);
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    async fn attempt(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        budget: Duration,
    ) -> Result<Answer, ClientError> {
        let request = call.request(endpoint, budget)?;
        let answer = match timeout(budget, endpoint.send(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(SendFailure::NotSent(detail))) => {
                return Err(ClientError::Unreachable { endpoint: endpoint.url(), detail });
            }
            Ok(Err(SendFailure::Lost(detail))) => {
                return Err(ClientError::Lost { endpoint: endpoint.url(), detail, is_write: call.is_write });
            }
            // A read may be asked elsewhere while time is left; a write that hangs has had all of it.
            Err(_) if !call.is_write => {
                let detail = format!("no answer within {} ms", budget.as_millis());
                return Err(ClientError::Lost { endpoint: endpoint.url(), detail, is_write: false });
            }
            Err(_) => {
                return Err(ClientError::Deadline { endpoint: endpoint.url(), write_may_have_left: true });
            }
        };
        if answer.status.is_success() || call.takes_status == Some(answer.status.as_u16()) {
            return Ok(answer);
        }
        Err(match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) => ClientError::Problem(Box::new(problem)),
            Err(_) => ClientError::BadAnswer {
                endpoint: endpoint.url(),
                detail: format!("status {} without a problem document", answer.status.as_u16()),
                is_write: call.is_write,
            },
        })
    }

    async fn call_json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let is_write = call.is_write;
        let answer = self.call(call).await?;
        serde_json::from_slice(&answer.body).map_err(|error| self.bad_answer(error.to_string(), is_write))
    }

    fn bad_answer(&self, detail: String, is_write: bool) -> ClientError {
        let endpoints = self.shared.endpoints();
        let position = self.shared.preferred.load(Ordering::Relaxed) % endpoints.len();
        ClientError::BadAnswer { endpoint: endpoints[position].url(), detail, is_write }
    }
}

impl Shared {
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the endpoint of this authority stands; a new one is added while there is room.
    fn position_of(&self, authority: &str, like: &Endpoint) -> Option<usize> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.iter().position(|endpoint| endpoint.authority() == authority) {
            return Some(known);
        }
        if endpoints.len() >= ENDPOINTS_MAX {
            return None;
        }
        endpoints.push(Arc::new(like.like_this(authority).ok()?));
        Some(endpoints.len() - 1)
    }
}

/// One request, before it is known who will be asked.
struct Call {
    method: Method,
    path: String,
    /// Parameters after `timeout_ms`, each `name=value`, escaped.
    query: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    is_write: bool,
    /// A status that is an answer here although it is no success.
    takes_status: Option<u16>,
}

impl Call {
    fn read(path: impl Into<String>) -> Call {
        Call {
            method: Method::GET,
            path: path.into(),
            query: String::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            is_write: false,
            takes_status: None,
        }
    }

    fn write(method: Method, path: impl Into<String>, body: Vec<u8>) -> Call {
        Call { method, body: Bytes::from(body), is_write: true, ..Call::read(path) }
    }

    fn parameter(mut self, name: &str, value: &[u8]) -> Call {
        self.query.push('&');
        self.query.push_str(name);
        self.query.push('=');
        crate::percent::encode(value, &mut self.query);
        self
    }

    fn header(mut self, name: &'static str, value: String) -> Call {
        self.headers.push((name, value));
        self
    }

    fn request(&self, endpoint: &Endpoint, budget: Duration) -> Result<Request<Full<Bytes>>, ClientError> {
        let timeout_ms = retry::timeout_ms(budget);
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(format!("{}?timeout_ms={timeout_ms}{}", self.path, self.query))
            .header(http::header::HOST, endpoint.authority());
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(Full::new(self.body.clone())).map_err(|error| ClientError::Unreachable {
            endpoint: endpoint.url(),
            detail: format!("the request cannot be written: {error}"),
        })
    }
}
