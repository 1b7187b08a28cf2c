// SPDX-License-Identifier: Apache-2.0

//! Changes that keep to the format of an input.

use mraft_fuzz::target::Shape;
use mraft_fuzz::targets::pieces::{pieces, put_pieces};

use super::{Ingredients, bytes, json, lines, request};
use crate::random::Random;

/// How often the first of either is taken. Several changes are made to one input, and the first one begins anew.
const FIRST_ONE_IN: u64 = 8;

/// Makes one change to something of this shape.
pub fn once(shape: &'static Shape, input: &mut Vec<u8>, with: &Ingredients<'_>, random: &mut Random) {
    match shape {
        Shape::Bytes => bytes::once(input, with, random),
        Shape::Json => json::once(input, with, random),
        Shape::Lines => lines::once(input, with, random),
        Shape::Request => request::once(input, with, random),
        Shape::Made(_) if random.one_in(2) => bytes::once(input, with, random),
        Shape::Made(make) => *input = make(&mut |len| random.below(len)),
        Shape::Either(first, _) if random.one_in(FIRST_ONE_IN) => once(first, input, with, random),
        Shape::Either(_, second) => once(second, input, with, random),
        Shape::Behind(len, inner) => behind(*len, inner, input, with, random),
        Shape::Pieces(shapes) => in_pieces(shapes, input, with, random),
    }
}

/// Changes what is behind so many bytes, or one of these.
fn behind(
    len: usize,
    inner: &'static Shape,
    input: &mut Vec<u8>,
    with: &Ingredients<'_>,
    random: &mut Random,
) {
    let len = len.min(input.len());
    if len > 0 && random.one_in(12) {
        let at = random.below(len);
        input[at] = if random.one_in(2) {
            input[at] ^ (1 << random.below(8))
        } else {
            with.other.get(at).copied().unwrap_or_default()
        };
        return;
    }
    let mut rest = input.split_off(len);
    let other = with.other.get(len..).unwrap_or_default();
    once(inner, &mut rest, &Ingredients { other, ..*with }, random);
    input.append(&mut rest);
}

/// Changes one piece, or which pieces there are.
fn in_pieces(shapes: &'static [Shape], input: &mut Vec<u8>, with: &Ingredients<'_>, random: &mut Random) {
    let mut parts: Vec<Vec<u8>> = pieces(input).into_iter().map(<[u8]>::to_vec).collect();
    let others = pieces(with.other);
    let at = random.below(parts.len());
    let shape_of = |at: usize| shapes.get(at).or(shapes.last()).unwrap_or(&Shape::Bytes);
    match random.below(12) {
        0 if !parts.is_empty() => _ = parts.remove(at),
        1 if !parts.is_empty() => parts.insert(at, parts[at].clone()),
        2 if !parts.is_empty() => {
            let to = random.below(parts.len());
            parts.swap(at, to);
        }
        3 => {
            let part = match shape_of(at) {
                Shape::Made(make) if random.one_in(2) => make(&mut |len| random.below(len)),
                Shape::Lines if random.one_in(2) => lines::made(with, random),
                _ => random.pick(&others).map_or_else(Vec::new, |other| other.to_vec()),
            };
            parts.insert(random.below(parts.len() + 1), part);
        }
        4 if !parts.is_empty() => {
            // What stands at the same place there, mostly.
            let from = if random.one_in(3) { random.below(others.len()) } else { at };
            if let Some(other) = others.get(from) {
                parts[at] = other.to_vec();
            }
        }
        _ => {
            let Some(part) = parts.get_mut(at) else { return bytes::once(input, with, random) };
            let other = others.get(at).or(others.last()).copied().unwrap_or_default();
            once(shape_of(at), part, &Ingredients { other, ..*with }, random);
        }
    }
    input.clear();
    put_pieces(input, &parts);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [Shape; 2] = [Shape::Bytes, Shape::Pieces(&[Shape::Bytes])];

    #[test]
    fn what_was_pieces_stays_pieces() {
        let parts = |input: &[u8]| pieces(input).into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut inner = Vec::new();
        put_pieces(&mut inner, &[b"one", b"two"]);
        let mut input = Vec::new();
        put_pieces(&mut input, &[&b"zero"[..], &inner]);
        let with = Ingredients {
            shape: &Shape::Bytes,
            words: &[],
            other: &input.clone(),
            constants: &[],
            bytes_max: 1000,
        };
        let mut random = Random::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            let mut changed = input.clone();
            in_pieces(&PLAIN, &mut changed, &with, &mut random);
            let parts = parts(&changed);
            let mut again = Vec::new();
            put_pieces(&mut again, &parts);
            assert_eq!(again, changed, "a length is wrong");
            seen.insert(parts);
        }
        let (zero, inner) = (b"zero".to_vec(), inner);
        for wanted in [
            vec![inner.clone()],
            vec![inner.clone(), zero.clone()],
            vec![zero.clone(), zero.clone(), inner.clone()],
            vec![zero, vec![3, 0, b'o', b'n', b'e']],
        ] {
            assert!(seen.contains(&wanted), "never: {wanted:?}");
        }
    }
}
