//! Ten thousand idle connections and a thousand busy ones on one server at once.

use std::thread;

use ferrospike_tests::client::Client;
use ferrospike_tests::server::{NAMESPACES, Server};
use ferrospike_tests::wire::{Message, result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const IDLE: usize = 10_000;
const BUSY: usize = 1_000;
/// Number of threads that drive the busy connections, and of requests that each thread sends.
const THREADS: usize = 4;
const REQUESTS: usize = 50;

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
network {
    service {
        address 127.0.0.1
        port 0
    }
}
";

#[test]
fn ten_thousand_idle_and_a_thousand_busy() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("read the limit");
    assert!(hard > 15_100, "the hard limit of open files ({hard}) is too low for this test and its server");
    // The limit is for this process only: the server raises its own limit.
    let server = Server::start(&[CONFIG, NAMESPACES].concat());
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit");

    let mut idle: Vec<Client> = (0..IDLE).map(|_| server.connect()).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let server = &server;
            scope.spawn(move || {
                let mut busy: Vec<Client> = (0..BUSY / THREADS).map(|_| server.connect()).collect();
                for n in 0..REQUESTS {
                    let value = |client: usize| format!("{thread} {client} {n}").into_bytes();
                    let key = |client: usize| format!("crowd {thread} {client}");
                    // All clients wait for answers at the same time.
                    for (i, client) in busy.iter_mut().enumerate() {
                        client.send(&Message::put(&key(i), value(i)).encode()).expect("send");
                    }
                    for client in &mut busy {
                        assert_eq!(client.receive_message().expect("an answer").result, result::OK);
                    }
                    for (i, client) in busy.iter_mut().enumerate() {
                        client.send(&Message::get(&key(i)).encode()).expect("send");
                    }
                    for (i, client) in busy.iter_mut().enumerate() {
                        let answer = client.receive_message().expect("an answer");
                        assert_eq!(answer.bin("b"), Some(&value(i)[..]));
                    }
                }
            });
        }
    });

    let statistics = server.connect().info_value("statistics").expect("statistics");
    let count = statistics.split(';').find_map(|pair| pair.strip_prefix("client_connections="));
    let count: usize = count.and_then(|count| count.parse().ok()).expect("client_connections");
    assert!(count > IDLE, "{count} connections are counted");
    for client in &mut idle {
        assert_eq!(client.info_value("status").expect("the idle are served too"), "ok");
    }
}
