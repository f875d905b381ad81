//! Archives of releases in memory, and a host that they are brought to.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use stella_agent::executor::{ArtifactSource, BoxFuture, Fetched, SourceError};
use stella_protocol::digest::Digest;
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::{ArtifactSpec, TaskSpec};
use tar::{Builder, EntryType, Header};

use super::Host;

/// Artifacts in memory, and how they misbehave.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) artifacts: Mutex<HashMap<Digest, Vec<u8>>>,
    /// How many bytes one fetch hands over before it ends.
    pub(crate) cut_after: Mutex<Option<usize>>,
    pub(crate) offsets: Mutex<Vec<u64>>,
    /// A file that is made with so many bytes when something is fetched.
    pub(crate) ballast: Mutex<Option<(PathBuf, usize)>>,
}

impl Memory {
    pub(crate) fn put(&self, bytes: Vec<u8>) -> Digest {
        let digest = digest_of(&bytes);
        self.artifacts.lock().unwrap().insert(digest, bytes);
        digest
    }
}

impl ArtifactSource for Memory {
    fn fetch(&self, digest: Digest, offset: u64) -> BoxFuture<'_, Result<Fetched, SourceError>> {
        self.offsets.lock().unwrap().push(offset);
        let found = self.artifacts.lock().unwrap().get(&digest).cloned();
        if let Some((path, bytes)) = self.ballast.lock().unwrap().take() {
            std::fs::write(path, vec![1; bytes]).unwrap();
        }
        let cut = *self.cut_after.lock().unwrap();
        Box::pin(async move {
            let bytes = found.ok_or(SourceError::NotFound)?;
            let size_bytes = bytes.len() as u64;
            let mut rest = bytes[usize::try_from(offset).unwrap()..].to_vec();
            rest.truncate(cut.unwrap_or(usize::MAX));
            Ok(Fetched { size_bytes, reader: Box::pin(std::io::Cursor::new(rest)) })
        })
    }
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// A header whose name and target are written as they are: the `tar` crate would refuse the ones that matter here.
pub(crate) fn raw_entry(
    archive: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    target: &str,
    data: &[u8],
) {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    header.set_cksum();
    archive.append(&header, data).unwrap();
}

pub(crate) fn archive(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    build(&mut archive);
    archive.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A small honest release.
pub(crate) fn web(version: &str) -> Vec<u8> {
    archive(|archive| raw_entry(archive, EntryType::Regular, "version.txt", "", version.as_bytes()))
}

pub(crate) struct Fixture {
    pub(crate) host: Host,
    pub(crate) source: Arc<Memory>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::on(Host::new())
    }

    pub(crate) fn on(mut host: Host) -> Self {
        let source = Arc::new(Memory::default());
        host.artifacts = Arc::<Memory>::clone(&source);
        Self { host, source }
    }

    pub(crate) fn component(&self) -> PathBuf {
        self.host.root.path().join("web")
    }

    pub(crate) fn spec(&self, version: &str, bytes: Vec<u8>) -> ArtifactSpec {
        let size_bytes = bytes.len() as u64;
        ArtifactSpec {
            component: "web".to_owned(),
            version: version.to_owned(),
            digest: self.source.put(bytes),
            size_bytes,
            keep_releases: 3,
            timeout_ms: 60_000,
        }
    }

    pub(crate) async fn run(&self, spec: &ArtifactSpec) -> TaskOutcome {
        self.host.run(TaskSpec::Artifact(spec.clone())).await.0
    }

    /// Deploys a small release and returns its specification.
    pub(crate) async fn deploy(&self, version: &str) -> ArtifactSpec {
        let spec = self.spec(version, web(version));
        assert_eq!(self.run(&spec).await, TaskOutcome::Succeeded);
        spec
    }

    pub(crate) fn current_version(&self) -> String {
        std::fs::read_to_string(self.component().join("current/version.txt")).unwrap()
    }

    pub(crate) fn names_in(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.component().join(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn release_names(&self) -> Vec<String> {
        self.names_in("releases").into_iter().filter(|name| !name.starts_with('.')).collect()
    }
}

pub(crate) fn name_of(spec: &ArtifactSpec) -> String {
    format!("{}-{}", spec.version, spec.digest.short())
}
