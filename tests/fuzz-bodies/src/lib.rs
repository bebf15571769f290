//! The bodies of the fuzz targets, one module for each target. They do not depend on the fuzzer: `fuzz/` runs
//! them with generated inputs, and a test of this crate runs them with the kept inputs (`fuzz/corpus/`) and
//! the ordinary toolchain.
//!
//! A body panics on a wrong result. Otherwise it returns, for every input.

pub mod batch;
pub mod compressed;
pub mod config;
pub mod device_header;
pub mod expressions;
pub mod flat_records;
pub mod frames;
pub mod functions;
pub mod geojson;
pub mod info;
pub mod metadata_commands;
pub mod msgpack;
pub mod operations;
pub mod patterns;
pub mod peer;
pub mod peer_ports;
pub mod queries;
pub mod requests;
pub mod security;
mod server;
pub mod smd_file;
pub mod wblock_scan;

/// A body, by the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// All bodies.
pub const TARGETS: [Target; 21] = [
    ("batch", batch::run),
    ("compressed", compressed::run),
    ("config", config::run),
    ("device_header", device_header::run),
    ("expressions", expressions::run),
    ("flat_records", flat_records::run),
    ("frames", frames::run),
    ("functions", functions::run),
    ("geojson", geojson::run),
    ("info", info::run),
    ("metadata_commands", metadata_commands::run),
    ("msgpack", msgpack::run),
    ("operations", operations::run),
    ("patterns", patterns::run),
    ("peer", peer::run),
    ("peer_ports", peer_ports::run),
    ("queries", queries::run),
    ("requests", requests::run),
    ("security", security::run),
    ("smd_file", smd_file::run),
    ("wblock_scan", wblock_scan::run),
];
