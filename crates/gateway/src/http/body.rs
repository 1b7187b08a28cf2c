// SPDX-License-Identifier: Apache-2.0

//! Reading a body: its size is known or bounded before the first byte is read, and counted against the door's bytes.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use mraft_api::ErrorCode;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::errors::Refused;
use crate::limits::{Gate, Pass};
use crate::needs::NodeError;

/// The whole body, at most `bytes_max` long. The pass holds its bytes in the gate while they are used.
pub(crate) async fn read<'g, B>(
    mut body: B,
    what: &'static str,
    bytes_max: usize,
    gate: &'g Gate,
    deadline: Instant,
) -> Result<(Bytes, Pass<'g>), Box<Refused>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let too_large = |bytes: u64| {
        let error = NodeError::TooLarge { what, bytes, bytes_max: bytes_max as u64 };
        Refused::by_node(error.into(), true)
    };
    // Content-Length where there is one; a chunked body is taken for as long as it may be.
    let announced = body.size_hint().exact();
    if let Some(bytes) = announced.filter(|bytes| *bytes > bytes_max as u64) {
        return Err(too_large(bytes));
    }
    let pass = gate.enter(announced.map_or(bytes_max, |bytes| bytes as usize))?;
    let reading = async {
        let mut whole = Bytes::new();
        let mut joined: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| {
                Refused::new(ErrorCode::BadRequest, "the connection broke, or the body is malformed")
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let bytes = whole.len() + joined.len() + data.len();
            if bytes > bytes_max {
                return Err(too_large(bytes as u64));
            }
            // Nearly every body is one frame, which is passed on as it is.
            if whole.is_empty() && joined.is_empty() {
                whole = data;
                continue;
            }
            if joined.is_empty() {
                joined.reserve(announced.map_or(bytes, |bytes| bytes as usize));
                joined.extend_from_slice(&std::mem::take(&mut whole));
            }
            joined.extend_from_slice(&data);
        }
        Ok(if joined.is_empty() { whole } else { Bytes::from(joined) })
    };
    match timeout_at(deadline, reading).await {
        Ok(read) => Ok((read?, pass)),
        Err(_) => {
            let refused = Refused::new(ErrorCode::BodyTimeout, "the deadline passed while the body was read");
            Err(refused.with_hint("send it faster, or with more time (timeout_ms)"))
        }
    }
}

/// A JSON body.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Box<Refused>> {
    serde_json::from_slice(body)
        .map_err(|error| Refused::new(ErrorCode::BadRequest, format!("the body: {error}")))
}
