//! The sequence of each partition: the members ordered by a hash of node and partition, so that the change of
//! one member moves no partition between others.
//!
//! The score of a member is Jenkins' one-at-a-time hash, in 64 bits, of FNV-1a of the node id and FNV-1a of
//! the partition (u32), all little-endian. Its lowest bits are replaced by the member's index in the
//! succession list, so that no two scores are equal: 3 bits in a cluster of up to 8 nodes, as in the C
//! server's Community Edition, and 8 in a larger one.

use proto::peer::NodeId;

/// Largest number of members of a cluster: an index has 8 bits.
pub const MEMBERS_MAX: usize = 256;
const MEMBERS_OF_SMALL: usize = 8;

/// The sequence of a partition, as indexes into the members.
pub type Row = Vec<u8>;

/// Computes the sequences for a set of members.
#[derive(Clone, Debug)]
pub struct Sequences {
    hashes: Vec<u64>,
    index_mask: u64,
}

impl Sequences {
    /// Prepares the sequences of these members, given in the order of the succession list.
    ///
    /// # Panics
    /// If there are more than [`MEMBERS_MAX`], which heartbeats prevent.
    #[must_use]
    pub fn new(members: &[NodeId]) -> Self {
        assert!(members.len() <= MEMBERS_MAX, "too many members");
        let index_mask = if members.len() <= MEMBERS_OF_SMALL { MEMBERS_OF_SMALL } else { MEMBERS_MAX } - 1;
        let hashes = members.iter().map(|node| fnv_1a(&node.0.to_le_bytes())).collect();
        Sequences { hashes, index_mask: index_mask as u64 }
    }

    /// The sequence of one partition, its eventual master first.
    #[must_use]
    pub fn row(&self, partition: usize) -> Row {
        let partition_hash = fnv_1a(&(partition as u32).to_le_bytes());
        let score = |(index, hash): (usize, &u64)| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&hash.to_le_bytes());
            bytes[8..].copy_from_slice(&partition_hash.to_le_bytes());
            one_at_a_time(&bytes) & !self.index_mask | index as u64
        };
        let mut scores: Vec<u64> = self.hashes.iter().enumerate().map(score).collect();
        scores.sort_unstable_by(|left, right| right.cmp(left));
        scores.into_iter().map(|score| (score & self.index_mask) as u8).collect()
    }

    /// The sequences of partitions 0 to `partition_count` − 1.
    #[must_use]
    pub fn rows(&self, partition_count: usize) -> Vec<Row> {
        (0..partition_count).map(|partition| self.row(partition)).collect()
    }
}

fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

fn one_at_a_time(bytes: &[u8]) -> u64 {
    let mut hash = 0u64;
    for byte in bytes {
        hash = hash.wrapping_add(u64::from(*byte));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_a_member_moves_nothing_between_the_others() {
        let nodes: Vec<NodeId> = (1..=12).rev().map(|id| NodeId(id * 0x1_0001)).collect();
        let less: Vec<NodeId> = nodes.iter().copied().filter(|node| *node != nodes[4]).collect();
        let (all, rest) = (Sequences::new(&nodes), Sequences::new(&less));
        for partition in 0..256 {
            let named = |row: Row, nodes: &[NodeId]| -> Vec<NodeId> {
                row.iter().map(|index| nodes[usize::from(*index)]).collect()
            };
            let mut before = named(all.row(partition), &nodes);
            before.retain(|node| *node != nodes[4]);
            assert_eq!(before, named(rest.row(partition), &less));
        }
    }

    #[test]
    fn large_clusters_have_each_member_once() {
        let nodes: Vec<NodeId> = (1..=256).rev().map(NodeId).collect();
        let mut row = Sequences::new(&nodes).row(77);
        row.sort_unstable();
        assert_eq!(row, (0..=255).collect::<Vec<u8>>());
    }
}
