//! Strangers send bytes to the ports that nodes use for each other: random bytes, damaged messages, and
//! messages of another cluster. The nodes stay one cluster and continue to serve.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, result};

const ATTACK: Duration = Duration::from_secs(8);
/// Message types, in the order of the fuzz target whose inputs this test uses.
const TYPES: [u16; 9] = [0, 3, 4, 5, 6, 7, 8, 9, 15];
const HEARTBEAT: u16 = 5;

/// Messages, each as type and body.
fn samples() -> Vec<(u16, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/peer");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs = paths.iter().map(|path| fs::read(path).unwrap());
    let samples = inputs.filter_map(|input| {
        let (choice, body) = input.split_first()?;
        Some((TYPES[usize::from(*choice) % TYPES.len()], body.to_vec()))
    });
    samples.collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

fn put_message(bytes: &mut Vec<u8>, message_type: u16, body: &[u8]) {
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(message_type.to_be_bytes());
    bytes.extend(body);
}

/// A stream of messages, some of them damaged. For a fabric port they follow a stranger's hello.
fn stream_of(samples: &[(u16, Vec<u8>)], random: &mut Random, is_fabric: bool) -> (Vec<u8>, u64) {
    let (mut bytes, mut count) = (Vec::new(), 0);
    if is_fabric && random.next(8) != 0 {
        let mut hello = vec![0, 0, 3];
        hello.extend((0x7700 + random.next(4) as u64).to_be_bytes());
        hello.extend([0, 5, 1, 0, 0, 0, random.next(4) as u8]);
        put_message(&mut bytes, 0, &hello);
    }
    for _ in 0..40 {
        let (message_type, body) = &samples[random.next(samples.len())];
        let message_type = if is_fabric { *message_type } else { HEARTBEAT };
        let mut body = body.clone();
        for _ in 0..random.next(4) {
            if !body.is_empty() {
                let at = random.next(body.len());
                body[at] = random.next(256) as u8;
            }
        }
        put_message(&mut bytes, message_type, &body);
        count += 1;
    }
    if random.next(4) == 0 {
        bytes.extend((0..200).map(|_| random.next(256) as u8));
    }
    (bytes, count)
}

/// Ends the attack when it is dropped, even if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn strangers_do_not_disturb_the_cluster() {
    let mut nodes = Nodes::start(2, IN_MEMORY);
    let key = nodes.await_cluster(&[0, 1]);
    // Random bytes can form any message, and the log reports them.
    nodes.servers.iter_mut().for_each(|server| _ = server.allow("WARNING"));
    let port = |number: usize, name: &str| -> u16 {
        let endpoints = nodes.info(number, "endpoints");
        endpoints.split(';').find_map(|pair| pair.strip_prefix(name)).unwrap().parse().unwrap()
    };
    let ports: Vec<(u16, bool)> = (0..2)
        .flat_map(|number| [(port(number, "fabric.port="), true), (port(number, "heartbeat.port="), false)])
        .collect();
    let (samples, is_over, sent) = (samples(), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (seed, (port, is_fabric)) in ports.iter().enumerate() {
            let (samples, is_over, sent) = (&samples, &is_over, &sent);
            scope.spawn(move || {
                let mut random = Random(seed as u64 + 1);
                while !is_over.load(Relaxed) {
                    let (bytes, count) = stream_of(samples, &mut random, *is_fabric);
                    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", *port)) else { continue };
                    // The node may have closed the connection before everything is sent.
                    let _ = stream.write_all(&bytes);
                    sent.fetch_add(count, Relaxed);
                    // The pause leaves some of the machine's ports to other tests.
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
        let _over = Over(&is_over);
        let mut clients: Vec<Client> = nodes.servers.iter().map(Server::connect).collect();
        let began = Instant::now();
        let mut number = 0_usize;
        while began.elapsed() < ATTACK {
            let name = format!("under-attack-{}", number % 100);
            let patient = |request| Message { transaction_ttl: 10_000, ..request };
            let value = (number as u32).to_be_bytes().to_vec();
            let put = patient(Message::put(&name, value.clone()));
            assert_eq!(clients[number % 2].ask(&put).unwrap().result, result::OK, "write {number}");
            let found = clients[(number + 1) % 2].ask(&patient(Message::get(&name))).unwrap();
            assert_eq!(found.bin("b"), Some(&value[..]), "read {number}");
            number += 1;
        }
        ferrospike_tests::report(&format!("{} messages of strangers, {number} writes", sent.load(Relaxed)));
    });
    assert_eq!(nodes.await_members(&[0, 1]), key, "the cluster stayed as it was");
}
