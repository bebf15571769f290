//! A node that stops cleanly first hands its partitions over. No request of a client that follows the
//! partition map fails, and other nodes have the records with a single copy before the node ends.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, Operation, digest, info1, info2, operation, result};

/// A namespace with a single copy of each record. The cluster also has one with two copies.
const SINGLE_COPY: &str = "
namespace single {
    replication-factor 1
    storage-engine memory {
        data-size 512M
    }
}
";
const KEYS: usize = 200;
const THREADS: usize = 2;
/// Interval at which a client reads the partition map.
const TEND_PERIOD: Duration = Duration::from_millis(250);
/// Longest time of a stop, including the hand-over.
const STOP_MAX: Duration = Duration::from_secs(20);

fn namespaces() -> String {
    [IN_MEMORY, SINGLE_COPY].concat()
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn patient(request: Message) -> Message {
    Message { transaction_ttl: 20_000, ..request }
}

/// A client that sends each request to the master of its partition, as official clients do.
struct RoutingClient<'a> {
    nodes: &'a [SocketAddr],
    connections: BTreeMap<usize, Client>,
    masters: Vec<Option<usize>>,
    tended: Instant,
}

impl RoutingClient<'_> {
    fn new(nodes: &[SocketAddr]) -> RoutingClient<'_> {
        let (connections, masters) = (BTreeMap::new(), vec![None; 4096]);
        let mut client = RoutingClient { nodes, connections, masters, tended: Instant::now() };
        client.tend();
        client
    }

    fn tend(&mut self) {
        self.tended = Instant::now();
        for node in 0..self.nodes.len() {
            let Ok(mut client) = Client::connect(self.nodes[node]) else { continue };
            let Ok(map) = client.info_value("replicas-master") else { continue };
            let map = map.split(';').find_map(|map| map.strip_prefix("test:")).unwrap_or_default();
            let bits = BASE64_STANDARD.decode(map).unwrap();
            for (number, master) in self.masters.iter_mut().enumerate() {
                let is_here = bits.get(number / 8).is_some_and(|byte| byte & 0x80 >> (number % 8) != 0);
                // A client keeps the last known master until another node reports that it is the master.
                if is_here {
                    *master = Some(node);
                }
            }
        }
    }

    fn ask(&mut self, key: &str, request: &Message) -> io::Result<Message> {
        if self.tended.elapsed() > TEND_PERIOD {
            self.tend();
        }
        let digest = digest("rig", key);
        let partition = usize::from(u16::from_le_bytes([digest[0], digest[1]]) & 4095);
        let node = self.masters[partition].unwrap_or_default();
        if !self.connections.contains_key(&node) {
            self.connections.insert(node, Client::connect(self.nodes[node])?);
        }
        let answer = self.connections.get_mut(&node).unwrap().ask(request);
        if answer.is_err() {
            self.connections.remove(&node);
        }
        answer
    }
}

/// Writes keys one after another, again and again, until stopped. Returns the number of answered requests and
/// the errors of the others.
fn write_until(
    nodes: &[SocketAddr],
    thread: usize,
    is_over: &AtomicBool,
) -> (usize, Vec<String>, BTreeMap<String, u8>) {
    let mut client = RoutingClient::new(nodes);
    let (mut count, mut failed, mut written) = (0, Vec::new(), BTreeMap::new());
    while !is_over.load(Relaxed) {
        let key = key(count * THREADS % KEYS + thread);
        let put = patient(Message::put(&key, vec![count as u8]));
        let mut answer = client.ask(&key, &put);
        if !answer.as_ref().is_ok_and(|answer| answer.result == result::OK) {
            failed.push(format!("{key}: {:?}", answer.map(|answer| answer.result)));
            client.tend();
            answer = client.ask(&key, &put);
        }
        assert_eq!(answer.unwrap().result, result::OK, "{key} after a look at the map, before: {failed:?}");
        written.insert(key, count as u8);
        count += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    (count, failed, written)
}

#[test]
fn a_clean_stop_causes_no_errors_for_clients() {
    let mut nodes = Nodes::start(3, &namespaces());
    nodes.await_cluster(&[0, 1, 2]);
    let single = |number: usize| Message::on_record("single", "rig", &key(number));
    let mut client = nodes.servers[0].connect();
    for number in 0..KEYS {
        let put = Message { info2: info2::WRITE, ..single(number) }.with_operation(Operation::blob(
            operation::WRITE,
            "b",
            vec![7],
        ));
        assert_eq!(client.ask(&patient(put)).unwrap().result, result::OK);
    }
    let addresses: Vec<SocketAddr> = nodes.servers.iter().map(Server::address).collect();
    let is_over = AtomicBool::new(false);
    let (stopped_after, outcomes) = std::thread::scope(|scope| {
        let (addresses, is_over) = (&addresses, &is_over);
        let writers: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || write_until(addresses, thread, is_over))).collect();
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        nodes.servers[1].stop();
        let stopped_after = began.elapsed();
        std::thread::sleep(Duration::from_millis(500));
        is_over.store(true, Relaxed);
        (stopped_after, writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>())
    });
    assert!(stopped_after < STOP_MAX, "the stop took {stopped_after:?}");
    nodes.servers[1].await_log("other nodes have the partitions after");
    nodes.await_members(&[0, 2]);
    for (count, failed, written) in outcomes {
        // A client may have been suspended between reading the map and its request, and may have found the
        // node ended.
        assert!(failed.len() <= 1, "of {count} requests failed once: {failed:?}");
        for (key, value) in written {
            let answer = client.ask(&patient(Message::get(&key))).unwrap();
            assert_eq!(answer.bin("b"), Some(&[value][..]), "{key}");
        }
    }
    // The stopped node had the only copies of a third of these records.
    for number in 0..KEYS {
        let answer =
            client.ask(&patient(Message { info1: info1::READ | info1::GET_ALL, ..single(number) })).unwrap();
        assert_eq!(answer.bin("b"), Some(&[7][..]), "{}", key(number));
    }
}

#[test]
fn a_single_node_does_not_wait() {
    let mut nodes = Nodes::start(2, &namespaces());
    nodes.await_cluster(&[0, 1]);
    nodes.servers[1].kill9();
    nodes.await_members(&[0]);
    let client = nodes.servers[0].connect();
    let before = nodes.servers[0].log().len();
    nodes.servers[0].stop();
    drop(client);
    let said = nodes.servers[0].log().split_off(before);
    assert!(!said.contains("other node"), "{said}");
}
