// SPDX-License-Identifier: Apache-2.0

//! The inputs that reached something new, and which of them to change next.

use crate::random::Random;

/// A counter with a class of counts, as one number.
pub type Feature = u32;

/// Classes that counts fall into: how often a loop ran matters less the more often it did.
pub const CLASSES: u32 = 8;

/// The feature of a counter that is not zero.
pub fn feature(counter: u32, count: u8) -> Feature {
    counter * CLASSES + u32::from(CLASS_OF[count as usize])
}

const CLASS_OF: [u8; 256] = {
    let mut classes = [0; 256];
    let mut count = 1;
    while count < classes.len() {
        classes[count] = match count {
            ..=3 => count as u8 - 1,
            4..=7 => 3,
            8..=15 => 4,
            16..=31 => 5,
            32..=127 => 6,
            _ => 7,
        };
        count += 1;
    }
    classes
};

/// An input that is worth changing.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The input.
    pub input: Vec<u8>,
    /// Everything that it reaches, ascending.
    pub features: Vec<Feature>,
    /// Numbers that something was compared with, ascending.
    pub constants: Vec<u64>,
}

/// All such inputs.
#[derive(Debug)]
pub struct Pool {
    entries: Vec<Entry>,
    /// Executions by feature.
    executions: Vec<u32>,
    /// By entry: the sum of the weights up to it.
    weights: Vec<f64>,
    /// Executions until the weights are looked at again.
    until_weighed: u32,
}

/// How often the weights are looked at again.
const WEIGH_EVERY: u32 = 4096;
/// The same when there is a new entry: it waits a moment for others.
const WEIGH_AFTER_NEWS: u32 = 128;

impl Pool {
    /// An empty one.
    pub fn new(counters: usize) -> Pool {
        Pool {
            entries: Vec::new(),
            executions: vec![0; counters * CLASSES as usize],
            weights: Vec::new(),
            until_weighed: 0,
        }
    }

    /// What is in it.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One more input.
    pub fn add(&mut self, entry: Entry) {
        self.entries.push(entry);
        // The more there are, the longer it takes.
        let wait = WEIGH_AFTER_NEWS.max(self.entries.len() as u32);
        self.until_weighed = self.until_weighed.min(wait);
    }

    /// An execution had these features.
    pub fn executed(&mut self, features: &[Feature]) {
        for feature in features {
            let executions = &mut self.executions[*feature as usize];
            *executions = executions.saturating_add(1);
        }
        self.until_weighed = self.until_weighed.saturating_sub(1);
    }

    /// An entry to change, and another one to mix it with. Mostly one that reaches what few executions reach.
    pub fn pick(&mut self, random: &mut Random) -> Option<(&Entry, &Entry)> {
        if self.until_weighed == 0 || self.weights.is_empty() {
            self.weigh();
            self.until_weighed = WEIGH_EVERY;
        }
        let other = self.entries.get(random.below(self.entries.len()))?;
        let sum = self.weights.last().copied().unwrap_or(0.0);
        let at = if random.one_in(8) {
            random.below(self.entries.len())
        } else {
            let drawn = (random.draw() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
            self.weights.partition_point(|weight| *weight <= drawn).min(self.entries.len() - 1)
        };
        Some((&self.entries[at], other))
    }

    /// The shortest entry with a feature stands for it; an entry weighs as the rarest feature that it stands for.
    fn weigh(&mut self) {
        const NOBODY: u32 = u32::MAX;
        let mut stands_for = vec![NOBODY; self.executions.len()];
        let mut reached = Vec::new();
        for (at, entry) in (0_u32..).zip(&self.entries) {
            for feature in &entry.features {
                let best = &mut stands_for[*feature as usize];
                if *best == NOBODY {
                    reached.push(*feature);
                }
                let is_better = self
                    .entries
                    .get(*best as usize)
                    .is_none_or(|before| entry.input.len() < before.input.len());
                if is_better {
                    *best = at;
                }
            }
        }
        let mut weights = vec![0.0_f64; self.entries.len()];
        for feature in reached {
            let at = stands_for[feature as usize];
            if let Some(weight) = weights.get_mut(at as usize) {
                let executions = f64::from(self.executions[feature as usize].max(1));
                *weight = weight.max(1.0 / executions.sqrt());
            }
        }
        let mut sum = 0.0;
        for weight in &mut weights {
            sum += *weight;
            *weight = sum;
        }
        self.weights = weights;
    }

    /// Few and short entries that reach together what all reach: `of` says what of a feature counts.
    pub fn cover(&self, of: impl Fn(Feature) -> u32) -> Vec<&Entry> {
        let mut left: Vec<(&Entry, Vec<u32>)> = self
            .entries
            .iter()
            .map(|entry| {
                let mut parts: Vec<u32> = entry.features.iter().map(|feature| of(*feature)).collect();
                parts.dedup();
                (entry, parts)
            })
            .collect();
        let parts_end =
            left.iter().filter_map(|(_, parts)| parts.last()).max().map_or(0, |last| *last as usize + 1);
        let mut is_covered = vec![false; parts_end];
        let mut chosen = Vec::new();
        loop {
            for (_, parts) in &mut left {
                parts.retain(|part| !is_covered[*part as usize]);
            }
            left.retain(|(_, parts)| !parts.is_empty());
            // The most that is new for its bytes.
            let worth =
                |(entry, parts): &(&Entry, Vec<u32>)| parts.len() as f64 / (entry.input.len() + 8) as f64;
            let best = left.iter().enumerate().max_by(|(at, one), (other_at, other)| {
                worth(one).total_cmp(&worth(other)).then(other_at.cmp(at))
            });
            let Some((best, _)) = best else { break };
            let (entry, parts) = left.swap_remove(best);
            parts.iter().for_each(|part| is_covered[*part as usize] = true);
            chosen.push(entry);
        }
        chosen.sort_by(|one, other| (one.input.len(), &one.input).cmp(&(other.input.len(), &other.input)));
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(input: &[u8], features: &[Feature]) -> Entry {
        Entry { input: input.to_vec(), features: features.to_vec(), constants: Vec::new() }
    }

    #[test]
    fn what_is_kept_reaches_everything_with_few_bytes() {
        let mut pool = Pool::new(4);
        pool.add(entry(b"a long input that reaches two", &[0, 8]));
        pool.add(entry(b"a", &[0]));
        pool.add(entry(b"b", &[8, 16]));
        pool.add(entry(b"bb", &[8, 16]));
        let kept: Vec<&[u8]> = pool.cover(|feature| feature).iter().map(|entry| &entry.input[..]).collect();
        assert_eq!(kept, [b"a", b"b"]);
    }

    #[test]
    fn rare_features_are_changed_more_often() {
        let mut pool = Pool::new(2);
        pool.add(entry(b"often", &[0]));
        pool.add(entry(b"rare", &[8]));
        for _ in 0..10_000 {
            pool.executed(&[0]);
        }
        pool.executed(&[8]);
        pool.until_weighed = 0;
        let mut random = Random::new(1);
        let rare =
            (0..1000).filter(|_| pool.pick(&mut random).is_some_and(|(entry, _)| entry.input == b"rare"));
        assert!(rare.count() > 800);
    }

    #[test]
    fn counts_fall_into_classes() {
        let classes: Vec<u32> =
            [1, 2, 3, 4, 7, 8, 16, 32, 128, 255].map(|count| feature(5, count) - 40).into();
        assert_eq!(classes, [0, 1, 2, 3, 3, 4, 5, 6, 7, 7]);
    }
}
