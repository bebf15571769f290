//! Client connections: accepting them, reading requests, carrying them out, sending replies.
//!
//! # Threads
//! One accept thread; `service-threads` service threads, each with an epoll instance and the connections given to it.
//! A connection never changes its thread. Other threads hand a service thread new connections and finished replies
//! through its mailbox.

mod accept;
mod address;
mod connection;
mod connections;
mod mailbox;
mod messages;
mod outbox;
mod stream;
mod thread;

pub(crate) use accept::{Listener, accept_clients};
pub(crate) use address::{Advertised, Bound, ListenError};
pub(crate) use mailbox::{ConnectionToken, Mail, Mailbox};
pub(crate) use thread::{ServiceThread, SharedState};

/// Buffers of requests and replies that grew beyond this for a large one are given back.
const KEEP_SIZE_MAX: usize = 1 << 20;
