//! Compressed messages, processed by a whole server.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::compressed::run(input));
