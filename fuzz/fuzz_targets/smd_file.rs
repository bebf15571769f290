//! Files of system metadata: each is either refused, or reads the same again after it is written.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::smd_file::run(input));
