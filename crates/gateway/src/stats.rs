// SPDX-License-Identifier: Apache-2.0

//! What the door counts of itself, in the OpenMetrics text format.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limits::Gate;

/// What a request was, for its latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    KvRead = 0,
    KvWrite = 1,
    Other = 2,
}

const KINDS: [&str; 3] = ["kv_read", "kv_write", "other"];
/// Upper bounds of the latency buckets in microseconds.
const BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];
/// Statuses are counted one by one: 0 to 599.
const STATUSES: usize = 600;

/// Counters of one door.
#[derive(Debug)]
pub(crate) struct Stats {
    answered: Box<[AtomicU64]>,
    latency: [Histogram; 3],
    pub(crate) connections: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Stats {
    pub(crate) fn new(connections_max: usize) -> Stats {
        Stats {
            answered: (0..STATUSES).map(|_| AtomicU64::new(0)).collect(),
            latency: Default::default(),
            connections: Arc::new(Gate::new("connections at once", connections_max)),
        }
    }

    pub(crate) fn answered(&self, kind: Kind, status: u16, took: Duration) {
        if let Some(counter) = self.answered.get(usize::from(status)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let histogram = &self.latency[kind as usize];
        let micros = took.as_micros() as u64;
        if let Some(bucket) = BUCKETS_US.iter().position(|bound| micros <= *bound) {
            histogram.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        histogram.count.fetch_add(1, Ordering::Relaxed);
        histogram.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// Appends everything; a `String` takes whatever is written to it.
    pub(crate) fn write(&self, gates: &[&Gate], out: &mut String) -> std::fmt::Result {
        out.push_str(
            "# HELP mraft_http_answers Requests answered, by status.\n# TYPE mraft_http_answers counter\n",
        );
        for (status, counter) in self.answered.iter().enumerate() {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                writeln!(out, "mraft_http_answers_total{{status=\"{status}\"}} {count}")?;
            }
        }
        out.push_str("# HELP mraft_http_latency_seconds Time from the head of a request to its answer.\n");
        out.push_str(
            "# TYPE mraft_http_latency_seconds histogram\n# UNIT mraft_http_latency_seconds seconds\n",
        );
        for (histogram, kind) in self.latency.iter().zip(KINDS) {
            let mut below = 0;
            for (bucket, bound) in histogram.buckets.iter().zip(BUCKETS_US) {
                below += bucket.load(Ordering::Relaxed);
                let seconds = bound as f64 / 1e6;
                writeln!(
                    out,
                    "mraft_http_latency_seconds_bucket{{kind=\"{kind}\",le=\"{seconds:?}\"}} {below}"
                )?;
            }
            let count = histogram.count.load(Ordering::Relaxed).max(below);
            let sum = histogram.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
            writeln!(out, "mraft_http_latency_seconds_bucket{{kind=\"{kind}\",le=\"+Inf\"}} {count}")?;
            writeln!(out, "mraft_http_latency_seconds_sum{{kind=\"{kind}\"}} {sum}")?;
            writeln!(out, "mraft_http_latency_seconds_count{{kind=\"{kind}\"}} {count}")?;
        }
        out.push_str(
            "# HELP mraft_http_used What the door's limits hold now.\n# TYPE mraft_http_used gauge\n",
        );
        for gate in gates {
            writeln!(out, "mraft_http_used{{limit=\"{}\"}} {}", gate.name(), gate.used())?;
        }
        out.push_str("# HELP mraft_http_refused Requests or connections refused, by limit.\n");
        out.push_str("# TYPE mraft_http_refused counter\n");
        for gate in gates {
            writeln!(out, "mraft_http_refused_total{{limit=\"{}\"}} {}", gate.name(), gate.refused())?;
        }
        Ok(())
    }
}
