//! List, map, bit and HyperLogLog operations on values of every type.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::operations::run(input));
