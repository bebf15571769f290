//! Files of system metadata: each is either refused, or is the same after it is written and read again.

use datamodel::smd::{SmdFile, decode_file, encode_file};

/// Reads `input` as a file.
///
/// # Panics
/// If the metadata differs after it was written and read again.
pub fn run(input: &[u8]) {
    if let Ok(SmdFile { version, items, .. }) = decode_file(input) {
        let written = encode_file(version, &items);
        assert!(written.is_ascii());
        let again = decode_file(&written).ok();
        assert!(
            again.is_some_and(|again| again == SmdFile { version, items, has_damaged_version: false }),
            "it is not what was written"
        );
    }
}
