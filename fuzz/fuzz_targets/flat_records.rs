//! Flat records as a damaged device might give them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::flat_records::run(input));
