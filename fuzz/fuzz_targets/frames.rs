//! What is read from bytes of a client before anything is done with it: frames, record messages, batches.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::frames::run(input));
