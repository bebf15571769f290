//! TLS of the tools: the options of the official tools, and the resulting configuration.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certificates::{Acceptance, ServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// The heading of these options in the help. Each option states it, because a heading of the whole structure
/// would also apply to the tool's options after it.
const HEADING: &str = "TLS";

/// Options of a tool that supports TLS.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct TlsOptions {
    /// Use TLS
    #[arg(long, help_heading = HEADING)]
    tls_enable: bool,

    /// Name that the server's certificate must have; default: the TLS name in HOST:TLS-NAME:PORT, or else the host name
    #[arg(long, help_heading = HEADING, value_name = "NAME")]
    tls_name: Option<String>,

    /// File with the certificate of the authority that signed the server's certificate; it may hold several
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    tls_cafile: Option<PathBuf>,

    /// Directory with files of this kind
    #[arg(long, help_heading = HEADING, value_name = "DIRECTORY")]
    tls_capath: Option<PathBuf>,

    /// File with the client's certificate, for a server that requests one
    #[arg(long, help_heading = HEADING, value_name = "FILE", requires = "tls_keyfile")]
    tls_certfile: Option<PathBuf>,

    /// File with the key of that certificate
    #[arg(long, help_heading = HEADING, value_name = "FILE", requires = "tls_certfile")]
    tls_keyfile: Option<PathBuf>,
}

impl TlsOptions {
    /// TLS with a server whose certificate is signed by the authority in `ca_file`.
    #[must_use]
    pub fn trusting(ca_file: PathBuf) -> Self {
        TlsOptions { tls_enable: true, tls_cafile: Some(ca_file), ..TlsOptions::default() }
    }

    /// Whether TLS is enabled.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.tls_enable
    }

    /// The TLS settings for a server called `host_name`; `None` without TLS.
    ///
    /// # Errors
    /// A sentence for the user when a file is missing or invalid.
    pub fn client(&self, host_name: &str) -> Result<Option<TlsClient>, String> {
        if !self.tls_enable {
            return Ok(None);
        }
        let name = self.tls_name.as_deref().unwrap_or(host_name).to_owned();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(self.roots()?);
        let verifier = ServerVerifier::new(roots, Arc::clone(&provider), Acceptance::of(&name));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&self.tls_certfile, &self.tls_keyfile) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
                builder.with_client_auth_cert(chain, key_der).map_err(|error| {
                    format!("{} with {} cannot be used: {error}", certificate.display(), key.display())
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        // The name of a cluster is often not a host name.
        config.enable_sni = false;
        let server_name = ServerName::try_from(name).or_else(|_| ServerName::try_from("cluster"));
        let server_name = server_name.map_err(|error| error.to_string())?;
        Ok(Some(TlsClient { config: Arc::new(config), server_name }))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut files: Vec<PathBuf> = self.tls_cafile.iter().cloned().collect();
        if let Some(directory) = &self.tls_capath {
            let unreadable = |error: io::Error| format!("{}: {error}", directory.display());
            for entry in directory.read_dir().map_err(unreadable)? {
                files.push(entry.map_err(unreadable)?.path());
            }
        }
        let mut store = RootCertStore::empty();
        for file in &files {
            for certificate in certificates(file)? {
                store.add(certificate).map_err(|error| wrong(file, &error))?;
            }
        }
        if store.is_empty() {
            return Err(
                "--tls-enable needs --tls-cafile or --tls-capath: the authority that signed the server's certificate"
                    .to_owned(),
            );
        }
        Ok(store)
    }
}

fn wrong(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", file.display())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(file).map_err(|error| wrong(file, &error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| wrong(file, &error))?;
    if found.is_empty() { Err(wrong(file, &"there is no certificate in it")) } else { Ok(found) }
}

/// The TLS settings for one server.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl TlsClient {
    /// A new connection.
    pub(crate) fn connection(&self) -> io::Result<ClientConnection> {
        ClientConnection::new(Arc::clone(&self.config), self.server_name.clone()).map_err(io::Error::other)
    }
}
