//! The cluster thread: it passes events to `cluster::node::Node`, and carries out the resulting actions.
//!
//! Events come through an inbox of bounded length; those that do not fit are dropped, like messages lost on the
//! network. The thread does not wait: other threads connect, send and move records.
//!
//! The thread is essential: after a panic no thread would know which partitions this node serves.
//!
//! # Order
//! Actions are carried out in their order. Changes of partitions gather until an action depends on them: then they are
//! written to the device headers and published to transactions, all together.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::clock::{StoredMillis, monotonic_nanos};
use cf::sys::block::BlockError;
use cf::threads::{self, Handle};
use cluster::balance::Tree;
use cluster::migration::{MigrationLoad, MigrationSettings, PartitionId as MemberPartition};
use cluster::node::{
    Action, Event, NamespaceSettings, Node, NodeSettings, Placement, PlacementWish, Warning,
};
use cluster::time::{Now, Timing};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use proto::peer::hello::Channel;
use proto::peer::nested::Endpoint;
use proto::peer::services::Services;
use proto::peer::{ClusterKey, MessageHeader, MessageType, NodeId};

use super::cluster::{Cluster, ClusterState};
use super::dump::{self, Dump};
use super::metadata::MetadataInbox;
use super::network::Fabric;
use super::peers::{Handler, Handlers};
use super::publish::row_of;
use super::records::{MoveOrder, MoveReport, RecordMover};
use super::removal::Removals;
use crate::config::Config;
use crate::heartbeat::Heartbeat;
use crate::index::{PARTITION_COUNT, PartitionId};
use crate::namespace::{Leaving, Namespace, PartitionRow};
use crate::smd::{Module, Smd};

/// Most events that wait for the thread.
const INBOX_SIZE: usize = 16 << 10;
/// Longest wait for an event: shorter than the node needs, so that its timers are not late.
const TICK: Duration = Duration::from_millis(25);
/// Events handled before the next tick.
const EVENTS_PER_TICK: usize = 256;
/// Time between checks whether the commits under way have ended.
const COMMITS_PERIOD: Duration = Duration::from_millis(1);
/// How often the numbers of records are reported.
const COUNT_PERIOD: Duration = Duration::from_secs(5);

/// An event for the thread.
pub(crate) enum DriverEvent {
    /// A heartbeat message of another node.
    Heartbeat(Vec<u8>),
    /// A message on the fabric about the cluster.
    Message { from: NodeId, bytes: Vec<u8> },
    /// All records of an emigration are sent and acknowledged.
    RecordsSent { emigration_id: u32 },
    /// No write is under way in a partition that is handed over.
    HandedOver { emigration_id: u32 },
    /// `recluster`.
    Recluster,
    /// `quiesce`, or its end.
    Quiesce(bool),
    /// Others are to take the partitions over: the node is about to stop.
    Leave,
    /// `dump-*`.
    Dump(Dump),
    /// End the thread.
    Stop,
}

/// The sending end of the thread's inbox.
#[derive(Clone)]
pub(crate) struct DriverInbox(Sender<DriverEvent>);

impl DriverInbox {
    /// Posts an event to the cluster thread; returns false if its inbox is full.
    pub(crate) fn tell(&self, event: DriverEvent) -> bool {
        self.0.try_send(event).is_ok()
    }

    /// Has the cluster thread end, once there is room in its inbox.
    pub(crate) fn stop(&self) {
        // A thread that has ended needs no word.
        let _ = self.0.send(DriverEvent::Stop);
    }
}

impl Handler for DriverInbox {
    fn take(&self, from: NodeId, message: &[u8]) {
        self.tell(DriverEvent::Message { from, bytes: message.to_vec() });
    }
}

/// The parts that the thread works with.
pub(crate) struct Surroundings {
    pub(crate) config: Arc<Config>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) namespaces: Arc<[Arc<Namespace>]>,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) heartbeat: Arc<Heartbeat>,
    /// Moves records.
    pub(crate) mover: Arc<dyn RecordMover>,
    pub(crate) smd: Arc<Smd>,
    /// The metadata modules that this node keeps.
    pub(crate) modules: Vec<Module>,
    /// Endpoints where other nodes reach the fabric, and the heartbeat of a mesh.
    pub(crate) fabric_endpoints: Vec<Endpoint>,
    pub(crate) heartbeat_endpoints: Option<Vec<Endpoint>>,
    /// Client addresses of this node, as fields of a services message.
    pub(crate) services: Vec<(u16, Vec<u8>)>,
}

/// Commits that must end before the node is ready for the cluster with this key.
struct AwaitedCommits {
    cluster_key: ClusterKey,
    /// For each namespace with such commits.
    under_way: Vec<Leaving>,
    /// After this time a commit that hangs on a disk no longer delays the cluster.
    until: Instant,
}

/// The thread's state before it starts.
pub(crate) struct Driver {
    around: Surroundings,
    node: Node,
    inbox: Receiver<DriverEvent>,
    sender: DriverInbox,
    removals: Removals,
    metadata: MetadataInbox,
    /// Partitions whose new state is not published yet.
    changed: BTreeSet<MemberPartition>,
    /// Those of them whose records are removed after publication.
    dropped: Vec<MemberPartition>,
    /// Those of them that are published only after the records of an earlier life are removed.
    delayed: BTreeSet<MemberPartition>,
    /// The replication factors in effect, once they are known.
    factors: Option<Vec<u32>>,
    awaited: Option<AwaitedCommits>,
    next_count: Instant,
    started: Instant,
}

impl Driver {
    /// State before any other node is known.
    pub(super) fn new(around: Surroundings, metadata: MetadataInbox) -> Self {
        let (sender, inbox) = bounded(INBOX_SIZE);
        let now = now();
        let versions = around.namespaces.iter().map(|namespace| {
            let mut versions = Vec::with_capacity(PARTITION_COUNT);
            namespace.partitions.visit(|_, row| versions.push(row.version));
            versions
        });
        let to_self = DriverInbox(sender.clone());
        around.mover.report_to(Box::new(move |report| {
            to_self.tell(match report {
                MoveReport::Sent { emigration_id } => DriverEvent::RecordsSent { emigration_id },
                MoveReport::HandedOver { emigration_id } => DriverEvent::HandedOver { emigration_id },
                MoveReport::Message { from, bytes } => DriverEvent::Message { from, bytes },
            })
        }));
        let node = Node::new(node_settings(&around, now), versions.collect(), now);
        Driver {
            node,
            inbox,
            sender: DriverInbox(sender),
            removals: Removals::new(Arc::clone(&around.namespaces)),
            metadata,
            changed: BTreeSet::new(),
            dropped: Vec::new(),
            delayed: BTreeSet::new(),
            factors: None,
            awaited: None,
            next_count: Instant::now(),
            started: Instant::now(),
            around,
        }
    }

    /// The sending end of its inbox.
    pub(crate) fn inbox(&self) -> DriverInbox {
        self.sender.clone()
    }

    /// Registers this thread for messages about the cluster.
    pub(crate) fn handle(&self, handlers: &mut Handlers) {
        for message_type in [MessageType::Clustering, MessageType::Exchange, MessageType::Services] {
            handlers.add(message_type, Arc::new(self.inbox()));
        }
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(crate) fn start(self) -> io::Result<Handle> {
        let removals = self.removals.start()?;
        threads::spawn_essential("cluster", move || {
            self.run();
            let _ = removals.join();
        })
    }

    fn run(mut self) {
        if self.around.config.service.stay_quiesced.get() {
            self.step(Event::Quiesce(true));
        }
        let mut next_tick = Instant::now();
        loop {
            let timeout = next_tick.saturating_duration_since(Instant::now());
            let timeout = if self.awaited.is_some() { timeout.min(COMMITS_PERIOD) } else { timeout };
            match self.inbox.recv_timeout(timeout) {
                Ok(DriverEvent::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(event) => {
                    self.take(event);
                    let more: Vec<DriverEvent> = self.inbox.try_iter().take(EVENTS_PER_TICK).collect();
                    for event in more {
                        if matches!(event, DriverEvent::Stop) {
                            return self.end();
                        }
                        self.take(event);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.look_after_commits();
            if next_tick <= Instant::now() {
                next_tick = Instant::now() + TICK;
                self.tick();
            }
        }
        self.end();
    }

    fn end(&mut self) {
        // Others take over what is here as soon as they hear that this node is gone.
        self.around.namespaces.iter().for_each(|namespace| namespace.partitions.serve_until(0));
        self.step(Event::Depart);
        self.store_versions();
        self.removals.stop();
    }

    fn tick(&mut self) {
        cf::fault_point!("cluster");
        let now_ms = now().monotonic_ms;
        let timing = timing(&self.around.config);
        if self.node.timing() != timing {
            self.node.set_timing(timing);
        }
        self.take_over_migration_settings();
        self.wish_placements();
        self.step(Event::Tick);
        // The time before the step: the step has not seen later events.
        let until_ms = now_ms + timing.node_timeout_ms();
        self.around.namespaces.iter().for_each(|namespace| namespace.partitions.serve_until(until_ms));
        self.show_clock();
        let cluster = &self.around.cluster;
        let elapsed_ms = self.started.elapsed().as_millis() as u64;
        for (to, services) in cluster.peers.due(&self.around.services, elapsed_ms) {
            self.send_services(to, &services);
        }
        self.show_state();
        self.show_migrations();
        self.store_versions();
        if self.next_count <= Instant::now() {
            self.next_count = Instant::now() + COUNT_PERIOD;
            self.count_records();
        }
    }

    /// Applies the configuration's present settings of racks and balance.
    fn wish_placements(&mut self) {
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

    /// Publishes the state of clustering.
    fn show_state(&self) {
        let clustering = self.node.clustering();
        let skew_ms =
            |node| self.node.heartbeat().peer(node).map_or(0, |peer| peer.clock_skew_ms.unsigned_abs());
        self.around.cluster.set_state(ClusterState {
            is_member: !clustering.is_orphan(),
            has_integrity: clustering.has_integrity(),
            allows_migrations: self.node.balanced_key() == clustering.cluster_key()
                && !clustering.is_orphan(),
            clock_skew_ms: self.node.heartbeat().alive().map(skew_ms).max().unwrap_or(0),
            hand_over: self.node.hand_over(),
        });
    }

    /// Writes changed partitions to the device headers.
    fn store_versions(&self) {
        for namespace in self.around.namespaces.iter() {
            if let Err(error) = namespace.partitions.store_versions(&namespace.storage) {
                versions_not_stored(namespace, &error);
            }
        }
    }

    /// Publishes a time for new records, so that they are later than writes of other nodes that this one has heard of.
    fn show_clock(&mut self) {
        let floor_ms = self.node.update_time_ms(now());
        self.around.namespaces.iter().for_each(|namespace| namespace.partitions.write_not_before(floor_ms));
    }

    fn take_over_migration_settings(&mut self) {
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

    /// Publishes the migrations under way.
    fn show_migrations(&self) {
        for (at, namespace) in self.around.namespaces.iter().enumerate() {
            let mut shown = namespace.migration_load.lock();
            let is_quiet = self.node.emigrations_remaining() == 0
                && namespace.partitions.figures().pending_migrations() == 0
                && *shown == MigrationLoad::default();
            if !is_quiet {
                *shown = self.node.migration_load(at);
            }
        }
    }

    /// Reports the number of records of partitions, so that small ones migrate first.
    fn count_records(&mut self) {
        for (at, namespace) in self.around.namespaces.iter().enumerate() {
            if self.node.emigrations_remaining() != 0 {
                let counts = PartitionId::all().map(|id| namespace.index.partition_count(id));
                self.node.set_record_counts(at, counts.collect());
            }
        }
    }

    fn take(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::Heartbeat(bytes) => self.step(Event::Heartbeat(&bytes)),
            DriverEvent::Message { from, bytes } => {
                let header = MessageHeader::parse(&bytes).ok().flatten();
                match header.and_then(|header| MessageType::of(header.type_number)) {
                    Some(MessageType::Services) => self.take_services(from, &bytes),
                    _ => self.step(Event::Fabric { from, message: &bytes }),
                }
            }
            DriverEvent::RecordsSent { emigration_id } => self.step(Event::RecordsSent { emigration_id }),
            DriverEvent::HandedOver { emigration_id } => self.step(Event::HandedOver { emigration_id }),
            DriverEvent::Recluster => {
                self.wish_placements();
                self.step(Event::Recluster);
            }
            DriverEvent::Quiesce(is_quiesced) => self.step(Event::Quiesce(is_quiesced)),
            DriverEvent::Leave => {
                self.step(Event::Leave);
                self.show_state();
            }
            DriverEvent::Dump(what) => {
                let Surroundings { namespaces, heartbeat, .. } = &self.around;
                let around = dump::Around { namespaces, heartbeat };
                dump::write(what, &self.node, around, now().monotonic_ms);
            }
            DriverEvent::Stop => {}
        }
    }

    fn step(&mut self, event: Event<'_>) {
        match self.node.step(event, now()) {
            Ok(actions) => {
                actions.into_iter().for_each(|action| self.carry_out(action));
                self.show_partitions();
            }
            Err(error) => cf::warning_limited!(Clustering, "message of another node dropped: {error}"),
        }
    }

    fn take_services(&self, from: NodeId, bytes: &[u8]) {
        match Services::decode(bytes) {
            Ok(services) => {
                if let Some(answer) = self.around.cluster.peers.message(from, &services) {
                    self.send_services(from, &answer);
                }
            }
            Err(error) => cf::warning_limited!(ServiceList, "message of node {from} dropped: {error}"),
        }
    }

    fn send_services(&self, to: NodeId, services: &Services) {
        let mut bytes = Vec::new();
        services.encode(&mut bytes);
        // The message is sent again until it is acknowledged.
        let _ = self.around.fabric.send(to, Channel::Control, &bytes);
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::PartitionChanged(id) => _ = self.changed.insert(id),
            Action::Tree { partition, tree } => self.tree(partition, tree),
            Action::Pulse(bytes) => self.around.heartbeat.pulse(bytes),
            Action::Send { to, channel, message } => {
                self.show_partitions();
                if to == self.node.id() {
                    self.sender.tell(DriverEvent::Message { from: to, bytes: message });
                } else if let Err(error) = self.around.fabric.send(to, channel, &message) {
                    // Important messages are sent again.
                    cf::detail!(Fabric, "message to node {to} not sent: {error:?}");
                }
            }
            Action::Arrived { node, fabric_endpoints } => {
                cf::info!(Hb, "node arrived {node:x}", node = node.0);
                self.around.fabric.arrive(node, &fabric_endpoints);
            }
            Action::Departed { node } => {
                cf::info!(Hb, "node departed {node:x}", node = node.0);
                self.around.fabric.depart(node);
            }
            Action::Rebalanced { cluster_key, succession } => self.rebalanced(cluster_key.0, &succession),
            Action::MapChanged => {
                self.show_partitions();
                self.around.cluster.map_changed();
            }
            Action::Frozen => {
                cf::info!(Partition, "no cluster for long: partitions are not served");
                for (namespace, _) in self.around.namespaces.iter().enumerate() {
                    let partitions = 0..PARTITION_COUNT as u16;
                    self.changed.extend(partitions.map(|partition| MemberPartition { namespace, partition }));
                }
            }
            Action::AwaitWrites { cluster_key } => self.await_writes(cluster_key),
            Action::SendRecords { to, emigration_id, partition } => {
                let tells_removals = self.node.knows_removals(to);
                self.order_move(partition, |namespace, partition| MoveOrder::Send {
                    to,
                    emigration_id,
                    namespace,
                    partition,
                    tells_removals,
                });
            }
            Action::HandOver { emigration_id, partition } => {
                self.order_move(partition, |namespace, partition| MoveOrder::HandOver {
                    emigration_id,
                    namespace,
                    partition,
                });
            }
            Action::Receive { from, emigration_id, partition } => {
                self.order_move(partition, |namespace, partition| MoveOrder::Receive {
                    from,
                    emigration_id,
                    namespace,
                    partition,
                });
            }
            Action::StopRecords { emigration_id } => self.order(MoveOrder::Stop { emigration_id }),
            Action::Received { from, emigration_id } => {
                self.order(MoveOrder::Received { from, emigration_id });
            }
            Action::StopReceiving => self.order(MoveOrder::StopReceiving),
            Action::Warn(warning) => warn(&warning),
        }
    }

    /// Gives an order about records, after the changes that it relies on are published.
    fn order(&mut self, order: MoveOrder) {
        self.show_partitions();
        self.around.mover.take_order(order);
    }

    /// As [`order`](Self::order), for the records of a partition that is here.
    fn order_move(
        &mut self,
        partition: MemberPartition,
        order: impl FnOnce(Arc<Namespace>, PartitionId) -> MoveOrder,
    ) {
        let known = self.partition(partition).map(|(namespace, id)| (Arc::clone(namespace), id));
        if let Some((namespace, id)) = known {
            self.order(order(namespace, id));
        }
    }

    /// Publishes that writes are held, and waits for the commits under way: a transaction that has not begun to commit
    /// is checked again.
    fn await_writes(&mut self, cluster_key: ClusterKey) {
        self.show_partitions();
        let namespaces = self.around.namespaces.iter();
        let under_way = namespaces.map(|namespace| namespace.partitions.commits_under_way()).collect();
        let node_timeout = Duration::from_millis(self.node.timing().node_timeout_ms());
        self.awaited = Some(AwaitedCommits { cluster_key, under_way, until: Instant::now() + node_timeout });
    }

    /// Tells the node when the awaited commits have ended.
    fn look_after_commits(&mut self) {
        let Some(awaited) = &mut self.awaited else { return };
        awaited.under_way.retain_mut(|under_way| !under_way.is_over());
        let is_late = awaited.until <= Instant::now();
        if is_late && !awaited.under_way.is_empty() {
            cf::warning!(Exchange, "writes that hang are not waited for any longer");
        }
        if is_late || awaited.under_way.is_empty() {
            let cluster_key = awaited.cluster_key;
            self.awaited = None;
            self.step(Event::WritesEnded { cluster_key });
        }
    }

    fn partition(&self, partition: MemberPartition) -> Option<(&Arc<Namespace>, PartitionId)> {
        let namespace = self.around.namespaces.get(partition.namespace)?;
        Some((namespace, PartitionId::new(partition.partition.into())?))
    }

    fn tree(&mut self, partition: MemberPartition, tree: Tree) {
        match tree {
            Tree::Keep => {}
            // The records of the partition's earlier life must be removed before the next one begins. Until then it is
            // out of service here, and requests for it are retried.
            Tree::Create => {
                if self.removals.is_pending(partition) {
                    self.delayed.insert(partition);
                }
            }
            Tree::Drop => {
                self.delayed.remove(&partition);
                self.changed.insert(partition);
                self.dropped.push(partition);
            }
        }
    }

    fn rebalanced(&mut self, cluster_key: u64, succession: &[NodeId]) {
        let namespaces = 0..self.around.namespaces.len();
        self.show_clock();
        self.factors = Some(namespaces.map(|at| self.node.replication_factor(at) as u32).collect());
        self.show_partitions();
        self.factors = None;
        let nodes: Vec<u64> = succession.iter().map(|node| node.0).collect();
        let list: Vec<String> = nodes.iter().map(|node| format!("{node:x}")).collect();
        cf::info!(Exchange, "data exchange completed with cluster key {cluster_key:x}");
        cf::info!(Clustering, "cluster changed: size {} succession {}", nodes.len(), list.join(" "));
        for (at, namespace) in self.around.namespaces.iter().enumerate() {
            let figures = namespace.partitions.figures();
            cf::info!(
                Partition,
                "{{{}}} rebalanced: expected-migrations ({},{},{}) fresh-partitions {}",
                namespace.name(),
                figures.pending_emigrations,
                figures.pending_immigrations,
                self.node.migration_load(at).signals_remaining,
                figures.fresh
            );
        }
        self.show_state();
        self.show_placements();
        self.around.cluster.rebalanced(cluster_key, nodes);
        self.metadata.cluster_changed(cluster_key, succession);
        let others: Vec<NodeId> = succession.iter().copied().filter(|node| *node != self.node.id()).collect();
        self.around.cluster.peers.set_members(&others);
    }

    fn show_placements(&self) {
        let placements = (0..self.around.namespaces.len()).map(|at| self.node.placement(at).cloned());
        let placements: Vec<Placement> = placements.map(Option::unwrap_or_default).collect();
        for (namespace, placement) in self.around.namespaces.iter().zip(&placements) {
            if !placement.quiesced.is_empty() {
                cf::info!(
                    Partition,
                    "{{{}}} {} nodes are quiesced",
                    namespace.name(),
                    placement.quiesced.len()
                );
            }
        }
        self.around.cluster.set_placements(placements);
    }

    /// Publishes changes to transactions and clients, after they are in the device headers.
    fn show_partitions(&mut self) {
        let is_done = |partition: &MemberPartition| !self.removals.is_pending(*partition);
        self.delayed.extract_if(.., is_done).for_each(|partition| _ = self.changed.insert(partition));
        let changed: BTreeSet<MemberPartition> = self.changed.difference(&self.delayed).copied().collect();
        self.changed.clear();
        if changed.is_empty() && self.factors.is_none() {
            return;
        }
        for (at, namespace) in self.around.namespaces.iter().enumerate() {
            let of_namespace = changed.iter().filter(|id| id.namespace == at);
            let row = |id: &MemberPartition| -> Option<(PartitionId, PartitionRow)> {
                Some((PartitionId::new(id.partition.into())?, row_of(self.node.partition(*id))))
            };
            let rows: Vec<_> = of_namespace.filter_map(row).collect();
            let factor = self.factors.as_ref().map(|factors| factors[at]);
            if rows.is_empty() && factor.is_none() {
                continue;
            }
            if let Err(error) = namespace.partitions.take_over(&namespace.storage, rows, factor) {
                versions_not_stored(namespace, &error);
            }
        }
        self.dropped.drain(..).for_each(|partition| self.removals.add(partition));
    }
}

fn versions_not_stored(namespace: &Namespace, error: &BlockError) -> ! {
    cf::fatal!("{{{}}} versions of partitions cannot be written to the devices: {error}", namespace.name());
}

fn now() -> Now {
    Now { monotonic_ms: monotonic_nanos() / 1_000_000, wall_ms: StoredMillis::now().unix_nanos() / 1_000_000 }
}

fn timing(config: &Config) -> Timing {
    Timing {
        interval_ms: config.network.heartbeat.interval.get().into(),
        timeout_intervals: config.network.heartbeat.timeout.get().into(),
        latency_ms: config.network.fabric.latency_max_ms.get().into(),
    }
}

fn migration_settings(config: &Config) -> MigrationSettings {
    let service = &config.service;
    MigrationSettings {
        threads: service.migrate_threads.get() as usize,
        incoming_max: service.migrate_max_num_incoming.get() as usize,
        fill_delay_ms: u64::from(service.migrate_fill_delay.get()) * 1000,
    }
}

fn node_settings(around: &Surroundings, now: Now) -> NodeSettings {
    let service = &around.config.service;
    let namespaces = around.config.namespaces.iter().map(|namespace| NamespaceSettings {
        name: namespace.name.clone().into_bytes(),
        replication_factor: namespace.params.replication_factor.get(),
        rack: namespace.params.rack_id.get(),
        active_rack: namespace.params.active_rack.get(),
        prefers_uniform_balance: namespace.params.prefer_uniform_balance.get(),
        migrate_order: namespace.params.migrate_order.get(),
        ignores_fill_delay: namespace.params.ignore_migrate_fill_delay.get(),
    });
    NodeSettings {
        self_node: around.fabric.self_node(),
        cluster_name: service.cluster_name.get().map(|name| name.as_bytes().to_vec()),
        fabric_endpoints: around.fabric_endpoints.clone(),
        heartbeat_endpoints: around.heartbeat_endpoints.clone(),
        nodes_max: cluster::balance::MEMBERS_MAX,
        size_min: service.min_cluster_size.get() as usize,
        timing: timing(&around.config),
        migration: migration_settings(&around.config),
        partition_count: PARTITION_COUNT,
        namespaces: namespaces.collect(),
        seed: now.monotonic_ms ^ now.wall_ms << 20 ^ around.fabric.self_node().0,
    }
}

fn warn(warning: &Warning) {
    match warning {
        Warning::Slept { ms } => {
            cf::warning!(Clustering, "the process did not run for {ms} ms: others may have taken over");
        }
        Warning::Unfit(unfit) => {
            cf::warning!(Exchange, "nodes do not fit together, nothing is balanced: {unfit:?}");
        }
        Warning::MigrationRefused { partition, destination } => {
            cf::warning_limited!(
                Migrate,
                "imbalance: node {destination} refuses partition {} of namespace {}",
                partition.partition,
                partition.namespace
            );
        }
        Warning::DuplicateId => cf::warning!(Hb, "another node has the id of this one"),
    }
}
