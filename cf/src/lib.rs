//! Foundation of the server; knows nothing of records or namespaces.
//!
//! All system calls and all memory tricks live here behind safe types, so that the crates above can
//! deny `unsafe`. Lines of the log are written by the macros of `log`.

pub mod aligned;
pub mod arena;
pub mod clock;
pub mod counters;
pub mod digest;
pub mod doorbell;
pub mod fatal;
pub mod fault;
pub mod linear_histogram;
pub mod log;
pub mod manual;
pub mod msgpack;
pub mod prefetch;
pub mod region;
pub mod sync;
pub mod sys;
#[cfg(test)]
mod temp_folder;
pub mod threads;
pub mod wyhash;
pub mod zeroed;

pub use digest::Digest;
