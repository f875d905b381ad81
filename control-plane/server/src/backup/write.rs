//! Writing a backup, as a stream: nothing is put aside on the control plane's disk, and little is in memory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use stella_api_types::time::rfc3339;
use stella_engine::{Checkpoint, Clock};
use stella_journal::Stream;

use super::seal::Sealer;
use super::{FORMAT, HEADER_NAME, Header, JOURNAL_FOLDER, Parts, STATE_FOLDER, StreamHeader, UNFINISHED};
use super::{last, shelf};
use crate::{local, written_by};

/// How much of the events is in one member, in bytes of text. Compressed, it is in memory.
const CHUNK_BYTES: usize = 64 << 20;
/// How deep folders are followed: the state folder's own go four deep, and a link to a folder above never ends.
const DEPTH_MAX: usize = 8;
/// How much is gathered before it goes out, in bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// All members are for their owner: there are keys among them.
const MODE: u32 = 0o600;

/// Writes a backup of the state folder, with the events up to the point.
///
/// # Errors
/// If the journal is damaged, a file cannot be read, or `out` fails. What was written then has no end and is refused.
pub(crate) fn write(
    point: &Checkpoint,
    state_dir: &Path,
    parts: Parts,
    out: impl Write,
) -> anyhow::Result<Header> {
    let header = header(point, parts)?;
    let mut sealer = Sealer::new(BufWriter::with_capacity(BUFFER_BYTES, out));
    // Its drop would end the archive before the checksum. It owns nothing else.
    let mut archive = ManuallyDrop::new(tar::Builder::new(&mut sealer));
    append(&mut archive, HEADER_NAME, &serde_json::to_vec_pretty(&header)?)?;
    for path in files(state_dir, parts)? {
        append_file(&mut archive, state_dir, &path)
            .with_context(|| format!("{} cannot be copied", state_dir.join(&path).display()))?;
    }
    let mut chunks = Chunks { archive: &mut archive, number: 0, chunk: empty_chunk(), bytes: 0 };
    point.export(&mut chunks)?;
    chunks.end()?;
    sealer.finish()?;
    Ok(header)
}

fn header(point: &Checkpoint, parts: Parts) -> anyhow::Result<Header> {
    let state = point.state();
    let streams = point.heads().iter().map(|(&stream, head)| StreamHeader {
        stream,
        tenant: match stream {
            Stream::System => None,
            Stream::Tenant(id) => state.tenants.get(&id).map(|tenant| tenant.name.clone()),
        },
        events: head.next,
        hash: head.hash,
    });
    Ok(Header {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at: rfc3339(Clock::system().now()),
        incarnation: point.incarnation(),
        epoch: point.epoch(),
        last_event_at: rfc3339(point.last_time()),
        state: point.state_hash()?,
        parts,
        streams: streams.collect(),
    })
}

// === files ===

type Archive<'a, W> = tar::Builder<&'a mut Sealer<W>>;

/// What is copied, relative to the state folder and in order: all regular files but the database's, what is being written,
/// backups, which would each hold all those before it, and what was not asked for.
fn files(state_dir: &Path, parts: Parts) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let is_wanted = |path: &Path| {
        let is = |name: &str| path == Path::new(name);
        !(is("journal")
            || is(local::SOCKET)
            || is(UNFINISHED)
            || is(last::FILE_NAME)
            || is(written_by::FILE_NAME)
            || is("artifacts/incoming")
            || (is("artifacts") && !parts.artifacts)
            || (is("output") && !parts.output)
            || path.extension().is_some_and(|extension| extension == "new")
            || path.file_name().and_then(|name| name.to_str()).is_some_and(shelf::is_unfinished))
    };
    walk(state_dir, Path::new(""), &is_wanted, 0, &mut found)?;
    found.retain(|path| !is_backup(state_dir, path));
    found.sort();
    Ok(found)
}

/// Whether a file of the state folder is a backup that was put there, whatever it is called: it begins with the header's name. What
/// releases and tasks have made is what they say that it is.
fn is_backup(state_dir: &Path, path: &Path) -> bool {
    if path.starts_with("artifacts") || path.starts_with("output") {
        return false;
    }
    let mut begin = [0; HEADER_NAME.len() + 1];
    // One that cannot be read is said where it is copied.
    let was_read = File::open(state_dir.join(path)).and_then(|mut file| file.read_exact(&mut begin)).is_ok();
    was_read && begin.strip_suffix(b"\0") == Some(HEADER_NAME.as_bytes())
}

fn walk(
    state_dir: &Path,
    folder: &Path,
    is_wanted: &impl Fn(&Path) -> bool,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    let place = state_dir.join(folder);
    let wrong = || format!("the folder {} cannot be read", place.display());
    ensure!(depth < DEPTH_MAX, "{}: it is too deep; is there a link to a folder above it?", wrong());
    for item in fs::read_dir(&place).with_context(wrong)? {
        let path = folder.join(item.with_context(wrong)?.file_name());
        if !is_wanted(&path) {
            continue;
        }
        // Follows links: a folder may be on another disk.
        match fs::metadata(state_dir.join(&path)) {
            Ok(metadata) if metadata.is_dir() => walk(state_dir, &path, is_wanted, depth + 1, found)?,
            Ok(metadata) if metadata.is_file() => found.push(path),
            // A socket or the like.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(wrong),
        }
    }
    Ok(())
}

fn append<W: Write>(archive: &mut Archive<'_, W>, name: impl AsRef<Path>, content: &[u8]) -> io::Result<()> {
    archive.append_data(&mut member(content.len() as u64, SystemTime::now()), name, content)
}

/// Copies a file as long as it is now: output that is being written only grows.
fn append_file<W: Write>(archive: &mut Archive<'_, W>, state_dir: &Path, path: &Path) -> io::Result<()> {
    let file = match File::open(state_dir.join(path)) {
        Ok(file) => file,
        // Removed since it was listed: an old file that nobody needs.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let mut header = member(metadata.len(), metadata.modified()?);
    let whole = Whole { file, left: metadata.len() };
    archive.append_data(&mut header, Path::new(STATE_FOLDER).join(path), whole)
}

fn member(size: u64, modified: SystemTime) -> tar::Header {
    let seconds = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(MODE);
    header.set_mtime(seconds);
    header
}

/// Exactly as much of a file as its header says.
struct Whole {
    file: File,
    left: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&self.file).take(self.left).read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::other("it became shorter while it was read; take the backup again"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

// === events ===

/// Cuts the export into members.
struct Chunks<'a, 'b, W: Write> {
    archive: &'a mut Archive<'b, W>,
    number: u32,
    chunk: GzEncoder<Vec<u8>>,
    /// How much text is in the chunk.
    bytes: usize,
}

fn empty_chunk() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::fast())
}

impl<W: Write> Chunks<'_, '_, W> {
    fn end(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, empty_chunk()).finish()?;
        self.number += 1;
        self.bytes = 0;
        append(self.archive, format!("{JOURNAL_FOLDER}/{:06}.jsonl.gz", self.number), &chunk)
    }
}

impl<W: Write> Write for Chunks<'_, '_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes >= CHUNK_BYTES {
            self.end()?;
        }
        let written = self.chunk.write(bytes)?;
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
