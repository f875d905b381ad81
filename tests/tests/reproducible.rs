//! What `packaging/remap` is for: the same sources give the same bytes in any folder, and no folder is in them. A program of a few lines
//! stands for the real ones, whose release builds take many minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

const MANIFEST: &str = r#"
[workspace]
members = ["part"]
[package]
name = "whole"
version = "1.0.0"
edition = "2021"
[dependencies]
part = { path = "part" }
[profile.release]
lto = "thin"
strip = "symbols"
codegen-units = 4
"#;

const PART: &str = r#"
pub fn first(all: &[u32]) -> u32 { assert!(!all.is_empty(), "none"); all[0] }
include!(concat!(env!("OUT_DIR"), "/made.rs"));
"#;

/// A place of a panic in generated code too, which is below the target folder.
const GENERATES: &str = r#"
fn main() {
    let folder = std::env::var("OUT_DIR").unwrap();
    std::fs::write(format!("{folder}/made.rs"), "pub fn made(all: &[u32]) -> u32 { all[7] }").unwrap();
}
"#;

fn sources(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("part/src"))?;
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("Cargo.toml"), MANIFEST)?;
    fs::write(
        folder.join("part/Cargo.toml"),
        "[package]\nname = \"part\"\nversion = \"1.0.0\"\nedition = \"2021\"\n",
    )?;
    fs::write(folder.join("part/build.rs"), GENERATES)?;
    fs::write(folder.join("part/src/lib.rs"), PART)?;
    fs::write(
        folder.join("src/main.rs"),
        "fn main() { let all: Vec<u32> = std::env::args().map(|it| it.len() as u32).collect();\n\
         println!(\"{} {}\", part::first(&all), part::made(&all)); }\n",
    )?;
    fs::write(folder.join("at.c"), "const char *at(void) { return __FILE__; }\n")?;
    Ok(())
}

/// The program and the object of C code, built there.
fn built(folder: &Path, is_remapped: bool) -> Result<[Vec<u8>; 2]> {
    sources(folder)?;
    let remap = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/remap").canonicalize()?;
    let before = if is_remapped { format!(". '{}'; ", remap.display()) } else { String::new() };
    let script = format!(
        "set -euo pipefail; {before}cargo build --quiet --release --offline; cc ${{CFLAGS:-}} -c -o at.o \"$PWD/at.c\""
    );
    let mut build = Command::new("bash");
    build.args(["-c", &script]).current_dir(folder).env("CARGO_HOME", folder.join("cargo-home"));
    // Flags and folders of whoever runs this test are not the machine's that is meant.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "CARGO_TARGET_DIR", "CFLAGS", "CXXFLAGS"] {
        build.env_remove(name);
    }
    let output = build.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok([fs::read(folder.join("target/release/whole"))?, fs::read(folder.join("at.o"))?])
}

fn names(bytes: &[u8], folder: &Path) -> bool {
    let folder = folder.as_os_str().as_encoded_bytes();
    bytes.windows(folder.len()).any(|window| window == folder)
}

#[test]
fn two_folders_give_the_same_bytes_and_are_not_in_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (one, other) = (folder.path().join("one"), folder.path().join("some/other"));
    let (first, second) = (built(&one, true)?, built(&other, true)?);
    for (first, second) in first.iter().zip(&second) {
        ensure!(!names(first, folder.path()) && !names(second, folder.path()), "a folder is in there");
        ensure!(first == second, "the bytes differ");
    }
    // Without it this test would see what it looks for.
    let plain = built(&folder.path().join("plain"), false)?;
    ensure!(plain.iter().all(|bytes| names(bytes, folder.path())), "nothing to be seen by this test");
    Ok(())
}

/// What is released is built with it.
#[test]
fn a_release_is_built_with_it() -> Result<()> {
    let build = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/build"))?;
    let at = build.find(". packaging/remap").context("packaging/build does not")?;
    let first =
        build.find("cargo build --quiet --locked --profile release").context("no release is built")?;
    ensure!(at < first, "it is built before");
    Ok(())
}
