// SPDX-License-Identifier: Apache-2.0

//! How a node starts and starts again: what it finds without being told, what it refuses, and that a refusal changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Guarded, done, free_base_port, mraft, run, wait_until};

/// One node's home, and its ports.
struct Home {
    directory: tempfile::TempDir,
    base: u16,
}

impl Home {
    fn new() -> Home {
        Home { directory: tempfile::tempdir().expect("a directory"), base: free_base_port() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.base + 7)
    }

    /// Writes the configuration: the node alone in these groups, an HTTP port that is not the default, and `more`.
    fn configure(&self, groups: &[u64], more: &str) -> PathBuf {
        let members = |group: &u64| format!("[initial_members.{group}]\n1 = \"127.0.0.1:{}\"\n", self.base);
        let text = format!(
            "data_dir = {:?}\nnode_id = 1\nraft_port = {}\nhttp_port = {}\nmemory_ceiling_bytes = \"256MiB\"\n{more}\n{}",
            self.data(),
            self.base,
            self.base + 7,
            groups.iter().map(members).collect::<String>()
        );
        let file = self.path("node.toml");
        fs::write(&file, text).expect("room for it");
        file
    }

    /// Starts the node with its configuration, or from its directory alone, and waits until it serves.
    fn start(&self, config: Option<&Path>) -> Guarded {
        let mut command = mraft();
        command.arg("node");
        match config {
            Some(config) => command.arg("--config").arg(config),
            None => command.arg("--data-dir").arg(self.data()),
        };
        let said = File::create(self.path("said")).expect("room for it");
        let node = command.stdout(Stdio::null()).stderr(said).spawn().expect("mraft runs");
        let node = Guarded(node);
        wait_until("the node serves", || {
            matches!(run(&[&self.url()], &["kv", "get", "key"]).status.code(), Some(0 | 3))
        });
        node
    }

    /// What the node that was started last said.
    fn said(&self) -> String {
        fs::read_to_string(self.path("said")).expect("text")
    }

    /// A start that must end with this status, and gives what it said.
    fn refused(&self, arguments: &[&str], status: i32) -> String {
        let before = self.contents();
        let text = ended(arguments, status);
        assert_eq!(self.contents(), before, "{arguments:?} changed something: {text}");
        text
    }

    /// The length and the small files' bytes of everything below.
    fn contents(&self) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
        fn walk(directory: &Path, found: &mut BTreeMap<PathBuf, (u64, Vec<u8>)>) {
            for entry in fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                let bytes = fs::metadata(&path).expect("it is there").len();
                if path.is_dir() {
                    found.insert(path.clone(), (0, Vec::new()));
                    walk(&path, found);
                } else if bytes < 1 << 20 {
                    let content = fs::read(&path).expect("readable");
                    found.insert(path, (bytes, content));
                } else {
                    found.insert(path, (bytes, Vec::new()));
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.directory.path(), &mut found);
        found
    }
}

/// Runs the program to its end.
fn ended(arguments: &[&str], status: i32) -> String {
    let output = mraft().args(arguments).output().expect("mraft runs");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn s9_a_restart_from_the_directory_alone_finds_its_wal_and_its_doors() {
    let home = Home::new();
    let wal = home.path("wal");
    let config = home.configure(&[0], &format!("wal_dir = {wal:?}"));
    let node = home.start(Some(&config));
    done(&[&home.url()], &["kv", "put", "key", "acknowledged"]);
    drop(node);
    let node = home.start(None);
    assert_eq!(done(&[&home.url()], &["kv", "get", "key"]).trim_end(), "acknowledged");
    assert!(!home.data().join("log").exists(), "no second log was begun");
    drop(node);

    let (other, data) = (home.path("other"), home.data());
    for wrong in [&other, &data] {
        let said = home.refused(
            &["node", "--data-dir", text(&data), "--set", &format!("wal_dir={}", wrong.display())],
            2,
        );
        says(&said, &[text(&wal), text(wrong)]);
    }
    let whole = ended(&["inspect", "state", "--data-dir", text(&data)], 0);
    says(&whole, &["whole"]);
    fs::rename(&wal, home.path("away")).expect("nobody has it open");
    let said = home.refused(&["node", "--data-dir", text(&data)], 1);
    says(&said, &[text(&wal), "mount"]);
    for what in ["state", "log"] {
        says(&home.refused(&["inspect", what, "--data-dir", text(&data)], 1), &[text(&wal), "holds no log"]);
    }
}

#[test]
fn d9_a_node_that_has_run_does_not_begin_another_log() {
    let home = Home::new();
    let config = home.configure(&[0], "");
    drop(home.start(Some(&config)));
    fs::remove_dir_all(home.data().join("log")).expect("nobody has it open");
    for arguments in [["node", "--config", text(&config)], ["node", "--data-dir", text(&home.data())]] {
        says(&home.refused(&arguments, 1), &["its log is not in", "data/log", "mount", "another node id"]);
    }
}

#[test]
fn s9_what_a_document_says_otherwise_later_is_reported_as_ignored() {
    let home = Home::new();
    drop(home.start(Some(&home.configure(&[0, 1], ""))));
    let cases: [(&[u64], &str, &[&str]); 3] = [
        (&[0, 1, 2], "", &["ignored: initial_members.2 is new", "group 0 other slots"]),
        (&[0], "", &["ignored: initial_members leaves out group 1"]),
        (&[0, 1], "2 = \"127.0.0.1:1\"\n", &["ignored: initial_members.1 (with join) names other members"]),
    ];
    for (groups, more, parts) in cases {
        let config = home.configure(groups, "");
        // Behind the last group.
        let document = fs::read_to_string(&config).expect("text") + more;
        fs::write(&config, document).expect("room for it");
        let node = home.start(Some(&config));
        says(&home.said(), parts);
        says(&done(&[&home.url()], &["status"]), &["2 of 2 held"]);
        drop(node);
    }
}

#[test]
fn s3_a_raft_port_in_use_leaves_no_trace_and_another_one_works() {
    let home = Home::new();
    let config = home.configure(&[], "");
    let taken = TcpListener::bind(("127.0.0.1", home.base)).expect("it was free");
    let said = home.refused(&["node", "--config", text(&config)], 1);
    says(&said, &["cannot listen for other nodes", &home.base.to_string(), "raft_port", "listen_address"]);
    assert!(!home.data().exists());
    let other = format!("127.0.0.1:{}", home.base + 1);
    let config = home.configure(&[0], &format!("listen_address = {other:?}"));
    drop(home.start(Some(&config)));
    drop(taken);
}

#[test]
fn s3_certificates_that_are_not_there_are_named_by_the_check_and_by_the_start() {
    let home = Home::new();
    let peers = "mutual_tls = true\nca_file = \"no-ca\"\ncert_file = \"no-cert\"\nkey_file = \"no-key\"";
    let http = "http_tls_cert_file = \"no-http-cert\"\nhttp_tls_key_file = \"no-http-key\"";
    for (more, setting, file) in [(peers, "ca_file", "no-ca"), (http, "http_tls_cert_file", "no-http-cert")] {
        let config = home.configure(&[0], more);
        for command in [vec!["node", "--config", text(&config)], vec!["config", "check", text(&config)]] {
            says(&home.refused(&command, 2), &[&format!("{setting}: {file}")]);
        }
    }
}

#[test]
fn s9_mutual_tls_stays_on_over_a_restart_from_the_directory_alone() {
    let home = Home::new();
    let certificates = ["ca", "cert", "key"].map(|name| home.path(name));
    write_certificates(&certificates);
    let [ca, cert, key] = &certificates;
    let more = format!("mutual_tls = true\nca_file = {ca:?}\ncert_file = {cert:?}\nkey_file = {key:?}");
    drop(home.start(Some(&home.configure(&[0], &more))));
    let data = home.data();
    drop(home.start(None));
    fs::rename(key, home.path("away")).expect("it is there");
    let said = home.refused(&["node", "--data-dir", text(&data)], 2);
    says(&said, &["key_file", text(key)]);
    // Turning it off takes a word.
    drop(home.start(Some(&home.configure(&[0], "mutual_tls = false"))));
    drop(home.start(None));
}

/// An authority's certificate, one that it signed for this machine, and the key of that one.
fn write_certificates([ca, cert, key]: &[PathBuf; 3]) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own_key = rcgen::KeyPair::generate().expect("a key");
    let issuer = rcgen::CertifiedIssuer::self_signed(authority, own_key).expect("signed");
    let node_key = rcgen::KeyPair::generate().expect("a key");
    let node = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let node = node.signed_by(&node_key, &issuer).expect("signed");
    for (file, text) in [(ca, issuer.pem()), (cert, node.pem()), (key, node_key.serialize_pem())] {
        fs::write(file, text).expect("room for it");
    }
}

#[test]
fn s3_another_identity_is_a_mistake_in_the_configuration_and_a_damaged_one_is_not() {
    let home = Home::new();
    let config = home.configure(&[0], "");
    let node = home.start(Some(&config));
    let data = home.data();
    says(&ended(&["inspect", "log", "--data-dir", text(&data)], 1), &["in use by another process"]);
    drop(node);
    for (setting, here) in [("deployment_id=9", "deployment 0"), ("node_id=9", "node 1")] {
        let said = home.refused(&["node", "--data-dir", text(&data), "--set", setting], 2);
        says(&said, &[here, "says 9"]);
    }
    let identity = File::options().write(true).open(data.join("identity")).expect("it is there");
    identity.write_all_at(b"x", 20).expect("a byte");
    says(&home.refused(&["node", "--config", text(&config)], 1), &["identity", "damaged"]);
    says(&home.refused(&["inspect", "identity", "--data-dir", text(&data)], 1), &["damaged"]);
    // The log can be looked at all the same.
    says(
        &home.refused(&["inspect", "log", "--data-dir", text(&data)], 1),
        &["identity", "damaged", "a whole batch"],
    );
}

#[test]
fn l4_inspect_tells_damage_in_sentences_and_ends_with_1() {
    let home = Home::new();
    let node = home.start(Some(&home.configure(&[0], "")));
    for number in 0..20 {
        done(&[&home.url()], &["kv", "put", &format!("key-{number}"), &"v".repeat(100)]);
    }
    drop(node);
    let data = home.data();
    let inspect = |status| ended(&["inspect", "log", "--data-dir", text(&data), "-o", "json"], status);
    let document: serde_json::Value = serde_json::from_str(&inspect(0)).expect("JSON");
    assert_eq!(document["damaged"], false);
    let segment = document["segments"][0]["file"].as_str().expect("a file").to_owned();
    let bytes = document["segments"][0]["batch_bytes"].as_u64().expect("a number");
    // In the middle of what was written; batches begin on blocks of 4 KiB behind the segment's header. A seal has no records to damage.
    let file = File::options().read(true).write(true).open(segment).expect("it is there");
    let has_records = |at: &u64| {
        let mut head = [0; 6];
        file.read_exact_at(&mut head, *at).is_ok() && head[..4] == *b"mrb1" && head[5] == 0
    };
    let middle = 2 + bytes / 2 / 4096;
    let batch = (middle..2 * middle + 2).map(|block| block * 4096).find(has_records).expect("a batch");
    file.write_all_at(&[0xff; 64], batch + 100).expect("it is long enough");
    let document: serde_json::Value = serde_json::from_str(&inspect(1)).expect("JSON");
    assert_eq!(document["damaged"], true);
    let said = home.refused(&["inspect", "log", "--data-dir", text(&data)], 1);
    says(&said, &["yes, see below", "DAMAGE: 1 x a batch that was durable", "a replica that lost records"]);
}
