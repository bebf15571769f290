//! Exchange: after each change of the cluster every member tells all others which versions of which
//! partitions it has. When each has heard from all, the principal lets them rebalance.
//!
//! States: *resting* (balanced, or never in a cluster), *exchanging* (data is being sent), *awaiting writes*
//! (this node has all data, and writes under the old table are still to be applied), *ready to commit* (the
//! principal waits for others), *orphaned* (without a cluster).
//! - A node sends ExchangeData to all members until they acknowledge it, with growing pauses. When it has all
//!   data and all acknowledgements, it tells the principal. When all members have told it so, the principal
//!   sends *commit*, and a node that gets it rebalances at once.
//! - A node keeps messages for a cluster that it has not learnt of yet, the last two of each peer, and
//!   processes them later. The C server drops them and waits for the repetition.
//! - Different replication factors or incompatible members end the round; the data stays as it is until the
//!   next change of the cluster.
//! - An orphan continues with its old partitions for five quantum intervals, then freezes them.
//!
//! Between its *ready to commit* and its rebalance a node applies no writes ([`Exchange::holds_writes`]).
//! Other members may have rebalanced already, and a write under the old table that ends after one under the
//! new table would be lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::peer::exchange::{Exchange as Message, ExchangeBody, ExchangeData};
use proto::peer::{ClusterKey, NodeId};

use crate::time::{Now, Timing};

/// Members with an older compatibility id cannot take part.
const COMPATIBILITY_ID_MIN: u32 = 6;
/// Longest pause between repetitions.
const RESEND_MAX_MS: u64 = 30_000;
/// Messages kept per peer for a cluster that is not known yet.
const EARLY_MAX: usize = 2;

/// An output of exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExchangeAction {
    Send {
        to: NodeId,
        cluster_key: ClusterKey,
        body: ExchangeBody,
    },
    /// Rebalance with the data of all members.
    Commit(Committed),
    /// The node has been an orphan for too long and must serve nothing any more.
    Freeze,
    /// Report when no write that began under the old table is left to be applied.
    AwaitWrites,
    /// The members are incompatible.
    Abandoned(Unfit),
}

/// The outcome of a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    pub cluster_key: ClusterKey,
    pub succession: Vec<NodeId>,
    /// Indexed by member.
    pub data: BTreeMap<NodeId, ExchangeData>,
}

/// The reason why a round was abandoned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// A member is too old.
    Compatibility(NodeId),
    /// A namespace has different replication factors on different members.
    ReplicationFactor { namespace: Vec<u8> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ExchangeState {
    Resting,
    Exchanging,
    /// The node has all data, but writes that began under the old table are still to be applied.
    AwaitingWrites,
    ReadyToCommit,
    Orphaned {
        since_ms: u64,
        is_frozen: bool,
    },
}

/// The exchange state of one node.
#[derive(Clone, Debug)]
pub struct Exchange {
    self_node: NodeId,
    timing: Timing,
    state: ExchangeState,
    cluster_key: ClusterKey,
    succession: Vec<NodeId>,
    own: Option<ExchangeData>,
    received: BTreeMap<NodeId, ExchangeData>,
    acknowledged: BTreeSet<NodeId>,
    /// At the principal: the members that are ready.
    ready: BTreeSet<NodeId>,
    resend_at_ms: u64,
    resend_pause_ms: u64,
    /// The cluster of the last rebalance.
    committed: ClusterKey,
    /// Set when the node is about to send *ready to commit* for the first time after a rebalance, cleared by the next
    /// rebalance.
    holds_writes: bool,
    early: BTreeMap<NodeId, VecDeque<Message>>,
    actions: Vec<ExchangeAction>,
}

impl Exchange {
    /// Makes the state of a node that starts: an orphan that has never served.
    #[must_use]
    pub fn new(self_node: NodeId, timing: Timing) -> Self {
        Exchange {
            self_node,
            timing,
            state: ExchangeState::Orphaned { since_ms: 0, is_frozen: true },
            cluster_key: ClusterKey::NONE,
            succession: Vec::new(),
            own: None,
            received: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            ready: BTreeSet::new(),
            resend_at_ms: 0,
            resend_pause_ms: 0,
            committed: ClusterKey::NONE,
            holds_writes: false,
            early: BTreeMap::new(),
            actions: Vec::new(),
        }
    }

    pub(crate) fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// The key of the cluster of the last rebalance; 0 before that, and while partitions are frozen.
    #[must_use]
    pub fn committed_key(&self) -> ClusterKey {
        self.committed
    }

    /// Whether the partitions belong to the node's current cluster: migrations may run.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.state == ExchangeState::Resting
    }

    /// Whether writes must wait, because others may have rebalanced already.
    #[must_use]
    pub fn holds_writes(&self) -> bool {
        self.holds_writes
    }

    /// Sends this node's data to all members, because all have applied a cluster.
    pub fn cluster_changed(
        &mut self,
        cluster_key: ClusterKey,
        succession: Vec<NodeId>,
        own: ExchangeData,
        now: Now,
    ) -> Vec<ExchangeAction> {
        self.state = ExchangeState::Exchanging;
        self.cluster_key = cluster_key;
        self.succession = succession;
        self.received = BTreeMap::from([(self.self_node, own.clone())]);
        self.acknowledged = BTreeSet::from([self.self_node]);
        self.ready.clear();
        self.own = Some(own);
        self.resend_pause_ms = self.timing.exchange_resend_ms();
        self.send_data(now);
        let early = std::mem::take(&mut self.early);
        for (from, messages) in early {
            for message in messages.into_iter().filter(|message| message.cluster_key == cluster_key) {
                self.take(from, message.body, now);
            }
        }
        self.go_on(now);
        std::mem::take(&mut self.actions)
    }

    /// Notes that the node has lost its cluster. With `at_once` it stops serving immediately.
    pub fn orphaned(&mut self, at_once: bool, now: Now) -> Vec<ExchangeAction> {
        let is_frozen = matches!(self.state, ExchangeState::Orphaned { is_frozen: true, .. });
        self.state = ExchangeState::Orphaned { since_ms: now.monotonic_ms, is_frozen };
        self.cluster_key = ClusterKey::NONE;
        if at_once {
            self.freeze();
        }
        std::mem::take(&mut self.actions)
    }

    fn freeze(&mut self) {
        if let ExchangeState::Orphaned { since_ms, is_frozen: false } = self.state {
            self.state = ExchangeState::Orphaned { since_ms, is_frozen: true };
            self.committed = ClusterKey::NONE;
            self.holds_writes = false;
            self.actions.push(ExchangeAction::Freeze);
        }
    }

    /// Processes a message of another member.
    pub fn message(&mut self, from: NodeId, message: Message, now: Now) -> Vec<ExchangeAction> {
        let is_current = !self.cluster_key.is_none() && message.cluster_key == self.cluster_key;
        if is_current {
            self.take(from, message.body, now);
            self.go_on(now);
        } else if message.cluster_key != self.committed {
            let early = self.early.entry(from).or_default();
            early.retain(|other| other.cluster_key == message.cluster_key && other.body != message.body);
            early.push_back(message);
            if early.len() > EARLY_MAX {
                early.pop_front();
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// Drops the early messages of a node that has departed.
    pub fn departed(&mut self, node: NodeId) {
        self.early.remove(&node);
    }

    fn take(&mut self, from: NodeId, body: ExchangeBody, now: Now) {
        if !self.succession.contains(&from) {
            return;
        }
        let is_principal = self.succession.first() == Some(&self.self_node);
        match body {
            ExchangeBody::Data(data) => {
                self.send(from, ExchangeBody::DataAck);
                if self.state == ExchangeState::Exchanging {
                    self.received.insert(from, data);
                }
            }
            ExchangeBody::DataAck => {
                self.acknowledged.insert(from);
            }
            // A node may have lost the commit.
            ExchangeBody::ReadyToCommit if is_principal && self.state == ExchangeState::Resting => {
                self.send(from, ExchangeBody::Commit);
            }
            ExchangeBody::ReadyToCommit if is_principal => {
                self.ready.insert(from);
            }
            ExchangeBody::Commit if self.succession.first() == Some(&from) => self.commit(now),
            ExchangeBody::ReadyToCommit | ExchangeBody::Commit => {}
        }
    }

    fn send(&mut self, to: NodeId, body: ExchangeBody) {
        self.actions.push(ExchangeAction::Send { to, cluster_key: self.cluster_key, body });
    }

    fn send_data(&mut self, now: Now) {
        let Some(own) = self.own.clone() else { return };
        let left = self.succession.iter().filter(|node| !self.acknowledged.contains(node));
        for node in left.copied().collect::<Vec<_>>() {
            self.send(node, ExchangeBody::Data(own.clone()));
        }
        self.resend_at_ms = now.monotonic_ms + self.resend_pause_ms;
        self.resend_pause_ms = (self.resend_pause_ms * 2).min(RESEND_MAX_MS);
    }

    /// Advances the state as far as possible.
    fn go_on(&mut self, now: Now) {
        if self.state == ExchangeState::Exchanging {
            let has_all = self.succession.iter().all(|node| self.received.contains_key(node));
            let all_have = self.succession.iter().all(|node| self.acknowledged.contains(node));
            if has_all && all_have {
                if let Err(unfit) = self.check() {
                    self.state = ExchangeState::Orphaned { since_ms: now.monotonic_ms, is_frozen: false };
                    self.cluster_key = ClusterKey::NONE;
                    self.actions.push(ExchangeAction::Abandoned(unfit));
                    return;
                }
                self.state = ExchangeState::AwaitingWrites;
                self.holds_writes = !self.committed.is_none();
                self.actions.push(ExchangeAction::AwaitWrites);
            }
        }
        let all_ready = self.succession.iter().all(|node| self.ready.contains(node));
        if self.state == ExchangeState::ReadyToCommit && all_ready {
            for node in self.succession.clone() {
                if node != self.self_node {
                    self.send(node, ExchangeBody::Commit);
                }
            }
            self.commit(now);
        }
    }

    /// Notes that no write that began under the old table is left to be applied: the answer to the request
    /// made for the cluster with this key.
    pub fn writes_ended(&mut self, cluster_key: ClusterKey, now: Now) -> Vec<ExchangeAction> {
        if self.state == ExchangeState::AwaitingWrites && cluster_key == self.cluster_key {
            self.state = ExchangeState::ReadyToCommit;
            self.send_ready(now);
            self.go_on(now);
        }
        std::mem::take(&mut self.actions)
    }

    /// The key of the cluster whose data is being exchanged, or was exchanged last.
    #[must_use]
    pub fn cluster_key(&self) -> ClusterKey {
        self.cluster_key
    }

    fn send_ready(&mut self, now: Now) {
        self.resend_at_ms = now.monotonic_ms + self.timing.exchange_resend_ms();
        match self.succession.first().copied() {
            Some(principal) if principal == self.self_node => {
                self.ready.insert(principal);
            }
            Some(principal) => self.send(principal, ExchangeBody::ReadyToCommit),
            None => {}
        }
    }

    fn commit(&mut self, now: Now) {
        if self.state != ExchangeState::ReadyToCommit {
            return;
        }
        self.state = ExchangeState::Resting;
        self.committed = self.cluster_key;
        self.holds_writes = false;
        self.resend_at_ms = now.monotonic_ms;
        self.own = None;
        let data = std::mem::take(&mut self.received);
        let succession = self.succession.clone();
        self.actions.push(ExchangeAction::Commit(Committed {
            cluster_key: self.cluster_key,
            succession,
            data,
        }));
    }

    /// Checks that the members are compatible and agree on the replication factors.
    fn check(&self) -> Result<(), Unfit> {
        let old = self.received.iter().find(|(_, data)| data.compatibility_id < COMPATIBILITY_ID_MIN);
        if let Some((node, _)) = old {
            return Err(Unfit::Compatibility(*node));
        }
        let mut factors: BTreeMap<&[u8], u32> = BTreeMap::new();
        for namespace in self.received.values().flat_map(|data| &data.namespaces) {
            let first = *factors.entry(&namespace.name).or_insert(namespace.replication_factor);
            // Members before version 6.0 do not send the replication factor.
            let is_known = first != 0 && namespace.replication_factor != 0;
            if is_known && first != namespace.replication_factor {
                return Err(Unfit::ReplicationFactor { namespace: namespace.name.clone() });
            }
        }
        Ok(())
    }

    /// Repeats messages that are due, and freezes partitions when the node has been an orphan for too long.
    pub fn tick(&mut self, now: Now) -> Vec<ExchangeAction> {
        match self.state {
            ExchangeState::Exchanging if self.resend_at_ms <= now.monotonic_ms => self.send_data(now),
            ExchangeState::ReadyToCommit if self.resend_at_ms <= now.monotonic_ms => {
                self.send_ready(now);
                self.go_on(now);
            }
            ExchangeState::Orphaned { since_ms, is_frozen: false }
                if since_ms + self.timing.orphan_serves_ms() < now.monotonic_ms =>
            {
                self.freeze();
            }
            _ => {}
        }
        std::mem::take(&mut self.actions)
    }
}
