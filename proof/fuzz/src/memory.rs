// SPDX-License-Identifier: Apache-2.0

//! An allocator that counts, per thread, so that a decoder which believes a length is noticed.
//!
//! A program that wants it says `#[global_allocator] static COUNTING: Counting = Counting;`. Without it [`bounded`] measures nothing, which
//! [`is_counting`] tells.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting what each thread holds.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

/// What a thread allocated since [`measure`] began. All in bytes as they were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// The largest single piece.
    pub largest_bytes: usize,
    /// The most that was held at once beyond what was held at the beginning.
    pub peak_bytes: usize,
}

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn took(bytes: usize) {
    // A thread that is ending has no cells any more, and nobody who measures it.
    let _ = HELD.try_with(|held| {
        let now = held.get().wrapping_add(bytes as isize);
        held.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

fn gave(bytes: usize) {
    let _ = HELD.try_with(|held| held.set(held.get().wrapping_sub(bytes as isize)));
}

// SAFETY: every call is passed to the system's allocator as it came, and its answer back; beside that, only cells of the thread are
// written, which are made without allocating and need no drop.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`: the piece is of this allocator, which is the system's.
        unsafe { System.dealloc(piece, layout) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        gave(layout.size());
        took(new_size);
        // SAFETY: the caller keeps the contract of `realloc`: the piece is of this allocator, which is the system's.
        unsafe { System.realloc(piece, layout, new_size) }
    }
}

/// Counts from nothing again: what is compared here must not depend on what was held before, or no execution would be like another.
pub fn reset() {
    HELD.set(0);
    PEAK.set(0);
    LARGEST.set(0);
}

/// What `work` allocates on this thread.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Allocated) {
    let held = HELD.get();
    PEAK.set(held);
    LARGEST.set(0);
    let done = work();
    let peak_bytes = usize::try_from(PEAK.get().wrapping_sub(held)).unwrap_or(0);
    (done, Allocated { largest_bytes: LARGEST.get(), peak_bytes })
}

/// Whether the program counts at all.
pub fn is_counting() -> bool {
    measure(|| std::hint::black_box(vec![0_u8; 1000])).1.largest_bytes >= 1000
}

/// Does `work`, which may hold `max_bytes` at once beyond what is held already.
///
/// # Panics
///
/// When it held more.
pub fn bounded<T>(what: &str, max_bytes: usize, work: impl FnOnce() -> T) -> T {
    let (done, allocated) = measure(work);
    let Allocated { largest_bytes, peak_bytes } = allocated;
    assert!(
        peak_bytes <= max_bytes,
        "{what} held {peak_bytes} bytes at once, {largest_bytes} in one piece; {max_bytes} are allowed"
    );
    done
}
