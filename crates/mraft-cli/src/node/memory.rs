// SPDX-License-Identifier: Apache-2.0

//! What the process's memory is taken by, as the system and the allocator count it.
//!
//! What an operator sees of a process, its resident memory, is more than what the program asked for: pages of which only a part is in
//! use, pages that were freed a moment ago, the allocator's own tables, the program's file. Each of them grows for another reason.

use tikv_jemalloc_ctl::{epoch, stats};

use super::admin::gauge;

/// Resident memory of this process; 0 where the system does not tell.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| {
        let resident = text.split_whitespace().nth(1)?;
        resident.parse::<u64>().ok()
    });
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Adds what is known of memory to a page of metrics. Of the allocator there is nothing if it does not answer.
pub(super) fn write_prometheus(out: &mut String) {
    let mut figures = vec![(
        "mraft_memory_resident_bytes",
        "Memory of the process, as the system counts it.",
        resident_bytes(),
    )];
    figures.extend(of_allocator().into_iter().flatten());
    for (name, help, value) in figures {
        gauge(out, name, help, value);
    }
}

type Figure = (&'static str, &'static str, u64);

fn of_allocator() -> Option<[Figure; 4]> {
    // Its figures are those of the last time that somebody asked for new ones.
    epoch::advance().ok()?;
    let bytes = |read: tikv_jemalloc_ctl::Result<usize>| read.ok().map(|bytes| bytes as u64);
    Some([
        ("mraft_memory_allocated_bytes", "What the program holds.", bytes(stats::allocated::read())?),
        (
            "mraft_memory_active_bytes",
            "Pages of the allocator of which the program holds a part.",
            bytes(stats::active::read())?,
        ),
        (
            "mraft_memory_allocator_bytes",
            "All pages of the allocator: active ones, its own, and freed ones that it has not given back.",
            bytes(stats::resident::read())?,
        ),
        ("mraft_memory_metadata_bytes", "The allocator's own tables.", bytes(stats::metadata::read())?),
    ])
}
