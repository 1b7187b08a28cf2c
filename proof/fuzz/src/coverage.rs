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
    /// Shows each counter that is not zero with its count.
    fn counted(&mut self, each: impl FnMut(u32, u8));
    /// Shows the constants that something was compared with since [`Coverage::begin`], if that was told to watch.
    fn constants(&self, each: impl FnMut(u64));
}

/// The counters of this program.
#[derive(Debug)]
pub struct Instrumented(());

impl Instrumented {
    /// `None` when the program was not compiled with the instrumentation.
    pub fn new() -> Option<Instrumented> {
        (COUNTERS_LEN.load(Ordering::Acquire) > 0).then_some(Instrumented(()))
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
        self.bytes().fill(0);
        WATCHES.store(watches, Ordering::Relaxed);
    }

    fn counted(&mut self, mut each: impl FnMut(u32, u8)) {
        WATCHES.store(false, Ordering::Relaxed);
        // Most of the program has nothing to do with one input: what is zero is passed over in large steps.
        for (large, at) in self.bytes().chunks(LARGE_BYTES).zip((0_u32..).step_by(LARGE_BYTES)) {
            if is_zero::<LARGE_BYTES>(large) {
                continue;
            }
            for (small, at) in large.chunks(SMALL_BYTES).zip((at..).step_by(SMALL_BYTES)) {
                if is_zero::<SMALL_BYTES>(small) {
                    continue;
                }
                for (count, at) in small.iter().zip(at..) {
                    if *count > 0 {
                        each(at, *count);
                    }
                }
            }
        }
    }

    fn constants(&self, each: impl FnMut(u64)) {
        let noted = NOTED.load(Ordering::Relaxed).min(CONSTANTS_MAX);
        CONSTANTS[..noted].iter().map(|constant| constant.load(Ordering::Relaxed)).for_each(each);
    }
}

/// Counters that are looked at together.
const LARGE_BYTES: usize = 512;
/// The same where one of them is not zero.
const SMALL_BYTES: usize = 32;

fn is_zero<const BYTES: usize>(block: &[u8]) -> bool {
    match block.first_chunk::<BYTES>() {
        // Without a way out in between it is a handful of instructions.
        Some(block) => block.iter().fold(0, |all, count| all | count) == 0,
        None => block.iter().all(|count| *count == 0),
    }
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
