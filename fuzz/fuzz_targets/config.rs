//! Configuration files: every text is either read, or refused with reasons.
#![no_main]

use asd::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(reasons) = config::parse(text, "fuzz.conf") {
        assert!(!reasons.is_empty(), "refused without a reason");
        for reason in &reasons {
            assert!(!reason.to_string().is_empty());
        }
    }
});
