//! The agent's binary.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A supervisor starts once for every command: it must cost no runtime, no argument parser and no logger.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == stella_agent::supervisor::VERB) {
        return stella_agent::supervisor::child::main(arguments.next().map(PathBuf::from));
    }
    stella_agent::cli::main()
}
