//! Configuration files: every text is either read or refused with reasons.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::config::run(input));
