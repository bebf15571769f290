//! Clustering messages: joins, moves between clusters, and the rounds that agree on a cluster's members.
//!
//! ```text
//! 0 protocol u32 (0x707C)   1 kind u32   2 send time u64 (HLC)   3 sequence u64   4 cluster key u64
//! 5 succession list, u64 each   6 proposed principal u64
//! ```
//! Channel: control. All kinds have 0 1 2; [`ClusteringBody`] says which other fields each has.

use super::fields::{Fields, MessageType, PeerError, Value, Writer};
use super::heartbeat::CLUSTERING_PROTOCOL;
use super::ids::{ClusterKey, NodeId};
use super::nested::{node_ids, put_node_ids};

/// A clustering message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clustering {
    /// The sender's hybrid logical clock.
    pub send_time: u64,
    pub body: ClusteringBody,
}

/// The content of a clustering message. Sequence and proposer identify a round of agreement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClusteringBody {
    /// An orphan asks to join.
    JoinRequest,
    JoinReject,
    /// The principal tells a member to move to the cluster of another principal.
    Move {
        cluster_key: ClusterKey,
        principal: NodeId,
    },
    /// A member has applied the members of a round.
    ChangeApplied {
        cluster_key: ClusterKey,
        succession: Vec<NodeId>,
    },
    /// First half of a round.
    Prepare {
        sequence: u64,
    },
    Promise {
        sequence: u64,
    },
    PrepareNack {
        sequence: u64,
    },
    /// Second half of a round.
    Accept {
        sequence: u64,
    },
    Accepted {
        sequence: u64,
    },
    AcceptNack {
        sequence: u64,
    },
    /// The outcome of a round: the members of the cluster with this key.
    Learn {
        sequence: u64,
        cluster_key: ClusterKey,
        succession: Vec<NodeId>,
    },
}

impl ClusteringBody {
    fn number(&self) -> u32 {
        match self {
            ClusteringBody::JoinRequest => 0,
            ClusteringBody::JoinReject => 1,
            ClusteringBody::Move { .. } => 2,
            ClusteringBody::ChangeApplied { .. } => 3,
            ClusteringBody::Prepare { .. } => 4,
            ClusteringBody::Promise { .. } => 5,
            ClusteringBody::PrepareNack { .. } => 6,
            ClusteringBody::Accept { .. } => 7,
            ClusteringBody::Accepted { .. } => 8,
            ClusteringBody::AcceptNack { .. } => 9,
            ClusteringBody::Learn { .. } => 10,
        }
    }
}

impl Clustering {
    /// Reads a whole message.
    ///
    /// # Errors
    /// When the message is of another kind or protocol, or incomplete.
    pub fn decode(message: &[u8]) -> Result<Self, PeerError> {
        let (mut protocol, mut kind, mut send_time, mut sequence) = (None, None, None, None);
        let (mut cluster_key, mut succession, mut principal) = (None, None, None);
        for field in Fields::of(message, MessageType::Clustering)? {
            match field? {
                (0, Value::U32(number)) => protocol = Some(number),
                (1, Value::U32(number)) => kind = Some(number),
                (2, Value::U64(time)) => send_time = Some(time),
                (3, Value::U64(number)) => sequence = Some(number),
                (4, Value::U64(key)) => cluster_key = Some(ClusterKey(key)),
                (5, Value::Buffer(bytes)) => succession = Some(node_ids(5, bytes)?),
                (6, Value::U64(node)) => principal = Some(NodeId(node)),
                _ => {}
            }
        }
        if protocol != Some(CLUSTERING_PROTOCOL) {
            return Err(PeerError::Unknown);
        }
        let send_time = send_time.ok_or(PeerError::Missing(2))?;
        let sequence = sequence.ok_or(PeerError::Missing(3));
        let cluster_key = cluster_key.ok_or(PeerError::Missing(4));
        let succession = succession.ok_or(PeerError::Missing(5));
        let body = match kind {
            Some(0) => ClusteringBody::JoinRequest,
            Some(1) => ClusteringBody::JoinReject,
            Some(2) => ClusteringBody::Move {
                cluster_key: cluster_key?,
                principal: principal.ok_or(PeerError::Missing(6))?,
            },
            Some(3) => ClusteringBody::ChangeApplied { cluster_key: cluster_key?, succession: succession? },
            Some(4) => ClusteringBody::Prepare { sequence: sequence? },
            Some(5) => ClusteringBody::Promise { sequence: sequence? },
            Some(6) => ClusteringBody::PrepareNack { sequence: sequence? },
            Some(7) => ClusteringBody::Accept { sequence: sequence? },
            Some(8) => ClusteringBody::Accepted { sequence: sequence? },
            Some(9) => ClusteringBody::AcceptNack { sequence: sequence? },
            Some(10) => ClusteringBody::Learn {
                sequence: sequence?,
                cluster_key: cluster_key?,
                succession: succession?,
            },
            _ => return Err(PeerError::Unknown),
        };
        Ok(Clustering { send_time, body })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, MessageType::Clustering);
        writer.u32(0, CLUSTERING_PROTOCOL);
        writer.u32(1, self.body.number());
        writer.u64(2, self.send_time);
        match &self.body {
            ClusteringBody::JoinRequest | ClusteringBody::JoinReject => {}
            ClusteringBody::Prepare { sequence }
            | ClusteringBody::Promise { sequence }
            | ClusteringBody::PrepareNack { sequence }
            | ClusteringBody::Accept { sequence }
            | ClusteringBody::Accepted { sequence }
            | ClusteringBody::AcceptNack { sequence } => writer.u64(3, *sequence),
            ClusteringBody::Move { cluster_key, principal } => {
                writer.u64(4, cluster_key.0);
                writer.u64(6, principal.0);
            }
            ClusteringBody::ChangeApplied { cluster_key, succession } => {
                writer.u64(4, cluster_key.0);
                writer.buffer_with(5, |out| put_node_ids(out, succession));
            }
            ClusteringBody::Learn { sequence, cluster_key, succession } => {
                writer.u64(3, *sequence);
                writer.u64(4, cluster_key.0);
                writer.buffer_with(5, |out| put_node_ids(out, succession));
            }
        }
        writer.finish();
    }
}
