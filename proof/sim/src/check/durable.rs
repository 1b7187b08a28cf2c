// SPDX-License-Identifier: Apache-2.0

//! Durable before acknowledged (rules D1, D2): what a replica says that others may count, its log has made durable by then.

use mraft_logstore::Recovered;
use mraft_raft::{AppendReply, Body, Message};
use mraft_types::GroupId;

use super::Broken;

/// See the module.
pub const PROMISE: &str = "durable before acknowledged";

/// What of a message others may count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durable;

/// Whether others may count on what a message says: a vote, an acknowledgement.
pub fn is_counted(body: &Body) -> bool {
    matches!(body, Body::VoteReply { granted: true } | Body::AppendReply(AppendReply::Accepted { .. }))
}

impl Durable {
    /// A replica says something that others may count, while its log holds this.
    pub fn says(&self, group: GroupId, message: &Message, log: Option<&Recovered>) -> Result<(), Broken> {
        let broken = |how: String| Err(Broken::new(PROMISE, format!("group {group}: {how}")));
        let Some(log) = log else { return broken(format!("its log knows nothing of who says {message:?}")) };
        let (state, last) = (log.hard_state, log.last_index);
        match &message.body {
            Body::VoteReply { granted: true }
                if state.term == message.term && state.vote != Some(message.to)
                    || state.term < message.term =>
            {
                broken(format!("{message:?}, while the log holds {state:?}"))
            }
            Body::AppendReply(AppendReply::Accepted { matched })
                if *matched > last || state.term < message.term =>
            {
                broken(format!("{message:?}, while the log ends at {last} with {state:?}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mraft_logstore::LogKey;
    use mraft_types::{GroupUid, HardState, LogStart};

    use super::super::tests::{GROUP, replica};
    use super::*;

    #[test]
    fn d2_a_vote_and_an_acknowledgement_that_no_log_holds_are_found() {
        let log = |term, vote, last_index| Recovered {
            key: LogKey { group: GROUP, uid: GroupUid([0; 16]), replica: replica(1) },
            hard_state: HardState { term, vote, commit: 0 },
            start: LogStart::default(),
            last_index,
            terms: Vec::new(),
            memberships: Vec::new(),
            install: None,
            condemned: None,
        };
        let says = |body, log: Option<&Recovered>| {
            Durable.says(GROUP, &Message { from: replica(1), to: replica(2), term: 4, body }, log)
        };
        let vote = || Body::VoteReply { granted: true };
        says(vote(), Some(&log(4, Some(replica(2)), 0))).expect("it is durable");
        assert!(says(vote(), Some(&log(4, None, 0))).is_err());
        assert!(says(vote(), Some(&log(3, Some(replica(2)), 0))).is_err());
        let accepted = || Body::AppendReply(AppendReply::Accepted { matched: 7 });
        says(accepted(), Some(&log(4, None, 7))).expect("it is durable");
        assert!(says(accepted(), Some(&log(4, None, 6))).is_err());
        assert!(says(accepted(), Some(&log(3, None, 7))).is_err());
        assert!(says(accepted(), None).is_err());
    }
}
