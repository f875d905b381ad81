//! Files that are read as root and may be another user's: nothing waits for a pipe, no device is read, and nothing is larger than
//! it may be.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

/// The largest file of certificates, in bytes.
pub const CERTIFICATES_BYTES_MAX: u64 = 1024 * 1024;

/// Opens a file in a folder that the service's user may change: a link there may lead to what only root may read, so none is
/// followed.
///
/// # Errors
/// If it cannot be opened, or is a link or no file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open(path, OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).map_err(|error| {
        let is_link = error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32);
        if is_link { io::Error::other("it is a link, which is not followed here") } else { error }
    })
}

/// Opens a file that the configuration names. It may be a link.
///
/// # Errors
/// If it cannot be opened, or is no file.
pub fn open_configured(path: &Path) -> io::Result<File> {
    open(path, OFlag::O_NONBLOCK)
}

fn open(path: &Path, flags: OFlag) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

/// All of an opened file.
///
/// # Errors
/// If it cannot be read, or has more than `bytes_max` bytes ([`io::ErrorKind::FileTooLarge`]).
pub fn read_all(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let why = format!("it has more than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn links_pipes_and_devices_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| folder.path().join(name);
        std::fs::write(of("file"), "text").unwrap();
        std::os::unix::fs::symlink(of("file"), of("link")).unwrap();
        mkfifo(&of("pipe"), Mode::S_IRWXU).unwrap();
        assert_eq!(read_all(open_regular(&of("file")).unwrap(), 4).unwrap(), b"text");
        assert_eq!(read_all(open_configured(&of("link")).unwrap(), 4).unwrap(), b"text");
        let error = open_regular(&of("link")).unwrap_err().to_string();
        assert!(error.contains("is a link"), "{error}");
        for path in [of("pipe"), "/dev/zero".into(), folder.path().to_owned()] {
            for error in [open_regular(&path), open_configured(&path)].map(Result::unwrap_err) {
                assert!(error.to_string().contains("is no file"), "{error}");
            }
        }
        let error = read_all(open_regular(&of("file")).unwrap(), 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
