//! Why a TLS context cannot be used.

/// A sentence that names parameter, file and line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub(super) String);
