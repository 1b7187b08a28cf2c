// SPDX-License-Identifier: Apache-2.0

//! What a start finds in its two directories, case by case: begun anew, taken over, or refused with every byte as it was.

use std::collections::BTreeMap;

use mraft_disk::{MemoryDisk, read_file};

use super::*;

const DATA: &str = "/data";
const WAL: &str = "/wal";

fn claim() -> Claim {
    let node = NodeId::new(7).expect("a node id");
    Claim { deployment: DeploymentId(1), node, raft_address: "10.0.0.7:13890".to_owned() }
}

fn fresh(number: u8) -> (InstanceId, u64) {
    (InstanceId([number; 16]), u64::from(number))
}

/// A start with a WAL directory of its own, as far as the identity goes.
fn start(disk: &MemoryDisk, number: u8) -> Result<Identity, HostError> {
    let (data, wal) = (Path::new(DATA), Path::new(WAL));
    let mut identity = boot(disk, data, wal, &claim(), fresh(number), 10 * u64::from(number))?;
    mark_created(disk, data, wal, &mut identity)?;
    Ok(identity)
}

/// A directory that was started this often.
fn started(times: u8) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for time in 1..=times {
        start(&disk, time).expect("its own directories");
    }
    disk
}

fn in_directory(disk: &MemoryDisk, directory: &str) -> Identity {
    read(disk, Path::new(directory)).expect("whole").expect("there")
}

fn put(disk: &MemoryDisk, directory: &str, identity: &Identity) {
    let path = path(Path::new(directory));
    disk.create_dir_all(Path::new(directory)).expect("a directory");
    files::replace(disk, &path, IDENTITY_MAGIC, &encode(identity)).expect("no fault");
}

/// An identity as builds wrote it that did not keep the starts.
fn without_starts(boot_counter: u64, boot_nonce: u64, identity: Identity) -> Identity {
    Identity { boot_counter, boot_nonce, starts: Starts::default(), ..identity }
}

fn contents(disk: &MemoryDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| {
        let bytes = read_file(disk, &path, 1 << 20).expect("readable").expect("there");
        (path, bytes)
    };
    disk.files().into_iter().map(|(path, _)| read(path)).collect()
}

/// Why the start is refused; nothing was changed by it.
fn refusal(disk: &MemoryDisk, try_it: impl FnOnce() -> Result<Identity, HostError>) -> HostError {
    let before = contents(disk);
    let error = try_it().expect_err("a refusal");
    assert_eq!(contents(disk), before, "{error}");
    error
}

fn says(error: &HostError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn t3_an_identity_comes_back_from_its_bytes_and_never_from_cut_ones() {
    let whole = in_directory(&started(1), DATA);
    assert_eq!(whole.log, LogPlace::Own(PathBuf::from(WAL)));
    for log in [whole.log.clone(), LogPlace::WithData, LogPlace::Unknown] {
        let identity = Identity { log, ..whole.clone() };
        let bytes = encode(&identity);
        assert_eq!(decode(&bytes), Ok(identity));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }
}

#[test]
fn t3_an_identity_of_version_1_does_not_say_where_the_log_is() {
    let unsaid = Identity { starts: Starts::default(), ..in_directory(&started(1), DATA) };
    let identity = Identity { log: LogPlace::Unknown, ..unsaid };
    let mut bytes = encode(&identity);
    bytes.truncate(bytes.len() - 2);
    bytes[0] = 1;
    assert_eq!(decode(&bytes), Ok(identity));
    bytes[0] = IDENTITY_VERSION + 1;
    assert!(matches!(decode(&bytes), Err(DecodeError::Unknown(..))));
}

#[test]
fn t3_an_identity_of_version_2_does_not_say_which_starts_there_were() {
    let disk = started(2);
    let identity = Identity { starts: Starts::default(), ..in_directory(&disk, DATA) };
    let mut bytes = encode(&identity);
    assert_eq!(bytes.pop(), Some(0), "no starts");
    bytes[0] = 2;
    assert_eq!(decode(&bytes), Ok(identity));
    for directory in [DATA, WAL] {
        files::replace(&disk, &path(Path::new(directory)), IDENTITY_MAGIC, &bytes).expect("no fault");
    }
    let third = start(&disk, 3).expect("its own directories");
    assert_eq!(third.starts.ago(0), Some(Start { boot_nonce: 3, found_seq: 30 }));
    assert_eq!((third.boot_counter, third.starts.ago(1)), (3, None));
}

#[test]
fn m7_each_start_is_kept_with_how_far_the_log_went() {
    let disk = started(3);
    let starts = in_directory(&disk, DATA).starts;
    let expected = [3, 2, 1].map(|number| Some(Start { boot_nonce: number, found_seq: 10 * number }));
    assert_eq!([0, 1, 2].map(|ago| starts.ago(ago)), expected);
    assert_eq!(in_directory(&disk, WAL).starts, starts);
    let (data, wal) = (Path::new(DATA), Path::new(WAL));
    let identity = in_directory(&disk, DATA);
    raise(&disk, data, wal, &identity, 1 << 20).expect("written");
    assert!(
        in_directory(&disk, DATA).starts.is_empty(),
        "what an accepted loss gave up tells nobody anything"
    );
}

#[test]
fn m7_a_start_that_got_no_further_than_the_wal_is_one() {
    let disk = started(2);
    let before = in_directory(&disk, DATA);
    start(&disk, 3).expect("its own directories");
    put(&disk, DATA, &before);
    let fourth = start(&disk, 4).expect("the WAL is one start ahead");
    let nonces = [0, 1, 2, 3].map(|ago| fourth.starts.ago(ago).map(|start| start.boot_nonce));
    assert_eq!((fourth.boot_counter, nonces), (4, [4, 3, 2, 1].map(Some)));
}

#[test]
fn m6_a_first_start_that_a_crash_cut_short_is_begun_anew_at_every_operation() {
    for seed in 0..4 {
        for crash_at in 0.. {
            let disk = MemoryDisk::new();
            disk.fail_from_operation(crash_at);
            let result = start(&disk, 1);
            disk.crash(seed);
            let again = start(&disk, 2).unwrap_or_else(|error| panic!("crash at {crash_at}: {error}"));
            assert!(again.created);
            assert_eq!(in_directory(&disk, DATA), again);
            assert_eq!(in_directory(&disk, WAL), again);
            if result.is_ok() {
                assert_eq!((again.instance, again.boot_counter), (InstanceId([1; 16]), 2));
                break;
            }
        }
    }
}

#[test]
fn m6_a_later_start_that_a_crash_cut_short_goes_on_with_the_same_instance() {
    for seed in 0..4 {
        for crash_at in 0.. {
            let disk = started(1);
            disk.fail_from_operation(disk.operations() + crash_at);
            let result = start(&disk, 2);
            disk.crash(seed);
            let again = start(&disk, 3).unwrap_or_else(|error| panic!("crash at {crash_at}: {error}"));
            assert_eq!(again.instance, InstanceId([1; 16]));
            if result.is_ok() {
                assert_eq!(again.boot_counter, 3);
                break;
            }
        }
    }
}

#[test]
fn m6_starts_that_crash_one_after_another_leave_directories_that_can_be_started() {
    for crash_at in 0.. {
        let disk = started(1);
        let mut got_through = 0;
        for number in 2..5 {
            disk.fail_from_operation(disk.operations() + crash_at);
            got_through += u32::from(start(&disk, number).is_ok());
            disk.crash(u64::from(number));
        }
        let again = start(&disk, 9).unwrap_or_else(|error| panic!("three crashes at {crash_at}: {error}"));
        assert_eq!(again.instance, InstanceId([1; 16]));
        if got_through == 3 {
            assert_eq!(again.boot_counter, 5);
            break;
        }
    }
}

#[test]
fn d9_a_start_that_crashes_behind_an_accepted_loss_that_crashed_can_be_repeated() {
    for crash_at in 0.. {
        let disk = started(2);
        let identity = in_directory(&disk, DATA);
        disk.fail_from_operation(disk.operations() + crash_at);
        let raised = raise(&disk, Path::new(DATA), Path::new(WAL), &identity, 1 << 20);
        disk.crash(1);
        for next_crash in 0..12 {
            let disk = disk.fork();
            disk.fail_from_operation(disk.operations() + next_crash);
            let _ = start(&disk, 3);
            disk.crash(2);
            start(&disk, 4).unwrap_or_else(|error| panic!("crashes at {crash_at}, {next_crash}: {error}"));
        }
        if raised.is_ok() {
            break;
        }
    }
}

#[test]
fn m6_an_identity_that_is_being_created_is_begun_anew() {
    let disk = MemoryDisk::new();
    boot(&disk, Path::new(DATA), Path::new(WAL), &claim(), fresh(1), 0).expect("fresh directories");
    let again = start(&disk, 2).expect("begun anew");
    assert_eq!((again.instance, again.boot_counter), (InstanceId([2; 16]), 1));
}

#[test]
fn m6_a_wal_that_is_one_start_ahead_is_what_a_crash_leaves() {
    let disk = started(2);
    let data = in_directory(&disk, DATA);
    put(&disk, WAL, &without_starts(3, 33, data));
    assert_eq!(start(&disk, 4).expect("a crash between the two").boot_counter, 4);
}

#[test]
fn m6_directories_of_different_times_are_refused_with_both_counters() {
    for (in_data, in_wal) in [((2, 2), (4, 4)), ((3, 3), (2, 2)), ((4, 4), (2, 2))] {
        let disk = started(2);
        let at =
            |(boot_counter, boot_nonce)| without_starts(boot_counter, boot_nonce, in_directory(&disk, DATA));
        let (data, wal) = (at(in_data), at(in_wal));
        put(&disk, DATA, &data);
        put(&disk, WAL, &wal);
        let error = refusal(&disk, || start(&disk, 9));
        let times = |(counter, _): (u64, u64)| format!("{counter} times");
        says(&error, &[&times(in_data), &times(in_wal), "copy from another time"]);
    }
}

#[test]
fn m6_two_copies_that_both_ran_are_refused_by_their_nonces() {
    let disk = started(2);
    let wal = without_starts(2, 0xabc, in_directory(&disk, WAL));
    put(&disk, WAL, &wal);
    let error = refusal(&disk, || start(&disk, 3));
    says(&error, &["0000000000000002", "0000000000000abc"]);
}

#[test]
fn m6_a_wal_of_another_directory_is_refused_with_both_instances() {
    let disk = started(2);
    let wal = Identity { instance: InstanceId([8; 16]), ..in_directory(&disk, WAL) };
    put(&disk, WAL, &wal);
    let error = refusal(&disk, || start(&disk, 3));
    says(&error, &[&InstanceId([1; 16]).to_string(), &InstanceId([8; 16]).to_string()]);
}

#[test]
fn m6_half_a_node_is_refused_and_what_is_missing_is_named() {
    for (gone, left) in [(DATA, WAL), (WAL, DATA)] {
        let disk = started(1);
        disk.remove_file(&path(Path::new(gone))).expect("it is there");
        let error = refusal(&disk, || start(&disk, 2));
        says(&error, &[&format!("{left} has an identity but {gone} has none"), "mount"]);
    }
}

#[test]
fn s3_another_id_address_or_deployment_is_refused_with_both_values() {
    let disk = started(1);
    let claims = [
        (Claim { deployment: DeploymentId(2), ..claim() }, "deployment 1", "says 2"),
        (Claim { node: NodeId::new(8).expect("a node id"), ..claim() }, "node 7", "says 8"),
        (Claim { raft_address: "10.0.0.8:1".to_owned(), ..claim() }, "10.0.0.7:13890", "says 10.0.0.8:1"),
    ];
    for (other, here, configured) in claims {
        let error = refusal(&disk, || boot(&disk, Path::new(DATA), Path::new(WAL), &other, fresh(2), 0));
        assert!(matches!(error, HostError::Disagrees { .. }), "{error:?}");
        says(&error, &[here, configured, "nothing was changed"]);
    }
}

#[test]
fn t3_a_directory_of_a_higher_format_level_is_refused() {
    let disk = started(1);
    let newer = Identity { format_level: NODE_FORMAT_LEVEL + 1, ..in_directory(&disk, DATA) };
    put(&disk, DATA, &newer);
    put(&disk, WAL, &newer);
    let error = refusal(&disk, || start(&disk, 2));
    says(&error, &["format level 2", "this build knows 1", "newer release"]);
}

#[test]
fn m6_a_directory_of_something_else_is_refused_by_what_is_in_it() {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(WAL)).expect("a directory");
    files::replace(&disk, Path::new("/wal/letter"), *b"dear sir", b"").expect("no fault");
    says(&refusal(&disk, || start(&disk, 1)), &["/wal holds `letter` but no identity"]);
}

/// A start that says this much of where the log is.
fn start_with(disk: &MemoryDisk, configured: Option<&str>) -> Result<Identity, HostError> {
    let data = Path::new(DATA);
    let wal = wal_directory(disk, data, configured.map(Path::new))?;
    let mut identity = boot(disk, data, &wal, &claim(), fresh(9), 90)?;
    mark_created(disk, data, &wal, &mut identity)?;
    Ok(identity)
}

#[test]
fn s9_a_restart_that_names_no_wal_uses_the_one_that_the_directory_remembers() {
    let disk = started(1);
    let identity = start_with(&disk, None).expect("nothing but the data directory is needed");
    assert_eq!(in_directory(&disk, WAL), identity);
    assert_eq!(start_with(&disk, Some("/./wal/")).expect("the same").instance, identity.instance);
}

#[test]
fn s9_another_wal_than_the_remembered_one_is_refused_with_both_paths() {
    let disk = started(1);
    for other in ["/new", DATA] {
        let error = refusal(&disk, || start_with(&disk, Some(other)));
        assert!(matches!(error, HostError::Disagrees { .. }), "{error:?}");
        says(&error, &["is in /wal", &format!("says {other}"), "leave wal_dir out"]);
    }
    let disk = MemoryDisk::new();
    start_with(&disk, None).expect("fresh");
    let error = refusal(&disk, || start_with(&disk, Some(WAL)));
    says(&error, &["is in /data", "says /wal"]);
}

#[test]
fn s9_a_wal_that_was_moved_is_known_by_its_identity_and_the_old_one_is_of_no_use_afterwards() {
    let disk = started(1);
    put(&disk, "/moved", &in_directory(&disk, WAL));
    assert_eq!(start_with(&disk, Some("/moved")).expect("it was moved").log, LogPlace::Own("/moved".into()));
    start_with(&disk, None).expect("the new place is remembered");
    says(&refusal(&disk, || start_with(&disk, Some(WAL))), &["copy from another time"]);
}

#[test]
fn d9_counting_starts_on_is_whole_wherever_a_crash_cuts_it_short() {
    const FAR: u64 = 1 << 20;
    let (data, wal) = (Path::new(DATA), Path::new(WAL));
    for (fails_at, seed) in (0..).flat_map(|at| (0..4).map(move |seed| (at, seed))) {
        let disk = started(3);
        let latest = of_stopped(&disk, data, wal).expect("whole");
        disk.fail_from_operation(disk.operations() + fails_at);
        let is_done = raise(&disk, data, wal, &latest, FAR).is_ok();
        disk.crash(seed);
        let again = of_stopped(&disk, data, wal).unwrap_or_else(|error| panic!("at {fails_at}: {error}"));
        assert!([3, FAR].contains(&again.boot_counter) && (!is_done || again.boot_counter == FAR));
        let next = start(&disk, 9).unwrap_or_else(|error| panic!("at {fails_at}: {error}"));
        assert_eq!(next.boot_counter, again.boot_counter + 1);
        if is_done {
            break;
        }
    }
}

#[test]
fn d9_a_wal_directory_that_is_gone_with_the_log_is_made_again() {
    let disk = started(2);
    let (data, other) = (Path::new(DATA), Path::new("/other"));
    let latest = of_stopped(&disk, data, other).expect("an empty place");
    raise(&disk, data, other, &latest, 1 << 20).expect("written");
    assert_eq!(in_directory(&disk, "/other"), in_directory(&disk, DATA));
    disk.create_dir_all(Path::new("/strange/letters")).expect("made");
    says(&of_stopped(&disk, data, Path::new("/strange")).expect_err("not empty"), &["letters", "/strange"]);
}
