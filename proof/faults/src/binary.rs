// SPDX-License-Identifier: Apache-2.0

//! Which `mraft` is tested: the one that `MRAFT_BINARY` names, or else one that is built here and now.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::failure::{Failure, Result};

/// Names the binary to be tested.
const VARIABLE: &str = "MRAFT_BINARY";
/// As fast as a release, but with debug assertions: they watch, too, while nodes are killed.
const PROFILE: &str = "sim";
/// Beginnings of the variables in which cargo describes the package whose test it runs.
const OF_THIS_PACKAGE: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_"];

/// Where the binary is.
pub fn find() -> Result<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(path) => {
            let path = PathBuf::from(path);
            match path.is_file() {
                true => Ok(path),
                false => {
                    Err(Failure::new(format_args!("{VARIABLE} names {}, which is no file", path.display())))
                }
            }
        }
        None => build(),
    }
}

fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo says of this package to a test of it would count as a change of others' build scripts: they, and all that stands on them,
    // would be built again, now and by the next cargo that is started without it.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OF_THIS_PACKAGE.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    let output = command
        .args(["build", "--locked", "--package", "mraft-cli", "--bin", "mraft", "--profile", PROFILE])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(Failure::new("mraft cannot be built"));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_ours = message["target"]["name"] == "mraft";
        message["executable"].as_str().filter(|_| is_ours).map(PathBuf::from)
    });
    executable.ok_or_else(|| Failure::new("cargo did not say where it put mraft"))
}
