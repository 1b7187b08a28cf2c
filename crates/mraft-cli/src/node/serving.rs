// SPDX-License-Identifier: Apache-2.0

//! The HTTP door as a part of the process: it is opened, told to stop, and when it ends by itself, for whatever reason, it takes the
//! node with it (rule T4). A node without a door would look alive and answer nobody.

use std::net::TcpListener;
use std::time::Duration;

use mraft_gateway::{Door, Drained, ServerTls, serve};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::signals::Shutdown;

/// An open door.
pub(super) struct Serving {
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<Drained>>,
}

impl Serving {
    /// Opens the door. Once it is told to stop it lets requests finish for at most `grace`.
    pub(super) fn start(
        runtime: &Runtime,
        door: Door,
        listener: TcpListener,
        tls: Option<ServerTls>,
        grace: Duration,
        shutdown: &Shutdown,
    ) -> Serving {
        let (stop, stopped) = oneshot::channel::<()>();
        let end = EndsNode(shutdown.clone());
        let task = runtime.spawn(async move {
            // Dropped when this task ends, also by a panic.
            let _end = end;
            serve(door, listener, tls, async { _ = stopped.await }, grace).await
        });
        Serving { stop, task }
    }

    /// Tells the door to stop and waits; who was waiting for an answer gets it. An error is why it ended by itself.
    pub(super) fn stop(self, runtime: &Runtime) -> Result<Drained, String> {
        // Nobody listens when the door has ended already.
        let _ = self.stop.send(());
        match runtime.block_on(self.task) {
            Ok(Ok(drained)) => Ok(drained),
            Ok(Err(error)) => Err(format!("the HTTP door failed: {error}")),
            Err(error) => Err(format!("the HTTP door ended: {error}")),
        }
    }
}

/// Asks the node to stop when it is dropped; when the node stops already, that changes nothing.
struct EndsNode(Shutdown);

impl Drop for EndsNode {
    fn drop(&mut self) {
        self.0.request("the HTTP door ended");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::time::Instant;

    use mraft_api::*;
    use mraft_gateway::Limits;
    use mraft_gateway::needs::*;
    use mraft_types::{GroupId, NodeId};

    use super::*;

    /// A node that panics whatever it is asked.
    struct Panics;

    impl Node for Panics {
        fn id(&self) -> NodeId {
            panic!("asked")
        }
        fn read(&self, _: &[u8], _: Consistency, _: Instant) -> Reply<ReadAnswer> {
            panic!("asked")
        }
        fn write(&self, _: &[Operation<'_>], _: Instant) -> Reply<mraft_gateway::needs::WriteAnswer> {
            panic!("asked")
        }
        fn groups_of(&self, _: Option<u16>) -> Vec<GroupId> {
            panic!("asked")
        }
        fn scan(&self, _: PageRequest<'_>, _: Consistency, _: Instant) -> Reply<PageAnswer> {
            panic!("asked")
        }
        fn status(&self, _: Instant) -> Reply<NodeStatus> {
            panic!("asked")
        }
        fn groups(&self, _: Instant) -> Reply<Vec<GroupSummary>> {
            panic!("asked")
        }
        fn group(&self, _: GroupId, _: Instant) -> Reply<GroupDetail> {
            panic!("asked")
        }
        fn change(&self, _: GroupId, _: Change, _: Instant) -> Reply<ChangeAnswer> {
            panic!("asked")
        }
        fn verify(&self, _: GroupId, _: Instant) -> Reply<VerifyAnswer> {
            panic!("asked")
        }
        fn retire(&self, _: NodeId, _: bool, _: Instant) -> Reply<RetireAnswer> {
            panic!("asked")
        }
        fn clear_conflict(&self, _: NodeId, _: Instant) -> Reply<ClearConflictAnswer> {
            panic!("asked")
        }
        fn health(&self) -> Health {
            panic!("asked")
        }
        fn metrics(&self, _: bool) -> Option<String> {
            panic!("asked")
        }
    }

    fn open(runtime: &Runtime, shutdown: &Shutdown) -> (Serving, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let door = Door::new(Arc::new(Panics), Limits::default());
        (Serving::start(runtime, door, listener, None, Duration::from_secs(60), shutdown), address)
    }

    #[test]
    fn t4_a_door_that_ends_by_itself_stops_the_node_with_an_error() {
        let runtime = Runtime::new().expect("a runtime");
        let shutdown = Shutdown::default();
        let (serving, address) = open(&runtime, &shutdown);
        let mut client = TcpStream::connect(address).expect("connected");
        client.write_all(b"GET /v1/status HTTP/1.1\r\nhost: door\r\n\r\n").expect("sent");
        // Nobody asks the node to stop but the door.
        assert_eq!(shutdown.wait(), "the HTTP door ended");
        let why = serving.stop(&runtime).expect_err("a panic is no clean end");
        assert!(why.contains("panic"), "{why}");
        // The connection is gone, without an answer.
        let mut rest = Vec::new();
        assert!(client.read_to_end(&mut rest).is_err() || rest.is_empty());
    }

    #[test]
    fn t4_a_door_that_is_told_to_stop_ends_well() {
        let runtime = Runtime::new().expect("a runtime");
        let shutdown = Shutdown::default();
        let (serving, _) = open(&runtime, &shutdown);
        shutdown.request("signal");
        assert_eq!(serving.stop(&runtime), Ok(Drained { open: 0, cut_off: 0 }));
        assert_eq!(shutdown.requested(), Some("signal"));
    }
}
