// SPDX-License-Identifier: Apache-2.0

//! One node: its addresses, its directory, and its process while it has one.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use mraft_frail::{Disk, Mounted};
use mraft_types::NodeId;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Manner;
use crate::failure::{Failure, Result};
use crate::ground::{Addresses, Ground};
use crate::proxy::Proxy;

/// How much of a node's last words is shown.
const LAST_WORDS_BYTES_MAX: i64 = 4 << 10;
/// In its home.
const DATA: &str = "data";

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Who it is.
    pub id: NodeId,
    /// Where its peers reach it.
    pub raft: SocketAddrV4,
    /// Where it listens for them: there, or behind its proxy.
    pub listens: SocketAddrV4,
    /// Between its peers and it, if something is.
    pub proxy: Option<Proxy>,
    /// What it stands on, if that can be hurt.
    pub disk: Option<Mounted>,
    /// Where its clients reach it.
    pub http: SocketAddrV4,
    /// Lines of its configuration beside those that every node has, each with its end.
    pub settings: String,
    /// The control group that it is started in, if any: see [`crate::control_group::ControlGroup::door`].
    pub control_group: Option<PathBuf>,
    home: PathBuf,
    ground: Ground,
    descriptors_max: Option<u64>,
    data_bytes_max: Option<u64>,
    place: usize,
    /// Keep its ports from everybody else until it is started for the first time.
    reserved: Vec<TcpListener>,
    process: Option<Child>,
    is_paused: bool,
}

impl Node {
    /// A node that was never started, living in `home`, with addresses of its own at this place.
    pub fn new(manner: &Manner, place: usize, home: PathBuf) -> Result<Node> {
        let ground = manner.ground.clone();
        let Addresses { raft: listens, http, reserved } = ground.addresses(place)?;
        let proxy = manner.has_proxies.then(|| Proxy::before(&ground, place, listens)).transpose()?;
        let raft = proxy.as_ref().map_or(listens, |proxy| proxy.at);
        let id = NodeId::from_address(raft).ok_or_else(|| Failure::new(format_args!("{raft} is no node")))?;
        fs::create_dir_all(&home)?;
        let disk = manner.has_disks.then(|| -> Result<Mounted> {
            let at = home.join(DATA);
            fs::create_dir(&at)?;
            Ok(mraft_frail::mount(&Disk::new(), &at)?)
        });
        let disk = disk.transpose()?;
        Ok(Node {
            id,
            raft,
            listens,
            proxy,
            disk,
            http,
            settings: String::new(),
            control_group: None,
            home,
            ground,
            descriptors_max: manner.descriptors_max,
            data_bytes_max: manner.data_bytes_max,
            place,
            reserved,
            process: None,
            is_paused: false,
        })
    }

    /// Where everything of it is.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where it keeps what it must not lose.
    pub fn data(&self) -> PathBuf {
        self.home.join(DATA)
    }

    /// Where clients reach it, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Whether it has a process.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Lets go of its ports, so that it can listen there.
    pub(crate) fn release_addresses(&mut self) {
        self.reserved.clear();
    }

    /// Writes its configuration and starts it.
    pub fn start(&mut self, binary: &Path, configuration: &str) -> Result<()> {
        if self.process.is_some() {
            return Err(Failure::new(format_args!("node {} is running already", self.id)));
        }
        let file = self.home.join("node.toml");
        fs::write(&file, configuration)?;
        let words = File::options().create(true).append(true).open(self.words())?;
        let limits = [
            self.descriptors_max.map(|most| format!("ulimit -n {most}")),
            self.data_bytes_max.map(|most| format!("ulimit -d {}", most >> 10)),
            self.control_group.as_ref().map(|door| format!("echo $$ > '{}'", door.display())),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        let mut command = match limits.is_empty() {
            true => Command::new(binary),
            // Limits that are there from the beginning; the process's id stays the same.
            false => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{} && exec \"$0\" \"$@\"", limits.join(" && "))]).arg(binary);
                shell
            }
        };
        // It stops by itself when our end of its standard input closes, also if we are killed.
        command.arg("node").arg("--config").arg(file).arg("--exit-with-stdin");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::from(words));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("MRAFT_")) {
                command.env_remove(name);
            }
        }
        self.release_addresses();
        let started = self.ground.spawn(self.place, &mut command);
        self.process = Some(started.map_err(|failure| failure.while_doing(binary.display()))?);
        self.is_paused = false;
        Ok(())
    }

    /// The process's id, while it has one.
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().and_then(|process| Pid::from_raw(i32::try_from(process.id()).ok()?))
    }

    /// Whether it was paused and did not go on.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// SIGSTOP: it does nothing until it goes on; its connections stand, and what is sent to it waits in the system.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        self.is_paused = true;
        Ok(())
    }

    /// SIGCONT.
    pub fn go_on(&mut self) -> Result<()> {
        self.signal(Signal::CONT)?;
        self.is_paused = false;
        Ok(())
    }

    /// SIGKILL, and waits until it is dead.
    pub fn kill(&mut self) -> Result<()> {
        self.strike()?;
        self.bury()
    }

    /// SIGKILL. It is dead when it was buried: what its disk keeps waiting has to be let go first.
    pub fn strike(&mut self) -> Result<()> {
        self.must_be_well()?;
        let Some(process) = &mut self.process else {
            return Err(Failure::new(format_args!("node {} has no process to kill", self.id)));
        };
        Ok(process.kill()?)
    }

    /// Waits until a node that was struck is dead.
    pub fn bury(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.wait()?;
        }
        self.is_paused = false;
        Ok(())
    }

    /// Asks it to drain and stop, and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        if self.is_paused {
            self.go_on()?;
        }
        let Some(mut process) = self.process.take() else { return Ok(()) };
        drop(process.stdin.take());
        let status = process.wait()?;
        if status.success() { Ok(()) } else { Err(self.ended_by_itself(status)) }
    }

    /// Only to a process that was not buried, so that its id is nobody else's.
    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.must_be_well()?;
        let pid = self.pid().ok_or_else(|| Failure::new(format_args!("node {} has no process", self.id)))?;
        kill_process(pid, signal).map_err(|error| Failure::new(format_args!("node {}: {error}", self.id)))
    }

    /// An error if its process ended although nobody killed it.
    pub fn must_be_well(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        match process.try_wait()? {
            None => Ok(()),
            Some(status) => {
                self.process = None;
                Err(self.ended_by_itself(status))
            }
        }
    }

    /// What it wrote to its standard error over all its lives.
    pub fn said(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.words())?).into_owned())
    }

    /// The end of that.
    pub fn last_words(&self) -> String {
        let read = || {
            let mut file = File::open(self.words())?;
            let length = i64::try_from(file.metadata()?.len()).unwrap_or(i64::MAX);
            file.seek(SeekFrom::End(-length.min(LAST_WORDS_BYTES_MAX)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(its words cannot be read: {error})"))
    }

    fn words(&self) -> PathBuf {
        self.home.join("stderr")
    }

    fn ended_by_itself(&self, status: ExitStatus) -> Failure {
        Failure::new(format_args!(
            "node {} ended with {status}; it said last:\n{}",
            self.id,
            self.last_words()
        ))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            // Whoever is to die may be waiting for it.
            disk.disk().mend_all();
        }
        if let Some(mut process) = self.process.take() {
            // Nothing is left behind, whatever happened to the scenario.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
