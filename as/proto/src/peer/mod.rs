//! The protocol between nodes: heartbeats, and the messages of the fabric. Bytes from a peer never cause a panic, and
//! the counts that they announce never size an allocation.
//!
//! ```text
//! message:  body size u32 BE (header excluded), message type u16 BE, fields
//! field:    id u16 BE, field type u8, then u32 BE | u64 BE | size u32 BE and that many bytes
//! ```
//! Fields may come in any order; fields with an unknown id or a wrong type are skipped, so that both sides
//! can add fields. On the fabric, senders write numbers first, in the order of their ids, then the other
//! fields; heartbeats have all fields in the order of ids. Each message type has a file; `nested` has the
//! structures inside of fields.

pub mod clustering;
pub mod exchange;
pub mod fields;
pub mod heartbeat;
pub mod hello;
pub mod host_order;
mod ids;
pub mod migrate;
pub mod nested;
pub mod proxy;
pub mod replication;
pub mod services;
pub mod smd;

pub use fields::{Fields, HEADER_SIZE, MESSAGE_SIZE_MAX, MessageHeader, MessageType, PeerError};
pub use ids::{ClusterKey, NodeId};
