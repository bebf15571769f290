//! The server: all of the daemon `asd` except its `main`. `ARCHITECTURE.md` at the root of the repository is the map.
#![deny(unsafe_code)]

mod best_practices;
pub mod cli;
pub mod config;
pub mod daemon;
mod exporter;
mod fabric;
mod health;
mod heartbeat;
mod index;
mod info;
mod joining;
mod leaving;
mod metrics;
mod migrate;
mod namespace;
mod node;
pub mod node_id;
mod peer_frames;
mod peer_misfits;
mod peer_traffic;
mod ports;
mod preflight;
mod query;
mod security;
pub mod server;
mod service;
mod side_port;
mod sindex;
mod smd;
mod storage;
mod ticker;
mod tls;
mod transaction;
mod udf;
pub mod version;
mod workers;
