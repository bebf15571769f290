//! Whether a client's certificate is accepted: its chain, that no part of it is on the blacklist, and its name.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::blacklist::Blacklist;
use super::certificate::CertificateFacts;

/// Whose certificates are accepted from clients: `tls-authenticate-client`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ClientRule {
    /// None is asked for.
    NotAsked,
    /// One that the authorities of the context have signed.
    Any,
    /// Such a one that is for one of these names.
    Names(Vec<String>),
}

impl ClientRule {
    /// From the values of the parameter, which the configuration has checked; none is any.
    pub(super) fn new(values: &[String]) -> Self {
        match values {
            [] => ClientRule::Any,
            [only] if only == "any" => ClientRule::Any,
            [only] if only == "false" => ClientRule::NotAsked,
            names => ClientRule::Names(names.to_vec()),
        }
    }
}

/// Whether certificates whose chain is good are accepted: none of them is on the blacklist, and the first is for whom it should
/// be.
///
/// # Errors
/// The reason why not.
pub(super) fn check_certificates(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    blacklist: &Blacklist,
    rule: &ClientRule,
) -> Result<(), Error> {
    let own = CertificateFacts::read(end_entity).ok_or(CertificateError::BadEncoding)?;
    let signers = intermediates.iter().filter_map(|certificate| CertificateFacts::read(certificate));
    if blacklist.contains(&own) || signers.into_iter().any(|one| blacklist.contains(&one)) {
        return Err(CertificateError::Revoked.into());
    }
    match rule {
        ClientRule::Names(names) if !names.iter().any(|name| own.is_for(name)) => {
            Err(CertificateError::NotValidForName.into())
        }
        _ => Ok(()),
    }
}

/// Checks certificates of clients.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    /// Checks the chain.
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) rule: ClientRule,
    pub(super) blacklist: Blacklist,
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
        check_certificates(end_entity, intermediates, &self.blacklist, &self.rule)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
