// SPDX-License-Identifier: Apache-2.0

//! One log for all groups of a node: one write and one fdatasync per turn.
