//! A stand-in for systemd where it is not the first process: units of a template `web@.service` that run a program of a host.
//!
//! A command of a release cannot start what outlives it, which is why a release asks a service manager. This one is a thread that takes
//! requests from a folder; [`Units::script`] is what asks it, as `systemctl` would.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often the folder is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// The units of one host. They are ended when this is dropped.
#[derive(Debug)]
pub struct Units {
    folder: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Units {
    /// Units `web@COLOUR`, that run `python3 <host root>/web-COLOUR/current/web.py PORT`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn start(folder: &Path, host_root: &Path, ports: BTreeMap<String, u16>) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let script = folder.join("unitctl");
        let text = format!(
            "#!/bin/sh\n# ACTION UNIT\nset -e\nrequest={folder}/$$.request\necho \"$1 $2\" > $request.new\nmv $request.new $request\n\
             while [ -e $request ]; do sleep 0.02; done\nread answer < $request.done\n[ \"$answer\" = ok ]\n",
            folder = folder.display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let over = Arc::new(AtomicBool::new(false));
        let mut host = Host {
            folder: folder.to_owned(),
            host_root: host_root.to_owned(),
            ports,
            running: BTreeMap::new(),
        };
        let (stops, thread) = (Arc::clone(&over), std::thread::Builder::new().name("units".to_owned()));
        let thread = thread.spawn(move || {
            while !stops.load(Ordering::Relaxed) {
                host.serve();
                std::thread::sleep(INTERVAL);
            }
            host.running.into_values().for_each(end);
        })?;
        Ok(Self { folder: folder.to_owned(), over, thread: Some(thread) })
    }

    /// The program that asks for an action on a unit and waits until it is done.
    #[must_use]
    pub fn script(&self) -> String {
        self.folder.join("unitctl").display().to_string()
    }

    /// What was asked for so far, one line each.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked has told so.
            drop(thread.join());
        }
    }
}

struct Host {
    folder: PathBuf,
    host_root: PathBuf,
    ports: BTreeMap<String, u16>,
    running: BTreeMap<String, Child>,
}

impl Host {
    fn serve(&mut self) {
        let found = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for request in found.map(|entry| entry.path()) {
            if request.extension().is_none_or(|it| it != "request") {
                continue;
            }
            let asked = fs::read_to_string(&request).unwrap_or_default();
            let answer = match self.act(asked.trim()) {
                Ok(()) => "ok".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            // The one that asks waits for both, and gives up by the time-out of its step.
            drop(fs::write(request.with_extension("request.done"), format!("{answer}\n")));
            drop(fs::remove_file(&request));
        }
    }

    fn act(&mut self, asked: &str) -> Result<()> {
        let log = self.folder.join("log");
        let before = fs::read_to_string(&log).unwrap_or_default();
        fs::write(log, format!("{before}{asked}\n"))?;
        let (action, unit) = asked.split_once(' ').context("a request is ACTION UNIT")?;
        let colour = unit.strip_prefix("web@").and_then(|it| it.strip_suffix(".service"));
        let colour = colour.with_context(|| format!("there is no unit {unit}"))?;
        if let Some(child) = self.running.remove(colour) {
            end(child);
        }
        if action == "restart" {
            let port = self.ports.get(colour).with_context(|| format!("there is no file {colour}.env"))?;
            let program = self.host_root.join(format!("web-{colour}/current/web.py"));
            let mut python = Command::new("python3");
            python.arg(program).arg(port.to_string()).stdin(Stdio::null());
            self.running
                .insert(colour.to_owned(), python.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        }
        Ok(())
    }
}

fn end(mut child: Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // One that has ended by itself is waited for as well.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    drop(child.wait());
}
