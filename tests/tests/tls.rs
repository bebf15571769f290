//! TLS: ports with and without TLS side by side, accepted certificates, hostile clients, and certificates
//! that change while clients work.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::figures::await_figures;
use ferrospike_tests::ports::free_port;
use ferrospike_tests::programs::binary;
use ferrospike_tests::security::{self, ADMIN, Field, command, create_user, field, logged_in, result_of};
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::tls::{
    Authority, Identity, TlsStream, Wish, client_hello, connect, ends_within, send_anyway, tls_address,
};
use ferrospike_tests::wire::{Message, result};
use nix::sys::signal::Signal;
use rustls::version;
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;

/// A longer time than the server gives a handshake.
const HANDSHAKE_CUT_OFF: Duration = Duration::from_secs(20);

/// An authority, and a server with its certificate for `node.test`.
struct Setup {
    folder: TempDir,
    authority: Authority,
    server: Server,
}

impl Setup {
    /// Starts a server. `service` and `tls` are lines for the contexts of these names.
    fn start(service: &str, tls: &str) -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("tests");
        authority.write_files(folder.path(), &authority.issue(Wish::named("node.test")));
        fs::write(folder.path().join("blacklist"), "# none\n").unwrap();
        let server = Server::start(&config(&folder, service, tls));
        Setup { folder, authority, server }
    }

    fn address(&self) -> SocketAddr {
        tls_address(&self.server)
    }

    fn connect(&self, config: &Arc<ClientConfig>) -> io::Result<Client<TlsStream>> {
        connect(config, self.address(), "node.test")
    }

    fn client(&self) -> Client<TlsStream> {
        self.connect(&self.authority.client(None)).unwrap()
    }

    /// Whether a client with this certificate is served.
    fn serves(&self, identity: Option<&Identity>) -> bool {
        [&version::TLS12, &version::TLS13].map(|version| {
            let connected = self.connect(&self.authority.client_config(identity, version));
            let asked = connected.and_then(|mut client| client.ask(&Message::get("none")));
            asked.is_ok_and(|reply| reply.result == result::NOT_FOUND)
        }) == [true, true]
    }
}

fn config(folder: &TempDir, service: &str, tls: &str) -> String {
    let path = folder.path().display();
    let with_port = format!("port 0\n        tls-port 0\n        tls-name node\n        {service}");
    let context = format!(
        "network {{\n    tls node {{\n        cert-file {path}/cert.pem\n        key-file {path}/key.pem\n        \
         ca-file {path}/ca.pem\n        cert-blacklist {path}/blacklist\n        {tls}\n    }}\n"
    );
    usual_config().replace("port 0", &with_port).replacen("network {\n", &context, 1)
}

fn without_client_certificates() -> Setup {
    Setup::start("tls-authenticate-client false", "protocols TLSv1.2,TLSv1.3")
}

fn put(client: &mut Client<TlsStream>, key: &str, size: usize) {
    assert_eq!(client.ask(&Message::put(key, vec![7; size])).unwrap().result, result::OK);
}

#[test]
fn both_ports_serve_side_by_side() {
    let setup = Setup::start("tls-authenticate-client false", "protocols TLSv1.2,TLSv1.3");
    let mut clear = setup.server.connect();
    for version in [&version::TLS12, &version::TLS13] {
        let mut client = setup.connect(&setup.authority.client_config(None, version)).unwrap();
        put(&mut client, "through tls", 100);
        assert_eq!(clear.ask(&Message::get("through tls")).unwrap().operations.len(), 1);
        assert_eq!(client.ask(&Message::get("none")).unwrap().result, result::NOT_FOUND);
        let address = setup.address().to_string();
        assert_eq!(client.info_value("service-tls-std").unwrap(), address);
        assert_eq!(client.info_value("service-tls-alt").unwrap(), "");
        assert_eq!(client.info_value("peers-tls-std").unwrap(), "0,3000,[]");
        assert_eq!(client.info_value("service-clear-std").unwrap(), setup.server.address().to_string());
        let endpoints = client.info_value("endpoints").unwrap();
        assert!(endpoints.contains(&format!("service.tls-port={};", setup.address().port())), "{endpoints}");
        assert!(client.info_value("get-config:context=network").unwrap().contains("service.tls-name=node;"));
    }
    await_figures(&mut clear, "statistics", |now| now["tls_handshakes"] == 2);
    // The server's certificate has another name or another authority.
    let config = setup.authority.client(None);
    assert!(connect(&config, setup.address(), "other.test").is_err());
    assert!(setup.connect(&Authority::new("others").client(None)).is_err());
    await_figures(&mut clear, "statistics", |now| now["client_connections"] == 1);
    // A client may use the wrong port. The server then closes the connection.
    let wrong = TcpStream::connect(setup.server.address()).unwrap();
    send_anyway(&wrong, &client_hello(&config));
    assert!(ends_within(&wrong, HANDSHAKE_CUT_OFF));
    let mut server = setup.server;
    server.await_log("ignoring TLS connection from");
    server.allow("ignoring TLS connection from").allow("TLS handshake with");
}

#[test]
fn a_server_may_have_a_port_with_tls_only() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("tests");
    authority.write_files(folder.path(), &authority.issue(Wish::named("node.test")));
    fs::write(folder.path().join("blacklist"), "").unwrap();
    let config = config(&folder, "tls-authenticate-client false", "");
    // The client port shows that the server has started, because the admin port is another one.
    let port = free_port();
    let config = config.replace("port 0\n        tls-port 0", &format!("tls-port {port}"));
    let path = folder.path().join("asd.conf");
    let text = config.replace("{dir}", folder.path().to_str().unwrap());
    fs::write(&path, text).unwrap();
    let mut child = Command::new(binary())
        .args(["--foreground", "--config-file"])
        .arg(&path)
        .stdout(fs::File::create(folder.path().join("log")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let started = Instant::now();
    let client = loop {
        match connect(&authority.client(None), address, "node.test") {
            Ok(client) => break Some(client),
            Err(_) if started.elapsed() < Duration::from_secs(30) => thread::sleep(Duration::from_millis(20)),
            Err(_) => break None,
        }
    };
    let answer = client.and_then(|mut client| client.info_value("service-clear-std").ok());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(answer.as_deref(), Some(""), "{}", fs::read_to_string(folder.path().join("log")).unwrap());
}

#[test]
fn large_replies_and_many_requests_at_once() {
    let setup = without_client_certificates();
    let mut client = setup.client();
    for n in 0..100 {
        put(&mut client, &format!("large {n}"), 100_000);
    }
    assert_eq!(client.scan("test").unwrap().len(), 100);
    // The replies are more than any socket holds. The client reads only after it has sent everything.
    let get = Message::get("large 7").encode();
    let many: Vec<u8> = (0..2_000).flat_map(|_| get.iter().copied()).collect();
    thread::scope(|scope| {
        let mut client = setup.client();
        let many = &many;
        scope.spawn(move || {
            client.send(many).unwrap();
            for _ in 0..2_000 {
                let reply = client.receive_message().unwrap();
                assert_eq!((reply.result, reply.operations[0].value.len()), (result::OK, 100_000));
            }
        });
    });
    let batch = Message::get_all(vec!["large 3"; 1_500].into_iter());
    client.send(&batch.encode()).unwrap();
    let rows = client.take_rows().unwrap();
    assert_eq!(rows.len(), 1_500);
    assert!(rows.iter().all(|row| row.operations[0].value.len() == 100_000));
    // One request is larger than all buffers, and small ones follow it.
    let large = Message::put("very large", vec![3; 900_000]).encode();
    let behind = Message::get("very large").encode();
    client.send(&[large, behind.clone(), behind].concat()).unwrap();
    assert_eq!(client.receive_message().unwrap().result, result::OK);
    for _ in 0..2 {
        assert_eq!(client.receive_message().unwrap().operations[0].value.len(), 900_000);
    }
}

#[test]
fn a_client_that_reads_nothing_takes_little_memory() {
    let setup = without_client_certificates();
    let mut client = setup.client();
    put(&mut client, "large", 1_000_000);
    let before = setup.server.resident_megabytes().unwrap();
    let get = Message::get("large").encode();
    let many: Vec<u8> = (0..64).flat_map(|_| get.iter().copied()).collect();
    let mut silent: Vec<_> = (0..50).map(|_| setup.client()).collect();
    silent.iter_mut().for_each(|one| one.send(&many).unwrap());
    thread::sleep(Duration::from_millis(500));
    for n in 0..1_000 {
        put(&mut client, &format!("other {n}"), 100);
    }
    let kept = setup.server.resident_megabytes().unwrap().saturating_sub(before);
    assert!(kept < 200, "{kept} MB more");
    // These clients get everything when they read.
    for one in silent.iter_mut().take(3) {
        for _ in 0..64 {
            assert_eq!(one.receive_message().unwrap().operations[0].value.len(), 1_000_000);
        }
    }
}

#[test]
fn clients_without_a_good_certificate_do_not_get_in() {
    // The configuration says nothing about clients, so a certificate is required.
    let mut setup = Setup::start("", "protocols TLSv1.2,TLSv1.3");
    setup.server.allow("TLS handshake with");
    let good = setup.authority.issue(Wish::named("alice"));
    assert!(setup.serves(Some(&good)));
    assert!(!setup.serves(None));
    assert!(!setup.serves(Some(&Authority::new("others").issue(Wish::named("alice")))));
    let expired = Wish { is_expired: true, ..Wish::named("alice") };
    assert!(!setup.serves(Some(&setup.authority.issue(expired))));
    // The certificate is on the blacklist when the files are read the next time.
    let stolen = setup.authority.issue(Wish { serial: 0xAB_CDEF, ..Wish::named("alice") });
    assert!(setup.serves(Some(&stolen)));
    fs::write(setup.folder.path().join("blacklist"), "00abcdef # lost\n").unwrap();
    setup.server.signal(Signal::SIGHUP);
    setup.server.await_log("certificates were read again");
    assert!(!setup.serves(Some(&stolen)) && setup.serves(Some(&good)));
    let mut clear = setup.server.connect();
    assert!(clear.figure("statistics", "tls_handshakes_failed").unwrap() >= 6);
}

#[test]
fn clients_must_have_one_of_the_names() {
    let service = "tls-authenticate-client alice\n        tls-authenticate-client as_cluster";
    let mut setup = Setup::start(service, "protocols all");
    setup.server.allow("TLS handshake with");
    let serves = |name| setup.serves(Some(&setup.authority.issue(Wish::named(name))));
    assert!(serves("alice") && serves("as_cluster") && serves("ALICE"));
    assert!(!serves("bob") && !serves("alice.example") && !setup.serves(None));
}

#[test]
fn hostile_handshakes_are_cut_off_and_delay_no_others() {
    let mut setup = without_client_certificates();
    setup.server.allow("TLS handshake with");
    let hello = client_hello(&setup.authority.client(None));
    let address = setup.address();
    let send = |bytes: &[u8]| {
        let socket = TcpStream::connect(address).unwrap();
        send_anyway(&socket, bytes);
        socket
    };
    let before = setup.server.resident_megabytes().unwrap();
    // Bytes that are not TLS, are too long, or violate the protocol are refused at once.
    let mut changed = hello.clone();
    changed[5] = 99;
    let refused: [Vec<u8>; 6] = [
        vec![0xA5; 5_000],
        Message::get("x").encode(),
        [&[0x16, 3, 3, 0xFF, 0xFF][..], &[0; 70_000]].concat(),
        // This is data before any key.
        [&[0x17, 3, 3, 0, 16][..], &[0; 16]].concat(),
        changed,
        // These are pieces of an endless message.
        [&[0x16, 3, 3, 0x40, 0, 1, 0xFF, 0xFF, 0xFF][..], &vec![0; 100_000]].concat(),
    ];
    for (n, bytes) in refused.iter().enumerate() {
        assert!(ends_within(&send(bytes), Duration::from_secs(4)), "number {n} is not refused");
    }
    // A connection whose handshake stops in the middle is closed when its time is over.
    let mut half_open: Vec<TcpStream> = (0..300).map(|n| send(&hello[..n % hello.len()])).collect();
    half_open.push(send(&hello));
    let dripping = TcpStream::connect(address).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in &hello {
                if is_over.load(Ordering::Relaxed) || (&dripping).write_all(&[*byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(200));
            }
        });
        let started = Instant::now();
        let mut client = setup.client();
        for n in 0..2_000 {
            put(&mut client, &format!("other {n}"), 100);
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert!(ends_within(&dripping, HANDSHAKE_CUT_OFF), "a byte now and then is no progress");
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(half_open.iter().all(|socket| ends_within(socket, HANDSHAKE_CUT_OFF)));
    // The same bytes are sent after a handshake.
    let client = setup.client();
    send_anyway(client.socket(), &[&[0x17, 3, 3, 0, 64][..], &[0; 64]].concat());
    assert!(ends_within(client.socket(), HANDSHAKE_CUT_OFF), "a forged record");
    let client = setup.client();
    send_anyway(client.socket(), &hello);
    assert!(ends_within(client.socket(), HANDSHAKE_CUT_OFF), "another handshake in the clear");
    let mut clear = setup.server.connect();
    await_figures(&mut clear, "statistics", |now| {
        now["tls_handshakes_timed_out"] == 302 && now["client_connections"] == 1
    });
    assert!(clear.figure("statistics", "tls_handshakes_failed").unwrap() >= 6);
    let kept = setup.server.resident_megabytes().unwrap().saturating_sub(before);
    assert!(kept < 50, "{kept} MB more");
}

#[test]
fn a_storm_of_handshakes_delays_no_others() {
    let setup = without_client_certificates();
    let config = setup.authority.client(None);
    let (slowest, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let mut client = setup.client();
        put(&mut client, "key", 100);
        let (is_over, slowest) = (&is_over, &slowest);
        let worker = scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                assert_eq!(client.ask(&Message::get("key")).unwrap().result, result::OK);
                slowest.fetch_max(started.elapsed().as_millis() as u64, Ordering::Relaxed);
            }
        });
        // All hellos are sent at once. The server computes keys for each.
        let hello = client_hello(&config);
        let storm: Vec<TcpStream> = (0..1_000)
            .map(|_| {
                let socket = TcpStream::connect(setup.address()).unwrap();
                send_anyway(&socket, &hello);
                socket
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        drop(storm);
        is_over.store(true, Ordering::Relaxed);
        worker.join().unwrap();
    });
    assert!(slowest.load(Ordering::Relaxed) < 1_000, "{slowest:?} ms");
}

#[test]
fn certificates_change_under_load_and_no_connection_is_lost() {
    let mut setup = without_client_certificates();
    let (old, new) = (setup.authority.client(None), Authority::new("new"));
    let is_over = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    thread::scope(|scope| {
        for n in 0..4 {
            let (mut client, is_over, count) = (setup.client(), &is_over, &count);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    put(&mut client, &format!("key {n}"), 1_000);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        new.write_files(setup.folder.path(), &new.issue(Wish::named("node.test")));
        setup.server.signal(Signal::SIGHUP);
        setup.server.await_log("certificates were read again");
        assert!(setup.connect(&old).is_err(), "new connections see the new certificate");
        put(&mut setup.connect(&new.client(None)).unwrap(), "new", 10);
        let then = count.load(Ordering::Relaxed);
        while count.load(Ordering::Relaxed) < then + 1_000 {
            thread::sleep(Duration::from_millis(5));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    // Files that do not match change nothing.
    let other = new.issue(Wish::named("node.test"));
    fs::write(setup.folder.path().join("key.pem"), &other.key_pem).unwrap();
    setup.server.signal(Signal::SIGHUP);
    setup.server.await_log("the previous certificates stay in use");
    put(&mut setup.connect(&new.client(None)).unwrap(), "new", 10);
    let log = setup.server.log();
    assert!(log.contains("is not the key of the certificate in"), "{log}");
    setup.server.allow("the previous certificates stay in use").allow("TLS handshake with");
}

/// Whether a new connection resumes an earlier session.
fn is_resumed(setup: &Setup, config: &Arc<ClientConfig>) -> io::Result<bool> {
    let mut client = setup.connect(config)?;
    // The ticket arrives with the first answer or before it.
    assert_eq!(client.ask(&Message::get("none"))?.result, result::NOT_FOUND);
    Ok(client.channel().conn.handshake_kind() == Some(HandshakeKind::Resumed))
}

#[test]
fn sessions_are_resumed_until_certificates_are_reloaded() {
    let mut setup = Setup::start("tls-authenticate-client any", "protocols TLSv1.2,TLSv1.3");
    setup.server.allow("TLS handshake with");
    let identity = setup.authority.issue(Wish { serial: 0xbad, ..Wish::named("client.test") });
    let configs = [&version::TLS12, &version::TLS13]
        .map(|version| setup.authority.client_config(Some(&identity), version));
    for config in &configs {
        assert!(!is_resumed(&setup, config).unwrap());
        assert!(is_resumed(&setup, config).unwrap());
        assert!(is_resumed(&setup, config).unwrap());
    }
    // After this, the keys of tickets are new.
    setup.server.signal(Signal::SIGHUP);
    setup.server.await_log("certificates were read again");
    for config in &configs {
        assert!(!is_resumed(&setup, config).unwrap());
        assert!(is_resumed(&setup, config).unwrap());
    }
    // A client whose certificate is no longer accepted cannot connect by resuming its session.
    fs::write(setup.folder.path().join("blacklist"), "BAD\n").unwrap();
    let lines = setup.server.log().matches("certificates were read again").count();
    setup.server.signal(Signal::SIGHUP);
    while setup.server.log().matches("certificates were read again").count() == lines {
        thread::sleep(Duration::from_millis(5));
    }
    for config in &configs {
        assert!(is_resumed(&setup, config).is_err());
    }
}

#[test]
fn changed_files_are_noticed() {
    let mut setup = without_client_certificates();
    let new = Authority::new("new");
    let mut clear = setup.server.connect();
    let set = clear.info("set-config:context=service;tls-refresh-period=1").unwrap();
    assert!(set.ends_with("\tok\n"), "{set}");
    new.write_files(setup.folder.path(), &new.issue(Wish::named("node.test")));
    setup.server.allow("stay in force");
    setup.server.await_log("certificates were read again");
    put(&mut setup.connect(&new.client(None)).unwrap(), "new", 10);
}

#[test]
fn clients_that_disconnect_in_the_middle_leave_nothing() {
    let mut setup = without_client_certificates();
    let mut client = setup.client();
    put(&mut client, "large", 500_000);
    for round in 0..5 {
        let clients: Vec<_> = (0..40)
            .map(|n| {
                let mut client = setup.client();
                let get = Message::get("large").encode();
                match (n + round) % 4 {
                    0 => client.send(&get[..20]).unwrap(),
                    1 => (0..30).for_each(|_| client.send(&get).unwrap()),
                    2 => client.send(&Message::scan("test").encode()).unwrap(),
                    _ => send_anyway(client.socket(), &[0x17, 3, 3, 0x20, 0, 1, 2, 3]),
                }
                client
            })
            .collect();
        drop(clients);
    }
    put(&mut client, "small", 10);
    let mut clear = setup.server.connect();
    await_figures(&mut clear, "statistics", |now| {
        now["client_connections"] == 2 && now["unread_reply_bytes"] == 0
    });
    setup.server.allow("TLS");
}

/// The output of `--check-config` for a configuration.
fn check(folder: &TempDir, tls: &str) -> String {
    let path = folder.path().join("asd.conf");
    let text = config(folder, "tls-authenticate-client false", tls);
    fs::write(&path, text.replace("{dir}", folder.path().to_str().unwrap())).unwrap();
    let output =
        Command::new(binary()).args(["--check-config", "--config-file"]).arg(&path).output().unwrap();
    String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned()
}

#[test]
fn a_check_of_the_configuration_reads_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, path) = (Authority::new("tests"), folder.path());
    let good = authority.issue(Wish::named("node.test"));
    authority.write_files(path, &good);
    fs::write(path.join("blacklist"), "").unwrap();
    let says = |wanted: &str| {
        let said = check(&folder, "");
        assert!(said.contains("asd.conf: '") && said.contains("of tls 'node' (line 15)"), "{said}");
        assert!(said.contains(wanted), "{said}");
    };
    assert!(check(&folder, "").contains("is accepted"));
    fs::write(path.join("key.pem"), &authority.issue(Wish::named("x")).key_pem).unwrap();
    says("is not the key of the certificate in");
    fs::write(path.join("key.pem"), &good.certificate_pem).unwrap();
    says("which holds no key");
    fs::remove_file(path.join("key.pem")).unwrap();
    says("is the path right");
    authority.write_files(path, &authority.issue(Wish { is_expired: true, ..Wish::named("node.test") }));
    says("has expired");
    fs::write(path.join("cert.pem"), &good.certificate_pem[..200]).unwrap();
    says("line 1: this BEGIN has no END");
    authority.write_files(path, &good);
    assert!(check(&folder, "cipher-suite NULL-MD5").contains("'cipher-suite' of tls 'node'"));
}

#[test]
fn a_certificate_logs_its_user_in() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("tests");
    authority.write_files(folder.path(), &authority.issue(Wish::named("node.test")));
    fs::write(folder.path().join("blacklist"), "").unwrap();
    let mut server = Server::start(&(config(&folder, "", "") + "security {\n}\n"));
    server.allow("has the password that everybody knows");
    let mut admin = logged_in(&server, "admin", ADMIN);
    const NO_PASSWORD: &str = "$2a$10$7EqJtq98hPqEX7fNZaFWoOePA2sZy..tlOF99W2N0g5KZ3dLaw8WO";
    assert_eq!(create_user(&mut admin, "alice", NO_PASSWORD, &["read-write"]), 0);
    let connect = |name| {
        let identity = authority.issue(Wish::named(name));
        connect(&authority.client(Some(&identity)), tls_address(&server), "node.test").unwrap()
    };
    let mut alice = connect("alice");
    assert_eq!(alice.ask(&Message::put("key", vec![1])).unwrap().result, 80, "nobody has logged in");
    let (result, fields) = security::ask(&mut alice, command::LOGIN, &[]);
    assert_eq!(result, 0);
    put(&mut alice, "key", 10);
    let token = fields.iter().find(|(id, _)| *id == field::SESSION_TOKEN).unwrap().1.clone();
    // Further connections use only the token, which is for the certificate's user.
    let by_token: [Field<'_>; 1] = [(field::SESSION_TOKEN, &token)];
    let mut second = connect("alice");
    assert_eq!(result_of(&mut second, command::AUTHENTICATE, &by_token), 0);
    put(&mut second, "key", 10);
    let mut bob = connect("bob");
    assert_eq!(result_of(&mut bob, command::AUTHENTICATE, &by_token), 65, "a token of somebody else");
    assert_eq!(result_of(&mut bob, command::LOGIN, &[]), 60, "no such user");
    // Without a certificate there is no user name, and the user has no password.
    assert_eq!(result_of(&mut server.connect(), command::LOGIN, &[]), 65);
    assert_eq!(security::login(&mut server.connect(), "alice", NO_PASSWORD).0, 65);
}

#[test]
fn the_unit_in_a_certificate_may_be_a_part_of_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("tests");
    authority.write_files(folder.path(), &authority.issue(Wish::named("node.test")));
    fs::write(folder.path().join("blacklist"), "").unwrap();
    let mut server = Server::start(&(config(&folder, "", "pki-user-append-ou true") + "security {\n}\n"));
    server.allow("has the password that everybody knows");
    let mut admin = logged_in(&server, "admin", ADMIN);
    for user in ["alice", "alice.sales", "bob"] {
        assert_eq!(create_user(&mut admin, user, ADMIN, &["read"]), 0);
    }
    let login = |wish| {
        let identity = authority.issue(wish);
        let mut client =
            connect(&authority.client(Some(&identity)), tls_address(&server), "node.test").unwrap();
        result_of(&mut client, command::LOGIN, &[])
    };
    let of_unit = |name, unit| Wish { unit: Some(unit), ..Wish::named(name) };
    assert_eq!(login(of_unit("alice", "sales")), 0);
    assert_eq!(login(of_unit("bob", "sales")), 60, "bob.sales does not exist");
    assert_eq!(login(Wish::named("bob")), 0);
}
