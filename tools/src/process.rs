//! Facts about processes from `/proc`: processor time, memory, and the process that listens on a port.

use std::io;
use std::net::SocketAddr;

use procfs::net::TcpState;
use procfs::process::{FDTarget, Process, all_processes};

/// The resources that a process has used since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Processor time in user and system mode, in microseconds. The resolution is 10 ms.
    pub cpu_us: u64,
    /// Resident memory in KiB.
    pub resident_kib: u64,
}

/// Reads the usage of process `pid`.
///
/// # Errors
/// When there is no such process, or `/proc` has unexpected content.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let process = process(pid).map_err(io::Error::other)?;
    let stat = process.stat().map_err(io::Error::other)?;
    let status = process.status().map_err(io::Error::other)?;
    let cpu_us = (stat.utime + stat.stime) * (1_000_000 / procfs::ticks_per_second());
    // A kernel process has no memory.
    let resident_kib =
        status.vmrss.ok_or_else(|| io::Error::other(format!("process {pid} has no memory")))?;
    Ok(Usage { cpu_us, resident_kib })
}

fn process(pid: u32) -> procfs::ProcResult<Process> {
    Process::new(i32::try_from(pid).unwrap_or(i32::MAX))
}

/// The process on this machine that listens at `address`, if it can be found.
///
/// Processes of other users are found only if this process is privileged.
#[must_use]
pub fn listener(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() && std::net::UdpSocket::bind((address.ip(), 0)).is_err() {
        return None;
    }
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let sockets: Vec<u64> = tables
        .into_iter()
        .flatten()
        .flatten()
        .filter(|socket| socket.state == TcpState::Listen && socket.local_address.port() == address.port())
        .map(|socket| socket.inode)
        .collect();
    let mut processes = all_processes().ok()?.flatten();
    let found = processes.find(|process| holds_any(process, &sockets))?;
    u32::try_from(found.pid).ok()
}

/// Whether one of the descriptors of `process` is one of `sockets`.
fn holds_any(process: &Process, sockets: &[u64]) -> bool {
    let Ok(mut descriptors) = process.fd() else { return false };
    descriptors.any(|descriptor| {
        descriptor.is_ok_and(|it| matches!(it.target, FDTarget::Socket(inode) if sockets.contains(&inode)))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn this_process_is_seen() {
        let own = usage(std::process::id()).unwrap();
        assert!(own.resident_kib > 100);
        assert!(usage(u32::MAX).is_err());
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        // A connection at the port is not a listener.
        let _connection = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(listener(address), Some(std::process::id()));
        drop(socket);
        assert_eq!(listener(address), None);
    }
}
