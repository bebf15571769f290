//! Arguments of user-defined functions, converted to Lua, changed there and returned, by a whole server.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::functions::run(input));
