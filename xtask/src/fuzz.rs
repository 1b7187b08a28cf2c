// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask fuzz`: compiles the decoders with LLVM's coverage pass and starts the search.
//!
//! Only our own crates are instrumented: cargo is told to call this program in place of the compiler for the members of the workspace,
//! and it calls the compiler with some more arguments. Such builds lie beside the others under names of their own, and the crates of
//! others are compiled once for both.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

/// Set while this program stands in for the compiler.
const COMPILES: &str = "MRAFT_XTASK_COMPILES";

/// The pass, and what it is to put in: a counter for each edge, the places of the counters, and calls for comparisons of numbers. The
/// options are LLVM's; a compiler that did not know one would stop with its name.
const INSTRUMENTATION: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Builds and runs the search with the caller's arguments.
pub(crate) fn run(root: &Path, arguments: &[String]) -> ExitCode {
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => {
            eprintln!("xtask does not know where it is: {error}");
            return ExitCode::FAILURE;
        }
    };
    let status = Command::new("cargo")
        .args(["run", "--quiet", "--locked", "--profile", "sim", "--package", "mraft-fuzz", "--"])
        .args(arguments)
        .env("RUSTC_WORKSPACE_WRAPPER", own)
        .env(COMPILES, "1")
        .current_dir(root)
        .status();
    ended("cargo", status)
}

/// Whether cargo called this program in place of the compiler.
pub(crate) fn is_compiler() -> bool {
    std::env::var_os(COMPILES).is_some()
}

/// Calls the compiler that cargo names, with the instrumentation if the crate is to have it.
pub(crate) fn compile() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(compiler) = arguments.next() else {
        eprintln!("{COMPILES} is set, and no compiler is named");
        return ExitCode::FAILURE;
    };
    let mut arguments: Vec<OsString> = arguments.collect();
    if is_instrumented(&arguments) {
        arguments.extend(INSTRUMENTATION.iter().map(OsString::from));
    }
    ended("the compiler", Command::new(compiler).args(arguments).status())
}

/// Our libraries are instrumented, not the program that searches: it would find its own branches.
fn is_instrumented(arguments: &[OsString]) -> bool {
    let value_of = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1);
    let is_ours =
        value_of("--crate-name").and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("mraft"));
    is_ours && value_of("--crate-type").is_some_and(|kind| kind == "lib")
}

fn ended(what: &str, status: std::io::Result<ExitStatus>) -> ExitCode {
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("{what} does not start: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_libraries_are_instrumented_and_nothing_else_is() {
        let is_instrumented = |line: &str| {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            is_instrumented(&arguments)
        };
        assert!(is_instrumented(
            "--crate-name mraft_wire --edition=2024 lib.rs --crate-type lib --emit=link"
        ));
        assert!(!is_instrumented("--crate-name mraft_fuzz --edition=2024 main.rs --crate-type bin"));
        assert!(!is_instrumented("--crate-name xtask --crate-type lib"));
        assert!(!is_instrumented("- --crate-name ___ --print=file-names"));
        assert!(!is_instrumented("-vV"));
    }
}
