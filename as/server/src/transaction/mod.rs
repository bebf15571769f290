//! Transactions: from a parsed request to a reply.
//!
//! The order of checks is part of the protocol; clients distinguish errors by it.
//!
//! # Work classes
//! A transaction begins on the service thread that received its request, with a [budget](INLINE_STEPS) of steps. If it
//! uses that up, it has changed nothing and runs again from its start on a thread of the [pool], where its deadline is
//! its budget. There it works on a copy of the record, without a lock (`subject.rs`).

mod access;
mod base;
mod batch;
mod batch_elsewhere;
mod batch_frames;
mod batch_in_flight;
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
mod held_replies;
mod measure;
mod module_shares;
mod old_record;
mod optimistic;
mod pending;
mod pool;
mod pool_worker;
mod proxy;
mod read;
mod refused;
mod replicas;
mod reply_room;
mod resent;
mod restart;
mod settle;
mod sink;
mod step;
mod stopwatch;
mod sub_command;
mod subject;
#[cfg(test)]
mod tests;
mod touch;
mod udf;
mod unsettled;
mod wait;
mod workspace;
mod write;

use call::{Call, Failure, Place};
use workspace::Buffers;

pub(crate) use access::Access;
pub(crate) use batch_pool::{BatchPool, BatchWorker};
pub(crate) use call::{INLINE_STEPS, RecordCheck};
pub(crate) use context::TransactionContext;
pub(crate) use executor::{Executor, PREPARED_REQUESTS};
pub(crate) use measure::HeldTransactions;
pub(crate) use pool::thread_count;
pub(crate) use pool_worker::PoolWorker;
pub(crate) use proxy::ProxyTraffic;
pub(crate) use replicas::{ReplicaObserver, ReplicaTraffic, ReplicaWrites, take_copy, take_removal};
pub(crate) use sink::{GoOn, GoOnWithRoom, ReplySink, SinkClosed, StalledSenders};
pub(crate) use step::Step;
pub(crate) use sub_command::{SubCommand, SubCommands};
pub(crate) use unsettled::Unsettled;
pub(crate) use wait::{OwnedRequest, Wait};
