//! The cluster as this node sees it, and the connections over which it talks to other nodes.
//!
//! To send: [`Fabric::send`]. To receive: a [`Handler`](peers::Handler) for each message type, given to
//! [`Fabric::start`]. A message may be lost with its connection, or be overtaken by a later one. A sender
//! that needs an answer repeats its message. Messages about one record keep their order as long as their
//! connection lasts ([`Fabric::send_in_order`]).
//!
//! # Threads
//! - A few fabric threads own the connections. Those of the channel bulk are distributed over as many threads as
//!   there are processors, those of read-write over half as many; control and metadata have one thread each.
//!   Fabric threads read, call handlers, and write. Handlers must not wait. Service threads [send](Gathering)
//!   their messages themselves.
//! - The cluster thread (`driver`) owns the state of the cluster, `cluster::node::Node`.
//! - The metadata thread (`metadata`) makes changes of system metadata on all nodes.
//!
//! Each connection has a bounded queue of its own, so a peer that stalls delays no other.

mod arrival;
mod cluster;
mod company;
mod connection;
mod driver;
mod dump;
mod gathering;
mod membership;
mod metadata;
mod network;
mod peers;
mod postbox;
mod records;
mod removal;
mod services;
mod thread;

pub(crate) use cluster::Cluster;
pub(crate) use company::{Company, are_of_node_alone};
pub(crate) use connection::SendError;
pub(crate) use driver::{DriverEvent, Surroundings};
pub(crate) use dump::Dump;
pub(crate) use gathering::{Gathering, send_gathered};
pub(crate) use membership::Membership;
pub(crate) use network::{ChannelFigures, Fabric};
pub(crate) use peers::{FabricSettings, Handler, Handlers};
pub(crate) use records::{MoveOrder, MoveReport, MoveReports, RecordMover, partition_size, small_count_max};
pub(crate) use services::{
    CLEAR_ALTERNATE, CLEAR_STANDARD, SERVICES, SERVICES_ALTERNATE, TLS_ALTERNATE, TLS_NAME, TLS_STANDARD,
};
