//! Transactions: from a parsed request to a reply.
//!
//! The order of checks is part of the protocol; clients distinguish errors by it.
//!
//! # Work classes
//! A transaction begins on the service thread that received its request, with a [budget](INLINE_STEPS) of steps. If it
//! uses that up, it has changed nothing and runs again from its start on a thread of the [pool], where its deadline is
//! its budget. There it works on a copy of the record, without a lock (`subject.rs`).

mod access;
mod batch;
mod batch_elsewhere;
mod batch_frames;
mod batch_pool;
mod batch_rows;
mod benchmarks;
mod call;
mod checks;
mod context;
mod delete;
mod disk_watch;
mod duplicates;
mod executor;
pub(crate) mod filter;
mod flat_buffer;
mod measure;
mod module_shares;
mod optimistic;
mod pending;
mod pool;
mod proxy;
mod read;
mod refused;
mod replicas;
mod reply_room;
mod resent;
mod settle;
mod sink;
mod step;
mod sub_command;
mod subject;
#[cfg(test)]
mod tests;
mod touch;
mod udf;
mod wait;
mod write;

use call::{Call, Failure, Place};
use context::{Buffers, Workspace};

pub(crate) use access::Access;
pub(crate) use batch_pool::{BatchPool, BatchWorker};
pub(crate) use call::RecordCheck;
pub(crate) use context::TransactionContext;
pub(crate) use executor::Executor;
pub(crate) use measure::HeldTransactions;
pub(crate) use pool::{PoolWorker, thread_count};
pub(crate) use proxy::ProxyTraffic;
pub(crate) use replicas::{ReplicaObserver, ReplicaTraffic, ReplicaWrites, take_copy, take_removal};
pub(crate) use settle::Unsettled;
pub(crate) use sink::{GoOn, GoOnWithRoom, ReplySink, SinkClosed, StalledSenders};
pub(crate) use step::Step;
pub(crate) use sub_command::{SubCommand, SubCommands};
pub(crate) use wait::{OwnedRequest, Wait};

/// Most requests whose records are prefetched together.
pub(crate) const PREPARED_REQUESTS: usize = 16;
/// Steps, of about a nanosecond each, that a request may take on a service thread.
pub(crate) const INLINE_STEPS: u64 = 200_000;
