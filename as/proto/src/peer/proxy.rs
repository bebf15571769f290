//! Proxied requests: a client's request that reached a node that does not own its partition.
//!
//! Fields: 0 op u32, 1 transaction id u32, 2 digest, 3 node u64, 4 client frame, 64 cluster key u64. Channel:
//! read-write. Only this server sends field 64, in requests, and the C server skips it. It is the key of the
//! asking node's cluster. A node of another cluster sends the request back: it may still consider itself the
//! master, for example after a network partition, and its write would be lost when the clusters merge.

use cf::Digest;

use super::fields::{Fields, MessageType, PeerError, Value, Writer};
use super::ids::{ClusterKey, NodeId};

const CLUSTER_KEY: u16 = 64;

/// A proxy message, borrowed from its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proxy<'a> {
    /// The asking node chooses this number; answers repeat it.
    pub transaction_id: u32,
    pub body: ProxyBody<'a>,
}

/// The content of a proxy message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProxyBody<'a> {
    /// A whole client frame. Rows of a batch have no digest.
    Request { digest: Option<Digest>, frame: &'a [u8], cluster_key: Option<ClusterKey> },
    /// The whole frame for the client.
    Response { frame: &'a [u8] },
    /// This node does not own the partition either; the request should go to that node.
    ReturnToSender { node: NodeId },
}

impl<'a> Proxy<'a> {
    /// Reads a whole message.
    ///
    /// # Errors
    /// When it is no proxy message, or incomplete.
    pub fn decode(message: &'a [u8]) -> Result<Self, PeerError> {
        let (mut op, mut transaction_id, mut digest, mut node, mut frame) = (None, None, None, None, None);
        let mut cluster_key = None;
        for field in Fields::of(message, MessageType::Proxy)? {
            match field? {
                (0, Value::U32(number)) => op = Some(number),
                (1, Value::U32(number)) => transaction_id = Some(number),
                (2, Value::Buffer(bytes)) => {
                    digest = Some(Digest::from_slice(bytes).ok_or(PeerError::Invalid(2))?);
                }
                (3, Value::U64(id)) => node = Some(NodeId(id)),
                (4, Value::Buffer(bytes)) => frame = Some(bytes),
                (CLUSTER_KEY, Value::U64(key)) => cluster_key = Some(ClusterKey(key)),
                _ => {}
            }
        }
        let frame = frame.ok_or(PeerError::Missing(4));
        let body = match op {
            Some(1) => ProxyBody::Request { digest, frame: frame?, cluster_key },
            Some(2) => ProxyBody::Response { frame: frame? },
            Some(3) => ProxyBody::ReturnToSender { node: node.ok_or(PeerError::Missing(3))? },
            _ => return Err(PeerError::Unknown),
        };
        Ok(Proxy { transaction_id: transaction_id.ok_or(PeerError::Missing(1))?, body })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, MessageType::Proxy);
        writer.u32(
            0,
            match self.body {
                ProxyBody::Request { .. } => 1,
                ProxyBody::Response { .. } => 2,
                ProxyBody::ReturnToSender { .. } => 3,
            },
        );
        writer.u32(1, self.transaction_id);
        match &self.body {
            ProxyBody::Request { digest, frame, cluster_key } => {
                writer.optional_u64(CLUSTER_KEY, cluster_key.map(|key| key.0));
                if let Some(digest) = digest {
                    writer.buffer(2, &digest.0);
                }
                writer.buffer(4, frame);
            }
            ProxyBody::Response { frame } => writer.buffer(4, frame),
            ProxyBody::ReturnToSender { node } => writer.u64(3, node.0),
        }
        writer.finish();
    }
}
