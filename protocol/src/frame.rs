//! How a message looks on a stream.
//!
//! ```text
//! length of the body, u32 big endian | body: bincode 2, standard configuration
//! ```
//!
//! There is no version in a frame: ALPN has settled it once for the connection ([`crate::version`]), and a second place
//! could only disagree. The format is not self-describing, which is why messages are append-only.
//!
//! A length is checked against its limit as soon as its four bytes are here, before a byte of the body is kept. A body is
//! decoded under a byte limit, must be used up to its last byte, and is then [validated](crate::validate).
//! Nothing here panics, whatever the bytes are.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::FRAME_BYTES_MAX;
use crate::validate::{Invalid, Validate};

/// The bytes before a body: its length.
pub const HEADER_BYTES: usize = 4;

/// Why bytes are not a frame, or a message cannot become one. It never carries the message's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body is longer than it may be.
    #[error("a frame of at least {length} bytes is over the limit of {max}")]
    TooLarge {
        /// How long it says it is, or how far encoding got.
        length: usize,
        /// How long it may be.
        max: usize,
    },
    /// The body is not an encoded message of the expected type.
    #[error("a frame is not a valid {message}: {detail}")]
    Malformed {
        /// The type that was expected.
        message: &'static str,
        /// What the codec said.
        detail: String,
    },
    /// The message ends before the body does.
    #[error("a frame has {length} bytes after the end of its message")]
    Trailing {
        /// How many bytes are left over.
        length: usize,
    },
    /// The message is well encoded and out of bounds.
    #[error("a frame is out of bounds")]
    Invalid(#[source] Invalid),
    /// More bytes were pushed although a whole frame is waiting to be taken.
    #[error("{length} bytes are waiting in the decoder, and frames must be taken out before more are put in")]
    Backlog {
        /// How many bytes wait.
        length: usize,
    },
    /// An earlier frame was broken; nothing after it is trusted.
    #[error("an earlier frame was broken")]
    Broken,
}

/// A new frame around a message.
///
/// # Errors
/// [`FrameError::Invalid`] if the message is out of bounds; a valid one of [`crate::message`] always fits.
pub fn encode<T: Serialize + Validate>(message: &T) -> Result<Bytes, FrameError> {
    let mut buffer = BytesMut::new();
    encode_into(message, &mut buffer)?;
    Ok(buffer.freeze())
}

/// Appends a frame to `buffer`, or leaves it as it was.
///
/// # Errors
/// As [`encode`].
pub fn encode_into<T: Serialize + Validate>(message: &T, buffer: &mut BytesMut) -> Result<(), FrameError> {
    message.validate().map_err(FrameError::Invalid)?;
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEADER_BYTES]);
    let mut body = Body { buffer, start: start + HEADER_BYTES, refused: None };
    let encoded = bincode::serde::encode_into_writer(message, &mut body, CONFIGURATION);
    let refused = body.refused;
    let length = buffer.len() - start - HEADER_BYTES;
    let header = match (refused, encoded, u32::try_from(length)) {
        (None, Ok(()), Ok(header)) => header,
        (refused, encoded, _) => {
            buffer.truncate(start);
            return Err(encoding_failed::<T>(refused, encoded, length));
        }
    };
    buffer[start..start + HEADER_BYTES].copy_from_slice(&header.to_be_bytes());
    Ok(())
}

/// The message of one body, without its header.
///
/// # Errors
/// Everything but [`FrameError::Backlog`] and [`FrameError::Broken`].
pub fn decode<T: DeserializeOwned + Validate>(body: &[u8]) -> Result<T, FrameError> {
    if body.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { length: body.len(), max: FRAME_BYTES_MAX });
    }
    let (message, used) = bincode::serde::decode_from_slice::<T, _>(body, CONFIGURATION)
        .map_err(|error| FrameError::Malformed { message: short_name::<T>(), detail: error.to_string() })?;
    if used < body.len() {
        return Err(FrameError::Trailing { length: body.len() - used });
    }
    message.validate().map_err(FrameError::Invalid)?;
    Ok(message)
}

/// Cuts a stream of bytes, in whatever pieces it comes, into messages.
///
/// It keeps the bytes of an unfinished frame and nothing else: between frames it owns no memory, which is what makes an
/// idle session cheap. After an error it stays broken, for the boundary of the next frame cannot be trusted.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    body_bytes_max: usize,
    broken: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder of frames of up to [`FRAME_BYTES_MAX`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(FRAME_BYTES_MAX)
    }

    /// A decoder with a smaller limit, in bytes, for a peer that is trusted less.
    #[must_use]
    pub fn with_limit(body_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), body_bytes_max: body_bytes_max.min(FRAME_BYTES_MAX), broken: false }
    }

    /// Takes the next bytes of the stream. Call [`Self::next`] until it has no more before the next push: that is what
    /// bounds the memory, to one frame and one push.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] as soon as the next frame's header says so, [`FrameError::Backlog`] if whole frames are
    /// still waiting, [`FrameError::Broken`] after an earlier error.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if self.broken {
            return Err(FrameError::Broken);
        }
        if self.buffer.len() >= HEADER_BYTES + self.body_bytes_max {
            return Err(FrameError::Backlog { length: self.buffer.len() });
        }
        self.check_header(bytes)?;
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole message, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// As [`decode`], and [`FrameError::Broken`] after an earlier error.
    #[expect(clippy::should_implement_trait, reason = "no iterator: the caller chooses each frame's type")]
    pub fn next<T: DeserializeOwned + Validate>(&mut self) -> Result<Option<T>, FrameError> {
        if self.broken {
            return Err(FrameError::Broken);
        }
        let Some(length) = self.check_header(&[])? else { return Ok(None) };
        let Some(body) = self.buffer.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(None) };
        match decode(body) {
            Ok(message) => {
                self.buffer.advance(HEADER_BYTES + length);
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                }
                Ok(Some(message))
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// How many bytes wait for the rest of their frame. At the end of a stream, anything but 0 means that it was cut off.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// How much memory the decoder holds on the heap, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The length of the frame at the front, once its header is complete in what is buffered and `more`.
    fn check_header(&mut self, more: &[u8]) -> Result<Option<usize>, FrameError> {
        let mut header = [0; HEADER_BYTES];
        let mut front = self.buffer.iter().chain(more);
        for place in &mut header {
            match front.next() {
                Some(byte) => *place = *byte,
                None => return Ok(None),
            }
        }
        let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        if length > self.body_bytes_max {
            return Err(self.fail(FrameError::TooLarge { length, max: self.body_bytes_max }));
        }
        Ok(Some(length))
    }

    fn fail(&mut self, error: FrameError) -> FrameError {
        self.buffer = BytesMut::new();
        self.broken = true;
        error
    }
}

type Codec = Configuration<LittleEndian, Varint, Limit<FRAME_BYTES_MAX>>;

const CONFIGURATION: Codec = bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();

/// Writes a body and refuses what would make it too long. (The codec's own limit is for decoding only.)
struct Body<'a> {
    buffer: &'a mut BytesMut,
    start: usize,
    /// How long the body would have become.
    refused: Option<usize>,
}

impl Writer for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        let length = self.buffer.len() - self.start + bytes.len();
        if length > FRAME_BYTES_MAX {
            self.refused = Some(length);
            return Err(EncodeError::UnexpectedEnd);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }
}

fn encoding_failed<T>(refused: Option<usize>, encoded: Result<(), EncodeError>, length: usize) -> FrameError {
    match (refused, encoded) {
        (None, Err(error)) => FrameError::Malformed { message: short_name::<T>(), detail: error.to_string() },
        (refused, _) => FrameError::TooLarge { length: refused.unwrap_or(length), max: FRAME_BYTES_MAX },
    }
}

/// A type's name without its path.
fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.rsplit("::").next().unwrap_or(name)
}
