// SPDX-License-Identifier: Apache-2.0

//! A [`Disk`] as a directory of this machine.
//!
//! Nothing is cached: neither bytes (every file is opened for direct I/O), nor names, nor attributes. So a process sees at once what was
//! done to the disk, and a power cut has no page cache to forget. In exchange a file cannot be mapped into memory.
//!
//! An operation that has to wait gets a thread of its own; those that hang keep nobody else waiting.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use crate::disk::{Disk, End, Kind, Passage, Target};
use crate::volume::{Attributes, Refusal, Result};

const DEVICE: &str = "/dev/fuse";
const MOUNTS: &str = "/proc/self/mounts";
/// What mounts of ours are called there.
const NAME: &str = "mraft-frail";
/// Nothing that was looked up stays true.
const NO_TIME: Duration = Duration::ZERO;
/// Threads that carry out what need not wait.
const THREADS: usize = 2;
/// What is told of free room, in blocks of 4 KiB: far more than anything here uses.
const FREE_BLOCKS: u64 = 1 << 28;
/// Cookies of `.` and `..` in a listing; those of everything else follow.
const DOTS: u64 = 2;

/// What is missing for mounting here, if anything.
pub fn why_not() -> Option<String> {
    if !is_root() {
        return Some("mounting a file system needs root".to_owned());
    }
    match std::fs::File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => None,
        Err(error) => Some(format!("{DEVICE}: {error}")),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A disk that is mounted. Dropping it mends everything, so that nobody waits for ever, and takes the mount away.
#[derive(Debug)]
pub struct Mounted {
    disk: Disk,
    at: PathBuf,
    session: Option<BackgroundSession>,
}

/// Mounts a disk on a directory that exists.
pub fn mount(disk: &Disk, at: &Path) -> io::Result<Mounted> {
    sweep();
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName(NAME.to_owned()), MountOption::NoAtime];
    config.n_threads = Some(THREADS);
    let session = fuser::spawn_mount(Front(disk.clone()), at, &config)?;
    Ok(Mounted { disk: disk.clone(), at: at.to_owned(), session: Some(session) })
}

/// Takes mounts of ours away whose process was killed before it could: nobody answers for them.
fn sweep() {
    let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    for mount in mounts.lines().filter_map(|line| line.strip_prefix(NAME)) {
        let at = mount.split_whitespace().next().unwrap_or_default();
        let is_dead = std::fs::metadata(at)
            .is_err_and(|error| error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()));
        if is_dead {
            // Somebody else may have been faster.
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Mounted {
    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.disk.mend_all();
        // A process that is about to die may still have a file open: then the kernel does the rest when it is dead.
        if rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::empty()).is_err() {
            let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        }
        drop(self.session.take());
    }
}

/// The file system as the kernel asks for it.
struct Front(Disk);

impl Front {
    /// Carries an operation out, here or where it may wait. `act` gets the disk, and what is to come of it.
    fn run(&self, kind: Kind, target: Target<'_>, act: impl FnOnce(&Disk, End) + Send + 'static) {
        match self.0.enter(kind, target) {
            Passage::Now(end) => act(&self.0, end),
            Passage::Later(fate) => {
                let disk = self.0.clone();
                // Without a thread the operation is dropped, which the kernel is told as EIO.
                let _ = thread::Builder::new().name("frail-waits".to_owned()).spawn(move || {
                    let end = disk.wait(&fate);
                    act(&disk, end);
                });
            }
        }
    }
}

fn named(parent: INodeNo, name: &OsStr) -> Target<'_> {
    Target::Name(parent.0, name)
}

fn allowed(end: End) -> Result<()> {
    match end {
        End::Done | End::Lie => Ok(()),
        End::Fails(refusal) => Err(refusal),
        End::Cut => Err(Refusal::Io),
    }
}

impl Filesystem for Front {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let owned = name.to_owned();
        self.run(Kind::Look, named(parent, name), move |disk, end| {
            entry(reply, allowed(end).and_then(|()| disk.look_up(parent.0, &owned)));
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.run(Kind::Look, Target::Inode(ino.0), move |disk, end| {
            attributes(reply, allowed(end).and_then(|()| disk.attributes(ino.0)));
        });
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let kind = if size.is_some() { Kind::Write } else { Kind::Look };
        self.run(kind, Target::Inode(ino.0), move |disk, end| {
            let done = allowed(end).and_then(|()| match size {
                Some(size) => disk.set_len(ino.0, size),
                None => Ok(()),
            });
            attributes(reply, done.and_then(|()| disk.attributes(ino.0)));
        });
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let owned = name.to_owned();
        self.run(Kind::Names, named(parent, name), move |disk, end| {
            entry(reply, allowed(end).and_then(|()| disk.make(parent.0, &owned, true)));
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let owned = name.to_owned();
        self.run(Kind::Names, named(parent, name), move |disk, end| {
            empty(reply, allowed(end).and_then(|()| disk.remove(parent.0, &owned, false)));
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let owned = name.to_owned();
        self.run(Kind::Names, named(parent, name), move |disk, end| {
            empty(reply, allowed(end).and_then(|()| disk.remove(parent.0, &owned, true)));
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (name.to_owned(), newname.to_owned());
        let target = Target::Rename(parent.0, name, newname);
        self.run(Kind::Names, target, move |disk, end| {
            if flags.contains(RenameFlags::RENAME_NOREPLACE) && disk.look_up(newparent.0, &to).is_ok() {
                return reply.error(Errno::EEXIST);
            }
            if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
                return reply.error(Errno::EINVAL);
            }
            empty(reply, allowed(end).and_then(|()| disk.rename(parent.0, &from, newparent.0, &to)));
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.run(Kind::Look, Target::Inode(ino.0), move |disk, end| {
            match allowed(end).and_then(|()| disk.open(ino.0)) {
                Ok(handle) => reply.opened(FileHandle(handle), FILE_FLAGS),
                Err(refusal) => reply.error(errno(refusal)),
            }
        });
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let owned = name.to_owned();
        self.run(Kind::Names, named(parent, name), move |disk, end| {
            let made = allowed(end).and_then(|()| {
                let made = disk.make(parent.0, &owned, false)?;
                Ok((made, disk.open(made.ino)?))
            });
            match made {
                Ok((made, handle)) => {
                    let attributes = file_attr(made);
                    reply.created(&NO_TIME, &attributes, Generation(0), FileHandle(handle), FILE_FLAGS);
                }
                Err(refusal) => reply.error(errno(refusal)),
            }
        });
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.close(fh.0);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.run(Kind::Read, Target::Handle(fh.0), move |disk, end| {
            match allowed(end).and_then(|()| disk.read_at(fh.0, offset, size as usize)) {
                Ok(bytes) => reply.data(&bytes),
                Err(refusal) => reply.error(errno(refusal)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let bytes = data.to_vec();
        self.run(Kind::Write, Target::Handle(fh.0), move |disk, end| {
            // What was on its way when the power failed may have arrived. It fails either way.
            match end {
                End::Fails(Refusal::Io) => _ = disk.write_at(fh.0, offset, &bytes[..bytes.len() / 2]),
                End::Cut => _ = disk.write_at(fh.0, offset, &bytes),
                End::Done | End::Lie | End::Fails(_) => {}
            }
            match allowed(end).and_then(|()| disk.write_at(fh.0, offset, &bytes)) {
                Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
                Err(refusal) => reply.error(errno(refusal)),
            }
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.run(Kind::Write, Target::Handle(fh.0), move |disk, end| {
            empty(reply, allowed(end).and_then(|()| disk.reserve(fh.0, offset.saturating_add(length))));
        });
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.run(Kind::Sync, Target::Inode(ino.0), move |disk, end| {
            empty(reply, synced(disk, ino.0, end));
        });
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.run(Kind::SyncNames, Target::Inode(ino.0), move |disk, end| {
            empty(reply, synced(disk, ino.0, end));
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.run(Kind::Look, Target::Inode(ino.0), move |disk, end| {
            let found = match allowed(end).and_then(|()| disk.list(ino.0)) {
                Ok(found) => found,
                Err(refusal) => return reply.error(errno(refusal)),
            };
            for (cookie, dots) in [(1, "."), (DOTS, "..")] {
                if cookie > offset && reply.add(ino, cookie, FileType::Directory, dots) {
                    return reply.ok();
                }
            }
            for (name, attributes) in found {
                // By number, and numbers only grow: what is removed meanwhile moves nothing.
                let cookie = attributes.ino + DOTS;
                let number = INodeNo(attributes.ino);
                if cookie > offset && reply.add(number, cookie, file_attr(attributes).kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = crate::PAGE_BYTES as u32;
        reply.statfs(FREE_BLOCKS, FREE_BLOCKS, FREE_BLOCKS, FREE_BLOCKS, FREE_BLOCKS, block, 255, block);
    }
}

const FILE_FLAGS: FopenFlags = FopenFlags::FOPEN_DIRECT_IO
    .union(FopenFlags::FOPEN_NOFLUSH)
    .union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

fn synced(disk: &Disk, ino: u64, end: End) -> Result<()> {
    match end {
        End::Done => disk.sync(ino),
        End::Lie => Ok(()),
        // Nothing was given up, nothing became durable.
        End::Cut => Err(Refusal::Io),
        End::Fails(refusal) => {
            disk.fail_sync(ino);
            Err(refusal)
        }
    }
}

fn entry(reply: ReplyEntry, found: Result<Attributes>) {
    match found {
        Ok(found) => reply.entry(&NO_TIME, &file_attr(found), Generation(0)),
        Err(refusal) => reply.error(errno(refusal)),
    }
}

fn attributes(reply: ReplyAttr, found: Result<Attributes>) {
    match found {
        Ok(found) => reply.attr(&NO_TIME, &file_attr(found)),
        Err(refusal) => reply.error(errno(refusal)),
    }
}

fn empty(reply: ReplyEmpty, done: Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(refusal) => reply.error(errno(refusal)),
    }
}

fn file_attr(attributes: Attributes) -> FileAttr {
    let (kind, perm, nlink) = match attributes.is_directory {
        true => (FileType::Directory, 0o700, 2),
        false => (FileType::RegularFile, 0o600, 1),
    };
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.len,
        blocks: attributes.len.div_ceil(crate::SECTOR_BYTES as u64),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: crate::PAGE_BYTES as u32,
        flags: 0,
    }
}

fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::NotFound => Errno::ENOENT,
        Refusal::Exists => Errno::EEXIST,
        Refusal::NotADirectory => Errno::ENOTDIR,
        Refusal::IsADirectory => Errno::EISDIR,
        Refusal::NotEmpty => Errno::ENOTEMPTY,
        Refusal::OtherDirectory => Errno::EXDEV,
        Refusal::Io => Errno::EIO,
        Refusal::Full => Errno::ENOSPC,
    }
}
