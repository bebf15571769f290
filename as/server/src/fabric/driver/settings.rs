//! The configuration for the logic of the cluster: the settings that are fixed at the start, and those that
//! may change while the node runs.

use cluster::migration::MigrationSettings;
use cluster::node::{NamespaceSettings, NodeSettings, PlacementWish};
use cluster::time::{Now, Timing};

use super::{Driver, Surroundings};
use crate::config::Config;
use crate::index::PARTITION_COUNT;

fn migration_settings(config: &Config) -> MigrationSettings {
    let service = &config.service;
    MigrationSettings {
        threads: service.migrate_threads.get() as usize,
        incoming_max: service.migrate_max_num_incoming.get() as usize,
        fill_delay_ms: u64::from(service.migrate_fill_delay.get()) * 1000,
    }
}

impl Surroundings {
    /// The intervals in effect.
    pub(super) fn timing(&self) -> Timing {
        let network = &self.config.network;
        Timing {
            interval_ms: network.heartbeat.interval.get().into(),
            timeout_intervals: network.heartbeat.timeout.get().into(),
            latency_ms: network.fabric.latency_max_ms.get().into(),
        }
    }

    /// The settings with which the node starts.
    pub(super) fn node_settings(&self, now: Now) -> NodeSettings {
        let service = &self.config.service;
        let namespaces = self.config.namespaces.iter().map(|namespace| NamespaceSettings {
            name: namespace.name.clone().into_bytes(),
            replication_factor: namespace.params.replication_factor.get(),
            rack: namespace.params.rack_id.get(),
            active_rack: namespace.params.active_rack.get(),
            prefers_uniform_balance: namespace.params.prefer_uniform_balance.get(),
            migrate_order: namespace.params.migrate_order.get(),
            ignores_fill_delay: namespace.params.ignore_migrate_fill_delay.get(),
        });
        NodeSettings {
            self_node: self.fabric.self_node(),
            cluster_name: service.cluster_name.get().map(|name| name.as_bytes().to_vec()),
            fabric_endpoints: self.fabric_endpoints.clone(),
            heartbeat_endpoints: self.heartbeat_endpoints.clone(),
            nodes_max: cluster::balance::MEMBERS_MAX,
            size_min: service.min_cluster_size.get() as usize,
            starts_alone: self.starts_alone,
            timing: self.timing(),
            migration: migration_settings(&self.config),
            partition_count: PARTITION_COUNT,
            namespaces: namespaces.collect(),
            seed: now.monotonic_ms ^ now.wall_ms << 20 ^ self.fabric.self_node().0,
        }
    }
}

impl Driver {
    /// Applies the current configuration of racks and balance.
    pub(super) fn wish_placements(&mut self) {
        for (at, namespace) in self.around.config.namespaces.iter().enumerate() {
            let params = &namespace.params;
            let wish = PlacementWish {
                rack: params.rack_id.get(),
                active_rack: params.active_rack.get(),
                prefers_uniform_balance: params.prefer_uniform_balance.get(),
            };
            self.node.wish_placement(at, wish);
        }
        self.node.set_size_min(self.around.config.service.min_cluster_size.get() as usize);
    }

    /// Applies the current configuration of migrations.
    pub(super) fn take_over_migration_settings(&mut self) {
        let migration = migration_settings(&self.around.config);
        if self.node.migration() != migration {
            self.node.set_migration(migration);
        }
        for (at, namespace) in self.around.config.namespaces.iter().enumerate() {
            let params = &namespace.params;
            self.node.set_migrate_order(
                at,
                params.migrate_order.get(),
                params.ignore_migrate_fill_delay.get(),
            );
        }
    }
}
