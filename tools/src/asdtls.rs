//! `asd-tls`: a private authority, and its certificates for the nodes and clients of a cluster.
//!
//! A directory holds `ca.pem` and `ca-key.pem`, and for each certificate `NAME.pem` and `NAME-key.pem`. No file is ever
//! overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use certificates::CertificateFacts;
use clap::{CommandFactory, Parser, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const AUTHORITY: &str = "ca";
const AUTHORITY_DAYS: u32 = 3_650;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Make a private certificate authority, and its certificates for the nodes and clients of a cluster.
#[derive(Parser, Debug)]
#[command(name = "asd-tls", version)]
pub struct Options {
    /// Directory for the files; it is created if it does not exist
    #[arg(short, long, value_name = "DIRECTORY", default_value = ".", global = true)]
    dir: PathBuf,

    /// Days for which a certificate is valid
    #[arg(long, default_value_t = 825, global = true)]
    days: u32,

    #[command(subcommand)]
    wish: Wish,
}

/// The certificate to make. The authority is made with the first certificate.
#[derive(Subcommand, Debug)]
enum Wish {
    /// Make only the certificate authority
    Ca,
    /// Make the certificate of a node, or one for all nodes of a cluster
    Node {
        /// Name in the certificate that clients and other nodes check, as in "tls-name NAME"
        name: String,
        /// Further names and addresses
        others: Vec<String>,
    },
    /// Make the certificate of a client
    Client {
        /// Name of the client; it is the user name if the certificate is used for the login
        name: String,
    },
}

/// The definition of all options.
#[must_use]
pub fn command() -> clap::Command {
    Options::command()
}

/// Runs with `options`.
///
/// # Errors
/// Only when `out` or `errors` cannot be written.
pub fn run(options: &Options, out: &mut impl Write, errors: &mut impl Write) -> io::Result<ExitCode> {
    match make(options) {
        Ok(said) => {
            write!(out, "{said}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            writeln!(errors, "asd-tls: {why}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Writes the files; returns a message about them.
fn make(options: &Options) -> Result<String, String> {
    let folder = options.dir.as_path();
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // The paths are absolute, so that a server that is started in another folder finds the files by the
    // printed lines.
    let folder = &fs::canonicalize(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    match &options.wish {
        Wish::Ca => {
            make_authority(folder)?;
            Ok(format!("made {}\n", path(folder, AUTHORITY).display()))
        }
        Wish::Node { name, others } => {
            let names = [std::slice::from_ref(name), others.as_slice()].concat();
            // A node also connects to other nodes as a client.
            let uses = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            issue(folder, name, names, &uses, options.days)?;
            let (ca, certificate) = (path(folder, AUTHORITY), path(folder, name));
            let (ca, certificate) = (ca.display(), certificate.display());
            let key = key_path(folder, name);
            Ok(format!(
                "network {{\n    tls {name} {{\n        ca-file {ca}\n        cert-file {certificate}\n        key-file {}\n    }}\n    \
                 service {{\n        tls-name {name}\n        tls-port 4333\n        tls-authenticate-client false\n    }}\n}}\n",
                key.display()
            ))
        }
        Wish::Client { name } => {
            let uses = [ExtendedKeyUsagePurpose::ClientAuth];
            issue(folder, name, vec![name.clone()], &uses, options.days)?;
            Ok(format!(
                "asinfo -h HOST:TLS-NAME:4333 --tls-enable --tls-cafile {} --tls-certfile {} --tls-keyfile {}\n",
                path(folder, AUTHORITY).display(),
                path(folder, name).display(),
                key_path(folder, name).display()
            ))
        }
    }
}

/// Makes a certificate for node `name`, and an authority if there is none. Returns the paths of the
/// authority's certificate, of the node's certificate, and of its key.
///
/// # Errors
/// A sentence for the user with the reason.
pub fn make_node(folder: &Path, name: &str) -> Result<[PathBuf; 3], String> {
    let uses = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    issue(folder, name, vec![name.to_owned()], &uses, 1)?;
    Ok([path(folder, AUTHORITY), path(folder, name), key_path(folder, name)])
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.pem"))
}

fn key_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}-key.pem"))
}

fn sentence(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Writes a new file. Only its owner can read a key.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} exists already; remove it to make a new one", path.display())
        }
        _ => format!("{}: {error}", path.display()),
    })
}

fn write_both(folder: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<(), String> {
    write_new(&key_path(folder, name), &key.serialize_pem(), 0o600)?;
    write_new(&path(folder, name), certificate, 0o644)
}

/// Parameters of a certificate that is valid from now on, also on a clock that is a day behind.
fn parameters(names: Vec<String>, common_name: &str, days: u32) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(names).map_err(sentence)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(sentence)?;
    let start = date_time_ymd(1970, 1, 1);
    params.not_before = start + now.saturating_sub(DAY);
    params.not_after = start + now + DAY * days;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn authority_parameters(common_name: &str) -> Result<CertificateParams, String> {
    let mut params = parameters(Vec::new(), common_name, AUTHORITY_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn make_authority(folder: &Path) -> Result<Issuer<'static, KeyPair>, String> {
    let key = KeyPair::generate().map_err(sentence)?;
    // The authorities of two clusters must have different names.
    let mark: String = key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
    let params = authority_parameters(&format!("Private CA {mark}"))?;
    let certificate = params.self_signed(&key).map_err(sentence)?;
    write_both(folder, AUTHORITY, &certificate.pem(), &key)?;
    Ok(Issuer::new(params, key))
}

/// The authority of a directory. It is created if there is none.
fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>, String> {
    let (certificate_path, key_path) = (path(folder, AUTHORITY), key_path(folder, AUTHORITY));
    if !certificate_path.exists() && !key_path.exists() {
        return make_authority(folder);
    }
    let wrong = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let certificate =
        CertificateDer::from_pem_file(&certificate_path).map_err(|error| wrong(&certificate_path, &error))?;
    let key = fs::read_to_string(&key_path).map_err(|error| wrong(&key_path, &error))?;
    let key = KeyPair::from_pem(&key).map_err(|error| wrong(&key_path, &error))?;
    let facts = CertificateFacts::read(&certificate);
    let [name] = facts.as_ref().map(CertificateFacts::common_names).unwrap_or_default() else {
        let reason = "it is not one that asd-tls made: its subject is more than a common name";
        return Err(wrong(&certificate_path, &reason));
    };
    Ok(Issuer::new(authority_parameters(name)?, key))
}

fn issue(
    folder: &Path,
    name: &str,
    names: Vec<String>,
    uses: &[ExtendedKeyUsagePurpose],
    days: u32,
) -> Result<(), String> {
    if name == AUTHORITY || name.contains('/') || name.is_empty() {
        return Err(format!("\"{name}\" cannot be the name of a certificate"));
    }
    let issuer = authority(folder)?;
    let mut params = parameters(names, name, days)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = uses.to_vec();
    let key = KeyPair::generate().map_err(sentence)?;
    let certificate = params.signed_by(&key, &issuer).map_err(sentence)?;
    write_both(folder, name, &certificate.pem(), &key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asd_tls(arguments: &[&str]) -> (ExitCode, String) {
        let options = Options::try_parse_from(["asd-tls"].iter().chain(arguments)).unwrap();
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = run(&options, &mut out, &mut errors).unwrap();
        (code, String::from_utf8([out, errors].concat()).unwrap())
    }

    #[test]
    fn certificates_of_one_directory_have_one_authority() {
        Options::command().debug_assert();
        let folder = std::env::temp_dir().join(format!("asd-tls-{}", std::process::id()));
        let dir = folder.to_str().unwrap();
        let (code, said) = asd_tls(&["--dir", dir, "node", "db.example", "10.0.0.1"]);
        assert_eq!(code, ExitCode::SUCCESS, "{said}");
        assert!(said.contains("tls-name db.example"), "{said}");
        let before = fs::read(folder.join("ca.pem")).unwrap();
        assert_eq!(asd_tls(&["--dir", dir, "client", "alice"]).0, ExitCode::SUCCESS);
        assert_eq!(fs::read(folder.join("ca.pem")).unwrap(), before);
        // No file is overwritten.
        let (code, said) = asd_tls(&["--dir", dir, "client", "alice"]);
        assert_eq!(code, ExitCode::FAILURE);
        assert!(said.contains("alice-key.pem exists already"), "{said}");
        assert_eq!(asd_tls(&["--dir", dir, "ca"]).0, ExitCode::FAILURE);
        assert_eq!(asd_tls(&["--dir", dir, "client", "ca"]).0, ExitCode::FAILURE);
        fs::remove_dir_all(folder).unwrap();
    }
}
