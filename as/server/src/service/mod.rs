//! Client connections: accepts them, reads requests, carries them out, and sends replies.
//!
//! # Threads
//! One accept thread; `service-threads` service threads, each with an epoll instance and its own connections. Other
//! threads hand a service thread connections and finished replies through its mailbox. The sizing thread decides over
//! how many service threads the connections are spread; a connection changes its thread only while none of its requests
//! is in progress.

mod accept;
mod activity;
mod address;
mod compression;
mod connection;
mod connections;
mod context;
mod dispatch;
mod event_loop;
mod handshakes;
mod mailbox;
mod messages;
mod outbox;
mod park;
mod pool;
mod reply_budget;
mod security;
mod sending;
mod sizing;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use accept::{Door, Entrance, Listener, accept_clients};
pub(crate) use address::{AccessParams, Advertised, Bound, ListenError, ListenPlace, reachable};
pub(crate) use compression::CompressionWorker;
pub(crate) use compression::MessageCompression;
pub(crate) use context::{ConnectionCount, ServiceContext};
pub(crate) use event_loop::ServiceThread;
pub(crate) use park::InfoRequest;
pub(crate) use pool::ServicePool;
pub(crate) use reply_budget::ReplyBudget;
pub(crate) use security::SecurityWorkers;

/// Buffers of requests and replies that grew beyond this for a large one are freed.
const KEEP_SIZE_MAX: usize = 1 << 20;
