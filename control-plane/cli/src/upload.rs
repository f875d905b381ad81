//! Archives on their way to the control plane: hashed first, so that what is there already is not sent again.

use std::io::Read;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use stella_api_types::paths;
use tokio_util::io::ReaderStream;

use crate::client::{Client, Error};

/// How much is read at a time, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// Makes sure that the control plane has an archive; its digest and its size in bytes.
pub(crate) async fn ensure(client: &Client, tenant: &str, file: &Path) -> Result<(String, u64), Error> {
    let failed = |error: std::io::Error| Error::Usage(format!("{} cannot be read: {error}", file.display()));
    let (digest, size) = hash(file).map_err(failed)?;
    let path = paths::fill(paths::ARTIFACT, &[tenant, &digest]);
    if client.exists(&path).await? {
        return Ok((digest, size));
    }
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
