//! The logic of the cluster, without I/O, clock or randomness of its own: time, random numbers and what peers said are
//! arguments, what is to be done is returned. The server's threads are a thin shell around it, and so is the simulator in
//! `tests/`.
//!
//! In the order in which a change of the cluster goes through them:
//!
//! - [`heartbeat`]: which nodes are alive and whom they see.
//! - [`clustering`]: a list of members and a key, on which nodes that all see each other agree.
//! - [`exchange`]: every member tells every other which data it has, then all rebalance at once.
//! - [`balance`]: who keeps which partition, from the members and the versions of their data.
//! - [`migration`]: which partition is sent to whom and when; [`conflict`]: which copy of a record counts.
//! - [`smd`]: metadata that is the same on all nodes.
//!
//! [`node`] puts all but the metadata together.

pub mod balance;
pub mod clustering;
pub mod conflict;
pub mod exchange;
pub mod heartbeat;
pub mod migration;
pub mod node;
pub mod smd;
pub mod time;
