// SPDX-License-Identifier: Apache-2.0

//! `mraft node`: from arguments to a configuration that holds, then to a running node. Nothing is written before that.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use mraft::identity::LogPlace;
use mraft_disk::RealDisk;

use crate::cli::{NodeRunArgs, URL_VARIABLE};
use crate::config::{ENVIRONMENT_PREFIX, FlagValue, Inputs, KeptIdentity, kept, load, machine};
use crate::exit::{CommandError, Exit};
use crate::node::run_node;
use crate::{logging, signals};

pub(super) fn run(args: &NodeRunArgs) -> Result<Exit, CommandError> {
    let inputs = Inputs {
        file: args.config.clone(),
        environment: environment()?,
        flags: flags(args)?,
        memory_bytes: machine::memory_bytes(),
    };
    let mut unreadable = None;
    let loaded =
        load(&inputs, |directory| kept_in(directory).inspect_err(|why| unreadable = Some(why.clone())));
    // A directory that cannot be read is no mistake in the configuration.
    let config = match (loaded, unreadable) {
        (Err(_), Some(why)) => return Err(CommandError::failed(why)),
        (loaded, _) => loaded?,
    };
    let failed = |what: &str, error: io::Error| CommandError::failed(format!("{what}: {error}"));
    let shutdown = signals::shutdown_on_signals(Exit::Failed.code())
        .map_err(|error| failed("signals cannot be received", error))?;
    if args.exit_with_stdin {
        signals::shutdown_at_end_of(io::stdin(), shutdown.clone())
            .map_err(|error| failed("standard input cannot be watched", error))?;
    }
    let observability = &config.observability;
    let _logging = logging::install(&observability.log_level, observability.log_dir.as_deref())
        .map_err(CommandError::failed)?;
    config.notices.iter().for_each(|notice| tracing::info!("{notice}"));
    config.plain_doors().iter().for_each(|door| tracing::warn!("{door}"));
    run_node(config, &shutdown)
}

/// Our part of the environment.
pub(super) fn environment() -> Result<Vec<(String, String)>, CommandError> {
    ours_of(std::env::vars_os())
}

/// The variables that begin as ours do and are settings. One that is no UTF-8 is refused: passed over, it would be a setting that has no effect.
fn ours_of(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, CommandError> {
    let is_ours = |name: &OsString| {
        name.as_encoded_bytes().starts_with(ENVIRONMENT_PREFIX.as_bytes()) && name != URL_VARIABLE
    };
    let ours = variables.filter(|(name, _)| is_ours(name));
    ours.map(|(name, value)| match (name.into_string(), value.into_string()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        (name, _) => {
            let name = name.unwrap_or_else(|name| name.to_string_lossy().into_owned());
            Err(CommandError::usage(format!(
                "environment {name} is not UTF-8: write the setting in a .toml file, or unset the variable"
            )))
        }
    })
    .collect()
}

fn kept_in(directory: &Path) -> Result<Option<KeptIdentity>, String> {
    let disk = RealDisk::new();
    let identity = mraft::identity::read(&disk, directory).map_err(|error| error.to_string())?;
    let Some(identity) = identity else { return Ok(None) };
    let wal_dir = match identity.log {
        LogPlace::Own(wal_dir) => Some(wal_dir),
        LogPlace::WithData | LogPlace::Unknown => None,
    };
    Ok(Some(KeptIdentity {
        deployment_id: identity.deployment,
        node_id: identity.node,
        raft_address: identity.raft_address,
        wal_dir,
        settings: kept::read(&disk, directory)?,
    }))
}

fn flags(args: &NodeRunArgs) -> Result<Vec<FlagValue>, CommandError> {
    let flag = |key: &str, value: String, written: String| FlagValue { key: key.to_owned(), value, written };
    let mut flags = Vec::new();
    let ports = [("http_port", "HTTP_PORT", args.http_port), ("raft_port", "RAFT_PORT", args.raft_port)];
    for (key, argument, port) in ports {
        flags.extend(port.map(|port| flag(key, port.to_string(), argument.to_owned())));
    }
    let named = [("data_dir", "--data-dir", &args.data_dir), ("log_level", "--log-level", &args.log_level)];
    for (key, name, value) in named {
        flags.extend(value.as_ref().map(|value| flag(key, value.clone(), name.to_owned())));
    }
    for setting in &args.settings {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(CommandError::usage(format!(
                "--set {setting}: write KEY=VALUE, as in --set election_rtt=60"
            )));
        };
        flags.push(flag(key.trim(), value.trim().to_owned(), format!("--set {setting}")));
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn positions_flags_and_set_are_one_layer() {
        let args = NodeRunArgs {
            http_port: Some(8001),
            data_dir: Some("d".to_owned()),
            settings: vec!["http_port=9".to_owned(), "node_id=7".to_owned()],
            ..NodeRunArgs::default()
        };
        let flags = flags(&args).expect("flags");
        let inputs = Inputs { flags, ..Inputs::default() };
        let error = load(&inputs, |_| Ok(None)).expect_err("twice").to_string();
        assert!(error.contains("flag HTTP_PORT") && error.contains("flag --set http_port=9"), "{error}");
    }

    #[test]
    fn a_variable_of_ours_that_is_no_utf_8_is_refused_and_others_are_passed_over() {
        let bad = || OsString::from_vec(vec![b'd', 0xff]);
        let of = |name: &str| ours_of([(OsString::from(name), bad())].into_iter());
        assert_eq!(of("PATH").expect("not ours"), []);
        assert_eq!(of("MRAFT_URL").expect("for the commands that ask a cluster"), []);
        let error = of("MRAFT_DATA_DIR").expect_err("ours");
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.message.contains("MRAFT_DATA_DIR is not UTF-8"), "{error}");
    }

    #[test]
    fn a_setting_without_a_value_is_a_usage_error() {
        let args = NodeRunArgs { settings: vec!["node_id".to_owned()], ..NodeRunArgs::default() };
        assert_eq!(flags(&args).expect_err("no value").exit, Exit::Usage);
    }
}
