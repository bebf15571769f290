//! Info requests and the ports other than the client port: connections that stay silent, that send or read
//! slowly, or that ask for much at once keep no other client out.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::ports::free_port;
use ferrospike_tests::server::{Server, usual_config};
use ferrospike_tests::wire::{Message, info_request, kind, result};

/// Longest time for an answer that is not delayed, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(5);

/// The usual configuration with an info port and a metrics port, and the addresses of these ports.
fn with_ports() -> (String, SocketAddr, SocketAddr) {
    let (info, metrics) = (free_port(), free_port());
    let port = |name: &str, port: u16| format!("{name} {{\naddress 127.0.0.1\nport {port}\n}}\n");
    let network = format!("network {{\n{}{}", port("info", info), port("metrics", metrics));
    let config = usual_config().replacen("network {", &network, 1);
    (config, ([127, 0, 0, 1], info).into(), ([127, 0, 0, 1], metrics).into())
}

/// Asks the info port for `status`.
fn status(port: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(port)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"status\n")?;
    let mut answer = [0; 3];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn is_healthy(port: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(port)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 OK"))
}

#[test]
fn silent_connections_keep_no_client_out_of_the_info_port() {
    let (config, info, _) = with_ports();
    let server = Server::start(&config);
    let silent: Vec<TcpStream> = (0..400).map(|_| TcpStream::connect(info).unwrap()).collect();
    for _ in 0..5 {
        assert_eq!(status(info).unwrap(), "ok\n");
    }
    // A client that asks from time to time keeps its place.
    let mut person = TcpStream::connect(info).unwrap();
    person.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        person.write_all(b"status\n").unwrap();
        person.read_exact(&mut [0; 3]).unwrap();
        let _more: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(info).unwrap()).collect();
    }
    drop((silent, server));
}

#[test]
fn health_is_reported_however_slowly_others_ask() {
    let (config, _, metrics) = with_ports();
    let server = Server::start(&config);
    let mut slow: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(metrics).unwrap()).collect();
    // Clients that have asked and do not read hold threads, of which there are only a few.
    let unread: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(metrics).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            stream
        })
        .collect();
    for _ in 0..30 {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(b"G")));
        assert!(is_healthy(metrics));
        thread::sleep(Duration::from_millis(20));
    }
    drop((unread, server));
}

/// The process may open 100 files. Connections to the other ports must take neither the last of them nor a
/// processor.
#[test]
fn few_descriptors_are_shared_fairly() {
    let (config, info, metrics) = with_ports();
    let limit = ["sh", "-c", "ulimit -n 100; exec \"$@\"", "sh"];
    let mut server = Server::start_under(&limit, &config);
    for text in ["allows this process 100", "cannot accept", "refusing"] {
        server.allow(text);
    }
    let many: Vec<TcpStream> =
        (0..120).map(|n| TcpStream::connect(if n % 2 == 0 { info } else { metrics }).unwrap()).collect();
    thread::sleep(Duration::from_millis(300));
    let before = processor_ticks(&server);
    let mut client = server.connect();
    assert_eq!(client.ask(&Message::put("key", vec![1])).unwrap().result, result::OK);
    assert_eq!(status(info).unwrap(), "ok\n");
    assert!(is_healthy(metrics));
    thread::sleep(Duration::from_secs(2));
    let used = processor_ticks(&server) - before;
    assert!(used < 50, "{used} hundredths of a second of processor time in two seconds");
    drop(many);
}

/// Processor time of the process in hundredths of a second.
fn processor_ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.process_id().unwrap())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn requests_of_many_commands_take_turns() {
    let mut server = Server::usual();
    server.allow("more than is allowed").allow("answered with");
    let before = server.resident_megabytes().unwrap_or(0);
    let many = info_request(&"statistics\n".repeat(900));
    let mut greedy: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for round in 0..3 {
        greedy.iter_mut().for_each(|one| one.send(&many).unwrap());
        let started = Instant::now();
        assert_eq!(server.connect().info_value("status").unwrap(), "ok");
        assert!(started.elapsed() < PATIENCE, "{round}: {:?}", started.elapsed());
        if round == 2 {
            break;
        }
        for one in &mut greedy {
            let answer = one.receive().unwrap();
            assert_eq!(answer.kind, kind::INFO);
            assert_eq!(answer.body.split(|byte| *byte == b'\n').count(), 901);
        }
    }
    let grown = server.resident_megabytes().unwrap_or(0).saturating_sub(before);
    assert!(grown < 500, "{grown} MB more");
    // These requests are limited.
    let mut client = server.connect();
    client.send(&info_request(&"build\n".repeat(10_001))).unwrap();
    let answer = client.receive().unwrap();
    assert_eq!(answer.body, b"ERROR:4:more than 10000 commands in one request\n");
    client.send(&info_request(&"build\n".repeat(1_000_000))).unwrap_or_default();
    assert!(client.is_closed_by_server());
}
