//! Replies: record messages built at the end of a connection's output.

use crate::ResultCode;
use crate::frame::{self, FrameType, HEADER_SIZE};
use crate::message::{MESSAGE_HEADER_SIZE, info3};

/// The header of a reply, apart from fields and bins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    pub info1: u8,
    pub info3: u8,
    pub result: ResultCode,
    pub generation: u32,
    /// Absolute, in seconds since 2010-01-01; 0 means never.
    pub void_time: u32,
    /// Row index in batch replies, otherwise 0.
    pub transaction_ttl: u32,
}

impl ReplyHeader {
    /// A header with only `result`.
    #[must_use]
    pub const fn result(result: ResultCode) -> Self {
        ReplyHeader { info1: 0, info3: 0, result, generation: 0, void_time: 0, transaction_ttl: 0 }
    }

    /// A header with only `result`, marked as the last of many replies.
    #[must_use]
    pub const fn last(result: ResultCode) -> Self {
        ReplyHeader { info3: info3::LAST, ..Self::result(result) }
    }

    /// The header that tells a query's client why partition number `partition` was not read to the end.
    #[must_use]
    pub const fn partition_done(partition: u32, result: ResultCode) -> Self {
        ReplyHeader { info3: info3::PARTITION_DONE, generation: partition, ..Self::result(result) }
    }
}

/// Writes one message into `out`: header, then fields, then ops. [`finish`](Self::finish) fills in the parts
/// that depend on the content. A writer that is dropped before that leaves `out` unchanged.
pub struct ReplyWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    framed: bool,
    field_count: u16,
    op_count: u16,
    finished: bool,
}

impl<'a> ReplyWriter<'a> {
    /// Starts a message with its own frame.
    #[inline]
    #[must_use]
    pub fn framed(out: &'a mut Vec<u8>) -> Self {
        Self::start(out, true)
    }

    /// Starts a message inside a frame that the caller writes (batch and query replies).
    #[must_use]
    pub fn unframed(out: &'a mut Vec<u8>) -> Self {
        Self::start(out, false)
    }

    #[inline]
    fn start(out: &'a mut Vec<u8>, framed: bool) -> Self {
        let start = out.len();
        let size = if framed { HEADER_SIZE + MESSAGE_HEADER_SIZE } else { MESSAGE_HEADER_SIZE };
        out.resize(start + size, 0);
        ReplyWriter { out, start, framed, field_count: 0, op_count: 0, finished: false }
    }

    /// Adds a field.
    pub fn field(&mut self, field_type: u8, value: &[u8]) {
        let [a, b, c, d] = size_be(value.len() + 1);
        self.out.extend_from_slice(&[a, b, c, d, field_type]);
        self.out.extend_from_slice(value);
        self.field_count += 1;
    }

    /// Adds an op. `write_value` writes its value, of type `particle_type`.
    ///
    /// `name` is a bin name, or the name in an op of the request, so it has at most 255 bytes.
    #[inline]
    pub fn op(&mut self, code: u8, name: &[u8], particle_type: u8, write_value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        let name_size = u8::try_from(name.len()).unwrap_or(u8::MAX);
        self.out.extend_from_slice(&[0, 0, 0, 0, code, particle_type, 0, name_size]);
        self.out.extend_from_slice(name.get(..usize::from(name_size)).unwrap_or_default());
        write_value(self.out);
        let size = size_be(self.out.len() - start - 4);
        if let Some(target) = self.out.get_mut(start..start + 4) {
            target.copy_from_slice(&size);
        }
        self.op_count += 1;
    }

    /// Bytes of the reply so far.
    #[inline]
    #[must_use]
    pub fn size(&self) -> usize {
        self.out.len() - self.start
    }

    /// Number of ops added so far.
    #[must_use]
    pub fn op_count(&self) -> u16 {
        self.op_count
    }

    /// Completes the message.
    #[inline]
    pub fn finish(mut self, header: &ReplyHeader) {
        self.finished = true;
        let end = self.out.len();
        let mut at = self.start;
        if self.framed {
            let bytes = frame::header_bytes(FrameType::Message, end - at - HEADER_SIZE);
            if let Some(target) = self.out.get_mut(at..at + HEADER_SIZE) {
                target.copy_from_slice(&bytes);
            }
            at += HEADER_SIZE;
        }
        if let Some(target) = self.out.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *target = header_bytes(header, self.field_count, self.op_count);
        }
    }
}

impl Drop for ReplyWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

/// Appends a framed message without fields or ops.
#[inline]
pub fn write_header_only(out: &mut Vec<u8>, header: &ReplyHeader) {
    out.extend_from_slice(&frame::header_bytes(FrameType::Message, MESSAGE_HEADER_SIZE));
    out.extend_from_slice(&header_bytes(header, 0, 0));
}

#[inline]
fn header_bytes(header: &ReplyHeader, field_count: u16, op_count: u16) -> [u8; MESSAGE_HEADER_SIZE] {
    let [g0, g1, g2, g3] = header.generation.to_be_bytes();
    let [v0, v1, v2, v3] = header.void_time.to_be_bytes();
    let [t0, t1, t2, t3] = header.transaction_ttl.to_be_bytes();
    let [f0, f1] = field_count.to_be_bytes();
    let [o0, o1] = op_count.to_be_bytes();
    let result = header.result.code();
    [
        22,
        header.info1,
        0,
        header.info3,
        0,
        result,
        g0,
        g1,
        g2,
        g3,
        v0,
        v1,
        v2,
        v3,
        t0,
        t1,
        t2,
        t3,
        f0,
        f1,
        o0,
        o1,
    ]
}

/// The record size limit keeps sizes in a reply far below 4 GiB.
#[inline]
fn size_be(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Request, op_code};

    #[test]
    fn a_written_reply_parses_as_a_message() {
        let mut out = b"before".to_vec();
        let mut reply = ReplyWriter::framed(&mut out);
        reply.field(0, b"test");
        reply.op(op_code::READ, b"bin", 3, |out| out.extend_from_slice(b"value"));
        let header = ReplyHeader {
            info1: 32,
            info3: 1,
            result: ResultCode::Generation,
            generation: 7,
            void_time: 9,
            transaction_ttl: 3,
        };
        reply.finish(&header);
        let frame = &out[6..];
        let parsed = frame::FrameHeader::parse(frame).unwrap().unwrap();
        assert_eq!(parsed.body_size, frame.len() - HEADER_SIZE);
        assert_eq!(frame[HEADER_SIZE + 5], 3);
        let message = Request::parse(&frame[HEADER_SIZE..]).unwrap();
        assert_eq!((message.generation, message.record_ttl, message.transaction_ttl_ms), (7, 9, 3));
        assert_eq!(message.namespace, Some(&b"test"[..]));
        let op = message.ops().next().unwrap();
        assert_eq!((op.name, op.particle_type, op.value), (&b"bin"[..], 3, &b"value"[..]));
    }

    #[test]
    fn an_unfinished_reply_leaves_nothing() {
        let mut out = b"before".to_vec();
        let mut reply = ReplyWriter::framed(&mut out);
        reply.op(op_code::READ, b"bin", 3, |out| out.extend_from_slice(b"value"));
        drop(reply);
        assert_eq!(out, b"before");
    }
}
