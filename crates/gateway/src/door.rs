// SPDX-License-Identifier: Apache-2.0

//! One door: a node, its limits, its routes. From here on a request has no connection.

use std::sync::Arc;
use std::time::Instant;

use ::http::{Method, Request};
use axum::Router;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use mraft_api::paths;

use crate::http::answer::Response;
use crate::http::{self, kv};
use crate::limits::{Gate, Limits, Line};
use crate::needs::Node;
use crate::stats::{Kind, Stats};

/// Cheap to clone; clones are the same door.
#[derive(Clone)]
pub struct Door {
    pub(crate) shared: Arc<Shared>,
    router: TowerToHyperService<Router>,
}

/// What every route sees.
pub(crate) struct Shared {
    pub(crate) node: Arc<dyn Node>,
    pub(crate) limits: Limits,
    pub(crate) requests: Gate,
    pub(crate) request_bytes: Gate,
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

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response {
        let begun = Instant::now();
        let path = request.uri().path();
        let kind = match path.starts_with(paths::KV) {
            true if matches!(*request.method(), Method::GET | Method::HEAD) => Kind::KvRead,
            true => Kind::KvWrite,
            false => Kind::Other,
        };
        // A full door must still be able to say so.
        let is_probe = matches!(path, paths::LIVEZ | paths::READYZ | paths::METRICS);
        let pass = if is_probe { Ok(None) } else { self.shared.requests.enter(1).map(Some) };
        let response = match pass {
            Err(refused) => refused.into_response(),
            // Keys go past the router: it would decode, and a key is bytes.
            Ok(_held) if kind != Kind::Other => kv::answer(&self.shared, request).await,
            Ok(_held) => match self.router.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        self.shared.stats.answered(kind, response.status().as_u16(), begun.elapsed());
        response
    }
}

impl Shared {
    pub(crate) fn gates(&self) -> [&Gate; 5] {
        let Line { inside: scans, waiting, .. } = &self.scans;
        [&self.requests, &self.request_bytes, scans, waiting, &self.stats.connections]
    }
}
