//! Where the product's binaries are: beside the one that runs, as cargo builds them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// Overrides the search: a folder with the binaries.
const FOLDER_VARIABLE: &str = "STELLA_BIN_DIR";

/// The path of a binary of the workspace.
///
/// A test runs in `target/<profile>/deps`, the load tool in `target/<profile>`; both find what is in the latter.
///
/// # Errors
/// If it was not built.
pub fn path(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        let path = PathBuf::from(folder).join(name);
        anyhow::ensure!(path.is_file(), "{} is not there ({FOLDER_VARIABLE} is set)", path.display());
        return Ok(path);
    }
    let own = std::env::current_exe().context("the path of this program is not known")?;
    let folders = own.ancestors().skip(1).take(2);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file()).with_context(|| {
        format!("{name} is not built beside {}; run `cargo build --workspace --bins` first", own.display())
    })
}
