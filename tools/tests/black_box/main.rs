//! Tests of the tools against servers in this process that answer correctly, wrongly, late or not at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod asbench;
mod asd_bench;
mod small_server;
