//! TLS for tests: a private authority, its certificates, and TLS connections.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};

use crate::client::{Channel, Client, PATIENCE};
use crate::server::Server;

/// The text before the address in the log line for each client port with TLS.
const PORT_MARK: &str = " client TLS port ";

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    /// The certificate in PEM format.
    pub certificate_pem: String,
    key: Vec<u8>,
    /// The key in PEM format.
    pub key_pem: String,
}

/// The properties of a certificate to issue.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The subject's common name. It is the only name.
    pub name: &'a str,
    /// Its serial number.
    pub serial: u64,
    /// Whether it expired long ago.
    pub is_expired: bool,
    /// The subject's organizational unit.
    pub unit: Option<&'a str>,
}

impl<'a> Wish<'a> {
    /// A valid certificate for `name`.
    pub fn named(name: &'a str) -> Self {
        Wish { name, serial: 4_711, is_expired: false, unit: None }
    }
}

/// An authority that signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// The authority's own certificate in PEM format.
    pub pem: String,
}

impl Authority {
    /// Creates an authority.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a certificate");
        Authority {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Issues a certificate.
    pub fn issue(&self, wish: Wish<'_>) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![wish.name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, wish.name);
        if let Some(unit) = wish.unit {
            params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
        }
        params.serial_number = Some(SerialNumber::from(wish.serial));
        if wish.is_expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key: key.serialize_der(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Writes `ca.pem`, `cert.pem` and `key.pem` to a folder.
    pub fn write_files(&self, folder: &Path, identity: &Identity) {
        for (name, text) in
            [("ca.pem", &self.pem), ("cert.pem", &identity.certificate_pem), ("key.pem", &identity.key_pem)]
        {
            std::fs::write(folder.join(name), text).expect("write a file");
        }
    }

    /// The configuration of a client that trusts this authority, and sends `identity` if the server asks for
    /// a certificate. It speaks only `version`.
    pub fn client_config(
        &self,
        identity: Option<&Identity>,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots);
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
                builder.with_client_auth_cert(vec![identity.certificate.clone()], key).expect("an identity")
            }
        })
    }

    /// Same as [`client_config`](Self::client_config), for TLS 1.2.
    pub fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        self.client_config(identity, &version::TLS12)
    }
}

/// TLS on a socket.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Channel for TlsStream {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

/// The server's address for clients with TLS.
pub fn tls_address(server: &Server) -> SocketAddr {
    server.await_log(PORT_MARK);
    let log = server.log();
    let last = log.lines().filter_map(|line| line.split_once(PORT_MARK)).next_back();
    last.and_then(|(_, address)| address.trim().parse().ok()).expect("an address")
}

/// Connects with TLS to a server with a certificate for `name`, and does the handshake.
///
/// # Errors
/// When the server refuses, or its certificate is not accepted.
pub fn connect(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> io::Result<Client<TlsStream>> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream.into())
}

/// The first message that a client sends to a node called `node.test`.
pub fn client_hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("node.test").expect("a name");
    let mut connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("room");
    hello
}

/// Whether the server closes the connection `socket` before `longest` has passed. It may send bytes before.
pub fn ends_within(mut socket: &TcpStream, longest: Duration) -> bool {
    let started = std::time::Instant::now();
    let mut bytes = [0; 4096];
    while started.elapsed() < longest {
        let left = longest.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left)).expect("a timeout");
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
    false
}

/// Sends as much of `bytes` as the server accepts.
pub fn send_anyway(mut socket: &TcpStream, bytes: &[u8]) {
    let _ = socket.write_all(bytes);
}
