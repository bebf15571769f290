//! Duplicate resolution: if other nodes may have newer copies of a record, the master asks them before it reads or
//! changes the record.
//!
//! After a change of the cluster several nodes may have diverging copies of a partition, until these are migrated to
//! its master. The master asks each of these *duplicates* whether its copy of the record is newer. It stores the
//! newest copy, and then runs the transaction, whose request is parked meanwhile. Nodes that do not answer are asked
//! again, until the deadline of the first request.
//!
//! The result is remembered: a resolved record stays resolved until the cluster changes, because only the master
//! takes writes.
//!
//! # Locks
//! The locks of the [table](super::pending). The caller holds no sprig lock.

use std::cmp::Ordering::Greater;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use cluster::conflict::CopyAge;
use proto::message::{Request, info1, info2};
use proto::peer::replication::{OwnCopy, ReplicationBody};
use proto::peer::{NodeId, PeerError};

use super::base::TransactionBase;
use super::pending::{Pending, PendingTable, encoded};
use super::replicas::{age_of_copy, policy_of, take_copy, take_removal};
use super::resent::SentFor;
use super::wait::{OwnedRequest, RecordKey};
use crate::config::params::namespace::ReadConsistencyLevel;
use crate::fabric::{Cluster, Fabric};
use crate::index::{LockWait, PartitionId};
use crate::metrics::NamespaceCounter;
use crate::namespace::Namespace;

/// Maximum number of resolved records that a shard remembers.
const RESOLVED_MAX: usize = 4096;

/// The party that waits for an answer.
pub(super) enum Asker {
    Request(OwnedRequest),
    /// Resumes when it is dropped.
    Other(Arc<dyn Send + Sync>),
}

/// State of a question.
struct Question {
    /// The newest copy received so far, if it is newer than ours.
    best: Option<(CopyAge, Vec<u8>)>,
    /// The latest removal of the record known to other nodes, in milliseconds since 2010: earlier copies are ignored.
    removed_at: Option<u64>,
    /// Number of the last rebalance when it was asked.
    rebalance: u64,
    /// The first request that asked.
    sent_for: SentFor,
    waiting: Vec<Asker>,
}

/// Resolved records, with the number of the last rebalance at that time.
#[derive(Default)]
struct Resolved(HashMap<RecordKey, u64>);

impl Resolved {
    fn note(&mut self, key: RecordKey, rebalance: u64) {
        if self.0.len() >= RESOLVED_MAX {
            // A record that is forgotten here is only asked for again.
            self.0.clear();
        }
        self.0.insert(key, rebalance);
    }
}

/// The open questions of a server, and the resolved records.
pub(crate) struct Duplicates(PendingTable<Question, Resolved>);

impl Duplicates {
    pub(crate) fn new() -> Self {
        Duplicates(PendingTable::new())
    }

    /// Connects the table to `fabric`, which sends its messages from now on.
    pub(super) fn connect(&self, base: &TransactionBase, fabric: &Arc<Fabric>, cluster: &Arc<Cluster>) {
        self.0.connect(base, fabric, cluster);
    }

    /// Number of open questions.
    pub(crate) fn count(&self) -> usize {
        self.0.count()
    }

    /// Whether a request for the record of `key`, last updated at `local` if it exists here, must wait for duplicate
    /// resolution.
    #[cold]
    pub(super) fn must_resolve(
        &self,
        namespace: &Namespace,
        request: &Request<'_>,
        (key, local): (&RecordKey, Option<u64>),
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
        asks && namespace.partitions.may_have_duplicates(id) && self.is_open(namespace, id, (key, local))
    }

    /// Whether the newest copy of the record is not known yet.
    fn is_open(
        &self,
        namespace: &Namespace,
        id: PartitionId,
        (key, local): (&RecordKey, Option<u64>),
    ) -> bool {
        if self.0.links().is_none() {
            return false;
        }
        // Results from before the rebalance that made the duplicates are not valid.
        let (cutoff, rebalance) = namespace.partitions.duplicate_cutoff(id);
        // A record updated after the cutoff was written, and so resolved, since the rebalance.
        local.is_none_or(|time| time <= cutoff) && self.0.shard(key).more.0.get(key) != Some(&rebalance)
    }

    /// Makes `asker` wait until the newest copy of a record is known and stored here.
    pub(super) fn ask(&self, base: &TransactionBase, key: RecordKey, sent_for: SentFor, asker: Asker) {
        let Some(links) = self.0.links() else { return asker.go_on(base) };
        let (namespace, id) = (&base.namespaces[key.namespace], PartitionId::of(&key.digest));
        let (nodes, rebalance) = namespace.partitions.duplicates(id);
        // If another thread has the lock now, the question is sent without our version. The nodes then send their
        // copies, which are compared when they are stored.
        let found = namespace.index.get_within(&key.digest, LockWait::Spin).ok().flatten();
        let own = found.map(|guard| OwnCopy {
            generation: guard.generation.into(),
            last_update_time: guard.last_update_time(),
        });
        let mut shard = self.0.shard(&key);
        if nodes.is_empty() {
            shard.more.note(key, rebalance);
            drop(shard);
            return asker.go_on(base);
        }
        let mut waiting = vec![asker];
        match shard.pending.remove(&key) {
            Some(mut question) if question.of.rebalance == rebalance => {
                question.of.waiting.append(&mut waiting);
                shard.pending.insert(key, question);
                return;
            }
            Some(mut stale) => waiting.append(&mut stale.of.waiting),
            None => self.0.add(1),
        }
        let transaction_id = self.0.new_id();
        let body = ReplicationBody::DuplicateRequest {
            namespace: namespace.name().as_bytes(),
            digest: key.digest,
            own,
        };
        let message = encoded(key.namespace, transaction_id, body);
        namespace.metrics.add(NamespaceCounter::DupResAsk, nodes.len() as u64);
        let question = Question {
            best: None,
            // A record removed here must not come back from other nodes.
            removed_at: namespace.partitions.removed_at(&key.digest),
            rebalance,
            sent_for,
            waiting,
        };
        let question = Pending::new(links, (transaction_id, message), nodes, question);
        question.send(&key, links);
        shard.pending.insert(key, question);
    }

    /// Handles a node's answer: its copy if that is newer, and the time of the last removal that it knows of. After
    /// the last answer the newest copy is stored here, and the askers resume.
    ///
    /// # Errors
    /// When the answer holds no valid record.
    pub(super) fn answered(
        &self,
        base: &TransactionBase,
        (key, transaction_id): (RecordKey, u32),
        from: NodeId,
        (copy, removed_at): (Option<&[u8]>, Option<u64>),
    ) -> Result<(), PeerError> {
        let Some(namespace) = base.namespaces.get(key.namespace) else { return Ok(()) };
        let copy = copy.map(|bytes| age_of_copy(bytes).map(|age| (age, bytes))).transpose()?;
        let mut shard = self.0.shard(&key);
        let question = shard.pending.get_mut(&key);
        let Some(pending) = question.filter(|question| question.transaction_id == transaction_id) else {
            return Ok(());
        };
        if !pending.answered(from) {
            return Ok(());
        }
        let question = &mut pending.of;
        question.removed_at = question.removed_at.max(removed_at);
        let removed_at = question.removed_at;
        let counts = |age: &CopyAge| removed_at.is_none_or(|time| age.last_update_time >= time);
        question.best.take_if(|(age, _)| !counts(age));
        if let Some((age, bytes)) = copy.filter(|(age, _)| counts(age)) {
            let is_better = |best: &(CopyAge, Vec<u8>)| policy_of(namespace).compare(age, best.0) == Greater;
            if question.best.as_ref().is_none_or(is_better) {
                question.best = Some((age, bytes.to_vec()));
            }
        }
        if !pending.unanswered.is_empty() {
            return Ok(());
        }
        let Some(Pending { of: question, .. }) = shard.pending.remove(&key) else { return Ok(()) };
        drop(shard);
        self.0.subtract(1);
        let id = PartitionId::of(&key.digest);
        if let Some(removed_at) = question.removed_at {
            let _ = take_removal(namespace, id, &key.digest, removed_at)?;
        }
        if let Some((_, bytes)) = question.best {
            // Readers of the copy wait for the disk themselves.
            let _ = take_copy(namespace, id, &bytes, question.removed_at)?;
        }
        self.0.shard(&key).more.note(key, question.rebalance);
        question.waiting.into_iter().for_each(|asker| asker.go_on(base));
        Ok(())
    }

    /// Sends unanswered questions again when they are due. Drops questions past their deadline or from before the
    /// last rebalance: their askers then check again.
    pub(super) fn resend(&self, base: &TransactionBase) {
        let Some(links) = self.0.links().filter(|_| self.count() != 0) else { return };
        let now = Instant::now();
        let number = |namespace: &Arc<Namespace>| namespace.partitions.rebalance_number();
        let rebalances: Vec<u64> = base.namespaces.iter().map(number).collect();
        for mut shard in self.0.shards() {
            let is_over = |key: &RecordKey, question: &Pending<Question>| {
                question.deadline <= now || question.of.rebalance != rebalances[key.namespace]
            };
            let over: Vec<_> = shard
                .pending
                .extract_if(|key, question| is_over(key, question))
                .map(|(_, question)| question)
                .collect();
            for (key, question) in shard.pending.iter_mut().filter(|(_, question)| question.resend_at <= now)
            {
                question.send_again(key, links, now);
                base.namespaces[key.namespace].metrics.add(question.of.sent_for.question(), 1);
            }
            drop(shard);
            self.0.subtract(over.len());
            over.into_iter().flat_map(|question| question.of.waiting).for_each(|asker| asker.go_on(base));
        }
    }
}

impl Asker {
    /// Resumes it.
    fn go_on(self, base: &TransactionBase) {
        match self {
            Asker::Request(request) => base.submit_to_pool(request),
            Asker::Other(other) => drop(other),
        }
    }
}
