//! The key of a record in tables of waiting requests.

use cf::Digest;

/// Identifies a record of the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RecordKey {
    /// Position of the namespace.
    pub(crate) namespace: usize,
    pub(crate) digest: Digest,
}

impl RecordKey {
    /// Its shard, of `shard_count`.
    pub(in crate::transaction) fn shard(&self, shard_count: usize) -> usize {
        usize::from(self.digest.0[19]) % shard_count
    }
}
