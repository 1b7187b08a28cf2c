// SPDX-License-Identifier: Apache-2.0

//! The ordered view: buffers and tree as one sequence of entries, newest layer first.

use std::ops::Range;
use std::sync::Arc;

use mraft_engine::machine::MachineError;

use crate::keys::KeyRange;
use crate::lsm::TreeCursor;
use crate::value::HEADER_BYTES_MAX;
use crate::write_buffer::{Address, Order, Record, WriteBuffer};

/// A store key and its stored value.
pub(crate) type Entry<'a> = (&'a [u8], &'a [u8]);

/// Live entries in ascending order of their store keys.
pub(crate) trait Entries {
    /// The next entry.
    fn next(&mut self) -> Result<Option<Entry<'_>>, MachineError>;

    /// Whether [`Entries::next`] ended because what was copied ended, not the range: there may be more above the last entry.
    fn is_cut(&self) -> bool {
        false
    }
}

/// One layer.
pub(crate) enum Layer {
    /// Copied from the active buffer, which changes.
    Copied(Copied),
    /// A frozen buffer.
    Frozen(Frozen),
    /// The tree.
    Tree(TreeCursor),
}

/// The first entries of a range, copied.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    bytes: Vec<u8>,
    /// Ends of each key and its value in `bytes`; no value is a deletion.
    ends: Vec<(usize, Option<usize>)>,
    at: usize,
    start: usize,
    cut: bool,
}

/// How much of a changing buffer is copied. A page cannot use more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyLimits {
    /// Live entries.
    pub entries: usize,
    /// Bytes of live entries.
    pub bytes: usize,
}

impl Copied {
    /// Copies the beginning of a range as it is below `order`'s end.
    pub fn new(buffer: &WriteBuffer, order: &[Address], range: &KeyRange, limits: CopyLimits) -> Copied {
        let mut copied = Copied::default();
        let (mut live, mut live_bytes) = (0, 0);
        for address in &order[buffer.positions(order, range)] {
            if live > limits.entries || live_bytes > limits.bytes {
                copied.cut = true;
                break;
            }
            let Record { key, value } = buffer.record(*address);
            copied.bytes.extend_from_slice(key);
            let key_end = copied.bytes.len();
            let value_end = value.map(|value| {
                copied.bytes.extend_from_slice(value);
                live += 1;
                // What a page counts leaves out the family byte and the header.
                live_bytes += (key.len() + value.len()).saturating_sub(1 + HEADER_BYTES_MAX);
                copied.bytes.len()
            });
            copied.ends.push((key_end, value_end));
        }
        copied
    }
}

/// A place in a buffer that does not change any more.
pub(crate) struct Frozen {
    buffer: Arc<WriteBuffer>,
    order: Order,
    positions: Range<usize>,
}

impl Frozen {
    /// The part of a frozen buffer that lies in a range.
    pub fn new(buffer: Arc<WriteBuffer>, range: &KeyRange) -> Result<Frozen, MachineError> {
        let order = buffer
            .ordered(buffer.end())
            .ok_or_else(|| MachineError::Failed("a frozen buffer has changed".to_owned()))?;
        let positions = buffer.positions(&order, range);
        Ok(Frozen { buffer, order, positions })
    }
}

impl Layer {
    /// The present entry; a deletion has no value.
    fn head(&self) -> Option<(&[u8], Option<&[u8]>)> {
        match self {
            Layer::Copied(copied) => {
                let (key_end, value_end) = *copied.ends.get(copied.at)?;
                let key = &copied.bytes[copied.start..key_end];
                Some((key, value_end.map(|value_end| &copied.bytes[key_end..value_end])))
            }
            Layer::Frozen(frozen) => {
                let position = frozen.positions.clone().next()?;
                let Record { key, value } = frozen.buffer.record(frozen.order[position]);
                Some((key, value))
            }
            Layer::Tree(cursor) => cursor.head().map(|(key, value)| (key, Some(value))),
        }
    }

    fn advance(&mut self) -> Result<(), MachineError> {
        match self {
            Layer::Copied(copied) => {
                if let Some((key_end, value_end)) = copied.ends.get(copied.at) {
                    copied.start = value_end.unwrap_or(*key_end);
                    copied.at += 1;
                }
            }
            Layer::Frozen(frozen) => {
                frozen.positions.next();
            }
            Layer::Tree(cursor) => cursor.advance()?,
        }
        Ok(())
    }

    fn is_cut(&self) -> bool {
        matches!(self, Layer::Copied(copied) if copied.cut && copied.at == copied.ends.len())
    }
}

/// The layers merged; of several entries with one key that of the newest layer counts.
pub(crate) struct Merge {
    /// Newest first.
    layers: Vec<Layer>,
    /// The layer of the entry that was given out last; it and older layers with the same key are left behind by the next call.
    given: Option<usize>,
    cut: bool,
}

impl Merge {
    /// Merges layers, the newest first.
    pub fn new(layers: Vec<Layer>) -> Merge {
        Merge { layers, given: None, cut: false }
    }

    /// The layer with the smallest key; the newest of them if there are several.
    fn smallest(&self) -> Option<usize> {
        let mut smallest: Option<(usize, &[u8])> = None;
        for (at, layer) in self.layers.iter().enumerate() {
            if let Some((key, _)) = layer.head()
                && smallest.is_none_or(|(_, other)| key < other)
            {
                smallest = Some((at, key));
            }
        }
        smallest.map(|(at, _)| at)
    }

    /// Goes past the key that this layer stands at, in all layers.
    fn pass(&mut self, layer: usize) -> Result<(), MachineError> {
        let (_, from) = self.layers.split_at_mut(layer);
        if let [layer, older @ ..] = from {
            if let Some((key, _)) = layer.head() {
                for other in older {
                    if other.head().is_some_and(|(other, _)| other == key) {
                        other.advance()?;
                    }
                }
            }
            layer.advance()?;
        }
        Ok(())
    }
}

impl Entries for Merge {
    fn next(&mut self) -> Result<Option<Entry<'_>>, MachineError> {
        if let Some(layer) = self.given.take() {
            self.pass(layer)?;
        }
        loop {
            if self.cut || self.layers.iter().any(Layer::is_cut) {
                self.cut = true;
                return Ok(None);
            }
            let Some(layer) = self.smallest() else { return Ok(None) };
            if self.layers[layer].head().is_some_and(|(_, value)| value.is_some()) {
                self.given = Some(layer);
                break;
            }
            self.pass(layer)?;
        }
        let head = self.given.and_then(|layer| self.layers[layer].head());
        Ok(head.and_then(|(key, value)| value.map(|value| (key, value))))
    }

    fn is_cut(&self) -> bool {
        self.cut
    }
}
