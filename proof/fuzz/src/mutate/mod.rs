// SPDX-License-Identifier: Apache-2.0

//! From one input another: what a damaged disk, a broken peer or a thinking enemy might make of it.
//!
//! Bytes are changed without a look at what they mean, which alone finds what nobody thought of. Where a format is known ([`Shape`]) some
//! changes keep to it, so that what lies behind a length, a bracket or a name is reached as well.

mod bytes;
mod json;
mod lines;
mod request;
mod shaped;

use mraft_fuzz::target::Shape;

use crate::random::Random;

/// What a mutation may use beside the input itself.
#[derive(Clone, Copy, Debug)]
pub struct Ingredients<'a> {
    /// How the input is built.
    pub shape: &'static Shape,
    /// Words of the target's language.
    pub words: &'a [&'a [u8]],
    /// Another input that is worth something.
    pub other: &'a [u8],
    /// Numbers that something was compared with when the input was executed.
    pub constants: &'a [u64],
    /// Longest input.
    pub bytes_max: usize,
}

/// Mutations of one input, one upon the other, at most.
const STACKED_MAX: usize = 6;
/// The same of changes that keep to the format.
const SHAPED_MAX: usize = 4;

/// Changes the input.
pub fn mutate(input: &mut Vec<u8>, with: &Ingredients<'_>, random: &mut Random) {
    let is_shaped = !matches!(with.shape, Shape::Bytes) && !random.one_in(4);
    let stacked = few(if is_shaped { SHAPED_MAX } else { STACKED_MAX }, random);
    for _ in 0..stacked {
        if is_shaped {
            shaped::once(with.shape, input, with, random);
        } else {
            bytes::once(input, with, random);
        }
    }
    input.truncate(with.bytes_max);
}

/// Mostly few: what many changes do together is hardly ever better than what the best of them does alone.
fn few(max: usize, random: &mut Random) -> usize {
    let max = 1 + random.below(max);
    1 + random.below(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
        vec![b'x'; draw(9)]
    }

    const SHAPES: [Shape; 6] = [
        Shape::Bytes,
        Shape::Json,
        Shape::Lines,
        Shape::Request,
        Shape::Made(made),
        Shape::Behind(1, &Shape::Pieces(&[Shape::Json, Shape::Pieces(&[Shape::Lines])])),
    ];

    fn inputs(shape: &'static Shape, seed: u64) -> Vec<Vec<u8>> {
        let mut random = Random::new(seed);
        let with = Ingredients {
            shape,
            words: &[b"word", b"\"name\":", b"/path", b"?word=", b"field: value\r\n"],
            other: b"{\"something\":[\"else\",7]}",
            constants: &[0x1234],
            bytes_max: 40,
        };
        let begin = b"{\"a\":1,\"b\":[null]}".to_vec();
        let mut input = begin.clone();
        let made = |number| {
            if number % 20 == 0 {
                input.clone_from(&begin);
            }
            mutate(&mut input, &with, &mut random);
            assert!(input.len() <= 40);
            input.clone()
        };
        (0..4000).map(made).collect()
    }

    #[test]
    fn a_seed_makes_the_same_inputs_and_none_is_too_long() {
        for shape in &SHAPES {
            assert_eq!(inputs(shape, 1), inputs(shape, 1));
            assert_ne!(inputs(shape, 1), inputs(shape, 2));
        }
    }
}
