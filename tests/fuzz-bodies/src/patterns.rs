//! Regular expressions of filters: patterns with flags, and texts to match.
//!
//! Input: flags, length of the pattern, the pattern, the text.

use datamodel::exp::{Filter, Medium, Metadata, Record};
use datamodel::{Bins, Budget};

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    let Some((&[flags, size], rest)) = bytes.split_first_chunk() else { return };
    let (pattern, text) = rest.split_at(usize::from(size).min(rest.len()));
    // [regular expression, flags, pattern, text]
    let mut expression = vec![0x94, 7, flags & 0x0f, 0xda];
    expression.extend((pattern.len() as u16).to_be_bytes());
    expression.extend(pattern);
    expression.push(0xdb);
    expression.extend((text.len() as u32 + 1).to_be_bytes());
    expression.push(3);
    expression.extend(text);
    let Ok(filter) = Filter::compile(&expression, &Budget::unlimited()) else { return };
    let metadata = Metadata {
        digest: cf::Digest([7; 20]),
        last_update_time: 0,
        void_time: 0,
        set_name: b"",
        is_key_stored: false,
        is_tombstone: false,
        stored_size: 16,
        medium: Medium::Memory,
        now_ms: 0,
    };
    let first = filter.matches_metadata(&metadata, &Budget::unlimited());
    let bins = Bins::new();
    let _ = filter.matches(&Record { metadata: &metadata, key: None, bins: &bins }, &Budget::unlimited());
    assert_eq!(filter.matches_metadata(&metadata, &Budget::unlimited()), first, "matching changes nothing");
}
