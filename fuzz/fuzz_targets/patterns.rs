//! Regular expressions of filters: patterns with flags, and texts to match.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::patterns::run(input));
