//! The use of a process, read from `/proc`: processor time, memory, and which process listens on a port.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Clock ticks a second in `/proc/PID/stat`. The kernel fixes it for user space on every architecture this builds
/// for.
const TICKS_PER_SECOND: u64 = 100;

/// A reading of what a process has used since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Processor time in user and system mode, in microseconds, to 10 ms.
    pub cpu_us: u64,
    /// Resident memory in KiB.
    pub resident_kib: u64,
}

/// Reads the usage of process `pid`.
///
/// # Errors
/// When there is no such process, or `/proc` is not what it should be.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| malformed(pid, "stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident_kib = resident_kib(&status).ok_or_else(|| malformed(pid, "status"))?;
    Ok(Usage { cpu_us: ticks * (1_000_000 / TICKS_PER_SECOND), resident_kib })
}

/// The process on this machine that listens at `address`, if it can be told.
///
/// Other users' processes stay unknown unless this one is privileged.
#[must_use]
pub fn listener(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() && std::net::UdpSocket::bind((address.ip(), 0)).is_err() {
        return None;
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: Vec<String> = tables
        .iter()
        .flat_map(|table| listening_inodes(table, address.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds_any(&entry.path().join("fd"), &sockets).then_some(pid)
    })
}

/// Whether one of the descriptors in `directory` is one of `sockets`.
fn holds_any(directory: &Path, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(directory) else { return false };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

/// `utime + stime` of a `/proc/PID/stat` line. The command in it may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    let mut words = after_command.split_ascii_whitespace().skip(11);
    let user: u64 = words.next()?.parse().ok()?;
    let system: u64 = words.next()?.parse().ok()?;
    Some(user + system)
}

/// `VmRSS` of a `/proc/PID/status` text.
fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Inodes of the sockets in state LISTEN at `port`, of a `/proc/net/tcp` table.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
            (local.ends_with(&suffix) && *state == LISTEN).then(|| inode.parse().ok()).flatten()
        })
        .collect()
}

fn malformed(pid: u32, file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/{file} cannot be read"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn processor_time_is_found_behind_an_odd_command_name() {
        let stat = "42 (a) (b c) S 1 42 42 0 -1 4194304 500 0 0 0 12 34 0 0 20 0 1 0 100 1000 200";
        assert_eq!(cpu_ticks(stat), Some(46));
        assert_eq!(cpu_ticks("42 (x) S 1"), None);
    }

    #[test]
    fn resident_memory_is_found() {
        assert_eq!(resident_kib("Name:\tasd\nVmRSS:\t  123456 kB\nThreads:\t1\n"), Some(123_456));
        assert_eq!(resident_kib("Name:\tkthread\n"), None);
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1\n\
            1: 0100007F:0BB8 0100007F:C000 01 00000000:00000000 00:00000000 00000000 0 0 222 1\n\
            2: 0100007F:0BB9 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 333 1\n";
        assert_eq!(listening_inodes(table, 3000), [111]);
    }

    #[test]
    fn this_process_is_seen() {
        let own = usage(std::process::id()).unwrap();
        assert!(own.resident_kib > 100);
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listener(socket.local_addr().unwrap()), Some(std::process::id()));
    }
}
