//! Client connections: accepting them, reading requests, carrying them out, sending replies.
//!
//! # Threads
//! One accept thread; `service-threads` service threads, each with an epoll instance and connections that are its own.
//! Other threads hand a service thread connections and finished replies through its mailbox. The crew's thread has
//! connections gathered on few service threads or spread over more; a connection changes its thread only while nothing of
//! it is under way.

mod accept;
mod activity;
mod address;
mod connection;
mod connections;
mod crew;
mod mailbox;
mod messages;
mod outbox;
mod stream;
#[cfg(test)]
mod tests;
mod thread;
mod width;

pub(crate) use accept::{Listener, accept_clients};
pub(crate) use address::{Advertised, Bound, ListenError};
pub(crate) use crew::Crew;
pub(crate) use mailbox::{ConnectionToken, Mail, Mailbox};
pub(crate) use thread::{ServiceThread, SharedState};

/// Buffers of requests and replies that grew beyond this for a large one are given back.
const KEEP_SIZE_MAX: usize = 1 << 20;
