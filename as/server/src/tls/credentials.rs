//! The files of a `network.tls` context: certificate, key, authorities and blacklist, read and checked against each other.
//!
//! Every error names the parameter, the file, the line if there is one, and the likely remedy.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use certificates::{Acceptance, Blacklist, CertificateFacts, ClientVerifier, ServerVerifier};
use pkcs8::EncryptedPrivateKeyInfo;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::Ticketer;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::client_rule::ClientRule;
use super::error::TlsError;
use super::pem::{Section, sections};
use super::suites::{cipher_suites, versions};
use crate::config::TlsConfig;
use crate::config::setting::Text;

const CERTIFICATE_LABELS: &[&str] = &["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];
const ENCRYPTED_KEY_LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// A context. Its methods name it in their errors.
#[derive(Clone, Copy)]
struct Context<'a>(&'a TlsConfig);

/// The server's certificate chain and key, and their files.
struct Identity {
    chain_path: Arc<str>,
    chain: Vec<CertificateDer<'static>>,
    key_path: Arc<str>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// The error for a certificate and a key that cannot be used together.
    fn unfit(&self, context: Context<'_>, error: &rustls::Error) -> TlsError {
        let Identity { chain_path, key_path, .. } = self;
        match error {
            rustls::Error::InconsistentKeys(_) => context.error(
                "key-file",
                format_args!(
                    "{key_path} is not the key of the certificate in {chain_path}: were they issued together?"
                ),
            ),
            error => context
                .error("cert-file", format_args!("{chain_path} with {key_path} cannot be used: {error}")),
        }
    }
}

impl Context<'_> {
    /// An error of parameter `name`.
    fn error(self, name: &str, what: impl std::fmt::Display) -> TlsError {
        let TlsConfig { name: context, line, .. } = self.0;
        TlsError(format!("'{name}' of tls '{context}' (line {line}) {what}"))
    }

    /// The value of parameter `name`, which must be given.
    fn required(self, name: &str, value: &Text, advice: &str) -> Result<Arc<str>, TlsError> {
        value.get().ok_or_else(|| self.error(name, format_args!("is missing: {advice}")))
    }

    fn read(self, name: &str, path: &str) -> Result<String, TlsError> {
        let bytes = fs::read(path).map_err(|error| {
            let advice = match error.kind() {
                std::io::ErrorKind::NotFound => ": is the path right, and seen from here?",
                std::io::ErrorKind::PermissionDenied => {
                    ": the user that the server runs as must be able to read it"
                }
                _ => "",
            };
            self.error(name, format_args!("cannot be read: {path}: {error}{advice}"))
        })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The certificates in a file, at least one.
    fn certificates(self, name: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let text = self.read(name, path)?;
        let sections =
            sections(&text).map_err(|error| self.error(name, format_args!("is {path}, {error}")))?;
        let found: Vec<_> = sections.iter().filter(|one| CERTIFICATE_LABELS.contains(&one.label)).collect();
        if found.is_empty() {
            let has_key = sections.iter().any(|one| one.label.ends_with("PRIVATE KEY"));
            let advice = if has_key {
                "it holds a key: are certificate and key in each other's place?"
            } else {
                "a file in PEM form begins with -----BEGIN CERTIFICATE-----; \
                 `openssl x509 -inform der` makes one of a file in DER form"
            };
            return Err(self.error(name, format_args!("is {path}, which holds no certificate: {advice}")));
        }
        for one in &found {
            if CertificateFacts::read(&one.der).is_none() {
                let line = one.line;
                return Err(self.error(
                    name,
                    format_args!("is {path}, line {line}: the section there is no certificate"),
                ));
            }
        }
        Ok(found.into_iter().map(|one| one.der.clone().into()).collect())
    }

    /// The server's own certificate and the ones that lead from it to an authority.
    fn chain(self) -> Result<(Arc<str>, Vec<CertificateDer<'static>>), TlsError> {
        let advice = "the server has no certificate for its clients; `asd-tls` makes one";
        let path = self.required("cert-file", &self.0.params.cert_file, advice)?;
        let chain = self.certificates("cert-file", &path)?;
        Ok((path, chain))
    }

    /// The server's certificate and its key.
    fn identity(self) -> Result<Identity, TlsError> {
        let (chain_path, chain) = self.chain()?;
        let (key_path, key) = self.key()?;
        Ok(Identity { chain_path, chain, key_path, key })
    }

    fn key(self) -> Result<(Arc<str>, PrivateKeyDer<'static>), TlsError> {
        let name = "key-file";
        let advice = "it is the key that belongs to 'cert-file'";
        let path = self.required(name, &self.0.params.key_file, advice)?;
        let text = self.read(name, &path)?;
        let sections =
            sections(&text).map_err(|error| self.error(name, format_args!("is {path}, {error}")))?;
        let Some(section) = sections.iter().find(|one| one.label.ends_with("PRIVATE KEY")) else {
            let advice = "it begins with -----BEGIN PRIVATE KEY-----, or RSA or EC before PRIVATE";
            return Err(self.error(name, format_args!("is {path}, which holds no key: {advice}")));
        };
        if section.is_legacy_encrypted {
            return Err(self.error(
                name,
                format_args!(
                    "is {path}, encrypted in an old form: `openssl pkcs8 -topk8 -in {path} -out NEW-FILE` makes one that is read"
                ),
            ));
        }
        let key = match section.label {
            ENCRYPTED_KEY_LABEL => self.decrypted_key(&path, section)?,
            "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(section.der.clone()).into(),
            "EC PRIVATE KEY" => PrivateSec1KeyDer::from(section.der.clone()).into(),
            _ => PrivatePkcs8KeyDer::from(section.der.clone()).into(),
        };
        Ok((path, key))
    }

    fn decrypted_key(self, path: &str, section: &Section<'_>) -> Result<PrivateKeyDer<'static>, TlsError> {
        let advice = format!("{path} is encrypted; give env:VARIABLE or file:PATH");
        let source = self.required("key-file-password", &self.0.params.key_file_password, &advice)?;
        let password = self.password(&source)?;
        let wrong = |error: &dyn std::fmt::Display| {
            self.error("key-file", format_args!("is {path}, which the password does not open: {error}"))
        };
        let encrypted =
            EncryptedPrivateKeyInfo::try_from(section.der.as_slice()).map_err(|error| wrong(&error))?;
        let key = encrypted.decrypt(password.as_bytes()).map_err(|error| wrong(&error))?;
        Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
    }

    /// The password: from an environment variable, or the first line of a file.
    fn password(self, source: &str) -> Result<String, TlsError> {
        let name = "key-file-password";
        if let Some(variable) = source.strip_prefix("env:") {
            return std::env::var(variable).map_err(|_| {
                self.error(name, format_args!("is the environment variable {variable}, which is not set"))
            });
        }
        if source.starts_with("secrets:") || source.starts_with("vault:") {
            return Err(self.error(name, "cannot come from elsewhere: give env:VARIABLE or file:PATH"));
        }
        let text = self.read(name, source.strip_prefix("file:").unwrap_or(source))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// The certificates of the authorities of clients, or of other nodes.
    fn authorities(self, are_for_nodes: bool) -> Result<RootCertStore, TlsError> {
        let params = &self.0.params;
        let mut store = RootCertStore::empty();
        let blacklist = self.blacklist()?;
        // A blacklisted authority is left out.
        let is_good = |certificate: &CertificateDer<'_>| {
            CertificateFacts::read(certificate).is_none_or(|facts| !blacklist.contains(&facts))
        };
        let mut add = |name: &str, path: &str, certificates: Vec<CertificateDer<'static>>| {
            certificates.into_iter().filter(is_good).try_for_each(|certificate| {
                store.add(certificate).map_err(|error| {
                    self.error(
                        name,
                        format_args!("is {path}, with a certificate that cannot be used: {error}"),
                    )
                })
            })
        };
        if let Some(path) = params.ca_file.get() {
            add("ca-file", &path, self.certificates("ca-file", &path)?)?;
        }
        if let Some(path) = params.ca_path.get() {
            for file in self.files_in(&path)? {
                add("ca-path", &file, self.certificates("ca-path", &file)?)?;
            }
        }
        if store.is_empty() {
            let what = if are_for_nodes {
                "is missing: it names the authority that signs the certificates of the nodes of a cluster"
            } else {
                "is missing: it names the authority that signs the certificates of clients; 'tls-authenticate-client false' requires none"
            };
            return Err(self.error("ca-file", what));
        }
        Ok(store)
    }

    /// The files of a directory of certificates, in order.
    fn files_in(self, directory: &str) -> Result<Vec<String>, TlsError> {
        let unreadable = |error: std::io::Error| {
            self.error("ca-path", format_args!("cannot be read: {directory}: {error}"))
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_file() {
                files.push(path.to_string_lossy().into_owned());
            }
        }
        files.sort();
        Ok(files)
    }

    fn blacklist(self) -> Result<Blacklist, TlsError> {
        let name = "cert-blacklist";
        let Some(path) = self.0.params.cert_blacklist.get() else { return Ok(Blacklist::default()) };
        let text = self.read(name, &path)?;
        Blacklist::parse(&text).map_err(|line| {
            let form = "a line is a serial number in hexadecimal digits, and perhaps /CN=… of its issuer";
            self.error(name, format_args!("is {path}, line {line}: {form}"))
        })
    }

    fn provider(self) -> Result<Arc<CryptoProvider>, TlsError> {
        let list = self.0.params.cipher_suite.get();
        let cipher_suites =
            cipher_suites(list.as_deref()).map_err(|reason| self.error("cipher-suite", reason))?;
        Ok(Arc::new(CryptoProvider { cipher_suites, ..default_provider() }))
    }
}

/// The settings for accepting connections under a context, read from its files. Clients may resume sessions by tickets;
/// the keys of tickets belong to this value, so sessions from before a reload are not resumed. No early data is
/// accepted.
///
/// # Errors
/// When a file is missing, has the wrong content, or does not fit the others.
pub(super) fn server_config(
    config: &TlsConfig,
    rule: &ClientRule,
    is_for_nodes: bool,
) -> Result<ServerConfig, TlsError> {
    let context = Context(config);
    let provider = context.provider()?;
    let protocols = config.params.protocols.get_or_empty();
    let versions = versions(&protocols).map_err(|reason| context.error("protocols", reason))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| context.error("protocols", error))?;
    let identity = context.identity()?;
    let blacklist = context.blacklist()?;
    let builder = if *rule == ClientRule::NotAsked {
        builder.with_no_client_auth()
    } else {
        let roots = Arc::new(context.authorities(is_for_nodes)?);
        let acceptance = Acceptance { names: rule.names(), blacklist };
        let verifier = ClientVerifier::new(roots, provider, acceptance)
            .map_err(|error| context.error("ca-file", error))?;
        builder.with_client_cert_verifier(Arc::new(verifier))
    };
    let (chain, key) = (identity.chain.clone(), identity.key.clone_key());
    let mut built = builder.with_single_cert(chain, key).map_err(|error| identity.unfit(context, &error))?;
    built.session_storage = Arc::new(NoServerSessionStorage {});
    built.ignore_client_order = true;
    built.max_early_data_size = 0;
    built.send_tls13_tickets = 0;
    if !is_for_nodes {
        built.send_tls13_tickets = 1;
        built.ticketer = Ticketer::new().map_err(|error| context.error("protocols", error))?;
    }
    Ok(built)
}

/// The settings for connecting to other nodes under a context, read from its files.
///
/// # Errors
/// As [`server_config`].
pub(super) fn client_config(config: &TlsConfig, rule: &ClientRule) -> Result<ClientConfig, TlsError> {
    let context = Context(config);
    let provider = context.provider()?;
    let protocols = config.params.protocols.get_or_empty();
    let versions = versions(&protocols).map_err(|reason| context.error("protocols", reason))?;
    let roots = Arc::new(context.authorities(true)?);
    let acceptance = Acceptance { names: rule.names(), blacklist: context.blacklist()? };
    let verifier = ServerVerifier::new(roots, Arc::clone(&provider), acceptance);
    let identity = context.identity()?;
    let (chain, key) = (identity.chain.clone(), identity.key.clone_key());
    let mut built = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| context.error("protocols", error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .map_err(|error| identity.unfit(context, &error))?;
    built.enable_sni = false;
    built.resumption = Resumption::disabled();
    Ok(built)
}

/// Faults of the server's certificate that do not prevent its use.
pub(super) fn certificate_fault(config: &TlsConfig, now: SystemTime) -> Option<TlsError> {
    let context = Context(config);
    let (path, chain) = context.chain().ok()?;
    let fault = |certificate| CertificateFacts::read(certificate).and_then(|facts| facts.fault_at(now));
    let fault = chain.iter().find_map(|certificate| fault(certificate))?;
    Some(context.error("cert-file", format_args!("{path} {fault}")))
}

/// The files of a context; when one changes, the context is read again.
pub(super) fn files(config: &TlsConfig) -> Vec<String> {
    let params = &config.params;
    let password = params.key_file_password.get().filter(|source| !source.starts_with("env:"));
    let password = password.map(|source| source.strip_prefix("file:").unwrap_or(&source).to_owned());
    let named =
        [&params.cert_file, &params.key_file, &params.ca_file, &params.ca_path, &params.cert_blacklist];
    let mut files: Vec<String> =
        named.iter().filter_map(|text| text.get()).map(|path| path.to_string()).collect();
    files.extend(password);
    if let Some(directory) = params.ca_path.get()
        && let Ok(entries) = fs::read_dir(Path::new(&*directory))
    {
        files.extend(entries.flatten().map(|entry| entry.path().to_string_lossy().into_owned()));
    }
    files.sort();
    files
}

/// The names in the server's certificate.
pub(super) fn names(config: &TlsConfig) -> String {
    let chain = Context(config).chain().map(|(_, chain)| chain).unwrap_or_default();
    let facts = chain.first().and_then(|certificate| CertificateFacts::read(certificate));
    facts.map(|facts| facts.names()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A certificate, and its key encrypted with the password `secret` in two ways, as OpenSSL writes them.
    const CERTIFICATE: &str = include_str!("tests/certificate.pem");
    const KEYS: [&str; 2] = [include_str!("tests/encrypted.pem"), include_str!("tests/encrypted-scrypt.pem")];

    struct Files(TempDir, TlsConfig);

    impl Files {
        fn new(key: &str) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let config = TlsConfig { name: "t".to_owned(), line: 7, ..TlsConfig::default() };
            let files = Files(folder, config);
            let params = &files.1.params;
            for (name, cell, text) in
                [("cert", &params.cert_file, CERTIFICATE), ("key", &params.key_file, key)]
            {
                cell.set(&files.write(name, text));
            }
            files
        }

        fn write(&self, name: &str, text: &str) -> String {
            let path = self.0.path().join(name);
            fs::write(&path, text).expect("a file");
            path.to_str().expect("text").to_owned()
        }

        fn error(&self, rule: &ClientRule) -> String {
            let error = server_config(&self.1, rule, false).expect_err("it is refused");
            error.to_string()
        }
    }

    #[test]
    fn a_key_may_be_encrypted() {
        for key in KEYS {
            let files = Files::new(key);
            let password = &files.1.params.key_file_password;
            let refused = files.error(&ClientRule::NotAsked);
            assert!(refused.starts_with("'key-file-password' of tls 't' (line 7) is missing"), "{refused}");
            password.set(&format!("file:{}", files.write("password", "secret\n")));
            server_config(&files.1, &ClientRule::NotAsked, false).expect("it is taken");
            password.set(&files.write("password", "wrong"));
            let refused = files.error(&ClientRule::NotAsked);
            assert!(refused.contains("the password does not open"), "{refused}");
            password.set("env:NO_SUCH_VARIABLE_IS_SET");
            assert!(files.error(&ClientRule::NotAsked).contains("NO_SUCH_VARIABLE_IS_SET, which is not set"));
        }
    }

    #[test]
    fn each_error_names_the_parameter_and_the_file() {
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        for (key, wanted) in [
            (old, "encrypted in an old form: `openssl pkcs8 -topk8"),
            (CERTIFICATE, "which holds no key"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n", "line 1: this BEGIN has no END"),
        ] {
            let refused = Files::new(key).error(&ClientRule::NotAsked);
            assert!(
                refused.contains("'key-file' of tls 't' (line 7) is /") && refused.contains(wanted),
                "{refused}"
            );
        }
        let mut files = Files::new(KEYS[0]);
        files.1.params.key_file_password.set(&files.write("password", "secret"));
        assert!(files.error(&ClientRule::Any).contains("'ca-file' of tls 't' (line 7) is missing"));
        files.1.params.ca_file.set(&files.write("ca", "nothing"));
        assert!(files.error(&ClientRule::Any).contains("which holds no certificate"));
        files.1.params.ca_file = Text::new(None);
        files.1.params.ca_path.set("/no/such/folder");
        assert!(
            files.error(&ClientRule::Any).contains("'ca-path' of tls 't' (line 7) cannot be read: /no/such")
        );
        files.1.params.ca_path = Text::new(None);
        files.1.params.ca_file.set(&files.write("ca", CERTIFICATE));
        files.1.params.cert_blacklist.set(&files.write("list", "# one\nxyz\n"));
        assert!(files.error(&ClientRule::Any).contains("line 2: a line is a serial number"));
        files.1.params.cert_blacklist = Text::new(None);
        files.1.params.cipher_suite.set("AES128-SHA");
        assert!(files.error(&ClientRule::Any).contains("'cipher-suite' of tls 't' (line 7) names none"));
        files.1.params.cipher_suite = Text::new(None);
        files.1.params.protocols.set("TLSv1.1");
        assert!(files.error(&ClientRule::Any).contains("'protocols' of tls 't' (line 7) has 'TLSv1.1'"));
        files.1.params.protocols.set("all");
        server_config(&files.1, &ClientRule::Any, false).expect("it is taken");
        files.1.params.cert_file.set(&files.write("cert", KEYS[0]));
        assert!(files.error(&ClientRule::Any).contains("in each other's place"));
    }

    #[test]
    fn a_folder_of_authorities_is_read_whole() {
        let files = Files::new(KEYS[0]);
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("one.pem"), CERTIFICATE).expect("a file");
        files.1.params.key_file_password.set(&files.write("password", "secret"));
        files.1.params.ca_path.set(folder.path().to_str().expect("text"));
        server_config(&files.1, &ClientRule::Any, false).expect("it is taken");
        assert_eq!(super::files(&files.1).len(), 5);
    }
}
