//! Files of system metadata: whatever is in one is refused, or read the same again once it is written.

use datamodel::smd::{decode_file, encode_file};

/// Reads `input` as a file.
///
/// # Panics
/// If what was read is another thing after it was written.
pub fn run(input: &[u8]) {
    if let Ok((version, items)) = decode_file(input) {
        let written = encode_file(version, &items);
        assert!(written.is_ascii());
        let again = decode_file(&written).ok();
        assert!(again.is_some_and(|again| again == (version, items)), "it is not what was written");
    }
}
