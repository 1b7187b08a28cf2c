// SPDX-License-Identifier: Apache-2.0

//! Snapshots on their way: whole or not at all, and the process that stages one may die in the middle of that.

use mraft::apply_worker::SnapshotSend;
use mraft::core::{Incarnation, Input, SnapshotOrder};
use mraft::meta::GroupMeta;
use mraft_engine::event::Event;

use super::crashes::INSTALL_OPERATIONS;
use super::{Action, World, running};
use crate::check::{Broken, promise};

/// A snapshot that was read and is on its way.
pub(super) struct Transfer {
    of: Incarnation,
    order: SnapshotOrder,
    meta: GroupMeta,
    chunks: Vec<Vec<u8>>,
}

impl World {
    pub(super) fn send_snapshot(&mut self, from: usize, from_boot: u64, mut send: SnapshotSend) {
        let mut chunks = Vec::new();
        loop {
            let mut chunk = Vec::new();
            match send.view.next_chunk(512, &mut chunk) {
                Ok(true) => chunks.push(chunk),
                Ok(false) | Err(_) => break,
            }
        }
        let Some(to) = self.ids.iter().position(|id| *id == send.order.to.node()) else { return };
        let wait = self.random.network.between(1_000, 60_000);
        let send = Box::new(Transfer { of: send.of, order: send.order, meta: send.meta, chunks });
        self.after(wait, Action::Snapshot { to, from, from_boot, send });
    }

    /// The end of a transfer: it arrives whole when both processes still run and the path is open, and not at all otherwise.
    pub(super) fn receive_snapshot(
        &mut self,
        to: usize,
        from: usize,
        from_boot: u64,
        send: Transfer,
    ) -> Result<(), Broken> {
        let open =
            self.network.connected(self.ids[from], self.ids[to]) && !self.random.network.per_mille(100);
        self.arm_sometimes(to, self.mix.install_crash_per_mille / 4, INSTALL_OPERATIONS);
        let arrived = open && self.nodes[to].process.is_some() && self.stage(to, &send)?;
        if let Some(process) = running(&mut self.nodes, from, from_boot) {
            let event = Event::SnapshotSent { to: send.order.to, ok: arrived };
            process.core.handle(Input::Own(send.of, event));
            self.pump(from)?;
        }
        self.pump(to)
    }

    fn stage(&mut self, to: usize, send: &Transfer) -> Result<bool, Broken> {
        let Some(process) = self.nodes[to].process.as_mut() else { return Ok(false) };
        process.staged += 1;
        let directory = process.staged;
        let Some(applier) = process.apply.applier(send.of.group) else { return Ok(false) };
        let of = applier.incarnation();
        let is_for = process
            .registry
            .records()
            .get(&send.of.group)
            .is_some_and(|record| record.replica == send.order.to && record.uid == send.order.uid);
        if !is_for {
            return Ok(false);
        }
        let staged = applier.machine().stage(directory, &send.meta.encode()).and_then(|mut stage| {
            for chunk in &send.chunks {
                stage.write_chunk(chunk)?;
            }
            stage.finish()
        });
        if self.dies(to) {
            return Ok(false);
        }
        match staged {
            Ok(()) => {}
            Err(_) if self.nodes[to].faulty.any() || self.nodes[to].is_hurt => return Ok(false),
            Err(error) => {
                return Err(Broken { promise: promise::STAGEABLE, how: error.to_string() });
            }
        }
        let Some(process) = self.nodes[to].process.as_mut() else { return Ok(false) };
        process.core.handle(Input::Staged {
            of,
            from: send.order.from,
            to: send.order.to,
            term: send.order.term,
            start: send.meta.log_start(),
            directory,
        });
        Ok(true)
    }
}
