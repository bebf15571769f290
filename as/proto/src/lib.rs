//! The client wire protocol, and the protocol between nodes (`peer`). Pure: no I/O, no clock, no locks.
//! Parsed messages borrow their bytes.
//!
//! All integers on the wire are big-endian unless a field says otherwise.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation, clippy::indexing_slicing))]

pub mod batch;
pub mod compressed;
pub mod frame;
pub mod info;
pub mod message;
pub mod peer;
pub mod reply;
mod result;
pub mod security;

pub use result::ResultCode;
