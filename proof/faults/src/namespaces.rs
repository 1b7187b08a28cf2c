// SPDX-License-Identifier: Apache-2.0

//! A network of the run's own (Linux, as root): every node in a network namespace, all of them on one bridge, which has a namespace
//! too. Nothing outside is touched. Clients live where the bridge is, and reach every node.
//!
//! A cut from A to B is a rule in B's namespace: what comes from A is thrown away, whether anybody waits for it or not, and nobody is
//! told. So it has a direction, it needs no packet filter, and a connection that stands goes silent as it would with a broken cable.
//! Neighbours are known for good, so that only packets of IP are lost and no question of ARP tells anybody of it.
//!
//! Bandwidth is limited by the kernel's token bucket (`tbf`) on a node's interface, both ways.
//!
//! Missing on purpose: delay, loss and reorder, for which kernels need `netem`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::failure::{Failure, Result};
use crate::partition::Cuts;

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// What all names begin with; the process's id follows.
const PREFIX: &str = "mraft-faults-";
/// More places would need more than one byte of an address.
const PLACES_MAX: usize = 64;
/// Rules of cuts come before all others; the one for local addresses, the first by nature, moves behind them.
const CUT_PREFERENCE: u32 = 10;
const LOCAL_PREFERENCE: u32 = 100;

/// The namespaces. They are gone when this is dropped; those of a process that was killed are swept by the next one.
#[derive(Debug)]
pub struct Network {
    name: String,
    places: usize,
}

impl Network {
    /// A network for so many nodes.
    pub fn new(places: usize) -> Result<Network> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        sweep();
        if places > PLACES_MAX {
            return Err(Failure::new(format_args!("a network has room for {PLACES_MAX} nodes")));
        }
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let network = Network { name: format!("{PREFIX}{}-{number}", std::process::id()), places };
        // From here on dropping it cleans up, however far it came.
        network.build().map_err(|failure| failure.while_doing("network namespaces cannot be made"))?;
        Ok(network)
    }

    /// Where a node is reached.
    pub fn ip(&self, place: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 1 + u8::try_from(place).unwrap_or(u8::MAX - 1))
    }

    /// How many nodes it has room for.
    pub fn places(&self) -> usize {
        self.places
    }

    /// The place of a node by its address.
    pub fn place_of(&self, ip: Ipv4Addr) -> Option<usize> {
        (0..self.places).find(|place| self.ip(*place) == ip)
    }

    /// Moves this thread to where the clients are: sockets that it makes are of that namespace, processes that it starts live there.
    pub fn enter_as_client(&self) -> Result<()> {
        enter(&self.path(&self.hub()))
    }

    /// Does something in a node's namespace. A socket that is made there stays there, whoever uses it.
    pub fn within<T: Send>(&self, place: usize, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path(&self.at(place));
        let acted = std::thread::scope(|scope| scope.spawn(|| enter(&path).and_then(|()| act())).join());
        acted.unwrap_or_else(|_| Err(Failure::new("a panic in a namespace")))
    }

    /// From now on these cuts hold and no others.
    pub fn cut(&self, cuts: &Cuts) -> Result<()> {
        for to in 0..self.places {
            let mut rules = String::new();
            for from in (0..self.places).filter(|from| *from != to) {
                let is_cut = self.is_cut(from, to)?;
                let word = match (is_cut, cuts.has(from, to)) {
                    (false, true) => "add",
                    (true, false) => "del",
                    _ => continue,
                };
                rules.push_str(&format!(
                    "rule {word} from {} blackhole pref {CUT_PREFERENCE}\n",
                    self.ip(from)
                ));
            }
            ip(&self.at(to), &rules)?;
        }
        Ok(())
    }

    /// Everybody reaches everybody.
    pub fn heal(&self) -> Result<()> {
        self.cut(&Cuts::default())
    }

    /// Lets so many bits a second into a node and as many out of it; `None`: as many as there are. Fails where the kernel cannot.
    pub fn limit(&self, place: usize, bits_per_second: Option<u64>) -> Result<()> {
        for (namespace, device) in [(self.at(place), "eth0".to_owned()), (self.hub(), port(place))] {
            let mut words = vec!["-n", &namespace, "qdisc"];
            let rate = bits_per_second.map(|rate| format!("{rate}bit"));
            match &rate {
                // A bucket for 64 KiB, so that a burst is a moment even at 1 Mbit/s; a packet waits a second at most.
                Some(rate) => words.extend([
                    "replace", "dev", &device, "root", "tbf", "rate", rate, "burst", "64kb", "latency", "1s",
                ]),
                None => words.extend(["delete", "dev", &device, "root"]),
            }
            run("tc", &words, "")?;
        }
        Ok(())
    }

    fn build(&self) -> Result<()> {
        let hub = self.hub();
        run("ip", &["netns", "add", &hub], "")?;
        ip(
            &hub,
            "link set lo up\nlink add hub type bridge\nlink set hub address 02:00:00:00:00:fe\n\
             address add 10.77.0.254/24 dev hub\nlink set hub up\n",
        )?;
        for place in 0..self.places {
            let namespace = self.at(place);
            run("ip", &["netns", "add", &namespace], "")?;
            let port = port(place);
            ip(
                &hub,
                &format!(
                    "link add {port} type veth peer name eth0 netns {namespace}\nlink set {port} master hub\nlink set {port} up\n\
                     neigh replace {} lladdr {} dev hub nud permanent\n",
                    self.ip(place),
                    hardware(place)
                ),
            )?;
            let mut there = format!(
                "link set lo up\nlink set eth0 address {}\naddress add {}/24 dev eth0\nlink set eth0 up\n\
                 neigh replace 10.77.0.254 lladdr 02:00:00:00:00:fe dev eth0 nud permanent\n\
                 rule add lookup local pref {LOCAL_PREFERENCE}\nrule del lookup local pref 0\n",
                hardware(place),
                self.ip(place)
            );
            for other in (0..self.places).filter(|other| *other != place) {
                there.push_str(&format!(
                    "neigh replace {} lladdr {} dev eth0 nud permanent\n",
                    self.ip(other),
                    hardware(other)
                ));
            }
            ip(&namespace, &there)?;
        }
        Ok(())
    }

    /// Asked of the kernel, so that nothing here can believe something else.
    fn is_cut(&self, from: usize, to: usize) -> Result<bool> {
        let rules =
            run("ip", &["-n", &self.at(to), "rule", "list", "pref", &CUT_PREFERENCE.to_string()], "")?;
        let source = self.ip(from).to_string();
        Ok(rules.lines().any(|line| line.split_whitespace().any(|word| word == source)))
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn at(&self, place: usize) -> String {
        format!("{}-{place}", self.name)
    }

    fn path(&self, namespace: &str) -> PathBuf {
        Path::new(NAMES).join(namespace)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in (0..self.places).map(|place| self.at(place)).chain([self.hub()]) {
            // One that was never made cannot be deleted; there is nobody to tell of another reason.
            let _ = run("ip", &["netns", "delete", &namespace], "");
        }
    }
}

/// Runs a scenario to its end on threads that are clients of this network, and on none of the caller's.
pub fn run_as_client(
    network: &Arc<Network>,
    scenario: impl AsyncFnOnce() -> Result<()> + Send,
) -> Result<()> {
    let on_threads = Arc::clone(network);
    let ended = std::thread::scope(|scope| {
        let main = scope.spawn(|| {
            network.enter_as_client()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .on_thread_start(move || {
                    if let Err(failure) = on_threads.enter_as_client() {
                        // Its sockets would be of the wrong namespace: nothing that the scenario says would be true.
                        panic!("{failure}");
                    }
                })
                .build()?;
            runtime.block_on(scenario())
        });
        main.join()
    });
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Deletes namespaces of processes that are no more.
fn sweep() {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another run may have swept it meanwhile.
            let _ = run("ip", &[OsStr::new("netns"), OsStr::new("delete"), &name], "");
        }
    }
}

fn enter(path: &Path) -> Result<()> {
    let namespace = File::open(path)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| Failure::new(format_args!("{}: {error}", path.display())))
}

fn port(place: usize) -> String {
    format!("port{place}")
}

fn hardware(place: usize) -> String {
    format!("02:00:00:00:00:{:02x}", place + 1)
}

/// Runs lines of `ip` in a namespace.
fn ip(namespace: &str, lines: &str) -> Result<()> {
    match lines.is_empty() {
        true => Ok(()),
        false => run("ip", &["-n", namespace, "-batch", "-"], lines).map(drop),
    }
}

fn run<T: AsRef<OsStr>>(program: &str, words: &[T], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("{command:?}");
    let failed = |error: std::io::Error| Failure::new(format_args!("{shown}: {error}"));
    let mut process = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = process.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = process.wait_with_output().map_err(failed)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Failure::new(format_args!("{shown} ended with {}: {}", output.status, said.trim())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::skips::skipped;

    const PORT: u16 = 7000;

    fn network() -> Option<Network> {
        Network::new(2)
            .inspect_err(|why| skipped(format_args!("no test of partitions in namespaces: {why}")))
            .ok()
    }

    fn socket(network: &Network, place: usize) -> UdpSocket {
        let ip = network.ip(place);
        network.within(place, || Ok(UdpSocket::bind((ip, PORT))?)).expect("a socket")
    }

    #[test]
    fn a_cut_loses_packets_in_its_direction_and_in_no_other() {
        let Some(network) = network() else { return };
        let sockets = [socket(&network, 0), socket(&network, 1)];
        let send = |from: usize, what: u8| {
            sockets[from].send_to(&[what], (network.ip(1 - from), PORT)).expect("it leaves without an error");
        };
        let next = |at: usize| {
            let mut byte = [0];
            sockets[at].recv(&mut byte).expect("something comes");
            byte[0]
        };
        send(0, 1);
        send(1, 2);
        assert_eq!((next(1), next(0)), (1, 2));
        network.cut(&Cuts::mute(2, 0)).expect("cut");
        send(0, 3);
        send(1, 4);
        assert_eq!(next(0), 4, "the other direction is whole");
        network.heal().expect("healed");
        send(0, 5);
        assert_eq!(next(1), 5, "what was sent before was lost, not kept");
    }

    #[test]
    fn nothing_is_left_behind_by_a_panic_or_a_dead_process() {
        let Some(network) = network() else { return };
        let name = network.at(0);
        let path = network.path(&name);
        assert!(path.exists());
        let panicked = std::panic::catch_unwind(move || {
            let _held = network;
            std::panic::resume_unwind(Box::new("on purpose"))
        });
        assert!(panicked.is_err() && !path.exists(), "it is there: {}", path.display());

        // No process has an id beyond the largest that the kernel gives.
        let orphan = format!("{PREFIX}4194999-0-hub");
        run("ip", &["netns", "add", &orphan], "").expect("made");
        sweep();
        assert!(!Path::new(NAMES).join(&orphan).exists());
    }
}
