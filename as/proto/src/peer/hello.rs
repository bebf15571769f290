//! The first message on a fabric connection: the calling node, and the channel.
//!
//! Fields: 0 node id u64, 5 channel u32.

use super::fields::{Fields, MessageType, PeerError, Value, Writer};
use super::ids::NodeId;

/// The content of a fabric connection. Each channel has its own connections, so that large messages do not delay small
/// ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Channel {
    /// Replica writes, duplicate resolution, proxied requests.
    ReadWrite = 0,
    /// Clustering, exchange, services; start and end of migrations.
    Control = 1,
    /// Migrating records.
    Bulk = 2,
    /// Cluster-wide metadata.
    Metadata = 3,
}

impl Channel {
    /// All channels, by their numbers.
    pub const ALL: [Channel; 4] = [Channel::ReadWrite, Channel::Control, Channel::Bulk, Channel::Metadata];
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    pub node: NodeId,
    pub channel: Channel,
}

impl Hello {
    /// Reads a whole message.
    ///
    /// # Errors
    /// When it is no hello, or the channel is unknown.
    pub fn decode(message: &[u8]) -> Result<Self, PeerError> {
        let (mut node, mut channel) = (None, None);
        for field in Fields::of(message, MessageType::Hello)? {
            match field? {
                (0, Value::U64(id)) => node = Some(NodeId(id)),
                (5, Value::U32(number)) => channel = Some(number),
                _ => {}
            }
        }
        let node = node.filter(|node| !node.is_none()).ok_or(PeerError::Missing(0))?;
        let number = channel.ok_or(PeerError::Missing(5))?;
        let channel = Channel::ALL.get(number as usize).copied().ok_or(PeerError::Invalid(5))?;
        Ok(Hello { node, channel })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, MessageType::Hello);
        writer.u64(0, self.node.0);
        writer.u32(5, self.channel as u32);
        writer.finish();
    }
}
