//! Frames of record requests.
//!
//! ```text
//! proto    u8 version = 2, u8 type = 3, u48 length of the rest                                    8 bytes
//! message  u8 header size = 22, u8 info1, u8 info2, u8 info3, u8 info4, u8 result, u32 generation,
//!          u32 record ttl, u32 transaction ttl (ms), u16 fields, u16 ops                          22 bytes
//! field    u32 size of type and value, u8 type, value
//! op       u32 size of the rest, u8 op, u8 particle type, u8 flags, u8 name length, name, value
//! ```
//! All numbers are big-endian. A frame is built once as a [`Template`]. Each request is a copy with its own
//! digest and key.

use cf::Digest;

use super::object_spec::ObjectSpec;
use super::value::append_particle;
use crate::load::random::Random;

/// Bytes of the proto header.
pub const PROTO_SIZE: usize = 8;
/// Bytes of the message header.
pub const MESSAGE_SIZE: usize = 22;
/// Bytes of a field before its value.
const FIELD_HEADER_SIZE: usize = 5;
/// Proto version of all frames.
pub const PROTO_VERSION: u8 = 2;
/// Proto type of record messages.
pub const PROTO_TYPE_MESSAGE: u8 = 3;

const FIELD_NAMESPACE: u8 = 0;
const FIELD_SET: u8 = 1;
const FIELD_KEY: u8 = 2;
const FIELD_DIGEST: u8 = 4;
const FIELD_SOCKET_TIMEOUT: u8 = 9;
pub(super) const FIELD_PARTITIONS: u8 = 11;
const FIELD_UDF_FILE: u8 = 30;
const FIELD_UDF_FUNCTION: u8 = 31;
const FIELD_UDF_ARGUMENTS: u8 = 32;
const FIELD_BATCH: u8 = 41;
const FIELD_FILTER: u8 = 43;

/// Partitions of a namespace.
pub(super) const PARTITION_COUNT: u16 = 4096;

const OP_READ: u8 = 1;
const OP_WRITE: u8 = 2;

/// Key type byte of integer keys, in digests and key fields.
pub const KEY_TYPE_INTEGER: u8 = 1;

/// Bits of the info bytes.
pub mod info {
    /// info1: the request reads.
    pub const INFO1_READ: u8 = 0x01;
    /// info1: the query is a short one.
    pub const INFO1_SHORT_QUERY: u8 = 0x04;
    /// info1: the request holds a batch.
    pub const INFO1_BATCH: u8 = 0x08;
    /// info1: all bins.
    pub const INFO1_GET_ALL: u8 = 0x02;
    /// info1: no bins.
    pub const INFO1_GET_NO_BINS: u8 = 0x20;
    /// info1: ask all replicas.
    pub const INFO1_CONSISTENCY_LEVEL_ALL: u8 = 0x40;
    /// info2: the request writes.
    pub const INFO2_WRITE: u8 = 0x01;
    /// info2: the request deletes the record.
    pub const INFO2_DELETE: u8 = 0x02;
    /// info2: a delete leaves a tombstone.
    pub const INFO2_DURABLE_DELETE: u8 = 0x10;
    /// info3: a message ends each partition of the answer.
    pub const INFO3_PARTITION_DONE: u8 = 0x04;
    /// info3: answer when only the master has written.
    pub const INFO3_COMMIT_LEVEL_MASTER: u8 = 0x02;
    /// info3: create, or replace all bins.
    pub const INFO3_CREATE_OR_REPLACE: u8 = 0x10;
}

/// The fixed numbers of a message header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// See [`info`].
    pub info1: u8,
    /// See [`info`].
    pub info2: u8,
    /// See [`info`].
    pub info3: u8,
    /// Time to live in seconds, or 0, −1 or −2 as unsigned.
    pub record_ttl: u32,
    /// Time after which the server may give up, in milliseconds; 0 means its default.
    pub timeout_ms: u32,
}

/// The record of a request, without its digest.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Namespace name.
    pub namespace: &'a str,
    /// Set name; empty for none.
    pub set: &'a str,
    /// Whether the key is sent with its digest.
    pub send_key: bool,
}

/// A request without digest and key, or a batch without digests.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    digest_at: usize,
    key_at: Option<usize>,
    /// Offsets of the digests in the further rows of a batch.
    more_digests_at: Vec<usize>,
}

/// Flags of a batch: it may run inline, and every row is answered.
const BATCH_INLINE_ALL_KEYS: u8 = 0x05;
/// Flags of a row: it has three info bytes, or it repeats everything except the digest from the row before.
const ROW_HAS_INFO: u8 = 2;
const ROW_REPEATS: u8 = 1;

impl Template {
    /// A request without ops.
    #[must_use]
    pub fn new(header: Header, target: Target<'_>) -> Self {
        let mut bytes = vec![0; PROTO_SIZE + MESSAGE_SIZE];
        bytes[0] = PROTO_VERSION;
        bytes[1] = PROTO_TYPE_MESSAGE;
        let message = &mut bytes[PROTO_SIZE..];
        message[0] = MESSAGE_SIZE as u8;
        message[1] = header.info1;
        message[2] = header.info2;
        message[3] = header.info3;
        message[10..14].copy_from_slice(&header.record_ttl.to_be_bytes());
        message[14..18].copy_from_slice(&header.timeout_ms.to_be_bytes());
        let mut template = Template { bytes, digest_at: 0, key_at: None, more_digests_at: Vec::new() };
        template.field(FIELD_NAMESPACE, target.namespace.as_bytes());
        if !target.set.is_empty() {
            template.field(FIELD_SET, target.set.as_bytes());
        }
        template.digest_at = template.field(FIELD_DIGEST, &[0; cf::digest::DIGEST_SIZE]);
        if target.send_key {
            let mut key = [0; 9];
            key[0] = KEY_TYPE_INTEGER;
            template.key_at = Some(template.field(FIELD_KEY, &key) + 1);
        }
        template
    }

    /// A batch with `row_count` rows, each with the request `row`.
    #[must_use]
    pub fn batch(row: &Template, row_count: usize) -> Self {
        let message = &row.bytes[PROTO_SIZE..];
        let (before_digest, after_digest) = (
            &row.bytes[PROTO_SIZE + MESSAGE_SIZE..row.digest_at - FIELD_HEADER_SIZE],
            &row.bytes[row.digest_at + cf::digest::DIGEST_SIZE..],
        );
        let mut batch = (row_count as u32).to_be_bytes().to_vec();
        batch.push(BATCH_INLINE_ALL_KEYS);
        let mut digests_at = Vec::with_capacity(row_count);
        for index in 0..row_count as u32 {
            batch.extend_from_slice(&index.to_be_bytes());
            digests_at.push(batch.len());
            batch.extend_from_slice(&[0; cf::digest::DIGEST_SIZE]);
            if index > 0 {
                batch.push(ROW_REPEATS);
                continue;
            }
            batch.push(ROW_HAS_INFO);
            batch.extend_from_slice(&message[1..4]);
            // The row has the fields of the request without the digest, and its ops.
            let field_count = u16::from_be_bytes([message[18], message[19]]) - 1;
            batch.extend_from_slice(&field_count.to_be_bytes());
            batch.extend_from_slice(&message[20..22]);
            batch.extend_from_slice(before_digest);
            batch.extend_from_slice(after_digest);
        }
        let header = Header { info1: info::INFO1_BATCH | info::INFO1_READ, ..Header::default() };
        let mut template = Template::new(header, Target { namespace: "", set: "", send_key: false });
        template.bytes.truncate(PROTO_SIZE + MESSAGE_SIZE);
        template.bytes[PROTO_SIZE + 18..PROTO_SIZE + 20].fill(0);
        let start = template.field(FIELD_BATCH, &batch);
        let mut digests_at = digests_at.into_iter().map(|at| start + at);
        template.digest_at = digests_at.next().unwrap_or(start);
        template.more_digests_at = digests_at.collect();
        template
    }

    /// A query for all records of a set in all partitions. If the client does not read, the server gives up
    /// after `socket_timeout_ms`.
    #[must_use]
    pub fn scan(target: Target<'_>, socket_timeout_ms: u32) -> Vec<u8> {
        let (info1, info3) = (info::INFO1_READ | info::INFO1_GET_ALL, info::INFO3_PARTITION_DONE);
        let mut template = Template::of_set(Header { info1, info3, ..Header::default() }, target);
        let partitions: Vec<u8> = (0..PARTITION_COUNT).flat_map(u16::to_le_bytes).collect();
        template.field(FIELD_PARTITIONS, &partitions);
        template.field(FIELD_SOCKET_TIMEOUT, &socket_timeout_ms.to_be_bytes());
        template.bytes
    }

    /// The beginning of a query for records of a set, without its filter and ops.
    pub(super) fn of_set(header: Header, target: Target<'_>) -> Self {
        let mut template = Template::new(header, target);
        // The query differs from a read only in the digest and the key after it.
        template.bytes.truncate(template.digest_at - FIELD_HEADER_SIZE);
        template.key_at = None;
        template.bytes[PROTO_SIZE + 18..PROTO_SIZE + 20].copy_from_slice(&1u16.to_be_bytes());
        if !target.set.is_empty() {
            template.add_to_count(18, 1);
        }
        template
    }

    /// The frame. It is complete if nothing has to be set in it.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds a filter expression. There must be no ops yet.
    #[must_use]
    pub fn with_filter(mut self, expression: &[u8]) -> Self {
        self.field(FIELD_FILTER, expression);
        self
    }

    #[must_use]
    pub fn with_op(mut self, op: u8, particle_type: u8, name: &str, value: &[u8]) -> Self {
        append_op(&mut self.bytes, op, particle_type, name, |out| out.extend_from_slice(value));
        self.count_ops(1);
        self
    }

    /// Adds the fields of a call of `function` in the UDF module `file`; `arguments` is a MessagePack list.
    #[must_use]
    pub fn with_udf(mut self, file: &str, function: &str, arguments: &[u8]) -> Self {
        self.field(FIELD_UDF_FILE, file.as_bytes());
        self.field(FIELD_UDF_FUNCTION, function.as_bytes());
        self.field(FIELD_UDF_ARGUMENTS, arguments);
        self
    }

    /// Adds an op that reads the bin `name`.
    #[must_use]
    pub fn with_read(mut self, name: &str) -> Self {
        append_op(&mut self.bytes, OP_READ, super::particle_type::NULL, name, |_| {});
        self.count_ops(1);
        self
    }

    /// Adds an op that removes the bin `name`.
    #[must_use]
    pub fn with_removal(mut self, name: &str) -> Self {
        append_op(&mut self.bytes, OP_WRITE, super::particle_type::NULL, name, |_| {});
        self.count_ops(1);
        self
    }

    /// Adds ops that write the bins of `writes` with the same values in all requests.
    #[must_use]
    pub fn with_writes(mut self, writes: &BinWrites, random: &mut Random) -> Self {
        writes.append(random, &mut self.bytes);
        self.count_ops(writes.count());
        self
    }

    /// Announces ops that every request appends itself; see [`Template::append_with_writes`].
    #[must_use]
    pub fn expecting_writes(mut self, writes: &BinWrites) -> Self {
        self.count_ops(writes.count());
        self
    }

    /// Appends the request for `digest` and `key` to `out`.
    #[inline]
    pub fn append(&self, digest: &Digest, key: i64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let request = &mut out[start..];
        request[self.digest_at..self.digest_at + digest.0.len()].copy_from_slice(&digest.0);
        if let Some(key_at) = self.key_at {
            request[key_at..key_at + 8].copy_from_slice(&key.to_be_bytes());
        }
    }

    /// Appends the request for a record, or a batch with a record for each row.
    pub fn append_each(&self, out: &mut Vec<u8>, mut digest: impl FnMut() -> Digest) {
        let start = out.len();
        self.append(&digest(), 0, out);
        for at in &self.more_digests_at {
            let at = start + at;
            out[at..at + cf::digest::DIGEST_SIZE].copy_from_slice(&digest().0);
        }
    }

    /// As [`append`](Self::append), with newly generated values for the announced ops.
    pub fn append_with_writes(
        &self,
        digest: &Digest,
        key: i64,
        writes: &BinWrites,
        random: &mut Random,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        self.append(digest, key, out);
        writes.append(random, out);
        set_length(&mut out[start..]);
    }

    /// Appends a field and returns the offset of its value.
    pub(super) fn field(&mut self, field_type: u8, value: &[u8]) -> usize {
        self.bytes.extend_from_slice(&(value.len() as u32 + 1).to_be_bytes());
        self.bytes.push(field_type);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.add_to_count(18, 1);
        at
    }

    fn count_ops(&mut self, more: usize) {
        self.add_to_count(20, more as u16);
    }

    /// Adds to the u16 at `offset` of the message header and updates the length.
    fn add_to_count(&mut self, offset: usize, more: u16) {
        let at = PROTO_SIZE + offset;
        let count = u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]) + more;
        self.bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
        set_length(&mut self.bytes);
    }
}

/// The bins that a write sets.
#[derive(Clone, Debug)]
pub struct BinWrites {
    spec: ObjectSpec,
    names: Vec<String>,
    /// Positions in `spec` of the bins to write, in the order of the ops.
    chosen: Vec<usize>,
}

impl BinWrites {
    /// Makes writes of the bins of `spec` at `chosen`, with the names `names`.
    #[must_use]
    pub fn new(spec: ObjectSpec, names: Vec<String>, chosen: Vec<usize>) -> Self {
        assert!(chosen.iter().all(|at| *at < spec.bins.len()) && names.len() == spec.bins.len());
        BinWrites { spec, names, chosen }
    }

    fn count(&self) -> usize {
        self.chosen.len()
    }

    fn append(&self, random: &mut Random, out: &mut Vec<u8>) {
        for at in &self.chosen {
            let value = &self.spec.bins[*at];
            append_op(out, OP_WRITE, value.particle_type(), &self.names[*at], |out| {
                append_particle(value, random, out);
            });
        }
    }
}

fn append_op(out: &mut Vec<u8>, op: u8, particle_type: u8, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, op, particle_type, 0, name.len() as u8]);
    out.extend_from_slice(name.as_bytes());
    value(out);
    let size = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// Sets the length in the proto header of `frame` to that of the rest of the frame.
fn set_length(frame: &mut [u8]) {
    let length = (frame.len() - PROTO_SIZE) as u64;
    frame[2..PROTO_SIZE].copy_from_slice(&length.to_be_bytes()[2..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target<'_> = Target { namespace: "test", set: "demo", send_key: false };

    fn read_all() -> Header {
        Header { info1: info::INFO1_READ | info::INFO1_GET_ALL, ..Header::default() }
    }

    #[test]
    fn a_read_of_all_bins() {
        let mut out = b"before".to_vec();
        let header = Header { timeout_ms: 1000, ..read_all() };
        Template::new(header, TARGET).append(&Digest([7; 20]), 1, &mut out);
        let mut expected =
            b"before\x02\x03\0\0\0\0\0\x41\x16\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03\xe8\0\x03\0\0".to_vec();
        expected.extend_from_slice(b"\0\0\0\x05\0test\0\0\0\x05\x01demo\0\0\0\x15\x04");
        expected.extend_from_slice(&[7; 20]);
        assert_eq!(out, expected);
    }

    #[test]
    fn a_scan_names_all_partitions_and_no_digest() {
        let target = Target { send_key: false, ..TARGET };
        let scan = Template::scan(target, 5000);
        assert_eq!(scan[PROTO_SIZE + 1..PROTO_SIZE + 4], [3, 0, 4]);
        assert_eq!(scan[PROTO_SIZE + 18..][..4], [0, 4, 0, 0], "four fields and no ops");
        let fields = &scan[PROTO_SIZE + MESSAGE_SIZE..];
        assert!(fields.starts_with(b"\0\0\0\x05\0test\0\0\0\x05\x01demo\0\0\x20\x01\x0b\0\0\x01\0"));
        assert!(fields.ends_with(b"\xff\x0f\0\0\0\x05\x09\0\0\x13\x88"));
        let length = u64::from_be_bytes(*scan.first_chunk().unwrap()) & 0xFFFF_FFFF_FFFF;
        assert_eq!(length as usize, scan.len() - PROTO_SIZE);
        assert_eq!(Template::scan(Target { set: "", ..target }, 0)[PROTO_SIZE + 19], 3);
    }

    #[test]
    fn a_write_has_an_op_for_each_bin() {
        let spec = ObjectSpec::parse("\"xyz\", 5, b").unwrap();
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let writes = BinWrites::new(spec, names, vec![0, 1]);
        let header = Header { info2: info::INFO2_WRITE, record_ttl: u32::MAX, ..Header::default() };
        let target = Target { namespace: "n", set: "", send_key: true };
        let fixed = Template::new(header, target).with_writes(&writes, &mut Random::new(0));
        let mut out = Vec::new();
        fixed.append(&Digest([1; 20]), -2, &mut out);
        let mut expected =
            b"\x02\x03\0\0\0\0\0\x60\x16\0\x01\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0\0\x03\0\x02".to_vec();
        expected.extend_from_slice(b"\0\0\0\x02\0n\0\0\0\x15\x04");
        expected.extend_from_slice(&[1; 20]);
        expected.extend_from_slice(b"\0\0\0\x0a\x02\x01\xff\xff\xff\xff\xff\xff\xff\xfe");
        expected
            .extend_from_slice(b"\0\0\0\x08\x02\x03\0\x01axyz\0\0\0\x0d\x02\x01\0\x01b\0\0\0\0\0\0\0\x05");
        assert_eq!(out, expected);

        let mut fresh = Vec::new();
        let template = Template::new(header, target).expecting_writes(&writes);
        template.append_with_writes(&Digest([1; 20]), -2, &writes, &mut Random::new(0), &mut fresh);
        assert_eq!(fresh, out, "constants are the same whenever they are generated");
    }

    #[test]
    fn reads_and_removals_of_single_bins_carry_no_value() {
        let mut out = Vec::new();
        let template = Template::new(Header { info1: info::INFO1_READ, ..Header::default() }, TARGET);
        template.with_read("bin").with_removal("x").append(&Digest::default(), 0, &mut out);
        assert!(out.ends_with(b"\0\0\0\x07\x01\0\0\x03bin\0\0\0\x05\x02\0\0\x01x"));
        assert_eq!(out[PROTO_SIZE + 20..][..2], [0, 2]);
        assert_eq!(usize::from(out[7]), out.len() - PROTO_SIZE);
    }

    #[test]
    fn a_batch_repeats_its_first_row() {
        let row = Template::new(read_all(), Target { namespace: "n", set: "s", send_key: false });
        let mut out = Vec::new();
        let mut digests = (1..=3).map(|n| Digest([n; 20]));
        Template::batch(&row.with_read("b"), 3).append_each(&mut out, || digests.next().unwrap());
        let mut expected = b"\x02\x03\0\0\0\0\0\x8e\x16\x09".to_vec();
        expected.extend_from_slice(&[0; 16]);
        expected.extend_from_slice(b"\0\x01\0\0\0\0\0\x74\x29\0\0\0\x03\x05");
        expected.extend_from_slice(&[0; 4]);
        expected.extend_from_slice(&[1; 20]);
        expected.extend_from_slice(
            b"\x02\x03\0\0\0\x02\0\x01\0\0\0\x02\0n\0\0\0\x02\x01s\0\0\0\x05\x01\0\0\x01b",
        );
        for (index, digest) in [(1, [2; 20]), (2, [3; 20])] {
            expected.extend_from_slice(&[0, 0, 0, index]);
            expected.extend_from_slice(&digest);
            expected.push(1);
        }
        assert_eq!(usize::from(out[7]), out.len() - PROTO_SIZE);
        expected[7] = out[7];
        expected[PROTO_SIZE + MESSAGE_SIZE + 3] = out[PROTO_SIZE + MESSAGE_SIZE + 3];
        assert_eq!(out, expected);
    }

    #[test]
    fn a_udf_call_names_module_and_function() {
        let mut out = Vec::new();
        let template = Template::new(Header { info2: info::INFO2_WRITE, ..Header::default() }, TARGET);
        template.with_udf("mod", "fun", &[0x90]).append(&Digest::default(), 0, &mut out);
        assert!(out.ends_with(b"\0\0\0\x04\x1emod\0\0\0\x04\x1ffun\0\0\0\x02\x20\x90"));
        assert_eq!(out[PROTO_SIZE + 18..][..4], [0, 6, 0, 0]);
    }
}
