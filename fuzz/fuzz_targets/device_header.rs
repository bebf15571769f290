//! Device headers, as on a damaged or foreign device.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::device_header::run(input));
