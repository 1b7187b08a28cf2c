// SPDX-License-Identifier: Apache-2.0

//! Hosts and ports as people write them: IPv4, IPv6 in brackets, or a host name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::str::FromStr;

use mraft_types::NodeId;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
    /// A host name, resolved where it is used.
    Name(String),
}

impl Host {
    /// This machine only.
    pub const LOOPBACK: Host = Host::V4(Ipv4Addr::LOCALHOST);

    /// Whether nobody outside this machine can reach it. A name counts only when it is `localhost`.
    pub fn is_loopback(&self) -> bool {
        match self {
            Host::V4(ip) => ip.is_loopback(),
            Host::V6(ip) => ip.is_loopback(),
            Host::Name(name) => name == "localhost",
        }
    }

    /// Whether it means every interface (0.0.0.0 or `::`), which nobody can dial.
    pub fn is_unspecified(&self) -> bool {
        match self {
            Host::V4(ip) => ip.is_unspecified(),
            Host::V6(ip) => ip.is_unspecified(),
            Host::Name(_) => false,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::V4(ip) => write!(f, "{ip}"),
            Host::V6(ip) => write!(f, "{ip}"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for Host {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Host, NotAnAddress> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match bare.parse() {
            Ok(IpAddr::V4(ip)) if bare == text => Ok(Host::V4(ip)),
            Ok(IpAddr::V6(ip)) => Ok(Host::V6(ip)),
            _ if is_host_name(text) => Ok(Host::Name(text.to_ascii_lowercase())),
            _ => Err(NotAnAddress),
        }
    }
}

/// A machine and a port other than 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The machine.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// The node id of the node whose Raft address this is (row S10): only IPv4 addresses have one.
    pub fn node_id(&self) -> Option<NodeId> {
        match self.host {
            Host::V4(ip) => NodeId::from_address(SocketAddrV4::new(ip, self.port)),
            Host::V6(_) | Host::Name(_) => None,
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::V6(ip) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl FromStr for HostPort {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<HostPort, NotAnAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(NotAnAddress)?;
        // Without brackets an IPv6 address and a port cannot be told apart.
        if host.contains(':') && !host.starts_with('[') {
            return Err(NotAnAddress);
        }
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse() {
            Ok(port) if port > 0 && digits => Ok(HostPort { host: host.parse()?, port }),
            _ => Err(NotAnAddress),
        }
    }
}

/// A text that is not an address. The reader of the value knows better than this type what to say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnAddress;

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address")
    }
}

impl std::error::Error for NotAnAddress {}

/// The longest name that DNS knows.
const HOST_NAME_BYTES_MAX: usize = 253;

/// Whether it is a name and cannot be a mistyped IPv4 address.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && label.bytes().all(inner)
    };
    let last_is_a_number =
        text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= HOST_NAME_BYTES_MAX && text.split('.').all(label) && !last_is_a_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["10.0.0.1:13890", "[::1]:13890", "node-1.example:13890", "localhost:1"] {
            let address: HostPort = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("[fe80::1]".parse::<Host>(), "fe80::1".parse::<Host>());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":1",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "10.0.0.1:+1",
            "10.0.0.256:1",
            "::1:13890",
            "a b:1",
            "-a:1",
            "[10.0.0.1]:1",
            "http://a:1",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_ipv4_addresses_have_a_node_id() {
        let id = |text: &str| text.parse::<HostPort>().expect(text).node_id();
        assert_eq!(id("10.1.2.3:13890").map(NodeId::get), Some((0x0a01_0203 << 16) | 13890));
        assert_eq!(id("[::1]:13890"), None);
        assert_eq!(id("node-1:13890"), None);
    }
}
