//! The prelude's primitives in Rust: records, texts and patterns. They return results and never raise errors:
//! the prelude raises them, so that errors are texts that name the place in the program.

pub(super) mod record;
pub(super) mod text;
