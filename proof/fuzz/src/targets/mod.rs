// SPDX-License-Identifier: Apache-2.0

//! The targets, by the room that decodes.

mod commands;
mod config;
mod consensus;
mod contract;
mod entries;
mod frames;
mod http;
mod logs;
mod messages;
mod node_files;
pub mod pieces;
mod samples;
mod stores;
mod trees;

use crate::target::Target;

/// All targets, in the order in which they are searched.
pub const TARGETS: &[Target] = &[
    messages::PACKETS,
    frames::FRAMES,
    messages::HELLO,
    messages::SNAPSHOT_STREAM,
    entries::MEMBERSHIP,
    entries::PACKED_ENTRY,
    commands::COMMAND,
    commands::QUERY,
    commands::ANSWERS,
    stores::KV_SNAPSHOT,
    stores::KV_FILES,
    trees::KV_TREE,
    trees::KV_STORE,
    node_files::GROUP_META,
    node_files::NODE_FILES,
    node_files::QUESTIONS,
    logs::LOG,
    consensus::CONSENSUS,
    config::CONFIG,
    contract::CONTRACT,
    http::HTTP,
];
