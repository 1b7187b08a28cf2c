// SPDX-License-Identifier: Apache-2.0

//! `/livez`, `/readyz`, `/metrics`: for probes and scrapers, as plain text. They answer at once and also when the door is full.

use std::fmt::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use mraft_api::ErrorCode;

use crate::door::Shared;
use crate::errors::Refused;
use crate::http::answer::{Answered, Response};
use crate::http::query::Query;
use crate::needs::Check;

pub(super) async fn livez(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let query = Query::parse(request.uri().query(), &["verbose", "timeout_ms"])?;
    Ok(checked("livez", &door.node.health().live, query.switch("verbose")?))
}

pub(super) async fn readyz(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let query = Query::parse(request.uri().query(), &["verbose", "timeout_ms"])?;
    let health = door.node.health();
    let checks: Vec<Check> = health.live.into_iter().chain(health.ready).collect();
    Ok(checked("readyz", &checks, query.switch("verbose")?))
}

pub(super) async fn metrics(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let query = Query::parse(request.uri().query(), &["per_group", "timeout_ms"])?;
    let Some(mut text) = door.node.metrics(query.switch("per_group")?) else {
        let refused = Refused::new(ErrorCode::RouteNotFound, "this node is told not to serve metrics");
        return Err(refused.with_hint("set enable_metrics to true and start the node again"));
    };
    // A string takes whatever is written to it.
    let written = door.stats.write(&door.gates(), &mut text);
    debug_assert!(written.is_ok());
    text.push_str("# EOF\n");
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(plain(StatusCode::OK, OPEN_METRICS, text))
}

/// `ok`, or one line per check when one fails or all are asked for.
fn checked(name: &str, checks: &[Check], verbose: bool) -> Response {
    let passes = checks.iter().all(|check| check.failure.is_none());
    let mut text = String::new();
    if verbose || !passes {
        for check in checks {
            let line = match &check.failure {
                None => writeln!(text, "[+]{} ok", check.name),
                Some(why) => writeln!(text, "[-]{} failed: {why}", check.name),
            };
            debug_assert!(line.is_ok());
        }
        text.push_str(name);
        text.push_str(if passes { " check passed\n" } else { " check failed\n" });
    } else {
        text.push_str("ok\n");
    }
    let status = if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    plain(status, "text/plain; charset=utf-8", text)
}

fn plain(status: StatusCode, content_type: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
