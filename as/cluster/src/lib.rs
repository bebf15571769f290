//! The logic of the cluster, without I/O, clock or randomness of its own: time, random numbers and messages
//! of peers are arguments, and actions are results. The server's threads are a thin shell around it, and so
//! is the simulator in `tests/`.
//!
//! The modules, in the order in which a change of the cluster passes through them:
//!
//! - [`heartbeat`]: the live nodes, and the nodes that each of them sees.
//! - [`clustering`]: nodes that all see each other agree on a list of members and a key.
//! - [`exchange`]: every member tells all others which data it has, then all rebalance together.
//! - [`balance`]: the nodes of each partition, computed from the members and the versions of their data.
//! - [`migration`]: the order in which partitions are sent. [`conflict`]: the copy of a record that wins.
//! - [`smd`]: metadata that is the same on all nodes.
//!
//! [`node`] combines all but the metadata.

pub mod balance;
pub mod clustering;
pub mod conflict;
pub mod exchange;
pub mod heartbeat;
pub mod migration;
pub mod node;
pub mod smd;
pub mod time;
