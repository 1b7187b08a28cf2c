// SPDX-License-Identifier: Apache-2.0

//! Connections between nodes: threads and sockets, plain or mutual TLS.
