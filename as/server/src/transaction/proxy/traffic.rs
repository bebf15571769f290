//! Proxy messages of other nodes: requests of their clients, which are carried out here, and answers to those of ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use cf::Digest;
use proto::ResultCode;
use proto::frame::{FrameHeader, FrameType, HEADER_SIZE};
use proto::message::{Request, info1};
use proto::peer::hello::Channel;
use proto::peer::host_order::from_host_order;
use proto::peer::proxy::{Proxy, ProxyBody};
use proto::peer::{ClusterKey, NodeId, PeerError};
use proto::reply::{self, ReplyHeader};

use crate::fabric::{Cluster, Fabric, Handler};
use crate::metrics::{Origin, ServerCounter};
use crate::transaction::{OwnedRequest, ReplySink, SinkClosed, TransactionContext};

/// Handles the proxy messages of other nodes.
pub(crate) struct ProxyTraffic {
    context: Arc<TransactionContext>,
    fabric: Arc<Fabric>,
    cluster: Arc<Cluster>,
}

impl Handler for ProxyTraffic {
    fn take(&self, from: NodeId, message: &[u8]) {
        if let Err(error) = self.taken(from, message) {
            cf::warning_limited!(Proxy, "message of node {from} dropped: {error}");
        }
    }
}

impl ProxyTraffic {
    pub(crate) fn new(
        context: &Arc<TransactionContext>,
        fabric: &Arc<Fabric>,
        cluster: &Arc<Cluster>,
    ) -> Arc<Self> {
        context.passed_on.connect(fabric, cluster);
        let (context, fabric, cluster) = (Arc::clone(context), Arc::clone(fabric), Arc::clone(cluster));
        Arc::new(ProxyTraffic { context, fabric, cluster })
    }

    fn taken(&self, from: NodeId, message: &[u8]) -> Result<(), PeerError> {
        let Proxy { transaction_id, body } = Proxy::decode(message)?;
        match body {
            ProxyBody::Request { digest, frame, cluster_key } => {
                self.requested((from, transaction_id), (digest, frame), cluster_key);
            }
            ProxyBody::Response { frame } => {
                let frame = checked_reply(frame);
                self.context.passed_on.answered(&self.context, (from, transaction_id), frame);
            }
            ProxyBody::ReturnToSender { node } => {
                let own = self.fabric.self_node();
                self.context.passed_on.returned((from, transaction_id), node, own);
            }
        }
        Ok(())
    }

    /// Carries out a request of another node's client, if that node is in the same cluster.
    fn requested(
        &self,
        (from, transaction_id): (NodeId, u32),
        (digest, frame): (Option<Digest>, &[u8]),
        cluster_key: Option<ClusterKey>,
    ) {
        let asker = Asker {
            fabric: Arc::clone(&self.fabric),
            node: from,
            transaction_id,
            is_answered: AtomicBool::new(false),
        };
        let is_of_other = cluster_key.is_some_and(|key| key.0 != self.cluster.key());
        if !self.cluster.is_balanced() || is_of_other {
            asker.send_back(from);
            return;
        }
        let body = from_host_order(frame).ok();
        let parsed = body.as_deref().and_then(|body| Request::parse(body).ok());
        let (Some(body), Some(request), Some(digest)) = (&body, parsed, digest) else {
            cf::warning_limited!(Proxy, "node {from} forwards a message that is not a request");
            return asker.refuse(ResultCode::Unknown);
        };
        if request.info1 & info1::BATCH != 0 {
            return asker.refuse(ResultCode::Parameter);
        }
        // Rows of batches come without a digest: see `batch_elsewhere.rs`.
        let is_row = request.digest.is_none();
        if self.context.known_namespace(&request).is_none() {
            let counter = if is_row {
                ServerCounter::EarlyTsvcFromProxyBatchSubError
            } else {
                ServerCounter::EarlyTsvcFromProxyError
            };
            self.context.metrics.add(counter, 1);
            return asker.refuse(ResultCode::Namespace);
        }
        let origin = if is_row { Origin::FromProxyBatchSub } else { Origin::FromProxy };
        let request = OwnedRequest::new(body, Instant::now(), Arc::new(asker));
        self.context.submit_to_pool(request.of(origin, Some(digest)));
    }
}

/// The reply to a proxied request in the form for its client: exactly one frame.
fn checked_reply(frame: &[u8]) -> Vec<u8> {
    let is_whole = FrameHeader::parse(frame).ok().flatten().is_some_and(|header| {
        matches!(header.frame_type, FrameType::Message | FrameType::CompressedMessage)
            && header.body_size == frame.len() - HEADER_SIZE
    });
    if is_whole {
        return frame.to_vec();
    }
    cf::warning_limited!(
        Proxy,
        "another node answers a forwarded request with a message that is not a reply"
    );
    refusal(ResultCode::Unknown)
}

fn refusal(result: ResultCode) -> Vec<u8> {
    let mut reply = Vec::new();
    reply::write_header_only(&mut reply, &ReplyHeader::result(result));
    reply
}

/// The node that forwarded a request; the reply goes to it.
struct Asker {
    fabric: Arc<Fabric>,
    node: NodeId,
    transaction_id: u32,
    is_answered: AtomicBool,
}

impl Asker {
    fn send(&self, body: ProxyBody<'_>) {
        self.is_answered.store(true, Relaxed);
        let mut message = Vec::new();
        Proxy { transaction_id: self.transaction_id, body }.encode(&mut message);
        // If the message is lost, the client gets a timeout.
        let _ = self.fabric.send(self.node, Channel::ReadWrite, &message);
    }

    fn send_back(&self, better: NodeId) {
        self.send(ProxyBody::ReturnToSender { node: better });
    }

    fn refuse(&self, result: ResultCode) {
        self.send(ProxyBody::Response { frame: &refusal(result) });
    }
}

impl ReplySink for Asker {
    fn send(&self, _: Vec<u8>) -> Result<(), SinkClosed> {
        // A request for one record has one reply frame.
        Err(SinkClosed)
    }

    fn post(&self, _: Vec<u8>) {}

    fn finish(&self, frames: Vec<u8>) {
        Asker::send(self, ProxyBody::Response { frame: &frames });
    }

    fn send_back(&self, better: NodeId) -> bool {
        Asker::send_back(self, better);
        true
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if !*self.is_answered.get_mut() {
            self.refuse(ResultCode::Unknown);
        }
    }
}
