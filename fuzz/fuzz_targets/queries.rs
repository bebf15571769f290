//! Queries by primary and secondary index, carried out by a whole server.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::queries::run(input));
