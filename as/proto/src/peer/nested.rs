//! Structures inside fields: lists of node ids, endpoints, msgpack lists of numbers and of strings, partition
//! versions.
//!
//! Lists of ids and contents of C structs are in host order, which is little-endian on all supported machines.

use cf::msgpack::{self, Head, Reader};

use super::fields::PeerError;
use super::ids::NodeId;

/// An address of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    /// [`Endpoint::TLS`] or 0; other bits are preserved.
    pub capabilities: u8,
    pub address: Address,
    pub port: u16,
}

impl Endpoint {
    /// The node accepts TLS at this address.
    pub const TLS: u8 = 1;
}

/// An IP address, in network order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

const ADDRESS_V4: u8 = 1;
const ADDRESS_V6: u8 = 2;

/// Reads an endpoint list: count u8, then capabilities u8, address type u8, port u16, address 4 or 16 for
/// each. Also returns the rest. `None` if the list is truncated or has an address of unknown type.
fn read_endpoints(bytes: &[u8]) -> Option<(Vec<Endpoint>, &[u8])> {
    let (&count, mut rest) = bytes.split_first()?;
    let mut endpoints = Vec::new();
    for _ in 0..count {
        let (&[capabilities, kind, low, high], after) = rest.split_first_chunk()?;
        let (address, after) = match kind {
            ADDRESS_V4 => after.split_first_chunk().map(|(address, after)| (Address::V4(*address), after))?,
            ADDRESS_V6 => after.split_first_chunk().map(|(address, after)| (Address::V6(*address), after))?,
            _ => return None,
        };
        endpoints.push(Endpoint { capabilities, address, port: u16::from_le_bytes([low, high]) });
        rest = after;
    }
    Some((endpoints, rest))
}

/// Reads a field that is one endpoint list.
pub(super) fn endpoints(id: u16, bytes: &[u8]) -> Result<Vec<Endpoint>, PeerError> {
    match read_endpoints(bytes) {
        Some((endpoints, [])) => Ok(endpoints),
        _ => Err(PeerError::Invalid(id)),
    }
}

/// Appends an endpoint list. Endpoints beyond its limit of 255 are left out.
pub(super) fn put_endpoints(out: &mut Vec<u8>, endpoints: &[Endpoint]) {
    let count = u8::try_from(endpoints.len()).unwrap_or(u8::MAX);
    out.push(count);
    for endpoint in endpoints.iter().take(usize::from(count)) {
        let kind = match endpoint.address {
            Address::V4(_) => ADDRESS_V4,
            Address::V6(_) => ADDRESS_V6,
        };
        out.extend_from_slice(&[endpoint.capabilities, kind]);
        out.extend_from_slice(&endpoint.port.to_le_bytes());
        match &endpoint.address {
            Address::V4(address) => out.extend_from_slice(address),
            Address::V6(address) => out.extend_from_slice(address),
        }
    }
}

/// Nodes and their endpoints, without gaps: node id u64, endpoint list.
pub(super) fn node_endpoints(id: u16, bytes: &[u8]) -> Result<Vec<(NodeId, Vec<Endpoint>)>, PeerError> {
    let mut rest = bytes;
    let mut nodes = Vec::new();
    while !rest.is_empty() {
        let (node, after) = rest.split_first_chunk().ok_or(PeerError::Invalid(id))?;
        let (endpoints, after) = read_endpoints(after).ok_or(PeerError::Invalid(id))?;
        nodes.push((NodeId(u64::from_le_bytes(*node)), endpoints));
        rest = after;
    }
    Ok(nodes)
}

/// Appends nodes and their endpoints.
pub(super) fn put_node_endpoints(out: &mut Vec<u8>, nodes: &[(NodeId, Vec<Endpoint>)]) {
    for (node, endpoints) in nodes {
        out.extend_from_slice(&node.0.to_le_bytes());
        put_endpoints(out, endpoints);
    }
}

/// Reads node ids, u64 each.
pub(super) fn node_ids(id: u16, bytes: &[u8]) -> Result<Vec<NodeId>, PeerError> {
    let (ids, []) = bytes.as_chunks() else { return Err(PeerError::Invalid(id)) };
    Ok(ids.iter().map(|id| NodeId(u64::from_le_bytes(*id))).collect())
}

/// Appends node ids.
pub(super) fn put_node_ids(out: &mut Vec<u8>, ids: &[NodeId]) {
    for id in ids {
        out.extend_from_slice(&id.0.to_le_bytes());
    }
}

/// Reads an array of big-endian numbers.
pub(super) fn u64_array(id: u16, bytes: &[u8]) -> Result<Vec<u64>, PeerError> {
    let (values, []) = bytes.as_chunks() else { return Err(PeerError::Invalid(id)) };
    Ok(values.iter().map(|value| u64::from_be_bytes(*value)).collect())
}

/// Reads a msgpack list. Each element takes at least one byte; the stated count sizes no allocation.
fn list<'a, T>(
    id: u16,
    bytes: &'a [u8],
    element: impl Fn(Head<'a>) -> Option<T>,
) -> Result<Vec<T>, PeerError> {
    let mut reader = Reader::new(bytes);
    let Some(Head::List(count)) = reader.head() else { return Err(PeerError::Invalid(id)) };
    let mut elements = Vec::new();
    for _ in 0..count {
        elements.push(reader.head().and_then(&element).ok_or(PeerError::Invalid(id))?);
    }
    if reader.is_at_end() { Ok(elements) } else { Err(PeerError::Invalid(id)) }
}

/// Reads a msgpack list of numbers.
pub(super) fn u64_list(id: u16, bytes: &[u8]) -> Result<Vec<u64>, PeerError> {
    list(id, bytes, |head| match head {
        Head::Unsigned(number) => Some(number),
        _ => None,
    })
}

/// Reads a msgpack list of numbers of 32 bits.
pub(super) fn u32_list(id: u16, bytes: &[u8]) -> Result<Vec<u32>, PeerError> {
    list(id, bytes, |head| match head {
        Head::Unsigned(number) => u32::try_from(number).ok(),
        _ => None,
    })
}

/// Reads a msgpack list of byte strings.
pub(super) fn bytes_list(id: u16, bytes: &[u8]) -> Result<Vec<&[u8]>, PeerError> {
    list(id, bytes, |head| match head {
        Head::Raw(bytes) => Some(bytes),
        _ => None,
    })
}

/// Reads a msgpack list of byte strings, any of which may be nil.
pub(super) fn optional_bytes_list(id: u16, bytes: &[u8]) -> Result<Vec<Option<&[u8]>>, PeerError> {
    list(id, bytes, |head| match head {
        Head::Raw(bytes) => Some(Some(bytes)),
        Head::Nil => Some(None),
        _ => None,
    })
}

/// Appends the head of a msgpack list.
pub(super) fn put_list_head(out: &mut Vec<u8>, count: usize) {
    msgpack::put_list_header(out, u32::try_from(count).unwrap_or(u32::MAX));
}

/// Appends a msgpack list of numbers.
pub(super) fn put_u64_list(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = u64>) {
    put_list_head(out, values.len());
    values.for_each(|value| msgpack::put_unsigned(out, value));
}

/// Appends a byte string.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    msgpack::put_raw_header(out, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}

/// Partitions of one node with the same version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionGroup {
    /// The 64 bits of the partition version.
    pub version: u64,
    /// The partitions, ascending.
    pub partitions: Vec<u16>,
}

/// Reads the partition versions of a namespace: number of groups u32, then version u64, number of partitions u32 and
/// partitions u16 for each. Partitions without data are in no group.
pub(super) fn version_groups(id: u16, bytes: &[u8]) -> Result<Vec<VersionGroup>, PeerError> {
    let invalid = PeerError::Invalid(id);
    let (count, mut rest) = bytes.split_first_chunk().ok_or(invalid)?;
    let mut groups = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (version, after) = rest.split_first_chunk().ok_or(invalid)?;
        let (count, after) = after.split_first_chunk().ok_or(invalid)?;
        let size = (u32::from_le_bytes(*count) as usize).checked_mul(2).ok_or(invalid)?;
        let (partitions, after) = after.split_at_checked(size).ok_or(invalid)?;
        let (partitions, _) = partitions.as_chunks();
        let partitions = partitions.iter().map(|partition| u16::from_le_bytes(*partition)).collect();
        groups.push(VersionGroup { version: u64::from_le_bytes(*version), partitions });
        rest = after;
    }
    if rest.is_empty() { Ok(groups) } else { Err(invalid) }
}

/// Appends the partition versions of a namespace.
pub(super) fn put_version_groups(out: &mut Vec<u8>, groups: &[VersionGroup]) {
    let size = |count| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
    out.extend_from_slice(&size(groups.len()));
    for group in groups {
        out.extend_from_slice(&group.version.to_le_bytes());
        out.extend_from_slice(&size(group.partitions.len()));
        for partition in &group.partitions {
            out.extend_from_slice(&partition.to_le_bytes());
        }
    }
}
