//! Paxos: rounds of agreement about the members of the cluster, one decree at a time, in the steps prepare,
//! promise, accept, accepted, learn.
//!
//! The *proposer* is the principal, or the highest of a clique of orphans. All proposed members are
//! *acceptors*. A majority must promise and all must accept; then all learn the new cluster key and the
//! members. Sequence and node identify a proposal. The sequence is a hybrid logical time, so later ones are
//! higher. An acceptor promises only proposals that are higher than all it has seen. A nack, the departure of
//! an acceptor, or a timeout ends the round, and the next quantum begins another. Messages are repeated until
//! answered; the learn message, which carries the value, is repeated until all members have applied it.

use std::collections::BTreeSet;

use proto::peer::clustering::ClusteringBody;
use proto::peer::{ClusterKey, NodeId};

use crate::time::{Now, Timing};

/// The id of a proposal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct ProposalId {
    pub(super) sequence: u64,
    pub(super) node: NodeId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ProposerState {
    /// No round is under way, or the last one has succeeded.
    Idle,
    PrepareSent,
    AcceptSent,
}

/// The proposing side of a round.
#[derive(Clone, Debug)]
pub(super) struct Proposer {
    state: ProposerState,
    sequence: u64,
    cluster_key: ClusterKey,
    members: Vec<NodeId>,
    promised: BTreeSet<NodeId>,
    accepted: BTreeSet<NodeId>,
    started_ms: u64,
    sent_ms: u64,
    /// The round has succeeded, but not all members have applied it yet.
    repeats_learn: bool,
}

impl Proposer {
    pub(super) fn new() -> Self {
        Proposer {
            state: ProposerState::Idle,
            sequence: 0,
            cluster_key: ClusterKey::NONE,
            members: Vec::new(),
            promised: BTreeSet::new(),
            accepted: BTreeSet::new(),
            started_ms: 0,
            sent_ms: 0,
            repeats_learn: false,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.state != ProposerState::Idle
    }

    /// Begins a round and sends the prepare to all members.
    pub(super) fn start(
        &mut self,
        sequence: u64,
        cluster_key: ClusterKey,
        members: Vec<NodeId>,
        now: Now,
    ) -> Vec<(NodeId, ClusteringBody)> {
        debug_assert!(!self.is_active(), "one round at a time");
        *self = Proposer {
            state: ProposerState::PrepareSent,
            sequence,
            cluster_key,
            members,
            started_ms: now.monotonic_ms,
            ..Proposer::new()
        };
        self.send(now)
    }

    /// Sends this state's message to the nodes that have not answered.
    fn send(&mut self, now: Now) -> Vec<(NodeId, ClusteringBody)> {
        self.sent_ms = now.monotonic_ms;
        let sequence = self.sequence;
        let (body, answered) = match self.state {
            ProposerState::PrepareSent => (ClusteringBody::Prepare { sequence }, &self.promised),
            ProposerState::AcceptSent => (ClusteringBody::Accept { sequence }, &self.accepted),
            ProposerState::Idle => (self.learn(), &BTreeSet::new()),
        };
        let left = self.members.iter().filter(|member| !answered.contains(member));
        left.map(|member| (*member, body.clone())).collect()
    }

    fn learn(&self) -> ClusteringBody {
        ClusteringBody::Learn {
            sequence: self.sequence,
            cluster_key: self.cluster_key,
            succession: self.members.clone(),
        }
    }

    pub(super) fn fail(&mut self) {
        *self = Proposer::new();
    }

    /// Notes that all members have applied the round.
    pub(super) fn applied_by_all(&mut self) {
        self.repeats_learn = false;
    }

    pub(super) fn departed(&mut self, node: NodeId) {
        if self.is_active() && self.members.contains(&node) {
            self.fail();
        }
    }

    pub(super) fn tick(&mut self, now: Now, timing: &Timing) -> Vec<(NodeId, ClusteringBody)> {
        if self.is_active() && self.started_ms + timing.proposal_timeout_ms() <= now.monotonic_ms {
            self.fail();
        }
        let repeats = self.is_active() || self.repeats_learn;
        if repeats && self.sent_ms + timing.paxos_resend_ms() < now.monotonic_ms {
            return self.send(now);
        }
        Vec::new()
    }

    /// Processes an acceptor's answer. `has_applied` tells whether this node has already applied this round.
    pub(super) fn answer(
        &mut self,
        from: NodeId,
        body: &ClusteringBody,
        has_applied: impl Fn(ClusterKey) -> bool,
        now: Now,
    ) -> Vec<(NodeId, ClusteringBody)> {
        let (ClusteringBody::Promise { sequence }
        | ClusteringBody::PrepareNack { sequence }
        | ClusteringBody::Accepted { sequence }
        | ClusteringBody::AcceptNack { sequence }) = body
        else {
            return Vec::new();
        };
        if *sequence != self.sequence || !self.members.contains(&from) {
            return Vec::new();
        }
        match (body, self.state) {
            (ClusteringBody::Promise { .. }, ProposerState::PrepareSent) => {
                self.promised.insert(from);
                if self.promised.len() > self.members.len() / 2 {
                    self.state = ProposerState::AcceptSent;
                    return self.send(now);
                }
            }
            (ClusteringBody::PrepareNack { .. }, ProposerState::PrepareSent)
            | (ClusteringBody::AcceptNack { .. }, ProposerState::AcceptSent) => self.fail(),
            (ClusteringBody::Accepted { .. }, ProposerState::AcceptSent) => {
                self.accepted.insert(from);
                if self.accepted.len() == self.members.len() {
                    self.state = ProposerState::Idle;
                    self.repeats_learn = true;
                    return self.send(now);
                }
            }
            // A member has missed the learn message and still waits for it.
            (ClusteringBody::Accepted { .. }, ProposerState::Idle)
                if self.repeats_learn && !has_applied(self.cluster_key) =>
            {
                return vec![(from, self.learn())];
            }
            _ => {}
        }
        Vec::new()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AcceptorState {
    Idle,
    Promised,
    Accepted,
}

/// The voting side of a round.
#[derive(Clone, Debug)]
pub(super) struct Acceptor {
    state: AcceptorState,
    last: ProposalId,
    started_ms: u64,
    sent_ms: u64,
}

impl Acceptor {
    pub(super) fn new() -> Self {
        Acceptor { state: AcceptorState::Idle, last: ProposalId::default(), started_ms: 0, sent_ms: 0 }
    }

    /// Processes a prepare or accept message. `may_propose` tells that the sender is this node's principal,
    /// or that this node is an orphan.
    pub(super) fn proposal(
        &mut self,
        from: NodeId,
        body: &ClusteringBody,
        may_propose: bool,
        now: Now,
    ) -> Option<ClusteringBody> {
        match *body {
            ClusteringBody::Prepare { sequence } => {
                let id = ProposalId { sequence, node: from };
                let is_repeated = id == self.last && self.state == AcceptorState::Promised;
                if !may_propose || !(id > self.last || is_repeated) {
                    return Some(ClusteringBody::PrepareNack { sequence });
                }
                if !is_repeated {
                    self.take(id, AcceptorState::Promised, now);
                }
                self.sent_ms = now.monotonic_ms;
                Some(ClusteringBody::Promise { sequence })
            }
            ClusteringBody::Accept { sequence } => {
                let id = ProposalId { sequence, node: from };
                if !may_propose || id < self.last {
                    return Some(ClusteringBody::AcceptNack { sequence });
                }
                let started_ms = if id == self.last { self.started_ms } else { now.monotonic_ms };
                self.take(id, AcceptorState::Accepted, now);
                self.started_ms = started_ms;
                self.sent_ms = now.monotonic_ms;
                Some(ClusteringBody::Accepted { sequence })
            }
            _ => None,
        }
    }

    fn take(&mut self, id: ProposalId, state: AcceptorState, now: Now) {
        self.last = id;
        self.state = state;
        self.started_ms = now.monotonic_ms;
    }

    /// Whether a learn message belongs to the accepted proposal.
    pub(super) fn may_learn(&self, id: ProposalId) -> bool {
        self.state == AcceptorState::Accepted && self.last == id
    }

    /// Ends the round.
    pub(super) fn reset(&mut self) {
        self.state = AcceptorState::Idle;
    }

    pub(super) fn tick(&mut self, now: Now, timing: &Timing) -> Option<(NodeId, ClusteringBody)> {
        if self.state == AcceptorState::Idle {
            return None;
        }
        if self.started_ms + timing.proposal_timeout_ms() <= now.monotonic_ms {
            self.reset();
            return None;
        }
        if self.sent_ms + timing.paxos_resend_ms() >= now.monotonic_ms {
            return None;
        }
        self.sent_ms = now.monotonic_ms;
        let sequence = self.last.sequence;
        let body = match self.state {
            AcceptorState::Promised => ClusteringBody::Promise { sequence },
            _ => ClusteringBody::Accepted { sequence },
        };
        Some((self.last.node, body))
    }
}
