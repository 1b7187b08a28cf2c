// SPDX-License-Identifier: Apache-2.0

//! `GET /v1/scan`: keys in bytewise order over all groups.
//!
//! Keys are spread over groups by hash, so every group has a share of every range. Each group is asked for pages, some groups at a
//! time, and each page is folded into one bounded, sorted answer: when it is full, its largest entries fall out, and from then on only
//! what is smaller than its last key counts. A group is asked again only while its next page may still hold such keys. When no group
//! is left, everything up to the last key is complete, whatever the order of the answers was. So a scan holds one answer and the pages
//! in flight, not one page of every group.
//!
//! Each page is of one moment of its group; the groups' moments differ.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::extract::{Request, State};
use mraft_api::{Consistency, ErrorCode, ScanAnswer, ScanEntry, Served};
use mraft_types::limits::KEY_BYTES_MAX;
use mraft_types::{GroupId, slot_of_key};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::door::Shared;
use crate::errors::Refused;
use crate::http::answer::{Answered, json};
use crate::http::query::Query;
use crate::limits::{
    ANSWER_SLACK, SCAN_BYTES_MAX, SCAN_ENTRIES_DEFAULT, SCAN_ENTRIES_MAX, SCAN_GROUPS_AT_ONCE,
};
use crate::needs::{Failure, NodeError, PageAnswer, PageEntry, PageRequest};

const PARAMETERS: [&str; 7] =
    ["prefix", "prefix_base64", "after", "after_base64", "limit", "consistency", "timeout_ms"];

pub(super) async fn get(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let query = Query::parse(request.uri().query(), &PARAMETERS)?;
    let prefix = query.bytes_or_base64("prefix", "prefix_base64")?.unwrap_or_default();
    let after = query.bytes_or_base64("after", "after_base64")?;
    for (name, bytes) in [("prefix", Some(&prefix)), ("after", after.as_ref())] {
        if bytes.is_some_and(|bytes| bytes.len() > KEY_BYTES_MAX) {
            let text = format!("`{name}` must have at most {KEY_BYTES_MAX} bytes");
            return Err(Refused::new(ErrorCode::BadParameter, text));
        }
    }
    let limit = query.number("limit", 1, SCAN_ENTRIES_MAX as u64)?;
    let limit = limit.map_or(SCAN_ENTRIES_DEFAULT, |limit| limit as usize);
    let consistency = query.consistency()?;
    let deadline = query.deadline(&door.limits)?;
    let _held = door.scans.enter(deadline).await?;
    let groups = door.node.groups_of(whole_tag(&prefix).then(|| slot_of_key(&prefix)));
    let scan = Scan { door: &door, prefix: &prefix, consistency, deadline, groups: groups.len() };
    let merge = scan.run(groups, after.as_deref(), Merge::new(limit, SCAN_BYTES_MAX)).await?;
    json(&merge.into_answer())
}

/// Whether everything that begins so has the same slot: the prefix holds a whole, non-empty `{tag}`.
fn whole_tag(prefix: &[u8]) -> bool {
    let Some(open) = prefix.iter().position(|byte| *byte == b'{') else { return false };
    prefix[open + 1..].iter().position(|byte| *byte == b'}').is_some_and(|len| len > 0)
}

struct Scan<'a> {
    door: &'a Shared,
    prefix: &'a [u8],
    consistency: Consistency,
    deadline: Instant,
    groups: usize,
}

impl Scan<'_> {
    async fn run(
        &self,
        groups: Vec<GroupId>,
        after: Option<&[u8]>,
        mut merge: Merge,
    ) -> Result<Merge, Box<Refused>> {
        let mut waiting: VecDeque<(GroupId, Option<Vec<u8>>)> =
            groups.into_iter().map(|group| (group, after.map(<[u8]>::to_vec))).collect();
        let mut asked = JoinSet::new();
        loop {
            while asked.len() < SCAN_GROUPS_AT_ONCE
                && let Some((group, after)) = waiting.pop_front()
            {
                // The answer may have filled up since this page was put on the list.
                if merge.wants(after.as_deref()) {
                    let reply = self.ask(group, after.as_deref(), &merge);
                    asked.spawn(async move { (group, after, reply.await) });
                }
            }
            let failed = |failure: Box<Failure>| Refused::by_node(failure, false);
            let (group, after, answered) =
                match timeout_at(self.deadline + ANSWER_SLACK, asked.join_next()).await {
                    Ok(None) => return Ok(merge),
                    Ok(Some(Ok(answered))) => answered,
                    Ok(Some(Err(error))) => {
                        return Err(failed(NodeError::Internal(format!("a page of a scan: {error}")).into()));
                    }
                    Err(_) => {
                        let why = "no answer came before the deadline".to_owned();
                        return Err(failed(NodeError::Unknown(why).into()));
                    }
                };
            let page = answered.map_err(failed)?;
            // Otherwise a scan might never end.
            if page.next.is_some() && page.next <= after {
                return Err(failed(NodeError::Internal("a page of a scan leads back".to_owned()).into()));
            }
            if let Some(next) = merge.take(page) {
                waiting.push_back((group, Some(next)));
            }
        }
    }

    fn ask(&self, group: GroupId, after: Option<&[u8]>, merge: &Merge) -> crate::needs::Reply<PageAnswer> {
        // About twice a group's fair share, so that mostly one page of each is enough.
        let share = |of: usize, least: usize| (2 * of / self.groups.max(1)).clamp(least.min(of), of);
        let page = PageRequest {
            group,
            prefix: self.prefix,
            after,
            entries_max: share(merge.entries_max, 8),
            bytes_max: share(merge.bytes_max, 16 << 10),
        };
        self.door.node.scan(page, self.consistency, self.deadline.into_std())
    }
}

/// The smallest entries so far.
struct Merge {
    entries_max: usize,
    bytes_max: usize,
    bytes: usize,
    entries: BTreeMap<Vec<u8>, ScanEntry>,
    /// Whether entries fell out or were left: there is more behind the last key.
    has_more: bool,
    /// Set when it filled up: keys from here on do not count. Only ever goes down.
    end: Option<Vec<u8>>,
    groups: BTreeMap<u64, Served>,
}

impl Merge {
    fn new(entries_max: usize, bytes_max: usize) -> Merge {
        Merge {
            entries_max,
            bytes_max,
            bytes: 0,
            entries: BTreeMap::new(),
            has_more: false,
            end: None,
            groups: BTreeMap::new(),
        }
    }

    /// Whether keys after this one may still count.
    fn wants(&self, after: Option<&[u8]>) -> bool {
        match (&self.end, after) {
            (Some(end), Some(after)) => after < end.as_slice(),
            _ => true,
        }
    }

    /// Folds in a page; answers where to go on in its group, if it must be asked again.
    fn take(&mut self, page: PageAnswer) -> Option<Vec<u8>> {
        let group = page.served.group;
        self.groups.insert(group, page.served);
        for PageEntry { key, revision, value } in page.entries {
            if self.end.as_ref().is_some_and(|end| key >= *end) {
                self.has_more = true;
                break;
            }
            self.bytes += key.len() + value.len();
            let replaced = self.entries.insert(key.clone(), ScanEntry { key, value, revision, group });
            self.bytes -= replaced.map_or(0, |entry| entry.key.len() + entry.value.len());
            self.trim();
        }
        let next = page.next?;
        let goes_on = self.wants(Some(&next));
        self.has_more |= !goes_on;
        goes_on.then_some(next)
    }

    fn trim(&mut self) {
        while self.entries.len() > self.entries_max || (self.bytes > self.bytes_max && self.entries.len() > 1)
        {
            let Some((key, entry)) = self.entries.pop_last() else { return };
            self.bytes -= key.len() + entry.value.len();
            self.end = Some(key);
            self.has_more = true;
        }
    }

    fn into_answer(self) -> ScanAnswer {
        let next = self.entries.last_key_value().map(|(key, _)| key.clone()).filter(|_| self.has_more);
        ScanAnswer {
            entries: self.entries.into_values().collect(),
            next,
            groups: self.groups.into_values().collect(),
        }
    }
}
