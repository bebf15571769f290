//! The load generator: keeps a number of requests in flight on a number of connections and measures the answers.
//!
//! It knows nothing of what the requests are; a [`Protocol`] encodes them and judges the replies. Each thread owns
//! an epoll instance, its connections and its protocol, and shares with the others only counters that it alone
//! writes ([`counters`]). Steady state allocates nothing and waits for no lock.

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
