//! Client connections: accepts them, reads requests, carries them out, and sends replies.
//!
//! # Threads
//! One accept thread, and `service-threads` service threads, each with an epoll instance and its own
//! connections. Other threads pass connections and finished replies to a service thread through its mailbox.
//! The sizing thread decides over how many service threads the connections are spread. A connection changes
//! its thread only while none of its requests is in progress.

mod accept;
mod activity;
mod address;
mod compression;
mod compression_jobs;
mod compressor;
mod connection;
mod connection_count;
mod connections;
mod context;
mod delivery;
mod dispatch;
mod event_loop;
mod handshakes;
mod handshaking;
mod held_parts;
mod mailbox;
mod messages;
mod outbox;
mod park;
mod pool;
mod presence;
mod release_watch;
mod reply_budget;
mod reply_handle;
mod requests;
mod security;
mod sending;
mod sizing;
mod stream;
mod stream_progress;
#[cfg(test)]
mod tests;

pub(crate) use accept::{Door, Entrance, Listener, accept_clients};
pub(crate) use address::{AccessParams, Advertised, Bound, ListenError, ListenPlace, reachable};
pub(crate) use compression::CompressionWorker;
pub(crate) use compression_jobs::MessageCompression;
pub(crate) use connection_count::ConnectionCount;
pub(crate) use context::ServiceContext;
pub(crate) use event_loop::ServiceThread;
pub(crate) use pool::ServicePool;
pub(crate) use reply_budget::ReplyBudget;
pub(crate) use requests::InfoRequest;
pub(crate) use security::SecurityWorkers;

/// Buffers of requests and replies that grew beyond this size are freed.
const KEEP_SIZE_MAX: usize = 1 << 20;
