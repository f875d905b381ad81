//! The agent's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // There may be one supervisor for every command: it must cost no runtime, no argument parser and no logger.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == stella_agent::supervisor::VERB) {
        return stella_agent::supervisor::child::main();
    }
    stella_agent::cli::main()
}
