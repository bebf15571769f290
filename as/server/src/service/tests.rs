//! Conversations with a server in the test's own process whose connections change their threads all the time.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::config::{self, Config};
use crate::server::Server;

const CONFIG: &str = "
service {
    cluster-name tests
    service-threads 4
    batch-index-threads 1
    info-threads 2
}
network {
    service {
        address 127.0.0.1
        port 0
    }
}
namespace test {
    storage-engine memory {
        data-size 512M
    }
}
";
/// Time limit of operations that take milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);
const CONNECTIONS: usize = 12;

fn start() -> Server {
    let (config, _): (Config, _) = config::parse(CONFIG, "test").expect("it parses");
    config.keep_no_metadata();
    Server::start(config).expect("it starts")
}

/// One question to the server.
#[derive(Clone, Debug)]
enum Question {
    Write(u64),
    Read,
    /// Several reads in one request.
    ReadLong,
    Info,
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u64).to_be_bytes().to_vec();
    frame[..2].copy_from_slice(&[2, kind]);
    frame.extend_from_slice(body);
    frame
}

/// A message about the record of connection `who`: header, namespace, digest and operations on the bin `n`, all alike.
fn message(info1: u8, info2: u8, who: usize, op_code: u8, value: &[u8], op_count: u16) -> Vec<u8> {
    let mut body = vec![22, info1, info2, 0, 0, 0];
    body.extend_from_slice(&[0; 12]);
    body.extend_from_slice(&[0, 2]);
    body.extend_from_slice(&op_count.to_be_bytes());
    let mut field = |kind: u8, value: &[u8]| {
        body.extend_from_slice(&(value.len() as u32 + 1).to_be_bytes());
        body.push(kind);
        body.extend_from_slice(value);
    };
    field(0, b"test");
    field(4, &[who as u8 + 1; 20]);
    let particle_type = u8::from(!value.is_empty());
    for _ in 0..op_count {
        body.extend_from_slice(&(value.len() as u32 + 5).to_be_bytes());
        body.extend_from_slice(&[op_code, particle_type, 0, 1, b'n']);
        body.extend_from_slice(value);
    }
    frame(3, &body)
}

impl Question {
    fn bytes(&self, who: usize) -> Vec<u8> {
        match self {
            Question::Write(value) => message(0, 1, who, 2, &value.to_be_bytes(), 1),
            Question::Read => message(1, 0, who, 1, &[], 1),
            Question::ReadLong => message(1, 0, who, 1, &[], 3_000),
            Question::Info => frame(1, b"build\n"),
        }
    }
}

/// A client that reads and writes one record, and knows the expected answers.
struct Conversation {
    who: usize,
    stream: TcpStream,
    value: u64,
    expected: VecDeque<(Question, u64)>,
}

impl Conversation {
    fn open(server: &Server, who: usize) -> Self {
        let stream = TcpStream::connect(server.client_addresses()[0]).expect("it listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut conversation = Conversation { who, stream, value: 0, expected: VecDeque::new() };
        let first = conversation.note(Question::Write(0));
        conversation.stream.write_all(&first).expect("sent");
        conversation.read_all();
        conversation
    }

    /// Adds a question, whose answer is then expected, and returns its bytes.
    fn note(&mut self, question: Question) -> Vec<u8> {
        if let Question::Write(value) = question {
            self.value = value;
        }
        let bytes = question.bytes(self.who);
        self.expected.push_back((question, self.value));
        bytes
    }

    /// Asks `questions` at once, in pieces that end anywhere, and checks all answers.
    fn ask(&mut self, questions: &[Question], piece: usize) {
        let bytes: Vec<u8> = questions.iter().flat_map(|question| self.note(question.clone())).collect();
        for piece in bytes.chunks(piece) {
            self.stream.write_all(piece).expect("sent");
            std::thread::yield_now();
        }
        self.read_all();
    }

    fn read_all(&mut self) {
        while let Some((question, value)) = self.expected.pop_front() {
            let mut header = [0; 8];
            self.stream.read_exact(&mut header).expect("an answer");
            let size = u64::from_be_bytes(header) & 0xffff_ffff_ffff;
            let mut body = vec![0; size as usize];
            self.stream.read_exact(&mut body).expect("all of the answer");
            match question {
                Question::Info => assert!(body.starts_with(b"build\t"), "{body:?}"),
                Question::Write(_) => assert_eq!((header[1], body[5]), (3, 0), "{body:?}"),
                Question::Read | Question::ReadLong => {
                    assert_eq!((header[1], body[5]), (3, 0), "{body:?}");
                    assert!(body.ends_with(&value.to_be_bytes()), "{value:x} of {}: {body:?}", self.who);
                }
            }
        }
    }
}

fn questions() -> impl Strategy<Value = (Vec<Question>, usize)> {
    let question = prop_oneof![
        4 => any::<u64>().prop_map(Question::Write),
        4 => Just(Question::Read),
        1 => Just(Question::Info),
    ];
    (prop::collection::vec(question, 1..40), prop_oneof![1_usize..100, Just(1 << 20)])
}

#[test]
fn conversations_continue_while_connections_change_their_threads() {
    let server = start();
    let pool = &server.node().service.pool;
    let is_done = AtomicBool::new(false);
    cf::sync::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|who| {
                let mut conversation = Conversation::open(&server, who);
                scope.spawn(move || {
                    let mut runner = TestRunner::default();
                    for _ in 0..100 {
                        let (questions, piece) = questions().new_tree(&mut runner).expect("any").current();
                        conversation.ask(&questions, piece);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            for count in (1..=4).cycle() {
                pool.spread(count);
                std::thread::sleep(Duration::from_micros(300));
                if is_done.load(Relaxed) {
                    break;
                }
            }
        });
        let results: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_done.store(true, Relaxed);
        assert!(results.iter().all(Result::is_ok), "a conversation went wrong");
    });
}

/// Number of requests that each thread carried out in one round over all connections.
fn shares(server: &Server, conversations: &mut [Conversation]) -> Vec<u64> {
    let pool = &server.node().service.pool;
    let before = pool.request_counts();
    for conversation in conversations.iter_mut() {
        conversation.ask(&[Question::Read], 1 << 20);
    }
    // A thread counts its requests when it goes to sleep.
    let start = Instant::now();
    loop {
        let shares: Vec<u64> =
            pool.request_counts().iter().zip(&before).map(|(after, before)| after - before).collect();
        if shares.iter().sum::<u64>() >= conversations.len() as u64 {
            return shares;
        }
        assert!(start.elapsed() < PATIENCE, "{shares:?}");
        std::thread::yield_now();
    }
}

#[test]
fn connections_are_with_their_owners() {
    let server = start();
    let mut conversations: Vec<_> = (0..CONNECTIONS).map(|who| Conversation::open(&server, who)).collect();
    for (count, expected) in [(1, [12, 0, 0, 0]), (4, [3, 3, 3, 3]), (2, [6, 6, 0, 0]), (3, [4, 4, 4, 0])] {
        let start = Instant::now();
        loop {
            // This is repeated each time, because the sizing thread may have changed the count.
            server.node().service.pool.spread(count);
            if shares(&server, &mut conversations) == expected {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{count} threads");
        }
    }
}

/// A connection with unread replies stays on its thread, and continues there.
#[test]
fn a_connection_with_unsent_replies_loses_none() {
    let server = start();
    let pool = &server.node().service.pool;
    let mut conversation = Conversation::open(&server, 0);
    // These replies are more than the buffers of a socket take.
    let count = 200_000;
    let request = conversation.note(Question::Read).repeat(count);
    let mut sender = conversation.stream.try_clone().expect("another handle");
    cf::sync::scope(|scope| {
        scope.spawn(move || sender.write_all(&request).expect("sent"));
        for count in (1..=4).cycle().take(40) {
            pool.spread(count);
            std::thread::sleep(Duration::from_millis(5));
        }
        let expected = conversation.expected.pop_front().expect("noted");
        for n in 0..count {
            pool.spread(1 + n % 4);
            conversation.expected.push_back(expected.clone());
            conversation.read_all();
        }
    });
}

#[test]
fn more_threads_start_when_more_are_configured() {
    let server = start();
    let (pool, configured) = (&server.node().service.pool, &server.node().config.service.service_threads);
    assert_eq!(pool.size(), 4);
    configured.set(7);
    let start = Instant::now();
    while pool.size() < 7 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut conversations: Vec<_> = (0..14).map(|who| Conversation::open(&server, who)).collect();
    loop {
        pool.spread(7);
        if shares(&server, &mut conversations) == [2; 7] {
            break;
        }
        assert!(start.elapsed() < PATIENCE);
    }
    // Fewer threads are used at once, and the others keep no connection.
    configured.set(1);
    while shares(&server, &mut conversations) != [14, 0, 0, 0, 0, 0, 0] {
        assert!(start.elapsed() < 2 * PATIENCE);
    }
}

#[test]
fn long_requests_are_spread_and_gathered_again_when_they_are_over() {
    let server = start();
    let pool = &server.node().service.pool;
    let least = cf::threads::cpu_count().min(4);
    assert_eq!(pool.active_count(), least);
    let mut conversation = Conversation::open(&server, 0);
    let start = Instant::now();
    while pool.active_count() < 4 {
        conversation.ask(&[Question::ReadLong, Question::ReadLong], 1 << 20);
        assert!(start.elapsed() < PATIENCE, "{} threads", pool.active_count());
    }
    while pool.active_count() > least {
        conversation.ask(&[Question::Read], 1 << 20);
        std::thread::sleep(Duration::from_millis(20));
        assert!(start.elapsed() < 2 * PATIENCE, "{} threads", pool.active_count());
    }
}
