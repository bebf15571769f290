//! A node of the cluster: combines heartbeat, clustering, exchange, balance and migration. Bytes of peers and
//! the time go in; bytes for peers and actions come out, in the order in which they must be done.
//!
//! When the cluster changes, clustering learns of new members and reports the change when all have applied it
//! (*changed*). Migrations then end, and exchange sends this node's data to all. With the principal's
//! *commit* every partition is balanced ([`Action::Rebalanced`]), and migrations of the new cluster begin.
//!
//! The caller calls [`Node::step`] with [`Event::Tick`] at least every [`Timing::TICK_MS`]. If the node does
//! not run for longer than the node timeout, others have taken over its partitions: from that moment it
//! serves nothing ([`Node::may_serve`]), and it becomes an orphan with its next step.

#[cfg(test)]
mod alone_tests;
mod hold;
#[cfg(test)]
mod hold_tests;
mod leaving;
mod migrations;
mod placement;
mod rebalance;

use std::collections::BTreeSet;

use proto::peer::clustering::Clustering as ClusteringMessage;
use proto::peer::exchange::{Exchange as ExchangeMessage, ExchangeBody};
use proto::peer::fields::split;
use proto::peer::heartbeat::{self as heartbeat_wire, Departure, Heartbeat as HeartbeatMessage};
use proto::peer::hello::Channel;
use proto::peer::migrate::Migrate;
use proto::peer::nested::Endpoint;
use proto::peer::{ClusterKey, MessageType, NodeId, PeerError};

use crate::balance::{Partition, RackId, Tree};
use crate::clustering::{Clustering, ClusteringAction, ClusteringEvent, Surroundings};
use crate::exchange::{Exchange, ExchangeAction, Unfit};
use crate::heartbeat::{Change, Heartbeat};
use crate::migration::{
    Emigrations, Immigrations, MigrationLoad, MigrationSettings, PartitionId, PartitionSize,
};
use crate::time::{Hlc, Now, Random, Timing};
use hold::Hold;
use leaving::Leaving;

pub use leaving::HandOver;
pub use placement::{Placement, PlacementWish};

/// Milliseconds from 1970 to 2010, where last-update-times begin.
const EPOCH_2010_MS: u64 = 1_262_304_000_000;
/// A peer's clock further ahead than this is ignored.
const CLOCK_AHEAD_MAX_MS: u64 = 3_600_000;

/// The settings of a node.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    pub self_node: NodeId,
    pub cluster_name: Option<Vec<u8>>,
    /// Fabric addresses for peers.
    pub fabric_endpoints: Vec<Endpoint>,
    /// Heartbeat addresses for peers; `None` for multicast.
    pub heartbeat_endpoints: Option<Vec<Endpoint>>,
    pub nodes_max: usize,
    /// `min-cluster-size`.
    pub size_min: usize,
    /// The node does not expect others: it forms its first cluster without a wait.
    pub starts_alone: bool,
    pub timing: Timing,
    pub migration: MigrationSettings,
    pub partition_count: usize,
    pub namespaces: Vec<NamespaceSettings>,
    /// Seed of the cluster keys, different for each start of a node.
    pub seed: u64,
}

/// A namespace of a node.
#[derive(Clone, Debug, Default)]
pub struct NamespaceSettings {
    pub name: Vec<u8>,
    pub replication_factor: u32,
    pub rack: RackId,
    pub active_rack: RackId,
    pub prefers_uniform_balance: bool,
    pub migrate_order: u32,
    /// Emigrations to nodes without data do not wait for `migrate-fill-delay`.
    pub ignores_fill_delay: bool,
}

/// An input of a node.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    Tick,
    /// A whole heartbeat message, from any link or group.
    Heartbeat(&'a [u8]),
    /// A whole fabric message, except messages about records.
    Fabric {
        from: NodeId,
        message: &'a [u8],
    },
    /// All records of an emigration are sent and acknowledged.
    RecordsSent {
        emigration_id: u32,
    },
    /// All writes have ended in a partition that is being handed over.
    HandedOver {
        emigration_id: u32,
    },
    /// The condition of [`Action::AwaitWrites`] holds.
    WritesEnded {
        cluster_key: ClusterKey,
    },
    Recluster,
    /// `quiesce`, `quiesce-undo`: takes effect with the next rebalance.
    Quiesce(bool),
    /// The node is about to stop, and others are to take its partitions over. [`Node::hand_over`] tells the
    /// progress.
    Leave,
    /// The node stops now. Its last pulse says so, and others need not wait for the node timeout.
    Depart,
}

/// An output of a node.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// A heartbeat message for all peers.
    Pulse(Vec<u8>),
    Send {
        to: NodeId,
        channel: Channel,
        message: Vec<u8>,
    },
    /// Open connections to a node.
    Arrived {
        node: NodeId,
        fabric_endpoints: Vec<Endpoint>,
    },
    /// Close the connections.
    Departed {
        node: NodeId,
    },
    /// The version, replicas or routing of a partition changed: publish it, and store the version.
    PartitionChanged(PartitionId),
    /// A partition gets or loses its tree of records.
    Tree {
        partition: PartitionId,
        tree: Tree,
    },
    /// Report when every write that began before the partitions held writes has ended, or has been checked again. The
    /// node is then ready to be balanced for this cluster.
    AwaitWrites {
        cluster_key: ClusterKey,
    },
    /// All partitions were balanced; each changed one was reported before.
    Rebalanced {
        cluster_key: ClusterKey,
        succession: Vec<NodeId>,
    },
    /// The clients' map changed: the partition generation increases.
    MapChanged,
    /// The node serves nothing until the next rebalance.
    Frozen,
    SendRecords {
        to: NodeId,
        emigration_id: u32,
        partition: PartitionId,
    },
    StopRecords {
        emigration_id: u32,
    },
    /// Begin no further write there, and report when those under way have ended.
    HandOver {
        emigration_id: u32,
        partition: PartitionId,
    },
    /// Records of a partition arrive from a node from now on, under the node's number for this emigration.
    Receive {
        from: NodeId,
        emigration_id: u32,
        partition: PartitionId,
    },
    /// All records of an immigration have arrived.
    Received {
        from: NodeId,
        emigration_id: u32,
    },
    /// No more records arrive, from any node.
    StopReceiving,
    /// A warning for the log.
    Warn(Warning),
}

/// A fact that an operator should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// The process did not run for this long.
    Slept { ms: u64 },
    /// The members are incompatible, so nothing is balanced.
    Unfit(Unfit),
    /// The receiver of a migration expects none.
    MigrationRefused { partition: PartitionId, destination: NodeId },
    /// Another node has our id.
    DuplicateId,
}

/// A namespace: its settings and partitions.
#[derive(Clone, Debug)]
struct Namespace {
    settings: NamespaceSettings,
    partitions: Vec<Partition>,
    partition_sizes: Vec<PartitionSize>,
    /// Largest number of records of a small partition.
    small_count_max: u64,
    /// The replication factor in effect since the last rebalance.
    replication_factor: usize,
    placement: Placement,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    settings: NodeSettings,
    clock: Hlc,
    random: Random,
    heartbeat: Heartbeat,
    clustering: Clustering,
    exchange: Exchange,
    emigrations: Emigrations,
    immigrations: Immigrations,
    namespaces: Vec<Namespace>,
    is_quiesced: bool,
    /// Members that understand messages about removed records.
    know_removals: BTreeSet<NodeId>,
    /// Set if the caller must be asked to await writes as soon as the partitions hold them.
    awaits_writes: bool,
    hold: Hold,
    leaving: Leaving,
    last_step_ms: u64,
    /// Whether a heartbeat of another node has come since the start.
    has_heard_others: bool,
    actions: Vec<Action>,
}

/// Settings of a node with one namespace of two copies.
#[cfg(test)]
fn settings_of_tests(self_node: NodeId, partition_count: usize) -> NodeSettings {
    NodeSettings {
        self_node,
        cluster_name: None,
        fabric_endpoints: Vec::new(),
        heartbeat_endpoints: None,
        nodes_max: 8,
        size_min: 1,
        starts_alone: false,
        timing: Timing::default(),
        migration: MigrationSettings::default(),
        partition_count,
        namespaces: vec![NamespaceSettings {
            name: b"test".to_vec(),
            replication_factor: 2,
            ..NamespaceSettings::default()
        }],
        seed: 1,
    }
}

impl Node {
    /// Makes a node that has just started and serves nothing yet. The versions of its partitions are given by
    /// namespace, as its devices store them, isolated.
    ///
    /// # Panics
    /// If a namespace lacks the version of a partition.
    #[must_use]
    pub fn new(
        settings: NodeSettings,
        versions: Vec<Vec<datamodel::partition_version::PartitionVersion>>,
        now: Now,
    ) -> Self {
        assert_eq!(versions.len(), settings.namespaces.len(), "versions for each namespace");
        let namespace = |(settings_of, versions): (&NamespaceSettings, Vec<_>)| {
            assert_eq!(versions.len(), settings.partition_count, "a version for each partition");
            let partition = |version| Partition { version, ..Partition::default() };
            Namespace {
                settings: settings_of.clone(),
                partition_sizes: vec![PartitionSize::default(); versions.len()],
                small_count_max: 0,
                partitions: versions.into_iter().map(partition).collect(),
                replication_factor: 0,
                placement: Placement::default(),
            }
        };
        let namespaces = settings.namespaces.iter().zip(versions).map(namespace).collect();
        let NodeSettings { self_node, size_min, starts_alone, timing, .. } = settings;
        Node {
            clock: Hlc::default(),
            random: Random::new(settings.seed),
            heartbeat: Heartbeat::new(
                self_node,
                settings.cluster_name.clone(),
                settings.fabric_endpoints.clone(),
                settings.nodes_max,
                timing,
            ),
            clustering: Clustering::new(self_node, size_min, timing, starts_alone, now),
            exchange: Exchange::new(self_node, timing),
            emigrations: Emigrations::new(settings.migration),
            immigrations: Immigrations::default(),
            namespaces,
            is_quiesced: false,
            know_removals: BTreeSet::new(),
            awaits_writes: false,
            hold: Hold::default(),
            leaving: Leaving::default(),
            last_step_ms: now.monotonic_ms,
            has_heard_others: false,
            settings,
            actions: Vec::new(),
        }
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.settings.self_node
    }

    /// The heartbeat state.
    #[must_use]
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// The hybrid logical clock as of the last message: milliseconds since 1970, followed by 16 bits.
    #[must_use]
    pub fn clock(&self) -> u64 {
        self.clock.last()
    }

    /// The clustering state.
    #[must_use]
    pub fn clustering(&self) -> &Clustering {
        &self.clustering
    }

    /// The key of the cluster of the last rebalance; 0 while the partitions are frozen.
    #[must_use]
    pub fn balanced_key(&self) -> ClusterKey {
        self.exchange.committed_key()
    }

    /// A partition.
    ///
    /// # Panics
    /// If it does not exist.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> &Partition {
        &self.namespaces[id.namespace].partitions[usize::from(id.partition)]
    }

    /// The replication factor in effect.
    #[must_use]
    pub fn replication_factor(&self, namespace: usize) -> usize {
        self.namespaces[namespace].replication_factor
    }

    /// Whether the node may serve clients at all: it has run recently. Reads need no other check.
    #[must_use]
    pub fn may_serve(&self, now: Now) -> bool {
        self.is_alone() || now.monotonic_ms <= self.last_step_ms + self.settings.timing.node_timeout_ms()
    }

    /// Whether the node expects no others and has never heard of one: nobody can take over from it, however long it does not
    /// run.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.settings.starts_alone && !self.has_heard_others
    }

    /// Whether a write of a partition may begin, or be applied, now. It waits while
    /// [`Partition::holds_writes`].
    #[must_use]
    pub fn may_write(&self, partition: PartitionId, now: Now) -> bool {
        self.may_serve(now) && !self.partition(partition).holds_writes
    }

    /// Whether a replica write may be applied: this node is a replica, and the sender is in the same cluster.
    /// A C server does not send its cluster key.
    #[must_use]
    pub fn may_replicate(&self, partition: PartitionId, cluster_key: Option<ClusterKey>, now: Now) -> bool {
        let is_replica = self.partition(partition).replica_place(self.id()).is_some();
        is_replica && self.may_serve(now) && cluster_key.is_none_or(|key| key == self.balanced_key())
    }

    /// The last-update-time for a record written now, in milliseconds since 2010. It follows the hybrid
    /// logical clock, so a write after a rebalance is later than all members' writes before it, whatever the
    /// wall clocks say.
    pub fn update_time_ms(&mut self, now: Now) -> u64 {
        Hlc::ms(self.clock.tick(now)).saturating_sub(EPOCH_2010_MS)
    }

    /// The partition for an immigration's records; `None` if they are not expected.
    #[must_use]
    pub fn immigration(&self, from: NodeId, emigration_id: u32) -> Option<PartitionId> {
        self.immigrations.partition(from, emigration_id, self.balanced_key())
    }

    /// Whether messages about removed records may be sent to a member during a migration. A C server does not
    /// understand them.
    #[must_use]
    pub fn knows_removals(&self, node: NodeId) -> bool {
        self.know_removals.contains(&node)
    }

    /// Number of unfinished emigrations and signals.
    #[must_use]
    pub fn emigrations_remaining(&self) -> usize {
        self.emigrations.remaining()
    }

    /// The current migrations of a namespace.
    #[must_use]
    pub fn migration_load(&self, namespace: usize) -> MigrationLoad {
        let mut load = MigrationLoad::default();
        self.emigrations.add_to(&mut load, namespace);
        self.immigrations.add_to(&mut load, namespace);
        let is_pending = |partition: &&Partition| {
            partition.pending_immigrations != 0 || partition.pending_emigrations != 0
        };
        let pending = self.namespaces[namespace].partitions.iter().filter(is_pending);
        load.signals_remaining += pending.map(|partition| partition.witnesses.len()).sum::<usize>();
        load
    }

    /// Applies an administrator's change of the intervals.
    pub fn set_timing(&mut self, timing: Timing) {
        self.settings.timing = timing;
        self.heartbeat.set_timing(timing);
        self.clustering.set_timing(timing);
        self.exchange.set_timing(timing);
    }

    /// The intervals in effect.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.settings.timing
    }

    /// Sets the sizes of a namespace's partitions, so that small ones migrate first, and the largest number of records
    /// of one that is small.
    pub fn set_partition_sizes(&mut self, namespace: usize, sizes: Vec<PartitionSize>, small_count_max: u64) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.partition_sizes = sizes;
            namespace.small_count_max = small_count_max;
        }
    }

    /// Sets the size of a partition that has grown since.
    pub fn set_partition_size(&mut self, id: PartitionId, size: PartitionSize) {
        let namespace = self.namespaces.get_mut(id.namespace);
        let sizes = namespace.map(|namespace| &mut namespace.partition_sizes);
        if let Some(known) = sizes.and_then(|sizes| sizes.get_mut(usize::from(id.partition))) {
            *known = size;
        }
    }

    /// Processes one event; returns the actions.
    ///
    /// # Errors
    /// When bytes of a peer are invalid; nothing has changed then.
    pub fn step(&mut self, event: Event<'_>, now: Now) -> Result<Vec<Action>, PeerError> {
        self.wake_up(now);
        match event {
            Event::Tick => self.tick(now),
            Event::Heartbeat(bytes) => self.heartbeat_message(&HeartbeatMessage::decode(bytes)?, now),
            Event::Fabric { from, message } => self.fabric_message(from, message, now)?,
            Event::RecordsSent { emigration_id } => {
                let actions = self.emigrations.records_sent(emigration_id, now);
                self.carry_out_migration(actions, now);
            }
            Event::HandedOver { emigration_id } => {
                let actions = self.emigrations.handed_over(emigration_id, now);
                self.carry_out_migration(actions, now);
            }
            Event::WritesEnded { cluster_key } => {
                let actions = self.exchange.writes_ended(cluster_key, now);
                self.carry_out_exchange(actions, now);
            }
            Event::Recluster => self.cluster(ClusteringEvent::Recluster, now),
            Event::Quiesce(is_quiesced) => self.is_quiesced = is_quiesced,
            Event::Leave => self.heartbeat.depart(Departure::Leaving),
            Event::Depart => {
                if self.may_say_farewell() {
                    self.heartbeat.depart(Departure::Gone);
                    self.pulse(now);
                }
            }
        }
        self.update_hold();
        if std::mem::take(&mut self.awaits_writes) {
            self.actions.push(Action::AwaitWrites { cluster_key: self.exchange.cluster_key() });
        }
        Ok(std::mem::take(&mut self.actions))
    }

    /// Detects that the process did not run.
    fn wake_up(&mut self, now: Now) {
        let slept_ms = now.monotonic_ms.saturating_sub(self.last_step_ms);
        let slept = slept_ms > self.settings.timing.node_timeout_ms() && !self.is_alone();
        self.last_step_ms = now.monotonic_ms;
        if slept {
            self.actions.push(Action::Warn(Warning::Slept { ms: slept_ms }));
            self.heartbeat.woke_up(now);
            self.cluster(ClusteringEvent::WokeUp, now);
            let actions = self.exchange.orphaned(true, now);
            self.carry_out_exchange(actions, now);
        }
    }

    fn tick(&mut self, now: Now) {
        let changes = self.heartbeat.tick(now);
        self.seen(&changes, now);
        self.cluster(ClusteringEvent::Tick, now);
        let actions = self.exchange.tick(now);
        self.carry_out_exchange(actions, now);
        let actions = self.emigrations.tick(now);
        self.carry_out_migration(actions, now);
        self.immigrations.tick(now);
        self.let_members_leave(now);
        if self.heartbeat.is_pulse_due(now) {
            self.pulse(now);
        }
    }

    fn pulse(&mut self, now: Now) {
        let send_time = self.clock.tick(now);
        let endpoints = self.settings.heartbeat_endpoints.clone();
        let pulse = self.heartbeat.pulse(send_time, endpoints, self.clustering.state(), now);
        let mut bytes = Vec::new();
        pulse.encode(&mut bytes);
        self.actions.push(Action::Pulse(bytes));
    }

    fn heartbeat_message(&mut self, message: &heartbeat_wire::Heartbeat, now: Now) {
        self.clock.received(message.send_time, now, CLOCK_AHEAD_MAX_MS);
        self.has_heard_others |= message.node != self.id();
        let had_duplicate = self.heartbeat.has_duplicate_id(now);
        if let Ok(changes) = self.heartbeat.received(message, now) {
            self.seen(&changes, now);
        }
        if self.heartbeat.has_duplicate_id(now) && !had_duplicate {
            self.actions.push(Action::Warn(Warning::DuplicateId));
        }
    }

    fn seen(&mut self, changes: &[Change], now: Now) {
        for change in changes {
            match *change {
                Change::Arrived(node) => {
                    let peer = self.heartbeat.peer(node);
                    let fabric_endpoints = peer.map(|peer| peer.fabric_endpoints.clone()).unwrap_or_default();
                    self.actions.push(Action::Arrived { node, fabric_endpoints });
                }
                Change::Departed(node) => {
                    self.exchange.departed(node);
                    self.actions.push(Action::Departed { node });
                }
                Change::AdjacencyChanged(_) | Change::ClusteringChanged(_) => {}
            }
        }
        if !changes.is_empty() {
            self.cluster(ClusteringEvent::Seen(changes), now);
        }
    }

    /// Processes a step of clustering and its consequences.
    fn cluster(&mut self, event: ClusteringEvent<'_>, now: Now) {
        let mut around = Surroundings {
            now,
            clock: &mut self.clock,
            random: &mut self.random,
            heartbeat: &self.heartbeat,
        };
        for action in self.clustering.step(event, &mut around) {
            match action {
                ClusteringAction::Send { to, message } => {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    self.actions.push(Action::Send { to, channel: Channel::Control, message: bytes });
                }
                ClusteringAction::Learnt => self.heartbeat.hurry(),
                ClusteringAction::Changed { cluster_key, succession } => {
                    self.cancel_migrations();
                    let own = self.own_data();
                    let actions = self.exchange.cluster_changed(cluster_key, succession, own, now);
                    self.carry_out_exchange(actions, now);
                }
                ClusteringAction::Orphaned => {
                    self.heartbeat.hurry();
                    self.cancel_migrations();
                    let actions = self.exchange.orphaned(false, now);
                    self.carry_out_exchange(actions, now);
                }
            }
        }
    }

    fn carry_out_exchange(&mut self, actions: Vec<ExchangeAction>, now: Now) {
        for action in actions {
            match action {
                ExchangeAction::Send { to, cluster_key, body } => {
                    self.send_exchange(to, cluster_key, body, now);
                }
                ExchangeAction::AwaitWrites => self.awaits_writes = true,
                ExchangeAction::Commit(committed) => self.rebalance(&committed, now),
                ExchangeAction::Freeze => {
                    let partitions =
                        self.namespaces.iter_mut().flat_map(|namespace| &mut namespace.partitions);
                    partitions.for_each(Partition::freeze);
                    self.actions.push(Action::Frozen);
                    self.actions.push(Action::MapChanged);
                }
                ExchangeAction::Abandoned(unfit) => self.actions.push(Action::Warn(Warning::Unfit(unfit))),
            }
        }
    }

    fn send_exchange(&mut self, to: NodeId, cluster_key: ClusterKey, body: ExchangeBody, now: Now) {
        let message = ExchangeMessage { cluster_key, send_time: Some(self.clock.tick(now)), body };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.actions.push(Action::Send { to, channel: Channel::Control, message: bytes });
    }

    fn fabric_message(&mut self, from: NodeId, message: &[u8], now: Now) -> Result<(), PeerError> {
        match MessageType::of(split(message)?.0) {
            Some(MessageType::Clustering) => {
                let message = ClusteringMessage::decode(message)?;
                self.clock.received(message.send_time, now, CLOCK_AHEAD_MAX_MS);
                self.cluster(ClusteringEvent::Message { from, message: &message }, now);
            }
            Some(MessageType::Exchange) => {
                let message = ExchangeMessage::decode(message)?;
                if let Some(send_time) = message.send_time {
                    self.clock.received(send_time, now, CLOCK_AHEAD_MAX_MS);
                }
                let actions = self.exchange.message(from, message, now);
                self.carry_out_exchange(actions, now);
            }
            Some(MessageType::Migrate) => self.migrate_message(from, &Migrate::decode(message)?, now),
            _ => return Err(PeerError::Unknown),
        }
        Ok(())
    }
}
