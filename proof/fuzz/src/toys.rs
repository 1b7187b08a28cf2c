// SPDX-License-Identifier: Apache-2.0

//! Decoders that are broken on purpose. Every run begins with finding what is wrong with them: a loop that could not fail would be
//! worth nothing.

use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

/// All of them.
pub const TOYS: &[Target] = &[
    Target {
        name: "toy-steps",
        about: "a panic behind a number of four bytes, a length and two bytes in turn",
        run: steps,
        seeds: || vec![vec![0; 12]],
        words: Vec::new,
        shape: Shape::Bytes,
        bytes_max: 64,
        cost: 1,
    },
    Target {
        name: "toy-greedy",
        about: "allocates what a length says",
        run: greedy,
        seeds: || vec![b"\x02\x00\x00\x00ab".to_vec()],
        words: Vec::new,
        shape: Shape::Bytes,
        bytes_max: 64,
        cost: 1,
    },
    Target {
        name: "toy-lossy",
        about: "forgets a flag when it encodes",
        run: lossy,
        seeds: || vec![b"\x01\x07\x00".to_vec()],
        words: Vec::new,
        shape: Shape::Bytes,
        bytes_max: 64,
        cost: 1,
    },
];

/// What chance alone does not find: each step is one in 2^32, 2^8, 2^8 and 2^8 without a sign that it was right.
#[inline(never)]
fn steps(input: &[u8]) -> Said {
    let Some((number, rest)) = input.split_first_chunk::<4>() else { return Said::Refused };
    if u32::from_le_bytes(*number) != 0x6d72_6166 {
        return Said::Refused;
    }
    let Some((len, rest)) = rest.split_first() else { return Said::Refused };
    if usize::from(*len) != rest.len() || rest.len() < 2 {
        return Said::Refused;
    }
    if rest[0] != 0xa7 {
        return Said::Read;
    }
    // The mistake.
    assert!(rest[1] != 0x3c, "a toy broke");
    Said::Read
}

#[inline(never)]
fn greedy(input: &[u8]) -> Said {
    let Some((len, rest)) = input.split_first_chunk::<4>() else { return Said::Refused };
    let copied = bounded("a toy", 2 * input.len() + 64, || {
        // The mistake: the length is believed before it is compared.
        let mut copied: Vec<u8> = Vec::with_capacity(u32::from_le_bytes(*len) as usize & 0xff_ffff);
        copied.extend_from_slice(rest);
        copied
    });
    Said::of(copied.len() == u32::from_le_bytes(*len) as usize)
}

#[derive(Debug, PartialEq, Eq)]
struct Flagged {
    value: u8,
    is_set: bool,
}

#[inline(never)]
fn lossy(input: &[u8]) -> Said {
    fn decode(input: &[u8]) -> Option<Flagged> {
        match input {
            [1, value, flag @ 0..=1] => Some(Flagged { value: *value, is_set: *flag == 1 }),
            _ => None,
        }
    }
    let Some(decoded) = decode(input) else { return Said::Refused };
    // The mistake.
    let encoded = [1, decoded.value, 0];
    assert_eq!(decode(&encoded).as_ref(), Some(&decoded), "a toy forgot something");
    Said::Read
}
