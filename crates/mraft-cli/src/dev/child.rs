// SPDX-License-Identifier: Apache-2.0

//! One node process: started, listened to, told to stop.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::config::{ENVIRONMENT_PREFIX, Key};

/// Longer lines of a node's output are cut.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// How long the last words of a dead process may take; something that it started may hold the pipe open for ever.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(1);

/// A running node process. Dropping it kills the process: nothing is left behind, whatever happens to the supervisor's code.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    last_line: Arc<Mutex<String>>,
    end_of_output: Receiver<()>,
}

impl Child {
    /// Starts `program node --config FILE`.
    pub(super) fn start(program: &Path, config: &Path) -> io::Result<Child> {
        let mut command = Command::new(program);
        command.arg("node").arg("--config").arg(config).arg("--exit-with-stdin");
        // Open for as long as the supervisor lives, and closed by the system when it dies.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Ctrl-C goes to the supervisor's process group; the nodes are told by the supervisor.
        command.process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_ours_to_say) {
                command.env_remove(name);
            }
        }
        let mut process = command.spawn()?;
        let last_line = Arc::new(Mutex::new(String::new()));
        let (ended, end_of_output) = channel();
        if let Some(output) = process.stderr.take() {
            let last_line = Arc::clone(&last_line);
            let listening = thread::Builder::new()
                .name("node-output".to_owned())
                .spawn(move || listen(output, &last_line, ended));
            if let Err(error) = listening {
                let _ = process.kill();
                let _ = process.wait();
                return Err(error);
            }
        }
        Ok(Child { process, last_line, end_of_output })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// Asks it to drain and stop. It cannot be somebody else's process: its end has not been taken note of yet.
    pub(super) fn terminate(&self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
    }

    /// Closes our end of its standard input, as the system does when the supervisor dies.
    #[cfg(test)]
    pub(super) fn let_go(&mut self) {
        self.process.stdin = None;
    }

    /// What the process said last, for a process that has ended.
    pub(super) fn last_words(&self) -> String {
        let _ = self.end_of_output.recv_timeout(LAST_WORDS_TIME_MAX);
        sentence(&self.last_line.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a process that was asked to stop did so. One that SIGTERM itself ended had not come so far as to listen for it, and had
/// nothing to drain.
pub(super) fn stopped_well(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(Signal::TERM.as_raw())
}

/// How a process ended, in words.
pub(super) fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Settings that the supervisor makes for each node; the environment must not give all nodes the same.
fn is_ours_to_say(variable: &str) -> bool {
    let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { return false };
    const OURS: [&str; 12] = [
        "data_dir",
        "wal_dir",
        "log_dir",
        "node_id",
        "ip",
        "raft_port",
        "raft_address",
        "listen_address",
        "http_port",
        "http_listen",
        "initial_members",
        "join",
    ];
    let name = name.to_ascii_lowercase();
    let setting = name.split_once("__").map_or(name.as_str(), |(table, _)| table);
    Key::find(setting).is_some_and(|key| OURS.contains(&key.name))
}

/// Keeps the last line. The output must be read even if nobody wants it, or the node would wait for a full pipe.
fn listen(output: impl Read, last_line: &Mutex<String>, _ended: Sender<()>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match output.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                if !text.is_empty() {
                    *last_line.lock().unwrap_or_else(PoisonError::into_inner) = text;
                }
            }
        }
    }
}

/// The message of a log line, whether it is JSON or text.
fn sentence(line: &str) -> String {
    let message = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        event.get("message")?.as_str().map(str::to_owned)
    };
    message(line).unwrap_or_else(|| line.strip_prefix("mraft: ").unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_told_as_a_sentence() {
        assert_eq!(sentence("mraft: port 1 is in use"), "port 1 is in use");
        assert_eq!(sentence(r#"{"level":"ERROR","message":"the disk is gone"}"#), "the disk is gone");
        assert_eq!(sentence("{broken"), "{broken");
    }

    #[test]
    fn only_a_nodes_own_settings_are_kept_from_it() {
        assert!(is_ours_to_say("MRAFT_RAFT_PORT") && is_ours_to_say("MRAFT_INITIAL_MEMBERS__0__7"));
        assert!(is_ours_to_say("MRAFT_RAFT_DIR"), "another name of data_dir");
        assert!(!is_ours_to_say("MRAFT_LOG_LEVEL") && !is_ours_to_say("PATH"));
    }
}
