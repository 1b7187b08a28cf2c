// SPDX-License-Identifier: Apache-2.0

//! Explains a log's directory to a person, touching nothing: which segments hold what, what each replica would recover, what is damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mraft_disk::Disk;
use mraft_types::HardState;

use crate::cases::Case;
use crate::recovery::look;
use crate::{LogError, Recovered};

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Segments with a use, oldest first.
    pub segments: Vec<InspectedSegment>,
    /// Files without a use: ready, half prepared, or without a whole header.
    pub spare_files: Vec<PathBuf>,
    /// What each replica of the list would recover, in the order of keys.
    pub replicas: Vec<InspectedReplica>,
    /// How often each case of the recovery table was met.
    pub cases: BTreeMap<Case, u64>,
    /// The number of the last batch.
    pub last_batch_seq: u64,
    /// Everything up to this batch is known to be durable.
    pub durable_seq: u64,
}

/// One use of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedSegment {
    /// The file.
    pub path: PathBuf,
    /// Number of the use.
    pub use_number: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether recovery needs it; one that it does not need is free, and not read.
    pub is_needed: bool,
    /// Number of its first batch.
    pub first_batch_seq: u64,
    /// Whole batches in it.
    pub batches: u64,
    /// Bytes of these batches, padding included.
    pub batch_bytes: u64,
}

/// One replica of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedReplica {
    /// The number that stands for it in the records.
    pub slot: u32,
    /// The sequence number of its last record.
    pub sequence: u64,
    /// What it would be told of itself.
    pub recovered: Recovered,
}

impl InspectedReplica {
    /// The hard state it would begin with.
    pub fn hard_state(&self) -> HardState {
        self.recovered.hard_state
    }
}

/// Reads a log's directory. Opens files for reading only; the log must not be open in another process.
pub fn inspect(disk: &dyn Disk, directory: &Path) -> Result<Inspection, LogError> {
    let (_, files, mut recovery) = look(disk, directory, None)?;
    recovery.release()?;
    match recovery.cases.contains_key(&Case::NoSegments) {
        // Nobody opens such a log, so nobody judges and marks either.
        true => recovery.lose_all(),
        false => drop(recovery.judge()),
    }
    let segments = files.uses.values().map(|segment| {
        let walked = recovery.walked.get(&segment.header.use_number);
        InspectedSegment {
            path: segment.path.clone(),
            use_number: segment.header.use_number,
            bytes: segment.header.segment_bytes,
            is_needed: walked.is_some(),
            first_batch_seq: segment.header.first_batch_seq,
            batches: walked.map_or(0, |walked| walked.batches),
            batch_bytes: walked.map_or(0, |walked| walked.bytes),
        }
    });
    let segments = segments.collect();
    let mut replicas: Vec<InspectedReplica> = recovery
        .replicas
        .iter()
        .map(|(slot, tracker)| InspectedReplica {
            slot: *slot,
            sequence: tracker.sequence,
            recovered: tracker.recovered(),
        })
        .collect();
    replicas.sort_by_key(|replica| replica.recovered.key);
    let mut spare_files = files.half_prepared;
    spare_files.extend(files.blank.into_iter().map(|blank| blank.path));
    spare_files.sort();
    Ok(Inspection {
        segments,
        spare_files,
        replicas,
        cases: recovery.cases,
        last_batch_seq: recovery.highest_seq,
        durable_seq: recovery.durable_seq,
    })
}
