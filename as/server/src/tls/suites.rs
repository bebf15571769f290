//! TLS versions and cipher suites that a context offers: `protocols` and `cipher-suite`, in OpenSSL's notation. Pure.

use rustls::crypto::ring::cipher_suite as suite;
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// A suite with its OpenSSL name, and the OpenSSL words for groups that contain it.
struct Suite {
    name: &'static str,
    words: &'static [&'static str],
    suite: SupportedCipherSuite,
}

const fn suite(name: &'static str, words: &'static [&'static str], suite: SupportedCipherSuite) -> Suite {
    Suite { name, words, suite }
}

/// All suites of TLS 1.2, best first.
static SUITES_12: &[Suite] = &[
    suite(
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        &["aECDSA", "ECDSA", "AES128", "AESGCM", "AES", "SHA256"],
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    suite(
        "ECDHE-RSA-AES128-GCM-SHA256",
        &["aRSA", "RSA", "AES128", "AESGCM", "AES", "SHA256"],
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    suite(
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        &["aECDSA", "ECDSA", "AES256", "AESGCM", "AES", "SHA384"],
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    suite(
        "ECDHE-RSA-AES256-GCM-SHA384",
        &["aRSA", "RSA", "AES256", "AESGCM", "AES", "SHA384"],
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    suite(
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        &["aECDSA", "ECDSA", "CHACHA20", "SHA256"],
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    suite(
        "ECDHE-RSA-CHACHA20-POLY1305",
        &["aRSA", "RSA", "CHACHA20", "SHA256"],
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// All suites of TLS 1.3, which `cipher-suite` does not affect.
static SUITES_13: &[SupportedCipherSuite] = &[
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// Words that match all suites.
const EVERY: &[&str] = &["ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "TLSv1.2", "FIPS"];

impl Suite {
    /// Whether a word of the list, whose parts may be joined with `+`, matches the suite.
    fn is_meant(&self, word: &str) -> bool {
        let has = |part: &str| {
            part.eq_ignore_ascii_case(self.name) || EVERY.contains(&part) || self.words.contains(&part)
        };
        word.split('+').all(has)
    }
}

/// The suites of a list such as `ECDHE+AESGCM:!AES256`, those of TLS 1.3 first; all suites without a list.
///
/// # Errors
/// When the list leaves no suite of TLS 1.2.
pub(super) fn cipher_suites(list: Option<&str>) -> Result<Vec<SupportedCipherSuite>, String> {
    let mut chosen: Vec<&Suite> = Vec::new();
    let mut banned: Vec<&str> = Vec::new();
    let list = list.unwrap_or("ALL");
    for word in list.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        match (word.strip_prefix('!'), word.strip_prefix('-')) {
            (Some(word), _) => {
                banned.push(word);
                chosen.retain(|suite| !suite.is_meant(word));
            }
            (None, Some(word)) => chosen.retain(|suite| !suite.is_meant(word)),
            // `@STRENGTH` and the like: the suites are ordered by strength already.
            (None, None) if word.starts_with('@') => {}
            (None, None) => {
                let word = word.strip_prefix('+').unwrap_or(word);
                for suite in SUITES_12.iter().filter(|suite| suite.is_meant(word)) {
                    let is_known = chosen.iter().any(|other| other.name == suite.name);
                    if !is_known && !banned.iter().any(|word| suite.is_meant(word)) {
                        chosen.push(suite);
                    }
                }
            }
        }
    }
    if chosen.is_empty() {
        let names: Vec<&str> = SUITES_12.iter().map(|suite| suite.name).collect();
        return Err(format!("names none of the available ciphers: {}", names.join(", ")));
    }
    Ok(SUITES_13.iter().copied().chain(chosen.iter().map(|suite| suite.suite)).collect())
}

/// The versions of a list such as `TLSv1.2`, `-all,+TLSv1.2` or `all`.
///
/// # Errors
/// When the list leaves no version, or asks for an obsolete one.
pub(super) fn versions(list: &str) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let (mut has_12, mut has_13) = (false, false);
    for word in list.split([',', ' ']).filter(|word| !word.is_empty()) {
        let (is_wanted, name) = match word.strip_prefix('-') {
            Some(name) => (false, name),
            None => (true, word.strip_prefix('+').unwrap_or(word)),
        };
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("all") {
            (has_12, has_13) = (is_wanted, is_wanted);
        } else if is("TLSv1.2") {
            has_12 = is_wanted;
        } else if is("TLSv1.3") {
            has_13 = is_wanted;
        } else if !["SSLv2", "SSLv3", "TLSv1", "TLSv1.0", "TLSv1.1"].iter().any(|old| is(old)) {
            return Err(format!("has '{word}', which is none of TLSv1.2, TLSv1.3 and all"));
        } else if is_wanted {
            return Err(format!("has '{word}', which is broken: use TLSv1.2 or TLSv1.3"));
        }
    }
    match (has_12, has_13) {
        (true, true) => Ok(vec![&TLS13, &TLS12]),
        (true, false) => Ok(vec![&TLS12]),
        (false, true) => Ok(vec![&TLS13]),
        (false, false) => Err("leaves no version: use TLSv1.2, TLSv1.3 or both".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(list: &str) -> Vec<&'static str> {
        let suites = cipher_suites(Some(list)).expect(list);
        let name = |suite: &SupportedCipherSuite| {
            SUITES_12.iter().find(|known| known.suite == *suite).map(|known| known.name)
        };
        suites.iter().filter_map(name).collect()
    }

    #[test]
    fn lists_of_openssl_choose_suites() {
        assert_eq!(chosen("ALL").len(), 6);
        assert_eq!(chosen("HIGH:!aNULL:!MD5:!RC4:@STRENGTH").len(), 6);
        assert_eq!(
            chosen("ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"),
            ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"]
        );
        assert_eq!(chosen("EECDH+AESGCM+aRSA:!AES256"), ["ECDHE-RSA-AES128-GCM-SHA256"]);
        assert_eq!(chosen("!CHACHA20:ALL:-AES128").len(), 2);
        assert!(cipher_suites(Some("AES256-SHA:DES-CBC3-SHA")).is_err_and(|why| why.contains("ECDHE")));
        assert_eq!(cipher_suites(None).expect("all").len(), 9);
    }

    #[test]
    fn versions_are_those_that_are_left() {
        for list in ["TLSv1.2", "-all,+TLSv1.2", "-all +tlsv1.2", "all -TLSv1.3", "TLSv1.2, -SSLv3"] {
            assert_eq!(versions(list).expect(list), [&TLS12], "{list}");
        }
        assert_eq!(versions("TLSv1.2,TLSv1.3").expect("both"), [&TLS13, &TLS12]);
        assert_eq!(versions("TLSv1.3").expect("one"), [&TLS13]);
        for wrong in ["", "-all", "TLSv1.1", "+SSLv3", "TLSv9", "TLSv1.2 nonsense"] {
            assert!(versions(wrong).is_err(), "{wrong}");
        }
    }
}
