// SPDX-License-Identifier: Apache-2.0

//! Every input that is kept is executed by every run of the tests, without instrumentation: none breaks anything, and none holds more
//! memory than it may.

#![allow(clippy::expect_used, reason = "a test that cannot go on should stop")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use mraft_fuzz::corpus;
use mraft_fuzz::memory::{Counting, bounded, is_counting};
use mraft_fuzz::target::{Said, Target};
use mraft_fuzz::targets::TARGETS;
use mraft_fuzz::toys::TOYS;

#[global_allocator]
static COUNTING: Counting = Counting;

/// As much stack as the smallest thread of a node has.
const STACK_BYTES: usize = 2 << 20;

fn on_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(target: &Target, input: &[u8]) -> Said {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input)))
        .unwrap_or_else(|_| panic!("{} breaks at {}", target.name, corpus::line_of(input)))
}

#[test]
fn every_input_that_is_kept_is_taken_or_refused() {
    assert!(is_counting());
    on_small_stack(|| {
        for target in TARGETS {
            let inputs = corpus::load(corpus::directory(), target.name).expect("a corpus");
            assert!(inputs.len() > 10, "{} has {} inputs: nobody searched it", target.name, inputs.len());
            let read = inputs.iter().filter(|input| run(target, input) == Said::Read).count();
            assert!(
                read > 0 && read < inputs.len(),
                "{} inputs of {}, {read} read",
                inputs.len(),
                target.name
            );
            for input in &inputs {
                // Nothing of a length may be believed that is not there.
                (0..input.len().min(40)).for_each(|len| _ = run(target, &input[..len]));
            }
        }
    });
}

#[test]
fn what_the_product_writes_is_understood() {
    on_small_stack(|| {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has nothing to begin with", target.name);
            for seed in seeds {
                assert!(seed.len() <= target.bytes_max, "{}: a seed of {} bytes", target.name, seed.len());
                let said = run(target, &seed);
                assert_eq!(said, Said::Read, "{} refuses {}", target.name, corpus::line_of(&seed));
            }
        }
    });
}

#[test]
fn files_of_inputs_belong_to_targets() {
    for kind in ["corpus", "findings"] {
        for entry in std::fs::read_dir(corpus::directory().join(kind)).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            let is_known = TARGETS.iter().any(|target| name == target.name);
            assert!(is_known || name == "README.md", "{kind}/{} is nobody's", name.display());
        }
    }
}

#[test]
fn more_memory_than_allowed_is_noticed() {
    let held = |bytes| catch_unwind(|| bounded("a test", 1000, || std::hint::black_box(vec![0_u8; bytes])));
    assert!(held(1000).is_ok());
    assert!(held(1001).is_err());
    // Many small pieces are as much as one large one, and what was given back is not counted.
    let many = || (0..20).map(|_| Box::new([0_u8; 100])).collect::<Vec<_>>().len();
    assert!(catch_unwind(|| bounded("a test", 1000, many)).is_err());
    let one_by_one = || (0..20).for_each(|_| drop(std::hint::black_box(Box::new([0_u8; 100]))));
    bounded("a test", 1000, one_by_one);
}

#[test]
fn toys_break_as_they_should() {
    let broken: [&[u8]; 3] = [b"\x66\x61\x72\x6d\x02\xa7\x3c", b"\xff\xff\xff\x00ab", b"\x01\x07\x01"];
    for (toy, input) in TOYS.iter().zip(broken) {
        assert!(catch_unwind(|| (toy.run)(input)).is_err(), "{} does not break", toy.name);
        for seed in (toy.seeds)() {
            assert!(catch_unwind(|| (toy.run)(&seed)).is_ok(), "{} breaks at once", toy.name);
        }
    }
}
