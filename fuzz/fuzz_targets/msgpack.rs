//! MessagePack of clients: the walk, the reader and the order agree about which bytes are a value.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::msgpack::run(input));
