//! Configuration files: every text is either read or refused with reasons.

use asd::config;

/// Runs `bytes`, if they are text, as described at the top of this file.
pub fn run(bytes: &[u8]) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    if let Err(reasons) = config::parse(text, "fuzz.conf") {
        assert!(!reasons.is_empty(), "refused without a reason");
        for reason in &reasons {
            assert!(!reason.to_string().is_empty());
        }
    }
}
