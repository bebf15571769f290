//! Write blocks with records overwritten, cut short or damaged: a scan finds every intact record.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::wblock_scan::run(input));
