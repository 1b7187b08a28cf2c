// SPDX-License-Identifier: Apache-2.0

//! `POST /v1/batch`: puts, deletes and checks of one slot, all or nothing (rule E6).

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Request, State};
use mraft_api::{BatchAnswer, BatchOperation, BatchRequest, BatchResult, Condition, ErrorCode};
use mraft_types::limits::COMMAND_BYTES_MAX;
use mraft_types::slot_of_key;

use crate::door::Shared;
use crate::errors::Refused;
use crate::http::answer::{Answered, ask, json_served};
use crate::http::body;
use crate::http::kv::{check_key, mismatch};
use crate::http::query::Query;
use crate::limits::{BATCH_BODY_BYTES_MAX, BATCH_OPERATIONS_MAX};
use crate::needs::{NodeError, Operation, OperationResult};

pub(super) async fn post(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let (head, body) = request.into_parts();
    let deadline = Query::parse(head.uri.query(), &["timeout_ms"])?.deadline(&door.limits)?;
    let (body, _held) =
        body::read(body, "the body", BATCH_BODY_BYTES_MAX, &door.request_bytes, deadline).await?;
    let batch: BatchRequest = body::parse(&body)?;
    check(&batch, door.limits.value_bytes_max)?;
    let operations: Vec<Operation<'_>> = batch.operations.iter().map(operation_of).collect();
    let reply = door.node.write(&operations, deadline.into_std());
    let written = ask(reply, deadline, true).await?;
    if written.results.len() != operations.len() {
        return Err(mismatch());
    }
    let results = batch.operations.iter().zip(&written.results).map(|(operation, result)| {
        Ok(match (operation, result) {
            (BatchOperation::Put { .. }, OperationResult::Put { revision }) => {
                BatchResult::Put { revision: *revision }
            }
            (BatchOperation::Delete { .. }, OperationResult::Deleted { revision }) => {
                BatchResult::Delete { deleted: 1, revision: Some(*revision) }
            }
            (BatchOperation::Delete { .. }, OperationResult::NothingToDelete) => {
                BatchResult::Delete { deleted: 0, revision: None }
            }
            // It held, so what it asked for is what the key had.
            (BatchOperation::Check { revision, .. }, OperationResult::Checked) => {
                BatchResult::Check { revision: *revision }
            }
            _ => return Err(mismatch()),
        })
    });
    let results: Result<Vec<BatchResult>, Box<Refused>> = results.collect();
    json_served(&BatchAnswer { served: written.served, results: results? }, &written.served)
}

fn operation_of(operation: &BatchOperation) -> Operation<'_> {
    match operation {
        BatchOperation::Put { key, value } => Operation::Put { key, value, condition: Condition::None },
        BatchOperation::Delete { key } => Operation::Delete { key, condition: Condition::None },
        BatchOperation::Check { key, revision } => {
            let condition = revision.map_or(Condition::Absent, Condition::Revision);
            Operation::Check { key, condition }
        }
    }
}

/// Everything that can be known to fail before the node is asked.
fn check(batch: &BatchRequest, value_bytes_max: usize) -> Result<(), Box<Refused>> {
    /// What an operation weighs in a command beside its key and value: kinds, lengths, a revision.
    const OPERATION_OVERHEAD_BYTES: usize = 24;
    let too_large = |what, bytes: usize, bytes_max: usize| {
        let error = NodeError::TooLarge { what, bytes: bytes as u64, bytes_max: bytes_max as u64 };
        Refused::by_node(error.into(), true)
    };
    let count = batch.operations.len();
    if !(1..=BATCH_OPERATIONS_MAX).contains(&count) {
        let text = format!("a batch must have 1 to {BATCH_OPERATIONS_MAX} operations, this one has {count}");
        return Err(Refused::new(ErrorCode::BadRequest, text));
    }
    let mut slots = BTreeSet::new();
    let mut bytes = 0;
    for operation in &batch.operations {
        check_key(operation.key())?;
        slots.insert(slot_of_key(operation.key()));
        bytes += OPERATION_OVERHEAD_BYTES + operation.key().len();
        if let BatchOperation::Put { value, .. } = operation {
            if value.len() > value_bytes_max {
                return Err(too_large("a value", value.len(), value_bytes_max));
            }
            bytes += value.len();
        }
    }
    if bytes > COMMAND_BYTES_MAX {
        return Err(too_large("the batch", bytes, COMMAND_BYTES_MAX));
    }
    if slots.len() > 1 {
        const SLOTS_SHOWN: usize = 8;
        let shown: Vec<String> = slots.iter().take(SLOTS_SHOWN).map(u16::to_string).collect();
        let more = if slots.len() > SLOTS_SHOWN { ", …" } else { "" };
        let text = format!("its keys are of {} slots: {}{more}", slots.len(), shown.join(", "));
        let hint = "keys with a common {tag} share a slot: {user7}name and {user7}mail";
        return Err(Refused::new(ErrorCode::ManySlots, text).with_hint(hint));
    }
    Ok(())
}
