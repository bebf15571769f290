//! Proxied requests: those of this node's clients that other nodes carry out, and those that other nodes pass on to
//! this one. `proto::peer::proxy` describes the messages.
//!
//! A request for a partition that this node does not serve is parked here until the node that serves it has answered.
//! That node may send it back and name a better one. A request that no node has begun to carry out may be tried
//! again, here or elsewhere. If it was sent to a node that then went silent, it is unknown whether it was carried
//! out, so its client gets a timeout, as from the C server.
//!
//! A request carries the cluster key of its sender. A request with the key of another cluster is sent back: this node
//! may be the master in a cluster that the other nodes have left after a network partition, or it may be about to
//! join theirs.

mod requests;
mod traffic;

pub(crate) use requests::PassedOn;
pub(crate) use traffic::ProxyTraffic;
