// SPDX-License-Identifier: Apache-2.0

//! One door: a node, its limits, its routes. From here on a request has no connection.

use std::sync::Arc;
use std::time::Instant;

use ::http::{Method, Request};
use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use mraft_api::paths;

use crate::errors::Refused;
use crate::http::answer::Response;
use crate::http::{self, kv};
use crate::limits::{Gate, Limits, Line, Pass, SMALL_ANSWER_BYTES};
use crate::metered::Meter;
use crate::needs::{Node, NodeError};
use crate::stats::{Kind, Stats};

/// Cheap to clone; clones are the same door.
#[derive(Clone)]
pub struct Door {
    pub(crate) shared: Arc<Shared>,
    router: TowerToHyperService<Router>,
}

/// A connection that may be served.
pub(crate) struct Admitted {
    pub(crate) meter: Arc<Meter>,
    _place: Pass<Arc<Gate>>,
}

/// What every route sees.
pub(crate) struct Shared {
    pub(crate) node: Arc<dyn Node>,
    pub(crate) limits: Limits,
    pub(crate) requests: Gate,
    pub(crate) request_bytes: Gate,
    answer_bytes: Arc<Gate>,
    connection_bytes: Arc<Gate>,
    pub(crate) scans: Line,
    pub(crate) stats: Stats,
}

impl Door {
    /// A door in front of a node.
    pub fn new(node: Arc<dyn Node>, limits: Limits) -> Door {
        let shared = Arc::new(Shared {
            node,
            requests: Gate::new("requests at once", limits.concurrent_requests_max),
            request_bytes: Gate::new("bytes of request bodies at once", limits.request_bytes_max),
            answer_bytes: Arc::new(Gate::new("bytes of answers at once", limits.answer_bytes_max)),
            connection_bytes: Arc::new(Gate::new(
                "bytes of connections at once",
                limits.connection_bytes_max,
            )),
            scans: Line::new(
                Gate::new("scans at once", limits.concurrent_scans_max),
                Gate::new("scans waiting", limits.waiting_scans_max),
            ),
            stats: Stats::new(limits.connections_max),
            limits,
        });
        let router = TowerToHyperService::new(http::router(Arc::clone(&shared)));
        Door { shared, router }
    }

    /// Takes in one more connection, if there is room for it.
    pub(crate) fn admit(&self) -> Result<Admitted, Box<Refused>> {
        let place = self.shared.stats.connections.hold(1)?;
        let meter = Arc::new(Meter::begin(&self.shared.connection_bytes)?);
        Ok(Admitted { meter, _place: place })
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response {
        let begun = Instant::now();
        let path = request.uri().path();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let kind = match path.starts_with(paths::KV) {
            true if is_read => Kind::KvRead,
            true => Kind::KvWrite,
            false => Kind::Other,
        };
        // A full door must still be able to say so.
        let is_probe = matches!(path, paths::LIVEZ | paths::READYZ | paths::METRICS);
        let pass = match is_probe {
            true => Ok(None),
            false => {
                self.shared.answer_bytes.is_open().and_then(|()| self.shared.requests.enter(1).map(Some))
            }
        };
        let response = match pass {
            Err(refused) => refused.into_response(),
            // Keys go past the router: it would decode, and a key is bytes.
            Ok(_held) if kind != Kind::Other => kv::answer(&self.shared, request).await,
            Ok(_held) => match self.router.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        let saying = match (is_probe, is_read) {
            (true, _) => Saying::Probe,
            (false, true) => Saying::Read,
            (false, false) => Saying::Write,
        };
        let response = self.shared.held_until_taken(response, saying).await;
        self.shared.stats.answered(kind, response.status().as_u16(), begun.elapsed());
        response
    }
}

/// What an answer is about, which decides how much it matters that it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saying {
    /// Nothing was changed: it can be asked again.
    Read,
    /// It was done, so "refused" would be a lie. As many of them as there were bodies, and none is begun while there is no room.
    Write,
    /// How full the door is, among others.
    Probe,
}

impl Shared {
    /// Counts the bytes of an answer until the socket has taken them; one for which there is no room becomes a refusal.
    async fn held_until_taken(&self, response: Response, saying: Saying) -> Response {
        let Some(bytes) = response.body().size_hint().exact().map(|bytes| bytes as usize) else {
            debug_assert!(false, "every answer is whole before it is sent");
            return response;
        };
        if bytes <= SMALL_ANSWER_BYTES {
            return response;
        }
        let gate = &self.answer_bytes;
        let may_be_said = match saying {
            Saying::Write => true,
            Saying::Probe => gate.used() < 2 * gate.max(),
            // One alone always finds room, however large a page of a scan is.
            Saying::Read => gate.used() == 0,
        };
        let pass = match may_be_said {
            true => gate.hold_anyway(bytes),
            false => match gate.hold(bytes) {
                Ok(pass) => pass,
                Err(refused) => {
                    return refused.with_hint("take answers sooner, or ask another node").into_response();
                }
            },
        };
        let (head, body) = response.into_parts();
        match body.collect().await {
            Ok(whole) => {
                let held = Held { bytes: whole.to_bytes(), _pass: pass };
                Response::from_parts(head, Body::from(Bytes::from_owner(held)))
            }
            Err(error) => {
                let error = NodeError::Internal(format!("an answer cannot be written: {error}"));
                Refused::by_node(error.into(), saying == Saying::Write).into_response()
            }
        }
    }

    pub(crate) fn gates(&self) -> [&Gate; 7] {
        let Line { inside: scans, waiting, .. } = &self.scans;
        [
            &self.requests,
            &self.request_bytes,
            &self.answer_bytes,
            scans,
            waiting,
            &self.stats.connections,
            &self.connection_bytes,
        ]
    }
}

/// Bytes of an answer. Whoever writes them drops them when the socket has taken them.
struct Held {
    bytes: Bytes,
    _pass: Pass<Arc<Gate>>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
