//! A file system that does not answer, as one on the network does whose server is gone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Mounted over a folder until it is dropped.
pub(crate) struct Hung {
    mounted_over: PathBuf,
    /// Whoever opens something in the folder waits for somebody to read from this.
    device: Option<File>,
}

impl Hung {
    pub(crate) fn over(path: &Path) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let done = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "hung"])
            .arg(path)
            .stdin(Stdio::from(device.try_clone().unwrap()))
            .status();
        assert!(done.unwrap().success(), "nothing can be mounted; this test needs root");
        Self { mounted_over: path.to_path_buf(), device: Some(device) }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Who waits is told that there is nobody.
        drop(self.device.take());
        Command::new("umount").arg("--lazy").arg(&self.mounted_over).status().ok();
    }
}
