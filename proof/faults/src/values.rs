// SPDX-License-Identifier: Apache-2.0

//! Numbers of keys and values, and their bytes. No value is written twice, and each byte of one follows from its number: a value that was
//! mixed from two others, cut, or padded is not a value.

use mraft_history::{KeyId, ValueId};

/// Digits of a value's number.
const NUMBER_BYTES: usize = 16;
/// Lengths of values: enough to fill segments and to make snapshots last, and different, so that one cannot be taken for another.
const VALUE_BYTES: std::ops::Range<u64> = 64..2048;

/// What keys begin with that belong to no history.
pub const FOREIGN: &[u8] = b"foreign-";

/// The bytes of a key.
pub fn key(key: KeyId) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

/// Which key these bytes are.
pub fn key_of(bytes: &[u8]) -> Option<KeyId> {
    let number = std::str::from_utf8(bytes).ok()?.strip_prefix("key-")?.parse().ok()?;
    (key(number) == bytes).then_some(number)
}

/// The bytes of a value.
pub fn value(value: ValueId) -> Vec<u8> {
    let number = format!("{value:0NUMBER_BYTES$x}").into_bytes();
    let length = VALUE_BYTES.start + mix(value) % (VALUE_BYTES.end - VALUE_BYTES.start);
    number.into_iter().cycle().take(length as usize).collect()
}

/// Which value these bytes are.
pub fn value_of(bytes: &[u8]) -> Option<ValueId> {
    let number = std::str::from_utf8(bytes.get(..NUMBER_BYTES)?).ok()?;
    let number = ValueId::from_str_radix(number, 16).ok()?;
    (value(number) == bytes).then_some(number)
}

/// A generator of numbers; a seed gives the same ones again.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Numbers that follow from the seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// One of the numbers below the bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound.max(1)
    }
}

/// SplitMix64.
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_by_all_its_bytes() {
        for number in [0, 1, 77, u64::from(u32::MAX)] {
            let bytes = value(number);
            assert_eq!(value_of(&bytes), Some(number));
            assert_eq!(value_of(&bytes[..bytes.len() - 1]), None);
            let mut other = bytes.clone();
            other[bytes.len() / 2] ^= 1;
            assert_eq!(value_of(&other), None);
        }
        assert_eq!(key_of(&key(12)), Some(12));
        assert_eq!(key_of(b"key-012"), None);
    }
}
