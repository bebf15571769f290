//! Reading PEM files: sections of base64 between BEGIN and END lines, each with the line on which it begins.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
/// Some files have padding and others do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The text between a BEGIN and an END line.
#[derive(Debug)]
pub(super) struct Section<'a> {
    /// The label of the BEGIN line.
    pub(super) label: &'a str,
    /// Line of BEGIN, counted from 1.
    pub(super) line: usize,
    pub(super) der: Vec<u8>,
    /// Whether it is encrypted in the way of old OpenSSL, with headers in the section.
    pub(super) is_legacy_encrypted: bool,
}

/// An error in a file, with its line.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(super) struct PemError {
    line: usize,
    reason: &'static str,
}

/// All sections of a file. Text between them is skipped.
///
/// # Errors
/// When a section has no end or its base64 is damaged.
pub(super) fn sections(text: &str) -> Result<Vec<Section<'_>>, PemError> {
    let mut found = Vec::new();
    let mut open: Option<(Section<'_>, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let (number, line) = (at + 1, line.trim());
        let label_of = |start| line.strip_prefix(start).and_then(|rest: &str| rest.strip_suffix(DASHES));
        match (label_of(BEGIN), label_of(END), open.take()) {
            (Some(_), _, Some((section, _))) => return Err(unended(&section)),
            (Some(label), _, None) => {
                let section = Section { label, line: number, der: Vec::new(), is_legacy_encrypted: false };
                open = Some((section, String::new()));
            }
            (None, Some(label), Some((mut section, base64))) => {
                if label != section.label {
                    return Err(unended(&section));
                }
                if !section.is_legacy_encrypted {
                    let reason = "the text below is no base64: the file is damaged or was cut";
                    section.der =
                        BASE64.decode(base64).map_err(|_| PemError { line: section.line, reason })?;
                }
                found.push(section);
            }
            (None, None, Some((mut section, mut base64))) => {
                section.is_legacy_encrypted |= line.starts_with("Proc-Type:") && line.contains("ENCRYPTED");
                if !line.contains(':') {
                    base64.push_str(line);
                }
                open = Some((section, base64));
            }
            (None, _, None) => {}
        }
    }
    open.map_or(Ok(found), |(section, _)| Err(unended(&section)))
}

fn unended(section: &Section<'_>) -> PemError {
    PemError { line: section.line, reason: "this BEGIN has no END: the file was cut" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_found_among_other_text() {
        let text = "subject=/CN=x\n-----BEGIN A-----\nAAEC\nAw==\n-----END A-----\n\n-----BEGIN B C-----\r\nBA\r\n-----END B C-----\n";
        let found = sections(text).expect("sections");
        let short: Vec<_> = found.iter().map(|one| (one.label, one.line, one.der.as_slice())).collect();
        assert_eq!(short, [("A", 2, &[0, 1, 2, 3][..]), ("B C", 7, &[4])]);
        assert!(sections("nothing").expect("no section").is_empty());
    }

    #[test]
    fn damage_is_reported_with_its_line() {
        for (text, line) in [
            ("-----BEGIN A-----\nAAEC\n", 1),
            ("\n-----BEGIN A-----\nAAEC\n-----END B-----\n", 2),
            ("\n\n-----BEGIN A-----\nA!!C\n-----END A-----\n", 3),
            ("-----BEGIN A-----\n-----BEGIN A-----\n", 1),
        ] {
            assert_eq!(sections(text).expect_err(text).line, line, "{text}");
        }
    }

    #[test]
    fn old_encryption_is_seen() {
        let text = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAEC\n-----END RSA PRIVATE KEY-----\n";
        assert!(sections(text).expect("a section")[0].is_legacy_encrypted);
    }
}
