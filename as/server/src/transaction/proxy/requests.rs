//! Requests of this node's clients that were passed on, or are to be tried again.
//!
//! # Threads
//! Any thread adds requests, fabric threads end them. The resend thread calls [`PassedOn::look_after`] every few
//! milliseconds.
//!
//! # Locks
//! One mutex for each shard, taken alone; outboxes of connections are locked under it. No reply is sent under it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use proto::ResultCode;
use proto::message::{Request, info2};
use proto::peer::hello::Channel;
use proto::peer::host_order::to_host_order;
use proto::peer::proxy::{Proxy, ProxyBody};
use proto::peer::{ClusterKey, NodeId};
use proto::reply::{self, ReplyHeader};

use crate::fabric::{Cluster, Fabric};
use crate::metrics::{Latency, Operation, Unit};
use crate::namespace::Namespace;
use crate::transaction::base::TransactionBase;
use crate::transaction::wait::OwnedRequest;

const SHARD_COUNT: usize = 16;
/// Maximum number of times that nodes may send a request back before this node checks it again.
const REDIRECTS_MAX: u32 = 3;

/// The place of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    /// Sent to this node, which has not answered.
    At(NodeId),
    /// At this node: no thread has begun to carry it out.
    Here,
}

struct Entry {
    request: OwnedRequest,
    namespace: usize,
    only_reads: bool,
    message: Vec<u8>,
    whereabouts: Whereabouts,
    redirects: u32,
    deadline: Instant,
}

/// Requests that were forwarded.
pub(crate) struct PassedOn {
    shards: [Mutex<HashMap<u32, Entry>>; SHARD_COUNT],
    count: AtomicUsize,
    last_id: AtomicU32,
    links: OnceLock<(Arc<Fabric>, Arc<Cluster>)>,
}

impl PassedOn {
    pub(crate) fn new() -> Self {
        PassedOn {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            last_id: AtomicU32::new(0),
            links: OnceLock::new(),
        }
    }

    /// Connects the table to `fabric`, which sends its messages from now on, to nodes of `cluster`.
    pub(super) fn connect(&self, fabric: &Arc<Fabric>, cluster: &Arc<Cluster>) {
        // A node joins others once, so the cell is empty.
        let _ = self.links.set((Arc::clone(fabric), Arc::clone(cluster)));
    }

    fn fabric(&self) -> Option<&Fabric> {
        self.links.get().map(|(fabric, _)| &**fabric)
    }

    /// Number of requests.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    fn shard(&self, id: u32) -> &Mutex<HashMap<u32, Entry>> {
        &self.shards[id as usize % SHARD_COUNT]
    }

    /// Forwards a request to `node`.
    pub(in crate::transaction) fn pass_on(
        &self,
        base: &TransactionBase,
        node: NodeId,
        request: OwnedRequest,
    ) {
        self.add(base, Some(node), request);
    }

    /// Tries a request again in a few milliseconds.
    pub(in crate::transaction) fn put_off(&self, base: &TransactionBase, request: OwnedRequest) {
        self.add(base, None, request);
    }

    fn add(&self, base: &TransactionBase, node: Option<NodeId>, request: OwnedRequest) {
        let id = self.last_id.fetch_add(1, Relaxed);
        // The body was parsed before, so it is valid and names a namespace and a record.
        let cluster_key = self.links.get().map(|(_, cluster)| ClusterKey(cluster.key()));
        let Some(entry) = new_entry(base, (id, cluster_key), request) else { return };
        self.count.fetch_add(1, AcqRel);
        let mut entries = self.shard(id).lock();
        // Noted before it is sent, because the answer may come at once.
        let entry = entries.entry(id).or_insert(entry);
        if let Some(node) = node {
            self.send(entry, node);
        }
    }

    /// Sends a request; if that fails, it is tried again.
    fn send(&self, entry: &mut Entry, node: NodeId) {
        let sent = self.fabric().map(|fabric| fabric.send_now(node, Channel::ReadWrite, &entry.message));
        entry.whereabouts = if sent == Some(Ok(())) { Whereabouts::At(node) } else { Whereabouts::Here };
    }

    fn take(&self, id: u32, at: NodeId) -> Option<Entry> {
        let mut entries = self.shard(id).lock();
        let is_there = entries.get(&id).is_some_and(|entry| entry.whereabouts == Whereabouts::At(at));
        let entry = if is_there { entries.remove(&id) } else { None };
        drop(entries);
        self.count.fetch_sub(usize::from(entry.is_some()), AcqRel);
        entry
    }

    /// Handles the answer of `from`; `frame` is for the client.
    pub(super) fn answered(&self, base: &TransactionBase, (from, id): (NodeId, u32), frame: Vec<u8>) {
        let Some(entry) = self.take(id, from) else { return };
        let namespace = &base.namespaces[entry.namespace];
        // The node that made the answer counts its result.
        entry.count(namespace, ResultCode::Ok);
        if namespace.config().params.enable_hist_proxy.get() {
            let unit = Unit::configured(&base.config);
            namespace.metrics.latency(Latency::Proxy).add(unit, entry.request.received.elapsed(), 1);
        }
        entry.request.sink.finish(frame);
    }

    /// Handles a request that `from` has sent back because it does not serve the partition either. `from` names
    /// `better` as the node that serves it.
    pub(super) fn returned(&self, (from, id): (NodeId, u32), better: NodeId, own: NodeId) {
        let mut entries = self.shard(id).lock();
        let Some(entry) = entries.get_mut(&id) else { return };
        if entry.whereabouts != Whereabouts::At(from) {
            return;
        }
        entry.redirects += 1;
        if better == own || better == from || entry.redirects > REDIRECTS_MAX {
            entry.whereabouts = Whereabouts::Here;
        } else {
            self.send(entry, better);
        }
    }

    /// Answers requests past their deadline, and writes that were sent to a node that is gone. Tries requests again
    /// that no node has begun to carry out, and reads that were sent to such a node.
    pub(in crate::transaction) fn look_after(&self, base: &TransactionBase) {
        let Some(fabric) = self.fabric() else { return };
        let now = Instant::now();
        for shard in self.shards.iter().filter(|_| self.count() != 0) {
            let mut entries = shard.lock();
            let is_lost = |entry: &Entry| match entry.whereabouts {
                Whereabouts::Here => true,
                Whereabouts::At(node) => !fabric.is_alive(node),
            };
            let found: Vec<Entry> = entries
                .extract_if(|_, entry| entry.deadline <= now || is_lost(entry))
                .map(|(_, entry)| entry)
                .collect();
            drop(entries);
            self.count.fetch_sub(found.len(), AcqRel);
            for entry in found {
                // It is unknown whether a node that is gone has carried a write out.
                let is_in_doubt = entry.whereabouts != Whereabouts::Here && !entry.only_reads;
                if entry.deadline <= now || is_in_doubt {
                    entry.time_out(base);
                } else {
                    base.submit_to_pool(entry.request);
                }
            }
        }
    }
}

/// A request that is not sent yet.
fn new_entry(
    base: &TransactionBase,
    (id, cluster_key): (u32, Option<ClusterKey>),
    request: OwnedRequest,
) -> Option<Entry> {
    let parsed = Request::parse(&request.body).ok()?;
    let digest = request.digest.or_else(|| parsed.record_digest())?;
    let namespace = base.namespace_of(&parsed)?.position();
    let frame = to_host_order(&request.body)?;
    let body = ProxyBody::Request { digest: Some(digest), frame: &frame, cluster_key };
    let mut message = Vec::new();
    Proxy { transaction_id: id, body }.encode(&mut message);
    Some(Entry {
        deadline: base.deadline_of(&parsed, &request),
        only_reads: parsed.info2 & info2::WRITE == 0,
        request,
        namespace,
        message,
        whereabouts: Whereabouts::Here,
        redirects: 0,
    })
}

impl Entry {
    fn count(&self, namespace: &Namespace, result: ResultCode) {
        namespace.metrics.count(self.request.origin, Operation::Proxy, result);
    }

    fn time_out(self, base: &TransactionBase) {
        self.count(&base.namespaces[self.namespace], ResultCode::Timeout);
        let mut reply = Vec::new();
        reply::write_header_only(&mut reply, &ReplyHeader::result(ResultCode::Timeout));
        self.request.sink.finish(reply);
    }
}
