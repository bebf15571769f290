//! Write blocks in which records were written over, cut short or damaged: a scan finds every record that nothing happened
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::wblock_scan::run(input));
