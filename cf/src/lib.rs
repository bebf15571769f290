//! Foundation of the server. It does not know records or namespaces.
//!
//! All system calls and unsafe memory operations are in this crate, behind safe types, so that the other
//! crates can deny `unsafe`. The macros of `log` write log lines.

pub mod aligned;
pub mod arena;
pub mod clock;
pub mod counters;
pub mod digest;
pub mod doorbell;
pub mod fatal;
pub mod fault;
pub mod huge_pages;
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
pub mod turns;
pub mod wyhash;
pub mod zeroed;

pub use digest::Digest;
