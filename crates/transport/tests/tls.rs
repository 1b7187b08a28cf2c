// SPDX-License-Identifier: Apache-2.0

//! Mutual TLS: peers of one authority talk, and nobody else is heard.

#![allow(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

mod support;

use std::fs;
use std::path::Path;

use mraft_transport::{CloseReason, Dropped, TlsFiles, TransportConfig, TransportError};
use mraft_wire::{FrameKind, Purpose};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use support::{Happening, RawPeer, TestNode, config, frame_of, hello, node, pair};
use tempfile::TempDir;

/// An authority, and a directory for what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new() -> Authority {
        Authority::named("ours")
    }

    fn named(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        let dir = TempDir::new().expect("a directory");
        fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("written");
        Authority { issuer, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Files of a node whose certificate is for these hosts.
    fn node(&self, name: &str, hosts: &[&str]) -> TlsFiles {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        self.sign(name, CertificateParams::new(hosts).expect("names"))
    }

    /// Files of a node whose certificate is valid from the beginning of one year to that of another.
    fn node_valid(&self, name: &str, (from, to): (i32, i32)) -> TlsFiles {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        self.sign(name, params)
    }

    fn sign(&self, name: &str, params: CertificateParams) -> TlsFiles {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let (cert_file, key_file) =
            (self.path().join(format!("{name}.pem")), self.path().join(format!("{name}.key")));
        fs::write(&cert_file, certificate.pem()).expect("written");
        fs::write(&key_file, key.serialize_pem()).expect("written");
        TlsFiles { ca_file: self.path().join("ca.pem"), cert_file, key_file }
    }
}

fn secured(id: u64, files: &TlsFiles) -> TransportConfig {
    // The certificates are for this address.
    TransportConfig { listen_address: "127.0.0.1:0".to_owned(), tls: Some(files.clone()), ..config(id) }
}

#[test]
fn peers_of_one_authority_talk() {
    let authority = Authority::new();
    let (one, two) = pair(
        secured(1, &authority.node("one", &["127.0.0.1"])),
        secured(2, &authority.node("two", &["127.0.0.1"])),
    );
    one.says(two.id, "secret");
    two.hears(one.id, "secret");
    two.says(one.id, "answer");
    one.hears(two.id, "answer");
}

#[test]
fn large_frames_pass_in_order_also_when_the_socket_is_full() {
    let authority = Authority::new();
    let files = authority.node("both", &["127.0.0.1"]);
    let (one, two) = pair(secured(1, &files), secured(2, &files));
    for number in 0..30 {
        let mut body = format!("{number:06}").into_bytes();
        body.resize(if number % 3 == 0 { 3 << 20 } else { 32 }, b'.');
        one.transport.send(two.id, frame_of(one.id, two.id, body)).expect("below the limit");
    }
    two.recorder.wait_until("all frames", || two.stats().frames_received == 30);
    let texts: Vec<_> = two
        .recorder
        .happenings()
        .into_iter()
        .filter_map(|happening| match happening {
            Happening::Text(_, text) => text[..6].parse::<u32>().ok(),
            _ => None,
        })
        .collect();
    assert_eq!(texts, (0..30).collect::<Vec<_>>());
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_either_side() {
    let (ours, other) = (Authority::new(), Authority::new());
    let one = TestNode::start_with(secured(1, &ours.node("one", &["127.0.0.1"])));
    // Trusts our authority, but shows a certificate of its own.
    let mut files = other.node("two", &["127.0.0.1"]);
    files.ca_file = ours.path().join("ca.pem");
    let two = TestNode::start_with(secured(2, &files));
    two.knows(&one);
    one.waits_for_close(CloseReason::Tls, 1);
    one.knows(&two);
    two.waits_for_close(CloseReason::Tls, 1);
    for (from, to) in [(&one, &two), (&two, &one)] {
        let sent = from.transport.send(to.id, support::frame(from.id, to.id, "never"));
        assert_eq!(sent, Err(Dropped::NotConnected));
        assert_eq!(from.stats().dials, 0);
    }
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new();
    let one = TestNode::start_with(secured(1, &authority.node("one", &["127.0.0.1"])));
    let two = TestNode::start_with(secured(2, &authority.node("two", &["elsewhere.example"])));
    one.knows(&two);
    one.waits_for_close(CloseReason::Tls, 1);
    assert_eq!(one.stats().dials, 0);
}

/// What is wrong with a certificate, what a node says that dials who shows it, and what a node says that shows it to whom it dials. The
/// host in a certificate is checked by the dialer alone.
const NO_GOOD: &[(&str, &str, Option<&str>)] = &[
    ("expired", "it expired", Some("it is not valid by the peer's clock")),
    ("too new", "it is valid only in", Some("it is not valid by the peer's clock")),
    (
        "of another authority",
        "it is signed by no authority of this node's CA file",
        Some("it is signed by no authority of the peer's CA file"),
    ),
    (
        "of a namesake",
        "it is signed by no authority of this node's CA file",
        Some("no authority of the peer's"),
    ),
    (
        "for another host",
        "not valid for name \"127.0.0.1\"; certificate is only valid for DnsName(\"else",
        None,
    ),
];

#[test]
fn why_a_certificate_is_refused_is_told_to_either_side() {
    let (ours, namesake, other) = (Authority::new(), Authority::new(), Authority::named("other"));
    let good = TestNode::start_with(secured(1, &ours.node("good", &["127.0.0.1"])));
    for (number, (what, told, told_to_it)) in (2..).zip(NO_GOOD) {
        let mut files = match *what {
            "expired" => ours.node_valid("bad", (2001, 2002)),
            "too new" => ours.node_valid("bad", (3001, 3002)),
            "of another authority" => other.node("bad", &["127.0.0.1"]),
            "of a namesake" => namesake.node("bad", &["127.0.0.1"]),
            _ => ours.node("bad", &["elsewhere.example"]),
        };
        files.ca_file = ours.path().join("ca.pem");
        let bad = TestNode::start_with(secured(number, &files));
        good.knows(&bad);
        let said = good.cannot_dial(&bad);
        assert!(
            said.contains("the peer's certificate is refused: ") && said.contains(told),
            "{what}: {said}"
        );
        bad.knows(&good);
        match told_to_it {
            Some(told) => {
                let said = bad.cannot_dial(&good);
                let refused = said.contains("the peer refuses this node's certificate: ");
                assert!(refused && said.contains(told), "{what}: {said}");
            }
            None => bad.recorder.wait_until("it is heard", || good.stats().accepts > 0),
        }
    }
}

#[test]
fn who_speaks_plain_or_shows_no_certificate_is_not_heard() {
    let authority = Authority::new();
    let files = authority.node("one", &["127.0.0.1"]);
    let one = TestNode::start_with(secured(1, &files));
    let mut plain = RawPeer::dial(one.transport.local_address());
    plain.write(FrameKind::Hello, |out| hello(node(2), one.id, Purpose::Messages).encode(out));
    one.waits_for_close(CloseReason::Tls, 1);
    assert!(no_certificate(&one, &files).is_err());
    one.waits_for_close(CloseReason::Tls, 2);
    assert_eq!(one.stats().accepts, 0);
}

/// Dials with trust in the authority but without a certificate of its own, and waits for an answer to a hello.
fn no_certificate(one: &TestNode, files: &TlsFiles) -> std::io::Result<()> {
    use std::io::{Read, Write};
    use std::sync::Arc;

    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, ServerName};

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca_file).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let socket = RawPeer::dial(one.transport.local_address()).socket;
    let mut stream = rustls::StreamOwned::new(client, socket);
    stream.write_all(&mraft_wire::encode_frame(FrameKind::Hello, |out| {
        hello(node(2), one.id, Purpose::Messages).encode(out);
    }))?;
    stream.read_exact(&mut [0; 1])
}

#[test]
fn a_plain_dialer_and_a_secured_node_do_not_meet_and_a_plain_node_and_a_secured_dialer_neither() {
    let authority = Authority::new();
    let one = TestNode::start_with(secured(1, &authority.node("one", &["127.0.0.1"])));
    let two = TestNode::start(2);
    two.knows(&one);
    one.waits_for_close(CloseReason::Tls, 1);
    one.knows(&two);
    two.waits_for_close(CloseReason::Protocol, 1);
    assert_eq!((one.stats().dials, two.stats().dials), (0, 0));
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let authority = Authority::new();
    let good = authority.node("good", &["127.0.0.1"]);
    let other = authority.node("other", &["127.0.0.1"]);
    let empty = authority.path().join("empty.pem");
    fs::write(&empty, "").expect("written");
    good.check().expect("usable");
    let refused = |files: TlsFiles| match files.check() {
        Err(TransportError::Tls { file, reason }) => {
            (file.file_name().expect("a name").to_string_lossy().into_owned(), reason)
        }
        other => panic!("{other:?}"),
    };
    let missing = refused(TlsFiles { ca_file: authority.path().join("missing.pem"), ..good.clone() });
    assert_eq!(missing.0, "missing.pem");
    let no_certificate = refused(TlsFiles { cert_file: empty.clone(), ..good.clone() });
    assert_eq!(no_certificate, ("empty.pem".to_owned(), "it holds no certificate in PEM form".to_owned()));
    let no_key = refused(TlsFiles { key_file: empty, ..good.clone() });
    assert_eq!(no_key, ("empty.pem".to_owned(), "it holds no private key in PEM form".to_owned()));
    let swapped = refused(TlsFiles { key_file: other.key_file, ..good });
    assert!(swapped.0 == "other.key" && swapped.1.contains("good.pem"), "{swapped:?}");
}
