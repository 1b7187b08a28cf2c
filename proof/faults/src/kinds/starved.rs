// SPDX-License-Identifier: Apache-2.0

//! A node that hardly gets any CPU: by a control group, or with busy neighbours on the one CPU that it is bound to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::cluster::Cluster;
use crate::control_group::ControlGroup;
use crate::failure::{Failure, Result};
use crate::fault::{Fault, Scene};

/// Of one CPU: a node under load uses many times as much.
const CPU_THOUSANDTHS: u64 = 20;
/// Busy threads beside a node, which has the least weight against them.
const NEIGHBOURS: usize = 4;

/// The node that leads most groups is starved.
#[derive(Debug)]
pub struct Starved {
    by: By,
    means: Option<Means>,
    hit: Vec<usize>,
}

/// By what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The kernel gives it a small part of one CPU.
    ControlGroup,
    /// Others want the same CPU, and want it more.
    Neighbours,
}

impl Starved {
    /// By this.
    pub fn new(by: By) -> Starved {
        Starved { by, means: None, hit: Vec::new() }
    }

    /// Whether control groups of CPUs can be made here; why not.
    pub fn is_possible(by: By) -> Result<()> {
        match by {
            By::ControlGroup => ControlGroup::of_cpu(CPU_THOUSANDTHS).map(drop),
            By::Neighbours => Ok(()),
        }
    }
}

#[derive(Debug)]
enum Means {
    Group(ControlGroup),
    Neighbours(Neighbours),
}

#[derive(Debug)]
struct Neighbours {
    process: Pid,
    cpus_before: CpuSet,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Fault for Starved {
    fn name(&self) -> &'static str {
        match self.by {
            By::ControlGroup => "leader with 2 % of a CPU",
            By::Neighbours => "leader with busy neighbours",
        }
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.hit = scene.by_groups_led[..1].to_vec();
        let process = scene.cluster.nodes[self.hit[0]].pid();
        let process = process.ok_or_else(|| Failure::new("the node has no process"))?;
        self.means = Some(match self.by {
            By::ControlGroup => {
                let group = ControlGroup::of_cpu(CPU_THOUSANDTHS)?;
                group.take(process)?;
                Means::Group(group)
            }
            By::Neighbours => Means::Neighbours(Neighbours::beside(process)?),
        });
        Ok(())
    }

    fn has_hit(&self, _: &Cluster) -> Result<()> {
        match &self.means {
            Some(Means::Group(group)) if group.throttled()? == 0 => {
                Err(Failure::new("the node had all the time that it wanted"))
            }
            _ => Ok(()),
        }
    }

    fn lift(&mut self, _: &mut Scene<'_>) -> Result<()> {
        match self.means.take() {
            Some(Means::Neighbours(neighbours)) => neighbours.leave(),
            // Dropping the group frees its processes.
            Some(Means::Group(_)) | None => Ok(()),
        }
    }

    fn deceived(&self) -> &[usize] {
        &self.hit
    }
}

impl Neighbours {
    fn beside(process: Pid) -> Result<Neighbours> {
        let cpus_before = sched_getaffinity(Some(process)).map_err(Failure::new)?;
        let cpu = (0..CpuSet::MAX_CPU).find(|cpu| cpus_before.is_set(*cpu)).unwrap_or(0);
        let mut one = CpuSet::new();
        one.set(cpu);
        for_each_thread(process, |thread| {
            sched_setaffinity(Some(thread), &one)?;
            setpriority_process(Some(thread), 19)
        })?;
        let is_over = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                // Where it cannot be bound it is busy somewhere else, and the node has its least weight still.
                let _ = sched_setaffinity(None, &one);
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..NEIGHBOURS).map(spin).collect();
        Ok(Neighbours { process, cpus_before, is_over, threads })
    }

    fn leave(self) -> Result<()> {
        for_each_thread(self.process, |thread| {
            sched_setaffinity(Some(thread), &self.cpus_before)?;
            // Weight is given back by whoever may; the CPUs are enough.
            let _ = setpriority_process(Some(thread), 0);
            Ok(())
        })
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

fn for_each_thread(process: Pid, act: impl Fn(Pid) -> rustix::io::Result<()>) -> Result<()> {
    for entry in std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero()))? {
        let thread = entry?.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        match thread.map(&act) {
            // It ended meanwhile.
            None | Some(Ok(())) | Some(Err(rustix::io::Errno::SRCH)) => {}
            Some(Err(error)) => return Err(Failure::new(error)),
        }
    }
    Ok(())
}
