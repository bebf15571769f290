//! Bins and the operations on them. Pure: no I/O, no locks, and time is an argument.

pub mod bins;
pub mod bits;
pub mod budget;
pub mod cdt;
pub mod change;
pub mod device_header;
pub mod encryption;
pub mod exp;
mod explanation;
pub mod flat;
mod flat_bytes;
pub mod geojson;
pub mod hll;
pub mod lying;
pub mod ops;
mod packed;
pub mod packing;
pub mod particle;
mod particle_wire;
pub mod partition_copy;
pub mod partition_version;
mod refusal;
mod s2;
pub mod sindex;
pub mod smd;
pub mod wblock_scan;

pub use bins::{Bin, Bins};
pub use budget::Budget;
pub use change::{Change, Modified};
pub use particle::{BytesType, Particle};
pub use refusal::RefusedOp;
