//! Limits on the number and idle time of connections, and on what a small request may demand.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::server::{NAMESPACES, Server, usual_config};
use ferrospike_tests::wire::{Message, Operation, info1, operation, result};
use socket2::{Domain, Socket, Type};

/// The lowest value that can be configured.
const FD_MAX: usize = 1024;

fn config(service: &str) -> String {
    let config = usual_config().replacen("service {", &format!("service {{\n    {service}"), 1);
    assert!(config.contains(NAMESPACES));
    config
}

fn is_served(client: &mut Client) -> bool {
    client.info_value("status").is_ok_and(|status| status == "ok")
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let mut server = Server::start(&config(&format!("proto-fd-max {FD_MAX}")));
    server.allow("proto-fd-max");
    let mut clients: Vec<Client> = (0..FD_MAX).map(|_| server.connect()).collect();
    let served = clients.iter_mut().filter_map(|client| is_served(client).then_some(())).count();
    assert!(served + 5 >= FD_MAX, "only {served} of {FD_MAX} are served");
    let refused = (0..50).filter(|_| !is_served(&mut server.connect())).count();
    assert!(refused >= 45, "only {refused} of 50 beyond the limit are refused");

    // There is room for further connections as soon as some have closed.
    clients.truncate(FD_MAX / 2);
    let start = Instant::now();
    while !is_served(&mut server.connect()) {
        assert!(start.elapsed() < Duration::from_secs(60), "still refused after others have gone");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(clients.iter_mut().all(is_served), "those that were there are served all the time");
}

#[test]
fn idle_connections_are_closed_and_busy_ones_are_not() {
    let server = Server::start(&config("proto-fd-idle-ms 6000"));
    let mut idle: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    let mut half: Client = server.connect();
    half.send(&Message::get("idle").encode()[..20]).expect("send");
    let mut busy = server.connect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        assert_eq!(busy.ask(&Message::get("idle")).expect("an answer").result, result::NOT_FOUND);
        thread::sleep(Duration::from_millis(200));
    }
    for client in idle.iter_mut().chain([&mut half]) {
        assert!(client.is_closed_by_server());
    }
    assert!(is_served(&mut busy));
}

/// The socket accepts more of a reply only when a third of its bytes has been read. Here that takes longer
/// than a connection may be idle.
#[test]
fn a_client_that_reads_slowly_is_not_idle() {
    let server = Server::start(&config("proto-fd-idle-ms 1000"));
    assert_eq!(
        server.connect().ask(&Message::put("large", vec![1; 900_000])).expect("an answer").result,
        result::OK
    );
    let request = Message { info1: info1::READ, ..Message::on("large") };
    let request = (0..5).fold(request, |request, _| request.with_operation(Operation::read("b"))).encode();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(8_192).expect("a small buffer");
    socket.connect(&server.address().into()).expect("it listens");
    let mut client = TcpStream::from(socket);
    client.write_all(&request).expect("it is sent");
    let mut head = [0; 8];
    client.read_exact(&mut head).expect("a reply");
    let mut left = u64::from_be_bytes(head) as usize & 0xFFFF_FFFF_FFFF;
    assert!(left > 4_500_000);
    let mut part = [0; 8_192];
    while left > 0 {
        let size = client.read(&mut part[..left.min(8_192)]).expect("it goes on");
        assert_ne!(size, 0, "it was closed with {left} bytes unsent");
        left -= size;
        thread::sleep(Duration::from_millis(14));
    }
    // By now it has nothing to read.
    assert_eq!(client.read(&mut part).expect("it is closed"), 0);
}

#[test]
fn without_a_limit_idle_connections_stay() {
    let server = Server::start(&usual_config());
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    thread::sleep(Duration::from_secs(4));
    assert!(clients.iter_mut().all(is_served));
}

/// With a low limit on open files, the server accepts as many clients as it says: it counts its own files.
#[test]
fn the_reported_number_of_clients_fits_under_a_low_limit_on_files() {
    let launcher = ["bash", "-c", "ulimit -n 48 && exec \"$0\" \"$@\""];
    let mut server = Server::start_under(&launcher, &config("service-threads 8"));
    server.allow("proto-fd-max");
    let possible = server.connect().figure("get-config:context=service", "proto-fd-max").expect("a figure");
    assert!((8..48).contains(&possible), "{possible} clients");
    // The connection that has asked may still be counted.
    let start = Instant::now();
    loop {
        let mut clients: Vec<Client> = (0..possible).map(|_| server.connect()).collect();
        if clients.iter_mut().all(is_served) {
            break assert!(!is_served(&mut server.connect()), "one more is served");
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not all of {possible} clients are served");
    }
    assert!(!server.log().contains("Too many open files"));
}

/// Peak memory of the server in bytes.
fn peak_memory(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process_id().expect("it runs")));
    let status = status.expect("the system tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line for it");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

#[test]
fn a_small_request_does_not_make_a_huge_reply() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("large", vec![1; 1_000_000])).expect("an answer").result, result::OK);
    let read = |times: usize| {
        let request = Message { info1: info1::READ, ..Message::on("large") };
        (0..times).fold(request, |request, _| request.with_operation(Operation::read("b")))
    };
    let answer = client.ask(&read(10)).expect("an answer");
    assert_eq!((answer.result, answer.operations.len()), (result::OK, 10));
    assert_eq!(client.ask(&read(1_000)).expect("an answer").result, result::RECORD_TOO_BIG);
    assert!(peak_memory(&server) < 800 << 20, "{} bytes", peak_memory(&server));
}

#[test]
fn a_small_request_does_not_make_huge_bins() {
    let server = Server::start(&usual_config());
    let mut client = server.connect();
    // Each request makes a bin of 100 MiB.
    let resize = |bin: usize| {
        let call = vec![0x92, 0, 0xce, 6, 0x40, 0, 0];
        Operation::blob(operation::BITS_MODIFY, &format!("bin-{bin}"), call)
    };
    let request = (0..20).fold(Message::write("huge"), |request, bin| request.with_operation(resize(bin)));
    assert_eq!(client.ask(&request).expect("an answer").result, result::RECORD_TOO_BIG);
    assert_eq!(client.ask(&Message::get("huge")).expect("an answer").result, result::NOT_FOUND);
    assert!(peak_memory(&server) < 800 << 20, "{} bytes", peak_memory(&server));
}
