// SPDX-License-Identifier: Apache-2.0

//! The hello, from either side. Nothing else of a connection is used before both sides accepted the other's.

use mraft_types::NodeId;
use mraft_wire::{FrameKind, Hello, HelloConfirm, HelloRefused, HelloReply, Purpose};

use crate::handler::{Connected, Handler};
use crate::stats::CloseReason;
use crate::stream::{Broken, Stream};

/// Why a hello led to nothing.
#[derive(Clone, Debug)]
pub(crate) enum HelloFailed {
    /// The other side said no; the values are as this side sees them.
    ByPeer(Option<NodeId>, HelloRefused),
    /// This side said no.
    ByUs(Option<NodeId>, HelloRefused),
    /// It was not finished.
    Broken(Broken),
}

impl HelloFailed {
    pub(crate) fn close_reason(&self) -> CloseReason {
        match self {
            HelloFailed::ByPeer(..) | HelloFailed::ByUs(..) => CloseReason::HelloRefused,
            HelloFailed::Broken(broken) if broken.reason == CloseReason::Idle => CloseReason::HelloTimeout,
            HelloFailed::Broken(broken) => broken.reason,
        }
    }
}

impl From<Broken> for HelloFailed {
    fn from(broken: Broken) -> HelloFailed {
        HelloFailed::Broken(broken)
    }
}

impl From<mraft_wire::DecodeError> for HelloFailed {
    fn from(error: mraft_wire::DecodeError) -> HelloFailed {
        HelloFailed::Broken(error.into())
    }
}

/// The dialer's side.
pub(crate) fn say_hello(
    stream: &mut Stream,
    handler: &dyn Handler,
    node: NodeId,
    purpose: Purpose,
) -> Result<Connected, HelloFailed> {
    let ours = handler.hello(node, purpose);
    stream.write(FrameKind::Hello, |out| ours.encode(out))?;
    let reply = HelloReply::decode(&stream.read_kind(FrameKind::HelloReply)?)?;
    let (version, hello) = match reply {
        HelloReply::Accepted { version, hello, .. } => (version, *hello),
        HelloReply::Refused(refused) => {
            return Err(HelloFailed::ByPeer(Some(node), refused.from_other_side()));
        }
    };
    let accepted = handler.check_hello(&ours, &hello, Some(node)).and_then(|accepted| {
        if accepted.version == version {
            Ok(accepted)
        } else {
            Err(HelloRefused::Version { ours: ours.versions, theirs: hello.versions })
        }
    });
    match accepted {
        Ok(accepted) => {
            stream.write(FrameKind::HelloConfirm, |out| HelloConfirm::Accepted.encode(out))?;
            stream.hello_is_done();
            Ok(Connected { hello, accepted })
        }
        Err(refused) => {
            let confirm = HelloConfirm::Refused(refused.clone());
            stream.write(FrameKind::HelloConfirm, |out| confirm.encode(out))?;
            Err(HelloFailed::ByUs(Some(node), refused))
        }
    }
}

/// The acceptor's side. `before_reply` runs once this side has accepted, before the dialer can know.
pub(crate) fn hear_hello(
    stream: &mut Stream,
    handler: &dyn Handler,
    before_reply: impl FnOnce(&Hello),
) -> Result<Connected, HelloFailed> {
    let theirs = Hello::decode(&stream.read_kind(FrameKind::Hello)?)?;
    let node = theirs.node;
    let ours = handler.hello(node, theirs.purpose);
    let accepted = match handler.check_hello(&ours, &theirs, None) {
        Ok(accepted) => accepted,
        Err(refused) => {
            let reply = HelloReply::Refused(refused.clone());
            stream.write(FrameKind::HelloReply, |out| reply.encode(out))?;
            return Err(HelloFailed::ByUs(Some(node), refused));
        }
    };
    before_reply(&theirs);
    let reply = HelloReply::Accepted {
        version: accepted.version,
        feature_level: accepted.feature_level,
        hello: Box::new(ours),
    };
    stream.write(FrameKind::HelloReply, |out| reply.encode(out))?;
    match HelloConfirm::decode(&stream.read_kind(FrameKind::HelloConfirm)?)? {
        HelloConfirm::Accepted => {
            stream.hello_is_done();
            Ok(Connected { hello: theirs, accepted })
        }
        HelloConfirm::Refused(refused) => Err(HelloFailed::ByPeer(Some(node), refused.from_other_side())),
    }
}
