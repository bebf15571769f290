//! Reports this process's state to the service manager that started it, by the protocol of systemd's `Type=notify`.
//!
//! Lines of `NAME=value` are sent as one datagram to the socket that the environment variable `NOTIFY_SOCKET`
//! names: a path, or after an `@` a name in the abstract namespace. Without the variable nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service is ready.
pub const READY: &str = "READY=1";
/// The service is about to end.
pub const STOPPING: &str = "STOPPING=1";

/// Reports `state`, if a service manager has asked for it.
///
/// # Errors
/// When the service manager cannot be reached.
pub fn notify(state: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(name) if !name.is_empty() => notify_at(&name, state),
        _ => Ok(()),
    }
}

fn notify_at(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that hangs must not block this process.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let size = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..size].to_vec()).unwrap()
    }

    #[test]
    fn the_state_arrives_where_it_is_wanted() {
        let folder = crate::temp_folder::TempFolder::new("notify");
        let path = folder.join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        notify_at(path.as_os_str(), READY).unwrap();
        assert_eq!(received(&listener), "READY=1");

        let name = format!("ferrospike-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        notify_at(OsStr::new(&format!("@{name}")), STOPPING).unwrap();
        assert_eq!(received(&listener), "STOPPING=1");
    }

    #[test]
    fn a_missing_service_manager_is_an_error_without_a_wait() {
        assert!(notify_at(OsStr::new("/no/such/socket"), READY).is_err());
    }
}
