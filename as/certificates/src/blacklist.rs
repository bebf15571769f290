//! Revoked certificates: the file of `cert-blacklist`.
//!
//! Each line holds a serial number in hexadecimal digits and, to restrict it to one issuer, that issuer as OpenSSL
//! prints it on one line. `#` begins a comment.
//!
//! ```text
//! 7B0CE1F3 /C=US/O=Example/CN=ca
//! ```

use std::collections::HashMap;

use crate::facts::CertificateFacts;

/// Serial numbers, each with its issuers; no issuer means any.
#[derive(Default, Debug)]
pub struct Blacklist(HashMap<String, Vec<String>>);

impl Blacklist {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The number of the first line that does not begin with a serial number.
    pub fn parse(text: &str) -> Result<Self, usize> {
        let mut serials: HashMap<String, Vec<String>> = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (serial, issuer) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if !serial.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(at + 1);
            }
            let digits = serial.trim_start_matches('0').to_ascii_uppercase();
            let digits = if digits.is_empty() { "0".to_owned() } else { digits };
            serials.entry(digits).or_default().push(issuer.trim().to_owned());
        }
        Ok(Blacklist(serials))
    }

    /// Whether a certificate is on the list.
    #[must_use]
    pub fn contains(&self, certificate: &CertificateFacts) -> bool {
        let issuers = self.0.get(certificate.serial());
        issuers.is_some_and(|issuers| {
            issuers.iter().any(|issuer| issuer.is_empty() || issuer == certificate.issuer())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::certificate;

    #[test]
    fn a_serial_number_is_enough_and_an_issuer_narrows_it() {
        let facts = CertificateFacts::read(&certificate("alice", &[])).expect("facts");
        let contains = |text: &str| Blacklist::parse(text).expect("a list").contains(&facts);
        assert!(contains("# gone\n\n000abc # lost laptop\n"));
        assert!(contains(&format!("1\nABC {}\n", facts.issuer())));
        assert!(!contains("ABC /CN=other\n") && !contains("ABCD\n") && !contains(""));
        assert_eq!(Blacklist::parse("1\n0x12\n").map(|_| ()), Err(2));
        assert_eq!(Blacklist::parse("AB:CD\n").map(|_| ()), Err(1));
    }
}
