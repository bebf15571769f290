//! Proxied requests: those of this node's clients that other nodes carry out, and those that other nodes pass on to
//! this one. `proto::peer::proxy` describes the messages.
//!
//! A request for a partition that this node does not serve is parked here, like every other that waits, until the node
//! that serves it has answered. That node may send it back and name a better one. A request that no node has begun to
//! carry out may be tried again, here or elsewhere. If it was sent to a node that then went silent, it is unknown
//! whether it was carried out, so its client gets a timeout, as from the C server.
//!
//! A request says in which cluster its node is. One that comes from another cluster is sent back: this node may be the master of a
//! cluster that others have left behind a cut, or be about to join theirs.

mod requests;
mod traffic;

pub(crate) use requests::PassedOn;
pub(crate) use traffic::ProxyTraffic;
