// SPDX-License-Identifier: Apache-2.0

//! Routes, one file per resource. `/v1/kv/` is answered before the router (see `door.rs`); everything else is in the table here, and
//! takes no condition headers.

pub(crate) mod answer;
mod batch;
mod body;
mod conditions;
mod groups;
mod health;
pub(crate) mod kv;
mod openapi;
mod query;
mod scan;
mod seed;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, on};
use http::Method;
use mraft_api::{ErrorCode, paths};

use crate::door::Shared;
use crate::errors::Refused;
use crate::http::answer::Response;

/// The router over every route but `/v1/kv/`.
pub(crate) fn router(door: Arc<Shared>) -> Router {
    table().router.with_state(door)
}

/// Every route with its methods; what `openapi.json` must agree with.
fn table() -> Routes {
    Routes { router: Router::new(), listed: Vec::new() }
        .on(Method::POST, paths::BATCH, batch::post)
        .on(Method::GET, paths::SCAN, scan::get)
        .on(Method::GET, paths::STATUS, status::get)
        .on(Method::GET, paths::GROUPS, groups::list)
        .on(Method::GET, paths::GROUP, groups::detail)
        .on(Method::POST, paths::GROUP_ADD_LEARNER, groups::add_learner)
        .on(Method::POST, paths::GROUP_PROMOTE, groups::promote)
        .on(Method::POST, paths::GROUP_REMOVE, groups::remove)
        .on(Method::POST, paths::GROUP_TRANSFER, groups::transfer)
        .on(Method::POST, paths::GROUP_VERIFY, groups::verify)
        .on(Method::DELETE, paths::NODE, groups::retire)
        .on(Method::POST, paths::NODE_CLEAR_CONFLICT, groups::clear_conflict)
        .on(Method::GET, paths::OPENAPI, openapi::get)
        .on(Method::GET, paths::LIVEZ, health::livez)
        .on(Method::GET, paths::READYZ, health::readyz)
        .on(Method::GET, paths::METRICS, health::metrics)
        .on(Method::GET, paths::RAFT_INFO, seed::info)
        .on(Method::GET, paths::RAFT_KEY, seed::get)
        .on(Method::POST, paths::RAFT_KEY, seed::put)
        .on(Method::DELETE, paths::RAFT_KEY, seed::delete)
        .on(Method::POST, paths::RAFT_JOIN, seed::join)
        .on(Method::DELETE, paths::RAFT_DEL, seed::del)
        .otherwise()
}

struct Routes {
    router: Router<Arc<Shared>>,
    listed: Vec<(Method, &'static str)>,
}

impl Routes {
    fn on<H, T>(mut self, method: Method, path: &'static str, handler: H) -> Routes
    where
        H: Handler<T, Arc<Shared>>,
        T: 'static,
    {
        let filter = match method {
            // A HEAD is a GET whose body is left out.
            Method::GET => MethodFilter::GET.or(MethodFilter::HEAD),
            Method::POST => MethodFilter::POST,
            _ => MethodFilter::DELETE,
        };
        let unconditional = move |State(door): State<Arc<Shared>>, request: Request| async move {
            match conditions::none(request.headers(), path) {
                Err(refused) => as_the_route_does(path, refused),
                Ok(()) => handler.call(request, door).await,
            }
        };
        self.listed.push((method, path));
        self.router = self.router.route(path, on(filter, unconditional));
        self
    }

    /// What no route takes is answered like every other error.
    fn otherwise(mut self) -> Routes {
        self.router = self.router.fallback(no_such_route).method_not_allowed_fallback(method_not_allowed);
        self
    }
}

async fn no_such_route(request: Request) -> Response {
    let path = request.uri().path();
    let shown: String = path.chars().take(PATH_CHARS_SHOWN).collect();
    let refused = Refused::new(ErrorCode::RouteNotFound, format!("there is no route {shown}"));
    as_the_route_does(path, refused.with_hint("GET /v1/openapi.json lists all routes"))
}

/// Who speaks to the compatibility routes reads envelopes, and no other form of errors.
fn as_the_route_does(path: &str, refused: Box<Refused>) -> Response {
    // The prefix itself too, with and without its slash.
    let is_seed = path.starts_with(paths::RAFT) || path == paths::RAFT.trim_end_matches('/');
    if is_seed { seed::envelope(refused) } else { refused.into_response() }
}

/// How much of a stranger's path is said back.
const PATH_CHARS_SHOWN: usize = 100;

// The router adds the `Allow` header, which it knows from the table.
async fn method_not_allowed(request: Request) -> Response {
    let detail = format!("{} is not for this route", request.method());
    let refused = Refused::new(ErrorCode::MethodNotAllowed, detail);
    as_the_route_does(request.uri().path(), refused.with_hint("the Allow header lists the methods"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_and_the_router_have_the_same_routes() {
        let document: serde_json::Value = serde_json::from_str(openapi::DOCUMENT).expect("JSON");
        let mut documented = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for method in methods.as_object().expect("methods").keys().filter(|name| *name != "parameters") {
                documented.insert((method.to_uppercase(), path.clone()));
            }
        }
        let mut routed: BTreeSet<(String, String)> =
            table().listed.into_iter().map(|(method, path)| (method.to_string(), path.to_owned())).collect();
        for method in kv::METHODS.split(',') {
            routed.insert((method.to_owned(), format!("{}{{key}}", paths::KV)));
        }
        assert_eq!(documented, routed);
    }

    #[test]
    fn the_document_lists_every_error_code() {
        let document: serde_json::Value = serde_json::from_str(openapi::DOCUMENT).expect("JSON");
        let listed = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].clone();
        let listed: Vec<ErrorCode> = serde_json::from_value(listed).expect("codes");
        assert_eq!(listed, ErrorCode::ALL);
    }

    #[test]
    fn the_document_says_how_long_a_request_may_take() {
        let document: serde_json::Value = serde_json::from_str(openapi::DOCUMENT).expect("JSON");
        let schema = &document["components"]["parameters"]["timeout_ms"]["schema"];
        assert_eq!(schema["default"], crate::limits::TIMEOUT_MS_DEFAULT);
        assert_eq!(schema["maximum"], crate::limits::TIMEOUT_MS_MAX);
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        fn check(document: &serde_json::Value, part: &serde_json::Value) {
            match part {
                serde_json::Value::Object(fields) => {
                    if let Some(target) = fields.get("$ref").and_then(serde_json::Value::as_str) {
                        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                    }
                    fields.values().for_each(|value| check(document, value));
                }
                serde_json::Value::Array(values) => values.iter().for_each(|value| check(document, value)),
                _ => {}
            }
        }
        let document: serde_json::Value = serde_json::from_str(openapi::DOCUMENT).expect("JSON");
        check(&document, &document);
    }
}
