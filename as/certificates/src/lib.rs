//! Acceptance of TLS certificates by servers, by nodes that connect to others, and by tools: a certificate's contents,
//! its names, and the blacklist. webpki checks the chain. Pure.

mod blacklist;
mod facts;
mod verifier;

pub use blacklist::Blacklist;
pub use facts::CertificateFacts;
pub use verifier::{Acceptance, ClientVerifier, ServerVerifier};
