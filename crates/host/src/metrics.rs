// SPDX-License-Identifier: Apache-2.0

//! What a host counts: how long syncs and applies take, how much of what it did, what it refused and dropped.
//!
//! Counting is always on and costs a few atomic additions per turn, never per command. The text form is OpenMetrics, without the
//! closing line: a counter's family is its name without `_total`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mraft_logstore::LogStatus;

use crate::persist::LogRun;

/// Upper bounds of the buckets of every histogram of seconds, in microseconds: from a fast overwrite to a hung disk.
const BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    pub(crate) fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(at) = BUCKETS_US.iter().position(|bound| us <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut cumulative = 0;
        for (bucket, bound) in self.buckets.iter().zip(BUCKETS_US) {
            cumulative += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {cumulative}", bound as f64 / 1e6);
        }
        let count = self.count.load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(
            out,
            "{name}_sum {}\n{name}_count {count}",
            self.sum_us.load(Ordering::Relaxed) as f64 / 1e6
        );
    }
}

/// All figures of one host.
#[derive(Debug, Default)]
pub struct Metrics {
    log_sync: Histogram,
    apply: Histogram,
    proposal: Histogram,
    held_bytes: AtomicU64,
    unpersisted_bytes: AtomicU64,
    log_bytes: AtomicU64,
    log_payload_bytes: AtomicU64,
    log_batches: AtomicU64,
    commands_applied: AtomicU64,
    log_status: Mutex<LogStatus>,
    /// Elections by reason, drops by reason, and whatever else is counted under a name and a label.
    labelled: Mutex<BTreeMap<(&'static str, &'static str, String), u64>>,
}

/// The counters that benchmarks and tests look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Batches that the log wrote, each with one fdatasync.
    pub log_batches: u64,
    /// Bytes that the log wrote, padding included.
    pub log_bytes: u64,
    /// Bytes of entries' payloads in them.
    pub log_payload_bytes: u64,
    /// Commands that state machines applied.
    pub commands_applied: u64,
    /// Segments that the log recycled.
    pub segments_recycled: u64,
}

impl Metrics {
    pub(crate) fn log_run(&self, run: &LogRun, took: Duration) {
        if run.batches > 0 {
            self.log_sync.record(took / u32::try_from(run.batches).unwrap_or(u32::MAX));
            self.log_batches.fetch_add(run.batches, Ordering::Relaxed);
            self.log_bytes.fetch_add(run.bytes, Ordering::Relaxed);
            self.log_payload_bytes.fetch_add(run.payload_bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn log_status(&self, status: &LogStatus) {
        *self.log_status.lock().unwrap_or_else(PoisonError::into_inner) = *status;
    }

    pub(crate) fn applied(&self, commands: u64, took: Duration) {
        if commands > 0 {
            self.apply.record(took);
            self.commands_applied.fetch_add(commands, Ordering::Relaxed);
        }
    }

    /// Time from a proposal to its answer.
    pub(crate) fn answered(&self, took: Duration) {
        self.proposal.record(took);
    }

    /// Bytes of proposals and entries that one step worker holds, as a change of what it said before.
    pub(crate) fn held(&self, before: u64, now: u64) {
        self.held_bytes.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Bytes of one apply thread's state that wait to be persisted, as a change of what it said before.
    pub(crate) fn unpersisted(&self, before: u64, now: u64) {
        self.unpersisted_bytes.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Counts one more under a name with one label.
    pub(crate) fn count(&self, name: &'static str, label: &'static str, value: impl Into<String>) {
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        *labelled.entry((name, label, value.into())).or_default() += 1;
    }

    /// The counters.
    pub fn figures(&self) -> Figures {
        Figures {
            log_batches: self.log_batches.load(Ordering::Relaxed),
            log_bytes: self.log_bytes.load(Ordering::Relaxed),
            log_payload_bytes: self.log_payload_bytes.load(Ordering::Relaxed),
            commands_applied: self.commands_applied.load(Ordering::Relaxed),
            segments_recycled: self.log_gauges().segments_recycled,
        }
    }

    /// The log's gauges, as last published by the log thread.
    pub fn log_gauges(&self) -> LogStatus {
        *self.log_status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it in Prometheus' text format, without what the caller adds of its own.
    pub fn write_prometheus(&self, out: &mut String) {
        self.log_sync.write(
            out,
            "mraft_log_sync_seconds",
            "One write and fdatasync of the log, for all groups.",
        );
        self.apply.write(
            out,
            "mraft_apply_batch_seconds",
            "One batch of entries through the state machines of an apply thread.",
        );
        self.proposal.write(
            out,
            "mraft_proposal_seconds",
            "From a proposal at this node to its answer, whatever that was.",
        );
        let figures = self.figures();
        counter(
            out,
            "mraft_log_bytes_total",
            "Bytes written to the log, padding included.",
            figures.log_bytes,
        );
        counter(
            out,
            "mraft_log_payload_bytes_total",
            "Bytes of entries written to the log.",
            figures.log_payload_bytes,
        );
        counter(out, "mraft_log_batches_total", "Batches written to the log.", figures.log_batches);
        counter(out, "mraft_log_segments_recycled_total", "Segments used again.", figures.segments_recycled);
        counter(out, "mraft_commands_applied_total", "Commands applied.", figures.commands_applied);
        let log = self.log_gauges();
        gauge(out, "mraft_log_segments_live", "Segments that hold needed records.", log.segments_live);
        gauge(out, "mraft_log_segments_free", "Segments that are ready for use.", log.segments_free);
        gauge(out, "mraft_log_size_bytes", "Bytes of all segment files.", log.bytes);
        gauge(out, "mraft_log_index_bytes", "Memory of the log's index.", log.index_bytes);
        gauge(
            out,
            "mraft_held_bytes",
            "Bytes of proposals and entries in memory that wait to be written, sent or applied.",
            self.held_bytes.load(Ordering::Relaxed),
        );
        gauge(
            out,
            "mraft_unpersisted_bytes",
            "Bytes of state in memory that wait to be persisted.",
            self.unpersisted_bytes.load(Ordering::Relaxed),
        );
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        for reason in ["suspicion", "timeout", "transfer"] {
            // A rate needs the zero before the first one.
            labelled.entry(("mraft_elections_total", "reason", reason.to_owned())).or_default();
        }
        let mut last = "";
        for ((name, label, value), count) in labelled.iter() {
            if *name != last {
                let family = name.strip_suffix("_total").unwrap_or(name);
                let _ = writeln!(out, "# HELP {family} {}\n# TYPE {family} counter", help_of(family));
                last = name;
            }
            let _ = writeln!(out, "{name}{{{label}=\"{}\"}} {count}", value.replace(['\\', '"', '\n'], "_"));
        }
    }
}

/// What the counters with a label count.
fn help_of(family: &str) -> &'static str {
    match family {
        "mraft_apply_stalls" => "Times that applying waited for memory, by what was full.",
        "mraft_elections" => "Elections that replicas here began, by reason.",
        "mraft_log_pressed" => {
            "Times that the log was longer than it should be, by what there was too much of."
        }
        "mraft_messages_refused" => "Messages of peers that were dropped here, by reason.",
        "mraft_messages_unsendable" => "Messages that could not be sent, by reason.",
        "mraft_snapshots" => "Snapshots, by what became of them.",
        "mraft_state_differences" => "Checkpoints at which replicas differed, by what followed.",
        "mraft_topology_conflicts" => {
            "Connections of nodes that have another routing table of the same version, by node."
        }
        _ => "Counted by label.",
    }
}

pub(crate) fn counter(out: &mut String, name: &str, help: &str, value: u64) {
    let family = name.strip_suffix("_total").unwrap_or(name);
    let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} counter\n{name} {value}");
}

pub(crate) fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}
