//! Cluster-wide metadata: definitions of secondary indexes, UDFs, truncations and eviction times. The
//! principal keeps it equal on all nodes.
//!
//! ```text
//! 0 transaction id u64   2 cluster key u64   3 op u32   4 module u32   10 timestamps (array of u64)
//! 13 version list   15 keys   16 values   17 generations   18 key   19 value   20 generation u32   21 timestamp u64
//! 22 committed cluster key u64
//! ```
//! Channel: metadata. Lists are msgpack; a missing or nil value means a deleted key. Timestamps are milliseconds since
//! 2010. The version of a module is the cluster key under which it was last merged, and a number that counts the
//! changes since.

use super::fields::{Fields, MessageType, PeerError, Value, Writer, text};
use super::ids::ClusterKey;
use super::nested::{
    bytes_list, optional_bytes_list, put_bytes, put_list_head, put_u64_list, u32_list, u64_array, u64_list,
};

/// A metadata message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Smd {
    pub cluster_key: ClusterKey,
    pub body: SmdBody,
}

/// The content of a metadata message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SmdBody {
    /// A node passes a change on to the principal.
    SetToPrincipal {
        transaction_id: u64,
        module: u32,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    /// After a change of the cluster: the versions of all modules.
    ReportAllVersions {
        versions: Vec<ModuleVersion>,
    },
    ReportVersion {
        transaction_id: u64,
        module: u32,
        committed_key: ClusterKey,
    },
    FullToPrincipal(Full),
    AckToPrincipal {
        transaction_id: u64,
        module: u32,
    },
    /// The principal distributes a change to all nodes.
    SetFromPrincipal {
        transaction_id: u64,
        module: u32,
        item: Item,
    },
    RequestVersion {
        module: u32,
    },
    FullFromPrincipal(Full),
    RequestFull {
        transaction_id: u64,
        module: u32,
        committed_key: ClusterKey,
    },
    /// The change has reached all nodes.
    SetAck {
        transaction_id: u64,
        module: u32,
    },
    SetNack {
        transaction_id: u64,
        module: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModuleVersion {
    pub module: u32,
    pub committed_key: ClusterKey,
    pub transaction_id: u64,
}

/// All items of a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Full {
    pub transaction_id: u64,
    pub module: u32,
    pub committed_key: ClusterKey,
    pub items: Vec<Item>,
}

/// One piece of metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Item {
    pub key: Vec<u8>,
    /// `None` for a deleted item.
    pub value: Option<Vec<u8>>,
    pub generation: u32,
    /// Milliseconds since 2010.
    pub timestamp: u64,
}

/// The fields of a message. Its op determines which of them are required.
#[derive(Default)]
struct Parts<'a> {
    transaction_id: Option<u64>,
    cluster_key: Option<u64>,
    op: Option<u32>,
    module: Option<u32>,
    committed_key: Option<u64>,
    versions: Option<Vec<u64>>,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    generation: Option<u32>,
    timestamp: Option<u64>,
    keys: Option<Vec<&'a [u8]>>,
    values: Option<Vec<Option<&'a [u8]>>>,
    generations: Option<Vec<u32>>,
    timestamps: Option<Vec<u64>>,
}

impl<'a> Parts<'a> {
    fn read(message: &'a [u8]) -> Result<Self, PeerError> {
        let mut parts = Parts::default();
        for field in Fields::of(message, MessageType::Smd)? {
            match field? {
                (0, Value::U64(number)) => parts.transaction_id = Some(number),
                (2, Value::U64(key)) => parts.cluster_key = Some(key),
                (3, Value::U32(number)) => parts.op = Some(number),
                (4, Value::U32(number)) => parts.module = Some(number),
                (10, Value::U64Array(bytes)) => parts.timestamps = Some(u64_array(10, bytes)?),
                (13, Value::Msgpack(bytes)) => parts.versions = Some(u64_list(13, bytes)?),
                (15, Value::Msgpack(bytes)) => parts.keys = Some(bytes_list(15, bytes)?),
                (16, Value::Msgpack(bytes)) => parts.values = Some(optional_bytes_list(16, bytes)?),
                (17, Value::Msgpack(bytes)) => parts.generations = Some(u32_list(17, bytes)?),
                (18, Value::Text(bytes)) => parts.key = Some(text(18, bytes)?),
                (19, Value::Text(bytes)) => parts.value = Some(text(19, bytes)?),
                (20, Value::U32(number)) => parts.generation = Some(number),
                (21, Value::U64(time)) => parts.timestamp = Some(time),
                (22, Value::U64(key)) => parts.committed_key = Some(key),
                _ => {}
            }
        }
        Ok(parts)
    }

    fn transaction_id(&self) -> Result<u64, PeerError> {
        self.transaction_id.ok_or(PeerError::Missing(0))
    }

    fn module(&self) -> Result<u32, PeerError> {
        self.module.ok_or(PeerError::Missing(4))
    }

    fn committed_key(&self) -> Result<ClusterKey, PeerError> {
        self.committed_key.map(ClusterKey).ok_or(PeerError::Missing(22))
    }

    fn versions(&self) -> Result<Vec<ModuleVersion>, PeerError> {
        let numbers = self.versions.as_ref().ok_or(PeerError::Missing(13))?;
        let (triples, []) = numbers.as_chunks() else { return Err(PeerError::Invalid(13)) };
        let version = |&[module, key, transaction_id]: &[u64; 3]| {
            let module = u32::try_from(module).map_err(|_| PeerError::Invalid(13))?;
            Ok(ModuleVersion { module, committed_key: ClusterKey(key), transaction_id })
        };
        triples.iter().map(version).collect()
    }

    fn full(&self) -> Result<Full, PeerError> {
        let keys = self.keys.as_deref().unwrap_or_default();
        let values = self.values.as_deref().unwrap_or_default();
        let generations = self.generations.as_deref().unwrap_or_default();
        let timestamps = self.timestamps.as_deref().unwrap_or_default();
        if [values.len(), generations.len(), timestamps.len()] != [keys.len(); 3] {
            return Err(PeerError::Invalid(15));
        }
        let rows = keys.iter().zip(values).zip(generations).zip(timestamps);
        let items = rows
            .map(|(((key, value), &generation), &timestamp)| Item {
                key: key.to_vec(),
                value: value.map(<[u8]>::to_vec),
                generation,
                timestamp,
            })
            .collect();
        Ok(Full {
            transaction_id: self.transaction_id()?,
            module: self.module()?,
            committed_key: self.committed_key()?,
            items,
        })
    }

    fn body(&self) -> Result<SmdBody, PeerError> {
        let key = || Ok(self.key.ok_or(PeerError::Missing(18))?.to_vec());
        let value = || self.value.map(<[u8]>::to_vec);
        Ok(match self.op {
            Some(0) => SmdBody::SetToPrincipal {
                transaction_id: self.transaction_id()?,
                module: self.module()?,
                key: key()?,
                value: value(),
            },
            Some(1) => SmdBody::ReportAllVersions { versions: self.versions()? },
            Some(2) => SmdBody::ReportVersion {
                transaction_id: self.transaction_id()?,
                module: self.module()?,
                committed_key: self.committed_key()?,
            },
            Some(3) => SmdBody::FullToPrincipal(self.full()?),
            Some(4) => {
                SmdBody::AckToPrincipal { transaction_id: self.transaction_id()?, module: self.module()? }
            }
            Some(5) => {
                let item = Item {
                    key: key()?,
                    value: value(),
                    generation: self.generation.ok_or(PeerError::Missing(20))?,
                    timestamp: self.timestamp.ok_or(PeerError::Missing(21))?,
                };
                SmdBody::SetFromPrincipal {
                    transaction_id: self.transaction_id()?,
                    module: self.module()?,
                    item,
                }
            }
            Some(6) => SmdBody::RequestVersion { module: self.module()? },
            Some(7) => SmdBody::FullFromPrincipal(self.full()?),
            Some(8) => SmdBody::RequestFull {
                transaction_id: self.transaction_id()?,
                module: self.module()?,
                committed_key: self.committed_key()?,
            },
            Some(9) => SmdBody::SetAck { transaction_id: self.transaction_id()?, module: self.module()? },
            Some(10) => SmdBody::SetNack { transaction_id: self.transaction_id()?, module: self.module()? },
            _ => return Err(PeerError::Unknown),
        })
    }
}

impl Smd {
    /// Reads a whole message.
    ///
    /// # Errors
    /// When it is no metadata message, or incomplete.
    pub fn decode(message: &[u8]) -> Result<Self, PeerError> {
        let parts = Parts::read(message)?;
        let cluster_key = ClusterKey(parts.cluster_key.ok_or(PeerError::Missing(2))?);
        Ok(Smd { cluster_key, body: parts.body()? })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out, MessageType::Smd);
        let mut head = |op: u32, transaction_id: Option<u64>, module: Option<u32>| {
            writer.optional_u64(0, transaction_id);
            writer.u64(2, self.cluster_key.0);
            writer.u32(3, op);
            writer.optional_u32(4, module);
        };
        match &self.body {
            SmdBody::SetToPrincipal { transaction_id, module, key, value } => {
                head(0, Some(*transaction_id), Some(*module));
                writer.text(18, key);
                if let Some(value) = value {
                    writer.text(19, value);
                }
            }
            SmdBody::ReportAllVersions { versions } => {
                head(1, None, None);
                writer.msgpack_with(13, |out| {
                    let flat = versions.iter().flat_map(|version| {
                        [u64::from(version.module), version.committed_key.0, version.transaction_id]
                    });
                    put_u64_list(out, flat.collect::<Vec<_>>().into_iter());
                });
            }
            SmdBody::ReportVersion { transaction_id, module, committed_key } => {
                head(2, Some(*transaction_id), Some(*module));
                writer.u64(22, committed_key.0);
            }
            SmdBody::FullToPrincipal(full) => {
                head(3, Some(full.transaction_id), Some(full.module));
                full.encode(&mut writer);
            }
            SmdBody::AckToPrincipal { transaction_id, module } => {
                head(4, Some(*transaction_id), Some(*module));
            }
            SmdBody::SetFromPrincipal { transaction_id, module, item } => {
                head(5, Some(*transaction_id), Some(*module));
                writer.u32(20, item.generation);
                writer.u64(21, item.timestamp);
                writer.text(18, &item.key);
                if let Some(value) = &item.value {
                    writer.text(19, value);
                }
            }
            SmdBody::RequestVersion { module } => head(6, None, Some(*module)),
            SmdBody::FullFromPrincipal(full) => {
                head(7, Some(full.transaction_id), Some(full.module));
                full.encode(&mut writer);
            }
            SmdBody::RequestFull { transaction_id, module, committed_key } => {
                head(8, Some(*transaction_id), Some(*module));
                writer.u64(22, committed_key.0);
            }
            SmdBody::SetAck { transaction_id, module } => head(9, Some(*transaction_id), Some(*module)),
            SmdBody::SetNack { transaction_id, module } => head(10, Some(*transaction_id), Some(*module)),
        }
        writer.finish();
    }
}

impl Full {
    fn encode(&self, writer: &mut Writer<'_>) {
        let items = &self.items;
        writer.u64(22, self.committed_key.0);
        writer.u64_array(10, items.iter().map(|item| item.timestamp));
        writer.msgpack_with(15, |out| {
            put_list_head(out, items.len());
            items.iter().for_each(|item| put_bytes(out, &item.key));
        });
        writer.msgpack_with(16, |out| {
            put_list_head(out, items.len());
            for item in items {
                match &item.value {
                    Some(value) => put_bytes(out, value),
                    None => cf::msgpack::put_nil(out),
                }
            }
        });
        writer.msgpack_with(17, |out| put_u64_list(out, items.iter().map(|item| u64::from(item.generation))));
    }
}
