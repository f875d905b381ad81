//! The small web service that the demo deploys. It has no dependencies, so that its archive is small and its build quick.
//!
//! `demo-web PORT` answers `GET /` with its version, which it reads from the file `VERSION` beside its folder, and
//! `GET /healthz` with 200, or with 503 if a file `BROKEN` lies there: that is how the demo ships a bad release.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// How long a client may take to ask.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|text| text.parse::<u16>().ok());
    let port = port.ok_or_else(|| std::io::Error::other("usage: demo-web PORT"))?;
    let program = std::env::current_exe()?;
    let folder = program.parent().and_then(|bin| bin.parent()).map_or_else(PathBuf::new, PathBuf::from);
    let version = std::fs::read_to_string(folder.join("VERSION"))?;
    let broken = folder.join("BROKEN").exists();
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    for stream in listener.incoming() {
        // A client that goes away is its own problem.
        stream.and_then(|stream| answer(stream, version.trim(), broken)).ok();
    }
    Ok(())
}

fn answer(mut stream: TcpStream, version: &str, broken: bool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut request = String::new();
    BufReader::new(&stream).read_line(&mut request)?;
    let (status, body) = match request.split(' ').nth(1) {
        Some("/healthz") if broken => {
            ("503 Service Unavailable", "the database schema is newer than this release\n".into())
        }
        Some("/healthz") => ("200 OK", "ok\n".to_owned()),
        Some("/") => ("200 OK", format!("demo-web {version}\n")),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
