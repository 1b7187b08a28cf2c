// SPDX-License-Identifier: Apache-2.0

//! Latencies, counted in buckets: a benchmark must not keep a number per operation.

/// Microseconds up to which latencies are counted one by one; beyond, in steps of a millisecond.
const FINE_US: usize = 20_000;
const COARSE_BUCKETS: usize = 20_000;

/// Latencies, counted.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    fine: Vec<u64>,
    coarse: Vec<u64>,
    pub(crate) max_us: u64,
    pub(crate) count: u64,
}

impl Latencies {
    pub(crate) fn new() -> Latencies {
        Latencies { fine: vec![0; FINE_US], coarse: vec![0; COARSE_BUCKETS], max_us: 0, count: 0 }
    }

    pub(crate) fn record(&mut self, us: u64) {
        self.count += 1;
        self.max_us = self.max_us.max(us);
        match self.fine.get_mut(us as usize) {
            Some(bucket) => *bucket += 1,
            None => self.coarse[((us / 1000) as usize).min(COARSE_BUCKETS - 1)] += 1,
        }
    }

    pub(crate) fn add(&mut self, other: &Latencies) {
        self.fine.iter_mut().zip(&other.fine).for_each(|(own, more)| *own += more);
        self.coarse.iter_mut().zip(&other.coarse).for_each(|(own, more)| *own += more);
        self.max_us = self.max_us.max(other.max_us);
        self.count += other.count;
    }

    pub(crate) fn quantile_us(&self, quantile: f64) -> u64 {
        let wanted = (self.count as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (us, count) in self.fine.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return us as u64;
            }
        }
        for (ms, count) in self.coarse.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return ms as u64 * 1000;
            }
        }
        self.max_us
    }
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::new();
        (1..=100).for_each(|us| latencies.record(us));
        latencies.record(70_500);
        assert_eq!((latencies.quantile_us(0.5), latencies.quantile_us(0.99)), (51, 100));
        assert_eq!((latencies.quantile_us(1.0), latencies.max_us), (70_000, 70_500));
    }
}
