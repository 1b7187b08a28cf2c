// SPDX-License-Identifier: Apache-2.0

//! `GET /v1/openapi.json`: the contract as a document, written by hand; a test holds it against the table of routes.

use axum::body::Body;
use axum::extract::Request;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use crate::http::answer::{Answered, Response};
use crate::http::query::Query;

pub(super) const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn get(request: Request) -> Answered {
    Query::parse(request.uri().query(), &["timeout_ms"])?;
    let mut response = Response::new(Body::from(DOCUMENT));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
