// SPDX-License-Identifier: Apache-2.0

//! Everything that recovery can find, what it does about it, and why (rules L3, L4, D7): one row per case, a test per row.

/// What recovery met. Each is a row of the table: [`Case::decision`] and [`Case::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// The expected batch, whole.
    Whole,
    /// The last batch is a seal.
    Sealed,
    /// The last batch is one of records: nothing behind it says that it is durable.
    Unsealed,
    /// No whole batch where the next one would stand, and nothing says that there was one.
    TornTail,
    /// A header whose records are wrong, and a later one that says that they were durable.
    DamagedRecords,
    /// No header where a batch was, and a later one that says that it was durable.
    DamagedHeader,
    /// A segment ends before the batch that the next use says was durable.
    MissingBatches,
    /// A use that the newest batch says is needed is not there.
    MissingSegment,
    /// The list says that a batch was written, and nothing is there of any use.
    NoSegments,
    /// A use that the newest batch says is not needed.
    StaleSegment,
    /// A file that was never used.
    BlankSegment,
    /// A file without a whole header that no other header misses.
    HeaderlessSegment,
    /// A file without a whole header whose batches were durable, as they say themselves, and are in no other file.
    LostHeader,
    /// One of the two copies of a segment's header is wrong.
    HalfHeader,
    /// A file that is too short.
    HalfPrepared,
    /// A record whose sequence number was seen before.
    Repeated,
    /// A record of a replica that is not in the list.
    Garbage,
    /// A replica's first record is not its first one.
    RecycledFront,
    /// Parts of a checkpoint without the last one.
    IncompleteCheckpoint,
    /// A replica's sequence has a gap.
    Gap,
    /// A batch is gone with its header, and a replica's next record continues its sequence.
    Continued,
    /// Behind a gap there is a record of the whole state, and all entries since its start.
    Covered,
    /// A replica's records were lost and nothing covers them.
    Condemned,
    /// A replica carries the mark already.
    MarkedCondemned,
    /// A header of another version.
    UnknownVersion,
    /// Segments in use, but no list of replicas.
    MissingList,
    /// A list of replicas that is not whole.
    DamagedList,
    /// Two files with the same use.
    DuplicateUse,
    /// Segments of another length than the settings say.
    OtherLength,
}

impl Case {
    /// The whole table.
    pub const ALL: [Case; 29] = [
        Case::Whole,
        Case::Sealed,
        Case::Unsealed,
        Case::TornTail,
        Case::DamagedRecords,
        Case::DamagedHeader,
        Case::MissingBatches,
        Case::MissingSegment,
        Case::NoSegments,
        Case::StaleSegment,
        Case::BlankSegment,
        Case::HeaderlessSegment,
        Case::LostHeader,
        Case::HalfHeader,
        Case::HalfPrepared,
        Case::Repeated,
        Case::Garbage,
        Case::RecycledFront,
        Case::IncompleteCheckpoint,
        Case::Gap,
        Case::Continued,
        Case::Covered,
        Case::Condemned,
        Case::MarkedCondemned,
        Case::UnknownVersion,
        Case::MissingList,
        Case::DamagedList,
        Case::DuplicateUse,
        Case::OtherLength,
    ];

    /// What is done.
    pub fn decision(self) -> &'static str {
        self.row().0
    }

    /// Why.
    pub fn reason(self) -> &'static str {
        self.row().1
    }

    /// Whether bytes were lost that had been acknowledged, or may have been.
    pub fn is_damage(self) -> bool {
        matches!(
            self,
            Case::DamagedRecords
                | Case::DamagedHeader
                | Case::MissingBatches
                | Case::MissingSegment
                | Case::NoSegments
                | Case::LostHeader
                | Case::Gap
                | Case::Condemned
        )
    }

    fn row(self) -> (&'static str, &'static str) {
        match self {
            Case::Whole => ("taken", "header and records are what was written in this use"),
            Case::Sealed => ("nothing to do", "a seal says that everything before it is durable"),
            Case::Unsealed => (
                "written again, as the first batch of a fresh use, before it is trusted",
                "it may be whole in the page cache only (D7)",
            ),
            Case::TornTail => (
                "dropped",
                "a batch is acknowledged only when it is durable, and then a later header or the seal says so (L3)",
            ),
            Case::DamagedRecords => (
                "its whole records are taken, the others are lost to the replicas in its table",
                "a batch that was durable is wrong now; each record has a checksum of its own",
            ),
            Case::DamagedHeader => (
                "every replica that was listed then is unsure",
                "without its table nobody knows whose records it held",
            ),
            Case::MissingBatches => {
                ("every replica that was listed then is unsure", "a segment is synced before it is left (L3)")
            }
            Case::MissingSegment => (
                "every replica that was listed then is unsure",
                "a file is given up only after a batch was synced that no longer needs it (L5)",
            ),
            Case::NoSegments => (
                "refused, nothing touched",
                "the list is marked when the first batch is synced, and from then on a use is always needed: all of them are lost (D9)",
            ),
            Case::StaleSegment => {
                ("not read; the file is free", "a synced batch says that nothing in it is needed (L5)")
            }
            Case::BlankSegment => ("the file is free", "it was filled and not used yet"),
            Case::HeaderlessSegment => (
                "the file is free",
                "the first batch of its use was torn, or its loss shows as missing batches of the next use",
            ),
            Case::LostHeader => (
                "every replica that was listed then is unsure; the file is kept until the next opening",
                "a batch names what was durable before it, whoever reads it (L3)",
            ),
            Case::HalfHeader => ("the other copy counts", "one bit must not hide a segment"),
            Case::HalfPrepared => ("removed", "filling it was interrupted: it never held a batch"),
            Case::Repeated => ("passed over", "the batch was written again by a later opening (D7)"),
            Case::Garbage => ("passed over", "only replicas of the synced list live (L4)"),
            Case::RecycledFront => (
                "taken",
                "segments are recycled oldest first, and what a replica needs of them is pinned or carried (L5)",
            ),
            Case::IncompleteCheckpoint => ("void", "only the last part says that all were written (L5)"),
            Case::Gap => (
                "everything before it is void until something covers it",
                "a lost record may have overwritten any entry (L4)",
            ),
            Case::Continued => ("cleared", "the lost batch held no record of this replica (L4)"),
            Case::Covered => ("cleared", "what was lost is void by what came later (L4)"),
            Case::Condemned => (
                "the replica is condemned, durably, with what is left of its entries; the others go on",
                "it may have acknowledged what it no longer has (L4, D9)",
            ),
            Case::MarkedCondemned => ("stays condemned", "the mark is durable (D9)"),
            Case::UnknownVersion => ("refused, nothing touched", "another build's bytes (T3)"),
            Case::MissingList => {
                ("refused, nothing touched", "it is made, and synced, before the first segment is used")
            }
            Case::DamagedList => {
                ("refused, nothing touched", "without it nobody knows whose the records are")
            }
            Case::DuplicateUse => ("refused, nothing touched", "somebody copied a file"),
            Case::OtherLength => ("refused, nothing touched", "log_segment_bytes was changed: set it back"),
        }
    }
}
