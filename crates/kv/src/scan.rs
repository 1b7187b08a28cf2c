// SPDX-License-Identifier: Apache-2.0

//! One page of a scan, out of any ordered entries.

use mraft_engine::machine::MachineError;

use crate::merge::Entries;
use crate::meta::damaged;
use crate::query::{self, At};
use crate::value::StoredValue;

/// Bounds of one page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageLimits {
    /// Entries at most.
    pub entries: usize,
    /// Bytes of keys and values at most, except that a first entry is always given.
    pub bytes: usize,
}

/// Appends the page that begins with the first of these entries, which are the users'.
pub(crate) fn page(
    at: At,
    entries: &mut impl Entries,
    limits: PageLimits,
    answer: &mut Vec<u8>,
) -> Result<(), MachineError> {
    query::begin_scan(at, answer);
    let (mut count, mut bytes) = (0, 0);
    let mut last: Option<Vec<u8>> = None;
    let mut more = false;
    while let Some((store_key, stored)) = entries.next()? {
        let key = &store_key[1..];
        let value = StoredValue::decode(stored).map_err(|error| damaged("a stored value", error))?;
        let weight = key.len() + value.bytes.len();
        if count == limits.entries || (count > 0 && bytes + weight > limits.bytes) {
            more = true;
            break;
        }
        query::put_scan_entry(key, value.revision, value.bytes, answer);
        let last = last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        count += 1;
        bytes += weight;
    }
    more |= entries.is_cut();
    query::end_scan(if more { last.as_deref() } else { None }, answer);
    Ok(())
}
