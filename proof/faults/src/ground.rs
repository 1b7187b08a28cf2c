// SPDX-License-Identifier: Apache-2.0

//! Where nodes live: all at one loopback address, or each in a network namespace of its own.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::{Child, Command};
use std::sync::Arc;

use crate::failure::{Failure, Result};
use crate::namespaces::Network;

/// Where the nodes of a cluster live.
#[derive(Clone, Debug)]
pub enum Ground {
    /// All at this address of the run's own, so that no outgoing connection of anybody can take the port of a node that is dead just now.
    Loopback(Ipv4Addr),
    /// Each at its place of this network. Whoever talks to them must have entered it as a client.
    Namespaces(Arc<Network>),
}

/// Addresses that a node has for itself.
#[derive(Debug)]
pub struct Addresses {
    /// For its peers.
    pub raft: SocketAddrV4,
    /// For its clients.
    pub http: SocketAddrV4,
    /// Keep them from everybody else while nobody listens there yet.
    pub(crate) reserved: Vec<TcpListener>,
}

/// Ports of every node that has an address of its own.
const RAFT_PORT: u16 = 7000;
const HTTP_PORT: u16 = 7001;

impl Ground {
    /// Loopback, at an address in 127.0.0.0/8 that another run at the same time does not use.
    pub fn loopback() -> Ground {
        let [.., high, middle, low] = std::process::id().to_be_bytes();
        Ground::Loopback(Ipv4Addr::new(127, 64 | (high & 63), middle, low.clamp(1, 254)))
    }

    /// Addresses for the node at this place.
    pub fn addresses(&self, place: usize) -> Result<Addresses> {
        match self {
            Ground::Loopback(ip) => {
                let reserved = vec![TcpListener::bind((*ip, 0))?, TcpListener::bind((*ip, 0))?];
                let at = |listener: &TcpListener| {
                    Ok::<_, Failure>(SocketAddrV4::new(*ip, listener.local_addr()?.port()))
                };
                Ok(Addresses { raft: at(&reserved[0])?, http: at(&reserved[1])?, reserved })
            }
            Ground::Namespaces(network) if place < network.places() => {
                let at = |port| SocketAddrV4::new(network.ip(place), port);
                Ok(Addresses { raft: at(RAFT_PORT), http: at(HTTP_PORT), reserved: Vec::new() })
            }
            Ground::Namespaces(network) => {
                Err(Failure::new(format_args!("the network has {} places only", network.places())))
            }
        }
    }

    /// Starts a process at this place.
    pub fn spawn(&self, place: usize, command: &mut Command) -> Result<Child> {
        match self {
            Ground::Loopback(_) => Ok(command.spawn()?),
            Ground::Namespaces(network) => network.within(place, || Ok(command.spawn()?)),
        }
    }

    /// The network, if there is one.
    pub fn network(&self) -> Option<&Arc<Network>> {
        match self {
            Ground::Loopback(_) => None,
            Ground::Namespaces(network) => Some(network),
        }
    }
}
