//! The guides of the book, as a reader follows them: files to write and commands to type.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::binaries;
use crate::cluster::{Cluster, TENANT};

/// A page, and the folder in which its reader works.
#[derive(Debug)]
pub struct Guide {
    text: String,
    folder: PathBuf,
    flags: Vec<String>,
}

impl Guide {
    /// Opens `docs/guides/NAME.md` for a reader whose command line knows the cluster.
    ///
    /// # Errors
    /// If there is no such page.
    pub fn open(name: &str, cluster: &Cluster) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/guides/{name}.md"));
        let text = fs::read_to_string(&path).with_context(|| format!("{} is not there", path.display()))?;
        let folder = cluster.folder().join("reader");
        fs::create_dir_all(&folder)?;
        let mut flags = cluster.control_plane.stella_flags();
        flags.extend(["--tenant", TENANT].map(str::to_owned));
        Ok(Self { text, folder, flags })
    }

    /// Where its reader works.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The first block of code after a text of the page.
    ///
    /// # Errors
    /// If the page has no such text, or no code after it.
    pub fn block(&self, after: &str) -> Result<&str> {
        let rest =
            self.text.split_once(after).with_context(|| format!("the guide does not say {after:?}"))?.1;
        let block = rest.split("```").nth(1).and_then(|block| block.split_once('\n'));
        Ok(block.with_context(|| format!("no code after {after:?}"))?.1)
    }

    /// Writes the first block after a text of the page to a file of the reader.
    ///
    /// # Errors
    /// If there is none, or it cannot be written.
    pub fn write(&self, after: &str, file: &str) -> Result<PathBuf> {
        let path = self.folder.join(file);
        fs::write(&path, self.block(after)?)?;
        Ok(path)
    }

    /// The commands of the page that begin so, in their order.
    #[must_use]
    pub fn commands(&self, begin: &str) -> Vec<String> {
        let mut blocks = self.text.split("```");
        let mut found = Vec::new();
        while let (Some(_), Some(block)) = (blocks.next(), blocks.next()) {
            if let Some(commands) = block.strip_prefix("console\n") {
                found.extend(commands.lines().filter(|line| line.starts_with(begin)).map(str::to_owned));
            }
        }
        found
    }

    /// A command of the page that is not started. Its words have no quotes.
    ///
    /// # Errors
    /// If it is no command of `stella`.
    pub fn command(&self, line: &str) -> Result<Command> {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["stella", arguments @ ..] = &words[..] else { anyhow::bail!("{line:?} is no command") };
        let mut stella = Command::new(binaries::path("stella")?);
        stella.args(&self.flags).args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        Ok(stella)
    }

    /// Runs a command of the page, which has to go well; what it said.
    ///
    /// # Errors
    /// If it does not.
    pub fn run(&self, line: &str) -> Result<String> {
        let ended = self.command(line)?.output()?;
        let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        ensure!(ended.status.success(), "{line}: {} {said}", ended.status);
        Ok(said)
    }

    /// Runs all commands of the page that begin so; there has to be one.
    ///
    /// # Errors
    /// If one does not go well.
    pub fn run_all(&self, begin: &str) -> Result<()> {
        let commands = self.commands(begin);
        ensure!(!commands.is_empty(), "the guide has no command {begin:?}");
        commands.iter().try_for_each(|line| self.run(line).map(drop))
    }
}

// === pages whose commands are run by a shell ===

/// A page of the book, by its path below `docs`.
fn page(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/{path}.md"));
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The blocks of a page in one language, `sh` for example, in their order.
///
/// # Errors
/// If there is no such page.
pub fn blocks(path: &str, language: &str) -> Result<Vec<String>> {
    let page = page(path)?;
    let begin = format!("```{language}\n");
    let blocks = page.split(&begin).skip(1).filter_map(|rest| rest.split_once("```"));
    Ok(blocks.map(|(block, _)| block.to_owned()).collect())
}

/// The command in the text of a page that begins so.
///
/// # Errors
/// If there is none, or more than one.
pub fn command(path: &str, begin: &str) -> Result<String> {
    let page = page(path)?;
    // Blocks stand between three of the quotes that commands in the text stand between.
    let text: String = page.split("```").step_by(2).collect();
    let found = text.split('`').skip(1).step_by(2).filter(|it| it.starts_with(begin) && !it.contains('…'));
    let found: Vec<_> = found.map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let [command] = &found[..] else {
        anyhow::bail!("{path} has {} commands {begin:?}: {found:?}", found.len())
    };
    // In a table a bar is written so.
    Ok(command.replace("\\|", "|"))
}

/// The terminal of somebody who follows a guide: `stella` knows the cluster and the tenant.
#[derive(Debug)]
pub struct Terminal<'c> {
    cluster: &'c Cluster,
    folder: PathBuf,
    token_file: Option<PathBuf>,
    variables: BTreeMap<String, String>,
}

impl<'c> Terminal<'c> {
    /// That of the administrator, or of whoever has the token in a file; in a folder that is there.
    #[must_use]
    pub fn open(cluster: &'c Cluster, folder: &Path, token_file: Option<&str>) -> Self {
        let token_file = token_file.map(|name| folder.join(name));
        Self { cluster, folder: folder.to_owned(), token_file, variables: BTreeMap::new() }
    }

    /// The same with a variable set.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs a block; the exit code, and all that was said.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn run(&self, block: &str) -> Result<(Option<i32>, String)> {
        let flags = self.cluster.control_plane.stella_flags();
        let value = |flag: &str| flags.iter().skip_while(|it| *it != flag).nth(1).context("a flag");
        let program = binaries::path("stella")?;
        let path = format!("{}:{}", program.parent().context("a folder")?.display(), std::env::var("PATH")?);
        let mut shell = Command::new("sh");
        shell.args(["-ec", block]).current_dir(&self.folder).stdin(Stdio::null());
        shell.env("PATH", path).env("STELLA_URL", value("--url")?).env("STELLA_CA", value("--ca")?);
        shell.env("STELLA_TENANT", TENANT).envs(&self.variables);
        match &self.token_file {
            Some(file) => shell.env("STELLA_TOKEN_FILE", file),
            None => shell.env("STELLA_TOKEN_FILE", value("--token-file")?),
        };
        let ended = shell.output()?;
        Ok((ended.status.code(), String::from_utf8([ended.stdout, ended.stderr].concat())?))
    }

    /// Runs a block that has to go well; what was said.
    ///
    /// # Errors
    /// If it does not.
    pub fn ok(&self, block: &str) -> Result<String> {
        let (code, said) = self.run(block)?;
        ensure!(code == Some(0), "{block} ended with {code:?}: {said}");
        Ok(said)
    }
}
