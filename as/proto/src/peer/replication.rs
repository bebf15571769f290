//! Replica writes, and duplicate resolution: the question to nodes with older copies which copy is newest.
//!
//! ```text
//! 0 op u32   1 result u32   2 namespace   3 namespace index u32   4 generation u32   5 digest   6 record
//! 10 transaction id u32   12 info u32   16 last-update-time u64   64 cluster key u64
//! ```
//! Channel: read-write. The namespace is bytes without NUL; the asking node chooses its index and the
//! transaction id, and answers repeat them. A record is flat, without its end mark. Only this server sends
//! the following two fields, and the C server skips them. Field 64 of a replica write is the key of the
//! cluster in which the sender is master. With it a replica refuses writes of a node that has been replaced
//! as master without knowing it. Field 16 of a removal and of the answer to a question is the time of the
//! removal.

use cf::Digest;

use super::fields::{Fields, MessageType, PeerError, Value, Writer};
use super::ids::ClusterKey;

/// The sender of a replica write does not want an answer.
pub const INFO_NO_ACK: u32 = 2;

const WRITE_ACK: u32 = 2;
const DUPLICATE_REQUEST: u32 = 3;
const DUPLICATE_ACK: u32 = 4;
const REPLICA_WRITE: u32 = 8;
const CLUSTER_KEY: u16 = 64;

/// A message about one record, borrowed from its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replication<'a> {
    pub namespace_index: u32,
    pub transaction_id: u32,
    pub body: ReplicationBody<'a>,
}

/// The content of the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplicationBody<'a> {
    /// The master's new record. A digest alone means that the record does not exist any more.
    ReplicaWrite {
        namespace: &'a [u8],
        info: Option<u32>,
        /// `None` from a C server.
        cluster_key: Option<ClusterKey>,
        subject: Subject<'a>,
        /// With a digest alone: the time of the removal, in milliseconds since 2010. A copy that was last
        /// updated at this time or later is another record. `None` from a C server.
        removed_at: Option<u64>,
    },
    WriteAck {
        result: u32,
        digest: Digest,
    },
    /// Asks for a copy that is newer than the sender's. The sender's copy has this generation and
    /// last-update-time, or does not exist.
    DuplicateRequest {
        namespace: &'a [u8],
        digest: Digest,
        own: Option<OwnCopy>,
    },
    /// The record if it is newer, otherwise the digest and a result: 2 not found, 3 older, 5 the same.
    DuplicateAck {
        result: u32,
        subject: Subject<'a>,
        /// The time at which a record with this digest was removed, if the node knows of a removal, in
        /// milliseconds since 2010. Copies last updated before that are obsolete.
        removed_at: Option<u64>,
    },
}

/// A record, or its digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject<'a> {
    Record(&'a [u8]),
    Digest(Digest),
}

/// The asking node's own copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnCopy {
    pub generation: u32,
    /// Milliseconds since 2010.
    pub last_update_time: u64,
}

impl<'a> Replication<'a> {
    /// Reads a whole message.
    ///
    /// # Errors
    /// When it is no replication message, or incomplete.
    pub fn decode(message: &'a [u8]) -> Result<Self, PeerError> {
        let (mut op, mut result, mut namespace_index, mut transaction_id) = (None, None, None, None);
        let (mut namespace, mut generation, mut digest, mut record) = (None, None, None, None);
        let (mut info, mut last_update_time, mut cluster_key) = (None, None, None);
        for field in Fields::of(message, MessageType::Replication)? {
            match field? {
                (0, Value::U32(number)) => op = Some(number),
                (1, Value::U32(number)) => result = Some(number),
                (2, Value::Buffer(bytes)) => namespace = Some(bytes),
                (3, Value::U32(number)) => namespace_index = Some(number),
                (4, Value::U32(number)) => generation = Some(number),
                (5, Value::Buffer(bytes)) => {
                    digest = Some(Digest::from_slice(bytes).ok_or(PeerError::Invalid(5))?);
                }
                (6, Value::Buffer(bytes)) => record = Some(bytes),
                (10, Value::U32(number)) => transaction_id = Some(number),
                (12, Value::U32(bits)) => info = Some(bits),
                (16, Value::U64(time)) => last_update_time = Some(time),
                (CLUSTER_KEY, Value::U64(key)) => cluster_key = Some(ClusterKey(key)),
                _ => {}
            }
        }
        let namespace = namespace.ok_or(PeerError::Missing(2));
        let result = result.ok_or(PeerError::Missing(1));
        let subject = match (record, digest) {
            (Some(record), _) => Ok(Subject::Record(record)),
            (None, Some(digest)) => Ok(Subject::Digest(digest)),
            (None, None) => Err(PeerError::Missing(5)),
        };
        let digest = digest.ok_or(PeerError::Missing(5));
        let body = match op {
            Some(REPLICA_WRITE) => {
                let (namespace, subject, removed_at) = (namespace?, subject?, last_update_time);
                ReplicationBody::ReplicaWrite { namespace, info, cluster_key, subject, removed_at }
            }
            Some(WRITE_ACK) => ReplicationBody::WriteAck { result: result?, digest: digest? },
            Some(DUPLICATE_REQUEST) => {
                let own = generation.zip(last_update_time);
                let own = own.map(|(generation, last_update_time)| OwnCopy { generation, last_update_time });
                ReplicationBody::DuplicateRequest { namespace: namespace?, digest: digest?, own }
            }
            Some(DUPLICATE_ACK) => {
                let (result, subject, removed_at) = (result?, subject?, last_update_time);
                ReplicationBody::DuplicateAck { result, subject, removed_at }
            }
            _ => return Err(PeerError::Unknown),
        };
        Ok(Replication {
            namespace_index: namespace_index.ok_or(PeerError::Missing(3))?,
            transaction_id: transaction_id.ok_or(PeerError::Missing(10))?,
            body,
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, MessageType::Replication);
        match &self.body {
            ReplicationBody::ReplicaWrite { namespace, info, cluster_key, subject, removed_at } => {
                writer.u32(0, REPLICA_WRITE);
                writer.u32(3, self.namespace_index);
                writer.u32(10, self.transaction_id);
                writer.optional_u32(12, *info);
                writer.optional_u64(16, *removed_at);
                writer.optional_u64(CLUSTER_KEY, cluster_key.map(|key| key.0));
                writer.buffer(2, namespace);
                subject.encode(&mut writer);
            }
            ReplicationBody::WriteAck { result, digest } => {
                self.answer(&mut writer, WRITE_ACK, *result);
                writer.buffer(5, &digest.0);
            }
            ReplicationBody::DuplicateRequest { namespace, digest, own } => {
                writer.u32(0, DUPLICATE_REQUEST);
                writer.u32(3, self.namespace_index);
                writer.optional_u32(4, own.map(|own| own.generation));
                writer.u32(10, self.transaction_id);
                writer.optional_u64(16, own.map(|own| own.last_update_time));
                writer.buffer(2, namespace);
                writer.buffer(5, &digest.0);
            }
            ReplicationBody::DuplicateAck { result, subject, removed_at } => {
                self.answer(&mut writer, DUPLICATE_ACK, *result);
                writer.optional_u64(16, *removed_at);
                subject.encode(&mut writer);
            }
        }
        writer.finish();
    }

    fn answer(&self, writer: &mut Writer<'_>, op: u32, result: u32) {
        writer.u32(0, op);
        writer.u32(1, result);
        writer.u32(3, self.namespace_index);
        writer.u32(10, self.transaction_id);
    }
}

impl Subject<'_> {
    fn encode(&self, writer: &mut Writer<'_>) {
        match self {
            Subject::Record(record) => writer.buffer(6, record),
            Subject::Digest(digest) => writer.buffer(5, &digest.0),
        }
    }
}
