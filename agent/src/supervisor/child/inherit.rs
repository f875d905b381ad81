//! What the agent's unit gives the agent, and a command does not inherit: a score that keeps the kernel from ending it when memory
//! is short, and a limit of open files that old programs cannot live with.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

const SCORE: &str = "/proc/self/oom_score_adj";

/// How many files a command may open before it asks for more, which it may. As after a boot: programs that use `select` must not get
/// numbers beyond.
const FILES_MAX: u64 = 1024;

/// For the whole process: a supervisor has a few files only.
pub(super) fn limit_files() {
    let lowered = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft > FILES_MAX { setrlimit(Resource::RLIMIT_NOFILE, FILES_MAX, hard) } else { Ok(()) }
    });
    // A command with more than it expects is better than none.
    let _as_before = lowered;
}

/// While it is there, what is started is worth as much as any other process when memory is short; afterwards this process is worth
/// what it was. Nobody needs a right to give that up and to take it back.
#[derive(Debug)]
pub(super) struct Unprotected {
    /// What was given up, and where.
    given_up: Option<(PathBuf, String)>,
}

impl Unprotected {
    pub(super) fn begin() -> Self {
        Self::at(Path::new(SCORE))
    }

    fn at(file: &Path) -> Self {
        let before = fs::read_to_string(file).ok().filter(|score| score.starts_with('-'));
        let given_up = before.filter(|_| fs::write(file, "0").is_ok());
        Self { given_up: given_up.map(|score| (file.to_owned(), score)) }
    }
}

impl Drop for Unprotected {
    fn drop(&mut self) {
        if let Some((file, score)) = &self.given_up {
            // Without it the supervisor may be ended first; its command is found by its marker then.
            let _worth_less = fs::write(file, score.trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_is_given_up_for_a_start_and_taken_back_and_a_lack_of_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("oom_score_adj");
        for (before, during, after) in
            [("-500\n", "0", "-500"), ("0\n", "0\n", "0\n"), ("300\n", "300\n", "300\n")]
        {
            fs::write(&file, before).unwrap();
            let unprotected = Unprotected::at(&file);
            assert_eq!(fs::read_to_string(&file).unwrap(), during);
            drop(unprotected);
            assert_eq!(fs::read_to_string(&file).unwrap(), after);
        }
    }
}
