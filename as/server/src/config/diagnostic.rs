//! Errors and warnings about a configuration file, as values; the caller prints or logs them.

use std::fmt;
use std::sync::Arc;

/// Whether the server may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The server does not start.
    Error,
    /// The server starts.
    Warning,
}

/// Subject of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Braces and missing or surplus words.
    Syntax,
    /// A context or parameter that does not exist here.
    Name,
    /// A value that is not allowed.
    Value,
    /// Parameters that contradict each other.
    Rule,
    /// A name of former versions.
    Obsolete,
    /// Parameters that nothing reads yet.
    NotInEffect,
    /// Parameters that this server will never read.
    Unsupported,
    /// Protection that is configured and does not exist yet; the server does not start.
    Protection,
}

/// One sentence about a configuration file; displayed as `file:line: sentence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the server may start.
    pub severity: Severity,
    /// Its subject.
    pub topic: Topic,
    /// Name of the file.
    pub file: Arc<str>,
    /// Line in the file, from 1; 0 if it is about the file as a whole.
    pub line: usize,
    /// The sentence, without full stop.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}: {}", self.file, self.message),
            line => write!(out, "{}:{line}: {}", self.file, self.message),
        }
    }
}

/// Maximum number of characters of an offending word that a message repeats.
const WORD_SHOWN_MAX: usize = 80;

/// `word` in a form for messages: truncated if long, with control characters escaped.
#[must_use]
pub fn shown(word: &str) -> String {
    let mut text = String::new();
    for letter in word.chars().take(WORD_SHOWN_MAX) {
        match letter {
            '"' | '\'' => text.push(letter),
            _ => text.extend(letter.escape_debug()),
        }
    }
    if word.chars().nth(WORD_SHOWN_MAX).is_some() {
        text.push('…');
    }
    text
}
