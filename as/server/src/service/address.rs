//! Addresses: those to listen on, and those to tell clients.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use cf::sys::interfaces::Interface;
use socket2::{Domain, Protocol, Socket, Type};

use super::Listener;
use crate::config::params::network::NetworkServiceParams;
use crate::config::setting::List;

/// Number of connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
/// The values of `address` for all interfaces, and for loopback.
const ANY: &str = "any";
const LOCAL: &str = "local";

/// The reason why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("'{0}' is neither an IP address (without port or brackets) nor the name of an interface or host")]
    Unknown(String),
    #[error("'{0}' is not an address that a client could connect to")]
    Unreachable(String),
    #[error("the interface '{0}' has no IP address that one could listen on")]
    NoAddress(String),
    #[error("cannot listen on {0}: {why}", why = bind_failure(.1))]
    Bind(SocketAddr, io::Error),
}

/// The reason why an address cannot be bound, in plain words.
fn bind_failure(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process uses this port".to_owned(),
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has this address".to_owned(),
        _ => error.to_string(),
    }
}

/// The configured addresses of a port.
pub(crate) struct ListenPlace {
    /// The context of the configuration, and the names of the parameters in it.
    pub(crate) context: &'static str,
    pub(crate) address_name: &'static str,
    pub(crate) port_name: &'static str,
    /// Addresses, interfaces and hosts; empty means any.
    pub(crate) configured: Vec<String>,
    pub(crate) port: u16,
    /// Whether to listen on the loopback interface too.
    pub(crate) with_localhost: bool,
    /// Whether to listen on IPv6 addresses that are not listed one by one.
    pub(crate) with_ipv6: bool,
}

impl ListenPlace {
    /// The addresses, each of them once, and the errors in the others.
    fn addresses(&self) -> (Vec<IpAddr>, Vec<ListenError>) {
        let (mut addresses, mut errors) = (Vec::new(), Vec::new());
        let any = [ANY.to_owned()];
        for text in if self.configured.is_empty() { &any[..] } else { &self.configured } {
            match resolve(text, self.with_ipv6) {
                Ok(found) => {
                    for address in found {
                        if !addresses.contains(&address) {
                            addresses.push(address);
                        }
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        let is_local = |address: &IpAddr| address.is_unspecified() || address.is_loopback();
        if self.with_localhost && !addresses.iter().any(is_local) {
            addresses.push(Ipv4Addr::LOCALHOST.into());
        }
        (addresses, errors)
    }

    /// An address that both places would listen on at the same port.
    pub(crate) fn overlap(&self, other: &ListenPlace) -> Option<IpAddr> {
        if self.port == 0 || self.port != other.port {
            return None;
        }
        let (own, others) = (self.addresses().0, other.addresses().0);
        let covers = |wide: &IpAddr, address: &IpAddr| {
            wide == address || wide.is_unspecified() && wide.is_ipv4() == address.is_ipv4()
        };
        let is_covered = |address: &IpAddr, by: &[IpAddr]| by.iter().any(|wide| covers(wide, address));
        let first_covered = |addresses: &[IpAddr], by: &[IpAddr]| {
            addresses.iter().find(|address| is_covered(address, by)).copied()
        };
        first_covered(&own, &others).or_else(|| first_covered(&others, &own))
    }

    /// The index of the configured address that `error` is about.
    pub(crate) fn item_of(&self, error: &ListenError) -> Option<usize> {
        self.configured.iter().position(|text| match error {
            ListenError::Unknown(wrong) | ListenError::NoAddress(wrong) | ListenError::Unreachable(wrong) => {
                text == wrong
            }
            ListenError::Bind(address, _) => {
                resolve(text, self.with_ipv6).is_ok_and(|found| found.contains(&address.ip()))
            }
        })
    }
}

/// Bound addresses that do not accept connections yet.
///
/// By binding first, a server knows that its ports are free before it opens its devices, which may belong to
/// a server that holds the ports; and no client waits in a queue until the devices are loaded.
pub(crate) struct Bound(Vec<(SocketAddr, Socket)>);

impl Bound {
    /// Binds every configured address. With port 0 the system chooses one, the same for all addresses.
    ///
    /// # Errors
    /// When one of them cannot be bound.
    pub(crate) fn new(place: &ListenPlace) -> Result<Self, ListenError> {
        let (bound, errors) = Bound::as_far_as_possible(place);
        errors.into_iter().next().map_or(Ok(bound), Err)
    }

    /// Binds every configured address that can be bound.
    pub(crate) fn as_far_as_possible(place: &ListenPlace) -> (Self, Vec<ListenError>) {
        let mut port = place.port;
        let mut bound = Vec::new();
        let (addresses, mut errors) = place.addresses();
        for address in addresses {
            let address = SocketAddr::new(address, port);
            match bind(address) {
                Ok(socket) => {
                    let local = socket.local_addr().ok().and_then(|local| local.as_socket());
                    port = local.map_or(port, |local| local.port());
                    bound.push((SocketAddr::new(address.ip(), port), socket));
                }
                Err(error) => errors.push(ListenError::Bind(address, error)),
            }
        }
        (Bound(bound), errors)
    }

    /// A port without addresses.
    pub(crate) fn nowhere() -> Self {
        Bound(Vec::new())
    }

    /// The addresses, in the order of the configuration.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(address, _)| *address).collect()
    }

    /// Accepts connections from now on.
    ///
    /// # Errors
    /// When another process listens there by now.
    pub(crate) fn listen(self) -> Result<Vec<Listener>, ListenError> {
        let listen = |(address, socket): (SocketAddr, Socket)| match socket.listen(BACKLOG) {
            Ok(()) => Ok(socket.into()),
            Err(error) => Err(ListenError::Bind(address, error)),
        };
        self.0.into_iter().map(listen).collect()
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // The IPv4 address is bound separately.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The IP addresses of `text`: `any`, `local`, an address, an interface, or a host name. If an interface or a host has
/// addresses of both families, the IPv6 ones count only `with_ipv6`.
fn resolve(text: &str, with_ipv6: bool) -> Result<Vec<IpAddr>, ListenError> {
    match text {
        ANY if with_ipv6 => return Ok(vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]),
        ANY => return Ok(vec![Ipv4Addr::UNSPECIFIED.into()]),
        LOCAL => return Ok(vec![Ipv4Addr::LOCALHOST.into()]),
        _ => {}
    }
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let interfaces = Interface::all().unwrap_or_default();
    if let Some(interface) = interfaces.into_iter().find(|interface| interface.name == text) {
        let addresses = usable(interface.addresses, with_ipv6);
        return if addresses.is_empty() {
            Err(ListenError::NoAddress(text.to_owned()))
        } else {
            Ok(addresses)
        };
    }
    let unknown = || ListenError::Unknown(text.to_owned());
    if !is_host_name(text) {
        return Err(unknown());
    }
    let found = (text, 0).to_socket_addrs().map_err(|_| unknown())?;
    Ok(usable(found.map(|found| found.ip()).collect(), with_ipv6))
}

/// The addresses to listen on: without link-local IPv6 addresses, which need an interface to be valid, and
/// without other IPv6 addresses beside IPv4 ones unless they are wanted.
fn usable(mut addresses: Vec<IpAddr>, with_ipv6: bool) -> Vec<IpAddr> {
    addresses.retain(|address| address.is_ipv4() || !is_link_local(address));
    if !with_ipv6 && addresses.iter().any(IpAddr::is_ipv4) {
        addresses.retain(IpAddr::is_ipv4);
    }
    addresses
}

/// The addresses that clients are told for the configured access addresses. These are IP addresses, those of
/// an interface or of a host whose name is valid only here, and full host names unchanged. An interface's
/// addresses of a family without a `bound` address are left out, because no client could connect to them.
///
/// # Errors
/// For an address to which no client could connect.
fn accessible(configured: &[String], bound: &[SocketAddr]) -> Result<Vec<String>, ListenError> {
    let mut addresses = Vec::new();
    for text in configured {
        let interface = Interface::all().unwrap_or_default().into_iter().find(|one| one.name == *text);
        let found = match interface {
            Some(interface) => {
                let mut found = interface.addresses;
                let is_bound = |one: &IpAddr| bound.iter().any(|bound| bound.is_ipv4() == one.is_ipv4());
                // A port that is off has no family.
                found.retain(|one| (bound.is_empty() || is_bound(one)) && !is_link_local(one));
                found
            }
            None if text.contains('.') && text.parse::<IpAddr>().is_err() && is_host_name(text) => {
                addresses.push(text.clone());
                continue;
            }
            None => resolve(text, bound.iter().any(SocketAddr::is_ipv6))?,
        };
        if found.is_empty() || found.iter().any(IpAddr::is_unspecified) {
            return Err(ListenError::Unreachable(text.clone()));
        }
        addresses.extend(found.iter().map(IpAddr::to_string));
    }
    Ok(addresses)
}

/// Whether `text` can be a host name: labels between dots, the last of which is no number as in an IP
/// address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || byte >= 0x80)
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// The addresses of this node that clients are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Advertised {
    /// `address:port`, IPv6 addresses in brackets.
    pub(crate) standard: Vec<String>,
    pub(crate) alternate: Vec<String>,
}

impl Advertised {
    /// Takes the access addresses of the configuration, or else the bound ones, with those of every interface
    /// instead of "any". A node that is bound only to loopback tells clients so, because it is not reachable
    /// from elsewhere.
    ///
    /// # Errors
    /// When a configured access address is invalid.
    pub(crate) fn new(params: &AccessParams, bound: &[SocketAddr]) -> Result<Self, ListenError> {
        let bound_port = bound.first().map_or(0, SocketAddr::port);
        let port_or = |port: u16, default: u16| if port == 0 { default } else { port };
        let access_port = port_or(params.access_port, bound_port);
        let alternate_port = port_or(params.alternate_port, access_port);
        let access = accessible(&params.access, bound)?;
        let reachable = || reachable(bound).iter().map(IpAddr::to_string).collect();
        let standard = if access.is_empty() { reachable() } else { access };
        let alternate = accessible(&params.alternate, bound)?;
        if bound.is_empty() {
            return Ok(Advertised::default());
        }
        Ok(Advertised {
            standard: standard.iter().map(|address| with_port(address, access_port)).collect(),
            alternate: alternate.iter().map(|address| with_port(address, alternate_port)).collect(),
        })
    }
}

/// The configured access addresses of a port.
pub(crate) struct AccessParams {
    access: Vec<String>,
    access_port: u16,
    alternate: Vec<String>,
    alternate_port: u16,
}

impl AccessParams {
    /// The access addresses of the clear port. Missing settings are those of the TLS port.
    pub(crate) fn clear(params: &NetworkServiceParams) -> Self {
        let NetworkServiceParams { access_address, alternate_access_address, .. } = params;
        AccessParams {
            access: one_of(access_address, &params.tls_access_address),
            access_port: params.access_port.get(),
            alternate: one_of(alternate_access_address, &params.tls_alternate_access_address),
            alternate_port: params.alternate_access_port.get(),
        }
    }

    /// The access addresses of the TLS port. Missing settings are those of the clear port.
    pub(crate) fn tls(params: &NetworkServiceParams) -> Self {
        let NetworkServiceParams { tls_access_address, tls_alternate_access_address, .. } = params;
        AccessParams {
            access: one_of(tls_access_address, &params.access_address),
            access_port: params.tls_access_port.get(),
            alternate: one_of(tls_alternate_access_address, &params.alternate_access_address),
            alternate_port: params.tls_alternate_access_port.get(),
        }
    }
}

fn one_of(own: &List<String>, other: &List<String>) -> Vec<String> {
    if own.is_empty() { other.get() } else { own.get() }
}

/// The addresses at which others reach the `bound` ones, with those of every interface instead of "any".
pub(crate) fn reachable(bound: &[SocketAddr]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in bound {
        if address.ip().is_unspecified() {
            let same_family = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
            let interfaces = Interface::all().unwrap_or_default();
            addresses
                .extend(interfaces.into_iter().flat_map(|interface| interface.addresses).filter(same_family));
        } else {
            addresses.push(address.ip());
        }
    }
    addresses.retain(|address| !is_link_local(address));
    if addresses.iter().any(|address| !address.is_loopback()) {
        addresses.retain(|address| !address.is_loopback());
    }
    addresses.dedup();
    addresses
}

/// Whether an address is link-local. Such an address means nothing without the interface to which it belongs.
fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn with_port(address: &str, port: u16) -> String {
    match address.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn place(configured: &[&str], port: u16) -> ListenPlace {
        ListenPlace {
            context: "network.service",
            address_name: "address",
            port_name: "port",
            configured: texts(configured),
            port,
            with_localhost: true,
            with_ipv6: false,
        }
    }

    fn bind_to(configured: &[&str], port: u16) -> Result<Bound, ListenError> {
        Bound::new(&place(configured, port))
    }

    #[test]
    fn places_with_an_address_and_port_in_common_overlap() {
        let overlap = |one: &[&str], two: &[&str]| {
            place(one, 3000).overlap(&place(two, 3000)).map(|address| address.to_string())
        };
        let loopback = Some("127.0.0.1".to_owned());
        assert_eq!(overlap(&[], &["127.0.0.1"]), loopback);
        assert_eq!(overlap(&["127.0.0.1"], &["any"]), loopback);
        assert_eq!(overlap(&["::1", "127.0.0.1"], &["lo"]), loopback);
        assert_eq!(overlap(&["any"], &["0.0.0.0"]).as_deref(), Some("0.0.0.0"));
        assert_eq!(overlap(&["192.0.2.1"], &["192.0.2.2"]), loopback, "each listens there too");
        assert_eq!(overlap(&["127.0.0.1"], &["127.0.0.2"]), None);
        assert_eq!(overlap(&["any"], &["::1"]), None, "IPv6 is bound separately");
        assert!(place(&[], 3000).overlap(&place(&[], 3001)).is_none());
        assert!(place(&[], 0).overlap(&place(&[], 0)).is_none(), "the system chooses");
    }

    #[test]
    fn only_addresses_of_an_interface_that_can_be_bound_count() {
        let found: Vec<IpAddr> =
            ["10.0.0.5", "fd00::5", "fe80::5", "10.0.0.6"].iter().map(|text| text.parse().unwrap()).collect();
        let texts = |addresses: Vec<IpAddr>| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(texts(usable(found.clone(), false)), ["10.0.0.5", "10.0.0.6"]);
        assert_eq!(texts(usable(found.clone(), true)), ["10.0.0.5", "fd00::5", "10.0.0.6"]);
        assert_eq!(texts(usable(found[1..3].to_vec(), false)), ["fd00::5"], "of what has only IPv6");
        assert!(usable(found[2..3].to_vec(), true).is_empty());
    }

    #[test]
    fn bound_to_loopback_only_it_advertises_loopback() {
        let params = NetworkServiceParams::default();
        let advertised =
            Advertised::new(&AccessParams::clear(&params), &["127.0.0.1:3000".parse().unwrap()]).unwrap();
        assert_eq!(advertised.standard, ["127.0.0.1:3000"]);
        assert!(advertised.alternate.is_empty());
        let advertised =
            Advertised::new(&AccessParams::clear(&params), &["[::1]:3000".parse().unwrap()]).unwrap();
        assert_eq!(advertised.standard, ["[::1]:3000"]);
    }

    #[test]
    fn access_addresses_come_before_bound_ones() {
        let params = NetworkServiceParams::default();
        params.access_address.set(texts(&["db.example", "2001:DB8::1", "lo"]));
        params.access_port.set(4000);
        params.alternate_access_address.set(texts(&["10.0.0.1"]));
        let advertised =
            Advertised::new(&AccessParams::clear(&params), &["0.0.0.0:3000".parse().unwrap()]).unwrap();
        assert_eq!(&advertised.standard[..2], ["db.example:4000", "[2001:db8::1]:4000"]);
        // The interface's addresses of bound families: no IPv6.
        assert_eq!(advertised.standard[2..], ["127.0.0.1:4000"]);
        assert_eq!(advertised.alternate, ["10.0.0.1:4000"]);
    }

    #[test]
    fn each_kind_of_port_has_the_access_addresses_of_the_other_unless_its_own() {
        let params = NetworkServiceParams::default();
        params.access_address.set(texts(&["10.0.0.1"]));
        params.tls_alternate_access_address.set(texts(&["10.0.0.2"]));
        params.tls_access_port.set(4333);
        let bound = ["127.0.0.1:3000".parse().unwrap()];
        let (clear, tls) = (AccessParams::clear(&params), AccessParams::tls(&params));
        let (clear, tls) = (Advertised::new(&clear, &bound).unwrap(), Advertised::new(&tls, &bound).unwrap());
        assert_eq!((clear.standard, clear.alternate), (texts(&["10.0.0.1:3000"]), texts(&["10.0.0.2:3000"])));
        assert_eq!((tls.standard, tls.alternate), (texts(&["10.0.0.1:4333"]), texts(&["10.0.0.2:4333"])));
        assert_eq!(Advertised::new(&AccessParams::tls(&params), &[]).unwrap(), Advertised::default());
        // The same for the addresses of an interface, of which a port that is off has none.
        params.access_address.set(texts(&["lo"]));
        params.alternate_access_address.set(texts(&["lo"]));
        assert_eq!(Advertised::new(&AccessParams::tls(&params), &[]).unwrap(), Advertised::default());
    }

    #[test]
    fn unreachable_addresses_are_no_access_addresses() {
        let params = NetworkServiceParams::default();
        for text in ["any", "0.0.0.0", "::"] {
            params.access_address.set(texts(&[text]));
            assert!(
                matches!(
                    Advertised::new(&AccessParams::clear(&params), &[]),
                    Err(ListenError::Unreachable(_))
                ),
                "{text}"
            );
        }
        for text in ["no such host", "300.0.0.1", "10.0.0.1;", "10.0.0.1:3000", "a..example"] {
            params.access_address.set(texts(&[text]));
            assert!(
                matches!(Advertised::new(&AccessParams::clear(&params), &[]), Err(ListenError::Unknown(_))),
                "{text}"
            );
        }
        params.access_address.set(texts(&["[::1]"]));
        let refused = Advertised::new(&AccessParams::clear(&params), &[])
            .expect_err("an address in brackets")
            .to_string();
        assert!(refused.contains("(without port or brackets)"), "{refused}");
    }

    #[test]
    fn port_0_is_chosen_once_for_all_addresses() {
        let bound = bind_to(&["local", "127.0.0.2", "local"], 0).unwrap();
        let addresses = bound.addresses();
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[0].port(), addresses[1].port());
        assert!(matches!(bind_to(&["no such host."], 0), Err(ListenError::Unknown(_))));
    }

    #[test]
    fn no_client_connects_before_it_listens() {
        let bound = bind_to(&["local"], 0).unwrap();
        let address = bound.addresses()[0];
        assert!(TcpStream::connect(address).is_err());
        let listeners = bound.listen().unwrap();
        assert_eq!(listeners[0].local_addr().unwrap(), address);
        TcpStream::connect(address).unwrap();
        let second = bind_to(&["local"], address.port());
        assert!(matches!(second, Err(ListenError::Bind(taken, _)) if taken == address));
    }
}
