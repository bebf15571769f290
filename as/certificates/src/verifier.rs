//! Decides whether a certificate is accepted: its chain, the blacklist, and its name. Names may be those of clusters
//! and users as well as of hosts, and a common name counts as one.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use crate::blacklist::Blacklist;
use crate::facts::CertificateFacts;

/// Conditions on certificates besides a valid chain.
#[derive(Default, Debug)]
pub struct Acceptance {
    /// Certificates must be for one of these names; `None` accepts any.
    pub names: Option<Vec<String>>,
    /// No certificate of the chain may be on this list.
    pub blacklist: Blacklist,
}

impl Acceptance {
    /// Accepts certificates for `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Acceptance { names: Some(vec![name.to_owned()]), ..Acceptance::default() }
    }

    /// Checks certificates whose chain is valid.
    ///
    /// # Errors
    /// The reason why they are not accepted.
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let own = CertificateFacts::read(end_entity).ok_or(CertificateError::BadEncoding)?;
        let mut signers = intermediates.iter().filter_map(|certificate| CertificateFacts::read(certificate));
        if self.blacklist.contains(&own) || signers.any(|one| self.blacklist.contains(&one)) {
            return Err(CertificateError::Revoked.into());
        }
        match &self.names {
            Some(names) if !names.iter().any(|name| own.is_for(name)) => Err(wrong_name(names, &own).into()),
            _ => Ok(()),
        }
    }
}

fn wrong_name(names: &[String], found: &CertificateFacts) -> CertificateError {
    // This form of error has room for one name.
    let [name] = names else { return CertificateError::NotValidForName };
    match ServerName::try_from(name.clone()) {
        Ok(expected) => CertificateError::NotValidForNameContext { expected, presented: vec![found.names()] },
        Err(_) => CertificateError::NotValidForName,
    }
}

/// Code shared by the two verifiers: signatures.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Checks certificates of servers that this process connects to.
pub struct ServerVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    acceptance: Acceptance,
}

impl ServerVerifier {
    /// A verifier for certificates signed by `roots`.
    #[must_use]
    pub fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>, acceptance: Acceptance) -> Self {
        ServerVerifier { roots, provider, acceptance }
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ServerVerifier({:?})", self.acceptance)
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        self.acceptance.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

/// Checks certificates of clients that connect to this process.
pub struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
    acceptance: Acceptance,
}

impl ClientVerifier {
    /// A verifier for certificates signed by `roots`.
    ///
    /// # Errors
    /// When there is no root.
    pub fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        acceptance: Acceptance,
    ) -> Result<Self, VerifierBuilderError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        Ok(ClientVerifier { chain, provider, acceptance })
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ClientVerifier({:?})", self.acceptance)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.acceptance.check(end_entity, intermediates)?;
        Ok(verified)
    }

    signatures!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::certificate;

    #[test]
    fn names_and_the_blacklist_decide() {
        let (alice, signer) = (certificate("alice", &["db.example"]), certificate("ca", &[]));
        let (alice, signer) = (CertificateDer::from(alice), [CertificateDer::from(signer)]);
        let check =
            |acceptance: Acceptance| acceptance.check(&alice, &signer).map_err(|error| error.to_string());
        assert_eq!(check(Acceptance::default()), Ok(()));
        assert_eq!((check(Acceptance::of("alice")), check(Acceptance::of("DB.example"))), (Ok(()), Ok(())));
        let refused = check(Acceptance::of("bob")).expect_err("another name");
        assert!(refused.contains("certificate not valid for name") && refused.contains("alice"), "{refused}");
        let names = |names: &[&str]| Acceptance {
            names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            ..Acceptance::default()
        };
        assert_eq!(check(names(&["bob", "alice"])), Ok(()));
        assert!(check(names(&["bob", "eve"])).is_err() && check(names(&[])).is_err());
        assert!(check(Acceptance::of("no name: of a host")).is_err());
        for text in ["ABC /C=nowhere", "abc"] {
            let blacklist = Blacklist::parse(text).expect("a list");
            let is_accepted = check(Acceptance { blacklist, ..Acceptance::default() }).is_ok();
            assert_eq!(is_accepted, text != "abc", "{text}");
        }
    }
}
