//! Flat records, as on a damaged device.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::flat_records::run(input));
