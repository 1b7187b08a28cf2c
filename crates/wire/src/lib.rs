// SPDX-License-Identifier: Apache-2.0

//! Bytes between nodes: frames, hello, forwarded requests; pure.
