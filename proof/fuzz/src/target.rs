// SPDX-License-Identifier: Apache-2.0

//! What a target is.

/// What a decoder said of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It understood it. Everything else that must hold then was checked.
    Read,
    /// It refused it.
    Refused,
}

impl Said {
    /// By whether something was understood.
    pub fn of(is_read: bool) -> Said {
        if is_read { Said::Read } else { Said::Refused }
    }
}

/// How an input is built, for mutations that keep to its format. Others do not, whatever is said here.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Nothing is known of it.
    Bytes,
    /// A JSON document, behind whatever comes before its first bracket.
    Json,
    /// Settings, one a line: `name = value`.
    Lines,
    /// An HTTP request.
    Request,
    /// What this makes of the numbers that it draws, each below what it asks for, with the product's encoders.
    Made(fn(&mut dyn FnMut(usize) -> usize) -> Vec<u8>),
    /// Now and then the first, else the second.
    Either(&'static Shape, &'static Shape),
    /// So many bytes, and this behind them.
    Behind(usize, &'static Shape),
    /// Pieces (`targets::pieces`) of these shapes; those behind the last are like it.
    Pieces(&'static [Shape]),
}

/// A decoder, with what it is fed and what must hold.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: a file of the corpus, a word of the command line.
    pub name: &'static str,
    /// Which decoders it covers.
    pub about: &'static str,
    /// Feeds it one input. A panic is a finding.
    pub run: fn(&[u8]) -> Said,
    /// Inputs to begin with, made by the product's own encoders; every one of them is understood.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of its language that mutations put in: what chance alone would hardly write.
    pub words: fn() -> Vec<&'static [u8]>,
    /// How inputs are built.
    pub shape: Shape,
    /// Longest input.
    pub bytes_max: usize,
    /// What one execution costs, in executions of a cheap target: of `--runs N` it makes N / cost.
    pub cost: u64,
}
