//! Heartbeats: pulses with the nodes that the sender sees, and requests for the addresses of other nodes.
//!
//! ```text
//! 0 protocol u32 (0x6864)   1 kind u32        2 source node u64       3 cluster name text    4 send time u64 (HLC)
//! 5 heartbeat endpoints     6 compressed      7 nodes asked for       8 their endpoints
//! 9 fabric endpoints       10 adjacency      11 clustering state     12 wall clock, ms since 1970, u64
//! 66 departure u32: 1 leaving, 2 gone
//! ```
//! A pulse has 0-5 and 9-12, without 5 in multicast; a request 0 1 2 4 5 7, a reply 0 1 2 4 5 8. Only this
//! server sends field 66, in pulses of a node that stops; C servers skip it. A message larger than a packet
//! is deflated (zlib) as a whole into field 6 of a message without other fields. The clustering state is
//! protocol u32 (0x707C), cluster key u64, sequence u64, preferred principal u64, number of members u32 and
//! their ids, little-endian; a node in no cluster has key 0 and no members.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::fields::{Fields, MessageType, PeerError, Value, Writer, text};
use super::ids::{ClusterKey, NodeId};
use super::nested::{
    Endpoint, endpoints, node_endpoints, node_ids, put_endpoints, put_node_endpoints, put_node_ids,
};

/// Heartbeat protocol version 3.
pub const PROTOCOL: u32 = 0x6864;
/// The protocol of the clustering state in a pulse and of clustering messages.
pub const CLUSTERING_PROTOCOL: u32 = 0x707C;
/// Limit of the inflated size. A larger message is dropped.
pub const INFLATED_SIZE_MAX: usize = 10 << 20;

const KIND_PULSE: u32 = 0;
const KIND_REQUEST: u32 = 1;
const KIND_REPLY: u32 = 2;
const COMPRESSED: u16 = 6;
const CLUSTERING: u16 = 11;
const DEPARTURE: u16 = 66;

/// A heartbeat message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    pub node: NodeId,
    /// The sender's hybrid logical clock.
    pub send_time: u64,
    /// The sender's addresses for heartbeat connections; none in multicast.
    pub endpoints: Option<Vec<Endpoint>>,
    pub body: HeartbeatBody,
}

/// The content of a heartbeat message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeartbeatBody {
    Pulse(Pulse),
    /// Asks for the addresses of these nodes.
    InfoRequest(Vec<NodeId>),
    /// The addresses of these nodes.
    InfoReply(Vec<(NodeId, Vec<Endpoint>)>),
}

/// The periodic signal that a node is running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// The name of the cluster. Pulses with another name are ignored.
    pub cluster_name: Option<Vec<u8>>,
    pub fabric_endpoints: Vec<Endpoint>,
    /// The nodes whose heartbeats the sender receives, without the sender.
    pub adjacency: Vec<NodeId>,
    pub clustering: ClusteringState,
    /// The sender's wall clock, milliseconds since 1970.
    pub wall_ms: Option<u64>,
    pub departure: Departure,
}

/// Whether the sender of a pulse is about to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Departure {
    #[default]
    Staying,
    /// The sender wants other nodes to take its partitions over.
    Leaving,
    /// This is the sender's last pulse.
    Gone,
}

/// The cluster of a pulse's sender.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusteringState {
    pub cluster_key: ClusterKey,
    pub sequence: u64,
    /// The principal whose cluster the sender would like to join; 0 for none.
    pub preferred_principal: NodeId,
    /// The members in descending order, the principal first; empty for an orphan.
    pub succession: Vec<NodeId>,
}

impl Heartbeat {
    /// Reads a whole message, inflating it if it is compressed.
    ///
    /// # Errors
    /// When it is not a heartbeat message, or has another protocol.
    pub fn decode(message: &[u8]) -> Result<Self, PeerError> {
        match compressed(message)? {
            None => Self::decode_plain(message),
            Some(bytes) => Self::decode_plain(&inflate(bytes)?),
        }
    }

    /// Reads a message that is not compressed.
    ///
    /// # Errors
    /// When it is not a heartbeat message, or has another protocol.
    pub fn decode_plain(message: &[u8]) -> Result<Self, PeerError> {
        let (mut protocol, mut kind, mut node, mut send_time) = (None, None, None, None);
        let (mut own, mut asked, mut told) = (None, None, None);
        let (mut name, mut fabric, mut adjacency, mut clustering, mut wall_ms) =
            (None, None, None, None, None);
        let mut departure = Departure::Staying;
        for field in Fields::of(message, MessageType::Heartbeat)? {
            match field? {
                (0, Value::U32(number)) => protocol = Some(number),
                (1, Value::U32(number)) => kind = Some(number),
                (2, Value::U64(id)) => node = Some(NodeId(id)),
                (3, Value::Text(bytes)) => name = Some(text(3, bytes)?.to_vec()),
                (4, Value::U64(time)) => send_time = Some(time),
                (5, Value::Buffer(bytes)) => own = Some(endpoints(5, bytes)?),
                (7, Value::Buffer(bytes)) => asked = Some(node_ids(7, bytes)?),
                (8, Value::Buffer(bytes)) => told = Some(node_endpoints(8, bytes)?),
                (9, Value::Buffer(bytes)) => fabric = Some(endpoints(9, bytes)?),
                (10, Value::Buffer(bytes)) => adjacency = Some(node_ids(10, bytes)?),
                (CLUSTERING, Value::Buffer(bytes)) => clustering = Some(ClusteringState::decode(bytes)?),
                (12, Value::U64(ms)) => wall_ms = Some(ms),
                (DEPARTURE, Value::U32(number)) => departure = Departure::of(number),
                _ => {}
            }
        }
        if protocol != Some(PROTOCOL) {
            return Err(PeerError::Unknown);
        }
        let body = match kind {
            Some(KIND_PULSE) => HeartbeatBody::Pulse(Pulse {
                cluster_name: name,
                fabric_endpoints: fabric.ok_or(PeerError::Missing(9))?,
                adjacency: adjacency.ok_or(PeerError::Missing(10))?,
                clustering: clustering.ok_or(PeerError::Missing(CLUSTERING))?,
                wall_ms,
                departure,
            }),
            Some(KIND_REQUEST) => HeartbeatBody::InfoRequest(asked.ok_or(PeerError::Missing(7))?),
            Some(KIND_REPLY) => HeartbeatBody::InfoReply(told.ok_or(PeerError::Missing(8))?),
            _ => return Err(PeerError::Unknown),
        };
        let node = node.filter(|node| !node.is_none()).ok_or(PeerError::Missing(2))?;
        Ok(Heartbeat { node, send_time: send_time.ok_or(PeerError::Missing(4))?, endpoints: own, body })
    }

    /// Appends the uncompressed message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, MessageType::Heartbeat);
        writer.u32(0, PROTOCOL);
        writer.u32(
            1,
            match self.body {
                HeartbeatBody::Pulse(_) => KIND_PULSE,
                HeartbeatBody::InfoRequest(_) => KIND_REQUEST,
                HeartbeatBody::InfoReply(_) => KIND_REPLY,
            },
        );
        writer.u64(2, self.node.0);
        if let HeartbeatBody::Pulse(Pulse { cluster_name: Some(name), .. }) = &self.body {
            writer.text(3, name);
        }
        writer.u64(4, self.send_time);
        if let Some(endpoints) = &self.endpoints {
            writer.buffer_with(5, |out| put_endpoints(out, endpoints));
        }
        match &self.body {
            HeartbeatBody::Pulse(pulse) => {
                writer.buffer_with(9, |out| put_endpoints(out, &pulse.fabric_endpoints));
                writer.buffer_with(10, |out| put_node_ids(out, &pulse.adjacency));
                writer.buffer_with(CLUSTERING, |out| pulse.clustering.encode(out));
                writer.optional_u64(12, pulse.wall_ms);
                if let Some(number) = pulse.departure.number() {
                    writer.u32(DEPARTURE, number);
                }
            }
            HeartbeatBody::InfoRequest(nodes) => writer.buffer_with(7, |out| put_node_ids(out, nodes)),
            HeartbeatBody::InfoReply(nodes) => writer.buffer_with(8, |out| put_node_endpoints(out, nodes)),
        }
        writer.finish();
    }
}

impl Departure {
    /// Later versions may send further kinds of departure, which have no meaning for this version.
    fn of(number: u32) -> Self {
        match number {
            1 => Departure::Leaving,
            2 => Departure::Gone,
            _ => Departure::Staying,
        }
    }

    fn number(self) -> Option<u32> {
        match self {
            Departure::Staying => None,
            Departure::Leaving => Some(1),
            Departure::Gone => Some(2),
        }
    }
}

impl ClusteringState {
    fn decode(bytes: &[u8]) -> Result<Self, PeerError> {
        let invalid = PeerError::Invalid(CLUSTERING);
        let (protocol, rest) = bytes.split_first_chunk().ok_or(invalid)?;
        if u32::from_le_bytes(*protocol) != CLUSTERING_PROTOCOL {
            return Err(PeerError::Unknown);
        }
        let (cluster_key, rest) = rest.split_first_chunk().ok_or(invalid)?;
        let (sequence, rest) = rest.split_first_chunk().ok_or(invalid)?;
        let (preferred, rest) = rest.split_first_chunk().ok_or(invalid)?;
        let (count, rest) = rest.split_first_chunk().ok_or(invalid)?;
        let succession = node_ids(CLUSTERING, rest)?;
        if succession.len() != u32::from_le_bytes(*count) as usize {
            return Err(invalid);
        }
        Ok(ClusteringState {
            cluster_key: ClusterKey(u64::from_le_bytes(*cluster_key)),
            sequence: u64::from_le_bytes(*sequence),
            preferred_principal: NodeId(u64::from_le_bytes(*preferred)),
            succession,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&CLUSTERING_PROTOCOL.to_le_bytes());
        out.extend_from_slice(&self.cluster_key.0.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.preferred_principal.0.to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.succession.len()).unwrap_or(u32::MAX).to_le_bytes());
        put_node_ids(out, &self.succession);
    }
}

/// The deflated message inside a message; `None` if the message is not compressed.
///
/// # Errors
/// When it is not a heartbeat message.
pub fn compressed(message: &[u8]) -> Result<Option<&[u8]>, PeerError> {
    for field in Fields::of(message, MessageType::Heartbeat)? {
        if let (COMPRESSED, Value::Buffer(bytes)) = field? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Appends the wrapper of a deflated message.
pub fn wrap(out: &mut Vec<u8>, deflated: &[u8]) {
    let mut writer = Writer::new(out, MessageType::Heartbeat);
    writer.buffer(COMPRESSED, deflated);
    writer.finish();
}

/// Deflates a whole message.
#[must_use]
pub fn deflate(message: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    // A write to memory cannot fail. If it did, the receiver would drop the message.
    let _ = encoder.write_all(message);
    encoder.finish().unwrap_or_default()
}

/// Inflates a deflated message, up to a limit that does not depend on its bytes.
///
/// # Errors
/// When the bytes are damaged, or inflate to more than [`INFLATED_SIZE_MAX`].
pub fn inflate(deflated: &[u8]) -> Result<Vec<u8>, PeerError> {
    let mut message = Vec::new();
    let mut decoder = ZlibDecoder::new(deflated).take(INFLATED_SIZE_MAX as u64 + 1);
    decoder.read_to_end(&mut message).map_err(|_| PeerError::Invalid(COMPRESSED))?;
    if message.len() > INFLATED_SIZE_MAX { Err(PeerError::TooLarge) } else { Ok(message) }
}
