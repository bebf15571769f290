//! Code shared by the black-box tests: a server process, a raw client, recorded corpora and their replay.
//!
//! This crate contains no code of the server. The tests have only its binary, and judge it by its answers on
//! sockets, its log and its end.

pub mod client;
pub mod compare;
pub mod corpus;
pub mod damage;
pub mod device_file;
pub mod fast_folder;
pub mod figures;
pub mod history;
pub mod nodes;
pub mod peer;
pub mod ports;
pub mod programs;
pub mod query_history;
pub mod random;
pub mod replay;
pub mod rules;
pub mod security;
pub mod server;
pub mod tls;
pub mod wire;

/// Writes to the output of a test, which the test runner shows if the test fails.
#[expect(clippy::print_stderr, reason = "the output of a test")]
pub fn report(text: &str) {
    eprintln!("{text}");
}
