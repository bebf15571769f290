//! The logic of the cluster, without I/O, clock or randomness of its own: time, random numbers and what peers said are
//! arguments, what is to be done is returned. The server's threads are a thin shell around it, and so is the simulator in
//! `tests/`.
//!
//! In the order in which a change of the cluster goes through them:
//!
//! - [`heartbeat`]: which nodes are alive and whom they see.
//! - [`clustering`]: a list of members and a key, on which nodes that all see each other agree.
//! - [`balance`]: who keeps which partition, from the members and the versions of their data.

pub mod balance;
pub mod clustering;
pub mod conflict;
pub mod exchange;
pub mod heartbeat;
pub mod migration;
pub mod node;
pub mod time;
