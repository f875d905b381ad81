//! What `--help` and the book show of a command line is what people copy, so it has to be taken by the program that it is for.
//!
//! Nothing is run: words are split as a shell splits them, and given to the program's parser.

use std::path::Path;
use std::{fs, io};

use clap::Command;

/// What stands between a command and another one, or a file.
const END_OF_COMMAND: [&str; 8] = ["|", ">", ">>", "<", "&&", "||", ";", "2>&1"];

/// What is wrong with the examples of a program: a command that has none, and each that the program would not take.
#[must_use]
pub fn wrong_in_help(program: &Command) -> Vec<String> {
    let mut program = program.clone();
    program.build();
    let mut wrong = Vec::new();
    walk(&program, &program, &mut vec![program.get_name().to_owned()], &mut wrong);
    wrong
}

fn walk(program: &Command, command: &Command, path: &mut Vec<String>, wrong: &mut Vec<String>) {
    let after = command.get_after_long_help().or_else(|| command.get_after_help());
    let text = after.map(ToString::to_string).unwrap_or_default();
    let examples = examples(program.get_name(), &text);
    let is_shown = |words: &Vec<String>| words.starts_with(path);
    let can_be_run = !command.has_subcommands() || !command.is_subcommand_required_set();
    if can_be_run && path.len() > 1 && !examples.iter().any(is_shown) {
        wrong.push(format!("{}: no example", path.join(" ")));
    }
    wrong.extend(examples.iter().filter_map(|words| refused(program, words)));
    for below in command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help") {
        path.push(below.get_name().to_owned());
        walk(program, below, path, wrong);
        path.pop();
    }
}

/// The commands of a program in the console blocks of a page of the book, and what the program would not take of them.
///
/// The first number is how many there are.
#[must_use]
pub fn wrong_in_page(program: &Command, page: &str) -> (usize, Vec<String>) {
    let mut blocks = page.split("```");
    let mut commands = Vec::new();
    while let (Some(_), Some(block)) = (blocks.next(), blocks.next()) {
        if let Some(typed) = block.strip_prefix("console\n").or_else(|| block.strip_prefix("sh\n")) {
            commands.extend(examples(program.get_name(), &typed.replace("\\\n", " ")));
        }
    }
    (commands.len(), commands.iter().filter_map(|words| refused(program, words)).collect())
}

/// The same of all pages below a folder.
///
/// # Errors
/// If one of them cannot be read.
pub fn wrong_in_book(program: &Command, folder: &Path) -> io::Result<(usize, Vec<String>)> {
    let (mut commands, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let (more, found) = if path.is_dir() {
            wrong_in_book(program, &path)?
        } else if path.extension().is_some_and(|it| it == "md") {
            let (more, found) = wrong_in_page(program, &fs::read_to_string(&path)?);
            (more, found.into_iter().map(|it| format!("{}: {it}", path.display())).collect())
        } else {
            continue;
        };
        commands += more;
        wrong.extend(found);
    }
    Ok((commands, wrong))
}

/// The words of each command of a program in a text, one a line.
fn examples(program: &str, text: &str) -> Vec<Vec<String>> {
    text.lines().filter_map(|line| words(program, line)).collect()
}

/// The words of a line that is a command of this program: without `sudo` and the prompt before it, and what a shell does with it.
fn words(program: &str, line: &str) -> Option<Vec<String>> {
    let line = line.trim_start();
    let line = line.strip_prefix("$ ").unwrap_or(line);
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    line.strip_prefix(program).filter(|rest| rest.is_empty() || rest.starts_with(' '))?;
    let words = shlex::split(line).unwrap_or_else(|| vec![program.to_owned(), format!("not ended: {line}")]);
    Some(words.into_iter().take_while(|word| !END_OF_COMMAND.contains(&word.as_str())).collect())
}

/// Why the program would not take these words.
fn refused(program: &Command, words: &[String]) -> Option<String> {
    let error = program.clone().try_get_matches_from(words).err()?;
    Some(format!("{}: {error}", words.join(" ")))
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn program(after: &'static str) -> Command {
        let go = Command::new("go").arg(Arg::new("where").required(true)).after_help(after);
        Command::new("walker").subcommand_required(true).subcommand(go)
    }

    #[test]
    fn each_command_needs_an_example_that_its_program_takes() {
        let none = "Examples:\n  walker go 'over there' > log # if you like\n  sudo walker go home";
        assert_eq!(wrong_in_help(&program(none)), Vec::<String>::new());
        assert_eq!(wrong_in_help(&program("")), ["walker go: no example"]);
        for bad in ["  walker go", "  walker go home now", "  walker go 'home", "  walker go home --soon"] {
            assert!(!wrong_in_help(&program(bad)).is_empty(), "{bad}");
        }
    }

    #[test]
    fn commands_of_pages_are_those_that_people_type() {
        let page = "Type `walker fly`.\n```console\n$ walker go \\\n  home\nwalkers all\n```\n```\nwalker swim\n```\n";
        assert_eq!(wrong_in_page(&program(""), page), (1, Vec::new()));
        let (commands, wrong) = wrong_in_page(&program(""), "```console\nwalker fly\n```");
        assert_eq!((commands, wrong.len()), (1, 1));
    }
}
