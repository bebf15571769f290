//! Joining: an orphan asks a principal or another orphan to let it join, and clusters accept or reject the
//! request.

use std::collections::BTreeMap;

use proto::peer::NodeId;
use proto::peer::clustering::ClusteringBody;

use super::quantum::Fault;
use super::{Clustering, Surroundings, sort_succession};
use crate::time::{Hlc, Now};

/// The state of an orphan's attempts to join.
#[derive(Clone, Debug)]
pub(super) struct Joining {
    orphan_since_ms: u64,
    /// The node asked last.
    asked: Option<NodeId>,
    asked_ms: u64,
    repeated_ms: u64,
    /// Nodes asked recently, and when.
    blackout: BTreeMap<NodeId, u64>,
}

/// The result of an attempt to join.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// A node has been asked.
    Asked,
    /// There is no node to ask.
    Nobody,
}

impl Joining {
    pub(super) fn new(now: Now) -> Self {
        Joining {
            orphan_since_ms: now.monotonic_ms,
            asked: None,
            asked_ms: 0,
            repeated_ms: 0,
            blackout: BTreeMap::new(),
        }
    }
}

impl Clustering {
    /// Lets an orphan join at a quantum start, or form a cluster if there is no node to ask or asking has failed
    /// for long.
    pub(super) fn join_or_form(&mut self, around: &mut Surroundings<'_>) {
        if self.proposer.is_active() {
            return;
        }
        let now_ms = around.now.monotonic_ms;
        let has_timed_out =
            self.joining.asked.is_some() && self.joining.asked_ms + self.timing.join_timeout_ms() < now_ms;
        let is_orphan_for_long =
            has_timed_out && self.joining.orphan_since_ms + self.timing.orphan_serves_ms() < now_ms;
        if is_orphan_for_long || self.try_to_join(around) == Attempt::Nobody {
            self.form(around);
        } else {
            self.reject_all(around);
        }
    }

    /// Lets an orphan ask to join between quantum starts.
    pub(super) fn ask_to_join(&mut self, around: &mut Surroundings<'_>) {
        let _ = self.try_to_join(around);
    }

    fn try_to_join(&mut self, around: &mut Surroundings<'_>) -> Attempt {
        let now_ms = around.now.monotonic_ms;
        let blackout_ms = self.timing.join_blackout_ms();
        self.joining.blackout.retain(|_, asked_ms| *asked_ms + blackout_ms >= now_ms);
        let asked = self.joining.asked.filter(|node| around.heartbeat.is_alive(*node));
        let is_waiting = self.joining.asked_ms + self.timing.join_timeout_ms() > now_ms;
        if let Some(asked) = asked.filter(|_| is_waiting) {
            if self.joining.repeated_ms + self.timing.join_resend_ms() < now_ms {
                self.joining.repeated_ms = now_ms;
                self.send(asked, ClusteringBody::JoinRequest, around);
            }
            return Attempt::Asked;
        }
        match self.ask_principal(None, around) {
            Attempt::Asked => Attempt::Asked,
            Attempt::Nobody => self.ask_highest_orphan(around),
        }
    }

    fn ask(&mut self, node: NodeId, around: &mut Surroundings<'_>) {
        let now_ms = around.now.monotonic_ms;
        self.joining.asked = Some(node);
        self.joining.asked_ms = now_ms;
        self.joining.repeated_ms = now_ms;
        self.joining.blackout.insert(node, now_ms);
        self.send(node, ClusteringBody::JoinRequest, around);
    }

    /// Asks a visible principal: the preferred one, or else the next after the one asked last.
    pub(super) fn ask_principal(
        &mut self,
        preferred: Option<NodeId>,
        around: &mut Surroundings<'_>,
    ) -> Attempt {
        let is_principal = |node: &NodeId| {
            let state = around.heartbeat.peer(*node).map(|peer| &peer.clustering);
            state.is_some_and(|state| state.succession.first() == Some(node))
        };
        let principals: Vec<NodeId> = around.heartbeat.alive().filter(is_principal).collect();
        if principals.is_empty() {
            self.joining.asked = None;
            return Attempt::Nobody;
        }
        let may_ask = |node: &&NodeId| !self.joining.blackout.contains_key(node);
        let eligible: Vec<NodeId> = principals.iter().filter(may_ask).copied().collect();
        let last = self.joining.asked.take();
        let after_last = eligible.iter().find(|node| last.is_some_and(|last| **node > last));
        let wanted = preferred.filter(|node| eligible.contains(node));
        let choice = wanted.or(after_last.copied()).or(eligible.first().copied());
        if let Some(choice) = choice {
            self.ask(choice, around);
        }
        // The node waits while all principals are in blackout.
        Attempt::Asked
    }

    fn ask_highest_orphan(&mut self, around: &mut Surroundings<'_>) -> Attempt {
        let blackout = &self.joining.blackout;
        let mut clique = orphans(around);
        clique.retain(|node| !blackout.contains_key(node));
        clique.push(self.self_node);
        around.heartbeat.evict_from_clique(&mut clique);
        match clique.iter().max() {
            Some(highest) if *highest != self.self_node => {
                self.ask(*highest, around);
                Attempt::Asked
            }
            _ => Attempt::Nobody,
        }
    }

    /// Whether a visible node still counts this node as a member of its cluster. After a quick restart, that
    /// node has not yet noticed that this one is an orphan. It will soon be an orphan too, or let this node
    /// join.
    fn is_missed(&self, around: &Surroundings<'_>) -> bool {
        let misses = |node| {
            let peer = around.heartbeat.peer(node);
            peer.is_some_and(|peer| peer.clustering.succession.contains(&self.self_node))
        };
        let waits_until_ms = self.joining.orphan_since_ms + self.timing.orphan_serves_ms();
        around.now.monotonic_ms < waits_until_ms && around.heartbeat.alive().any(misses)
    }

    /// Proposes a cluster with the orphans of this node's clique, if exactly these have asked to join.
    fn form(&mut self, around: &mut Surroundings<'_>) {
        if self.is_missed(around) {
            return self.reject_all(around);
        }
        let orphans = orphans(around);
        let mut members = orphans.clone();
        members.push(self.self_node);
        around.heartbeat.evict_from_clique(&mut members);
        sort_succession(&mut members);
        let mut expected: Vec<NodeId> = self.join_requests.iter().copied().chain([self.self_node]).collect();
        sort_succession(&mut expected);
        // A node that sees orphans, none of which fits into a clique with it, waits until they have a
        // cluster.
        let is_alone_among_orphans = !orphans.is_empty() && members.len() == 1;
        let is_highest = members.first() == Some(&self.self_node);
        if members == expected
            && !is_alone_among_orphans
            && is_highest
            && self.propose(members.clone(), around)
        {
            self.join_requests.retain(|node| !members.contains(node));
        }
        self.reject_all(around);
    }

    /// Nodes that have asked to join and whose pulses say that they are orphans.
    pub(super) fn orphans_that_asked(&self, around: &Surroundings<'_>) -> Vec<NodeId> {
        let asked = self.join_requests.iter().copied();
        asked.filter(|node| is_orphan(*node, around)).collect()
    }

    pub(super) fn reject_all(&mut self, around: &mut Surroundings<'_>) {
        for node in std::mem::take(&mut self.join_requests) {
            self.send(node, ClusteringBody::JoinReject, around);
        }
    }

    pub(super) fn join_request(&mut self, from: NodeId, send_time: u64, around: &mut Surroundings<'_>) {
        let now_ms = around.now.monotonic_ms;
        let has_moved = self.move_sent_ms.is_some_and(|sent_ms| sent_ms + self.timing.quantum_ms() > now_ms);
        let is_asking =
            self.joining.asked.is_some() && self.joining.asked_ms + self.timing.join_timeout_ms() >= now_ms;
        let may_take = self.is_principal() || self.is_orphan();
        if has_moved || !may_take || is_asking && self.is_orphan() {
            self.send(from, ClusteringBody::JoinReject, around);
            return;
        }
        // Both are hybrid logical times, so a wrong clock does no harm.
        let age_ms = Hlc::ms(around.clock.tick(around.now)).saturating_sub(Hlc::ms(send_time));
        if age_ms <= self.timing.join_age_max_ms() && self.join_requests.insert(from) {
            self.quantum.fault(Fault::JoinAccepted, now_ms, &self.timing);
        }
    }

    pub(super) fn join_rejected(&mut self, from: NodeId, around: &mut Surroundings<'_>) {
        if self.is_orphan() && !self.proposer.is_active() && self.joining.asked == Some(from) {
            self.joining.asked_ms = 0;
            self.joining.asked = None;
            self.ask_to_join(around);
        }
    }
}

fn is_orphan(node: NodeId, around: &Surroundings<'_>) -> bool {
    around.heartbeat.peer(node).is_some_and(|peer| peer.clustering.cluster_key.is_none())
}

/// The orphans that this node sees.
fn orphans(around: &Surroundings<'_>) -> Vec<NodeId> {
    around.heartbeat.alive().filter(|node| is_orphan(*node, around)).collect()
}
