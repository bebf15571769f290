//! Numbers of records by this node's role for their partitions.

use super::Namespace;

/// Numbers of records. They include tombstones unless the node runs without a cluster.
#[derive(Default)]
pub(crate) struct RecordsByRole {
    pub(crate) master: u64,
    pub(crate) replica: u64,
    pub(crate) other: u64,
}

impl Namespace {
    /// Its records by this node's role for their partitions.
    pub(crate) fn records_by_role(&self) -> RecordsByRole {
        if self.partitions.is_of_node_alone() {
            return RecordsByRole { master: self.object_count(), ..RecordsByRole::default() };
        }
        let (own, mut roles) = (self.partitions.own_node(), RecordsByRole::default());
        self.partitions.visit(|id, row| {
            let count = self.index.partition_count(id);
            let role = match row.replica_index(own) {
                _ if row.working_master == own => &mut roles.master,
                Some(_) => &mut roles.replica,
                None => &mut roles.other,
            };
            *role += count;
        });
        roles
    }
}
