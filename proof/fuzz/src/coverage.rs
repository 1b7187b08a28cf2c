// SPDX-License-Identifier: Apache-2.0

//! What the compiler's instrumentation says of an execution.
//!
//! Our crates are compiled with LLVM's own coverage pass (`cargo xtask fuzz` says how): each branch has a counter of eight bits, and
//! each comparison of numbers is told to a function here. The counters are zeroed before an execution and read after it.
//!
//! Of comparisons only the constants are noted: they follow from which code ran. What they are compared with may be an address, and no
//! execution would be like another.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// What a search wants to know of an execution.
pub trait Coverage {
    /// How many counters there are.
    fn counters(&self) -> usize;
    /// Forgets what was counted. With `watches`, constants are noted from here on.
    fn begin(&mut self, watches: bool);
    /// Shows each counter that is not zero with its count, but for those where nobody looks ([`Coverage::looks_further`]).
    fn counted(&mut self, each: impl FnMut(u32, u8));
    /// Looks at all counters, and answers whether there is one that is not zero where nobody looked until now: what was executed since
    /// the last time is to be executed again to know what did it.
    fn looks_further(&mut self) -> bool;
    /// Shows the constants that something was compared with since [`Coverage::begin`], if that was told to watch.
    fn constants(&self, each: impl FnMut(u64));
}

/// The counters of this program. Most of them have nothing to do with a target: those are cleared and read only where something was ever
/// counted, which is known by looking everywhere now and then.
#[derive(Debug)]
pub struct Instrumented {
    /// Blocks that are looked at, ascending.
    blocks: Vec<u32>,
    is_looked_at: Vec<bool>,
}

impl Instrumented {
    /// `None` when the program was not compiled with the instrumentation.
    pub fn new() -> Option<Instrumented> {
        let counters = COUNTERS_LEN.load(Ordering::Acquire);
        if counters == 0 {
            return None;
        }
        let is_looked_at = vec![false; counters.div_ceil(BLOCK_BYTES)];
        let mut all = Instrumented { blocks: Vec::new(), is_looked_at };
        // What was counted before.
        all.bytes().fill(0);
        Some(all)
    }

    /// For each counter the place in the program that it counts.
    pub fn places(&self) -> Vec<usize> {
        let (begin, len) = (PLACES.load(Ordering::Acquire), PLACES_LEN.load(Ordering::Acquire));
        if begin.is_null() {
            return Vec::new();
        }
        // SAFETY: the instrumentation handed this table over once, before `main`; it is read-only and lives as long as the program.
        let table = unsafe { std::slice::from_raw_parts(begin, len) };
        // Each row is an address and flags.
        table.chunks_exact(2).map(|row| row[0]).collect()
    }

    fn bytes(&mut self) -> &mut [u8] {
        let (begin, len) = (COUNTERS.load(Ordering::Acquire), COUNTERS_LEN.load(Ordering::Acquire));
        // SAFETY: the instrumentation handed this section over once, before `main`; it lives as long as the program. Only instrumented
        // code writes to it, and that runs on this thread (there is one `Instrumented`, and targets spawn nothing), never while this
        // slice is borrowed: nothing that is called under the borrow is instrumented.
        unsafe { std::slice::from_raw_parts_mut(begin, len) }
    }
}

impl Coverage for Instrumented {
    fn counters(&self) -> usize {
        COUNTERS_LEN.load(Ordering::Acquire)
    }

    fn begin(&mut self, watches: bool) {
        NOTED.store(0, Ordering::Relaxed);
        // Between executions the allocator was counted, too.
        let blocks = std::mem::take(&mut self.blocks);
        let bytes = self.bytes();
        blocks.iter().for_each(|number| block(bytes, *number).fill(0));
        self.blocks = blocks;
        WATCHES.store(watches, Ordering::Relaxed);
    }

    fn counted(&mut self, mut each: impl FnMut(u32, u8)) {
        WATCHES.store(false, Ordering::Relaxed);
        let blocks = std::mem::take(&mut self.blocks);
        let bytes = self.bytes();
        for number in &blocks {
            let at = number * BLOCK_BYTES as u32;
            let (parts, rest) = block(bytes, *number).as_chunks::<PART_BYTES>();
            for (part, at) in parts.iter().zip((at..).step_by(PART_BYTES)) {
                if is_zero(part) {
                    continue;
                }
                let (words, _) = part.as_chunks::<WORD_BYTES>();
                for (word, at) in words.iter().zip((at..).step_by(WORD_BYTES)) {
                    let mut left = u64::from_le_bytes(*word);
                    // From one that is not zero to the next, whatever is between them.
                    while left != 0 {
                        let shift = left.trailing_zeros() & !7;
                        each(at + shift / 8, (left >> shift) as u8);
                        left &= !(0xff << shift);
                    }
                }
            }
            for (count, at) in rest.iter().zip(at + (parts.len() * PART_BYTES) as u32..) {
                if *count > 0 {
                    each(at, *count);
                }
            }
        }
        self.blocks = blocks;
    }

    fn looks_further(&mut self) -> bool {
        let mut is_looked_at = std::mem::take(&mut self.is_looked_at);
        let mut is_news = false;
        for (bytes, is_looked_at) in self.bytes().chunks(BLOCK_BYTES).zip(&mut is_looked_at) {
            if !*is_looked_at && !is_zero(bytes) {
                *is_looked_at = true;
                is_news = true;
            }
        }
        if is_news {
            self.blocks = (0..).zip(&is_looked_at).filter(|(_, is)| **is).map(|(number, _)| number).collect();
        }
        self.is_looked_at = is_looked_at;
        is_news
    }

    fn constants(&self, each: impl FnMut(u64)) {
        let noted = NOTED.load(Ordering::Relaxed).min(CONSTANTS_MAX);
        CONSTANTS[..noted].iter().map(|constant| constant.load(Ordering::Relaxed)).for_each(each);
    }
}

/// Counters that are looked at together, or not at all.
const BLOCK_BYTES: usize = 256;
/// Those of them that are passed over together.
const PART_BYTES: usize = 32;
const WORD_BYTES: usize = size_of::<u64>();

fn block(bytes: &mut [u8], number: u32) -> &mut [u8] {
    let from = number as usize * BLOCK_BYTES;
    let to = bytes.len().min(from + BLOCK_BYTES);
    &mut bytes[from..to]
}

/// Without a way out in between it is a handful of instructions.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, count| all | count) == 0
}

static COUNTERS: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static COUNTERS_LEN: AtomicUsize = AtomicUsize::new(0);
static PLACES: AtomicPtr<usize> = AtomicPtr::new(std::ptr::null_mut());
static PLACES_LEN: AtomicUsize = AtomicUsize::new(0);

/// Constants that are noted of one execution; those that come later are not.
const CONSTANTS_MAX: usize = 8192;
static WATCHES: AtomicBool = AtomicBool::new(false);
static NOTED: AtomicUsize = AtomicUsize::new(0);
static CONSTANTS: [AtomicU64; CONSTANTS_MAX] = [const { AtomicU64::new(0) }; CONSTANTS_MAX];

#[inline]
fn note(constant: u64) {
    if !WATCHES.load(Ordering::Relaxed) {
        return;
    }
    let at = NOTED.load(Ordering::Relaxed);
    if let Some(place) = CONSTANTS.get(at) {
        place.store(constant, Ordering::Relaxed);
        NOTED.store(at + 1, Ordering::Relaxed);
    }
}

/// Called before `main`, once per compiled module, each time with the one section that the linker made of all.
// SAFETY: the name is the instrumentation's own, and nothing else in the program has it.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(begin: *mut u8, end: *mut u8) {
    COUNTERS.store(begin, Ordering::Release);
    COUNTERS_LEN.store((end as usize).wrapping_sub(begin as usize), Ordering::Release);
}

/// As above, for the places of the counters.
// SAFETY: the name is the instrumentation's own, and nothing else in the program has it.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(begin: *mut usize, end: *mut usize) {
    PLACES.store(begin, Ordering::Release);
    PLACES_LEN.store((end as usize).wrapping_sub(begin as usize) / size_of::<usize>(), Ordering::Release);
}

macro_rules! comparisons {
    ($($name:ident: $number:ty, $constant:expr);* $(;)?) => {
        $(
            // SAFETY: the name is the instrumentation's own, and nothing else in the program has it.
            #[unsafe(no_mangle)]
            extern "C" fn $name(left: $number, _: $number) {
                if $constant {
                    note(u64::from(left));
                }
            }
        )*
    };
}

// Single bytes are found by chance.
comparisons! {
    __sanitizer_cov_trace_cmp1: u8, false;
    __sanitizer_cov_trace_cmp2: u16, false;
    __sanitizer_cov_trace_cmp4: u32, false;
    __sanitizer_cov_trace_cmp8: u64, false;
    __sanitizer_cov_trace_const_cmp1: u8, false;
    __sanitizer_cov_trace_const_cmp2: u16, true;
    __sanitizer_cov_trace_const_cmp4: u32, true;
    __sanitizer_cov_trace_const_cmp8: u64, true;
}

/// A `match` of a number: `cases` is their count, the number's width in bits, and each case.
// SAFETY: the name is the instrumentation's own, and nothing else in the program has it.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_switch(_: u64, cases: *const u64) {
    if !WATCHES.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the instrumentation hands over a table of its own that begins with its length and has that many cases behind the width.
    let cases = unsafe {
        let len = usize::try_from(*cases).unwrap_or(0);
        std::slice::from_raw_parts(cases.add(2), len)
    };
    cases.iter().copied().for_each(note);
}
