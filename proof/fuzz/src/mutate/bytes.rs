// SPDX-License-Identifier: Apache-2.0

//! Changes of bytes, by somebody who knows nothing of their format but its words and numbers.

use super::Ingredients;
use crate::random::Random;

/// Longest piece that is inserted, repeated or removed.
const PIECE_BYTES_MAX: usize = 64;

/// Makes one change.
pub fn once(input: &mut Vec<u8>, with: &Ingredients<'_>, random: &mut Random) {
    if input.is_empty() {
        return insert(input, 0, &noise(random));
    }
    let at = random.below(input.len());
    match random.below(20) {
        0..=1 => input[at] ^= 1 << random.below(8),
        2 => input[at] = random.draw() as u8,
        3 => input[at] = input[at].wrapping_add(if random.one_in(2) { 1 } else { 255 }),
        4..=5 => overwrite(input, at, &encoded(interesting(random), random)),
        6 => {
            let bytes = encoded(interesting(random), random);
            insert(input, at, &bytes);
        }
        7 => add(input, at, random),
        8..=9 => {
            let len = 1 + random.below(piece(input.len() - at));
            input.drain(at..at + len);
        }
        10 => {
            let len = 1 + random.below(piece(input.len() - at));
            let copied = input[at..at + len].to_vec();
            let to = random.below(input.len() + 1);
            insert(input, to, &copied);
        }
        11 => {
            let len = 1 + random.below(piece(input.len() - at));
            let copied = input[at..at + len].to_vec();
            let to = random.below(input.len());
            overwrite(input, to, &copied);
        }
        12 => insert(input, at, &noise(random)),
        13 => input.truncate(at),
        14 => splice(input, with.other, random),
        15..=16 => word(input, at, with.words, random),
        _ => constant(input, at, with.constants, random),
    }
}

fn piece(left: usize) -> usize {
    left.min(PIECE_BYTES_MAX)
}

fn noise(random: &mut Random) -> Vec<u8> {
    let len = 1 + random.below(8);
    if random.one_in(2) {
        return vec![random.draw() as u8; len];
    }
    (0..len).map(|_| random.draw() as u8).collect()
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

fn overwrite(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = input.len().min(at + bytes.len());
    input.splice(at..end, bytes.iter().copied());
}

/// The front of one and the back of the other, or a piece of the other somewhere.
fn splice(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if other.is_empty() {
        return;
    }
    let (here, there) = (random.below(input.len() + 1), random.below(other.len()));
    if random.one_in(2) {
        input.truncate(here);
        input.extend_from_slice(&other[there..]);
    } else {
        let len = 1 + random.below(piece(other.len() - there));
        insert(input, here, &other[there..there + len]);
    }
}

fn word(input: &mut Vec<u8>, at: usize, words: &[&[u8]], random: &mut Random) {
    match random.pick(words) {
        None => input[at] ^= random.draw() as u8,
        Some(word) if random.one_in(2) => insert(input, at, word),
        Some(word) => overwrite(input, at, word),
    }
}

/// Puts a number there that something was compared with, or one beside it.
fn constant(input: &mut Vec<u8>, at: usize, constants: &[u64], random: &mut Random) {
    let Some(number) = random.pick(constants).copied() else {
        return overwrite(input, at, &encoded(interesting(random), random));
    };
    let number = match random.below(8) {
        0 => number.wrapping_add(1),
        1 => number.wrapping_sub(1),
        _ => number,
    };
    let bytes = encoded(number, random);
    if random.one_in(4) { insert(input, at, &bytes) } else { overwrite(input, at, &bytes) }
}

fn add(input: &mut [u8], at: usize, random: &mut Random) {
    let by = 1 + random.below(16) as u64;
    let by = if random.one_in(2) { by } else { by.wrapping_neg() };
    let width = [2, 4, 8][random.below(3)];
    let Some(bytes) = input.get_mut(at..at + width) else { return };
    let mut number = [0; 8];
    number[..width].copy_from_slice(bytes);
    let sum = u64::from_le_bytes(number).wrapping_add(by).to_le_bytes();
    bytes.copy_from_slice(&sum[..width]);
}

/// Numbers at which things change.
fn interesting(random: &mut Random) -> u64 {
    let near =
        [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 1 << 16, 1 << 31, u64::from(u32::MAX), u64::MAX];
    let near = match random.below(3) {
        0 => 1 << random.below(64),
        _ => near[random.below(near.len())],
    };
    match random.below(4) {
        0 => near.wrapping_add(1),
        1 => near.wrapping_sub(1),
        _ => near,
    }
}

/// How a number may stand in an input.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Little-endian, in so many bytes.
    Little(usize),
    /// Big-endian, in so many bytes.
    Big(usize),
    /// LEB128.
    Varint,
    /// Decimal digits.
    Text,
}

const FORMS: [Form; 9] = [
    Form::Little(1),
    Form::Little(2),
    Form::Little(4),
    Form::Little(8),
    Form::Big(4),
    Form::Big(8),
    Form::Varint,
    Form::Varint,
    Form::Text,
];

impl Form {
    fn bytes(self, number: u64) -> Vec<u8> {
        match self {
            Form::Little(len) => number.to_le_bytes()[..len].to_vec(),
            Form::Big(len) => number.to_be_bytes()[8 - len..].to_vec(),
            Form::Varint => varint(number),
            Form::Text => number.to_string().into_bytes(),
        }
    }
}

fn encoded(number: u64, random: &mut Random) -> Vec<u8> {
    random.pick(&FORMS).map_or_else(Vec::new, |form| form.bytes(number))
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_is_put_in_whatever_form_it_may_have() {
        let number = 0x6d72_6166;
        for form in [Form::Little(4), Form::Big(4), Form::Varint, Form::Text] {
            let mut random = Random::new(3);
            let found = (0..5000).any(|_| {
                let mut input = b"abcdefghijklmnop".to_vec();
                constant(&mut input, 2, &[number], &mut random);
                let wanted = form.bytes(number);
                input.windows(wanted.len()).any(|bytes| bytes == wanted)
            });
            assert!(found, "{form:?}");
        }
    }
}
