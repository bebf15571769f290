//! Replicas: writes of this node on their way to others, and writes of others that are stored here.

mod copy;
mod in_flight;
mod observer;
mod receive;

pub(crate) use copy::take_copy;
pub(super) use copy::{age_of_copy, policy_of};
pub(super) use in_flight::PAUSE_MAX;
pub(crate) use in_flight::ReplicaWrites;
pub(crate) use observer::ReplicaObserver;
pub(crate) use receive::ReplicaTraffic;
