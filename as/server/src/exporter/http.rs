//! The part of HTTP that a scraper needs: one GET or HEAD for each connection.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longest head of a request.
const HEAD_SIZE_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;

/// The outcome of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    Unavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::Unavailable => "503 Service Unavailable",
        }
    }
}

/// A request that can be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    /// Whether the client wants only the head of the answer.
    pub(super) is_head: bool,
}

/// A client. It is disconnected at its deadline, even if it takes a few bytes now and then.
pub(super) struct Visitor<'s> {
    stream: &'s TcpStream,
    deadline: Instant,
}

impl Request {
    /// The path without its query.
    pub(super) fn page(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }
}

impl<'s> Visitor<'s> {
    /// The client at the other end of the blocking `stream`, with a deadline that is `longest` from now.
    pub(super) fn new(stream: &'s TcpStream, longest: Duration) -> Self {
        Visitor { stream, deadline: Instant::now() + longest }
    }

    fn time_left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Write for Visitor<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.time_left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The request that begins with `head`, or the status to answer instead; `None` while it is incomplete.
pub(super) fn request_in(head: &[u8]) -> Option<Result<Request, Status>> {
    parse(head).or_else(|| (head.len() > HEAD_SIZE_MAX).then_some(Err(Status::BadRequest)))
}

/// The request in `head`; `None` while it is incomplete.
fn parse(head: &[u8]) -> Option<Result<Request, Status>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => Some(match (request.method, request.path) {
            (Some(method @ ("GET" | "HEAD")), Some(path)) => {
                Ok(Request { path: path.to_owned(), is_head: method == "HEAD" })
            }
            _ => Err(Status::MethodNotAllowed),
        }),
        Err(_) => Some(Err(Status::BadRequest)),
    }
}

/// The part of an answer that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    All,
    /// Only the head, which gives the size of the body.
    Head,
}

/// Writes an answer; the caller then closes the connection.
///
/// # Errors
/// When the client does not take it.
pub(super) fn respond(
    visitor: &mut impl Write,
    part: Part,
    status: Status,
    content_type: &str,
    body: &str,
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        status.line(),
        body.len()
    );
    visitor.write_all(head.as_bytes())?;
    if part == Part::All {
        visitor.write_all(body.as_bytes())?;
    }
    visitor.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_classified() {
        let asks_for = |path: &str, is_head| Some(Ok(Request { path: path.to_owned(), is_head }));
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), asks_for("/metrics", false));
        assert_eq!(parse(b"HEAD /healthz HTTP/1.0\r\n\r\n"), asks_for("/healthz", true));
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost:"), None);
        assert_eq!(parse(b"POST /metrics HTTP/1.1\r\n\r\n"), Some(Err(Status::MethodNotAllowed)));
        assert_eq!(parse(b"\x16\x03\x01\x00"), Some(Err(Status::BadRequest)));
    }
}
