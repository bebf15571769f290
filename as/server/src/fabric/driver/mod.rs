//! The cluster thread: it passes events to `cluster::node::Node`, and carries out the resulting actions.
//!
//! Events come through an inbox of bounded length. Events that do not fit are dropped, like messages lost on
//! the network. The thread does not wait: other threads connect, send and move records.
//!
//! The thread is essential: after a panic no thread would know which partitions this node serves.
//!
//! # Order
//! Actions are carried out in their order. Changes of partitions gather until an action depends on them. They
//! are then written to the device headers and published to transactions, all together.

mod inbox;
mod publish;
mod settings;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::clock::{StoredMillis, monotonic_nanos};
use cf::threads::{self, Handle};
use cluster::balance::Tree;
use cluster::migration::PartitionId as MemberPartition;
use cluster::node::{Action, Event, Node, Warning};
use cluster::time::Now;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use proto::peer::hello::Channel;
use proto::peer::nested::Endpoint;
use proto::peer::services::Services;
use proto::peer::{ClusterKey, MessageHeader, MessageType, NodeId};

use super::cluster::Cluster;
use super::company::Company;
use super::dump;
use super::metadata::MetadataInbox;
use super::network::Fabric;
use super::peers::Handlers;
use super::records::{MoveOrder, MoveReport, RecordMover};
use super::removal::Removals;
use crate::config::Config;
use crate::heartbeat::Heartbeat;
use crate::index::{PARTITION_COUNT, PartitionId};
use crate::namespace::{Leaving, Namespace, Partitions};
use crate::smd::{Module, Smd};
pub(crate) use inbox::{DriverEvent, DriverInbox};

/// Longest wait for an event. It is shorter than the node requires, so that its timers are not late.
const TICK: Duration = Duration::from_millis(25);
/// Largest number of events handled before the next tick.
const EVENTS_PER_TICK: usize = 256;
/// Time between checks whether the commits under way have ended.
const COMMITS_PERIOD: Duration = Duration::from_millis(1);
/// How often the record counts of partitions are reported.
const COUNT_PERIOD: Duration = Duration::from_secs(5);

/// The parts that the thread works with.
pub(crate) struct Surroundings {
    pub(crate) config: Arc<Config>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) namespaces: Arc<[Arc<Namespace>]>,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) heartbeat: Arc<Heartbeat>,
    /// The part that moves records.
    pub(crate) mover: Arc<dyn RecordMover>,
    pub(crate) smd: Arc<Smd>,
    /// The metadata modules that this node keeps.
    pub(crate) modules: Vec<Module>,
    /// Endpoints where other nodes reach the fabric, and the heartbeat of a mesh.
    pub(crate) fabric_endpoints: Vec<Endpoint>,
    pub(crate) heartbeat_endpoints: Option<Vec<Endpoint>>,
    /// Client addresses of this node, as fields of a services message.
    pub(crate) services: Vec<(u16, Vec<u8>)>,
    /// Whether no other node is expected, so that the first cluster needs no wait.
    pub(crate) starts_alone: bool,
    /// Keeps in mind that there are other nodes.
    pub(crate) company: Company,
}

/// Commits that must end before the node is ready for the cluster with this key.
struct AwaitedCommits {
    cluster_key: ClusterKey,
    /// The commits under way, one entry for each namespace that has any.
    under_way: Vec<Leaving>,
    /// Time after which a commit that hangs on a disk no longer delays the cluster.
    until: Instant,
}

/// The state of the cluster thread.
pub(crate) struct Driver {
    around: Surroundings,
    node: Node,
    inbox: Receiver<DriverEvent>,
    sender: DriverInbox,
    removals: Removals,
    metadata: MetadataInbox,
    /// Partitions whose new state is not published yet.
    changed: BTreeSet<MemberPartition>,
    /// Partitions among `changed` whose records are removed after publication.
    dropped: Vec<MemberPartition>,
    /// Partitions among `changed` that are published only after the records of an earlier life have been
    /// removed.
    delayed: BTreeSet<MemberPartition>,
    /// The replication factors in effect, once they are known.
    factors: Option<Vec<u32>>,
    awaited: Option<AwaitedCommits>,
    next_count: Instant,
    started: Instant,
}

impl Driver {
    /// Makes the state in which no other node is known yet.
    pub(super) fn new(around: Surroundings, metadata: MetadataInbox) -> Self {
        let (sender, inbox) = DriverInbox::new();
        let now = now();
        let versions = around.namespaces.iter().map(|namespace| {
            let mut versions = Vec::with_capacity(PARTITION_COUNT);
            namespace.partitions.visit(|_, row| versions.push(row.version));
            versions
        });
        let to_self = sender.clone();
        around.mover.report_to(Box::new(move |report| {
            to_self.tell(match report {
                MoveReport::Sent { emigration_id } => DriverEvent::RecordsSent { emigration_id },
                MoveReport::HandedOver { emigration_id } => DriverEvent::HandedOver { emigration_id },
                MoveReport::Message { from, bytes } => DriverEvent::Message { from, bytes },
            })
        }));
        let node = Node::new(around.node_settings(now), versions.collect(), now);
        Driver {
            node,
            inbox,
            sender,
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

    /// The sending end of the thread's inbox.
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
        // Other nodes take over the partitions as soon as they hear that this node is gone.
        self.around.namespaces.iter().for_each(|namespace| namespace.partitions.serve_until(0));
        self.step(Event::Depart);
        self.store_versions();
        self.removals.stop();
    }

    fn tick(&mut self) {
        cf::fault_point!("cluster");
        let now_ms = now().monotonic_ms;
        let timing = self.around.timing();
        if self.node.timing() != timing {
            self.node.set_timing(timing);
        }
        self.take_over_migration_settings();
        self.wish_placements();
        self.step(Event::Tick);
        // The time before the step counts, because the step has not seen later events.
        self.show_end_of_service(now_ms);
        self.show_clock();
        let cluster = &self.around.cluster;
        let elapsed_ms = self.started.elapsed().as_millis() as u64;
        for (to, services) in cluster.peers.due(&self.around.services, elapsed_ms) {
            self.send_services(to, &services);
        }
        self.show_state();
        self.show_migrations();
        self.store_versions_if_due();
        if self.next_count <= Instant::now() {
            self.next_count = Instant::now() + COUNT_PERIOD;
            if self.node.emigrations_remaining() != 0 {
                self.count_records();
            }
        }
    }

    /// Publishes until when the node may serve if the process does not run after `now_ms`.
    fn show_end_of_service(&self, now_ms: u64) {
        let timeout_ms = self.node.timing().node_timeout_ms();
        let until_ms = if self.node.is_alone() { Partitions::NO_END } else { now_ms + timeout_ms };
        self.around.namespaces.iter().for_each(|namespace| namespace.partitions.serve_until(until_ms));
    }

    fn take(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::Heartbeat(bytes) => self.step(Event::Heartbeat(&bytes)),
            DriverEvent::Message { from, bytes } => {
                let header = MessageHeader::parse(&bytes).ok().flatten();
                match header.and_then(|header| MessageType::of(header.type_number)) {
                    Some(MessageType::Services) => self.take_services(from, &bytes),
                    Some(MessageType::Migrate) => {
                        self.count_received(from, &bytes);
                        self.step(Event::Fabric { from, message: &bytes });
                    }
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
                    // Important messages are repeated.
                    cf::detail!(Fabric, "message to node {to} not sent: {error:?}");
                }
            }
            Action::Arrived { node, fabric_endpoints } => {
                cf::info!(Hb, "node arrived {node:x}", node = node.0);
                self.around.company.note();
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
                cf::info!(
                    Partition,
                    "this node has been in no cluster for a while: its partitions are not served"
                );
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

    /// Gives an order about records, after publishing the changes on which it relies.
    fn order(&mut self, order: MoveOrder) {
        self.show_partitions();
        self.around.mover.take_order(order);
    }

    /// As [`order`](Self::order), for the records of a partition, if the partition exists.
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

    /// Publishes that writes are held, and begins to wait for the commits under way. A transaction that has
    /// not begun to commit is checked again.
    fn await_writes(&mut self, cluster_key: ClusterKey) {
        // The rebalance that follows orders its migrations by these counts.
        self.count_records();
        self.show_end_of_service(now().monotonic_ms);
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
            cf::warning!(Exchange, "not waiting any longer for writes that do not end");
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
            // The records of the partition's earlier life must be removed before the next one begins. Until
            // then the partition is out of service here, and requests for it are retried.
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
}

fn now() -> Now {
    Now { monotonic_ms: monotonic_nanos() / 1_000_000, wall_ms: StoredMillis::now().unix_nanos() / 1_000_000 }
}

fn warn(warning: &Warning) {
    match warning {
        Warning::Slept { ms } => {
            cf::warning!(Clustering, "the process did not run for {ms} ms: others may have taken over");
        }
        Warning::Unfit(unfit) => {
            cf::warning!(Exchange, "the nodes do not fit together, so no partitions are assigned: {unfit:?}");
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
