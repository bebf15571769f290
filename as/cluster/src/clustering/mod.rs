//! Clustering: nodes that all see each other agree on a list of members and a cluster key.
//!
//! A node is an *orphan* (in no cluster), the *principal* (first of the *succession list*, the members in
//! descending order of ids) or a *non-principal*.
//! - An orphan asks a principal that it sees, or else the highest orphan of its clique, to let it join. If it
//!   is the highest itself, it waits for the others' requests and proposes a cluster with them at a quantum
//!   start.
//! - A principal proposes a new cluster at a quantum start. It leaves out members that departed (dead) or
//!   claim another cluster (faulty), and adds nodes that asked to join, provided that all see each other. If
//!   there is no such change, it moves its whole cluster to one with a higher principal that it sees, if all
//!   nodes of both see each other, or to one that most of its members prefer. If all other members are in
//!   another cluster, the principal did not run for some time, and becomes an orphan.
//! - A non-principal becomes an orphan when its principal departs, or when its principal's cluster excludes
//!   it.
//!
//! `paxos` has the rounds of agreement, `register` their outcome, `joining` an orphan's actions, and
//! `quantum` the times of quantum starts. Members tell each other when they have applied a change. When all
//! members have, the cluster has changed for a node ([`ClusteringAction::Changed`]).
//!
//! A node that finds that it did not run for longer than the node timeout becomes an orphan at once, because
//! other nodes have taken over its partitions. The C server continues to serve for some seconds in that case.

mod joining;
mod paxos;
mod quantum;
mod register;

use std::collections::{BTreeMap, BTreeSet};

use proto::peer::clustering::{Clustering as Message, ClusteringBody};
use proto::peer::heartbeat::ClusteringState;
use proto::peer::{ClusterKey, NodeId};

use crate::heartbeat::{Change, Heartbeat};
use crate::time::{Hlc, Now, Random, Timing};
use joining::Joining;
use paxos::{Acceptor, ProposalId, Proposer};
use quantum::{Fault, Quantum};
use register::Register;

/// The context of a step of clustering.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub now: Now,
    pub clock: &'a mut Hlc,
    pub random: &'a mut Random,
    pub heartbeat: &'a Heartbeat,
}

/// An input of clustering.
#[derive(Clone, Debug)]
pub enum ClusteringEvent<'a> {
    /// Occurs at least every [`Timing::TICK_MS`].
    Tick,
    /// Changes of the visible nodes.
    Seen(&'a [Change]),
    Message {
        from: NodeId,
        message: &'a Message,
    },
    /// The process did not run for longer than the node timeout.
    WokeUp,
    /// An operator requests a new key for the same cluster.
    Recluster,
}

/// An output of clustering.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClusteringAction {
    Send {
        to: NodeId,
        message: Message,
    },
    /// The node has learnt of a new cluster, which it announces in its pulses from now on.
    Learnt,
    /// All members have applied the cluster: exchange begins.
    Changed {
        cluster_key: ClusterKey,
        succession: Vec<NodeId>,
    },
    /// The node has left its cluster.
    Orphaned,
}

/// The clustering state of this node.
#[derive(Clone, Debug)]
pub struct Clustering {
    self_node: NodeId,
    timing: Timing,
    /// `min-cluster-size`.
    size_min: usize,
    register: Register,
    proposer: Proposer,
    acceptor: Acceptor,
    quantum: Quantum,
    joining: Joining,
    /// Nodes that have asked this node to join.
    join_requests: BTreeSet<NodeId>,
    /// The principal that this node would prefer.
    preferred_principal: NodeId,
    move_sent_ms: Option<u64>,
    has_integrity: bool,
    last_sync_check_ms: u64,
    /// Messages to this node itself, processed at the end of the step.
    to_self: Vec<Message>,
    actions: Vec<ClusteringAction>,
}

impl Clustering {
    /// A node starts as an orphan. With `forms_at_once` it does not wait for others before it forms its first cluster.
    #[must_use]
    pub fn new(self_node: NodeId, size_min: usize, timing: Timing, forms_at_once: bool, now: Now) -> Self {
        Clustering {
            self_node,
            timing,
            size_min,
            register: Register::new(),
            proposer: Proposer::new(),
            acceptor: Acceptor::new(),
            quantum: Quantum::new(now, &timing, forms_at_once),
            joining: Joining::new(now),
            join_requests: BTreeSet::new(),
            preferred_principal: NodeId::NONE,
            move_sent_ms: None,
            has_integrity: false,
            last_sync_check_ms: 0,
            to_self: Vec::new(),
            actions: Vec::new(),
        }
    }

    pub(crate) fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    pub(crate) fn set_size_min(&mut self, size_min: usize) {
        self.size_min = size_min;
    }

    /// The key of the cluster, 0 for an orphan.
    #[must_use]
    pub fn cluster_key(&self) -> ClusterKey {
        self.register.cluster_key
    }

    /// The members in descending order; none for an orphan.
    #[must_use]
    pub fn succession(&self) -> &[NodeId] {
        &self.register.succession
    }

    /// Whether the node has no cluster.
    #[must_use]
    pub fn is_orphan(&self) -> bool {
        self.register.is_orphan()
    }

    /// Whether all members were alive and agreed at this node's last quantum start as principal.
    #[must_use]
    pub fn has_integrity(&self) -> bool {
        self.has_integrity
    }

    /// Whether the node is principal of its cluster.
    #[must_use]
    pub fn is_principal(&self) -> bool {
        self.register.principal() == Some(self.self_node)
    }

    /// The state for pulses.
    #[must_use]
    pub fn state(&self) -> ClusteringState {
        ClusteringState {
            cluster_key: self.register.cluster_key,
            sequence: self.register.sequence,
            preferred_principal: self.preferred_principal,
            succession: self.register.succession.clone(),
        }
    }

    /// Processes one event; returns the actions.
    pub fn step(
        &mut self,
        event: ClusteringEvent<'_>,
        around: &mut Surroundings<'_>,
    ) -> Vec<ClusteringAction> {
        match event {
            ClusteringEvent::Tick => self.tick(around),
            ClusteringEvent::Seen(changes) => self.seen(changes, around),
            ClusteringEvent::Message { from, message } => self.message(from, message, around),
            ClusteringEvent::WokeUp => {
                self.proposer.fail();
                self.acceptor.reset();
                self.join_requests.clear();
                self.quantum = Quantum::new(around.now, &self.timing, false);
                self.become_orphan(around);
            }
            ClusteringEvent::Recluster => self.recluster(around),
        }
        // Messages to this node itself are processed in order; each may create more.
        while !self.to_self.is_empty() {
            for message in std::mem::take(&mut self.to_self) {
                self.message(self.self_node, &message, around);
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn send(&mut self, to: NodeId, body: ClusteringBody, around: &mut Surroundings<'_>) {
        let message = Message { send_time: around.clock.tick(around.now), body };
        if to == self.self_node {
            self.to_self.push(message);
        } else {
            self.actions.push(ClusteringAction::Send { to, message });
        }
    }

    fn send_all(&mut self, messages: Vec<(NodeId, ClusteringBody)>, around: &mut Surroundings<'_>) {
        for (to, body) in messages {
            self.send(to, body, around);
        }
    }

    fn tick(&mut self, around: &mut Surroundings<'_>) {
        let messages = self.proposer.tick(around.now, &self.timing);
        self.send_all(messages, around);
        let again = self.acceptor.tick(around.now, &self.timing);
        self.send_all(again.into_iter().collect(), around);
        self.sync(around);
        if !self.is_orphan() && self.register.succession.len() < self.size_min {
            self.become_orphan(around);
        }
        // Before all members have applied the cluster, its principal may not have learnt of it yet.
        if self.register.is_synced() && self.is_left_out(around) {
            self.become_orphan(around);
        }
        if self.is_orphan() {
            self.ask_to_join(around);
        }
        if let Some(is_skippable) = self.quantum.poll(around.now, &self.timing) {
            self.quantum_start(is_skippable, around);
            self.quantum.started(around.now);
        }
    }

    /// Checks pulses for members that have applied the change, in case their messages were lost.
    fn sync(&mut self, around: &Surroundings<'_>) {
        let interval_ms = self.timing.interval_ms.max(2 * self.timing.latency_ms);
        if self.register.is_synced() || self.last_sync_check_ms + interval_ms > around.now.monotonic_ms {
            return;
        }
        self.last_sync_check_ms = around.now.monotonic_ms;
        let (self_node, cluster_key) = (self.self_node, self.register.cluster_key);
        let succession = self.register.succession.clone();
        let freshest = around.now.monotonic_ms.saturating_sub(2 * self.timing.interval_ms);
        let is_done = self.register.sync(|node| {
            let shows =
                |state: &ClusteringState| state.cluster_key == cluster_key && state.succession == succession;
            let peer = around.heartbeat.peer(node);
            node == self_node
                || peer.is_some_and(|peer| peer.received_ms >= freshest && shows(&peer.clustering))
        });
        if is_done {
            self.synced();
        }
    }

    fn synced(&mut self) {
        self.proposer.applied_by_all();
        let (cluster_key, succession) = (self.register.cluster_key, self.register.succession.clone());
        self.actions.push(ClusteringAction::Changed { cluster_key, succession });
    }

    fn become_orphan(&mut self, around: &mut Surroundings<'_>) {
        let was_member = !self.is_orphan();
        self.register.become_orphan(around.now, around.clock.tick(around.now));
        self.preferred_principal = NodeId::NONE;
        self.has_integrity = false;
        if was_member {
            self.joining = Joining::new(around.now);
            self.actions.push(ClusteringAction::Orphaned);
        }
    }

    fn seen(&mut self, changes: &[Change], around: &mut Surroundings<'_>) {
        let now_ms = around.now.monotonic_ms;
        for change in changes {
            match *change {
                Change::Arrived(_) => self.quantum.fault(Fault::NodeArrived, now_ms, &self.timing),
                Change::Departed(node) => {
                    // The node departed when it sent its last pulse.
                    let at_ms = now_ms.saturating_sub(self.timing.node_timeout_ms());
                    self.quantum.fault(Fault::NodeDeparted, at_ms, &self.timing);
                    if self.register.principal() == Some(node) {
                        self.quantum.fault(Fault::PrincipalDeparted, at_ms, &self.timing);
                    }
                    self.proposer.departed(node);
                    self.join_requests.remove(&node);
                }
                Change::AdjacencyChanged(node) => {
                    if self.register.succession.contains(&node) {
                        self.quantum.fault(Fault::PeerAdjacencyChanged, now_ms, &self.timing);
                    }
                }
                Change::ClusteringChanged(node) => self.clustering_changed(node, around),
            }
        }
    }

    fn current_state<'a>(&self, node: NodeId, around: &Surroundings<'a>) -> Option<&'a ClusteringState> {
        self.state_of(node, around.heartbeat)
    }

    /// The clustering state in a peer's pulse, if it was sent after our last change.
    #[must_use]
    pub fn state_of<'a>(&self, node: NodeId, heartbeat: &'a Heartbeat) -> Option<&'a ClusteringState> {
        let peer = heartbeat.peer(node)?;
        let is_obsolete = self.register.is_obsolete(peer.send_time, peer.received_ms, &self.timing);
        (!is_obsolete).then_some(&peer.clustering)
    }

    fn clustering_changed(&mut self, node: NodeId, around: &mut Surroundings<'_>) {
        let Some(state) = self.current_state(node, around) else { return };
        let now_ms = around.now.monotonic_ms;
        if self.is_principal() {
            match state.succession.first() {
                Some(principal) if *principal > self.self_node => self.quantum.ignore_merge_candidates(),
                Some(principal) if *principal < self.self_node => {
                    self.quantum.fault(Fault::MergeCandidateSeen, now_ms, &self.timing);
                }
                None if self.register.succession.contains(&node) => {
                    self.quantum.fault(Fault::MemberOrphaned, now_ms, &self.timing);
                }
                _ => {}
            }
        } else if self.is_left_out(around) {
            self.become_orphan(around);
        }
    }

    fn quantum_start(&mut self, is_skippable: bool, around: &mut Surroundings<'_>) {
        if around.heartbeat.has_duplicate_id(around.now) {
            self.reject_all(around);
            self.become_orphan(around);
        } else if self.is_orphan() {
            self.join_or_form(around);
        } else if self.is_principal() {
            self.lead(is_skippable, around);
        } else {
            self.follow(around);
        }
    }

    /// Checks, as a member at a quantum start, that the principal is alive, and whether another principal is
    /// better.
    fn follow(&mut self, around: &mut Surroundings<'_>) {
        self.reject_all(around);
        let Some(principal) = self.register.principal() else { return };
        let mut clique: Vec<NodeId> = around.heartbeat.alive().chain([self.self_node]).collect();
        around.heartbeat.evict_from_clique(&mut clique);
        let highest = clique.iter().copied().max().unwrap_or_default();
        self.preferred_principal = if clique.contains(&principal) { NodeId::NONE } else { highest };
        if !around.heartbeat.is_alive(principal) || self.is_left_out(around) {
            self.become_orphan(around);
        }
    }

    /// Whether the principal's pulses name a cluster without this node.
    fn is_left_out(&self, around: &Surroundings<'_>) -> bool {
        let principal = self.register.principal().filter(|principal| *principal != self.self_node);
        let state = principal.and_then(|principal| self.current_state(principal, around));
        state.is_some_and(|state| !state.succession.contains(&self.self_node))
    }

    /// Whether a member's pulse claims another cluster, or none.
    fn is_faulty(&self, node: NodeId, around: &Surroundings<'_>) -> bool {
        let state = self.current_state(node, around);
        node != self.self_node
            && state.is_some_and(|state| !self.register.holds(state.cluster_key, &state.succession))
    }

    /// Decides, as the principal at a quantum start, whether and how the cluster changes.
    fn lead(&mut self, is_skippable: bool, around: &mut Surroundings<'_>) {
        let members = self.register.succession.clone();
        let is_dead = |node: &NodeId| !around.heartbeat.is_alive(*node);
        let dead = members.iter().filter(|node| is_dead(node)).count();
        let is_left = |node: &&NodeId| !is_dead(node) && !self.is_faulty(**node, around);
        let healthy: Vec<NodeId> = members.iter().filter(is_left).copied().collect();
        let faulty = members.len() - dead - healthy.len();
        self.has_integrity = dead == 0 && faulty == 0;
        let mut next = healthy;
        next.extend(self.orphans_that_asked(around));
        sort_succession(&mut next);
        let evicted = around.heartbeat.evict_from_clique(&mut next);
        let departures = [Fault::NodeArrived, Fault::NodeDeparted, Fault::PrincipalDeparted];
        let expects_more = dead != 0 && !self.quantum.has_seen(&departures)
            || !evicted.is_empty() && !self.quantum.has_seen(&[Fault::PeerAdjacencyChanged]);
        let mut has_proposed = false;
        if is_skippable && expects_more {
            // More faults of the same kind are expected.
            self.quantum.postpone();
        } else if self.has_integrity && (self.move_to_preferred(around) || self.merge(around)) {
            // The members will ask to join there.
        } else if next == members && faulty == 0 {
            // Nothing has changed.
        } else if faulty != 0 && next.len() == 1 {
            self.become_orphan(around);
        } else {
            has_proposed = self.propose(next.clone(), around);
        }
        self.join_requests
            .retain(|node| if has_proposed { !next.contains(node) } else { !members.contains(node) });
        self.reject_all(around);
    }

    /// Begins a round for these members. Returns whether it has begun.
    fn propose(&mut self, members: Vec<NodeId>, around: &mut Surroundings<'_>) -> bool {
        if members.len() < self.size_min {
            self.become_orphan(around);
            return false;
        }
        if self.proposer.is_active() {
            return false;
        }
        let sequence = around.clock.tick(around.now);
        let cluster_key = loop {
            let key = ClusterKey(around.random.next_u64() & ClusterKey::MASK);
            if !key.is_none() && key != self.register.cluster_key {
                break key;
            }
        };
        let messages = self.proposer.start(sequence, cluster_key, members, around.now);
        self.send_all(messages, around);
        true
    }

    /// Moves the cluster to a principal that more than half of the members prefer. Returns whether it did.
    fn move_to_preferred(&mut self, around: &mut Surroundings<'_>) -> bool {
        let mut votes: BTreeMap<NodeId, usize> = BTreeMap::new();
        for node in &self.register.succession {
            if let Some(state) = self.current_state(*node, around) {
                *votes.entry(state.preferred_principal).or_default() += 1;
            }
        }
        let majority = self.register.succession.len() / 2 + 1;
        let preferred = votes
            .into_iter()
            .find(|(node, votes)| !node.is_none() && *node != self.self_node && *votes >= majority);
        let Some((principal, _)) = preferred else { return false };
        self.send_move(principal, around);
        true
    }

    /// Merges the cluster into one with a higher principal, if all nodes of both see each other. Returns
    /// whether it did.
    fn merge(&mut self, around: &mut Surroundings<'_>) -> bool {
        let candidates = around.heartbeat.alive().filter(|node| {
            let Some(state) = self.current_state(*node, around) else { return false };
            if *node < self.self_node || state.succession.first() != Some(node) {
                return false;
            }
            let mut all: Vec<NodeId> = [self.succession(), state.succession.as_slice()].concat();
            sort_succession(&mut all);
            around.heartbeat.evict_from_clique(&mut all).is_empty()
        });
        let Some(principal) = candidates.max() else { return false };
        self.send_move(principal, around);
        true
    }

    fn send_move(&mut self, principal: NodeId, around: &mut Surroundings<'_>) {
        self.move_sent_ms = Some(around.now.monotonic_ms);
        let body = ClusteringBody::Move { cluster_key: self.register.cluster_key, principal };
        for member in self.register.succession.clone() {
            self.send(member, body.clone(), around);
        }
    }

    fn recluster(&mut self, around: &mut Surroundings<'_>) {
        let members = self.register.succession.clone();
        let is_whole =
            members.iter().all(|node| around.heartbeat.is_alive(*node) && !self.is_faulty(*node, around));
        if self.is_principal() && is_whole && self.register.is_synced() && self.join_requests.is_empty() {
            self.propose(members, around);
        }
    }

    fn message(&mut self, from: NodeId, message: &Message, around: &mut Surroundings<'_>) {
        match &message.body {
            ClusteringBody::JoinRequest => self.join_request(from, message.send_time, around),
            ClusteringBody::JoinReject => self.join_rejected(from, around),
            ClusteringBody::Move { cluster_key, principal } => {
                self.moved(from, *cluster_key, *principal, message.send_time, around);
            }
            ClusteringBody::ChangeApplied { cluster_key, succession } => {
                if self.register.applied_by(from, *cluster_key, succession, message.send_time) {
                    self.synced();
                }
            }
            ClusteringBody::Prepare { .. } | ClusteringBody::Accept { .. } => {
                let may_propose = self.may_propose(from);
                let answer = self.acceptor.proposal(from, &message.body, may_propose, around.now);
                self.send_all(answer.map(|body| (from, body)).into_iter().collect(), around);
            }
            ClusteringBody::Promise { .. }
            | ClusteringBody::PrepareNack { .. }
            | ClusteringBody::AcceptNack { .. }
            | ClusteringBody::Accepted { .. } => {
                let applied = (self.register.cluster_key, self.register.is_synced());
                let has_applied = |key| applied == (key, true);
                let messages = self.proposer.answer(from, &message.body, has_applied, around.now);
                self.send_all(messages, around);
            }
            ClusteringBody::Learn { sequence, cluster_key, succession } => {
                let id = ProposalId { sequence: *sequence, node: from };
                self.learn(id, *cluster_key, succession, around);
            }
        }
    }

    /// Whether a node's round is accepted: an orphan accepts rounds of any node, a member only those of its
    /// principal.
    fn may_propose(&self, node: NodeId) -> bool {
        self.register.principal().is_none_or(|principal| principal == node)
    }

    fn learn(
        &mut self,
        id: ProposalId,
        cluster_key: ClusterKey,
        succession: &[NodeId],
        around: &mut Surroundings<'_>,
    ) {
        let is_sound = !cluster_key.is_none()
            && succession.contains(&self.self_node)
            && succession.is_sorted_by(|left, right| left > right);
        let is_new = cluster_key != self.register.cluster_key;
        if !is_sound || !is_new || !self.may_propose(id.node) || !self.acceptor.may_learn(id) {
            return;
        }
        self.acceptor.reset();
        let time = around.clock.tick(around.now);
        self.register.apply(id.sequence, cluster_key, succession.to_vec(), around.now, time);
        self.preferred_principal = NodeId::NONE;
        self.has_integrity = true;
        self.joining = Joining::new(around.now);
        self.actions.push(ClusteringAction::Learnt);
        for member in succession {
            let body = ClusteringBody::ChangeApplied { cluster_key, succession: succession.to_vec() };
            self.send(*member, body, around);
        }
        if self.register.is_synced() {
            self.synced();
        }
    }

    /// Follows the principal's order to move to another cluster.
    fn moved(
        &mut self,
        from: NodeId,
        cluster_key: ClusterKey,
        principal: NodeId,
        send_time: u64,
        around: &mut Surroundings<'_>,
    ) {
        let is_obsolete = self.register.is_obsolete(send_time, around.now.monotonic_ms, &self.timing);
        let is_ours = self.register.principal() == Some(from) && self.register.cluster_key == cluster_key;
        if is_ours && !is_obsolete && !self.proposer.is_active() {
            self.become_orphan(around);
            self.ask_principal(Some(principal), around);
        }
    }
}

/// Sorts nodes into the order of a succession list.
fn sort_succession(nodes: &mut Vec<NodeId>) {
    nodes.sort_unstable_by(|left, right| right.cmp(left));
    nodes.dedup();
}
