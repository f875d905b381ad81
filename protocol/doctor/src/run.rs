//! Programs of the host, asked with a deadline.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
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
    let [program, arguments @ ..] = argv else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program is named"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let out = scope.spawn(|| read(out, bytes_max));
        let err = scope.spawn(|| read(err, bytes_max));
        // Its end closes the pipes, and with that the readers end.
        let status = wait(&mut child);
        let text = |read: thread::ScopedJoinHandle<'_, Vec<u8>>| {
            String::from_utf8_lossy(&read.join().unwrap_or_default()).into_owned()
        };
        let (out, err) = (text(out), text(err));
        Ok(Ran { status: status?, out, err })
    })
}

fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + DURATION_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it was not done in time"));
        }
        thread::sleep(LOOK_PAUSE);
    }
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
}
