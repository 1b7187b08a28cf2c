// SPDX-License-Identifier: Apache-2.0

//! Chance for the threads: identities from the system's source, election draws from a small generator seeded by it.

use mraft_types::InstanceId;

/// A seed. When the system has no random source, the address of a fresh allocation and the clock must do: draws only spread
/// election timeouts.
pub(crate) fn seed() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |since| since.as_nanos() as u64),
    }
}

/// The next draw (SplitMix64).
pub(crate) fn next(state: u64) -> u64 {
    let mut number = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A new instance id; an identity needs the real source (rule M6).
pub(crate) fn instance_id() -> Result<InstanceId, std::io::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(InstanceId(bytes))
}

/// Salts for log segments (rule L2): from the system's source, so that neither old bytes nor a stored value can pass for a batch.
pub(crate) fn salts() -> Box<dyn FnMut() -> u64 + Send> {
    Box::new(seed)
}
