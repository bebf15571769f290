//! Migration: the records of a partition on their way to another node, and the signal that all copies are
//! complete.
//!
//! ```text
//! 0 op u32   2 emigration id u32   3 namespace   4 partition u32   7 record   8 cluster key u64
//! 20 features u32   25 number of records u64   29 insert id u64   64 digest   65 removed at u64
//! ```
//! Only this server sends 64 and 65, and it sends no insert without a record to a C server. Field 65 tells
//! the receiver that a record of this digest was removed, and when: copies last updated before that are
//! obsolete.
//!
//! Inserts and their acks use the bulk channel, the others the control channel. All have 0 and 2;
//! [`MigrateBody`] says which other fields each has. The sender chooses the emigration id; a receiver
//! identifies an emigration by node and id.

use cf::Digest;

use super::fields::{Fields, MessageType, PeerError, Value, Writer};
use super::ids::ClusterKey;

const DIGEST: u16 = 64;
const REMOVED_AT: u16 = 65;

/// A migration message, borrowed from its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Migrate<'a> {
    pub emigration_id: u32,
    pub body: MigrateBody<'a>,
}

/// The content of a migration message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MigrateBody<'a> {
    Start {
        partition: PartitionOf<'a>,
        features: Option<u32>,
        record_count: Option<u64>,
    },
    StartOk {
        features: Option<u32>,
    },
    /// The receiver is busy, or has not rebalanced yet.
    StartAgainLater,
    /// The receiver expects nothing from the sender.
    StartFail,
    /// A flat record without its end mark.
    Insert {
        insert_id: u64,
        record: &'a [u8],
        /// The time at which an earlier record with this digest was removed, in milliseconds since 2010.
        removed_at: Option<u64>,
    },
    /// Replaces a record that was removed at this time.
    Removal {
        insert_id: u64,
        digest: Digest,
        removed_at: u64,
    },
    InsertAck {
        insert_id: u64,
    },
    Done,
    DoneAck,
    /// All replicas of the partition are complete: a node without a replica may drop its copy.
    AllDone {
        partition: PartitionOf<'a>,
    },
    AllDoneAck,
}

/// A partition in a namespace of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionOf<'a> {
    pub namespace: &'a [u8],
    /// The partition, which the receiver must check.
    pub partition: u32,
    pub cluster_key: ClusterKey,
}

impl MigrateBody<'_> {
    fn number(&self) -> u32 {
        match self {
            MigrateBody::InsertAck { .. } => 2,
            MigrateBody::Start { .. } => 3,
            MigrateBody::StartOk { .. } => 4,
            MigrateBody::StartAgainLater => 5,
            MigrateBody::StartFail => 6,
            MigrateBody::Insert { .. } | MigrateBody::Removal { .. } => 7,
            MigrateBody::Done => 8,
            MigrateBody::DoneAck => 9,
            MigrateBody::AllDone { .. } => 13,
            MigrateBody::AllDoneAck => 14,
        }
    }
}

impl<'a> Migrate<'a> {
    /// Reads a whole message.
    ///
    /// # Errors
    /// When it is no migration message, or incomplete.
    pub fn decode(message: &'a [u8]) -> Result<Self, PeerError> {
        let (mut op, mut emigration_id, mut namespace, mut partition) = (None, None, None, None);
        let (mut record, mut cluster_key, mut features) = (None, None, None);
        let (mut record_count, mut insert_id) = (None, None);
        let (mut digest, mut removed_at) = (None, None);
        for field in Fields::of(message, MessageType::Migrate)? {
            match field? {
                (0, Value::U32(number)) => op = Some(number),
                (2, Value::U32(number)) => emigration_id = Some(number),
                (3, Value::Buffer(bytes)) => namespace = Some(bytes),
                (4, Value::U32(number)) => partition = Some(number),
                (7, Value::Buffer(bytes)) => record = Some(bytes),
                (8, Value::U64(key)) => cluster_key = Some(ClusterKey(key)),
                (20, Value::U32(bits)) => features = Some(bits),
                (25, Value::U64(count)) => record_count = Some(count),
                (29, Value::U64(number)) => insert_id = Some(number),
                (DIGEST, Value::Buffer(bytes)) => {
                    digest = Some(Digest::from_slice(bytes).ok_or(PeerError::Invalid(DIGEST))?);
                }
                (REMOVED_AT, Value::U64(time)) => removed_at = Some(time),
                _ => {}
            }
        }
        let partition = || {
            Ok(PartitionOf {
                namespace: namespace.ok_or(PeerError::Missing(3))?,
                partition: partition.ok_or(PeerError::Missing(4))?,
                cluster_key: cluster_key.ok_or(PeerError::Missing(8))?,
            })
        };
        let insert_id = insert_id.ok_or(PeerError::Missing(29));
        let body = match op {
            Some(2) => MigrateBody::InsertAck { insert_id: insert_id? },
            Some(3) => MigrateBody::Start { partition: partition()?, features, record_count },
            Some(4) => MigrateBody::StartOk { features },
            Some(5) => MigrateBody::StartAgainLater,
            Some(6) => MigrateBody::StartFail,
            Some(7) => match (record, digest, removed_at) {
                (Some(record), _, removed_at) => {
                    MigrateBody::Insert { insert_id: insert_id?, record, removed_at }
                }
                (None, Some(digest), Some(removed_at)) => {
                    MigrateBody::Removal { insert_id: insert_id?, digest, removed_at }
                }
                _ => return Err(PeerError::Missing(7)),
            },
            Some(8) => MigrateBody::Done,
            Some(9) => MigrateBody::DoneAck,
            Some(13) => MigrateBody::AllDone { partition: partition()? },
            Some(14) => MigrateBody::AllDoneAck,
            _ => return Err(PeerError::Unknown),
        };
        Ok(Migrate { emigration_id: emigration_id.ok_or(PeerError::Missing(2))?, body })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, MessageType::Migrate);
        writer.u32(0, self.body.number());
        writer.u32(2, self.emigration_id);
        match &self.body {
            MigrateBody::Start { partition, features, record_count } => {
                writer.u32(4, partition.partition);
                writer.u64(8, partition.cluster_key.0);
                writer.optional_u32(20, *features);
                writer.optional_u64(25, *record_count);
                writer.buffer(3, partition.namespace);
            }
            MigrateBody::StartOk { features } => writer.optional_u32(20, *features),
            MigrateBody::Insert { insert_id, record, removed_at } => {
                writer.u64(29, *insert_id);
                writer.optional_u64(REMOVED_AT, *removed_at);
                writer.buffer(7, record);
            }
            MigrateBody::Removal { insert_id, digest, removed_at } => {
                writer.u64(29, *insert_id);
                writer.u64(REMOVED_AT, *removed_at);
                writer.buffer(DIGEST, &digest.0);
            }
            MigrateBody::InsertAck { insert_id } => writer.u64(29, *insert_id),
            MigrateBody::AllDone { partition } => {
                writer.u32(4, partition.partition);
                writer.u64(8, partition.cluster_key.0);
                writer.buffer(3, partition.namespace);
            }
            MigrateBody::StartAgainLater
            | MigrateBody::StartFail
            | MigrateBody::Done
            | MigrateBody::DoneAck
            | MigrateBody::AllDoneAck => {}
        }
        writer.finish();
    }
}
