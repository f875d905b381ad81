//! Whether an artifact is the one that is used on this host: an attempt that was to bring it may have come so far, or not.

use std::thread;

use stella_protocol::message::Effect;
use stella_protocol::spec::ArtifactSpec;

use super::super::probe::{absent, there, unclear};
use super::super::reason_of;
use super::LOCK_INTERVAL;
use super::inspect::Patience;
use super::layout::{self, Release, Shelf};
use super::list::Compared;
use crate::host::HostRoot;

/// Says whether `current` leads to the artifact, and whether that is complete. Reads every byte of it; blocks on the disk.
pub(in super::super) fn look(
    host: &HostRoot,
    slot: Option<&str>,
    spec: &ArtifactSpec,
    patience: &Patience,
) -> Effect {
    find(host, slot, spec, patience).unwrap_or_else(unclear)
}

fn find(
    host: &HostRoot,
    slot: Option<&str>,
    spec: &ArtifactSpec,
    patience: &Patience,
) -> Result<Effect, String> {
    let component = &spec.component;
    let release = Release::new(spec).map_err(|error| reason_of(&error))?;
    let found = host.find_component(slot, component).map_err(|error| reason_of(&error))?;
    let Some(dir) = found else { return Ok(absent(format!("there is no {component} on the host"))) };
    // What still works there may be the attempt, or what came after it.
    while layout::is_held(&dir).map_err(|error| reason_of(&error))? {
        patience.check().map_err(|_| format!("{component} is being worked on"))?;
        thread::sleep(LOCK_INTERVAL);
    }
    let name = &release.name;
    match layout::current(&dir).map_err(|error| reason_of(&error))? {
        Some(current) if current == *name => {}
        Some(current) => {
            return Ok(absent(format!("the current release of {component} is {current}, not {name}")));
        }
        None => return Ok(absent(format!("{component} has no current release"))),
    }
    let damaged = |how: &str| Ok(unclear(format!("{name} is current, and damaged: {how}")));
    let shelf = Shelf::open(&dir).map_err(|error| reason_of(&error))?;
    let Some(shelf) = shelf else { return damaged("its folder is missing") };
    if !shelf.is_marked(&release).map_err(|error| reason_of(&error))? {
        return damaged("it was not unpacked to its end");
    }
    match shelf.compare(&release, &|| patience.check()) {
        Ok(Compared::Same { files, bytes }) => {
            Ok(there(format!("{name} is current: {files} files, {bytes} bytes")))
        }
        // The task itself would go by its marker, too.
        Ok(Compared::Unclear(why)) => {
            Ok(there(format!("{name} is current; whether it is as it was unpacked is not known: {why}")))
        }
        Ok(Compared::Differs(how)) => damaged(&how),
        Err(stopped) => Err(format!("not all files of {name} were read: {stopped}")),
    }
}
