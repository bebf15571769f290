//! Replicas: writes of this node on their way to others, and writes of other nodes that are stored here.

mod copy;
mod in_flight;
mod line;
mod observer;
mod receive;

pub(super) use copy::{age_of_copy, policy_of};
pub(crate) use copy::{take_copy, take_removal};
pub(super) use in_flight::NotInLine;
pub(crate) use in_flight::ReplicaWrites;
pub(crate) use observer::ReplicaObserver;
pub(crate) use receive::ReplicaTraffic;
