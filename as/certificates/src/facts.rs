//! Contents of a certificate: names, serial number, issuer, validity. Pure.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::SystemTime;

use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const ORGANIZATIONAL_UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");
/// OpenSSL's abbreviations for the parts of a name.
const PART_NAMES: &[(ObjectIdentifier, &str)] = &[
    (COMMON_NAME, "CN"),
    (ObjectIdentifier::new_unwrap("2.5.4.4"), "SN"),
    (ObjectIdentifier::new_unwrap("2.5.4.5"), "serialNumber"),
    (ObjectIdentifier::new_unwrap("2.5.4.6"), "C"),
    (ObjectIdentifier::new_unwrap("2.5.4.7"), "L"),
    (ObjectIdentifier::new_unwrap("2.5.4.8"), "ST"),
    (ObjectIdentifier::new_unwrap("2.5.4.9"), "street"),
    (ObjectIdentifier::new_unwrap("2.5.4.10"), "O"),
    (ORGANIZATIONAL_UNIT, "OU"),
    (ObjectIdentifier::new_unwrap("2.5.4.12"), "title"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1"), "emailAddress"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1"), "UID"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25"), "DC"),
];

/// A parsed certificate.
#[derive(Debug)]
pub struct CertificateFacts {
    /// The subject's common names; the last one counts as *the* name.
    common_names: Vec<String>,
    /// The subject's last organizational unit.
    unit: Option<String>,
    /// Further DNS names and IP addresses that the certificate is for.
    alternate_names: Vec<String>,
    /// In upper-case hexadecimal digits, without leading zeros.
    serial: String,
    /// As OpenSSL prints it on one line: `/C=US/O=Example/CN=ca`.
    issuer: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl CertificateFacts {
    /// Parses a certificate; `None` if it is invalid.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?.tbs_certificate;
        let alternate: Option<(bool, SubjectAltName)> = certificate.get().ok()?;
        let alternate_names = alternate.map_or_else(Vec::new, |(_, names)| {
            let text = |name: &GeneralName| match name {
                GeneralName::DnsName(name) => Some(name.to_string()),
                GeneralName::IpAddress(bytes) => ip_address(bytes.as_bytes()).map(|ip| ip.to_string()),
                _ => None,
            };
            names.0.iter().filter_map(text).collect()
        });
        Some(CertificateFacts {
            common_names: parts(&certificate.subject)
                .filter(|(id, _)| *id == COMMON_NAME)
                .map(|(_, text)| text)
                .collect(),
            unit: parts(&certificate.subject)
                .filter(|(id, _)| *id == ORGANIZATIONAL_UNIT)
                .map(|(_, text)| text)
                .last(),
            alternate_names,
            serial: serial(certificate.serial_number.as_bytes()),
            issuer: one_line(&certificate.issuer),
            not_before: certificate.validity.not_before.to_system_time(),
            not_after: certificate.validity.not_after.to_system_time(),
        })
    }

    /// All common names of the subject.
    #[must_use]
    pub fn common_names(&self) -> &[String] {
        &self.common_names
    }

    /// The subject's common name: the last one.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_names.last().map(String::as_str)
    }

    /// The user that the certificate logs in: the subject's common name, and, after a dot, its organizational
    /// unit, if `with_unit` asks for it and there is one.
    #[must_use]
    pub fn user_name(&self, with_unit: bool) -> Option<String> {
        let name = self.common_name()?;
        Some(match self.unit.as_ref().filter(|_| with_unit) {
            Some(unit) => format!("{name}.{unit}"),
            None => name.to_owned(),
        })
    }

    /// Whether the certificate is for `name`: a common name or an alternate name, where `*.` stands for one
    /// label.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        self.common_names.iter().chain(&self.alternate_names).any(|pattern| matches(pattern, name))
    }

    /// All names that the certificate is for, for messages.
    #[must_use]
    pub fn names(&self) -> String {
        let mut names: Vec<&str> =
            self.common_names.iter().chain(&self.alternate_names).map(String::as_str).collect();
        names.dedup();
        names.join(", ")
    }

    /// The serial number, in upper-case hexadecimal digits without leading zeros.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The issuer, on one line as OpenSSL prints it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The reason why the certificate is not valid at `now`; `None` if it is valid.
    #[must_use]
    pub fn fault_at(&self, now: SystemTime) -> Option<&'static str> {
        if now > self.not_after {
            Some("has expired: clients refuse it; have a new one issued")
        } else if now < self.not_before {
            Some("is not valid yet: clients refuse it; is the clock of this machine right?")
        } else {
            None
        }
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A serial number in the form of blacklists.
fn serial(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02X}");
    }
    let digits = text.trim_start_matches('0');
    if digits.is_empty() { "0".to_owned() } else { digits.to_owned() }
}

/// The parts of a name, as text.
fn parts(name: &Name) -> impl Iterator<Item = (ObjectIdentifier, String)> {
    name.0.iter().flat_map(|part| part.0.iter()).map(|one| {
        let value = &one.value;
        let text = match value.tag() {
            // Two bytes per character.
            x509_cert::der::Tag::BmpString => {
                let units = value.value().chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
                String::from_utf16_lossy(&units.collect::<Vec<_>>())
            }
            _ => String::from_utf8_lossy(value.value()).into_owned(),
        };
        (one.oid, text)
    })
}

fn one_line(name: &Name) -> String {
    let mut line = String::new();
    for (id, text) in parts(name) {
        let known = PART_NAMES.iter().find(|(known, _)| *known == id);
        let _ = match known {
            Some((_, word)) => write!(line, "/{word}={text}"),
            None => write!(line, "/{id}={text}"),
        };
    }
    line
}

/// Whether a certificate's name covers `name`; case does not matter.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    match (pattern.strip_prefix("*."), name.split_once('.')) {
        (Some(rest), Some((label, domain))) => !label.is_empty() && rest.eq_ignore_ascii_case(domain),
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    /// A self-signed certificate.
    pub(crate) fn certificate(common_name: &str, alternate: &[&str]) -> Vec<u8> {
        let mut params =
            CertificateParams::new(alternate.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
                .expect("names");
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "sales");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(vec![0, 0x0a, 0xbc].into());
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn facts_are_those_of_the_certificate() {
        let facts =
            CertificateFacts::read(&certificate("alice", &["db.example", "10.0.0.1"])).expect("facts");
        assert_eq!(facts.common_name(), Some("alice"));
        assert_eq!(facts.user_name(false).as_deref(), Some("alice"));
        assert_eq!(facts.user_name(true).as_deref(), Some("alice.sales"));
        assert_eq!(facts.alternate_names, ["db.example", "10.0.0.1"]);
        assert_eq!(facts.serial(), "ABC");
        assert!(
            facts.issuer().contains("/CN=alice") && facts.issuer().contains("/O=Example"),
            "{}",
            facts.issuer()
        );
        assert!(["alice", "db.example", "DB.Example", "10.0.0.1"].iter().all(|name| facts.is_for(name)));
        assert!(["bob", "x.db.example", "10.0.0.2", ""].iter().all(|name| !facts.is_for(name)));
        assert_eq!(facts.fault_at(SystemTime::now()), None);
        assert!(facts.fault_at(SystemTime::UNIX_EPOCH).is_some_and(|why| why.contains("not valid yet")));
        assert!(CertificateFacts::read(b"no certificate").is_none());
    }

    #[test]
    fn a_star_matches_one_label() {
        assert!(matches("*.example.com", "a.Example.com"));
        for name in ["example.com", "a.b.example.com", ".example.com", "*.com"] {
            assert!(!matches("*.example.com", name), "{name}");
        }
        assert!(matches("as_cluster west", "as_cluster west"));
    }
}
