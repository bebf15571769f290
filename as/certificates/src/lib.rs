//! Whose certificate is accepted in TLS, by servers, by nodes that connect to others, and by tools: what a certificate says, for
//! whom it is, whether it is on a blacklist. The chain itself is looked at by webpki. Pure.

mod blacklist;
mod facts;
mod verifier;

pub use blacklist::Blacklist;
pub use facts::CertificateFacts;
pub use verifier::{Acceptance, ClientVerifier, ServerVerifier};
