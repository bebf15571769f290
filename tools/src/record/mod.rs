//! Record requests as `asbench` sends them, and the expected replies.
//!
//! [`object_spec`] describes the bins of a record, [`value`] generates their bytes, [`request`] builds whole
//! frames and [`query`] those of queries, [`reply`] parses answers, [`workload`] chooses requests and keys, and [`load`]
//! combines them as a [`crate::load::Protocol`].

pub mod keys;
pub mod load;
pub mod object_spec;
mod object_spec_parse;
pub mod query;
pub mod reply;
pub mod request;
pub mod value;
pub mod workload;

/// Particle types on the wire.
pub mod particle_type {
    /// Nothing; writing it removes the bin.
    pub const NULL: u8 = 0;
    /// 64-bit signed integer, big-endian.
    pub const INTEGER: u8 = 1;
    /// IEEE 754 double, big-endian.
    pub const FLOAT: u8 = 2;
    /// UTF-8 text.
    pub const STRING: u8 = 3;
    /// Bytes.
    pub const BLOB: u8 = 4;
    /// One byte, 0 or 1.
    pub const BOOL: u8 = 17;
    /// MessagePack map.
    pub const MAP: u8 = 19;
    /// MessagePack list.
    pub const LIST: u8 = 20;
}
