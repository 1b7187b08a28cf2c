// SPDX-License-Identifier: Apache-2.0

//! Node id → address (rule M9). Filled from original members and committed addresses; nothing else in the transport knows where
//! a node is.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use mraft_types::NodeId;
use mraft_types::limits::ADDRESS_BYTES_MAX;

use crate::config::TransportError;

/// Most peers: as many as a hello's table has rows.
pub const PEERS_MAX: usize = mraft_wire::hello::INSTANCES_MAX;

/// Where nodes are.
#[derive(Debug, Default)]
pub struct Resolver {
    addresses: RwLock<BTreeMap<NodeId, String>>,
}

impl Resolver {
    /// Where the node is.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// Remembers where the node is; whether that is news.
    pub fn set(&self, node: NodeId, address: &str) -> Result<bool, TransportError> {
        let refuse = |reason| Err(TransportError::BadAddress { node, address: address.to_owned(), reason });
        if address.len() > ADDRESS_BYTES_MAX {
            return refuse("it is longer than 259 bytes");
        }
        match address.rsplit_once(':') {
            None | Some(("", _)) => return refuse("it must be host:port"),
            Some((_, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => {}
            Some(_) => return refuse("its port must be a number from 1 to 65535"),
        }
        let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= PEERS_MAX && !addresses.contains_key(&node) {
            return refuse("as many peers are known as may be (4096)");
        }
        Ok(addresses.insert(node, address.to_owned()).as_deref() != Some(address))
    }

    /// Forgets the node.
    pub fn remove(&self, node: NodeId) {
        self.addresses.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_dialed_is_refused() {
        let (resolver, node) = (Resolver::default(), NodeId::new(1).expect("a node id"));
        for bad in ["", "host", ":1", "host:", "host:0", "host:65536", "host:x"] {
            assert!(resolver.set(node, bad).is_err(), "{bad}");
        }
        assert!(resolver.set(node, &format!("{}:1", "h".repeat(258))).is_err());
        assert_eq!(resolver.address(node), None);
    }

    #[test]
    fn a_changed_address_is_news_and_a_repeated_one_is_not() {
        let (resolver, node) = (Resolver::default(), NodeId::new(1).expect("a node id"));
        for (address, news) in [("a:1", true), ("a:1", false), ("[::1]:2", true)] {
            assert_eq!(resolver.set(node, address).expect("a good address"), news);
            assert_eq!(resolver.address(node).as_deref(), Some(address));
        }
        resolver.remove(node);
        assert_eq!(resolver.address(node), None);
    }
}
