// SPDX-License-Identifier: Apache-2.0

//! A replica that cannot trust its disk never votes, never acknowledges and never leads (promise P5, rule D9), and neither does one that
//! has no log yet (rule M4). Without damage no replica is condemned.

use mraft_raft::{Body, Message, Raft};
use mraft_types::GroupId;

use super::{Broken, durable};

/// See the module.
pub const SILENT: &str = "a damaged replica never votes or acknowledges";
/// See the module.
pub const ONLY_WITH_CAUSE: &str = "no replica is condemned without damage";

/// A replica says something.
pub fn says(group: GroupId, replica: &Raft, message: &Message) -> Result<(), Broken> {
    let claims = durable::is_counted(&message.body)
        || matches!(
            message.body,
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Vote { .. } | Body::HeartbeatReply { .. }
        );
    let what = match replica.condemned() {
        Some(reason) => format!("is condemned ({reason})"),
        None if replica.is_memberless() && durable::is_counted(&message.body) => "has no log".to_owned(),
        None => return Ok(()),
    };
    if !claims {
        return Ok(());
    }
    Err(Broken::new(SILENT, format!("{} of group {group} {what} and says {message:?}", replica.id())))
}
