//! Ports that a test can write into a configuration before its server listens on them.
//!
//! The ports are below the kernel's range for outgoing connections, and a file lock reserves each for one
//! process. So no connection and no other test takes a port before the server does.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// The range of ports. The kernel's own range begins at 32768 by default.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// The locks on this process's ports. They are released when the process ends.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A loopback port that belongs to this process until it ends.
///
/// # Panics
/// When all ports are taken, or the folder of the locks cannot be created.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes start their search at different ports, so that they rarely collide.
    let start = std::process::id().wrapping_mul(37) % u32::from(COUNT);
    let start = u16::try_from(start).expect("below the count");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Relaxed) % COUNT;
        let port = FIRST + (start + step) % COUNT;
        if let Some(lock) = lock(port)
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            HELD.lock().expect("no holder panics").push(lock);
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}

/// Locks the port, if no other process has it.
fn lock(port: u16) -> Option<File> {
    let folder = std::env::temp_dir().join("ferrospike-test-ports");
    fs::create_dir_all(&folder).expect("a folder for the locks of ports");
    let path = folder.join(port.to_string());
    let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_is_locked_for_others() {
        let ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        let mut distinct = ports.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), ports.len());
        assert!(ports.iter().all(|port| (FIRST..FIRST + COUNT).contains(port)));
        assert!(ports.iter().all(|&port| lock(port).is_none()));
    }

    #[test]
    fn a_port_with_a_listener_is_not_returned() {
        let port = free_port();
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!((0..100).all(|_| free_port() != port));
    }
}
