// SPDX-License-Identifier: Apache-2.0

//! Chance for the threads: identities and salts from the system's source, other draws from a small generator seeded by it.

use std::io;

use mraft_types::InstanceId;

/// A seed. When the system has no random source, the clock must do: draws spread election timeouts and redials, and the nonce of a start
/// tells the starts of copied directories apart. Nobody is kept out by any of them.
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
pub(crate) fn instance_id() -> io::Result<InstanceId> {
    let mut bytes = [0; 16];
    from_system(&mut bytes)?;
    Ok(InstanceId(bytes))
}

/// Salts for log segments (rule L2): nobody can guess them, so that neither old bytes nor a stored value can pass for a batch. Without
/// the system's source there are none, and no log is opened. It is asked for a key once: a log that is under way must not end for want of
/// the next salt.
pub(crate) fn salts() -> io::Result<Box<dyn FnMut() -> u64 + Send>> {
    salts_by(from_system)
}

fn salts_by(fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Box<dyn FnMut() -> u64 + Send>> {
    let mut key = [0; blake3::KEY_LEN];
    fill(&mut key)?;
    let mut stream = blake3::Hasher::new_keyed(&key).finalize_xof();
    Ok(Box::new(move || {
        let mut salt = [0; 8];
        stream.fill(&mut salt);
        u64::from_le_bytes(salt)
    }))
}

fn from_system(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| io::Error::other(format!("the system has no random source: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l2_without_a_random_source_there_are_no_salts() {
        let error = salts_by(|_| Err(io::Error::other("no source"))).err();
        assert_eq!(error.map(|error| error.to_string()), Some("no source".to_owned()));
    }

    #[test]
    fn l2_every_byte_of_the_key_is_in_the_salts_and_none_repeats() {
        let drawn = |key: [u8; blake3::KEY_LEN]| {
            let salts = salts_by(|bytes| {
                bytes.copy_from_slice(&key);
                Ok(())
            });
            let mut salts = salts.unwrap();
            [(); 100].map(|()| salts())
        };
        let zero = drawn([0; blake3::KEY_LEN]);
        for byte in 0..blake3::KEY_LEN {
            let mut key = [0; blake3::KEY_LEN];
            key[byte] = 1;
            let mut all = [drawn(key), zero].concat();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 200, "byte {byte}");
        }
    }
}
