//! The generic encoding of a message between nodes: a header and typed fields (see the head of `peer`).

use std::fmt;

/// Bytes of a message's header.
pub const HEADER_SIZE: usize = 6;
/// A message with a larger body breaks the connection, as on the C server.
pub const MESSAGE_SIZE_MAX: usize = 128 << 20;

const FIELD_HEADER_SIZE: usize = 3;

/// The subject of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum MessageType {
    /// First message on a fabric connection: the calling node, and the channel.
    Hello = 0,
    Migrate = 3,
    Proxy = 4,
    Heartbeat = 5,
    Clustering = 6,
    /// Replica writes and duplicate resolution, "rw" of the C server.
    Replication = 7,
    /// Addresses for clients, "info" of the C server.
    Services = 8,
    Exchange = 9,
    /// Cluster-wide metadata.
    Smd = 15,
}

impl MessageType {
    /// The type with number `number` on the wire.
    #[must_use]
    pub const fn of(number: u16) -> Option<Self> {
        Some(match number {
            0 => MessageType::Hello,
            3 => MessageType::Migrate,
            4 => MessageType::Proxy,
            5 => MessageType::Heartbeat,
            6 => MessageType::Clustering,
            7 => MessageType::Replication,
            8 => MessageType::Services,
            9 => MessageType::Exchange,
            15 => MessageType::Smd,
            _ => return None,
        })
    }
}

/// The reason why bytes of a peer are not a valid message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerError {
    /// A field or a nested part goes beyond its end.
    Truncated,
    /// The body exceeds [`MESSAGE_SIZE_MAX`], or a compressed one its limit.
    TooLarge,
    /// An unknown message type, protocol or kind.
    Unknown,
    /// A required field is missing.
    Missing(u16),
    /// The contents of a field are invalid.
    Invalid(u16),
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerError::Truncated => f.write_str("message cut short"),
            PeerError::TooLarge => f.write_str("message too large"),
            PeerError::Unknown => f.write_str("unknown message type, protocol or kind"),
            PeerError::Missing(field) => write!(f, "field {field} is missing"),
            PeerError::Invalid(field) => write!(f, "field {field} is invalid"),
        }
    }
}

impl std::error::Error for PeerError {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageHeader {
    /// The number of its [`MessageType`], or an unknown number.
    pub type_number: u16,
    /// Bytes after the header.
    pub body_size: usize,
}

impl MessageHeader {
    /// Reads the header at the start of `bytes`; `None` while it is incomplete.
    ///
    /// # Errors
    /// When the body would be larger than [`MESSAGE_SIZE_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, PeerError> {
        let Some(&[a, b, c, d, e, f]) = bytes.first_chunk::<HEADER_SIZE>() else { return Ok(None) };
        let body_size = u32::from_be_bytes([a, b, c, d]) as usize;
        if body_size > MESSAGE_SIZE_MAX {
            return Err(PeerError::TooLarge);
        }
        Ok(Some(MessageHeader { type_number: u16::from_be_bytes([e, f]), body_size }))
    }
}

/// Splits a whole message into its type number and the bytes of its fields.
///
/// # Errors
/// When `message` is not exactly one message.
pub fn split(message: &[u8]) -> Result<(u16, &[u8]), PeerError> {
    let header = MessageHeader::parse(message)?.ok_or(PeerError::Truncated)?;
    let body = message.get(HEADER_SIZE..).unwrap_or_default();
    if body.len() == header.body_size { Ok((header.type_number, body)) } else { Err(PeerError::Truncated) }
}

/// The value of a field, borrowed from the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    U32(u32),
    U64(u64),
    /// With the terminating NUL.
    Text(&'a [u8]),
    Buffer(&'a [u8]),
    /// Big-endian numbers, without gaps.
    U32Array(&'a [u8]),
    /// Big-endian numbers, without gaps.
    U64Array(&'a [u8]),
    Msgpack(&'a [u8]),
    /// A value of a type that no message of this server uses.
    Other(&'a [u8]),
}

const U32: u8 = 1;
const U64: u8 = 3;
const TEXT: u8 = 5;
const BUFFER: u8 = 6;
const U32_ARRAY: u8 = 7;
const U64_ARRAY: u8 = 8;
const MSGPACK: u8 = 11;

/// Reads the fields of a body in order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields in the body of a message.
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Fields { rest: body }
    }

    /// The fields of a whole message, which must be of type `message_type`.
    ///
    /// # Errors
    /// When it is not.
    pub fn of(message: &'a [u8], message_type: MessageType) -> Result<Self, PeerError> {
        match split(message)? {
            (number, body) if number == message_type as u16 => Ok(Fields::new(body)),
            _ => Err(PeerError::Unknown),
        }
    }

    fn read(&mut self) -> Result<(u16, Value<'a>), PeerError> {
        let (&[high, low, kind], rest) =
            self.rest.split_first_chunk::<FIELD_HEADER_SIZE>().ok_or(PeerError::Truncated)?;
        let (value, rest) = match kind {
            U32 => {
                let (number, rest) = rest.split_first_chunk().ok_or(PeerError::Truncated)?;
                (Value::U32(u32::from_be_bytes(*number)), rest)
            }
            U64 => {
                let (number, rest) = rest.split_first_chunk().ok_or(PeerError::Truncated)?;
                (Value::U64(u64::from_be_bytes(*number)), rest)
            }
            _ => {
                let (size, rest) = rest.split_first_chunk().ok_or(PeerError::Truncated)?;
                let size = u32::from_be_bytes(*size) as usize;
                let (bytes, rest) = rest.split_at_checked(size).ok_or(PeerError::Truncated)?;
                let value = match kind {
                    TEXT => Value::Text(bytes),
                    BUFFER => Value::Buffer(bytes),
                    U32_ARRAY => Value::U32Array(bytes),
                    U64_ARRAY => Value::U64Array(bytes),
                    MSGPACK => Value::Msgpack(bytes),
                    _ => Value::Other(bytes),
                };
                (value, rest)
            }
        };
        self.rest = rest;
        Ok((u16::from_be_bytes([high, low]), value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u16, Value<'a>), PeerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Appends one message to a buffer. [`Writer::finish`] completes the header.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    /// Begins a message at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, message_type: MessageType) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(message_type as u16).to_be_bytes());
        Writer { out, start }
    }

    fn field(&mut self, id: u16, kind: u8) {
        self.out.extend_from_slice(&id.to_be_bytes());
        self.out.push(kind);
    }

    /// Adds a number of 32 bits.
    pub fn u32(&mut self, id: u16, value: u32) {
        self.field(id, U32);
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Adds a number of 64 bits.
    pub fn u64(&mut self, id: u16, value: u64) {
        self.field(id, U64);
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Adds a number of 64 bits, if there is one.
    pub fn optional_u64(&mut self, id: u16, value: Option<u64>) {
        if let Some(value) = value {
            self.u64(id, value);
        }
    }

    /// Adds a number of 32 bits, if there is one.
    pub fn optional_u32(&mut self, id: u16, value: Option<u32>) {
        if let Some(value) = value {
            self.u32(id, value);
        }
    }

    /// Adds text, with a terminating NUL.
    pub fn text(&mut self, id: u16, text: &[u8]) {
        self.sized(id, TEXT, |out| {
            out.extend_from_slice(text);
            out.push(0);
        });
    }

    /// Adds bytes.
    pub fn buffer(&mut self, id: u16, bytes: &[u8]) {
        self.sized(id, BUFFER, |out| out.extend_from_slice(bytes));
    }

    /// Adds the bytes that `write` appends.
    pub fn buffer_with(&mut self, id: u16, write: impl FnOnce(&mut Vec<u8>)) {
        self.sized(id, BUFFER, write);
    }

    /// Adds an array of numbers of 64 bits.
    pub fn u64_array(&mut self, id: u16, values: impl Iterator<Item = u64>) {
        self.sized(id, U64_ARRAY, |out| {
            for value in values {
                out.extend_from_slice(&value.to_be_bytes());
            }
        });
    }

    /// Adds the msgpack that `write` appends.
    pub fn msgpack_with(&mut self, id: u16, write: impl FnOnce(&mut Vec<u8>)) {
        self.sized(id, MSGPACK, write);
    }

    fn sized(&mut self, id: u16, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.field(id, kind);
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        write(self.out);
        put_size(self.out, at, at + 4);
    }

    /// Ends the message.
    pub fn finish(self) {
        put_size(self.out, self.start, self.start + HEADER_SIZE);
    }
}

/// Writes the number of bytes from `from` on to `at`.
///
/// # Panics
/// If there are more bytes than a message may have: the caller must limit its content.
fn put_size(out: &mut [u8], at: usize, from: usize) {
    let size = u32::try_from(out.len() - from).ok().filter(|size| *size as usize <= MESSAGE_SIZE_MAX);
    let size = size.expect("a message stays below its limit");
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&size.to_be_bytes());
    }
}

/// The text of a field without the terminating NUL.
///
/// # Errors
/// When the NUL is missing.
pub fn text(id: u16, bytes: &[u8]) -> Result<&[u8], PeerError> {
    match bytes.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(PeerError::Invalid(id)),
    }
}
