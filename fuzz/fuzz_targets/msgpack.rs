//! MessagePack of clients: the walk, the reader and the order agree about what is a value.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::msgpack::run(input));
