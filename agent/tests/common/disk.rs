//! A small disk in memory.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// A disk of 64 MiB.
pub(crate) struct Disk {
    mounted_at: TempDir,
}

impl Disk {
    pub(crate) fn mount() -> Self {
        let mounted_at = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=64m,mode=0755", "tmpfs"];
        let done = Command::new("mount").args(options).arg(mounted_at.path()).status().unwrap();
        assert!(done.success(), "a disk cannot be mounted; this test needs root");
        Self { mounted_at }
    }

    pub(crate) fn path(&self) -> &Path {
        self.mounted_at.path()
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let figures = statvfs(self.path()).unwrap();
        figures.blocks_available() * figures.fragment_size()
    }

    /// Takes space until so much is left.
    pub(crate) fn leave(&self, bytes: usize) {
        let free = usize::try_from(self.free_bytes()).unwrap();
        // A new file each time: what was taken before stays taken.
        fs::write(self.path().join(format!("ballast-{free}")), vec![1; free - bytes]).unwrap();
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self) {
        for entry in fs::read_dir(self.path()).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().starts_with("ballast-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(self.path()).status().ok();
    }
}
