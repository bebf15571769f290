//! Arguments of user-defined functions, taken over into Lua, worked on there and given back, by a whole server.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::functions::run(input));
