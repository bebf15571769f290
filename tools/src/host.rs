//! The address of a server, from the options `-h` and `-p` of every tool.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Default service port.
pub const DEFAULT_PORT: u16 = 3000;

/// A host name or address and a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Name, IPv4 address, or IPv6 address without brackets.
    pub name: String,
    /// TCP port of the service.
    pub port: u16,
    /// The name in the server's certificate, if it was given.
    pub tls_name: Option<String>,
}

impl Host {
    /// Parses `host[:tls-name][:port]`, or a comma-separated list of them, of which the first is used because
    /// the tools talk to one node. An IPv6 address with a port must be in brackets.
    ///
    /// # Errors
    /// A sentence for the user when `text` is invalid.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let first = text.split(',').next().unwrap_or_default().trim();
        if first.is_empty() {
            return Err("the host is empty".to_owned());
        }
        if let Some(rest) = first.strip_prefix('[') {
            let (name, rest) =
                rest.split_once(']').ok_or_else(|| format!("\"{first}\": the bracket is not closed"))?;
            return Host::with_rest(name, rest, default_port).ok_or_else(|| bad_port(first));
        }
        if first.parse::<Ipv6Addr>().is_ok() {
            return Ok(Host { name: first.to_owned(), port: default_port, tls_name: None });
        }
        let (name, rest) = first.find(':').map_or((first, ""), |at| first.split_at(at));
        Host::with_rest(name, rest, default_port).ok_or_else(|| bad_port(first))
    }

    /// The host called `name` with the rest of its text, `:port`, `:tls-name:port`, `:tls-name` or nothing.
    /// `None` when the last part is not a port.
    fn with_rest(name: &str, rest: &str, default_port: u16) -> Option<Self> {
        let host = |port, tls_name: Option<&str>| Host {
            name: name.to_owned(),
            port,
            tls_name: tls_name.map(str::to_owned),
        };
        let Some(rest) = rest.strip_prefix(':') else {
            return rest.is_empty().then(|| host(default_port, None));
        };
        match rest.rsplit_once(':') {
            Some((tls_name, port)) => Some(host(port.parse().ok()?, Some(tls_name))),
            None if rest.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                Some(host(default_port, Some(rest)))
            }
            None => Some(host(rest.parse().ok()?, None)),
        }
    }

    /// The expected name in the host's certificate, unless an option overrides it.
    #[must_use]
    pub fn certificate_name(&self) -> &str {
        self.tls_name.as_deref().unwrap_or(&self.name)
    }

    /// The first address of the host. IPv4 comes before IPv6, because servers listen on IPv4 by default.
    /// `localhost` is this machine even if no file says so, as in a bare container.
    ///
    /// # Errors
    /// When the name does not resolve.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        let addresses: Vec<SocketAddr> = match (self.name.as_str(), self.port).to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(_) if self.name == "localhost" => vec![(Ipv4Addr::LOCALHOST, self.port).into()],
            Err(error) => return Err(error),
        };
        addresses
            .iter()
            .find(|a| a.is_ipv4())
            .or(addresses.first())
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.name)))
    }

    /// Connects without Nagle's delay, waiting at most `timeout` for the server to accept.
    ///
    /// # Errors
    /// When the name does not resolve or the server does not answer.
    pub fn connect(&self, timeout: Duration) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.resolve()?, timeout)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

fn bad_port(text: &str) -> String {
    format!("\"{text}\" is not host[:tls-name][:port] with a port of 0 to 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> Result<Host, String> {
        Ok(Host { name: name.to_owned(), port, tls_name: None })
    }

    fn tls_host(name: &str, tls_name: &str, port: u16) -> Result<Host, String> {
        host(name, port).map(|host| Host { tls_name: Some(tls_name.to_owned()), ..host })
    }

    #[test]
    fn the_forms_of_a_host_are_read() {
        assert_eq!(Host::parse("localhost", 3000), host("localhost", 3000));
        assert_eq!(Host::parse("10.0.0.1:4000", 3000), host("10.0.0.1", 4000));
        assert_eq!(Host::parse("10.0.0.1:cert:4000,10.0.0.2", 3000), tls_host("10.0.0.1", "cert", 4000));
        assert_eq!(Host::parse("10.0.0.1:cert", 3000), tls_host("10.0.0.1", "cert", 3000));
        assert_eq!(Host::parse("[::1]:cert:4000", 3000), tls_host("::1", "cert", 4000));
        assert_eq!(Host::parse("::1", 3000), host("::1", 3000));
        assert_eq!(Host::parse("[::1]:4000", 3000), host("::1", 4000));
        assert_eq!(Host::parse("[::1]", 3000), host("::1", 3000));
        for wrong in ["", "host:70000", "host:cert:x", "[::1", "[::1]x"] {
            assert!(Host::parse(wrong, 3000).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_prints_as_it_is_typed() {
        assert_eq!(Host::parse("::1", 3000).unwrap().to_string(), "[::1]:3000");
        assert_eq!(Host::parse("db1", 3000).unwrap().to_string(), "db1:3000");
    }
}
