// SPDX-License-Identifier: Apache-2.0

//! What a data directory remembers of the node's doors, so that a restart without a file opens the same ones (row S9): where it listens,
//! and the certificates. Without it such a restart would listen elsewhere, and take connections between nodes without TLS.
//!
//! ```text
//! settings := magic "mraftset" and checksum by the atomic file; then
//!   version:u8=1  count:varint (name:bytes value:bytes)*
//! ```
//! Names are those of settings, values are written as on the command line; paths are absolute. How fast the node ticks, what it may take
//! and the like are not remembered: those have defaults that are safe.

use std::path::Path;

use mraft_disk::{Disk, atomic};
use mraft_types::codec::{DecodeError, Reader, Writer};

use super::keys::Key;
use super::model::NodeConfig;

const MAGIC: [u8; 8] = *b"mraftset";
const FILE: &str = "settings";
const VERSION: u8 = 1;
/// Nine settings, most of them paths.
const FILE_BYTES_MAX: usize = 64 << 10;
const SETTINGS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 8 << 10;

/// Settings by name, as they would be written on the command line.
pub type Kept = Vec<(&'static str, String)>;

/// What the directory remembers; nothing before the node's first start.
pub fn read(disk: &dyn Disk, data_dir: &Path) -> Result<Kept, String> {
    let path = data_dir.join(FILE);
    let told = |reason: String| {
        format!(
            "{}: damaged: {reason}; it only holds addresses and where certificates are: remove the file and start with --config",
            path.display()
        )
    };
    match atomic::read(disk, &path, MAGIC, FILE_BYTES_MAX) {
        Ok(None) => Ok(Kept::new()),
        Ok(Some(bytes)) => decode(&bytes).map_err(|error| told(error.to_string())),
        Err(atomic::ReadError::Io(error)) => Err(format!("{}: {error}", path.display())),
        Err(error) => Err(told(error.to_string())),
    }
}

/// Remembers the doors of this start.
pub fn write(disk: &dyn Disk, config: &NodeConfig) -> Result<(), String> {
    let kept = of(config);
    if read(disk, &config.data_dir)? == kept {
        return Ok(());
    }
    let path = config.data_dir.join(FILE);
    atomic::replace(disk, &path, MAGIC, &encode(&kept))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn of(config: &NodeConfig) -> Kept {
    let mut kept = vec![
        ("listen_address", config.peers.listen_address.to_string()),
        ("http_listen", config.http.listen_address.host.to_string()),
        ("http_port", config.http.listen_address.port.to_string()),
    ];
    let mut paths = Vec::new();
    if let Some(files) = &config.peers.mutual_tls {
        kept.push(("mutual_tls", "true".to_owned()));
        paths.extend([
            ("ca_file", &files.ca_file),
            ("cert_file", &files.cert_file),
            ("key_file", &files.key_file),
        ]);
    }
    if let Some(files) = &config.http.tls {
        paths.extend([("http_tls_cert_file", &files.cert_file), ("http_tls_key_file", &files.key_file)]);
    }
    // A setting is text: what is no UTF-8 cannot be said again, so a restart must be told.
    kept.extend(paths.into_iter().filter_map(|(name, path)| {
        let absolute = std::path::absolute(path).ok()?;
        Some((name, absolute.to_str()?.to_owned()))
    }));
    kept
}

/// Reads the payload of the file and writes it.
pub(crate) fn again(bytes: &[u8]) -> Result<Vec<u8>, String> {
    decode(bytes).map(|kept| encode(&kept)).map_err(|error| error.to_string())
}

fn encode(kept: &Kept) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u8(VERSION);
    out.put_varint(kept.len() as u64);
    for (name, value) in kept {
        out.put_bytes(name.as_bytes());
        out.put_bytes(value.as_bytes());
    }
    out
}

fn decode(bytes: &[u8]) -> Result<Kept, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.u8("settings.version")? {
        VERSION => {}
        other => return Err(DecodeError::Unknown("settings.version", u64::from(other))),
    }
    let mut kept = Kept::new();
    for at in 0..reader.bounded("settings.count", SETTINGS_MAX)? {
        let name = reader.text("settings.name", NAME_BYTES_MAX)?;
        let key = Key::find(name).filter(|key| key.name == name && !key.is_map);
        let name = key.ok_or(DecodeError::Unknown("settings.name", at as u64))?.name;
        kept.push((name, reader.text("settings.value", VALUE_BYTES_MAX)?.to_owned()));
    }
    reader.finish()?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_the_doors_come_back_from_their_bytes_and_never_from_cut_ones() {
        let kept: Kept = vec![("http_port", "8001".to_owned()), ("ca_file", "/tls/ca.pem".to_owned())];
        let bytes = encode(&kept);
        assert_eq!(decode(&bytes), Ok(kept));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(decode(&encode(&vec![("http_prot", String::new())])).is_err(), "a setting that nobody knows");
    }
}
