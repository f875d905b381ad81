//! What `--help` and the book show of a command line is what people copy, so it has to be taken by the program that it is for.
//!
//! Nothing is run: words are split as a shell splits them, and given to the program's parser.

use std::path::Path;
use std::{fs, io};

use clap::{Arg, Command};

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

/// What is wrong with the commands in the tables of a page, which show how a command is written and not one that can be run: flags that a
/// command does not have, values that a flag does not take, and flags that a command needs and the row does not name.
///
/// Brackets stand around what may be left out, `|` between alternatives, `…` for what is not shown, and capitals for what is filled in. A
/// row goes on with commands beside the one before: `stella env lock ENV`, `unlock ENV`. The first number is how many commands there are.
#[must_use]
pub fn wrong_in_tables(program: &Command, page: &str) -> (usize, Vec<String>) {
    let mut program = program.clone();
    program.build();
    let mut table = Table { program: &program, path: Vec::new(), commands: 0, wrong: Vec::new() };
    for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
        // Between the cells of a row, and not between alternatives.
        let row = row.replace("\\|", "\u{1}");
        let Some((first, _)) = row.split_once('|') else { continue };
        for written in first.split('`').skip(1).step_by(2) {
            table.read(&written.replace('\u{1}', " | ").replace(['[', ']'], " "), &row);
        }
    }
    (table.commands, table.wrong)
}

struct Table<'p> {
    program: &'p Command,
    /// The command that is read, and those that it is below of; the first is the program. Empty before the first of a page.
    path: Vec<&'p Command>,
    commands: usize,
    wrong: Vec<String>,
}

impl<'p> Table<'p> {
    fn read(&mut self, written: &str, row: &str) {
        let mut words = written.split_whitespace().peekable();
        match words.peek() {
            Some(first) if *first == self.program.get_name() => {
                words.next();
                self.path = vec![self.program];
            }
            Some(first) if *first == "…" || self.beside(first) => {}
            _ => return,
        }
        let is_whole = !written.contains('…');
        let mut may_be_command = true;
        let mut flag = None;
        for word in words {
            if word == "|" {
                may_be_command = true;
            } else if let Some(name) = word.strip_prefix("--") {
                flag = self.flag(name.trim_end_matches(','));
                may_be_command = false;
            } else if may_be_command && self.descend(word) {
                flag = None;
                self.is_complete(is_whole, row);
            } else {
                self.is_taken(flag, word);
                may_be_command = false;
            }
        }
    }

    /// Whether a word is the name of a command beside the one that is read, or beside one above that.
    fn beside(&self, word: &str) -> bool {
        self.path.iter().skip(1).rev().skip(1).any(|it| it.find_subcommand(word).is_some())
    }

    /// Goes on with the command of this name, below the one that is read or beside it.
    fn descend(&mut self, word: &str) -> bool {
        let above = (1..=self.path.len()).rev().filter(|length| *length > 1 || self.path.len() == 1);
        let found = above.filter_map(|length| Some((length, self.path[length - 1].find_subcommand(word)?)));
        let Some((length, command)) = found.take(1).next() else { return false };
        self.path.truncate(length);
        self.path.push(command);
        true
    }

    fn name(&self) -> String {
        let names: Vec<&str> = self.path.iter().map(|it| it.get_name()).collect();
        names.join(" ")
    }

    fn flag(&mut self, name: &str) -> Option<&'p Arg> {
        let command = self.path.last()?;
        let is_it = |it: &&Arg| {
            it.get_long() == Some(name) || it.get_all_aliases().is_some_and(|all| all.contains(&name))
        };
        let found = command.get_arguments().find(is_it);
        if found.is_none() {
            self.wrong.push(format!("{}: there is no --{name}", self.name()));
        }
        found
    }

    /// Whether a flag takes a word, if that stands for itself.
    fn is_taken(&mut self, flag: Option<&Arg>, word: &str) {
        let stands_for_itself = word.chars().all(|it| it.is_ascii_lowercase() || it == '-');
        let Some(flag) = flag.filter(|_| stands_for_itself) else { return };
        let values = flag.get_possible_values();
        if !values.is_empty() && !values.iter().any(|it| it.matches(word, false)) {
            let flag = flag.get_long().unwrap_or_default();
            self.wrong.push(format!("{}: --{flag} does not take {word}", self.name()));
        }
    }

    /// Whether all flags that a command needs are in its row.
    fn is_complete(&mut self, is_whole: bool, row: &str) {
        let Some(command) = self.path.last().filter(|it| !it.has_subcommands()) else { return };
        self.commands += 1;
        let needed = command.get_arguments().filter(|it| it.is_required_set() && is_whole);
        let lacking = needed.filter_map(Arg::get_long).filter(|flag| !row.contains(&format!("--{flag}")));
        let lacking: Vec<String> = lacking
            .map(|flag| format!("{}: needs --{flag}, which its row does not name", self.name()))
            .collect();
        self.wrong.extend(lacking);
    }
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

    #[test]
    fn tables_show_flags_that_there_are_with_values_that_they_take_and_all_that_are_needed() {
        let how = Arg::new("how").long("how").value_parser(["on-foot", "by-bus"]);
        let go = Command::new("go").arg(Arg::new("where")).arg(how);
        let come = Command::new("come").arg(Arg::new("why").long("why").required(true));
        let walk = Command::new("walk").subcommand(go).subcommand(come);
        let program = Command::new("walker").subcommand(walk);
        let said = |row: &str| wrong_in_tables(&program, &format!("| command | does |\n|---|---|\n{row}\n"));
        let good = "| `walker walk go WHERE [--how on-foot\\|by-bus\\|HOW]`, `come --why TEXT` | `--where` is not shown |";
        assert_eq!(said(good), (2, Vec::new()));
        assert_eq!(said("| `walker walk come\\|go` | see `--why` |"), (2, Vec::new()));
        assert_eq!(said("| `walker walk come …` | walks |"), (1, Vec::new()));
        for (row, wrong) in [
            ("`walker walk go [--when TIME]`", "walker walk go: there is no --when"),
            ("`walker walk go [--how on-foot\\|by-car]`", "walker walk go: --how does not take by-car"),
            ("`walker walk go`, `come`", "walker walk come: needs --why, which its row does not name"),
            ("`walker walk go`, `come --why A --how B`", "walker walk come: there is no --how"),
        ] {
            assert_eq!(said(&format!("| {row} | walks |")).1, [wrong]);
        }
    }
}
