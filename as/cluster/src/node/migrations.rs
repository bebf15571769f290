//! Migration messages of a node, the effects of migrations on its partitions, and their settings.

use proto::peer::migrate::{Migrate, MigrateBody, PartitionOf};
use proto::peer::{NodeId, hello::Channel};

use super::{Action, Namespace, Node, Warning};
use crate::balance::{MigrationDone, Tree};
use crate::migration::{
    MigrationAction, MigrationSettings, PartitionId, SMALL_COUNT_MAX, Saying, StartAnswer, Task, TaskKind,
};
use crate::time::Now;

/// A feature in a start: the partition is small. Only nodes with a limit of their own for small partitions get it.
const START_SMALL: u32 = 1 << 16;

impl Namespace {
    /// A transfer or signal about a partition of this namespace.
    pub(super) fn task(&self, partition: PartitionId, kind: TaskKind) -> Task {
        let size = self.partition_sizes.get(usize::from(partition.partition)).copied().unwrap_or_default();
        Task {
            partition,
            kind,
            order: self.settings.migrate_order,
            record_count: size.records,
            is_small: size.is_small(self.small_count_max),
        }
    }
}

impl Node {
    /// Applies an administrator's change of the migration settings.
    pub fn set_migration(&mut self, migration: MigrationSettings) {
        self.settings.migration = migration;
        self.emigrations.set(migration);
    }

    /// The migration settings in effect.
    #[must_use]
    pub fn migration(&self) -> MigrationSettings {
        self.settings.migration
    }

    /// Applies an administrator's change for a namespace: `migrate-order`, and whether it ignores
    /// `migrate-fill-delay`. The change affects partitions balanced from now on.
    pub fn set_migrate_order(&mut self, namespace: usize, order: u32, ignores_fill_delay: bool) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.settings.migrate_order = order;
            namespace.settings.ignores_fill_delay = ignores_fill_delay;
        }
    }

    /// Ends all migrations when the cluster changes.
    pub(super) fn cancel_migrations(&mut self) {
        if self.immigrations.cancel() {
            self.actions.push(Action::StopReceiving);
        }
        for action in self.emigrations.cancel() {
            if let MigrationAction::StopRecords { emigration_id } = action {
                self.actions.push(Action::StopRecords { emigration_id });
            }
        }
    }

    pub(super) fn carry_out_migration(&mut self, actions: Vec<MigrationAction>, now: Now) {
        for action in actions {
            match action {
                MigrationAction::Say { to, emigration_id, saying, partition, record_count, is_small } => {
                    self.say(to, emigration_id, saying, partition, (record_count, is_small));
                }
                MigrationAction::SendRecords { to, emigration_id, partition } => {
                    self.actions.push(Action::SendRecords { to, emigration_id, partition });
                }
                MigrationAction::StopRecords { emigration_id } => {
                    self.actions.push(Action::StopRecords { emigration_id });
                }
                MigrationAction::HandOver { emigration_id, partition } => {
                    let self_node = self.id();
                    self.partition_mut(partition).hand_over(self_node);
                    self.actions.push(Action::PartitionChanged(partition));
                    self.actions.push(Action::HandOver { emigration_id, partition });
                }
                MigrationAction::Transferred { partition, emigration } => {
                    let self_node = self.id();
                    if let Some(done) = self.partition_mut(partition).emigration_done(self_node, &emigration)
                    {
                        self.migration_done(partition, done, now);
                    }
                }
                MigrationAction::Refused { partition, destination } => {
                    self.actions.push(Action::Warn(Warning::MigrationRefused { partition, destination }));
                }
                MigrationAction::Signalled { .. } => {}
            }
        }
    }

    fn partition_mut(&mut self, id: PartitionId) -> &mut crate::balance::Partition {
        &mut self.namespaces[id.namespace].partitions[usize::from(id.partition)]
    }

    /// Applies the consequences of a migration's end.
    fn migration_done(&mut self, id: PartitionId, done: MigrationDone, now: Now) {
        self.actions.push(Action::PartitionChanged(id));
        if done.changed_columns {
            self.actions.push(Action::MapChanged);
        }
        let namespace = &self.namespaces[id.namespace];
        let transfers = done.emigrations.into_iter().map(TaskKind::Transfer);
        let signals =
            done.signals.into_iter().map(|signal| TaskKind::Signal { destination: signal.destination });
        let tasks: Vec<_> = transfers.chain(signals).map(|kind| namespace.task(id, kind)).collect();
        let actions = self.emigrations.push(tasks, now);
        self.carry_out_migration(actions, now);
    }

    fn say(
        &mut self,
        to: NodeId,
        emigration_id: u32,
        saying: Saying,
        partition: PartitionId,
        (record_count, is_small): (u64, bool),
    ) {
        let name = self.namespaces[partition.namespace].settings.name.clone();
        let partition_of = PartitionOf {
            namespace: &name,
            partition: u32::from(partition.partition),
            cluster_key: self.balanced_key(),
        };
        let body = match saying {
            Saying::Start => MigrateBody::Start {
                partition: partition_of,
                features: Some(if is_small { START_SMALL } else { 0 }),
                record_count: Some(record_count),
            },
            Saying::Done => MigrateBody::Done,
            Saying::AllDone => MigrateBody::AllDone { partition: partition_of },
        };
        self.send_migrate(to, emigration_id, body);
    }

    fn send_migrate(&mut self, to: NodeId, emigration_id: u32, body: MigrateBody<'_>) {
        let mut message = Vec::new();
        Migrate { emigration_id, body }.encode(&mut message);
        self.actions.push(Action::Send { to, channel: Channel::Control, message });
    }

    pub(super) fn migrate_message(&mut self, from: NodeId, message: &Migrate<'_>, now: Now) {
        let id = message.emigration_id;
        let actions = match &message.body {
            MigrateBody::Start { partition, features, record_count } => {
                let is_small = is_called_small(*features, *record_count);
                let body = match self.admit(from, id, partition, is_small) {
                    StartAnswer::Ok => MigrateBody::StartOk { features: Some(0) },
                    StartAnswer::AgainLater => MigrateBody::StartAgainLater,
                    StartAnswer::Fail => MigrateBody::StartFail,
                };
                self.send_migrate(from, id, body);
                return;
            }
            MigrateBody::Done => {
                self.immigration_done(from, id, now);
                return;
            }
            MigrateBody::AllDone { partition } => {
                self.all_done(from, id, partition);
                return;
            }
            MigrateBody::StartOk { .. } => self.emigrations.start_ok(from, id, now),
            MigrateBody::StartAgainLater => self.emigrations.start_again_later(from, id, now),
            MigrateBody::StartFail => self.emigrations.start_fail(from, id, now),
            MigrateBody::DoneAck => self.emigrations.done_ack(from, id, now),
            MigrateBody::AllDoneAck => self.emigrations.all_done_ack(from, id, now),
            // The caller handles messages about records.
            MigrateBody::Insert { .. } | MigrateBody::Removal { .. } | MigrateBody::InsertAck { .. } => {
                return;
            }
        };
        self.carry_out_migration(actions, now);
    }

    /// The partition in a peer's message, if it exists and the peer knows the cluster of the last rebalance.
    fn known_partition(&self, partition: &PartitionOf<'_>) -> Option<PartitionId> {
        let is_current = self.exchange.is_resting() && partition.cluster_key == self.balanced_key();
        let mut namespaces = self.namespaces.iter();
        let namespace = namespaces.position(|namespace| namespace.settings.name == partition.namespace)?;
        let number = u16::try_from(partition.partition).ok()?;
        let exists = usize::from(number) < self.settings.partition_count;
        (is_current && exists).then_some(PartitionId { namespace, partition: number })
    }

    fn admit(
        &mut self,
        from: NodeId,
        emigration_id: u32,
        partition: &PartitionOf<'_>,
        is_small: bool,
    ) -> StartAnswer {
        let Some(id) = self.known_partition(partition) else { return StartAnswer::AgainLater };
        let cluster_key = self.balanced_key();
        if self.immigrations.is_known(from, emigration_id, cluster_key) {
            return StartAnswer::Ok;
        }
        let self_node = self.id();
        if self.partition(id).check_source(self_node, from).is_err() {
            return StartAnswer::Fail;
        }
        if !self.immigrations.has_room(&self.settings.migration, is_small) {
            return StartAnswer::AgainLater;
        }
        self.immigrations.started(from, emigration_id, cluster_key, id, is_small);
        if self.partition_mut(id).immigration_started(self_node, from) == Ok(true) {
            self.actions.push(Action::PartitionChanged(id));
        }
        self.actions.push(Action::Receive { from, emigration_id, partition: id });
        StartAnswer::Ok
    }

    fn immigration_done(&mut self, from: NodeId, emigration_id: u32, now: Now) {
        // After a change of the cluster the immigration is unknown, and the sender has given it up too.
        let Some(first) = self.immigrations.done(from, emigration_id, self.balanced_key(), now) else {
            return;
        };
        if let Ok(id) = first {
            self.actions.push(Action::Received { from, emigration_id });
            let self_node = self.id();
            if let Ok(done) = self.partition_mut(id).immigration_done(self_node, from) {
                self.migration_done(id, done, now);
            }
        }
        self.send_migrate(from, emigration_id, MigrateBody::DoneAck);
    }

    fn all_done(&mut self, from: NodeId, emigration_id: u32, partition: &PartitionOf<'_>) {
        let Some(id) = self.known_partition(partition) else { return };
        let self_node = self.id();
        if self.partition(id).replicas.first() != Some(&from) {
            return;
        }
        let Some(tree) = self.partition_mut(id).all_done(self_node) else { return };
        self.actions.push(Action::PartitionChanged(id));
        if tree != Tree::Keep {
            self.actions.push(Action::Tree { partition: id, tree });
        }
        self.send_migrate(from, emigration_id, MigrateBody::AllDoneAck);
    }
}

/// Whether the sender of a start calls the partition small. One with many records is not, whatever the sender says.
fn is_called_small(features: Option<u32>, record_count: Option<u64>) -> bool {
    features.is_some_and(|features| features & START_SMALL != 0)
        && record_count.is_some_and(|count| count <= SMALL_COUNT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_of_few_large_records_is_not_small_unless_its_sender_says_so() {
        assert!(is_called_small(Some(START_SMALL), Some(SMALL_COUNT_MAX)));
        assert!(!is_called_small(Some(START_SMALL), Some(SMALL_COUNT_MAX + 1)));
        assert!(!is_called_small(Some(START_SMALL), None));
        // C servers say nothing, nor do nodes whose few records are large.
        for features in [None, Some(0), Some(!START_SMALL)] {
            assert!(!is_called_small(features, Some(1)));
        }
    }
}
