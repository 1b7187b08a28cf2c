// SPDX-License-Identifier: Apache-2.0

//! One node full of Raft groups: the embeddable library.
