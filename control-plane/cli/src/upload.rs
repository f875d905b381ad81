//! Archives on their way to the control plane: hashed first, so that what is there already is not sent again.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use stella_api_types::paths;
use tokio_util::io::ReaderStream;

use crate::client::{Client, Error};

/// How much is read at a time, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;
/// A block of a tar archive, in bytes.
const BLOCK_BYTES: usize = 512;
/// Where the header of a tar archive has its checksum.
const CHECKSUM: Range<usize> = 148..156;

/// Makes sure that the control plane has an archive; its digest and its size in bytes.
pub(crate) async fn ensure(client: &Client, tenant: &str, file: &Path) -> Result<(String, u64), Error> {
    let failed = |error: std::io::Error| Error::Usage(format!("{} cannot be read: {error}", file.display()));
    if let Some(problem) = no_archive(&start(file).map_err(failed)?) {
        return Err(Error::Usage(format!("{} {problem}: hosts unpack .tar and .tar.gz", file.display())));
    }
    let (digest, size) = hash(file).map_err(failed)?;
    let path = paths::fill(paths::ARTIFACT, &[tenant, &digest]);
    if client.exists(&path).await? {
        return Ok((digest, size));
    }
    let opened = std::fs::File::open(file).map_err(failed)?;
    stella_archive::check(opened, size)
        .map_err(|error| Error::Usage(format!("{}: {error}: {}", file.display(), error.remedy())))?;
    let bar = ProgressBar::new(size);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(format!("uploading {}", file.display()));
    let reader = tokio::fs::File::open(file).await.map_err(failed)?;
    let counted = bar.clone();
    let stream =
        futures::StreamExt::inspect(ReaderStream::with_capacity(reader, CHUNK_BYTES), move |chunk| {
            if let Ok(bytes) = chunk {
                counted.inc(bytes.len() as u64);
            }
        });
    let sent = client.upload(&path, size, reqwest::Body::wrap_stream(stream)).await;
    bar.finish_and_clear();
    sent.map(|()| (digest, size))
}

/// The first block of a file, or all of a shorter one.
fn start(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(BLOCK_BYTES);
    std::fs::File::open(file)?.take(BLOCK_BYTES as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Why something that begins so is no archive that a host could unpack, if it is none.
fn no_archive(start: &[u8]) -> Option<&'static str> {
    const COMPRESSIONS: [(&[u8], &str); 4] = [
        (b"\xfd7zXZ", "is compressed with xz"),
        (b"BZh", "is compressed with bzip2"),
        (b"\x28\xb5\x2f\xfd", "is compressed with zstd"),
        (b"PK\x03\x04", "is a zip file"),
    ];
    if start.starts_with(b"\x1f\x8b") {
        return None;
    }
    if let Some((_, problem)) = COMPRESSIONS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(problem);
    }
    (!is_tar(start)).then_some("is no archive")
}

/// Whether this is the header of a tar archive: one of an old or new format, or the end of an empty one.
fn is_tar(header: &[u8]) -> bool {
    if header.len() < BLOCK_BYTES {
        return false;
    }
    let stored = std::str::from_utf8(&header[CHECKSUM]).unwrap_or_default();
    let stored = u64::from_str_radix(stored.trim_matches(['\0', ' ']), 8).ok();
    let blank =
        |(at, byte): (usize, &u8)| if CHECKSUM.contains(&at) { u64::from(b' ') } else { u64::from(*byte) };
    let sum: u64 = header.iter().enumerate().map(blank).sum();
    header.iter().all(|byte| *byte == 0) || stored == Some(sum)
}

fn hash(file: &Path) -> std::io::Result<(String, u64)> {
    let mut reader = std::fs::File::open(file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut size = 0;
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok((format!("sha256:{}", hex::encode(hasher.finalize())), size));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_host_could_unpack_is_told_before_it_is_sent() {
        let mut header = [0_u8; BLOCK_BYTES];
        assert_eq!(no_archive(&header), None, "an empty archive");
        header[..3].copy_from_slice(b"web");
        let sum = u64::from(b'w') + u64::from(b'e') + u64::from(b'b') + 8 * u64::from(b' ');
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(no_archive(&header), None);
        header[0] = b'W';
        assert_eq!(no_archive(&header), Some("is no archive"));
        assert_eq!(no_archive(b"\x1f\x8b\x08"), None);
        assert_eq!(no_archive(b"PK\x03\x04rest"), Some("is a zip file"));
        assert_eq!(no_archive(b"name: ship\n"), Some("is no archive"));
        assert_eq!(no_archive(b""), Some("is no archive"));
    }
}
