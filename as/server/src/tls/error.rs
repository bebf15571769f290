//! Errors that prevent the use of a TLS context.

/// A sentence that names parameter, file and line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub(super) String);
