//! Bytes from strangers on a node's ports for other nodes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::peer_ports::run(input));
