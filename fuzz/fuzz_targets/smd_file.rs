//! Files of system metadata: whatever is in one is refused, or read the same again once it is written.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::smd_file::run(input));
