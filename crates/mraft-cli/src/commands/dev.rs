// SPDX-License-Identifier: Apache-2.0

//! `mraft dev`: the development cluster with this binary, this terminal and this process's signals.

use std::io::Write;
use std::sync::mpsc::channel;

use crate::cli::DevArgs;
use crate::dev::{Asked, Directory, Event, HttpProbe, Supervisor, TemporaryDirectory};
use crate::exit::{CommandError, Exit};
use crate::signals;

pub(super) fn run(args: &DevArgs) -> Result<Exit, CommandError> {
    let asked = Asked {
        nodes: args.nodes.as_ref().and_then(|nodes| nodes.parse().ok()),
        groups: args.groups,
        replicas: args.replicas,
        base_port: args.base_port,
    };
    let failed = |what: &str, error: std::io::Error| CommandError::failed(format!("{what}: {error}"));
    // From here on a signal stops the cluster in order, so that nothing is left behind, the temporary directory included.
    let (sender, events) = channel();
    let signals = sender.clone();
    signals::on_signals(move |count| {
        let _ = signals.send(Event::Signal(count));
    })
    .map_err(|error| failed("signals cannot be received", error))?;
    let (path, _temporary) = match &args.dir {
        Some(path) => (path.clone(), None),
        None => {
            let directory = TemporaryDirectory::new()
                .map_err(|error| failed("a temporary directory cannot be made", error))?;
            (directory.path().to_owned(), Some(directory))
        }
    };
    let directory = Directory::claim(&path, asked).map_err(CommandError::usage)?;
    let program = std::env::current_exe().map_err(|error| failed("this program cannot be found", error))?;
    let probe =
        HttpProbe::new(&directory.plan).map_err(|error| failed("the nodes cannot be asked", error))?;
    let mut say = |line: String| {
        // Nobody reading is no reason to stop.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    };
    Supervisor::new(&directory, program, args.respawn_after, &mut say).run(probe, sender, &events)
}
