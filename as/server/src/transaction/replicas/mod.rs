//! Replicas: writes of this node on their way to others, and writes of others that are stored here.

mod in_flight;
mod observer;
mod receive;

pub(crate) use in_flight::ReplicaWrites;
pub(crate) use observer::ReplicaObserver;
pub(crate) use receive::ReplicaTraffic;
