// SPDX-License-Identifier: Apache-2.0

//! Reading a body. What is announced as too large is refused before the first byte is read. Counted against the door's bytes is what has
//! come, not what was announced: whoever sends little, or slowly, or says nothing of a length, keeps nobody else out.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use mraft_api::ErrorCode;
use mraft_api::object::Object;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::errors::Refused;
use crate::limits::{Gate, Pass};
use crate::needs::NodeError;

/// The whole body, at most `bytes_max` long. The pass holds its bytes in the gate while they are used. When there is no room for the next
/// ones, those that have come make room for others.
pub(crate) async fn read<'g, B>(
    mut body: B,
    what: &'static str,
    bytes_max: usize,
    gate: &'g Gate,
    deadline: Instant,
) -> Result<(Bytes, Pass<&'g Gate>), Box<Refused>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let too_large = |bytes: u64| {
        let error = NodeError::TooLarge { what, bytes, bytes_max: bytes_max as u64 };
        Refused::by_node(error.into(), true)
    };
    if let Some(bytes) = body.size_hint().exact().filter(|bytes| *bytes > bytes_max as u64) {
        return Err(too_large(bytes));
    }
    let reading = async {
        let mut pass = gate.enter(0)?;
        let mut whole = Bytes::new();
        let mut pieces = Pieces::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| {
                Refused::new(ErrorCode::BadRequest, "the connection broke, or the body is malformed")
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let bytes = pass.amount() + data.len();
            if bytes > bytes_max {
                return Err(too_large(bytes as u64));
            }
            pass.add(data.len())?;
            // Nearly every body is one frame, which is passed on as it is. A part is copied: it would keep a connection's read buffer.
            if pieces.0.is_empty() && body.is_end_stream() {
                whole = data;
            } else {
                pieces.push(&data);
            }
        }
        Ok((if pieces.0.is_empty() { whole } else { pieces.join(pass.amount()) }, pass))
    };
    match timeout_at(deadline, reading).await {
        Ok(read) => read,
        Err(_) => {
            let refused = Refused::new(ErrorCode::BodyTimeout, "the deadline passed while the body was read");
            Err(refused.with_hint("send it faster, or with more time (timeout_ms)"))
        }
    }
}

/// A body that comes in parts. Pieces of a bounded size, because one buffer that grows is up to twice what is counted.
#[derive(Default)]
struct Pieces(Vec<Vec<u8>>);

impl Pieces {
    fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = self.0.last().map_or(0, |piece| PIECE_BYTES_MAX - piece.len());
            let (now, later) = data.split_at(room.min(data.len()));
            match self.0.last_mut() {
                Some(piece) if room > 0 => piece.extend_from_slice(now),
                _ => self.0.push(Vec::new()),
            }
            data = later;
        }
    }

    /// Each piece is let go when it is copied; nothing waits in between.
    fn join(mut self, bytes: usize) -> Bytes {
        if self.0.len() == 1 {
            return self.0.pop().unwrap_or_default().into();
        }
        let mut whole = Vec::with_capacity(bytes);
        for piece in self.0 {
            whole.extend_from_slice(&piece);
        }
        whole.into()
    }
}

/// About what one read of a connection gives.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// A JSON body, which is an object.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Box<Refused>> {
    serde_json::from_slice(body)
        .map(|Object(body)| body)
        .map_err(|error| Refused::new(ErrorCode::BadRequest, format!("the body: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_any_size_come_back_as_one() {
        for part in [1, 7, PIECE_BYTES_MAX - 1, PIECE_BYTES_MAX, PIECE_BYTES_MAX + 1, 3 * PIECE_BYTES_MAX] {
            let sent: Vec<u8> = (0..3 * PIECE_BYTES_MAX + 5).map(|number| (number % 251) as u8).collect();
            let mut pieces = Pieces::default();
            for part in sent.chunks(part) {
                pieces.push(part);
            }
            assert_eq!(pieces.0.len(), 4, "parts of {part}");
            assert!(pieces.join(sent.len()) == sent, "parts of {part}");
        }
    }
}
