//! The end of a backup: the hash of everything before it. Every bit of a backup is covered: the end itself is compared
//! byte by byte with what it has to be.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use anyhow::{Context, ensure};
use sha2::{Digest as _, Sha256};
use stella_protocol::digest::Digest;

/// The last member.
const SEAL_NAME: &str = "sha256";
/// What tar counts in.
const BLOCK_BYTES: usize = 512;
/// How long the end is: a header, a block of content, and the two empty blocks at the end of every tar archive.
const TAIL_BYTES: usize = 4 * BLOCK_BYTES;
/// How much is read at a time, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Passes bytes on and hashes them.
pub(super) struct Sealer<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Sealer<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, hash: Sha256::new() }
    }

    /// Writes the end.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let tail = tail(Digest(self.hash.finalize().into()))?;
        self.out.write_all(&tail)?;
        self.out.flush()
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The end after bytes with this hash.
fn tail(hash: Digest) -> io::Result<Vec<u8>> {
    let content = format!("{}\n", hash.to_hex());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(0);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, SEAL_NAME, content.as_bytes())?;
    builder.into_inner()
}

/// Checks a whole backup while it goes by.
#[derive(Debug)]
pub(super) struct Checker {
    hash: Sha256,
    /// The latest bytes: what may be the end.
    latest: Vec<u8>,
}

impl Checker {
    pub(super) fn new() -> Self {
        Self { hash: Sha256::new(), latest: Vec::new() }
    }

    /// Whether what went by was whole and as it was written.
    ///
    /// # Errors
    /// Says in which way it is not.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        ensure!(self.latest.len() >= TAIL_BYTES, "it is too short to be a backup");
        let before = self.latest.len() - TAIL_BYTES;
        self.hash.update(&self.latest[..before]);
        let found = &self.latest[before..];
        let expected = tail(Digest(self.hash.finalize().into()))?;
        // The header of the last member does not depend on the content.
        ensure!(
            found[..BLOCK_BYTES] == expected[..BLOCK_BYTES],
            "it was cut off: the checksum at its end is missing"
        );
        ensure!(found == expected, "it was changed: its checksum is wrong");
        Ok(())
    }
}

impl Write for Checker {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.latest.extend_from_slice(bytes);
        if let Some(surplus) = self.latest.len().checked_sub(TAIL_BYTES) {
            self.hash.update(&self.latest[..surplus]);
            self.latest.drain(..surplus);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a whole file and checks it. What comes before its end is then read from the start again.
///
/// # Errors
/// If it cannot be read, or is not as it was written.
pub(super) fn check(file: &mut File) -> anyhow::Result<io::Take<&mut File>> {
    let length = file.metadata().context("it cannot be inspected")?.len();
    let mut checker = Checker::new();
    let mut buffer = vec![0; READ_BYTES];
    file.rewind()?;
    loop {
        let count = file.read(&mut buffer).context("it cannot be read")?;
        if count == 0 {
            break;
        }
        checker.write_all(&buffer[..count])?;
    }
    checker.finish()?;
    file.rewind()?;
    Ok(file.take(length - TAIL_BYTES as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sealer = Sealer::new(&mut bytes);
        sealer.write_all(content).unwrap();
        sealer.finish().unwrap();
        bytes
    }

    fn problem(bytes: &[u8], step: usize) -> Option<String> {
        let mut checker = Checker::new();
        bytes.chunks(step).for_each(|chunk| checker.write_all(chunk).unwrap());
        checker.finish().err().map(|error| error.to_string())
    }

    #[test]
    fn any_changed_bit_and_any_other_length_is_noticed() {
        for content in [&b""[..], &[7; 512], &[0; 5 * 512]] {
            let whole = sealed(content);
            for step in [1, 7, 512, 100_000] {
                assert_eq!(problem(&whole, step), None);
            }
            for bit in 0..whole.len() * 8 {
                let mut changed = whole.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(problem(&changed, 4_096).is_some(), "bit {bit}");
            }
            for length in 0..whole.len() {
                assert!(problem(&whole[..length], 4_096).is_some(), "{length} bytes");
            }
            assert!(problem(&[&whole[..], &[0; 512]].concat(), 4_096).is_some());
        }
    }
}
