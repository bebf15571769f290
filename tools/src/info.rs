//! The client side of the info protocol: named requests, text answers.
//!
//! ```text
//! header  u8 version = 2, u8 type = 1, u48 big-endian length of the body
//! request name '\n' …            an empty body asks for the server's default list
//! answer  name '\t' value '\n' …
//! ```

use std::io::{self, Read, Write};
use std::time::Duration;

use crate::host::Host;
use crate::link::{Access, Link};

/// Bytes before the body of every frame.
pub const HEADER_SIZE: usize = 8;
const PROTO_VERSION: u8 = 2;
const PROTO_TYPE_INFO: u8 = 1;

/// Largest answer that the tools read, in bytes. It is the server's own limit.
pub const BODY_SIZE_MAX: usize = 128 << 20;

/// The reason why an info request has no answer.
#[derive(Debug)]
pub enum InfoError {
    /// The server could not be reached.
    Connect(io::Error),
    /// The connection broke, or the server took longer than the timeout.
    Exchange(io::Error),
    /// The reply is not an info answer.
    Malformed(&'static str),
}

impl std::fmt::Display for InfoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            InfoError::Connect(error) => write!(f, "cannot connect: {error}"),
            InfoError::Exchange(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => write!(f, "no answer in time"),
                io::ErrorKind::UnexpectedEof => write!(f, "the server closed the connection"),
                _ => write!(f, "{error}"),
            },
            InfoError::Malformed(what) => write!(f, "not an info answer: {what}"),
        }
    }
}

/// Asks `host` for `names` and returns `(name, value)` in the server's order. No names mean the server's
/// default list.
///
/// # Errors
/// See [`InfoError`]. A command that the server refuses is an answer, not an error.
pub fn ask(
    host: &Host,
    access: &Access,
    names: &[String],
    timeout: Duration,
) -> Result<Vec<(String, String)>, InfoError> {
    let connected = host.resolve().and_then(|address| Link::connect(&address, timeout, access));
    let mut stream = connected.map_err(InfoError::Connect)?;
    exchange(&mut stream, names, timeout)
}

/// As [`ask`], on an open connection.
///
/// # Errors
/// Those of [`ask`].
pub fn exchange(
    stream: &mut Link,
    names: &[String],
    timeout: Duration,
) -> Result<Vec<(String, String)>, InfoError> {
    stream.set_timeout(Some(timeout)).map_err(InfoError::Exchange)?;
    let sent = stream.write_all(&encode_request(names)).and_then(|()| stream.flush());
    sent.map_err(InfoError::Exchange)?;
    let mut header = [0; HEADER_SIZE];
    stream.read_exact(&mut header).map_err(InfoError::Exchange)?;
    let size = decode_header(header)?;
    let mut body = Vec::new();
    stream.take(size as u64).read_to_end(&mut body).map_err(InfoError::Exchange)?;
    if body.len() < size {
        return Err(InfoError::Exchange(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(decode_body(&body))
}

/// The frame that asks for `names`.
#[must_use]
pub fn encode_request(names: &[String]) -> Vec<u8> {
    let size: usize = names.iter().map(|name| name.len() + 1).sum();
    let mut frame = Vec::with_capacity(HEADER_SIZE + size);
    frame.extend_from_slice(&(size as u64).to_be_bytes());
    frame[0] = PROTO_VERSION;
    frame[1] = PROTO_TYPE_INFO;
    for name in names {
        frame.extend_from_slice(name.as_bytes());
        frame.push(b'\n');
    }
    frame
}

/// Length of the body after `header`.
///
/// # Errors
/// When this is not the header of an info frame.
pub fn decode_header(header: [u8; HEADER_SIZE]) -> Result<usize, InfoError> {
    if header[0] != PROTO_VERSION {
        return Err(InfoError::Malformed("its version is not 2"));
    }
    if header[1] != PROTO_TYPE_INFO {
        return Err(InfoError::Malformed("its type is not info"));
    }
    let size = u64::from_be_bytes(header) & 0xFFFF_FFFF_FFFF;
    usize::try_from(size)
        .ok()
        .filter(|size| *size <= BODY_SIZE_MAX)
        .ok_or(InfoError::Malformed("it claims more than 128 MiB"))
}

/// The `(name, value)` lines of an answer. A line without a tab is a name with an empty value.
#[must_use]
pub fn decode_body(body: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(body);
    text.split('\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once('\t').unwrap_or((line, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// Whether the server's answer to one command is a refusal.
#[must_use]
pub fn is_error(value: &str) -> bool {
    let word = value.split(':').next().unwrap_or_default();
    word.eq_ignore_ascii_case("error") || word.eq_ignore_ascii_case("fail")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_a_header_and_lines() {
        let frame = encode_request(&["build".to_owned(), "node".to_owned()]);
        assert_eq!(frame, b"\x02\x01\0\0\0\0\0\x0bbuild\nnode\n");
        assert_eq!(encode_request(&[]), b"\x02\x01\0\0\0\0\0\0");
    }

    #[test]
    fn an_answer_is_names_and_values() {
        let answer = decode_body(b"build\t8.0.0.7\nbare\nstatistics\ta=1;b=\t2\n");
        let expected = [("build", "8.0.0.7"), ("bare", ""), ("statistics", "a=1;b=\t2")];
        assert_eq!(answer, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn refusals_are_distinguished_from_values() {
        for refusal in ["ERROR:4:unrecognized command", "ERROR::no namespace", "error", "FAIL:4:bad", "fail"]
        {
            assert!(is_error(refusal), "{refusal}");
        }
        for value in ["", "ok", "errors=0;x=1", "failures=1", "test;bar"] {
            assert!(!is_error(value), "{value}");
        }
    }

    #[test]
    fn headers_of_other_frames_are_refused() {
        assert_eq!(decode_header(*b"\x02\x01\0\0\0\0\x01\x00").unwrap(), 256);
        assert!(decode_header(*b"\x03\x01\0\0\0\0\0\0").is_err());
        assert!(decode_header(*b"\x02\x03\0\0\0\0\0\0").is_err());
        assert!(decode_header(*b"\x02\x01\xff\0\0\0\0\0").is_err());
    }

    proptest! {
        #[test]
        fn any_body_decodes(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (name, _) in decode_body(&body) {
                prop_assert!(!name.contains('\n'));
            }
        }
    }
}
