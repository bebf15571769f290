//! Parsers of client bytes: frames, record messages, batches.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::frames::run(input));
