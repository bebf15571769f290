//! Device headers as a damaged or foreign device might give them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::device_header::run(input));
