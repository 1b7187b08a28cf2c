// SPDX-License-Identifier: Apache-2.0

//! Who is who: groups, nodes, replicas, directories.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

/// A Raft group (the seed's `clusterId`). 0 is an ordinary user group; `u64::MAX` is the control center's own (rule M8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The control center's own group.
    pub const CONTROL: GroupId = GroupId(u64::MAX);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == GroupId::CONTROL { f.write_str("control") } else { write!(f, "{}", self.0) }
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{self}")
    }
}

/// Isolates deployments from one another: nodes of different deployments refuse each other at hello. 0 is a deployment like any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeploymentId(pub u64);

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A machine's process: 48 bits. In fixed-address mode IPv4 as u32 << 16 | Raft port (row S10), reversible.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

impl NodeId {
    /// Largest node id: 48 bits.
    pub const MAX: u64 = (1 << 48) - 1;

    /// A node id from its number; 0 and anything above 48 bits is none.
    pub const fn new(id: u64) -> Option<NodeId> {
        if id == 0 || id > NodeId::MAX { None } else { Some(NodeId(id)) }
    }

    /// The id of the node at this Raft address (row S10). `None` only for 0.0.0.0:0.
    pub fn from_address(address: SocketAddrV4) -> Option<NodeId> {
        NodeId::new(u64::from(u32::from(*address.ip())) << 16 | u64::from(address.port()))
    }

    /// The address that this id was made of, if it was made of one.
    pub fn to_address(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from((self.0 >> 16) as u32), (self.0 & 0xffff) as u16)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// A text that is not an id of the expected form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseIdError {
    /// What was read.
    pub text: String,
    /// The form that was expected.
    pub expected: &'static str,
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not {}", self.text, self.expected)
    }
}

impl std::error::Error for ParseIdError {}

impl FromStr for NodeId {
    type Err = ParseIdError;

    /// Reads the number, or `ip:port` of the Raft address in fixed-address mode.
    fn from_str(text: &str) -> Result<NodeId, ParseIdError> {
        let parsed = match text.parse::<SocketAddrV4>() {
            Ok(address) => NodeId::from_address(address),
            Err(_) => text.parse::<u64>().ok().and_then(NodeId::new),
        };
        parsed.ok_or_else(|| ParseIdError {
            text: text.to_owned(),
            expected: "a node id (a number from 1 to 2^48 - 1, or the node's ip:raft_port)",
        })
    }
}

/// Which life of a node in a group: 0 for an original member, larger ones allocated by the group (rule M3).
pub type Generation = u16;

/// One group's member on one node: generation << 48 | node id (rule M3). A removed replica id never comes back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId(u64);

impl ReplicaId {
    /// The replica of `node` in its `generation`-th life in the group.
    pub const fn new(generation: Generation, node: NodeId) -> ReplicaId {
        ReplicaId((generation as u64) << 48 | node.get())
    }

    /// A replica id from its number; `None` when the node part is 0.
    pub const fn from_u64(id: u64) -> Option<ReplicaId> {
        if id & NodeId::MAX == 0 { None } else { Some(ReplicaId(id)) }
    }

    /// The node it lives on.
    pub const fn node(self) -> NodeId {
        NodeId(self.0 & NodeId::MAX)
    }

    /// Its life in the group.
    pub const fn generation(self) -> Generation {
        (self.0 >> 48) as Generation
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.node(), self.generation())
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.generation() == 0 { write!(f, "{}", self.node()) } else { write!(f, "{self}") }
    }
}

impl FromStr for ReplicaId {
    type Err = ParseIdError;

    /// Reads `NODE#generation`; without `#generation` it is generation 0.
    fn from_str(text: &str) -> Result<ReplicaId, ParseIdError> {
        let (node, generation) = text.split_once('#').unwrap_or((text, "0"));
        let error = || ParseIdError { text: text.to_owned(), expected: "a replica id (NODE#generation)" };
        Ok(ReplicaId::new(generation.parse().map_err(|_| error())?, node.parse().map_err(|_| error())?))
    }
}

macro_rules! id_of_128_bits {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<$name, ParseIdError> {
                let number = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
                number.map(|number| $name(number.to_be_bytes()))
                    .ok_or_else(|| ParseIdError { text: text.to_owned(), expected: $expected })
            }
        }
    };
}

id_of_128_bits!(
    /// Which founding a group comes from: the first 128 bits of BLAKE3 over deployment, group, sorted original members with
    /// roles, and slots (rule M4). Messages of another uid are refused.
    GroupUid,
    "a group uid (32 hexadecimal digits)"
);

id_of_128_bits!(
    /// A data directory: random, made once, in WAL and data directory alike (rule M6).
    InstanceId,
    "an instance id (32 hexadecimal digits)"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_its_address_both_ways() {
        let id: NodeId = "10.1.2.3:13890".parse().expect("an address");
        assert_eq!(id.get(), (0x0a01_0203 << 16) | 13890);
        assert_eq!(id.to_address().to_string(), "10.1.2.3:13890");
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
    }

    #[test]
    fn what_is_not_a_node_id_is_refused() {
        for text in ["", "0", "281474976710656", "10.0.0.1", "[::1]:1", "host:1", "-1"] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_replica_id_names_node_and_generation() {
        let id: ReplicaId = "7#3".parse().expect("a replica id");
        assert_eq!((id.node().get(), id.generation(), id.to_string().as_str()), (7, 3, "7#3"));
        assert_eq!(ReplicaId::from_u64(id.get()), Some(id));
        assert_eq!(ReplicaId::from_u64(3 << 48), None);
        assert!("7#65536".parse::<ReplicaId>().is_err());
    }
}
