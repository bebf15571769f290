//! The load generator: keeps a number of requests in flight on a number of connections and measures the answers.
//!
//! It does not know the contents of requests: a [`Protocol`] encodes requests and judges replies. Each thread
//! owns an epoll instance, its connections and its protocol; the threads share only counters, each written by
//! one thread ([`counters`]). After the start, a thread allocates nothing and waits for no lock.

mod connection;
pub mod counters;
pub mod histogram;
mod pace;
mod pause;
mod protocol;
pub mod random;
mod run;
mod worker;

pub use pause::Pause;
pub use protocol::{KIND_COUNT, Kind, Outcome, Protocol, Reply};
pub use run::{Plan, Progress, Run, StartError, run};
