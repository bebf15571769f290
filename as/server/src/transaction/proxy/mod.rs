//! Requests that another node carries out: those of clients that are passed on, and those that other nodes pass on to this
//! one. Facts of the messages are in `proto::peer::proxy`.
//!
//! A request for a partition that this node does not serve waits here, parked as every other that waits, until the node that
//! serves it has answered. That node may send it back and name a better one. A request that nobody has begun to carry out
//! may be tried again, here or elsewhere; of one that was sent to a node which then went silent it is not known whether it
//! was carried out, so its client hears of a timeout, as from the C server.

mod requests;
mod traffic;

pub(crate) use requests::PassedOn;
pub(crate) use traffic::ProxyTraffic;
