//! Expressions as filters and operations, on a record with bins of every type.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::expressions::run(input));
