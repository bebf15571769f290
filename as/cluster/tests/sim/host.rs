//! A host: one node with its store, its disk and its clock, as a process that can stop, sleep and start again.

use std::collections::BTreeMap;

use cluster::migration::PartitionId;
use cluster::node::{NamespaceSettings, Node, NodeSettings};
use cluster::time::{Now, Timing};
use datamodel::partition_version::PartitionVersion;
use proto::peer::NodeId;
use proto::peer::nested::{Address, Endpoint};

use crate::network::Message;
use crate::store::{Key, Record, Store};

/// A date in 2026, so that last-update-times are after 2010.
const WALL_BASE_MS: u64 = 1_780_000_000_000;

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) node: Node,
    pub(crate) store: Store,
    /// The last known versions, by partition.
    pub(crate) versions: Vec<PartitionVersion>,
}

/// The state that survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) versions: Vec<PartitionVersion>,
    pub(crate) trees: BTreeMap<u16, BTreeMap<Key, Record>>,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) process: Option<Process>,
    pub(crate) disk: Disk,
    /// Number of starts: events planned for an earlier start are dropped.
    pub(crate) life: u32,
    pub(crate) is_paused: bool,
    /// Set while the process is about to stop: the time until which it waits for others, and whether its disk
    /// is kept.
    pub(crate) stops: Option<(u64, bool)>,
    /// Messages that arrived while the process slept, each with the place of its sender.
    pub(crate) inbox: Vec<(usize, Message)>,
    pub(crate) clock_offset_ms: i64,
}

impl Host {
    pub(crate) fn new(id: NodeId, partitions: usize, clock_offset_ms: i64) -> Self {
        let disk = Disk { versions: vec![PartitionVersion::default(); partitions], trees: BTreeMap::new() };
        let inbox = Vec::new();
        Host { id, process: None, disk, life: 0, is_paused: false, stops: None, inbox, clock_offset_ms }
    }

    pub(crate) fn now(&self, time_ms: u64) -> Now {
        Now {
            monotonic_ms: time_ms,
            wall_ms: (WALL_BASE_MS + time_ms).saturating_add_signed(self.clock_offset_ms),
        }
    }

    /// Starts the process from the disk.
    pub(crate) fn start(&mut self, shape: &Shape, time_ms: u64) {
        self.life += 1;
        let endpoint =
            Endpoint { capabilities: 0, address: Address::V4([10, 0, 0, 1]), port: self.id.0 as u16 };
        let settings = NodeSettings {
            self_node: self.id,
            cluster_name: Some(b"sim".to_vec()),
            fabric_endpoints: vec![endpoint],
            heartbeat_endpoints: None,
            nodes_max: 32,
            size_min: 1,
            starts_alone: false,
            timing: Timing::default(),
            migration: cluster::migration::MigrationSettings { threads: 2, ..Default::default() },
            partition_count: shape.partitions,
            namespaces: vec![NamespaceSettings {
                name: b"test".to_vec(),
                replication_factor: shape.replication_factor,
                prefers_uniform_balance: shape.is_uniform,
                rack: if shape.racks > 1 { 1 + self.id.0 as u32 % shape.racks } else { 0 },
                ..NamespaceSettings::default()
            }],
            seed: shape.seed ^ self.id.0 << 32 ^ u64::from(self.life) << 48,
        };
        let versions: Vec<_> = self.disk.versions.iter().map(|version| version.isolated()).collect();
        let store = Store { trees: self.disk.trees.clone(), ..Store::default() };
        let node = Node::new(settings, vec![versions.clone()], self.now(time_ms));
        self.is_paused = false;
        self.inbox.clear();
        self.process = Some(Process { node, store, versions });
    }

    /// Ends the process at once. Without its disk no state survives.
    pub(crate) fn crash(&mut self, keeps_disk: bool) {
        self.stops = None;
        let Some(process) = self.process.take() else { return };
        self.is_paused = false;
        self.inbox.clear();
        if keeps_disk {
            self.disk = Disk { versions: process.versions, trees: process.store.trees };
        } else {
            self.disk.versions.fill(PartitionVersion::default());
            self.disk.trees.clear();
        }
    }
}

/// Settings that all hosts of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) seed: u64,
    pub(crate) partitions: usize,
    pub(crate) replication_factor: u32,
    pub(crate) is_uniform: bool,
    pub(crate) racks: u32,
}

impl Shape {
    pub(crate) fn partition_of(&self, key: Key) -> u16 {
        key % self.partitions as u16
    }

    pub(crate) fn id_of(&self, partition: u16) -> PartitionId {
        PartitionId { namespace: 0, partition }
    }
}
