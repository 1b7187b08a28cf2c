// SPDX-License-Identifier: Apache-2.0

//! Snapshot streams: only a whole one, in order, is one.

#![allow(clippy::expect_used)]

mod support;

use mraft_types::Payload;
use mraft_wire::{
    SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_META_BYTES_MAX, SnapshotChunk, SnapshotEnd, SnapshotHeader,
    SnapshotReply, SnapshotSum, StreamError,
};
use support::snapshot_header;

fn stream(parts: &[&'static str]) -> (Vec<SnapshotChunk>, SnapshotEnd) {
    let mut sum = SnapshotSum::new();
    let chunks = parts.iter().map(|part| sum.number((*part).into()).expect("a legal chunk")).collect();
    (chunks, sum.end())
}

fn receive(chunks: &[SnapshotChunk], end: &SnapshotEnd) -> Result<(), StreamError> {
    let mut sum = SnapshotSum::new();
    chunks.iter().try_for_each(|chunk| sum.receive(chunk))?;
    sum.verify(end)
}

#[test]
fn a_whole_stream_is_accepted_and_an_empty_one_too() {
    let (chunks, end) = stream(&["one", "two", "three"]);
    assert_eq!(receive(&chunks, &end), Ok(()));
    assert_eq!((end.chunks, end.bytes), (3, 11));
    let (none, end) = stream(&[]);
    assert_eq!(receive(&none, &end), Ok(()));
}

#[test]
fn missing_repeated_swapped_and_foreign_chunks_are_refused() {
    let (chunks, end) = stream(&["one", "two", "six"]);
    let order = |numbers: &[usize]| numbers.iter().map(|n| chunks[*n].clone()).collect::<Vec<_>>();
    for wrong in [&[0, 2][..], &[0, 1], &[0, 0, 1, 2], &[1, 0, 2], &[]] {
        assert!(receive(&order(wrong), &end).is_err(), "{wrong:?}");
    }
    let (foreign, _) = stream(&["one", "TWO", "six"]);
    assert!(matches!(receive(&foreign, &end), Err(StreamError::Mismatch { .. })));
}

#[test]
fn chunks_and_meta_are_bounded() {
    let mut sum = SnapshotSum::new();
    assert_eq!(sum.number(Payload::new()), Err(StreamError::ChunkLength(0)));
    let long = Payload::from(vec![0; SNAPSHOT_CHUNK_BYTES_MAX + 1]);
    assert_eq!(sum.number(long), Err(StreamError::ChunkLength(SNAPSHOT_CHUNK_BYTES_MAX + 1)));
    let meta = Payload::from(vec![0; SNAPSHOT_META_BYTES_MAX + 1]);
    let mut bytes = Vec::new();
    assert!(!SnapshotHeader { meta, ..snapshot_header() }.encode(&mut bytes));
    assert!(bytes.is_empty());
}

#[test]
fn everything_comes_back() {
    let mut bytes = Vec::new();
    assert!(snapshot_header().encode(&mut bytes));
    assert_eq!(SnapshotHeader::decode(&bytes.into()), Ok(snapshot_header()));
    let (chunks, end) = stream(&["data"]);
    let mut bytes = Vec::new();
    chunks[0].encode(&mut bytes);
    assert_eq!(SnapshotChunk::decode(&bytes.into()), Ok(chunks[0].clone()));
    let mut bytes = Vec::new();
    end.encode(&mut bytes);
    assert_eq!(SnapshotEnd::decode(&bytes), Ok(end));
    for reply in [SnapshotReply::Accepted, SnapshotReply::Finished, SnapshotReply::Refused("full".to_owned())]
    {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert_eq!(SnapshotReply::decode(&bytes), Ok(reply));
    }
    let mut bytes = Vec::new();
    SnapshotReply::Refused("ß".repeat(1000)).encode(&mut bytes);
    assert!(SnapshotReply::decode(&bytes).is_ok(), "a long reason is cut between characters");
}
