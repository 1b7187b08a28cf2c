// SPDX-License-Identifier: Apache-2.0

//! File systems for real processes that lose, fail, hang, rot and fill up on request.
//!
//! A [`Disk`] is a file system in memory. It keeps apart what is there and what is durable, of bytes, lengths and names, and gives to an
//! unmodified process nothing but what POSIX promises. [`mount()`] shows it to the machine through FUSE; whoever holds the [`Disk`] hurts it
//! meanwhile from the same process: cuts its power, has operations fail, hang or take long, and flips bits at rest. Everything that is left
//! to chance follows from a seed. An [`Image`] is the other kind: a real ext4 of a few megabytes, which gets full.
//!
//! Both need Linux, root, and what the kernel brings for it; [`why_not`] and [`image_why_not`] say what is missing.
//!
//! Invariant: it knows nothing of the files' meaning.

#![forbid(unsafe_code)]

mod content;
mod disk;
mod draw;
#[cfg(target_os = "linux")]
mod image;
#[cfg(target_os = "linux")]
mod mount;
mod names;
mod pattern;
mod volume;

pub use content::{PAGE_BYTES, SECTOR_BYTES};
pub use disk::{Disk, EVERYTHING, Flip, Kind, TRANSFERS, Times, Trouble, TroubleId};
pub use draw::Draw;
pub use pattern::Pattern;
pub use volume::{Cut, Refusal};
#[cfg(target_os = "linux")]
pub use {
    image::{Image, why_not as image_why_not},
    mount::{Mounted, mount, why_not},
};
