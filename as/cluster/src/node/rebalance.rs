//! A node's exchange data, and the rebalance.

use std::collections::BTreeMap;

use datamodel::partition_version::PartitionVersion;
use proto::peer::NodeId;
use proto::peer::exchange::{
    COMPATIBILITY_ID, ExchangeData, FLAG_QUIESCE, FLAG_UNIFORM_BALANCE, NamespaceData,
};
use proto::peer::nested::VersionGroup;

use super::leaving::Leaving;
use super::placement::Placement;
use super::{Action, Namespace, Node};
use crate::balance::{Adjustments, Emigration, Member, NamespaceView, Superfluous, Tree};
use crate::exchange::Committed;
use crate::migration::{PartitionId, Task, TaskKind};
use crate::time::Now;

/// See [`knows_placement`].
const FEATURE_PLACEMENT: u32 = 1;
/// Migrations may send messages about removed records.
const FEATURE_REMOVALS: u32 = 2;
/// The node has a limit of its own for immigrations of small partitions.
const FEATURE_SMALL: u32 = 4;

impl Node {
    /// The data that this node sends in the exchange.
    pub(super) fn own_data(&self) -> ExchangeData {
        let namespaces = self.namespaces.iter().map(|namespace| {
            let settings = &namespace.settings;
            let uniform = if settings.prefers_uniform_balance { FLAG_UNIFORM_BALANCE } else { 0 };
            let quiesce = if self.wants_no_partitions() { FLAG_QUIESCE } else { 0 };
            NamespaceData {
                name: settings.name.clone(),
                versions: version_groups(namespace),
                rack_id: settings.rack,
                replication_factor: settings.replication_factor,
                flags: uniform | quiesce,
                active_rack: settings.active_rack,
            }
        });
        ExchangeData {
            compatibility_id: COMPATIBILITY_ID,
            features: Some(FEATURE_PLACEMENT | FEATURE_REMOVALS | FEATURE_SMALL),
            namespaces: namespaces.collect(),
        }
    }

    /// Balances all partitions for a cluster, and starts its migrations.
    pub(super) fn rebalance(&mut self, committed: &Committed, now: Now) {
        self.cancel_migrations();
        let with = |feature: u32| {
            let has_it = |(_, data): &(&NodeId, &ExchangeData)| has_feature(data, feature);
            committed.data.iter().filter(has_it).map(|(node, _)| *node).collect()
        };
        self.know_removals = with(FEATURE_REMOVALS);
        self.emigrations.set_take_small(with(FEATURE_SMALL));
        self.leaving = Leaving::of(committed);
        let now_ms = self.update_time_ms(now);
        let mut tasks = Vec::new();
        for index in 0..self.namespaces.len() {
            let view = self.view(index, committed);
            self.rebalance_namespace(index, &view, now_ms, &mut tasks);
        }
        self.hold.rebalanced(committed);
        self.update_hold();
        let succession = committed.succession.clone();
        self.actions.push(Action::Rebalanced { cluster_key: committed.cluster_key, succession });
        self.actions.push(Action::MapChanged);
        let actions = self.emigrations.push(tasks, now);
        self.carry_out_migration(actions, now);
    }

    /// The state of a namespace according to the members' exchange data.
    fn view(&self, index: usize, committed: &Committed) -> NamespaceView {
        let name = &self.namespaces[index].settings.name;
        let of_member = |node: &NodeId| {
            let data = committed.data.get(node)?;
            let namespace = data.namespaces.iter().find(|namespace| namespace.name == *name)?;
            Some((*node, data, namespace))
        };
        let members: Vec<_> = committed.succession.iter().filter_map(of_member).collect();
        // Nodes that do not support placement would compute other partition tables.
        let places = members.iter().all(|(_, data, _)| knows_placement(data));
        let factors = members.iter().map(|(_, _, namespace)| namespace.replication_factor);
        let own_factor = self.namespaces[index].settings.replication_factor;
        let replication_factor = factors.filter(|factor| *factor != 0).min().unwrap_or(own_factor);
        let is_uniform =
            places && members.iter().all(|(_, _, namespace)| namespace.flags & FLAG_UNIFORM_BALANCE != 0);
        let mut racks = members.iter().map(|(_, _, namespace)| namespace.active_rack);
        let first_rack = racks.next().unwrap_or(0);
        let active_rack = if places && racks.all(|rack| rack == first_rack) { first_rack } else { 0 };
        let members = members.into_iter().map(|(node, _, namespace)| Member {
            node,
            rack: if places { namespace.rack_id } else { 0 },
            is_quiesced: places && namespace.flags & FLAG_QUIESCE != 0,
            versions: expand(&namespace.versions, self.settings.partition_count),
        });
        NamespaceView {
            cluster_key: committed.cluster_key,
            members: members.collect(),
            replication_factor: replication_factor as usize,
            is_uniform,
            active_rack,
        }
    }

    fn rebalance_namespace(
        &mut self,
        index: usize,
        view: &NamespaceView,
        now_ms: u64,
        tasks: &mut Vec<Task>,
    ) {
        let self_node = self.id();
        let is_quiesced =
            self.wants_no_partitions() && Adjustments::of(view).active_size() < view.members.len();
        let superfluous = if is_quiesced { Superfluous::BecomeSubset } else { Superfluous::Drop };
        // A node that is about to stop does not delay records that only it can send.
        let is_leaving = self.heartbeat.is_leaving(self_node);
        let held_until_ms = self.last_step_ms + self.settings.timing.orphan_serves_ms();
        let namespace = &mut self.namespaces[index];
        namespace.replication_factor = view.effective_replication_factor();
        namespace.placement = Placement::of(view);
        for (number, row) in view.rows(self.settings.partition_count).iter().enumerate() {
            let id = PartitionId { namespace: index, partition: number as u16 };
            let plan = view.plan(number, row);
            let partition = &mut namespace.partitions[number];
            let awaits_records = partition.pending_immigrations != 0;
            self.hold.planned(id, &plan, self_node, awaits_records, held_until_ms);
            let (tree, emigrations) = partition.rebalance(&plan, self_node, now_ms, superfluous);
            if tree != Tree::Keep {
                self.actions.push(Action::Tree { partition: id, tree });
            }
            self.actions.push(Action::PartitionChanged(id));
            let waits = !namespace.settings.ignores_fill_delay && !is_leaving;
            let task = |emigration: Emigration| {
                let is_fill = emigration.is_fill && waits;
                namespace.task(id, TaskKind::Transfer(Emigration { is_fill, ..emigration }))
            };
            tasks.extend(emigrations.into_iter().map(task));
        }
    }
}

/// Whether a member understands racks, uniform balance and quiesced nodes.
pub(super) fn knows_placement(data: &ExchangeData) -> bool {
    has_feature(data, FEATURE_PLACEMENT)
}

fn has_feature(data: &ExchangeData, feature: u32) -> bool {
    data.features.is_some_and(|features| features & feature != 0)
}

/// Partitions with data by their versions.
fn version_groups(namespace: &Namespace) -> Vec<VersionGroup> {
    let mut groups: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
    for (number, partition) in namespace.partitions.iter().enumerate() {
        if !partition.version.is_null() {
            groups.entry(partition.version.0).or_default().push(number as u16);
        }
    }
    groups.into_iter().map(|(version, partitions)| VersionGroup { version, partitions }).collect()
}

/// Versions by partition; versions of partitions that do not exist are ignored.
fn expand(groups: &[VersionGroup], partition_count: usize) -> Vec<PartitionVersion> {
    let mut versions = vec![PartitionVersion::default(); partition_count];
    for group in groups {
        for partition in &group.partitions {
            if let Some(version) = versions.get_mut(usize::from(*partition)) {
                *version = PartitionVersion(group.version);
            }
        }
    }
    versions
}
