//! Record messages: requests for one record, a batch or a query.
//!
//! ```text
//! offset  size  content
//!      0     1  header size, 22 (not looked at)
//!      1     4  info1 … info4, see the modules of that name
//!      5     1  result (replies only)
//!      6     4  generation
//!     10     4  record TTL in seconds, or a special value
//!     14     4  transaction TTL in milliseconds, 0 = the server's default
//!     18     2  number of fields
//!     20     2  number of ops
//!     22        fields: size u32 (of type and value), type u8, value
//!               ops:    size u32 (of all that follows), op u8, particle type u8, flags u8, name size u8,
//!                       name, [last-update-time u64 if flag bit 0], value
//! ```

use cf::Digest;

/// Bytes of a message before its fields.
pub const MESSAGE_HEADER_SIZE: usize = 22;
/// Bytes of a field before its value.
const FIELD_FIXED_SIZE: usize = 5;
/// Number of bytes before an op's name that the op's size includes.
const OP_FIXED_SIZE: usize = 4;
const OP_FLAG_LAST_UPDATE_TIME: u8 = 1;

/// Bits of the first info byte.
pub mod info1 {
    pub const READ: u8 = 1 << 0;
    pub const GET_ALL: u8 = 1 << 1;
    pub const SHORT_QUERY: u8 = 1 << 2;
    pub const BATCH: u8 = 1 << 3;
    pub const XDR: u8 = 1 << 4;
    pub const GET_NO_BINS: u8 = 1 << 5;
    pub const CONSISTENCY_LEVEL_ALL: u8 = 1 << 6;
    pub const COMPRESS_RESPONSE: u8 = 1 << 7;
}

/// Bits of the second info byte.
pub mod info2 {
    pub const WRITE: u8 = 1 << 0;
    pub const DELETE: u8 = 1 << 1;
    pub const GENERATION: u8 = 1 << 2;
    pub const GENERATION_GT: u8 = 1 << 3;
    pub const DURABLE_DELETE: u8 = 1 << 4;
    pub const CREATE_ONLY: u8 = 1 << 5;
    pub const RELAX_AP_LONG_QUERY: u8 = 1 << 6;
    pub const RESPOND_ALL_OPS: u8 = 1 << 7;
}

/// Bits of the third info byte.
pub mod info3 {
    pub const LAST: u8 = 1 << 0;
    pub const COMMIT_LEVEL_MASTER: u8 = 1 << 1;
    pub const PARTITION_DONE: u8 = 1 << 2;
    pub const UPDATE_ONLY: u8 = 1 << 3;
    pub const CREATE_OR_REPLACE: u8 = 1 << 4;
    pub const REPLACE_ONLY: u8 = 1 << 5;
    pub const SC_READ_TYPE: u8 = 1 << 6;
    pub const SC_READ_RELAX: u8 = 1 << 7;
}

/// Bits of the fourth info byte: steps of a multi-record transaction.
pub mod info4 {
    pub const VERIFY_READ: u8 = 1 << 0;
    pub const ROLL_FORWARD: u8 = 1 << 1;
    pub const ROLL_BACK: u8 = 1 << 2;
}

/// Types of fields.
pub mod field {
    pub const NAMESPACE: u8 = 0;
    pub const SET: u8 = 1;
    pub const KEY: u8 = 2;
    pub const RECORD_VERSION: u8 = 3;
    pub const DIGEST: u8 = 4;
    pub const MRT_ID: u8 = 5;
    pub const MRT_DEADLINE: u8 = 6;
    pub const JOB_ID: u8 = 7;
    pub const SOCKET_TIMEOUT: u8 = 9;
    pub const RECORDS_PER_SECOND: u8 = 10;
    pub const PARTITION_ID_ARRAY: u8 = 11;
    pub const DIGEST_ARRAY: u8 = 12;
    pub const SAMPLE_MAX: u8 = 13;
    pub const LAST_UPDATE_TIME: u8 = 14;
    pub const BVAL_ARRAY: u8 = 15;
    pub const INDEX_NAME: u8 = 21;
    pub const INDEX_RANGE: u8 = 22;
    pub const INDEX_CONTEXT: u8 = 23;
    pub const INDEX_TYPE: u8 = 26;
    pub const UDF_FILE: u8 = 30;
    pub const UDF_FUNCTION: u8 = 31;
    pub const UDF_ARGUMENTS: u8 = 32;
    pub const UDF_OP: u8 = 33;
    pub const QUERY_BIN_LIST: u8 = 40;
    pub const BATCH: u8 = 41;
    pub const BATCH_WITH_SET: u8 = 42;
    pub const FILTER_EXPRESSION: u8 = 43;
    /// One more than the largest known type.
    pub const COUNT: usize = 44;
}

/// Codes of ops.
pub mod op_code {
    pub const READ: u8 = 1;
    pub const WRITE: u8 = 2;
    pub const CDT_READ: u8 = 3;
    pub const CDT_MODIFY: u8 = 4;
    pub const INCR: u8 = 5;
    pub const EXP_READ: u8 = 7;
    pub const EXP_MODIFY: u8 = 8;
    pub const APPEND: u8 = 9;
    pub const PREPEND: u8 = 10;
    pub const TOUCH: u8 = 11;
    pub const BITS_READ: u8 = 12;
    pub const BITS_MODIFY: u8 = 13;
    pub const DELETE_ALL: u8 = 14;
    pub const HLL_READ: u8 = 15;
    pub const HLL_MODIFY: u8 = 16;
}

/// The reason why a body is not a record message. The reply to each is a parameter error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageError {
    /// Shorter than the message header.
    ShortHeader,
    /// The field with this number overruns the body or has size 0.
    Field(u16),
    /// The op with this number overruns the body or itself.
    Op(u16),
    /// This many bytes follow the last op.
    TrailingBytes(usize),
}

impl std::fmt::Display for MessageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MessageError::ShortHeader => write!(f, "body shorter than a message header"),
            MessageError::Field(n) => write!(f, "field {n} is incomplete"),
            MessageError::Op(n) => write!(f, "op {n} is incomplete"),
            MessageError::TrailingBytes(n) => write!(f, "{n} bytes follow the last op"),
        }
    }
}

/// One op of a request, borrowed from its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op<'a> {
    pub code: u8,
    /// Number of the particle type of `value`.
    pub particle_type: u8,
    /// Bin name: up to 255 arbitrary bytes until it is checked.
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Op<'a> {
    /// Splits `bytes` into the op at their start and the rest.
    #[inline]
    fn split_from(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (size, rest) = bytes.split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_be_bytes(*size)).ok()?;
        let (op, rest) = rest.split_at_checked(size)?;
        let (fixed, op) = op.split_first_chunk::<OP_FIXED_SIZE>()?;
        let [code, particle_type, flags, name_size] = *fixed;
        let (name, mut value) = op.split_at_checked(usize::from(name_size))?;
        if flags & OP_FLAG_LAST_UPDATE_TIME != 0 {
            value = value.get(8..)?;
        }
        Some((Op { code, particle_type, name, value }, rest))
    }
}

/// The ops of a request, in order.
#[derive(Clone, Debug)]
pub struct Ops<'a> {
    bytes: &'a [u8],
    left: u16,
}

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    #[inline]
    fn next(&mut self) -> Option<Op<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        // `Request::parse` has checked the whole request, so this succeeds `left` times.
        let (op, rest) = Op::split_from(self.bytes)?;
        self.bytes = rest;
        Some(op)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(usize::from(self.left)))
    }
}

/// The fixed parts of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestHead {
    pub(crate) info1: u8,
    pub(crate) info2: u8,
    pub(crate) info3: u8,
    pub(crate) info4: u8,
    pub(crate) generation: u32,
    pub(crate) record_ttl: u32,
    pub(crate) transaction_ttl_ms: u32,
}

/// A parsed record message, borrowing the body of its frame.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub info1: u8,
    pub info2: u8,
    pub info3: u8,
    pub info4: u8,
    pub generation: u32,
    /// TTL to write, in seconds or as a special value. In a read it is the read-touch percentage.
    pub record_ttl: u32,
    /// Number of milliseconds that the client waits; 0 means the server's default.
    pub transaction_ttl_ms: u32,
    pub namespace: Option<&'a [u8]>,
    pub set: Option<&'a [u8]>,
    /// User key: particle type byte and bytes.
    pub key: Option<&'a [u8]>,
    pub digest: Option<&'a [u8]>,
    /// Bit n is set if the request has a field of type n.
    field_bits: u64,
    /// The fields and the ops; in a batch message, the fields and the rest of the message.
    parts: &'a [u8],
    /// Bytes of the fields in `parts`.
    fields_size: u32,
    op_count: u16,
}

// A request is moved several times on its way from a connection, together with 16 other bytes. A move of more
// than 128 bytes would call memcpy.
const _: () = assert!(size_of::<Request<'_>>() <= 112);

/// Length limit (exclusive) of the name of a namespace together with the zero bytes after it.
const PADDED_NAME_SIZE: usize = 32;

/// The name of a namespace without the zero bytes after it, which are not part of it.
#[inline]
fn without_padding(mut name: &[u8]) -> &[u8] {
    if name.len() < PADDED_NAME_SIZE {
        while let [rest @ .., 0] = name {
            name = rest;
        }
    }
    name
}

impl<'a> Request<'a> {
    /// Checks the whole structure of `body` and finds its parts.
    ///
    /// Fields of a batch need only start inside the body: clients write the filter before the batch field and
    /// include it in the length of the batch field, so that this field ends beyond the body. A batch message
    /// has no ops, and bytes after its fields are ignored.
    ///
    /// # Errors
    /// When fields and ops do not fill the body exactly, or a field of a batch starts beyond its end.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, MessageError> {
        let Some((header, fields)) = body.split_first_chunk::<MESSAGE_HEADER_SIZE>() else {
            return Err(MessageError::ShortHeader);
        };
        let &[
            _,
            info1,
            info2,
            info3,
            info4,
            _,
            g0,
            g1,
            g2,
            g3,
            t0,
            t1,
            t2,
            t3,
            x0,
            x1,
            x2,
            x3,
            f0,
            f1,
            o0,
            o1,
        ] = header;
        let head = RequestHead {
            info1,
            info2,
            info3,
            info4,
            generation: u32::from_be_bytes([g0, g1, g2, g3]),
            record_ttl: u32::from_be_bytes([t0, t1, t2, t3]),
            transaction_ttl_ms: u32::from_be_bytes([x0, x1, x2, x3]),
        };
        let (field_count, op_count) = (u16::from_be_bytes([f0, f1]), u16::from_be_bytes([o0, o1]));
        if info1 & info1::BATCH != 0 {
            return Request::of_batch(head, fields, field_count);
        }
        let (request, rest) = Request::split_from(head, fields, field_count, op_count)?;
        if rest.is_empty() { Ok(request) } else { Err(MessageError::TrailingBytes(rest.len())) }
    }

    /// Takes `field_count` fields and `op_count` ops from the start of `bytes`. Returns their request, and
    /// the rest.
    #[inline]
    pub(crate) fn split_from(
        head: RequestHead,
        bytes: &'a [u8],
        field_count: u16,
        op_count: u16,
    ) -> Result<(Self, &'a [u8]), MessageError> {
        let mut request = Request::from_head(head, bytes, op_count);
        let mut rest = bytes;
        for n in 0..field_count {
            let (field_type, value, after) = split_field(rest).ok_or(MessageError::Field(n))?;
            request.note_field(field_type, value);
            rest = after;
        }
        request.fields_size = size_between(bytes, rest);
        for n in 0..op_count {
            let (_, after) = Op::split_from(rest).ok_or(MessageError::Op(n))?;
            rest = after;
        }
        request.parts = bytes.get(..bytes.len() - rest.len()).unwrap_or_default();
        Ok((request, rest))
    }

    fn from_head(head: RequestHead, parts: &'a [u8], op_count: u16) -> Self {
        let RequestHead { info1, info2, info3, info4, generation, record_ttl, transaction_ttl_ms } = head;
        Request {
            info1,
            info2,
            info3,
            info4,
            generation,
            record_ttl,
            transaction_ttl_ms,
            namespace: None,
            set: None,
            key: None,
            digest: None,
            field_bits: 0,
            parts,
            fields_size: 0,
            op_count,
        }
    }

    /// The batch message whose `field_count` fields are in `bytes`.
    fn of_batch(head: RequestHead, bytes: &'a [u8], field_count: u16) -> Result<Self, MessageError> {
        let mut request = Request::from_head(head, bytes, 0);
        let mut rest = bytes;
        for n in 0..field_count {
            let (field_type, value, after) = split_loose_field(rest).ok_or(MessageError::Field(n))?;
            // Rows may end before the length of their field; a filter must be complete.
            if field_type == field::FILTER_EXPRESSION && ends_behind(rest) {
                return Err(MessageError::Field(n));
            }
            request.note_field(field_type, value);
            rest = after;
        }
        request.fields_size = size_between(bytes, rest);
        Ok(request)
    }

    /// Notes a field. The first field of each type counts; further ones and unknown types are ignored.
    #[inline]
    fn note_field(&mut self, field_type: u8, mut value: &'a [u8]) {
        let slot = match field_type {
            field::NAMESPACE => {
                value = without_padding(value);
                &mut self.namespace
            }
            field::SET => &mut self.set,
            field::KEY => &mut self.key,
            field::DIGEST => &mut self.digest,
            _ => {
                if usize::from(field_type) < field::COUNT {
                    self.field_bits |= 1 << field_type;
                }
                return;
            }
        };
        if slot.is_none() {
            *slot = Some(value);
            self.field_bits |= 1 << field_type;
        }
    }

    /// Whether the request has a field of this type.
    #[inline]
    #[must_use]
    pub fn has_field(&self, field_type: u8) -> bool {
        usize::from(field_type) < field::COUNT && self.field_bits & 1 << field_type != 0
    }

    pub(crate) fn first_field_type(&self) -> Option<u8> {
        split_field(self.fields()).map(|(field_type, ..)| field_type)
    }

    /// The value of the first field of this type.
    #[must_use]
    pub fn field(&self, wanted: u8) -> Option<&'a [u8]> {
        self.fields_of_type(wanted).next()
    }

    /// The value of the last field of this type, which is the one that counts in a batch message.
    #[must_use]
    pub fn last_field(&self, wanted: u8) -> Option<&'a [u8]> {
        self.fields_of_type(wanted).last()
    }

    fn fields_of_type(&self, wanted: u8) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let rest = if self.has_field(wanted) { self.fields() } else { &[] };
        fields_in(rest).filter(move |(field_type, _)| *field_type == wanted).map(|(_, value)| value)
    }

    /// The rows of a batch message: from the value of its last batch field to the end of the message.
    #[must_use]
    pub fn batch(&self) -> Option<&'a [u8]> {
        let (mut rest, mut rows) = (self.parts, None);
        // A field of length 0 has its type in the byte after it, so this searches all parts.
        while size_between(self.parts, rest) < self.fields_size {
            let Some((field_type, _, after)) = split_loose_field(rest) else { break };
            if matches!(field_type, field::BATCH | field::BATCH_WITH_SET) {
                rows = rest.get(FIELD_FIXED_SIZE..);
            }
            rest = after;
        }
        rows
    }

    fn fields(&self) -> &'a [u8] {
        self.parts.get(..self.fields_size as usize).unwrap_or_default()
    }

    #[inline]
    fn ops_bytes(&self) -> &'a [u8] {
        self.parts.get(self.fields_size as usize..).unwrap_or_default()
    }

    /// The ops, in order.
    #[inline]
    #[must_use]
    pub fn ops(&self) -> Ops<'a> {
        Ops { bytes: self.ops_bytes(), left: self.op_count }
    }

    /// Number of ops.
    #[inline]
    #[must_use]
    pub fn op_count(&self) -> u16 {
        self.op_count
    }

    /// The body of the same request, with a field of type and value `first` before the others and without
    /// fields of type `dropped`. Batches are not supported.
    #[must_use]
    pub fn to_body(&self, first: Option<(u8, &[u8])>, dropped: Option<u8>) -> Vec<u8> {
        let own = fields_in(self.fields()).filter(|(field_type, _)| Some(*field_type) != dropped);
        let fields = first.into_iter().chain(own);
        let first_size = first.map_or(0, |(_, value)| value.len() + FIELD_FIXED_SIZE);
        let size = MESSAGE_HEADER_SIZE + first_size + self.parts.len();
        let mut body = Vec::with_capacity(size);
        body.extend([
            MESSAGE_HEADER_SIZE.to_le_bytes()[0],
            self.info1,
            self.info2,
            self.info3,
            self.info4,
            0,
        ]);
        for number in [self.generation, self.record_ttl, self.transaction_ttl_ms] {
            body.extend(number.to_be_bytes());
        }
        // The original message had no more fields than a u16 can count.
        body.extend(u16::try_from(fields.clone().count()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend(self.op_count.to_be_bytes());
        for (field_type, value) in fields {
            let size = u32::try_from(value.len() + 1).unwrap_or(u32::MAX);
            body.extend(size.to_be_bytes());
            body.push(field_type);
            body.extend_from_slice(value);
        }
        body.extend_from_slice(self.ops_bytes());
        body
    }

    /// The set name; empty if there is none.
    #[inline]
    #[must_use]
    pub fn set_name(&self) -> &'a [u8] {
        self.set.unwrap_or_default()
    }

    /// The part of the set name that counts for existing records: it ends at the first zero byte. A set with
    /// such a name cannot be created. If the name begins with a zero byte, no record has this set, not even a
    /// record without a set.
    #[must_use]
    pub fn set_name_of_record(&self) -> &'a [u8] {
        let name = self.set_name();
        name.iter().position(|byte| *byte == 0).and_then(|end| name.get(..end)).unwrap_or(name)
    }

    /// The digest field, if it is a valid digest.
    #[inline]
    #[must_use]
    pub fn record_digest(&self) -> Option<Digest> {
        self.digest.and_then(Digest::from_slice)
    }
}

/// Splits `bytes` into the type and the value of the field at their start, and the rest.
#[inline]
fn split_field(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_be_bytes(*size)).ok()?;
    let (field, rest) = rest.split_at_checked(size)?;
    let (&field_type, value) = field.split_first()?;
    Some((field_type, value, rest))
}

/// Number of bytes in `bytes` before their end `rest`. Frames are smaller than 128 MiB.
#[inline]
fn size_between(bytes: &[u8], rest: &[u8]) -> u32 {
    u32::try_from(bytes.len() - rest.len()).unwrap_or(u32::MAX)
}

/// The types and values of `fields`, which [`Request::parse`] has checked as strictly as this kind of message
/// requires.
fn fields_in(mut fields: &[u8]) -> impl Iterator<Item = (u8, &[u8])> + Clone {
    std::iter::from_fn(move || {
        let (field_type, value, after) = split_loose_field(fields)?;
        fields = after;
        Some((field_type, value))
    })
}

/// Whether the field at the start of `bytes` states a length that goes beyond them.
fn ends_behind(bytes: &[u8]) -> bool {
    bytes
        .split_first_chunk::<4>()
        .is_some_and(|(size, rest)| u64::from(u32::from_be_bytes(*size)) > rest.len() as u64)
}

/// Same as [`split_field`], for a field that need only start in `bytes`. If its length is larger, its value
/// ends with them. A length of 0 gives a field without a value, whose type is the first byte of the next
/// field.
#[inline]
fn split_loose_field(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_be_bytes(*size)).ok()?.min(rest.len());
    let &field_type = rest.first()?;
    Some((field_type, rest.get(1..size).unwrap_or_default(), rest.get(size..).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
