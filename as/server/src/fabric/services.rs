//! The other nodes that clients are told about: their addresses, and the generation of the list in which they
//! changed.
//!
//! Nodes send each other messages that are repeated until acknowledged. A node that has left stays in the
//! list as an *alumnus*, so that clients that ask for changes learn of its departure.
//!
//! # Locks
//! One mutex, held for a lookup or a change.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use proto::peer::NodeId;
use proto::peer::services::{Services, ServicesKind};

/// Time after which an unacknowledged message is sent again.
const RESEND_MS: u64 = 1000;
/// The addresses of a node never change while it runs.
const OWN_GENERATION: u32 = 1;

/// Fields of a services message.
pub(crate) const SERVICES: u16 = 2;
pub(crate) const SERVICES_ALTERNATE: u16 = 3;
pub(crate) const CLEAR_STANDARD: u16 = 4;
pub(crate) const TLS_STANDARD: u16 = 5;
pub(crate) const CLEAR_ALTERNATE: u16 = 6;
pub(crate) const TLS_ALTERNATE: u16 = 7;
pub(crate) const TLS_NAME: u16 = 8;

/// State of a node.
#[derive(Default)]
struct PeerServices {
    is_present: bool,
    /// Whether the node has sent its addresses.
    has_told: bool,
    /// Whether the node has acknowledged ours.
    has_heard: bool,
    /// Time to send to the node again.
    resend_at_ms: u64,
    /// The generation of the list in which the node last changed.
    generation: u64,
    texts: Vec<(u16, String)>,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeId, PeerServices>,
    generation: u64,
}

impl State {
    fn peer(&mut self, node: NodeId) -> &mut PeerServices {
        self.peers.entry(node).or_default()
    }
}

/// The list of other nodes.
#[derive(Default)]
pub(crate) struct PeerList(Mutex<State>);

/// A node of the list in an answer.
pub(crate) struct ListedPeer {
    pub(crate) node: u64,
    pub(crate) is_present: bool,
    /// The requested addresses.
    pub(crate) text: String,
    /// The name in the node's certificate; empty if the node does not use TLS with clients.
    pub(crate) tls_name: String,
}

impl PeerList {
    /// Sets the other members of the cluster.
    pub(super) fn set_members(&self, members: &[NodeId]) {
        let mut state = self.0.lock();
        let gone = state.peers.iter().filter(|(node, peer)| peer.is_present && !members.contains(node));
        let gone: Vec<NodeId> = gone.map(|(node, _)| *node).collect();
        let is_new = |node: &&NodeId| !state.peers.get(node).is_some_and(|peer| peer.is_present);
        let new: Vec<NodeId> = members.iter().filter(is_new).copied().collect();
        for (node, is_present) in
            gone.iter().map(|node| (*node, false)).chain(new.iter().map(|node| (*node, true)))
        {
            state.generation += 1;
            let generation = state.generation;
            let peer = state.peer(node);
            (peer.is_present, peer.generation) = (is_present, generation);
        }
    }

    /// Handles a message; returns the answer to it.
    pub(super) fn message(&self, from: NodeId, message: &Services) -> Option<Services> {
        let mut state = self.0.lock();
        // Only present and former members may add to the list.
        let is_known = state.peers.contains_key(&from) || state.peers.len() < usize::from(u16::MAX);
        if !is_known {
            return None;
        }
        let peer = state.peer(from);
        match message.kind {
            ServicesKind::Ack => {
                peer.has_heard = true;
                return None;
            }
            ServicesKind::UpdateRequest => (peer.has_heard, peer.resend_at_ms) = (false, 0),
            ServicesKind::Update => {}
        }
        peer.has_told = true;
        let text = |(id, bytes): &(u16, Vec<u8>)| (*id, String::from_utf8_lossy(bytes).into_owned());
        let texts: Vec<(u16, String)> = message.texts.iter().map(text).collect();
        if peer.texts != texts {
            peer.texts = texts;
            state.generation += 1;
            let generation = state.generation;
            state.peer(from).generation = generation;
        }
        Some(Services { kind: ServicesKind::Ack, generation: message.generation, texts: Vec::new() })
    }

    /// The messages that are due, with `own` addresses.
    pub(super) fn due(&self, own: &[(u16, Vec<u8>)], now_ms: u64) -> Vec<(NodeId, Services)> {
        let mut messages = Vec::new();
        for (node, peer) in &mut self.0.lock().peers {
            if !peer.is_present || peer.has_told && peer.has_heard || now_ms < peer.resend_at_ms {
                continue;
            }
            peer.resend_at_ms = now_ms + RESEND_MS;
            let kind = if peer.has_told { ServicesKind::Update } else { ServicesKind::UpdateRequest };
            messages.push((*node, Services { kind, generation: OWN_GENERATION, texts: own.to_vec() }));
        }
        messages
    }

    /// A number that changes when clients must ask for the other nodes again.
    pub(crate) fn generation(&self) -> u64 {
        self.0.lock().generation
    }

    /// The generation, and the nodes that have addresses in field `field` and changed after generation
    /// `since`: members of the cluster, and former ones if `with_alumni` is set.
    pub(crate) fn list(&self, field: u16, with_alumni: bool, since: u64) -> (u64, Vec<ListedPeer>) {
        let state = self.0.lock();
        let listed = state.peers.iter().filter_map(|(node, peer)| {
            let text_of =
                |field| peer.texts.iter().find(|(id, _)| *id == field).map(|(_, text)| text.clone());
            let (text, tls_name) = (text_of(field)?, text_of(TLS_NAME).unwrap_or_default());
            let is_listed = (peer.is_present || with_alumni) && peer.generation > since && !text.is_empty();
            is_listed.then_some(ListedPeer { node: node.0, is_present: peer.is_present, text, tls_name })
        });
        (state.generation, listed.collect())
    }

    /// Removes former nodes.
    pub(crate) fn forget_alumni(&self) {
        let mut state = self.0.lock();
        let before = state.peers.len();
        state.peers.retain(|_, peer| peer.is_present);
        state.generation += (before - state.peers.len()) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(port: u16) -> Vec<(u16, Vec<u8>)> {
        vec![(CLEAR_STANDARD, format!("10.0.0.1:{port}").into_bytes())]
    }

    #[test]
    fn nodes_tell_each_other_until_both_have_heard() {
        let (one, two) = (PeerList::default(), PeerList::default());
        one.set_members(&[NodeId(2)]);
        let [(to, request)] = &one.due(&own(1), 0)[..] else { panic!("one message") };
        assert_eq!((*to, request.kind), (NodeId(2), ServicesKind::UpdateRequest));
        assert!(one.due(&own(1), 999).is_empty());
        assert_eq!(one.due(&own(1), 1000).len(), 1);
        // The other node may not know of the cluster yet.
        let ack = two.message(NodeId(1), request).expect("an ack");
        assert!(two.due(&own(2), 0).is_empty());
        two.set_members(&[NodeId(1)]);
        assert_eq!(one.message(NodeId(2), &ack), None);
        let [(_, update)] = &two.due(&own(2), 0)[..] else { panic!("one message") };
        assert_eq!(update.kind, ServicesKind::Update);
        let ack = one.message(NodeId(2), update).expect("an ack");
        two.message(NodeId(1), &ack);
        assert!(one.due(&own(1), 9000).is_empty() && two.due(&own(2), 9000).is_empty());
        let (generation, listed) = one.list(CLEAR_STANDARD, false, 0);
        assert_eq!((generation, listed.len(), listed[0].text.as_str()), (2, 1, "10.0.0.1:2"));
    }

    #[test]
    fn a_request_for_changes_names_the_nodes_that_left() {
        let list = PeerList::default();
        list.set_members(&[NodeId(2), NodeId(3)]);
        for node in [2, 3] {
            let update = Services { kind: ServicesKind::Update, generation: 1, texts: own(node) };
            list.message(NodeId(node.into()), &update);
        }
        let (generation, listed) = list.list(CLEAR_STANDARD, true, 0);
        assert_eq!((generation, listed.len()), (4, 2));
        list.set_members(&[NodeId(3)]);
        assert_eq!(list.list(CLEAR_STANDARD, false, 0).1.len(), 1);
        let (_, changed) = list.list(CLEAR_STANDARD, true, generation);
        assert!(changed.len() == 1 && changed[0].node == 2 && !changed[0].is_present);
        list.forget_alumni();
        assert!(list.list(CLEAR_STANDARD, true, 0).1.len() == 1 && list.generation() == 6);
    }
}
