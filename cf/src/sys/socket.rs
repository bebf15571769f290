//! Facts about a socket from the kernel.

use std::os::fd::{AsFd, AsRawFd};

/// Bytes that the kernel holds for the peer of a TCP connection: not sent yet, or not acknowledged. Their
/// number falls as the peer reads, long before the socket accepts more bytes, which happens only when a third
/// of them is gone.
pub fn held_bytes(socket: &impl AsFd) -> Option<u32> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as it is borrowed, and TIOCOUTQ writes one `int` to where the pointer points.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if answer == 0 { u32::try_from(count).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn unread_bytes_of_a_peer_are_held() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let mut ours = TcpStream::connect(listener.local_addr().expect("it has one")).expect("it listens");
        let mut theirs = listener.accept().expect("it was asked").0;
        assert_eq!(held_bytes(&ours), Some(0));
        ours.set_nonblocking(true).expect("it can be");
        let mut sent = 0;
        while let Ok(count) = ours.write(&[7; 65_536]) {
            sent += count;
        }
        let held = held_bytes(&ours).expect("a socket");
        assert!(held > 0);
        theirs.read_exact(&mut vec![0; sent * 3 / 4]).expect("it was sent");
        let started = Instant::now();
        while held_bytes(&ours).expect("a socket") == held {
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(held_bytes(&std::fs::File::open("/dev/null").expect("it is there")), None);
    }
}
