//! Writes on their way to replicas: which replicas have not acknowledged them, and which requests wait.
//!
//! A commit on the master sends the new record to the other replicas while the record's lock is held, and notes it
//! here. Its reply is [held](Hold) until all have answered. Other writers of the record wait in [line](super::line),
//! so that replicas get a record's writes in order. An unanswered write is sent again, to the nodes that are replicas
//! by then. At the deadline the client gets a timeout, although the write may persist.
//!
//! # Threads
//! `replica-resend` checks every few milliseconds which writes to send again.
//!
//! # Locks
//! One mutex for each shard. It may be taken under a sprig lock; only outboxes of connections are locked under it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::peer::replication::{Replication, ReplicationBody};
use proto::peer::{ClusterKey, NodeId};
use smallvec::SmallVec;

use super::line::Line;
use crate::fabric::{Cluster, Fabric};
use crate::index::PartitionId;
use crate::namespace::Namespace;
use crate::transaction::base::TransactionBase;
use crate::transaction::pending::{Links, Pending, PendingTable, REFUSED_PAUSE, Shard};
use crate::transaction::resent::SentFor;
use crate::transaction::wait::{HeldTurn, Hold, OwnedRequest, RecordKey};

/// Pause before a replica that could not store a write is asked again.
const FAILED_PAUSE: Duration = Duration::from_millis(50);
/// How long a write that ended late is remembered, so that a reply that begins to wait for it gets a timeout.
const LATE_KEPT: Duration = Duration::from_secs(60);
/// Maximum number of writes that are listed one by one.
const DESCRIBED_MAX: usize = 100;

/// State of a write on its way.
#[derive(Default)]
struct InFlight {
    answered: SmallVec<[NodeId; 2]>,
    /// The first request that waits for it.
    sent_for: Option<SentFor>,
    /// Held replies, with their deadlines.
    holds: Vec<(Hold, Instant)>,
}

/// When the server stops before all replicas have answered, the held replies become timeouts: the write may persist.
impl Drop for InFlight {
    fn drop(&mut self) {
        self.holds.drain(..).for_each(|(hold, _)| hold.time_out());
    }
}

/// The parties that waited for a write that has ended.
#[must_use]
pub(in crate::transaction) struct Ended {
    holds: Vec<Hold>,
    next: Option<OwnedRequest>,
    is_late: bool,
}

impl Ended {
    /// Releases the replies; `resume` gets the request that has the next turn.
    pub(in crate::transaction) fn release(self, resume: impl Fn(OwnedRequest)) {
        for hold in self.holds {
            if self.is_late { hold.time_out() } else { hold.end(&[]) }
        }
        self.next.into_iter().for_each(resume);
    }
}

/// The right to the next write of a record; dropping it gives it up.
struct RecordTurn {
    writes: Arc<ReplicaWrites>,
    key: RecordKey,
    number: u32,
}

impl HeldTurn for RecordTurn {
    fn is_for_lock(&self) -> bool {
        false
    }
}

impl Drop for RecordTurn {
    fn drop(&mut self) {
        self.writes.give_up(self);
    }
}

/// A replica's answer to a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acknowledgement {
    /// It has the write.
    Stored,
    /// It is not a replica yet, or does not know this cluster.
    Refused,
    /// It could not store the write, or has something newer.
    Failed,
}

/// The reason why a request does not queue for its turn.
pub(in crate::transaction) enum NotInLine {
    /// No write is on its way and nobody waits.
    Free(OwnedRequest),
    /// Too many requests wait.
    Full(OwnedRequest),
}

#[derive(Default)]
struct OfRecords {
    /// Writes that ended late before a reply came to wait for them: their transaction, and the time.
    late: HashMap<RecordKey, (u32, Instant)>,
    /// Waiting requests by record. They count like the writes.
    lines: HashMap<RecordKey, Line>,
}

type Writes = Shard<InFlight, OfRecords>;

impl Writes {
    fn is_busy(&self, key: &RecordKey) -> bool {
        self.pending.contains_key(key) || self.more.lines.contains_key(key)
    }
}

/// The writes of a server on their way to replicas.
pub(crate) struct ReplicaWrites(PendingTable<InFlight, OfRecords>);

impl ReplicaWrites {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(ReplicaWrites(PendingTable::new()))
    }

    /// Connects the table to `fabric`, which sends its messages from now on.
    pub(super) fn connect(&self, base: &TransactionBase, fabric: &Arc<Fabric>, cluster: &Arc<Cluster>) {
        self.0.connect(base, fabric, cluster);
    }

    pub(super) fn links(&self) -> Option<&Links> {
        self.0.links()
    }

    /// Number of writes on their way, and of records with waiting requests.
    pub(crate) fn count(&self) -> usize {
        self.0.count()
    }

    /// Whether a write of the record is on its way, or a waiting request has the next turn.
    #[inline]
    pub(in crate::transaction) fn is_busy(&self, key: &RecordKey) -> bool {
        self.0.count() != 0 && self.0.shard(key).is_busy(key)
    }

    /// Whether a write of the record is on its way; for the request that has the turn.
    pub(in crate::transaction) fn is_in_flight(&self, key: &RecordKey) -> bool {
        self.0.count() != 0 && self.0.shard(key).pending.contains_key(key)
    }

    /// The transaction id of the record's write that was just committed and sent; its reply [waits](Self::hold) for
    /// that write. `None` if all replicas have acknowledged it already.
    pub(in crate::transaction) fn sent(&self, key: &RecordKey) -> Option<u32> {
        let writes = self.0.shard(key);
        let on_its_way = writes.pending.get(key).map(|write| write.transaction_id);
        on_its_way.or_else(|| writes.more.late.get(key).map(|(id, _)| *id))
    }

    /// A line for each write on its way, and for each record with waiting writers; at most `DESCRIBED_MAX` of them.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for shard in self.0.shards() {
            for (key, write) in &shard.pending {
                let asked: Vec<String> =
                    write.unanswered.iter().map(|node| format!("{:x}", node.0)).collect();
                let asked = asked.join(" ");
                let waiting = shard.more.lines.get(key).map_or(0, Line::count);
                lines.push(format!("{} waits for {asked}, {waiting} writers wait for it", key.digest));
            }
            if lines.len() >= DESCRIBED_MAX {
                break;
            }
        }
        lines.truncate(DESCRIBED_MAX);
        lines
    }

    /// Whether a write of any record of a partition is on its way.
    pub(crate) fn has_any_of(&self, namespace: usize, partition: PartitionId) -> bool {
        let is_of = |key: &RecordKey| key.namespace == namespace && PartitionId::of(&key.digest) == partition;
        self.0.count() != 0 && self.0.shards().any(|writes| writes.pending.keys().any(is_of))
    }

    pub(super) fn new_id(&self) -> u32 {
        self.0.new_id()
    }

    /// Sends a write to the other replicas of its partition. The caller holds the record's sprig lock.
    pub(super) fn begin(&self, key: RecordKey, message: (u32, Vec<u8>), nodes: &[u64]) {
        let Some(links) = self.0.links() else { return };
        let mut write = Pending::new(links, message, nodes.iter().copied(), InFlight::default());
        let mut writes = self.0.shard(&key);
        match writes.pending.remove(&key) {
            // The record has been written again. Replies that wait for the former write now wait for this one, which
            // follows it.
            Some(mut former) => write.of.holds = std::mem::take(&mut former.of.holds),
            None => self.0.add(1),
        }
        // Noted before it is sent, because an answer may come at once.
        writes.pending.entry(key).or_insert(write).send(&key, links);
    }

    /// Makes a hold wait for a record's write with this `transaction_id`, or for a later one based on it; or ends the
    /// hold at once. It waits at most this many milliseconds; 0 = `transaction-max-ms`.
    pub(in crate::transaction) fn hold(
        &self,
        (key, transaction_id): (&RecordKey, u32),
        sent_for: SentFor,
        hold: Hold,
        time_max_ms: u32,
    ) {
        let mut writes = self.0.shard(key);
        match writes.pending.get_mut(key) {
            Some(write) => {
                let deadline = match time_max_ms {
                    0 => write.deadline,
                    own => Instant::now() + Duration::from_millis(own.into()),
                };
                // The write is sent again as long as a reply waits.
                write.deadline = write.deadline.max(deadline);
                write.of.sent_for.get_or_insert(sent_for);
                write.of.holds.push((hold, deadline));
            }
            None => {
                // The numbers wrap around.
                let is_of = |late: u32| late.wrapping_sub(transaction_id) < u32::MAX / 2;
                let is_late = writes.more.late.get(key).is_some_and(|(id, _)| is_of(*id));
                drop(writes);
                if is_late { hold.time_out() } else { hold.end(&[]) }
            }
        }
    }

    /// Queues a request for its turn to write a record; at most `limit` may wait, 0 = no limit.
    pub(in crate::transaction) fn park(
        &self,
        key: &RecordKey,
        request: OwnedRequest,
        limit: u32,
    ) -> Result<(), NotInLine> {
        let mut writes = self.0.shard(key);
        if !writes.is_busy(key) {
            return Err(NotInLine::Free(request));
        }
        let line = writes.more.lines.entry(*key).or_insert_with(|| {
            self.0.add(1);
            Line::default()
        });
        line.join(request, limit).map_err(NotInLine::Full)
    }

    /// Gives the turn to the first waiting request of a record without a write on its way.
    fn give_turn(self: &Arc<Self>, writes: &mut Writes, key: &RecordKey) -> Option<OwnedRequest> {
        let line = writes.more.lines.get_mut(key)?;
        let next = line.next().map(|request| {
            let number = self.0.new_id();
            line.turn = Some(number);
            request.in_turn(Box::new(RecordTurn { writes: Arc::clone(self), key: *key, number }))
        });
        if next.is_none() {
            writes.more.lines.remove(key);
            self.0.subtract(1);
        }
        next
    }

    /// Ends a turn: its holder has begun a write, or needs none.
    fn give_up(self: &Arc<Self>, turn: &RecordTurn) {
        let key = &turn.key;
        let mut writes = self.0.shard(key);
        let is_in_flight = writes.pending.contains_key(key);
        let Some(line) = writes.more.lines.get_mut(key) else { return };
        if line.turn != Some(turn.number) {
            return;
        }
        line.turn = None;
        let next = if is_in_flight && !line.is_empty() { None } else { self.give_turn(&mut writes, key) };
        drop(writes);
        if let (Some(request), Some(links)) = (next, self.0.links()) {
            links.resume(request);
        }
    }

    fn end(
        self: &Arc<Self>,
        writes: &mut Writes,
        key: &RecordKey,
        mut write: Pending<InFlight>,
        is_late: bool,
    ) -> Ended {
        self.0.subtract(1);
        let holds = std::mem::take(&mut write.of.holds).into_iter().map(|(hold, _)| hold).collect();
        // The holder of the turn is still working.
        let has_turn = writes.more.lines.get(key).is_some_and(|line| line.turn.is_some());
        let next = if has_turn { None } else { self.give_turn(writes, key) };
        Ended { holds, next, is_late }
    }

    /// Handles an answer of a replica.
    pub(super) fn answered(
        self: &Arc<Self>,
        key: &RecordKey,
        id: u32,
        from: NodeId,
        answer: Acknowledgement,
    ) -> Option<Ended> {
        let mut writes = self.0.shard(key);
        let write = writes.pending.get_mut(key).filter(|write| write.transaction_id == id)?;
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
        if !write.answered(from) {
            return None;
        }
        write.of.answered.push(from);
        if !write.unanswered.is_empty() {
            return None;
        }
        let write = writes.pending.remove(key)?;
        Some(self.end(&mut writes, key, write, false))
    }

    /// Sends due messages again, or all messages if the cluster has changed, and ends late writes.
    pub(super) fn resend(self: &Arc<Self>, namespaces: &[Arc<Namespace>], all: bool) -> Vec<Ended> {
        let (Some(links), now) = (self.0.links(), Instant::now()) else { return Vec::new() };
        let mut ended = Vec::new();
        for mut shard in self.0.shards() {
            let writes = &mut *shard;
            writes.more.late.retain(|_, (_, at)| now < *at + LATE_KEPT);
            let mut over = Vec::new();
            for (key, write) in &mut writes.pending {
                let holds = &mut write.of.holds;
                let late: Vec<Hold> =
                    holds.extract_if(.., |(_, until)| *until <= now).map(|(hold, _)| hold).collect();
                if !late.is_empty() {
                    ended.push(Ended { holds: late, next: None, is_late: true });
                }
                if write.deadline <= now {
                    over.push((*key, true));
                } else if all || write.resend_at <= now {
                    write.refresh(*key, namespaces, &links.cluster);
                    if write.unanswered.is_empty() {
                        over.push((*key, false));
                    } else {
                        write.send_again(key, links, now);
                        if let (Some(namespace), Some(sent_for)) =
                            (namespaces.get(key.namespace), write.of.sent_for)
                        {
                            namespace.metrics.add(sent_for.replica_write(), 1);
                        }
                    }
                }
            }
            for (key, is_late) in over {
                let Some(write) = writes.pending.remove(&key) else { continue };
                if is_late {
                    writes.more.late.insert(key, (write.transaction_id, now));
                }
                ended.push(self.end(writes, &key, write, is_late));
            }
        }
        ended
    }
}

impl Pending<InFlight> {
    /// Sets the key of the cluster in which this node is the master now, because replicas refuse other keys.
    fn set_cluster(&mut self, cluster_key: ClusterKey) {
        let Ok(Replication { namespace_index, transaction_id, body }) = Replication::decode(&self.message)
        else {
            return;
        };
        if let ReplicationBody::ReplicaWrite {
            namespace,
            info,
            cluster_key: Some(former),
            subject,
            removed_at,
        } = body
            && former != cluster_key
        {
            let cluster_key = Some(cluster_key);
            let body = ReplicationBody::ReplicaWrite { namespace, info, cluster_key, subject, removed_at };
            let mut message = Vec::new();
            Replication { namespace_index, transaction_id, body }.encode(&mut message);
            self.message = message;
        }
    }

    /// Updates the replicas, which may have changed. While this node is not the master, no further nodes are asked.
    fn refresh(&mut self, key: RecordKey, namespaces: &[Arc<Namespace>], cluster: &Cluster) {
        let Some(namespace) = namespaces.get(key.namespace) else { return };
        let own = cluster.node_id;
        if let Some(nodes) = namespace.partitions.replicas_of_master(PartitionId::of(&key.digest), own) {
            let nodes = nodes.into_iter().map(NodeId).filter(|node| !self.of.answered.contains(node));
            self.unanswered = nodes.collect();
            self.set_cluster(ClusterKey(cluster.key()));
        }
    }
}
