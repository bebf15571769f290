//! Duplicate resolution: before a master reads or changes a record of which other nodes may have newer copies, it asks them.
//!
//! After a change of the cluster several nodes may have copies of a partition that have gone different ways, until they have
//! migrated to its master. Each of these *duplicates* is asked whether its copy is newer than the master's; the newest is stored
//! here, and then the transaction runs. While answers are awaited its request is parked. Nodes that do not answer are
//! asked again, until the time of the first request is over.
//!
//! What was resolved stays so until the cluster changes: only the master takes writes. So it is remembered.
//!
//! # Locks
//! One mutex for each shard; only outboxes of connections are locked under it. The caller holds no sprig lock.

use std::cmp::Ordering::Greater;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cluster::conflict::CopyAge;
use parking_lot::Mutex;
use proto::message::{Request, info1, info2};
use proto::peer::hello::Channel;
use proto::peer::replication::{OwnCopy, Replication, ReplicationBody};
use proto::peer::{NodeId, PeerError};
use smallvec::SmallVec;

use super::replicas::{PAUSE_MAX, age_of_copy, policy_of, take_copy};
use super::wait::RecordKey;
use super::{Call, OwnedRequest, TransactionContext, Wait};
use crate::config::Config;
use crate::config::params::namespace::ReadConsistencyLevel;
use crate::fabric::{Cluster, Fabric};
use crate::index::PartitionId;
use crate::metrics::{NamespaceCounter, Origin};
use crate::namespace::Namespace;

const SHARD_COUNT: usize = 64;
/// Resolved records that a shard remembers.
const RESOLVED_MAX: usize = 4096;

/// What waits for an answer.
pub(super) enum Asker {
    Request(OwnedRequest),
    /// Goes on when it is dropped.
    Other(Arc<dyn Send + Sync>),
}

struct Links {
    config: Arc<Config>,
    fabric: Arc<Fabric>,
    cluster: Arc<Cluster>,
}

/// A question that not all have answered.
struct Question {
    transaction_id: u32,
    message: Vec<u8>,
    unanswered: SmallVec<[NodeId; 2]>,
    /// The newest copy so far that is newer than ours.
    best: Option<(CopyAge, Vec<u8>)>,
    /// The cluster in which it was asked, by its number of rebalances.
    generation: u64,
    resend_at: Instant,
    pause: Duration,
    deadline: Instant,
    waiting: Vec<Asker>,
}

#[derive(Default)]
struct Shard {
    questions: HashMap<RecordKey, Question>,
    /// With the generation of the cluster in which they were resolved.
    resolved: HashMap<RecordKey, u64>,
}

/// The questions of a server, and what it knows from the answers.
pub(crate) struct Duplicates {
    shards: [Mutex<Shard>; SHARD_COUNT],
    count: AtomicUsize,
    last_id: AtomicUsize,
    links: OnceLock<Links>,
}

impl Call<'_> {
    /// What the transaction has to wait for if other nodes may have a newer copy of its record.
    #[inline]
    pub(super) fn wait_of_duplicates(&self) -> Option<Wait> {
        if !self.namespace.partitions.may_have_duplicates(PartitionId::of(&self.digest)) {
            return None;
        }
        // Queries only find partitions that have no duplicates.
        let is_of_query = matches!(self.origin, Origin::OpsSub | Origin::UdfSub);
        let key = self.record_key();
        let waits = !is_of_query && must_resolve(self.context, self.namespace, self.request, &key);
        waits.then_some(Wait::Duplicates(key))
    }
}

/// Whether a request for the record of `key` has to wait until it is known which copy is the newest.
#[cold]
pub(super) fn must_resolve(
    context: &TransactionContext,
    namespace: &Namespace,
    request: &Request<'_>,
    key: &RecordKey,
) -> bool {
    let params = &namespace.config().params;
    let asks = if request.info2 & info2::WRITE != 0 {
        !params.disable_write_dup_res.get()
    } else {
        match params.read_consistency_level_override.get() {
            ReadConsistencyLevel::All => true,
            ReadConsistencyLevel::One => false,
            ReadConsistencyLevel::Off => request.info1 & info1::CONSISTENCY_LEVEL_ALL != 0,
        }
    };
    let id = PartitionId::of(&key.digest);
    asks && namespace.partitions.may_have_duplicates(id) && context.duplicates.is_open(namespace, id, key)
}

impl Duplicates {
    pub(crate) fn new() -> Self {
        Duplicates {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            last_id: AtomicUsize::new(0),
            links: OnceLock::new(),
        }
    }

    /// Asks by `fabric` from now on.
    pub(super) fn connect(&self, config: &Arc<Config>, fabric: &Arc<Fabric>, cluster: &Arc<Cluster>) {
        let (config, fabric, cluster) = (Arc::clone(config), Arc::clone(fabric), Arc::clone(cluster));
        // A node joins others once.
        let _ = self.links.set(Links { config, fabric, cluster });
    }

    fn shard(&self, key: &RecordKey) -> &Mutex<Shard> {
        &self.shards[usize::from(key.digest.0[19]) % SHARD_COUNT]
    }

    /// Questions that are not answered.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether it is not known yet which copy of the record is the newest.
    pub(super) fn is_open(&self, namespace: &Namespace, id: PartitionId, key: &RecordKey) -> bool {
        let Some(links) = self.links.get() else { return false };
        let local = namespace.index.get(&key.digest).map(|guard| guard.last_update_time());
        // What was written for long after the rebalance was resolved then.
        if local.is_some_and(|time| time > namespace.partitions.duplicate_cutoff(id)) {
            return false;
        }
        let generation = links.cluster.rebalance_generation();
        self.shard(key).lock().resolved.get(key) != Some(&generation)
    }

    /// Has `asker` wait until it is known which copy of a record is the newest, and that is here.
    pub(super) fn ask(&self, context: &TransactionContext, key: RecordKey, asker: Asker) {
        let Some(links) = self.links.get() else { return context.go_on(asker) };
        let (namespace, id) = (&context.namespaces[key.namespace], PartitionId::of(&key.digest));
        // In this order: nodes of a later cluster only make it ask again.
        let generation = links.cluster.rebalance_generation();
        let nodes = namespace.partitions.duplicates(id);
        let own = namespace.index.get(&key.digest).map(|guard| OwnCopy {
            generation: guard.generation.into(),
            last_update_time: guard.last_update_time(),
        });
        let mut shard = self.shard(&key).lock();
        if nodes.is_empty() {
            shard.note_resolved(key, generation);
            drop(shard);
            return context.go_on(asker);
        }
        let mut waiting = vec![asker];
        match shard.questions.remove(&key) {
            Some(mut question) if question.generation == generation => {
                question.waiting.append(&mut waiting);
                shard.questions.insert(key, question);
                return;
            }
            Some(mut stale) => waiting.append(&mut stale.waiting),
            None => _ = self.count.fetch_add(1, AcqRel),
        }
        let transaction_id = self.last_id.fetch_add(1, Relaxed) as u32;
        let body = ReplicationBody::DuplicateRequest {
            namespace: namespace.name().as_bytes(),
            digest: key.digest,
            own,
        };
        let mut message = Vec::new();
        Replication { namespace_index: key.namespace as u32, transaction_id, body }.encode(&mut message);
        let service = &links.config.service;
        let (now, pause) =
            (Instant::now(), Duration::from_millis(service.transaction_retry_ms.get().max(1).into()));
        namespace.metrics.add(NamespaceCounter::DupResAsk, nodes.len() as u64);
        let question = Question {
            transaction_id,
            message,
            unanswered: nodes.into_iter().map(NodeId).collect(),
            best: None,
            generation,
            resend_at: now + pause,
            pause,
            deadline: now + Duration::from_millis(service.transaction_max_ms.get()),
            waiting,
        };
        links.send(&question);
        shard.questions.insert(key, question);
    }

    /// A node has answered, with its copy if that is newer. When it was the last, the newest copy is stored here and who
    /// waited goes on.
    ///
    /// # Errors
    /// When what it sent is no record.
    pub(super) fn answered(
        &self,
        context: &TransactionContext,
        (key, transaction_id): (RecordKey, u32),
        from: NodeId,
        copy: Option<&[u8]>,
    ) -> Result<(), PeerError> {
        let Some(namespace) = context.namespaces.get(key.namespace) else { return Ok(()) };
        let copy = copy.map(|bytes| age_of_copy(bytes).map(|age| (age, bytes))).transpose()?;
        let mut shard = self.shard(&key).lock();
        let question = shard.questions.get_mut(&key);
        let Some(question) = question.filter(|question| question.transaction_id == transaction_id) else {
            return Ok(());
        };
        let Some(place) = question.unanswered.iter().position(|node| *node == from) else { return Ok(()) };
        question.unanswered.swap_remove(place);
        if let Some((age, bytes)) = copy {
            let is_better = |best: &(CopyAge, Vec<u8>)| policy_of(namespace).compare(age, best.0) == Greater;
            if question.best.as_ref().is_none_or(is_better) {
                question.best = Some((age, bytes.to_vec()));
            }
        }
        if !question.unanswered.is_empty() {
            return Ok(());
        }
        let Some(question) = shard.questions.remove(&key) else { return Ok(()) };
        drop(shard);
        self.count.fetch_sub(1, AcqRel);
        if let Some((_, bytes)) = question.best {
            take_copy(namespace, PartitionId::of(&key.digest), &bytes)?;
        }
        self.shard(&key).lock().note_resolved(key, question.generation);
        question.waiting.into_iter().for_each(|asker| context.go_on(asker));
        Ok(())
    }

    /// Asks again who has not answered for long. What is late, or was asked in another cluster, is over: who waited looks
    /// again what to do.
    pub(super) fn resend(&self, context: &TransactionContext) {
        let Some(links) = self.links.get().filter(|_| self.count() != 0) else { return };
        let (now, generation) = (Instant::now(), links.cluster.rebalance_generation());
        for shard in &self.shards {
            let mut over = Vec::new();
            let mut locked = shard.lock();
            for (key, question) in &mut locked.questions {
                if question.deadline <= now || question.generation != generation {
                    over.push(*key);
                } else if question.resend_at <= now {
                    question.pause = (question.pause * 2).min(PAUSE_MAX);
                    question.resend_at = now + question.pause;
                    links.send(question);
                }
            }
            let over: Vec<_> = over.iter().filter_map(|key| locked.questions.remove(key)).collect();
            drop(locked);
            self.count.fetch_sub(over.len(), AcqRel);
            over.into_iter().flat_map(|question| question.waiting).for_each(|asker| context.go_on(asker));
        }
    }
}

impl Shard {
    fn note_resolved(&mut self, key: RecordKey, generation: u64) {
        if self.resolved.len() >= RESOLVED_MAX {
            // Who finds nothing asks again.
            self.resolved.clear();
        }
        self.resolved.insert(key, generation);
    }
}

impl Links {
    fn send(&self, question: &Question) {
        for node in &question.unanswered {
            // Who does not answer is asked again.
            let _ = self.fabric.send(*node, Channel::ReadWrite, &question.message);
        }
    }
}

impl TransactionContext {
    /// Has go on who waited for an answer.
    fn go_on(&self, asker: Asker) {
        match asker {
            Asker::Request(request) => self.pool.submit(request),
            Asker::Other(other) => drop(other),
        }
    }
}
