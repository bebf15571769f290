//! Ten thousand connections with unfinished TLS handshakes: they cost little memory, delay no other client,
//! and are disconnected.

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::figures::await_figures;
use ferrospike_tests::security::{ADMIN, PASS, create_user, logged_in, login};
use ferrospike_tests::server::{NAMESPACES, Server};
use ferrospike_tests::tls::{Authority, Wish, client_hello, connect, send_anyway, tls_address};
use ferrospike_tests::wire::{Message, result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const HALF_OPEN: usize = 10_000;
/// Maximum memory for each of them, in bytes.
const SIZE_MAX: u64 = 24 << 10;
/// Longest time for another client's request, on a machine with other work.
const SLOWEST: Duration = Duration::from_secs(2);

const CONFIG: &str = "
service {
    cluster-name tests
    work-directory {dir}
    proto-fd-max 15000
}
logging {
    console {
        context any info
    }
}
security {
}
network {
    tls node {
        ca-file {certificates}/ca.pem
        cert-file {certificates}/cert.pem
        key-file {certificates}/key.pem
    }
    service {
        address 127.0.0.1
        port 0
        tls-name node
        tls-port 0
        tls-address 127.0.0.1
        tls-authenticate-client false
    }
}
";

#[test]
fn ten_thousand_half_open_handshakes_delay_no_others() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard > 15_100, "the hard limit of open files ({hard}) is too low for this test and its server");
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("tests");
    authority.write_files(folder.path(), &authority.issue(Wish::named("node.test")));
    assert!(fs::exists(folder.path().join("ca.pem")).unwrap());
    let config = CONFIG.replace("{certificates}", folder.path().to_str().unwrap());
    let mut server = Server::start(&[&config, NAMESPACES].concat());
    server.allow("has the password that everybody knows").allow("TLS handshake with");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut admin = logged_in(&server, "admin", ADMIN);
    assert_eq!(create_user(&mut admin, "bob", PASS, &["read-write"]), 0);

    let (trust, address) = (authority.client(None), tls_address(&server));
    let hello = client_hello(&trust);
    let connected = || {
        let mut client = connect(&trust, address, "node.test").unwrap();
        assert_eq!(login(&mut client, "bob", PASS).0, 0);
        client
    };
    let before = server.resident_megabytes().unwrap();
    let (slowest_ms, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (mut neighbour, is_over, slowest_ms) = (connected(), &is_over, &slowest_ms);
        let worker = scope.spawn(move || {
            let mut count = 0u32;
            while !is_over.load(Relaxed) {
                let started = Instant::now();
                let put = Message::put(&format!("key{}", count % 100), vec![1]);
                assert_eq!(neighbour.ask(&put).unwrap().result, result::OK);
                slowest_ms.fetch_max(started.elapsed().as_millis() as u64, Relaxed);
                count += 1;
            }
            count
        });
        // Each stops after a different number of bytes, a tenth of them after a whole hello.
        let half_open: Vec<TcpStream> = (0..HALF_OPEN)
            .map(|number| {
                let socket = TcpStream::connect(address).unwrap();
                let size = if number % 10 == 0 { hello.len() } else { number % hello.len() };
                send_anyway(&socket, &hello[..size]);
                socket
            })
            .collect();
        let kept = server.resident_megabytes().unwrap().saturating_sub(before) << 20;
        assert!(kept < HALF_OPEN as u64 * SIZE_MAX, "{} bytes each", kept / HALF_OPEN as u64);
        drop(connected());
        await_figures(&mut admin, "statistics", |now| {
            now["tls_handshakes_timed_out"] == HALF_OPEN as i64 && now["client_connections"] == 2
        });
        is_over.store(true, Relaxed);
        assert!(worker.join().unwrap() > 100);
        drop(half_open);
    });
    let slowest = Duration::from_millis(slowest_ms.load(Relaxed));
    assert!(slowest < SLOWEST, "{slowest:?}");
}
