// SPDX-License-Identifier: Apache-2.0

//! What the machine itself can do, measured in the same run as everything that is compared with it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use mraft_disk::{Disk, Open, RealDisk};
use serde::Serialize;

const FILE_BYTES: u64 = 16 << 20;
const SYNCS: u64 = 40;
const ROUND_TRIPS: usize = 2_000;

/// Medians, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Machine {
    /// fdatasync after overwriting 4 KiB.
    pub(crate) fdatasync_4k_us: f64,
    /// fdatasync after overwriting 1 MiB.
    pub(crate) fdatasync_1m_us: f64,
    /// 64 bytes over loopback TCP and back.
    pub(crate) loopback_round_trip_us: f64,
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
    Ok(Machine { fdatasync_4k_us, fdatasync_1m_us, loopback_round_trip_us: round_trip()? })
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
