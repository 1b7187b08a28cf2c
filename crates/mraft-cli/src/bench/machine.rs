// SPDX-License-Identifier: Apache-2.0

//! What the machine itself can do, measured in the same run as everything that is compared with it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use mraft_disk::{Disk, Open, RealDisk};
use serde::Serialize;

const FILE_BYTES: u64 = 16 << 20;
const SYNCS: u64 = 40;
const ROUND_TRIPS: usize = 2_000;

/// How long the pauses are looked for before a run.
const PAUSES_WATCHED: Duration = Duration::from_secs(1);
/// Threads that look for them: more than one, so that they see processors that others use.
const PAUSE_WATCHERS: usize = 2;
/// A thread that only looks at the clock and misses so much was held up by something else.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// What the machine itself can do and how much of it was there: medians in microseconds, unless a field says otherwise.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Machine {
    /// fdatasync after overwriting 4 KiB.
    pub(crate) fdatasync_4k_us: f64,
    /// fdatasync after overwriting 1 MiB.
    pub(crate) fdatasync_1m_us: f64,
    /// 64 bytes over loopback TCP and back.
    pub(crate) loopback_round_trip_us: f64,
    /// Longest time that one of two busy threads, which only looked at the clock for a second before the run, was held up.
    pub(crate) pause_max_us: f64,
    /// Which share of that second they were held up for more than 1 ms at a time, from 0 to 1. On a machine of one's own it is close to
    /// 0; figures of a run with much more say more of the machine's other users than of what was measured.
    pub(crate) pause_share: f64,
    /// Share of the processors' time that the hypervisor gave to others during the run, in percent; absent where the system does not
    /// count it (`/proc/stat`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steal_percent: Option<f64>,
}

/// The processors' time as the system counts it, at the beginning of a run.
pub(crate) struct Stolen(Option<(u64, u64)>);

impl Stolen {
    /// From here on.
    pub(crate) fn begin() -> Stolen {
        Stolen(processor_time())
    }

    /// Up to here.
    pub(crate) fn percent(&self) -> Option<f64> {
        let ((stolen_before, all_before), (stolen, all)) = (self.0?, processor_time()?);
        let all = all.checked_sub(all_before).filter(|all| *all > 0)?;
        Some(stolen.saturating_sub(stolen_before) as f64 * 100.0 / all as f64)
    }
}

/// A client of a benchmark that does not get to run for so long asks whether its processor was taken away.
const HOLDUP_MIN_US: u64 = 3_000;

/// When the hypervisor took the processors away, as one busy thread of a run saw it: the thread missed [`HOLDUP_MIN_US`] or more, and the
/// system counted stolen time meanwhile. Waiting for a lock, a disk or another thread of this system is not that.
pub(crate) struct Holdups {
    looked_us: u64,
    stolen: Option<u64>,
    ended_us: Option<u64>,
}

impl Holdups {
    /// From here on.
    pub(crate) fn begin(now_us: u64) -> Holdups {
        Holdups { looked_us: now_us, stolen: stolen_time(), ended_us: None }
    }

    /// Looks whether one ended since the last look.
    pub(crate) fn look(&mut self, now_us: u64) {
        let missed_us = now_us - std::mem::replace(&mut self.looked_us, now_us);
        if missed_us < HOLDUP_MIN_US {
            return;
        }
        let stolen = stolen_time();
        if stolen > std::mem::replace(&mut self.stolen, stolen) {
            self.ended_us = Some(now_us);
        }
    }

    /// Whether something that began then and ends now ran into one.
    pub(crate) fn met(&self, began_us: u64) -> bool {
        self.ended_us.is_some_and(|ended_us| began_us < ended_us)
    }
}

fn stolen_time() -> Option<u64> {
    processor_time().map(|(stolen, _)| stolen)
}

fn processor_time() -> Option<(u64, u64)> {
    read_processor_time(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// Stolen and all time of the line `cpu  user nice system idle iowait irq softirq steal …`; what guests used is in user and nice.
fn read_processor_time(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times =
        line.split_whitespace().take(8).map(|time| time.parse().ok()).collect::<Option<Vec<u64>>>()?;
    Some((*times.get(7)?, times.iter().sum()))
}

/// How much busy threads were held up: the longest pause, and the share of all pauses.
fn pauses() -> (f64, f64) {
    let watch = || {
        let began = Instant::now();
        let (mut last, mut longest, mut paused) = (began, Duration::ZERO, Duration::ZERO);
        while last.duration_since(began) < PAUSES_WATCHED {
            let now = Instant::now();
            let pause = now.duration_since(last);
            longest = longest.max(pause);
            if pause >= PAUSE_MIN {
                paused += pause;
            }
            last = now;
        }
        (longest, paused.as_secs_f64() / last.duration_since(began).as_secs_f64())
    };
    std::thread::scope(|scope| {
        let watchers: Vec<_> = (0..PAUSE_WATCHERS).map(|_| scope.spawn(watch)).collect();
        let found: Vec<_> = watchers.into_iter().filter_map(|watcher| watcher.join().ok()).collect();
        let longest = found.iter().map(|(longest, _)| *longest).max().unwrap_or_default();
        let share = found.iter().map(|(_, share)| share).sum::<f64>() / found.len().max(1) as f64;
        (longest.as_secs_f64() * 1e6, share)
    })
}

/// Measures, with files in `directory`.
pub(crate) fn measure(directory: &Path) -> io::Result<Machine> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join("bench-disk");
    let file = RealDisk::new().open(&path, Open::Create)?;
    file.prefill(FILE_BYTES)?;
    file.sync_data()?;
    let measure = |bytes: usize| -> io::Result<f64> {
        let buffer = vec![7; bytes];
        let mut took = Vec::new();
        for at in 0..SYNCS {
            let offset = (at * bytes as u64) % FILE_BYTES;
            let began = Instant::now();
            file.write_all_at(&buffer, offset)?;
            file.sync_data()?;
            took.push(began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(median(took))
    };
    let (fdatasync_4k_us, fdatasync_1m_us) = (measure(4 << 10)?, measure(1 << 20)?);
    std::fs::remove_file(path)?;
    let loopback_round_trip_us = round_trip()?;
    let (pause_max_us, pause_share) = pauses();
    Ok(Machine {
        fdatasync_4k_us,
        fdatasync_1m_us,
        loopback_round_trip_us,
        pause_max_us,
        pause_share,
        steal_percent: None,
    })
}

fn round_trip() -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let (mut peer, _) = listener.accept()?;
        peer.set_nodelay(true)?;
        let mut buffer = [0; 64];
        for _ in 0..ROUND_TRIPS {
            peer.read_exact(&mut buffer)?;
            peer.write_all(&buffer)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut took = Vec::with_capacity(ROUND_TRIPS);
    let mut buffer = [1; 64];
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    echo.join().map_err(|_| io::Error::other("the echo thread panicked"))??;
    Ok(median(took))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_the_eighth_number_and_guests_do_not_count_twice() {
        let stat = "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(read_processor_time(stat), Some((80, 360)));
        for other in ["", "cpu 1 2 3\n", "cpu a b c d e f g h\n"] {
            assert_eq!(read_processor_time(other), None);
        }
    }
}
