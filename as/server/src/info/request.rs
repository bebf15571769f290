//! The parts of an info request, and the format of errors.

use std::fmt::{self, Display, Write};
use std::sync::Arc;

use proto::ResultCode;

use crate::namespace::Namespace;
use crate::node::Node;

/// Maximum number of characters of a request that the log shows.
const LOGGED_SIZE_MAX: usize = 200;

/// Result of a handler: its text is in `out`, or the answer is the error.
pub(super) type InfoResult = Result<(), InfoError>;

/// An error answer: `ERROR:<code>:<text>`; the code is left out when it is "unknown".
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct InfoError {
    code: ResultCode,
    text: String,
}

impl InfoError {
    pub(crate) fn new(code: ResultCode, text: impl Into<String>) -> Self {
        InfoError { code, text: text.into() }
    }

    /// A parameter is wrong.
    pub(crate) fn parameter(text: impl Into<String>) -> Self {
        InfoError::new(ResultCode::Parameter, text)
    }

    /// A command that exists, with arguments that this server does not support.
    pub(crate) fn unsupported(text: impl Into<String>) -> Self {
        InfoError::new(ResultCode::UnsupportedFeature, text)
    }

    /// The command, or a part of it, belongs to the Enterprise Edition.
    pub(crate) fn enterprise_only() -> Self {
        InfoError::new(ResultCode::EnterpriseOnly, "enterprise only")
    }

    pub(crate) fn is_enterprise_only(&self) -> bool {
        self.code == ResultCode::EnterpriseOnly
    }

    /// A named parameter is missing, empty or too long. A namespace has a separate error code.
    fn about(name: &str, text: impl Into<String>) -> Self {
        let code = if name == "namespace" { ResultCode::Namespace } else { ResultCode::Parameter };
        InfoError::new(code, text)
    }
}

impl Display for InfoError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            ResultCode::Unknown => write!(out, "ERROR::{}", self.text),
            code => write!(out, "ERROR:{}:{}", code.code(), self.text),
        }
    }
}

/// The text after the name of a command: `key=value` pairs separated by semicolons, or parts separated by slashes,
/// depending on the command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments<'a>(pub(crate) &'a str);

impl<'a> Arguments<'a> {
    /// The value of the first pair called `name`.
    fn find(self, name: &str) -> Option<&'a str> {
        self.0
            .split(';')
            .filter_map(|part| part.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// The value of `name`, if there is one.
    ///
    /// # Errors
    /// When it is empty or has `size_max` bytes or more.
    pub(crate) fn optional(self, name: &str, size_max: usize) -> Result<Option<&'a str>, InfoError> {
        check(name, self.find(name), size_max)
    }

    /// The value of `name`, which may be empty.
    ///
    /// # Errors
    /// When it is missing or has `size_max` bytes or more.
    pub(crate) fn required_or_empty(self, name: &str, size_max: usize) -> Result<&'a str, InfoError> {
        if self.find(name) == Some("") { Ok("") } else { self.required(name, size_max) }
    }

    /// The value of `name`.
    ///
    /// # Errors
    /// When it is missing, empty or has `size_max` bytes or more.
    pub(crate) fn required(self, name: &str, size_max: usize) -> Result<&'a str, InfoError> {
        self.optional(name, size_max)?.ok_or_else(|| InfoError::about(name, format!("missing '{name}'")))
    }

    /// The value of `name`, which may also be called `other`.
    ///
    /// # Errors
    /// As [`required`](Self::required).
    pub(crate) fn required_either(
        self,
        name: &str,
        other: &str,
        size_max: usize,
    ) -> Result<&'a str, InfoError> {
        let found = self.find(name).or_else(|| self.find(other));
        check(name, found, size_max)?.ok_or_else(|| InfoError::about(name, format!("missing '{name}'")))
    }

    /// The value of the switch `name`; off if it is missing.
    ///
    /// # Errors
    /// When it is neither `true` nor `false`.
    pub(crate) fn switch(self, name: &str) -> Result<bool, InfoError> {
        match self.optional(name, VALUE_SIZE_MAX)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(InfoError::parameter(format!("'{name}' may be either 'true' or 'false'"))),
        }
    }

    /// The name of the namespace that the command is about; the namespace need not exist.
    ///
    /// # Errors
    /// When the request names none.
    pub(crate) fn namespace_name(self) -> Result<&'a str, InfoError> {
        self.required("namespace", NAMESPACE_NAME_SIZE)
    }

    /// The namespace that the command is about. Its name must have fewer than `size_max` bytes.
    ///
    /// # Errors
    /// When the request names none, or there is no such namespace.
    pub(crate) fn namespace(self, node: &Node, size_max: usize) -> Result<&Arc<Namespace>, InfoError> {
        find_namespace(node, self.required("namespace", size_max)?)
    }

    /// As [`namespace`](Self::namespace), for commands that also know it by its older name `ns`.
    ///
    /// # Errors
    /// When the request names none, or there is no such namespace.
    pub(crate) fn namespace_or_ns(self, node: &Node) -> Result<&Arc<Namespace>, InfoError> {
        find_namespace(node, self.required_either("namespace", "ns", VALUE_SIZE_MAX)?)
    }

    /// As [`namespace`](Self::namespace), for commands that may leave it out.
    ///
    /// # Errors
    /// When there is no namespace of that name.
    pub(crate) fn optional_namespace(self, node: &Node) -> Result<Option<&Arc<Namespace>>, InfoError> {
        let found = self.optional("namespace", NAMESPACE_NAME_SIZE)?;
        found.map(|name| find_namespace(node, name)).transpose()
    }

    /// As [`namespace_or_ns`](Self::namespace_or_ns), for commands that may leave it out.
    ///
    /// # Errors
    /// When there is no namespace of that name.
    pub(crate) fn optional_namespace_or_ns(self, node: &Node) -> Result<Option<&Arc<Namespace>>, InfoError> {
        let found = self.find("namespace").or_else(|| self.find("ns"));
        check("namespace", found, VALUE_SIZE_MAX)?.map(|name| find_namespace(node, name)).transpose()
    }

    /// The parts between slashes.
    pub(crate) fn parts(self) -> (&'a str, Option<&'a str>) {
        match self.0.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (self.0, None),
        }
    }
}

/// Length limit (exclusive) of most values in the protocol.
pub(crate) const VALUE_SIZE_MAX: usize = 100;
/// Length limit (exclusive) of a namespace name, which has up to 31 bytes.
pub(crate) const NAMESPACE_NAME_SIZE: usize = 32;

fn check<'a>(name: &str, value: Option<&'a str>, size_max: usize) -> Result<Option<&'a str>, InfoError> {
    match value {
        Some("") => Err(InfoError::about(name, format!("missing '{name}' value"))),
        Some(value) if value.len() >= size_max => {
            Err(InfoError::about(name, format!("'{name}' value too long")))
        }
        value => Ok(value),
    }
}

fn find_namespace<'s>(node: &'s Node, name: &str) -> Result<&'s Arc<Namespace>, InfoError> {
    node.namespace(name).ok_or_else(|| InfoError::new(ResultCode::Namespace, "namespace not found on node"))
}

/// Items with a separator between them.
pub(super) struct Joined<'o> {
    out: &'o mut String,
    separator: char,
    is_first: bool,
}

impl<'o> Joined<'o> {
    pub(super) fn new(out: &'o mut String, separator: char) -> Self {
        Joined { out, separator, is_first: true }
    }

    /// Adds an item.
    pub(super) fn item(&mut self, item: impl Display) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(self.separator);
        }
        let _ = write!(self.out, "{item}");
    }

    /// Adds `key=value`.
    pub(super) fn pair(&mut self, key: impl Display, value: impl Display) {
        self.item(format_args!("{key}={value}"));
    }
}

/// Parses a number in C's notation: decimal, hexadecimal after `0x`, octal after `0`. A negative number wraps
/// around as an unsigned number of C does.
pub(super) fn parse_c_number(text: &str) -> Option<u64> {
    if let Some(rest) =
        text.strip_prefix('-').filter(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    {
        return parse_c_number(rest).map(u64::wrapping_neg);
    }
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
        _ => text.parse().ok(),
    }
}

/// Text of a client in a form for the log: truncated, and without control characters, so that it cannot
/// imitate a log line.
pub(super) fn shown(line: &str) -> String {
    let printable = |character: char| if character.is_control() { '?' } else { character };
    line.chars().take(LOGGED_SIZE_MAX).map(printable).collect()
}

/// The number at the start of `text`, as C's `strtoul` reads it: 0 if there is none, the largest number if it
/// is too large.
pub(super) fn c_number(text: &str) -> u64 {
    let text = text.trim_start_matches([' ', '\t', '\u{b}', '\u{c}', '\r', '\n']);
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) =
        match hexadecimal.filter(|rest| rest.starts_with(|first: char| first.is_ascii_hexdigit())) {
            Some(digits) => (digits, 16),
            None if text.starts_with('0') => (text, 8),
            None => (text, 10),
        };
    let end = digits.find(|digit: char| !digit.is_digit(radix)).unwrap_or(digits.len());
    match &digits[..end] {
        "" => 0,
        digits => u64::from_str_radix(digits, radix)
            .map_or(u64::MAX, |number| if is_negative { number.wrapping_neg() } else { number }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_taken_apart() {
        let arguments = Arguments("context=namespace;id=test;;flag;x=a=b;id=other;empty=");
        assert_eq!(arguments.optional("id", 10), Ok(Some("test")));
        assert_eq!(arguments.optional("flag", 10), Ok(None));
        assert_eq!(arguments.required("x", 10), Ok("a=b"));
        assert_eq!(arguments.required_either("namespace", "id", 10), Ok("test"));
        let error = |result: Result<&str, InfoError>| result.err().map(|error| error.to_string());
        assert_eq!(error(arguments.required("id", 4)).as_deref(), Some("ERROR:4:'id' value too long"));
        assert_eq!(error(arguments.required("empty", 4)).as_deref(), Some("ERROR:4:missing 'empty' value"));
        assert_eq!(error(arguments.namespace_name()).as_deref(), Some("ERROR:20:missing 'namespace'"));
    }

    #[test]
    fn switches_are_words() {
        assert_eq!(Arguments("verbose=true").switch("verbose"), Ok(true));
        assert_eq!(Arguments("").switch("verbose"), Ok(false));
        assert!(Arguments("verbose=1").switch("verbose").is_err());
    }

    #[test]
    fn errors_have_the_protocols_form() {
        assert_eq!(InfoError::parameter("text").to_string(), "ERROR:4:text");
        assert_eq!(InfoError::new(ResultCode::Unknown, "text").to_string(), "ERROR::text");
    }

    #[test]
    fn lists_have_separators_between_items_only() {
        let mut out = String::from("> ");
        let mut list = Joined::new(&mut out, ';');
        list.item(1);
        list.pair("a", "b");
        assert_eq!(out, "> 1;a=b");
    }

    #[test]
    fn numbers_are_read_as_c_writes_them() {
        let read: Vec<_> =
            ["10", "0x1F", "017", "0", "", "x", "0x", "9999999999999999999999", "-1", "--1", "-"]
                .map(parse_c_number)
                .into();
        let known =
            [Some(10), Some(31), Some(15), Some(0), None, None, None, None, Some(u64::MAX), None, None];
        assert_eq!(read, known);
    }

    #[test]
    fn numbers_with_trailing_characters_are_read_as_in_c() {
        let read = [
            "",
            "x",
            "12x",
            " 12",
            "+7",
            "-1",
            "0x1Fg",
            "0x",
            "0xg",
            "018",
            "0",
            "99999999999999999999",
            "-",
        ];
        let read: Vec<u64> = read.map(c_number).into();
        assert_eq!(read, [0, 0, 12, 12, 7, u64::MAX, 31, 0, 0, 1, 0, u64::MAX, 0]);
    }
}
