//! What the prelude calls in Rust: bytes, records, texts and patterns. They give results and never raise errors themselves:
//! the prelude does, so that errors are texts that name the place in the program.

pub(super) mod bytes;
pub(super) mod record;
pub(super) mod text;
