// SPDX-License-Identifier: Apache-2.0

//! A real ext4 in an image file on a loop device: what gets full is the file system itself, with its own ideas of what still fits.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::mount::{UnmountFlags, unmount};

/// Where the kernel hands out loop devices.
const LOOP_CONTROL: &str = "/dev/loop-control";
/// Takes the room; beside whatever else is in the image.
const BALLAST: &str = "ballast";
/// Room is taken in pieces that become smaller, down to one block.
const PIECES_BYTES: [u64; 6] = [16 << 20, 1 << 20, 64 << 10, 16 << 10, 4 << 10, 1 << 10];

/// A mounted image. Dropping it takes the mount and the image away.
#[derive(Debug)]
pub struct Image {
    file: PathBuf,
    at: PathBuf,
    ballast_bytes: u64,
}

/// What is missing for this here, if anything.
pub fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting an image needs root".to_owned());
    }
    if let Err(error) = File::options().read(true).write(true).open(LOOP_CONTROL) {
        return Some(format!("{LOOP_CONTROL}: {error}"));
    }
    ["mkfs.ext4", "mount", "losetup"].into_iter().find_map(|program| {
        let run = Command::new(program)
            .arg("-V")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        run.err().map(|error| format!("{program}: {error}"))
    })
}

impl Image {
    /// Makes an image of this size and mounts it on a directory that exists.
    pub fn mount(file: &Path, at: &Path, bytes: u64) -> io::Result<Image> {
        File::create(file)?.set_len(bytes)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(file))?;
        // The device goes away with the mount.
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(file).arg(at))?;
        Ok(Image { file: file.to_owned(), at: at.to_owned(), ballast_bytes: 0 })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let status = statvfs(&self.at)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// Takes all room but about so many bytes.
    pub fn fill(&mut self, leave_bytes: u64) -> io::Result<()> {
        let ballast = File::options().create(true).append(true).open(self.at.join(BALLAST))?;
        for piece in PIECES_BYTES {
            while self.free_bytes()?.saturating_sub(leave_bytes) >= piece {
                match fallocate(&ballast, FallocateFlags::empty(), self.ballast_bytes, piece) {
                    Ok(()) => self.ballast_bytes += piece,
                    // The rest is the file system's own, or fits in smaller pieces only.
                    Err(rustix::io::Errno::NOSPC) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub fn make_room(&mut self) -> io::Result<()> {
        self.ballast_bytes = 0;
        fs::remove_file(self.at.join(BALLAST))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // A process that is about to die may still have a file open: then the kernel does the rest when it is dead.
        if unmount(&self.at, UnmountFlags::empty()).is_err() {
            let _ = unmount(&self.at, UnmountFlags::DETACH);
        }
        // The kernel keeps its bytes for as long as it needs them.
        let _ = fs::remove_file(&self.file);
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{:?} ended with {}: {}",
        command.get_program(),
        output.status,
        said.trim()
    )))
}
