// SPDX-License-Identifier: Apache-2.0

//! What a process sees of these file systems, through real system calls.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use mraft_frail::{
    Disk, Flip, Image, Kind, Mounted, TRANSFERS, Times, Trouble, image_why_not, mount, why_not,
};
use tempfile::TempDir;

use super::skipped;

/// A mounted disk with its directory, which goes last.
fn mounted() -> Option<(Mounted, TempDir)> {
    if let Some(why) = why_not() {
        skipped(&format!("no file system can be mounted here: {why}"));
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    Some((mount(&Disk::new(), directory.path()).expect("mounted"), directory))
}

/// Takes the power away with nobody around, and gives it back.
fn power_cut(disk: &Disk, seed: u64) {
    disk.cut_power();
    disk.let_go();
    disk.restore_power(seed);
}

fn sync_directory(path: &Path) {
    File::open(path).expect("there").sync_all().expect("no fault");
}

/// What a file is after each of many power cuts, each from the same beginning.
fn outcomes(mounted: &Mounted, file: &str, begin: impl Fn(&Path)) -> BTreeSet<Option<Vec<u8>>> {
    (0..40)
        .map(|seed| {
            for entry in fs::read_dir(mounted.path()).expect("there") {
                fs::remove_file(entry.expect("there").path()).expect("there");
            }
            sync_directory(mounted.path());
            begin(mounted.path());
            power_cut(mounted.disk(), seed);
            fs::read(mounted.path().join(file)).ok()
        })
        .collect()
}

#[test]
fn what_was_not_synced_may_be_lost_and_what_was_is_not() {
    let Some((mounted, _directory)) = mounted() else { return };
    let unsynced = outcomes(&mounted, "f", |at| fs::write(at.join("f"), b"bytes").expect("room"));
    assert!(unsynced.contains(&None) && unsynced.contains(&Some(b"bytes".to_vec())), "{unsynced:?}");
    let without_name = outcomes(&mounted, "f", |at| {
        let mut file = File::create(at.join("f")).expect("room");
        file.write_all(b"bytes").expect("room");
        file.sync_all().expect("no fault");
    });
    assert_eq!(without_name, [None, Some(b"bytes".to_vec())].into());
    let synced = outcomes(&mounted, "f", |at| {
        let mut file = File::create(at.join("f")).expect("room");
        file.write_all(b"bytes").expect("room");
        file.sync_data().expect("no fault");
        sync_directory(at);
    });
    assert_eq!(synced, [Some(b"bytes".to_vec())].into());
}

#[test]
fn a_rename_is_durable_when_its_directory_is() {
    let Some((mounted, _directory)) = mounted() else { return };
    let replace = |at: &Path, is_synced: bool| {
        for (name, bytes) in [("f", b"old"), ("f.new", b"new")] {
            let mut file = File::create(at.join(name)).expect("room");
            file.write_all(bytes).expect("room");
            file.sync_data().expect("no fault");
        }
        sync_directory(at);
        fs::rename(at.join("f.new"), at.join("f")).expect("there");
        if is_synced {
            sync_directory(at);
        }
    };
    let (old, new) = (Some(b"old".to_vec()), Some(b"new".to_vec()));
    assert_eq!(outcomes(&mounted, "f", |at| replace(at, false)), [old, new.clone()].into());
    assert_eq!(outcomes(&mounted, "f", |at| replace(at, true)), [new].into());
}

#[test]
fn a_write_is_torn_at_sectors_also_past_the_page_cache() {
    let Some((mounted, _directory)) = mounted() else { return };
    const O_DIRECT: i32 = 0o40000;
    let found = outcomes(&mounted, "f", |at| {
        let path = at.join("f");
        let file = File::create_new(&path).expect("room");
        file.write_all_at(&[1; 8192], 0).expect("room");
        file.sync_data().expect("no fault");
        sync_directory(at);
        let direct = File::options().write(true).custom_flags(O_DIRECT).open(&path).expect("direct");
        let memory = vec![2; 3 * 4096];
        let begin = memory.as_ptr().align_offset(4096);
        direct.write_all_at(&memory[begin..begin + 8192], 0).expect("room");
    });
    let mixed = |bytes: &&Vec<u8>| bytes.contains(&1) && bytes.contains(&2);
    let torn = found.iter().flatten().filter(mixed).count();
    assert!(torn > 5, "{torn} of {} outcomes are torn", found.len());
    for bytes in found.into_iter().map(|bytes| bytes.expect("its name is durable")) {
        assert_eq!(bytes.len(), 8192);
        assert!(
            bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])),
            "inside a sector"
        );
    }
}

#[test]
fn operations_fail_as_they_are_told_to() {
    let Some((mounted, directory)) = mounted() else { return };
    let (disk, at) = (mounted.disk(), directory.path());
    let file = File::create_new(at.join("f")).expect("room");
    file.write_all_at(b"bytes", 0).expect("room");
    let failure = |result: io::Result<()>| result.expect_err("it is to fail").raw_os_error();
    const EIO: Option<i32> = Some(5);
    const ENOSPC: Option<i32> = Some(28);
    let once = disk.trouble(&[Kind::Sync], "f", Trouble::Fails, Times::Once);
    assert_eq!(failure(file.sync_data()), EIO);
    file.sync_data().expect("the second one answers well, and it is a lie");
    assert_eq!(disk.hits(once), 1);
    sync_directory(at);
    power_cut(disk, 1);
    drop(file);
    assert_ne!(fs::read(at.join("f")).expect("its name is durable"), b"bytes");

    let file = File::options().write(true).read(true).open(at.join("f")).expect("there");
    let full = disk.trouble(&[Kind::Write], "f", Trouble::NoRoom, Times::Always);
    for _ in 0..2 {
        assert_eq!(failure(file.write_all_at(b"more", 0)), ENOSPC);
    }
    disk.mend(full);
    file.write_all_at(b"more", 0).expect("room again");
    let unreadable = disk.trouble(&[Kind::Read], "f", Trouble::Fails, Times::Always);
    assert_eq!(failure(file.read_exact_at(&mut [0; 4], 0)), EIO);
    disk.mend(unreadable);
    let half = disk.trouble(&[Kind::Write], "f", Trouble::Fails, Times::Once);
    assert_eq!(failure(file.write_all_at(b"LESS", 0)), EIO);
    let mut found = [0; 4];
    file.read_exact_at(&mut found, 0).expect("readable");
    assert_eq!((&found, disk.hits(half)), (b"LEre", 1));
}

#[test]
fn a_disk_that_lies_makes_nothing_durable() {
    let Some((mounted, directory)) = mounted() else { return };
    let (disk, path) = (mounted.disk(), directory.path().join("f"));
    let file = File::create_new(&path).expect("room");
    file.write_all_at(b"old", 0).expect("room");
    file.sync_data().expect("no fault");
    sync_directory(directory.path());
    let lies = disk.trouble(&[Kind::Sync, Kind::SyncNames], "*", Trouble::Lies, Times::Always);
    file.write_all_at(b"new", 0).expect("room");
    fs::write(directory.path().join("g"), b"new").expect("room");
    file.sync_data().expect("so it says");
    sync_directory(directory.path());
    assert_eq!(disk.hits(lies), 2);
    drop(file);
    disk.cut_power();
    disk.let_go();
    let cut = disk.restore_power_with_nothing_else();
    assert_eq!((cut.sectors_lost, cut.sectors_kept, cut.names_lost, cut.names_kept), (2, 0, 1, 0));
    assert_eq!(fs::read(path).expect("durable"), b"old");
    assert!(!directory.path().join("g").exists());
}

#[test]
fn what_hangs_keeps_nobody_else_waiting_and_what_is_slow_is() {
    let Some((mounted, directory)) = mounted() else { return };
    let (disk, at) = (mounted.disk().clone(), directory.path().to_owned());
    let hangs = disk.trouble(TRANSFERS, "hung*", Trouble::Hangs, Times::Always);
    let (done, ended) = channel();
    // More than the file system has threads.
    let waiters: Vec<_> = (0..8)
        .map(|number| {
            let (at, done) = (at.clone(), done.clone());
            thread::spawn(move || {
                fs::write(at.join(format!("hung-{number}")), b"bytes").expect("room");
                done.send(number).expect("somebody listens");
            })
        })
        .collect();
    while disk.waiting() < 8 {
        thread::sleep(Duration::from_millis(1));
    }
    fs::write(at.join("free"), b"bytes").expect("it does not hang");
    assert!(ended.try_recv().is_err());
    disk.mend(hangs);
    waiters.into_iter().for_each(|waiter| waiter.join().expect("no panic"));
    assert_eq!(ended.iter().take(8).collect::<BTreeSet<i32>>().len(), 8);

    let slow = Duration::from_millis(30);
    disk.trouble(&[Kind::Write], "free", Trouble::Takes(slow), Times::Always);
    let began = Instant::now();
    fs::write(at.join("free"), b"BYTES").expect("room");
    assert!(began.elapsed() >= slow, "it takes at least so long");
}

#[test]
fn a_flipped_bit_is_read_at_once() {
    let Some((mounted, directory)) = mounted() else { return };
    let path = directory.path().join("f");
    fs::write(&path, [0; 4]).expect("room");
    assert_eq!(fs::read(&path).expect("there"), [0; 4]);
    assert!(mounted.disk().flip(&Flip { path: "f".into(), bit: 9 }));
    assert_eq!(fs::read(&path).expect("there"), [0, 2, 0, 0]);
}

#[test]
fn directories_are_listed_and_removed_and_files_are_locked() {
    let Some((_mounted, directory)) = mounted() else { return };
    let tree = directory.path().join("tree");
    for number in 0..300 {
        fs::create_dir_all(tree.join(number.to_string())).expect("room");
        fs::write(tree.join(number.to_string()).join("f"), b"bytes").expect("room");
    }
    assert_eq!(fs::read_dir(&tree).expect("there").count(), 300);
    fs::remove_dir_all(&tree).expect("there");
    assert!(!tree.exists());
    let lock =
        || File::options().create(true).append(true).open(directory.path().join("lock")).expect("room");
    let first = lock();
    first.try_lock().expect("free");
    assert!(lock().try_lock().is_err());
    drop(first);
    lock().try_lock().expect("free again");
}

#[test]
fn an_image_gets_full_and_has_room_again() {
    if let Some(why) = image_why_not() {
        return skipped(&format!("no image can be mounted here: {why}"));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path().join("at");
    fs::create_dir(&at).expect("room");
    let mut image = Image::mount(&directory.path().join("image"), &at, 16 << 20).expect("mounted");
    let write = || fs::write(at.join("f"), vec![1; 1 << 20]);
    write().expect("room");
    image.fill(100 << 10).expect("filled");
    let full = fs::write(at.join("g"), vec![1; 1 << 20]).expect_err("there is no room");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert!(fs::metadata(at.join("g")).expect("half written").len() < 1 << 20);
    image.make_room().expect("given back");
    fs::write(at.join("g"), vec![1; 1 << 20]).expect("room again");
    drop(image);
    assert_eq!(fs::read_dir(&at).expect("there").count(), 0);
}

#[test]
fn what_is_under_way_when_the_power_fails_may_have_happened() {
    let Some((mounted, directory)) = mounted() else { return };
    let (disk, path) = (mounted.disk(), directory.path().join("f"));
    let mut found = BTreeSet::new();
    for seed in 0..40 {
        let file = File::create(&path).expect("room");
        file.write_all_at(b"old", 0).expect("room");
        file.sync_data().expect("no fault");
        sync_directory(directory.path());
        file.write_all_at(b"new", 0).expect("room");
        disk.trouble(&[Kind::Sync], "*", Trouble::Takes(Duration::from_secs(600)), Times::Always);
        thread::scope(|scope| {
            let sync = scope.spawn(|| file.sync_data());
            while disk.waiting() == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            disk.cut_power();
            disk.let_go();
            assert!(sync.join().expect("no panic").is_err());
        });
        disk.mend_all();
        disk.restore_power(seed);
        found.insert(fs::read(&path).expect("durable"));
    }
    assert_eq!(found, [b"old".to_vec(), b"new".to_vec()].into());
}
