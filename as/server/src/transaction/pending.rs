//! Messages about records that other nodes have not answered yet: at most one for each record, sent again until all
//! nodes have answered or its deadline has passed.
//!
//! Replica writes and questions for duplicates are both kept in such a table. They define the additional state of a
//! message (`T`) and of a shard's records (`M`).
//!
//! # Locks
//! One mutex for each shard; only outboxes of connections are locked under it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use proto::peer::NodeId;
use proto::peer::replication::{Replication, ReplicationBody};
use smallvec::SmallVec;

use super::base::TransactionBase;
use super::pool::Pool;
use super::wait::{OwnedRequest, RecordKey};
use crate::config::Config;
use crate::fabric::{Cluster, Fabric};

const SHARD_COUNT: usize = 64;
/// Pause before a message is sent again to a node that does not know its partition yet, or no longer.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause between two sendings; the pause doubles with each.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The parts that send messages and resume requests.
pub(super) struct Links {
    pub(super) config: Arc<Config>,
    pub(super) fabric: Arc<Fabric>,
    pub(super) cluster: Arc<Cluster>,
    pool: Weak<Pool>,
}

impl Links {
    /// Runs a request again. A stopped server runs none.
    pub(super) fn resume(&self, request: OwnedRequest) {
        if let Some(pool) = self.pool.upgrade() {
            pool.submit(request);
        }
    }
}

/// A message that some nodes have not answered.
pub(super) struct Pending<T> {
    pub(super) transaction_id: u32,
    pub(super) message: Vec<u8>,
    /// Nodes that have not answered.
    pub(super) unanswered: SmallVec<[NodeId; 2]>,
    pub(super) resend_at: Instant,
    pause: Duration,
    pub(super) deadline: Instant,
    pub(super) of: T,
}

impl<T> Pending<T> {
    /// A message to be sent to `nodes` at once.
    pub(super) fn new(
        links: &Links,
        (transaction_id, message): (u32, Vec<u8>),
        nodes: impl IntoIterator<Item = u64>,
        of: T,
    ) -> Self {
        let (now, service) = (Instant::now(), &links.config.service);
        let time_max = Duration::from_millis(service.transaction_max_ms.get());
        let pause = Duration::from_millis(service.transaction_retry_ms.get().max(1).into());
        // A lost message is sent again well before its deadline.
        let pause = pause.min(time_max / 4).max(REFUSED_PAUSE);
        Pending {
            transaction_id,
            message,
            unanswered: nodes.into_iter().map(NodeId).collect(),
            resend_at: now + pause,
            pause,
            deadline: now + time_max,
            of,
        }
    }

    /// Sends it to all nodes that have not answered.
    pub(super) fn send(&self, key: &RecordKey, links: &Links) {
        for node in &self.unanswered {
            // A failure does not matter, because an unanswered message is sent again.
            let _ = links.fabric.send_in_order(*node, &key.digest, &self.message);
        }
    }

    /// Sends it again; the next time comes after a longer pause.
    pub(super) fn send_again(&mut self, key: &RecordKey, links: &Links, now: Instant) {
        self.send(key, links);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.resend_at = now + self.pause;
    }

    /// Notes a node's answer; returns false if none was expected from it.
    pub(super) fn answered(&mut self, from: NodeId) -> bool {
        let place = self.unanswered.iter().position(|node| *node == from);
        place.map(|place| self.unanswered.swap_remove(place)).is_some()
    }
}

/// State of a shard's records.
pub(super) struct Shard<T, M> {
    pub(super) pending: HashMap<RecordKey, Pending<T>>,
    pub(super) more: M,
}

/// The messages of a server.
pub(super) struct PendingTable<T, M> {
    shards: [Mutex<Shard<T, M>>; SHARD_COUNT],
    /// Number of messages; 0 on a single node, which skips the lookup.
    count: AtomicUsize,
    last_id: AtomicUsize,
    links: OnceLock<Links>,
}

impl<T, M: Default> PendingTable<T, M> {
    pub(super) fn new() -> Self {
        let shard = |_| Mutex::new(Shard { pending: HashMap::new(), more: M::default() });
        PendingTable {
            shards: std::array::from_fn(shard),
            count: AtomicUsize::new(0),
            last_id: AtomicUsize::new(0),
            links: OnceLock::new(),
        }
    }

    /// Connects the table to `fabric`, which sends its messages from now on.
    pub(super) fn connect(&self, base: &TransactionBase, fabric: &Arc<Fabric>, cluster: &Arc<Cluster>) {
        let (fabric, cluster) = (Arc::clone(fabric), Arc::clone(cluster));
        let (config, pool) = (Arc::clone(&base.config), Arc::downgrade(&base.pool));
        // This is called once, so the cell is empty.
        let _ = self.links.set(Links { config, fabric, cluster, pool });
    }

    /// `None` on a node that does not join a cluster.
    pub(super) fn links(&self) -> Option<&Links> {
        self.links.get()
    }

    /// The number of a new message.
    pub(super) fn new_id(&self) -> u32 {
        self.last_id.fetch_add(1, Relaxed) as u32
    }

    /// Number of unanswered messages, and of others that were [added](Self::add).
    pub(super) fn count(&self) -> usize {
        self.count.load(Acquire)
    }

    /// Adds to the count.
    pub(super) fn add(&self, count: usize) {
        self.count.fetch_add(count, AcqRel);
    }

    /// Subtracts from the count.
    pub(super) fn subtract(&self, count: usize) {
        self.count.fetch_sub(count, AcqRel);
    }

    /// State of the shard of `key`.
    pub(super) fn shard(&self, key: &RecordKey) -> MutexGuard<'_, Shard<T, M>> {
        self.shards[key.shard(SHARD_COUNT)].lock()
    }

    /// State of all shards, one after the other.
    pub(super) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<T, M>>> {
        self.shards.iter().map(|shard| shard.lock())
    }
}

/// A message about a record as bytes.
pub(super) fn encoded(namespace: usize, transaction_id: u32, body: ReplicationBody<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    Replication { namespace_index: namespace as u32, transaction_id, body }.encode(&mut message);
    message
}
