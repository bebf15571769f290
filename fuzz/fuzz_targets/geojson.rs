//! GeoJSON texts: as values in their wire and stored form, compared with each other, and covered by cells.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_bodies::geojson::run(input));
