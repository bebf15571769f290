//! Commands about secondary indexes, functions, jobs, truncation and system metadata, answered by a whole server.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::metadata_commands::run(input));
