//! The metadata thread: it passes events of system metadata in the cluster to `cluster::smd::SmdPropagation`,
//! and carries out the resulting actions. Changes by this node's clients wait here until all nodes have them.
//!
//! # Threads
//! One. It writes files and calls listeners, which takes long, so no other thread waits for it. Events come
//! through an inbox. Messages of other nodes that do not fit are dropped, and are sent again. The thread is
//! essential: a panic could leave a half-made change of metadata that all nodes share.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::clock::{StoredMillis, monotonic_nanos};
use cf::threads::{self, Handle};
use cluster::smd::{SetResult, SmdAction, SmdEvent, SmdPropagation};
use cluster::time::Now;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;
use proto::peer::hello::Channel;
use proto::peer::smd::{Item, ModuleVersion, Smd as Message};
use proto::peer::{ClusterKey, NodeId};

use super::network::Fabric;
use super::peers::Handler;
use crate::smd::{Module, SetError, Smd, SmdItem, SmdVersion};

/// Largest number of messages of other nodes that wait for the thread.
const MESSAGES_MAX: usize = 4096;
/// Period of ticks.
const TICK: Duration = Duration::from_millis(25);
/// Longest time of a change. It is longer than the loss of the principal and then of the next one takes.
const SET_TIME_MAX: Duration = Duration::from_secs(30);
/// Modules of which one history wins as a whole: the users and roles of a cluster are not mixed with those of
/// a node that joins.
const WHOLE_MODULES: &[u32] = &[Module::Security as u32];

/// An event for the thread.
enum MetadataEvent {
    Message { from: NodeId, bytes: Vec<u8> },
    ClusterChanged { cluster_key: ClusterKey, succession: Vec<NodeId> },
    Set { change: Change, done: Sender<Result<(), SetError>> },
    Stop,
}

/// A change requested by a client.
struct Change {
    module: u32,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// The sending end of the thread's inbox.
#[derive(Clone)]
pub(super) struct MetadataInbox(Sender<MetadataEvent>);

impl MetadataInbox {
    /// Notes that the partitions were balanced for another cluster.
    pub(super) fn cluster_changed(&self, cluster_key: u64, succession: &[NodeId]) {
        let cluster_key = ClusterKey(cluster_key);
        self.tell(MetadataEvent::ClusterChanged { cluster_key, succession: succession.to_vec() });
    }

    pub(super) fn stop(&self) {
        self.tell(MetadataEvent::Stop);
    }

    fn tell(&self, event: MetadataEvent) {
        // The thread ends only when the server does.
        let _ = self.0.send(event);
    }

    /// Makes a change in the whole cluster, and waits until all nodes have it.
    fn set(&self, module: Module, key: &str, value: Option<&str>) -> Result<(), SetError> {
        let (done, result) = bounded(1);
        let value = value.map(|value| value.as_bytes().to_vec());
        let change = Change { module: module as u32, key: key.as_bytes().to_vec(), value };
        self.tell(MetadataEvent::Set { change, done });
        result.recv().unwrap_or(Err(SetError::Timeout))
    }
}

impl Handler for MetadataInbox {
    fn take(&self, from: NodeId, message: &[u8]) {
        if self.0.len() < MESSAGES_MAX {
            self.tell(MetadataEvent::Message { from, bytes: message.to_vec() });
        }
    }
}

/// The state of the metadata thread.
pub(super) struct MetadataThread {
    smd: Arc<Smd>,
    fabric: Arc<Fabric>,
    propagation: SmdPropagation,
    inbox: Receiver<MetadataEvent>,
    sender: MetadataInbox,
    /// Clients of this node that wait for changes.
    waiting: HashMap<u64, Sender<Result<(), SetError>>>,
    /// The reason why the last change was not made.
    set_error: Option<SetError>,
    last_set: u64,
}

impl MetadataThread {
    /// Makes the state for `modules`, in which this server keeps items.
    pub(super) fn new(smd: &Arc<Smd>, fabric: &Arc<Fabric>, modules: &[Module]) -> Self {
        let (sender, inbox) = unbounded();
        let version = |module: &Module| version_of(*module, smd.version(*module).0);
        let versions: Vec<ModuleVersion> = modules.iter().map(version).collect();
        let propagation = SmdPropagation::new(fabric.self_node(), &versions);
        MetadataThread {
            smd: Arc::clone(smd),
            fabric: Arc::clone(fabric),
            propagation: propagation.with_whole_histories(WHOLE_MODULES),
            inbox,
            sender: MetadataInbox(sender),
            waiting: HashMap::new(),
            set_error: None,
            last_set: 0,
        }
    }

    /// The sending end of the thread's inbox.
    pub(super) fn inbox(&self) -> MetadataInbox {
        self.sender.clone()
    }

    /// Starts the thread. From now on changes are made in the whole cluster.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(super) fn start(self) -> io::Result<Handle> {
        // The sender is behind a lock, because several threads call the closure.
        let (smd, sender) = (Arc::clone(&self.smd), Mutex::new(self.inbox()));
        let handle = threads::spawn_essential("metadata", move || self.run())?;
        smd.propagate_by(Box::new(move |module, key, value| {
            let inbox = sender.lock().clone();
            inbox.set(module, key, value)
        }));
        Ok(handle)
    }

    fn run(mut self) {
        let mut next_tick = Instant::now();
        loop {
            match self.inbox.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(MetadataEvent::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if next_tick <= Instant::now() {
                next_tick = Instant::now() + TICK;
                cf::fault_point!("metadata");
                self.step(SmdEvent::Tick);
            }
        }
    }

    fn take(&mut self, event: MetadataEvent) {
        match event {
            MetadataEvent::Message { from, bytes } => match Message::decode(&bytes) {
                Ok(message) => self.step(SmdEvent::Message { from, message }),
                Err(error) => cf::warning_limited!(Smd, "message of node {from} dropped: {error}"),
            },
            MetadataEvent::ClusterChanged { cluster_key, succession } => {
                self.step(SmdEvent::ClusterChanged { cluster_key, succession });
            }
            MetadataEvent::Set { change: Change { module, key, value }, done } => {
                self.last_set += 1;
                let set = self.last_set;
                self.waiting.insert(set, done);
                let deadline_ms = now().monotonic_ms + SET_TIME_MAX.as_millis() as u64;
                self.step(SmdEvent::Set { set, module, key, value, deadline_ms });
            }
            MetadataEvent::Stop => {}
        }
    }

    /// Handles one event, and carries out the resulting actions.
    fn step(&mut self, event: SmdEvent) {
        let mut next = vec![event];
        while let Some(event) = next.pop() {
            for action in self.propagation.step(event, now()) {
                next.extend(self.carry_out(action));
            }
        }
    }

    fn carry_out(&mut self, action: SmdAction) -> Option<SmdEvent> {
        match action {
            SmdAction::Send { to, message } => {
                let mut bytes = Vec::new();
                message.encode(&mut bytes);
                if let Err(error) = self.fabric.send(to, Channel::Metadata, &bytes) {
                    // Important messages are repeated.
                    cf::detail!(Smd, "message to node {to} not sent: {error:?}");
                }
                None
            }
            SmdAction::Collect { module, purpose } => {
                let items = Module::from_number(module).map(|module| self.smd.all_items(module));
                let items = items.unwrap_or_default().into_iter().map(to_peers).collect();
                Some(SmdEvent::Collected { module, items, purpose })
            }
            SmdAction::Merge { module, others, version, replaces } => {
                let (own, others) = (Module::from_number(module)?, from_peers(others));
                cf::info!(Smd, "module {} is merged with {} items of other nodes", own.name(), others.len());
                let items = if replaces {
                    self.smd.take_all(own, others, stored(version));
                    self.smd.all_items(own)
                } else {
                    self.smd.merge_in(own, others, stored(version))
                };
                Some(SmdEvent::Merged { module, items: items.into_iter().map(to_peers).collect() })
            }
            SmdAction::Change { module, key, value, version } => {
                let own = Module::from_number(module)?;
                let (key, value) = (text(key), value.map(text));
                match self.smd.change_as_principal(own, (&key, value.as_deref()), stored(version)) {
                    Ok(item) => Some(SmdEvent::Changed { module, item: item.map(to_peers) }),
                    Err(error) => {
                        self.set_error = Some(error);
                        Some(SmdEvent::NotStored { module })
                    }
                }
            }
            SmdAction::Apply { item, version } => {
                let item = from_peers(vec![item]).pop()?;
                self.smd.take_change(Module::from_number(version.module)?, item, stored(version));
                None
            }
            SmdAction::Replace { items, version } => {
                let module = Module::from_number(version.module)?;
                self.smd.take_all(module, from_peers(items), stored(version));
                None
            }
            SmdAction::Finished { set, result } => {
                let result = match result {
                    SetResult::Done => Ok(()),
                    SetResult::TimedOut => Err(SetError::Timeout),
                    SetResult::NotStored => Err(self.set_error.take().unwrap_or(SetError::Timeout)),
                };
                if let Some(waiting) = self.waiting.remove(&set) {
                    // The waiting thread may have ended.
                    let _ = waiting.send(result);
                }
                None
            }
        }
    }
}

fn now() -> Now {
    Now { monotonic_ms: monotonic_nanos() / 1_000_000, wall_ms: StoredMillis::now().unix_nanos() / 1_000_000 }
}

fn version_of(module: Module, version: SmdVersion) -> ModuleVersion {
    let SmdVersion { cluster_key, tid } = version;
    ModuleVersion { module: module as u32, committed_key: ClusterKey(cluster_key), transaction_id: tid }
}

fn stored(version: ModuleVersion) -> SmdVersion {
    SmdVersion { cluster_key: version.committed_key.0, tid: version.transaction_id }
}

/// Keys and values are text.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn to_peers(item: SmdItem) -> Item {
    let SmdItem { key, value, generation, timestamp } = item;
    Item { key: key.into_bytes(), value: value.map(String::into_bytes), generation, timestamp }
}

fn from_peers(items: Vec<Item>) -> Vec<SmdItem> {
    let item = |Item { key, value, generation, timestamp }| SmdItem {
        key: text(key),
        value: value.map(text),
        generation,
        timestamp,
    };
    items.into_iter().map(item).collect()
}
