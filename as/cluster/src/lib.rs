//! The logic of the cluster, without I/O, clock or randomness of its own: time, random numbers and what peers said are
//! arguments, what is to be done is returned. The server's threads are a thin shell around it, and so is the simulator in
//! `tests/`.
//!
//! In the order in which a change of the cluster goes through them:
//!
//! - [`balance`]: who keeps which partition, from the members and the versions of their data.

pub mod balance;
