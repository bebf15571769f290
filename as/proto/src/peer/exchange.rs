//! Exchange: after each change of the cluster, every member tells all others which data it has. When all
//! members have the data of all, the principal lets them rebalance together.
//!
//! ```text
//! 0 id u32 (1)   1 kind u32   2 cluster key u64   3 namespaces   4 partition versions   5 rack ids
//! 11 rebalance flags   12 compatibility id u32   13 replication factors   14 active racks
//! 64 features u32   65 send time u64 (HLC)
//! ```
//! Channel: control. Kinds: 0 data, 1 data ack, 3 ready to commit, 4 commit; all have 0 1 2. Data has 12 and
//! msgpack lists, one element for each namespace. 11 and 14 are sent only if they are not all zero. Only this
//! server sends 64 and 65; the C server skips unknown fields.

use super::fields::{Fields, MessageType, PeerError, Value, Writer};
use super::ids::ClusterKey;
use super::nested::{
    VersionGroup, bytes_list, put_bytes, put_list_head, put_u64_list, put_version_groups, u32_list,
    version_groups,
};

/// The compatibility id that the C server 8.0 sends.
pub const COMPATIBILITY_ID: u32 = 15;
/// Replicas are placed so that all nodes have the same number of partitions.
pub const FLAG_UNIFORM_BALANCE: u32 = 1;
/// The sender does not want to be master of any partition.
pub const FLAG_QUIESCE: u32 = 2;

const EXCHANGE_ID: u32 = 1;
const RACK_IDS: u16 = 5;
const FLAGS: u16 = 11;
const REPLICATION_FACTORS: u16 = 13;
const ACTIVE_RACKS: u16 = 14;
const FEATURES: u16 = 64;
const SEND_TIME: u16 = 65;

/// An exchange message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    /// The cluster of the message. Messages of other clusters are ignored.
    pub cluster_key: ClusterKey,
    /// The sender's hybrid logical clock; `None` from a C server.
    pub send_time: Option<u64>,
    pub body: ExchangeBody,
}

/// The content of an exchange message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExchangeBody {
    Data(ExchangeData),
    DataAck,
    /// Reports to the principal that the sender has the data of all nodes.
    ReadyToCommit,
    /// The principal lets the members rebalance.
    Commit,
}

/// The data of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExchangeData {
    pub compatibility_id: u32,
    /// Bits of features beyond those of the C server; `None` from a C server.
    pub features: Option<u32>,
    pub namespaces: Vec<NamespaceData>,
}

/// The data of a node in a namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NamespaceData {
    pub name: Vec<u8>,
    /// Versions of the partitions that have data, in groups.
    pub versions: Vec<VersionGroup>,
    pub rack_id: u32,
    /// The configured replication factor.
    pub replication_factor: u32,
    /// [`FLAG_UNIFORM_BALANCE`], [`FLAG_QUIESCE`].
    pub flags: u32,
    /// The rack that holds all masters; 0 means none.
    pub active_rack: u32,
}

impl Exchange {
    /// Reads a whole message.
    ///
    /// # Errors
    /// When it is not an exchange message, or its lists do not match.
    pub fn decode(message: &[u8]) -> Result<Self, PeerError> {
        let (mut id, mut kind, mut cluster_key, mut send_time) = (None, None, None, None);
        let mut lists = Lists::default();
        for field in Fields::of(message, MessageType::Exchange)? {
            match field? {
                (0, Value::U32(number)) => id = Some(number),
                (1, Value::U32(number)) => kind = Some(number),
                (2, Value::U64(key)) => cluster_key = Some(ClusterKey(key)),
                (3, Value::Msgpack(bytes)) => lists.names = Some(bytes_list(3, bytes)?),
                (4, Value::Msgpack(bytes)) => lists.versions = Some(bytes_list(4, bytes)?),
                (RACK_IDS, Value::Msgpack(bytes)) => lists.rack_ids = Some(u32_list(RACK_IDS, bytes)?),
                (FLAGS, Value::Msgpack(bytes)) => lists.flags = Some(u32_list(FLAGS, bytes)?),
                (12, Value::U32(number)) => lists.compatibility_id = number,
                (REPLICATION_FACTORS, Value::Msgpack(bytes)) => {
                    lists.replication_factors = Some(u32_list(REPLICATION_FACTORS, bytes)?);
                }
                (ACTIVE_RACKS, Value::Msgpack(bytes)) => {
                    lists.active_racks = Some(u32_list(ACTIVE_RACKS, bytes)?);
                }
                (FEATURES, Value::U32(bits)) => lists.features = Some(bits),
                (SEND_TIME, Value::U64(time)) => send_time = Some(time),
                _ => {}
            }
        }
        if id != Some(EXCHANGE_ID) {
            return Err(PeerError::Unknown);
        }
        let body = match kind {
            Some(0) => ExchangeBody::Data(lists.join()?),
            Some(1) => ExchangeBody::DataAck,
            Some(3) => ExchangeBody::ReadyToCommit,
            Some(4) => ExchangeBody::Commit,
            _ => return Err(PeerError::Unknown),
        };
        Ok(Exchange { cluster_key: cluster_key.ok_or(PeerError::Missing(2))?, send_time, body })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, MessageType::Exchange);
        writer.u32(0, EXCHANGE_ID);
        writer.u32(
            1,
            match self.body {
                ExchangeBody::Data(_) => 0,
                ExchangeBody::DataAck => 1,
                ExchangeBody::ReadyToCommit => 3,
                ExchangeBody::Commit => 4,
            },
        );
        writer.u64(2, self.cluster_key.0);
        writer.optional_u64(SEND_TIME, self.send_time);
        if let ExchangeBody::Data(data) = &self.body {
            data.encode(&mut writer);
        }
        writer.finish();
    }
}

impl ExchangeData {
    fn encode(&self, writer: &mut Writer<'_>) {
        let namespaces = &self.namespaces;
        writer.u32(12, self.compatibility_id);
        writer.optional_u32(FEATURES, self.features);
        writer.msgpack_with(3, |out| {
            put_list_head(out, namespaces.len());
            namespaces.iter().for_each(|namespace| put_bytes(out, &namespace.name));
        });
        writer.msgpack_with(4, |out| {
            put_list_head(out, namespaces.len());
            let mut blob = Vec::new();
            for namespace in namespaces {
                blob.clear();
                put_version_groups(&mut blob, &namespace.versions);
                put_bytes(out, &blob);
            }
        });
        let mut numbers = |id, number: fn(&NamespaceData) -> u32| {
            writer.msgpack_with(id, |out| {
                put_u64_list(out, namespaces.iter().map(|namespace| u64::from(number(namespace))));
            });
        };
        numbers(RACK_IDS, |namespace| namespace.rack_id);
        if namespaces.iter().any(|namespace| namespace.flags != 0) {
            numbers(FLAGS, |namespace| namespace.flags);
        }
        numbers(REPLICATION_FACTORS, |namespace| namespace.replication_factor);
        if namespaces.iter().any(|namespace| namespace.active_rack != 0) {
            numbers(ACTIVE_RACKS, |namespace| namespace.active_rack);
        }
    }
}

/// The lists of a data message, not yet grouped by namespace.
#[derive(Default)]
struct Lists<'a> {
    compatibility_id: u32,
    features: Option<u32>,
    names: Option<Vec<&'a [u8]>>,
    versions: Option<Vec<&'a [u8]>>,
    rack_ids: Option<Vec<u32>>,
    flags: Option<Vec<u32>>,
    replication_factors: Option<Vec<u32>>,
    active_racks: Option<Vec<u32>>,
}

impl Lists<'_> {
    fn join(self) -> Result<ExchangeData, PeerError> {
        let names = self.names.ok_or(PeerError::Missing(3))?;
        let versions = self.versions.ok_or(PeerError::Missing(4))?;
        if versions.len() != names.len() {
            return Err(PeerError::Invalid(4));
        }
        // A missing list counts as zeros; one of another length is refused.
        let numbers = |id, list: Option<Vec<u32>>| match list {
            None => Ok(vec![0; names.len()]),
            Some(list) if list.len() == names.len() => Ok(list),
            Some(_) => Err(PeerError::Invalid(id)),
        };
        let rack_ids = numbers(RACK_IDS, self.rack_ids)?;
        let flags = numbers(FLAGS, self.flags)?;
        let replication_factors = numbers(REPLICATION_FACTORS, self.replication_factors)?;
        let active_racks = numbers(ACTIVE_RACKS, self.active_racks)?;
        let rows =
            names.iter().zip(&versions).zip(rack_ids).zip(flags).zip(replication_factors).zip(active_racks);
        let namespaces = rows
            .map(|(((((name, versions), rack_id), flags), replication_factor), active_rack)| {
                let versions = version_groups(4, versions)?;
                let name = name.to_vec();
                Ok(NamespaceData { name, versions, rack_id, replication_factor, flags, active_rack })
            })
            .collect::<Result<_, PeerError>>()?;
        Ok(ExchangeData { compatibility_id: self.compatibility_id, features: self.features, namespaces })
    }
}
