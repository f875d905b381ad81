//! Programs of the host, asked with a deadline.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take. journald reads from a disk that may be the problem.
const DURATION_MAX: Duration = Duration::from_secs(15);
/// The pause between two looks at it.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// What a program said.
#[derive(Clone, Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, as far as it was read.
    pub out: String,
    /// Its standard error, as far as it was read.
    pub err: String,
}

/// Runs a program of the host in the language C, without input. Of either output up to `bytes_max` are read; one that says
/// more is ended.
///
/// # Errors
/// If it cannot be started, or is not done within 15 seconds.
pub fn run(argv: &[&str], bytes_max: usize) -> io::Result<Ran> {
    run_within(argv, bytes_max, DURATION_MAX)
}

fn run_within(argv: &[&str], bytes_max: usize, duration_max: Duration) -> io::Result<Ran> {
    let [program, arguments @ ..] = argv else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program is named"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let deadline = Instant::now() + duration_max;
    let (out, err) = (reader(child.stdout.take(), bytes_max), reader(child.stderr.take(), bytes_max));
    let status = wait(child, deadline)?;
    // Its end closes the pipes, unless it has handed them to another program that goes on.
    let text = |reader: Receiver<Vec<u8>>| {
        let left = deadline.saturating_duration_since(Instant::now()).max(LOOK_PAUSE);
        let read = reader.recv_timeout(left).map_err(|_| late())?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&read).into_owned())
    };
    Ok(Ran { status, out: text(out)?, err: text(err)? })
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it was not done in time")
}

fn wait(mut child: Child, deadline: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            // One that waits in the kernel for a disk ends only when that answers. Its thread waits for it, and ends with this
            // process at the latest; nobody waits for the thread.
            thread::spawn(move || child.kill().and_then(|()| child.wait()));
            return Err(late());
        }
        thread::sleep(LOOK_PAUSE);
    }
}

/// Reads in a thread of its own, which ends with the pipe or with this process: a pipe is open for as long as any program has it.
fn reader(pipe: Option<impl Read + Send + 'static>, bytes_max: usize) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    // Nobody may wait for it any more.
    thread::spawn(move || sender.send(read(pipe, bytes_max)).ok());
    receiver
}

/// Dropping the pipe ends a program that goes on writing.
fn read(pipe: Option<impl Read>, bytes_max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error is what there is.
        pipe.take(bytes_max as u64).read_to_end(&mut bytes).ok();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_says_up_to_a_bound() {
        let ran = run(&["sh", "-c", "echo out; echo err >&2; exit 3"], 100).unwrap();
        assert_eq!((ran.out.as_str(), ran.err.as_str(), ran.status.code()), ("out\n", "err\n", Some(3)));
        let endless = run(&["yes"], 1_000).unwrap();
        assert_eq!(endless.out.len(), 1_000);
        assert!(!endless.status.success());
        assert!(run(&["/nonexistent/program"], 1).is_err());
        assert!(run(&[], 1).is_err());
    }

    #[test]
    fn nobody_waits_for_a_program_that_does_not_end_nor_for_one_that_has_its_output() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        for script in ["(sleep 20; : >\"$0\") & wait", "(sleep 20; : >\"$0\") & exit 0"] {
            let argv = ["sh", "-c", script, done.to_str().unwrap()];
            let error = run_within(&argv, 100, Duration::from_millis(200)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(!done.exists(), "it was waited for");
        }
    }
}
