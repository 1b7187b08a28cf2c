// SPDX-License-Identifier: Apache-2.0

use super::*;

fn after_crash(seed: u64, sync: bool) -> Option<Vec<u8>> {
    let disk = MemoryDisk::new();
    let path = Path::new("/file");
    let file = disk.open(path, Open::Create).expect("new");
    file.write_all_at(&[1; 1024], 0).expect("room");
    file.sync_data().expect("no fault");
    disk.sync_dir(Path::new("/")).expect("no fault");
    file.write_all_at(&[2; 1024], 0).expect("room");
    if sync {
        file.sync_data().expect("no fault");
    }
    disk.crash(seed);
    assert!(file.len().is_err(), "the handle died with its process");
    crate::read_file(&disk, path, 1 << 20).expect("no fault")
}

#[test]
fn what_is_synced_survives_and_what_is_not_is_lost_torn_or_kept() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        assert_eq!(after_crash(seed, true), Some(vec![2; 1024]));
        let bytes = after_crash(seed, false).expect("the name was durable");
        seen.insert((bytes[0], bytes[512]));
        assert_eq!(after_crash(seed, false), Some(bytes), "the same seed, the same crash");
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
}

#[test]
fn a_name_is_durable_only_when_its_directory_was_synced() {
    let mut kept = 0;
    for seed in 0..64 {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/d")).expect("no fault");
        disk.open(Path::new("/d/a"), Open::Create).and_then(|file| file.sync_data()).expect("no fault");
        disk.crash(seed);
        kept += usize::from(disk.exists(Path::new("/d/a")).expect("no fault"));
    }
    assert!(kept > 0 && kept < 64, "{kept}");
}

#[test]
fn a_full_disk_refuses_growth_and_nothing_else() {
    let disk = MemoryDisk::new();
    let file = disk.open(Path::new("/file"), Open::Create).expect("new");
    file.prefill(1000).expect("room");
    disk.set_faults(Faults { capacity_bytes: Some(1000), ..Faults::default() });
    file.write_all_at(&[7; 10], 990).expect("an overwrite needs no room");
    let error = file.write_all_at(&[7; 10], 995).expect_err("growth");
    assert!(crate::is_full(&error));
    disk.set_faults(Faults { capacity_bytes: Some(1005), ..Faults::default() });
    file.write_all_at(&[7; 10], 995).expect("room again");
}

#[test]
fn what_is_called_before_an_operation_may_wait_while_others_go_on() {
    let disk = MemoryDisk::new();
    let file = disk.open(Path::new("/slow"), Open::Create).expect("new");
    let (began, begun) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    disk.set_before(move |path, access| {
        if (path, access) == (Path::new("/slow"), Access::Write { offset: 0, bytes: b"late" }) {
            began.send(()).expect("the test waits");
            gone.lock().expect("no panic").recv().expect("the test says when");
        }
    });
    let writer = std::thread::spawn(move || file.write_all_at(b"late", 0));
    begun.recv().expect("it begins");
    disk.open(Path::new("/other"), Open::Create).expect("another file is not concerned");
    assert_eq!(disk.files(), [(PathBuf::from("/other"), 0), (PathBuf::from("/slow"), 0)]);
    go.send(()).expect("it waits");
    writer.join().expect("no panic").expect("room");
    assert_eq!(disk.files()[1], (PathBuf::from("/slow"), 4));
}

#[test]
fn d10_what_a_failed_sync_was_to_make_durable_is_lost_whatever_the_next_one_says() {
    for seed in 0..8 {
        let disk = MemoryDisk::new();
        let path = Path::new("/file");
        let file = disk.open(path, Open::CreateNew).expect("a fresh name");
        file.write_all_at(b"old", 0).expect("room");
        file.sync_data().expect("synced");
        disk.sync_dir(Path::new("/")).expect("the name too");
        file.write_all_at(b"new", 0).expect("room");
        disk.set_faults(Faults { once_at_operation: Some(disk.operations()), ..Faults::default() });
        assert!(file.sync_data().is_err(), "once");
        file.sync_data().expect("and then it says that all is well");
        let mut read = [0; 3];
        file.read_exact_at(&mut read, 0).expect("it is there");
        assert_eq!(&read, b"new", "as long as the power is");
        disk.crash(seed);
        let file = disk.open(path, Open::Read).expect("it is there");
        file.read_exact_at(&mut read, 0).expect("whole");
        assert_eq!(&read, b"old");
    }
}

#[test]
fn an_ignored_sync_is_a_lie_that_a_crash_reveals() {
    let disk = MemoryDisk::new();
    let file = disk.open(Path::new("/file"), Open::Create).expect("new");
    disk.sync_dir(Path::new("/")).expect("no fault");
    disk.set_faults(Faults { ignore_syncs: true, ..Faults::default() });
    file.write_all_at(&[9; 4096], 0).expect("room");
    file.sync_data().expect("it says");
    disk.crash(1);
    assert_ne!(crate::read_file(&disk, Path::new("/file"), 8192).expect("no fault"), Some(vec![9; 4096]));
}

#[test]
fn a_disk_that_lied_loses_all_of_it_or_makes_it_true() {
    let (old, new) = (Path::new("/old"), Path::new("/new"));
    let read = |disk: &MemoryDisk, path| crate::read_file(disk, path, 8192).expect("no fault");
    for keeps in [true, false] {
        let disk = MemoryDisk::new();
        let file = disk.open(old, Open::Create).expect("new");
        file.write_all_at(&[1; 4096], 0).expect("room");
        file.sync_data().expect("no fault");
        disk.sync_dir(Path::new("/")).expect("no fault");
        disk.set_faults(Faults { ignore_syncs: true, ..Faults::default() });
        file.write_all_at(&[2; 8192], 0).expect("room");
        file.sync_data().expect("it says");
        disk.open(new, Open::Create).expect("new");
        disk.sync_dir(Path::new("/")).expect("it says");
        if keeps {
            disk.make_durable()
        } else {
            disk.drop_unsynced()
        }
        disk.crash(7);
        let expected = if keeps { vec![2; 8192] } else { vec![1; 4096] };
        assert_eq!(read(&disk, old), Some(expected));
        assert_eq!(read(&disk, new), keeps.then(Vec::new));
    }
}

#[test]
fn a_write_that_went_astray_is_only_late_until_something_else_is_durable() {
    // What is written and synced behind the stray write, and whether that shows that it is lost.
    let behind: [(&str, &[u8], bool); 4] = [
        ("/log/two.log", &[0; 4096], false),
        ("/log/list", b"a list", false),
        ("/log/two.log", b"more", true),
        ("/log/one.log", b"more", true),
    ];
    for (path, bytes, is_lost) in behind {
        let disk = MemoryDisk::new();
        let open = |path: &str| disk.open(Path::new(path), Open::Create).expect("no fault");
        disk.create_dir_all(Path::new("/log")).expect("no fault");
        let file = open("/log/one.log");
        file.prefill(16_384).expect("room");
        file.sync_data().expect("no fault");
        let other = open(path);
        disk.sync_dir(Path::new("/log")).expect("no fault");
        disk.sync_dir(Path::new("/")).expect("no fault");
        disk.stray_next_write("/log".into(), None);
        file.write_all_at(b"lost?", 0).expect("it says");
        file.sync_data().expect("it says");
        other.write_all_at(bytes, 8_192).expect("room");
        other.sync_data().expect("no fault");
        disk.kill();
        let found =
            crate::read_file(&disk, Path::new("/log/one.log"), 1 << 20).expect("no fault").expect("there");
        assert_eq!(!found.starts_with(b"lost?"), is_lost, "{path} {bytes:?}");
    }
}
