//! An independent implementation of the client wire protocol: frames, record messages and info requests.
//!
//! It does not use the server's own parser, so that a mistake in the parser cannot go unnoticed.
//!
//! A frame is `version u8 = 2 | kind u8 | body length u48`, then the body; all numbers are big-endian. A
//! record message is a 22-byte header, then fields (`length u32 | type u8 | value`, the length includes the
//! type), then operations
//! (`length u32 | code u8 | particle type u8 | flags u8 | name length u8 | name | value`, the length is that
//! of all that follows). Requests and replies have the same layout.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use ripemd::{Digest as _, Ripemd160};

/// Bytes before a frame's body.
pub const FRAME_HEADER_SIZE: usize = 8;
/// Bytes of a record message before its fields.
pub const MESSAGE_HEADER_SIZE: usize = 22;
/// The largest body that a server accepts.
pub const BODY_SIZE_MAX: u64 = 128 << 20;

/// Frame kinds.
pub mod kind {
    /// Info request: names separated by newlines. The answer is `name TAB value NEWLINE` for each.
    pub const INFO: u8 = 1;
    /// Authentication.
    pub const SECURITY: u8 = 2;
    /// Record message.
    pub const MESSAGE: u8 = 3;
    /// Deflated record message.
    pub const COMPRESSED: u8 = 4;
}

/// Bits of the `info1` byte.
pub mod info1 {
    pub const READ: u8 = 0x01;
    pub const GET_ALL: u8 = 0x02;
    pub const SHORT_QUERY: u8 = 4;
    pub const BATCH: u8 = 0x08;
    pub const GET_NO_BINS: u8 = 0x20;
}

/// Bits of the `info2` byte.
pub mod info2 {
    pub const WRITE: u8 = 0x01;
    pub const DELETE: u8 = 0x02;
    pub const GENERATION: u8 = 0x04;
    pub const DURABLE_DELETE: u8 = 0x10;
    pub const CREATE_ONLY: u8 = 0x20;
    pub const RESPOND_ALL_OPS: u8 = 0x80;
}

/// Bits of the `info3` byte.
pub mod info3 {
    pub const LAST: u8 = 0x01;
    pub const PARTITION_DONE: u8 = 0x04;
    pub const UPDATE_ONLY: u8 = 0x08;
    pub const CREATE_OR_REPLACE: u8 = 0x10;
}

/// Field types.
pub mod field {
    pub const NAMESPACE: u8 = 0;
    pub const SET: u8 = 1;
    pub const KEY: u8 = 2;
    pub const DIGEST: u8 = 4;
    pub const PARTITION_ID_ARRAY: u8 = 11;
    pub const INDEX_RANGE: u8 = 22;
    pub const INDEX_TYPE: u8 = 26;
    pub const UDF_FILE: u8 = 30;
    pub const UDF_FUNCTION: u8 = 31;
    pub const UDF_ARGUMENTS: u8 = 32;
    pub const UDF_OP: u8 = 33;
    pub const BATCH: u8 = 41;
    pub const FILTER_EXPRESSION: u8 = 43;
}

/// The field of a query by index for the values of a bin: those equal to a value, or those between two
/// values. `particle` is their type.
pub fn index_range(bin: &str, particle: u8, values: &[&[u8]]) -> Vec<u8> {
    let mut range = vec![1, bin.len() as u8];
    range.extend(bin.as_bytes());
    range.push(particle);
    for value in values {
        range.extend((value.len() as u32).to_be_bytes());
        range.extend(*value);
    }
    range
}

/// Same as [`index_range`], for integers from `low` to `high`.
pub fn integer_range(bin: &str, low: i64, high: i64) -> Vec<u8> {
    index_range(bin, particle::INTEGER, &[&low.to_be_bytes(), &high.to_be_bytes()])
}

/// Operation codes.
pub mod operation {
    pub const READ: u8 = 1;
    pub const WRITE: u8 = 2;
    pub const INCR: u8 = 5;
    pub const EXP_READ: u8 = 7;
    pub const EXP_MODIFY: u8 = 8;
    pub const APPEND: u8 = 9;
    pub const PREPEND: u8 = 10;
    pub const TOUCH: u8 = 11;
    pub const BITS_MODIFY: u8 = 13;
    pub const DELETE: u8 = 14;
}

/// Particle types.
pub mod particle {
    pub const NULL: u8 = 0;
    pub const INTEGER: u8 = 1;
    pub const STRING: u8 = 3;
    pub const BLOB: u8 = 4;
    pub const MAP: u8 = 19;
    pub const LIST: u8 = 20;
}

/// Result codes used by the tests.
pub mod result {
    pub const OK: u8 = 0;
    pub const UNKNOWN: u8 = 1;
    pub const NOT_FOUND: u8 = 2;
    pub const GENERATION: u8 = 3;
    pub const PARAMETER: u8 = 4;
    pub const EXISTS: u8 = 5;
    pub const OUT_OF_SPACE: u8 = 8;
    pub const TIMEOUT: u8 = 9;
    pub const RECORD_TOO_BIG: u8 = 13;
    pub const UNSUPPORTED: u8 = 16;
    pub const DEVICE_OVERLOAD: u8 = 18;
    pub const NAMESPACE: u8 = 20;
    pub const FORBIDDEN: u8 = 22;
    pub const ENTERPRISE_ONLY: u8 = 25;
    pub const FILTERED_OUT: u8 = 27;
    pub const SECURITY_NOT_ENABLED: u8 = 52;
    pub const UDF_EXECUTION: u8 = 100;
}

/// One operation of a request, or one bin of a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    pub code: u8,
    pub particle: u8,
    pub flags: u8,
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

impl Operation {
    /// An operation with a name but no value.
    pub fn bare(code: u8, name: &str) -> Operation {
        Operation { code, name: name.as_bytes().to_vec(), ..Operation::default() }
    }

    /// Reads one bin.
    pub fn read(name: &str) -> Operation {
        Operation::bare(operation::READ, name)
    }

    /// An operation with an integer operand.
    pub fn integer(code: u8, name: &str, value: i64) -> Operation {
        let value = value.to_be_bytes().to_vec();
        Operation { particle: particle::INTEGER, value, ..Operation::bare(code, name) }
    }

    /// An operation with a string operand.
    pub fn string(code: u8, name: &str, value: &str) -> Operation {
        let value = value.as_bytes().to_vec();
        Operation { particle: particle::STRING, value, ..Operation::bare(code, name) }
    }

    /// An operation with a blob operand.
    pub fn blob(code: u8, name: &str, value: Vec<u8>) -> Operation {
        Operation { particle: particle::BLOB, value, ..Operation::bare(code, name) }
    }
}

/// A record message: a request as built, or a reply as parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub info1: u8,
    pub info2: u8,
    pub info3: u8,
    pub info4: u8,
    /// Zero in requests.
    pub result: u8,
    pub generation: u32,
    /// In a request, seconds to live; in a reply, the void-time in seconds since 2010-01-01.
    pub record_ttl: u32,
    /// In a request, milliseconds that it may take; in a reply to a batch, the index of the row.
    pub transaction_ttl: u32,
    pub fields: Vec<(u8, Vec<u8>)>,
    pub operations: Vec<Operation>,
}

impl Message {
    /// A request for the record of `key` in namespace `test`, set `rig`.
    pub fn on(key: &str) -> Message {
        Message::on_record("test", "rig", key)
    }

    /// A request for the record of the string key `key`.
    pub fn on_record(namespace: &str, set: &str, key: &str) -> Message {
        Message::default()
            .with_field(field::NAMESPACE, namespace.as_bytes())
            .with_field(field::SET, set.as_bytes())
            .with_field(field::DIGEST, &digest(set, key))
    }

    /// Reads all bins of the record of `key`.
    pub fn get(key: &str) -> Message {
        Message { info1: info1::READ | info1::GET_ALL, ..Message::on(key) }
    }

    /// Writes one blob bin named `b`.
    pub fn put(key: &str, value: Vec<u8>) -> Message {
        Message::write(key).with_operation(Operation::blob(operation::WRITE, "b", value))
    }

    /// A write of the record of `key`, without operations.
    pub fn write(key: &str) -> Message {
        Message { info2: info2::WRITE, ..Message::on(key) }
    }

    /// Deletes the record of `key`.
    pub fn delete(key: &str) -> Message {
        Message { info2: info2::WRITE | info2::DELETE, ..Message::on(key) }
    }

    /// Reads all records of a namespace.
    pub fn scan(namespace: &str) -> Message {
        let partitions: Vec<u8> = (0..4096u16).flat_map(u16::to_le_bytes).collect();
        Message { info1: info1::READ | info1::GET_ALL, info3: info3::PARTITION_DONE, ..Message::default() }
            .with_field(field::NAMESPACE, namespace.as_bytes())
            .with_field(field::PARTITION_ID_ARRAY, &partitions)
    }

    /// A batch that reads all bins of the records of these keys in namespace `test`, set `rig`.
    pub fn get_all<'k>(keys: impl ExactSizeIterator<Item = &'k str>) -> Message {
        let mut value = (keys.len() as u32).to_be_bytes().to_vec();
        value.push(0);
        for (row, key) in (0u32..).zip(keys) {
            value.extend(row.to_be_bytes());
            value.extend(digest("rig", key));
            // Flags, info1, numbers of fields and of operations; the namespace is the only field.
            value.extend([0, info1::READ | info1::GET_ALL, 0, 1, 0, 0]);
            value.extend(5u32.to_be_bytes());
            value.push(field::NAMESPACE);
            value.extend(b"test");
        }
        Message { info1: info1::READ | info1::BATCH, ..Message::default() }.with_field(field::BATCH, &value)
    }

    pub fn with_field(mut self, field_type: u8, value: &[u8]) -> Message {
        self.fields.push((field_type, value.to_vec()));
        self
    }

    pub fn with_operation(mut self, operation: Operation) -> Message {
        self.operations.push(operation);
        self
    }

    /// The message without a frame.
    pub fn body(&self) -> Vec<u8> {
        let mut body = vec![22, self.info1, self.info2, self.info3, self.info4, self.result];
        body.extend(self.generation.to_be_bytes());
        body.extend(self.record_ttl.to_be_bytes());
        body.extend(self.transaction_ttl.to_be_bytes());
        body.extend((self.fields.len() as u16).to_be_bytes());
        body.extend((self.operations.len() as u16).to_be_bytes());
        for (field_type, value) in &self.fields {
            body.extend((value.len() as u32 + 1).to_be_bytes());
            body.push(*field_type);
            body.extend(value);
        }
        for op in &self.operations {
            body.extend((4 + op.name.len() as u32 + op.value.len() as u32).to_be_bytes());
            body.extend([op.code, op.particle, op.flags, op.name.len() as u8]);
            body.extend(&op.name);
            body.extend(&op.value);
        }
        body
    }

    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        frame(kind::MESSAGE, &self.body())
    }

    /// Whether this is the last message of an answer.
    pub fn is_last(&self) -> bool {
        self.info3 & info3::LAST != 0
    }

    /// The value of the field of this type.
    pub fn field(&self, field_type: u8) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.0 == field_type).map(|field| field.1.as_slice())
    }

    /// The value of the bin `name`.
    pub fn bin(&self, name: &str) -> Option<&[u8]> {
        self.operations.iter().find(|op| op.name == name.as_bytes()).map(|op| op.value.as_slice())
    }
}

/// A received frame: its kind and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl Frame {
    /// Decodes a whole frame; `None` if the number of bytes differs from the one stated in the frame.
    pub fn decode(bytes: &[u8]) -> Option<Frame> {
        let (header, body) = bytes.split_first_chunk::<FRAME_HEADER_SIZE>()?;
        (body_size(header) == body.len() as u64).then(|| Frame { kind: header[1], body: body.to_vec() })
    }

    /// The record messages in the body; `None` if it is not a sequence of well-formed messages.
    pub fn messages(&self) -> Option<Vec<Message>> {
        let mut cursor = Cursor { rest: &self.body };
        let mut messages = Vec::new();
        while !cursor.rest.is_empty() {
            messages.push(cursor.message()?);
        }
        Some(messages)
    }

    /// Whether the frame holds the last message of an answer of several messages.
    pub fn holds_last(&self) -> bool {
        self.kind != kind::MESSAGE || self.messages().is_none_or(|all| all.iter().any(Message::is_last))
    }
}

/// The length that a frame's header states for its body.
pub fn body_size(header: &[u8; FRAME_HEADER_SIZE]) -> u64 {
    u64::from_be_bytes(*header) & 0xffff_ffff_ffff
}

/// The eight bytes before a body of `size` bytes.
pub fn frame_header(kind: u8, size: u64) -> [u8; FRAME_HEADER_SIZE] {
    (0x0200_0000_0000_0000 | u64::from(kind) << 48 | size).to_be_bytes()
}

/// A frame around `body`.
pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = frame_header(kind, body.len() as u64).to_vec();
    bytes.extend(body);
    bytes
}

/// A frame that announces `size` bytes for the deflated bytes in `stream`.
pub fn announcing(size: u64, stream: &[u8]) -> Vec<u8> {
    frame(kind::COMPRESSED, &[&size.to_be_bytes()[..], stream].concat())
}

/// The bytes, deflated as by zlib.
pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

/// A frame in its compressed form.
pub fn compressed(original: &[u8]) -> Vec<u8> {
    announcing(original.len() as u64, &zlib(original))
}

/// The frame of an info request for `names`, one per line. Without names it asks for the default set.
pub fn info_request(names: &str) -> Vec<u8> {
    let line_end = if names.is_empty() || names.ends_with('\n') { "" } else { "\n" };
    frame(kind::INFO, format!("{names}{line_end}").as_bytes())
}

/// The digest that clients send for a string key.
pub fn digest(set: &str, key: &str) -> [u8; 20] {
    let mut hasher = Ripemd160::new();
    hasher.update(set.as_bytes());
    hasher.update([particle::STRING]);
    hasher.update(key.as_bytes());
    hasher.finalize().into()
}

/// Reads fields of a message off the front of a slice.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    fn short(&mut self) -> Option<u16> {
        self.bytes(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn word(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn message(&mut self) -> Option<Message> {
        let header_size = self.byte()? as usize;
        let mut message = Message {
            info1: self.byte()?,
            info2: self.byte()?,
            info3: self.byte()?,
            info4: self.byte()?,
            result: self.byte()?,
            generation: self.word()?,
            record_ttl: self.word()?,
            transaction_ttl: self.word()?,
            ..Message::default()
        };
        let (field_count, operation_count) = (self.short()?, self.short()?);
        self.bytes(header_size.checked_sub(MESSAGE_HEADER_SIZE)?)?;
        for _ in 0..field_count {
            let size = self.word()? as usize;
            let field_type = self.byte()?;
            message.fields.push((field_type, self.bytes(size.checked_sub(1)?)?.to_vec()));
        }
        for _ in 0..operation_count {
            let size = self.word()? as usize;
            let (code, particle, flags, name_size) = (self.byte()?, self.byte()?, self.byte()?, self.byte()?);
            let name = self.bytes(name_size as usize)?.to_vec();
            let value = self.bytes(size.checked_sub(4 + name.len())?)?.to_vec();
            message.operations.push(Operation { code, particle, flags, name, value });
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_messages_are_decoded() {
        let message = Message { generation: 7, record_ttl: u32::MAX, ..Message::write("k") }
            .with_operation(Operation::integer(operation::INCR, "count", -2))
            .with_operation(Operation::read("count"));
        let frame = Frame::decode(&message.encode()).unwrap();
        assert_eq!(frame.kind, kind::MESSAGE);
        assert_eq!(frame.messages().unwrap(), [message]);
    }

    #[test]
    fn every_cut_of_a_message_is_refused() {
        let body = Message::put("k", b"value".to_vec()).body();
        for size in 1..body.len() {
            assert_eq!(Frame { kind: kind::MESSAGE, body: body[..size].to_vec() }.messages(), None);
        }
    }

    #[test]
    fn digest_is_the_clients() {
        // The digest that the official Python client computes for ("test", "demo", "key").
        let expected = [
            0x3b, 0xd4, 0x75, 0xbd, 0x0c, 0x73, 0xf2, 0x10, 0xb6, 0x7e, 0xa8, 0x37, 0x93, 0x30, 0x0e, 0xea,
            0xe5, 0x76, 0x28, 0x5d,
        ];
        assert_eq!(digest("demo", "key"), expected);
    }

    #[test]
    fn header_carries_kind_and_size() {
        let header = frame_header(kind::INFO, 0x0102_0304_0506);
        assert_eq!(header, [2, 1, 1, 2, 3, 4, 5, 6]);
        assert_eq!(body_size(&header), 0x0102_0304_0506);
    }
}
