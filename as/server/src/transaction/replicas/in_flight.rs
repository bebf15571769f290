//! Writes that are on their way to replicas: who has yet to acknowledge them, and who waits for that.
//!
//! A commit on the master sends the new record to the other replicas while the record's lock is held, and notes it here. Its
//! reply is [held](Hold) until all have answered; other writers of the record wait too, so that what replicas
//! get of a record is in order. What is not answered is sent again, and to the replicas that there are by then. When the
//! deadline has come the client is told of a timeout: the write may last.
//!
//! # Threads
//! `replica-resend` looks every few milliseconds for what is to be sent again.
//!
//! # Locks
//! One mutex for each shard. It may be taken under a sprig lock; only outboxes of connections are locked under it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use proto::peer::hello::Channel;
use proto::peer::replication::{Replication, ReplicationBody, Subject};
use proto::peer::{ClusterKey, NodeId};
use smallvec::SmallVec;

use crate::config::Config;
use crate::fabric::{Cluster, Fabric};
use crate::index::PartitionId;
use crate::namespace::Namespace;
use crate::transaction::OwnedRequest;
use crate::transaction::wait::{Hold, RecordKey};

const SHARD_COUNT: usize = 64;
/// A replica that does not know of its partition yet, or any more, is asked again after this.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// So is one that could not store a write, after this.
const FAILED_PAUSE: Duration = Duration::from_millis(50);
/// A reply may come to wait for a write that has ended late up to so long afterwards.
const LATE_KEPT: Duration = Duration::from_secs(60);
/// The longest pause between two sendings: it doubles with each, however soon that came.
pub(in crate::transaction) const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What the writes are sent with.
pub(super) struct Links {
    config: Arc<Config>,
    fabric: Arc<Fabric>,
    pub(super) cluster: Arc<Cluster>,
}

/// A write that not all replicas have answered.
struct InFlight {
    transaction_id: u32,
    message: Vec<u8>,
    /// Have yet to answer.
    unanswered: SmallVec<[NodeId; 2]>,
    answered: SmallVec<[NodeId; 2]>,
    resend_at: Instant,
    pause: Duration,
    deadline: Instant,
    /// Replies that are held, and until when.
    holds: Vec<(Hold, Instant)>,
    waiting: Vec<OwnedRequest>,
}

/// What waited for a write that has ended.
#[must_use]
pub(in crate::transaction) struct Ended {
    holds: Vec<Hold>,
    waiting: Vec<OwnedRequest>,
    is_late: bool,
}

impl Ended {
    /// Releases the replies; `resume` gets the requests.
    pub(in crate::transaction) fn release(self, resume: impl Fn(OwnedRequest)) {
        for hold in self.holds {
            if self.is_late { hold.time_out() } else { hold.end(&[]) }
        }
        self.waiting.into_iter().for_each(resume);
    }
}

/// What a replica has answered to a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acknowledgement {
    /// It has the write.
    Stored,
    /// It is no replica yet, or does not know of this cluster.
    Refused,
    /// It could not store it, or has something else that is newer.
    Failed,
}

#[derive(Default)]
struct Writes {
    in_flight: HashMap<RecordKey, InFlight>,
    /// Writes that ended late while nobody had come to wait for them yet: their transaction, and when.
    late: HashMap<RecordKey, (u32, Instant)>,
}

#[derive(Default)]
struct Shard {
    writes: Mutex<Writes>,
    ended: Condvar,
}

/// The writes of a server that are on their way to replicas.
pub(crate) struct ReplicaWrites {
    shards: [Shard; SHARD_COUNT],
    /// How many there are: none on a node alone, and then nobody looks further.
    count: AtomicUsize,
    last_id: AtomicUsize,
    pub(super) links: OnceLock<Links>,
}

impl ReplicaWrites {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(ReplicaWrites {
            shards: std::array::from_fn(|_| Shard::default()),
            count: AtomicUsize::new(0),
            last_id: AtomicUsize::new(0),
            links: OnceLock::new(),
        })
    }

    /// Sends by `fabric` from now on.
    pub(crate) fn connect(&self, config: &Arc<Config>, fabric: &Arc<Fabric>, cluster: &Arc<Cluster>) {
        let (config, fabric, cluster) = (Arc::clone(config), Arc::clone(fabric), Arc::clone(cluster));
        // A node joins others once.
        let _ = self.links.set(Links { config, fabric, cluster });
    }

    fn shard(&self, key: &RecordKey) -> &Shard {
        &self.shards[usize::from(key.digest.0[19]) % SHARD_COUNT]
    }

    /// Writes on their way.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether a write of the record is on its way.
    #[inline]
    pub(in crate::transaction) fn is_in_flight(&self, key: &RecordKey) -> bool {
        self.count.load(Acquire) != 0 && self.shard(key).writes.lock().in_flight.contains_key(key)
    }

    /// The transaction of the write of the record that was just committed and sent: its reply [waits](Self::hold) for that.
    /// `None` if all replicas have it already.
    pub(in crate::transaction) fn sent(&self, key: &RecordKey) -> Option<u32> {
        let writes = self.shard(key).writes.lock();
        let on_its_way = writes.in_flight.get(key).map(|write| write.transaction_id);
        on_its_way.or_else(|| writes.late.get(key).map(|(id, _)| *id))
    }

    /// Whether a write of any record of a partition is on its way.
    pub(crate) fn has_any_of(&self, namespace: usize, partition: PartitionId) -> bool {
        let is_of = |key: &RecordKey| key.namespace == namespace && PartitionId::of(&key.digest) == partition;
        self.count.load(Acquire) != 0
            && self.shards.iter().any(|shard| shard.writes.lock().in_flight.keys().any(is_of))
    }

    pub(super) fn new_id(&self) -> u32 {
        self.last_id.fetch_add(1, Relaxed) as u32
    }

    /// Sends a write to the other replicas of its partition. The caller holds the record's sprig lock.
    pub(super) fn begin(&self, key: RecordKey, (transaction_id, message): (u32, Vec<u8>), nodes: &[u64]) {
        let Some(links) = self.links.get() else { return };
        let now = Instant::now();
        let time_max = Duration::from_millis(links.config.service.transaction_max_ms.get());
        let pause = Duration::from_millis(links.config.service.transaction_retry_ms.get().max(1).into());
        // What is lost on its way is sent again before it is late.
        let pause = pause.min(time_max / 4).max(REFUSED_PAUSE);
        let unanswered: SmallVec<[NodeId; 2]> = nodes.iter().map(|node| NodeId(*node)).collect();
        let mut write = InFlight {
            transaction_id,
            message,
            unanswered,
            answered: SmallVec::new(),
            resend_at: now + pause,
            pause,
            deadline: now + time_max,
            holds: Vec::new(),
            waiting: Vec::new(),
        };
        let mut guard = self.shard(&key).writes.lock();
        let writes = &mut guard.in_flight;
        match writes.remove(&key) {
            // The record has been written again: who waits for the former write waits for this one, which follows it.
            Some(mut former) => {
                write.holds = std::mem::take(&mut former.holds);
                write.waiting = std::mem::take(&mut former.waiting);
            }
            None => _ = self.count.fetch_add(1, AcqRel),
        }
        // Sent when it is noted: an answer may come at once.
        let write = writes.entry(key).or_insert(write);
        send(links, &write.unanswered, &write.message);
    }

    /// Has a hold wait for a write of a record, which has this `transaction_id`, or for a later one that was made from it, or ends
    /// it at once. It waits for so many milliseconds; 0 = `transaction-max-ms`.
    pub(in crate::transaction) fn hold(
        &self,
        key: &RecordKey,
        transaction_id: u32,
        hold: Hold,
        time_max_ms: u32,
    ) {
        let mut writes = self.shard(key).writes.lock();
        match writes.in_flight.get_mut(key) {
            Some(write) => {
                let deadline = match time_max_ms {
                    0 => write.deadline,
                    own => Instant::now() + Duration::from_millis(own.into()),
                };
                // It is sent again as long as somebody waits.
                write.deadline = write.deadline.max(deadline);
                write.holds.push((hold, deadline));
            }
            None => {
                // Numbers go round.
                let is_of = |late: u32| late.wrapping_sub(transaction_id) < u32::MAX / 2;
                let is_late = writes.late.get(key).is_some_and(|(id, _)| is_of(*id));
                drop(writes);
                if is_late { hold.time_out() } else { hold.end(&[]) }
            }
        }
    }

    /// Has a request wait until no write of its record is on its way. Gives it back if there is none.
    pub(in crate::transaction) fn park(
        &self,
        key: &RecordKey,
        request: OwnedRequest,
    ) -> Result<(), OwnedRequest> {
        match self.shard(key).writes.lock().in_flight.get_mut(key) {
            Some(write) => {
                write.waiting.push(request);
                Ok(())
            }
            None => Err(request),
        }
    }

    /// Waits until no write of the record is on its way, or until `deadline`; returns whether there is none. Not on a
    /// service thread, nor one of the fabric.
    pub(in crate::transaction) fn wait_until_free(&self, key: &RecordKey, deadline: Instant) -> bool {
        if self.count.load(Acquire) == 0 {
            return true;
        }
        let shard = self.shard(key);
        let mut writes = shard.writes.lock();
        while writes.in_flight.contains_key(key) {
            if shard.ended.wait_until(&mut writes, deadline).timed_out() {
                return !writes.in_flight.contains_key(key);
            }
        }
        true
    }

    fn end(&self, shard: &Shard, mut write: InFlight, is_late: bool) -> Ended {
        self.count.fetch_sub(1, AcqRel);
        shard.ended.notify_all();
        let holds = std::mem::take(&mut write.holds).into_iter().map(|(hold, _)| hold).collect();
        let waiting = std::mem::take(&mut write.waiting);
        Ended { holds, waiting, is_late }
    }

    /// A replica has answered.
    pub(super) fn answered(
        &self,
        key: &RecordKey,
        id: u32,
        from: NodeId,
        answer: Acknowledgement,
    ) -> Option<Ended> {
        let shard = self.shard(key);
        let mut guard = shard.writes.lock();
        let writes = &mut guard.in_flight;
        let write = writes.get_mut(key).filter(|write| write.transaction_id == id)?;
        match answer {
            Acknowledgement::Stored => {}
            Acknowledgement::Refused => {
                write.resend_at = Instant::now() + REFUSED_PAUSE;
                return None;
            }
            Acknowledgement::Failed => {
                write.resend_at = Instant::now() + FAILED_PAUSE;
                return None;
            }
        }
        let place = write.unanswered.iter().position(|node| *node == from)?;
        write.answered.push(write.unanswered.swap_remove(place));
        if !write.unanswered.is_empty() {
            return None;
        }
        let write = writes.remove(key)?;
        Some(self.end(shard, write, false))
    }

    /// Sends again what is due, or all if the cluster has changed, and ends what is late.
    pub(super) fn resend(&self, namespaces: &[Arc<Namespace>], all: bool) -> Vec<Ended> {
        let (Some(links), now) = (self.links.get(), Instant::now()) else { return Vec::new() };
        let mut ended = Vec::new();
        for shard in self.shards.iter().filter(|_| self.count() != 0) {
            let mut guard = shard.writes.lock();
            let Writes { in_flight: writes, late: ended_late } = &mut *guard;
            ended_late.retain(|_, (_, at)| now < *at + LATE_KEPT);
            let mut over = Vec::new();
            for (key, write) in writes.iter_mut() {
                let late: Vec<Hold> =
                    write.holds.extract_if(.., |(_, until)| *until <= now).map(|(hold, _)| hold).collect();
                if !late.is_empty() {
                    ended.push(Ended { holds: late, waiting: Vec::new(), is_late: true });
                }
                if write.deadline <= now {
                    over.push((*key, true));
                } else if all || write.resend_at <= now {
                    write.refresh(*key, namespaces, &links.cluster);
                    if write.unanswered.is_empty() {
                        over.push((*key, false));
                    } else {
                        send(links, &write.unanswered, &write.message);
                        write.pause = (write.pause * 2).min(PAUSE_MAX);
                        write.resend_at = now + write.pause;
                    }
                }
            }
            for (key, is_late) in over {
                if is_late && let Some(write) = writes.get(&key) {
                    ended_late.insert(key, (write.transaction_id, now));
                }
                ended.extend(writes.remove(&key).map(|write| self.end(shard, write, is_late)));
            }
        }
        ended
    }
}

/// The server stops before all have answered: the write may last.
impl Drop for InFlight {
    fn drop(&mut self) {
        self.holds.drain(..).for_each(|(hold, _)| hold.time_out());
    }
}

impl InFlight {
    /// As the master in a later cluster, this node sends the write in the name of that one: replicas refuse those of others.
    /// A removal stays refused: it has no time by which a replica could see that what it has was written later.
    fn set_cluster(&mut self, cluster_key: ClusterKey) {
        let Ok(Replication { namespace_index, transaction_id, body }) = Replication::decode(&self.message)
        else {
            return;
        };
        if let ReplicationBody::ReplicaWrite { namespace, info, cluster_key: Some(former), subject } = body
            && former != cluster_key
            && matches!(subject, Subject::Record(_))
        {
            let cluster_key = Some(cluster_key);
            let body = ReplicationBody::ReplicaWrite { namespace, info, cluster_key, subject };
            let mut message = Vec::new();
            Replication { namespace_index, transaction_id, body }.encode(&mut message);
            self.message = message;
        }
    }

    /// The replicas may be others by now. While this node is not the master nobody new is asked.
    fn refresh(&mut self, key: RecordKey, namespaces: &[Arc<Namespace>], cluster: &Cluster) {
        let Some(namespace) = namespaces.get(key.namespace) else { return };
        let own = cluster.node_id;
        if let Some(nodes) = namespace.partitions.replicas_of_master(PartitionId::of(&key.digest), own) {
            let nodes = nodes.into_iter().map(NodeId).filter(|node| !self.answered.contains(node));
            self.unanswered = nodes.collect();
            self.set_cluster(ClusterKey(cluster.key()));
        }
    }
}

fn send(links: &Links, nodes: &[NodeId], message: &[u8]) {
    for node in nodes {
        // What is not answered is sent again.
        let _ = links.fabric.send(*node, Channel::ReadWrite, message);
    }
}
