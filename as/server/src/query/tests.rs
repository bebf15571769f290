//! Queries with simulated clients: errors of clients, and records that are not on disk yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::Digest;
use datamodel::partition_version::PartitionVersion;
use datamodel::{Bins, BytesType, Particle};
use parking_lot::Mutex;
use proto::message::{info1, info3};

use super::request::{Part, Projection, QueryKind, SetFilter};
use super::walked::{Stop, WalkedPartition};
use super::walker::Walker;
use super::*;
use crate::index::{Location, PartitionId, RecordMeta, SetId};
use crate::metrics::ServerMetrics;
use crate::namespace::QueryAccess;
use crate::transaction::SinkClosed;

/// A client that keeps its replies, or has a bug.
#[derive(Default)]
struct Client {
    panics: bool,
    received: Mutex<Vec<u8>>,
    /// Called while the query waits for the client for the first time.
    at_first: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl ReplySink for Client {
    fn send(&self, frames: Vec<u8>) -> Result<(), SinkClosed> {
        assert!(!self.panics, "a bug for a test");
        self.at_first.lock().take().into_iter().for_each(|act| act());
        self.received.lock().extend(frames);
        Ok(())
    }

    fn post(&self, frames: Vec<u8>) {
        self.received.lock().extend(frames);
    }

    fn finish(&self, frames: Vec<u8>) {
        self.received.lock().extend(frames);
    }
}

fn start(storage: &str) -> (Arc<Queries>, Arc<Namespace>) {
    let (config, namespace) =
        Namespace::for_tests(&format!("namespace test {{\n storage-engine {storage}\n}}\n"));
    let metrics = Arc::new(ServerMetrics::new(1));
    let transactions =
        TransactionContext::new(Arc::clone(&config), Arc::new([Arc::clone(&namespace)]), metrics);
    let indexes = Arc::new(SecondaryIndexes::new(1));
    (Arc::new(Queries::new(config, Arc::new(transactions), indexes)), namespace)
}

/// Writes a record with `size` bytes; it may not be on disk yet.
fn put(namespace: &Namespace, key: u32, size: usize) -> Location {
    put_at(namespace, Digest::of_key(b"", 1, &u64::from(key).to_be_bytes()), size)
}

fn put_at(namespace: &Namespace, digest: Digest, size: usize) -> Location {
    let mut bins = Bins::new();
    bins.set(b"b", Particle::Bytes(BytesType::Blob, vec![7; size].into()));
    let (guard, _) = namespace.index.get_or_create(&digest).expect("room");
    let mut meta = RecordMeta::new(SetId::NONE);
    meta.generation = 1;
    meta.set_last_update_time(1);
    namespace.write_for_tests(guard, meta, (b"", &bins)).expect("room").location
}

/// A query for all records.
fn query(namespace: &Arc<Namespace>) -> Query {
    Query {
        id: 1,
        namespace: Arc::clone(namespace),
        set_name: Box::default(),
        set: SetFilter::All,
        kind: QueryKind::Basic(Projection::default()),
        parts: PartitionId::all().map(|partition| Part { partition, after: None }).collect(),
        has_parts: true,
        access: QueryAccess::Full,
        condition: None,
        filter: None,
        records_per_second: 0,
        sample_max: 0,
        time_max: None,
        socket_timeout: None,
    }
}

/// Runs a query for all records to its end; returns the bytes that its client received.
fn run(queries: &Arc<Queries>, namespace: &Arc<Namespace>, panics: bool) -> Vec<u8> {
    let client = Arc::new(Client { panics, ..Client::default() });
    let from = Requester { address: SocketAddr::from(([127, 0, 0, 1], 1)), permit: None };
    let sink: Arc<dyn ReplySink> = Arc::<Client>::clone(&client);
    queries.start(query(namespace), from, sink).expect("it starts");
    let started = Instant::now();
    while queries.long_threads.at_work() != 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "it is active for ever");
        std::thread::yield_now();
    }
    assert_eq!((queries.long_count(), queries.jobs().len()), (0, 1));
    assert!(queries.stop_until(Instant::now() + Duration::from_secs(10)).is_empty());
    std::mem::take(&mut client.received.lock())
}

#[test]
fn a_short_query_ends_in_time_also_where_it_finds_nothing() {
    let (queries, namespace) = start("memory {\n data-size 512M\n }");
    for key in 0..20_000u32 {
        // All in one partition, and in no set.
        let mut digest = Digest([0; 20]);
        digest.0[4..8].copy_from_slice(&key.to_le_bytes());
        let (mut guard, _) = namespace.index.get_or_create(&digest).expect("room");
        guard.meta_mut().generation = 1;
    }
    let of_a_set = |time_max| Query { set: SetFilter::One(SetId(7)), time_max, ..query(&namespace) };
    let from = SocketAddr::from(([127, 0, 0, 1], 1));
    let done = |query: Query| {
        let job = Arc::new(Job::new(&query, from));
        let sink: Arc<dyn ReplySink> = Arc::new(Client::default());
        let transactions = Arc::clone(&queries.transactions);
        let run = Arc::new(QueryRun::new(
            query,
            Arc::clone(&job),
            Some(sink),
            None,
            transactions,
            Default::default(),
        ));
        let end = run.run_thread().expect("its only thread");
        (end, job.partitions_done.load(Ordering::Relaxed))
    };
    assert_eq!(done(of_a_set(Some(Duration::ZERO))), (End::TimedOut, 0));
    assert_eq!(done(of_a_set(None)), (End::Complete, 4096));
}

/// A record for which the budget does not suffice is left out.
#[test]
fn a_walk_whose_budget_is_exhausted_is_not_complete() {
    let (queries, namespace) = start_indexed();
    put_number(&namespace, 1, 5);
    let all = || query(&namespace);
    let by_index = || range_query(&queries, &namespace, 0, 10);
    for make in [&all as &dyn Fn() -> Query, &by_index] {
        let walked = |steps| {
            let (query, transactions) = (make(), Arc::clone(&queries.transactions));
            let job = Arc::new(Job::new(&query, SocketAddr::from(([127, 0, 0, 1], 1))));
            let client: Arc<dyn ReplySink> = Arc::new(Client::default());
            let run =
                Arc::new(QueryRun::new(query, job, Some(client), None, transactions, Default::default()));
            let budget = Budget::new(steps);
            let walked = Walker::new(&run, &budget).walk();
            (walked, budget.is_exhausted())
        };
        assert_eq!(walked(1_000_000), (Ok(()), false));
        assert_eq!(walked(1), (Err(End::TimedOut), true));
    }
}

/// The result in the last message of what a client has received.
fn last_result(received: &[u8]) -> u8 {
    received[received.len() - 22 + 5]
}

/// Carries out a query to its end in this thread; returns how it ended.
fn walk(queries: &Queries, query: Query, client: &Arc<Client>) -> End {
    let job = Arc::new(Job::new(&query, SocketAddr::from(([127, 0, 0, 1], 1))));
    let sink: Arc<dyn ReplySink> = Arc::<Client>::clone(client);
    let transactions = Arc::clone(&queries.transactions);
    let run = Arc::new(QueryRun::new(query, job, Some(sink), None, transactions, Default::default()));
    run.run_thread().expect("its only thread")
}

/// The messages that a client received: the number of records, and result and partition of the others.
fn messages(mut received: &[u8]) -> (usize, Vec<(u8, u32)>) {
    let (mut records, mut others) = (0, Vec::new());
    while let Ok(Some(header)) = proto::frame::FrameHeader::parse(received) {
        let (frame, behind) = received.split_at(proto::frame::HEADER_SIZE + header.body_size);
        let mut body = &frame[proto::frame::HEADER_SIZE..];
        while !body.is_empty() {
            let number = |range: std::ops::Range<usize>| {
                body[range].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
            };
            match number(18..20) {
                0 => others.push((body[5], number(6..10))),
                _ => records += 1,
            }
            let mut end = 22;
            for _ in 0..number(18..20) + number(20..22) {
                end += 4 + number(end..end + 4) as usize;
            }
            body = &body[end..];
        }
        received = behind;
    }
    (records, others)
}

#[test]
fn a_partition_that_is_not_read_here_is_named() {
    let (queries, namespace) = start("memory {\n data-size 512M\n }");
    for key in 0..200 {
        put(&namespace, key, 10);
    }
    let here = |query: Query| {
        let client = Arc::new(Client::default());
        assert_eq!(walk(&queries, query, &client), End::Complete);
        messages(&client.received.lock())
    };
    assert_eq!(here(query(&namespace)), (200, vec![]));
    let gone = PartitionId::of(&Digest::of_key(b"", 1, &7u64.to_be_bytes()));
    let others = (0..200u64)
        .filter(|key| PartitionId::of(&Digest::of_key(b"", 1, &key.to_be_bytes())) != gone)
        .count();
    assert!(namespace.partitions.isolate(gone, Duration::ZERO));
    let told = vec![(ResultCode::Unavailable.code(), gone.index() as u32)];
    for access in [QueryAccess::Full, QueryAccess::Relaxed] {
        assert_eq!(here(Query { access, ..query(&namespace) }), (others, told.clone()));
    }
    assert_eq!(here(Query { set: SetFilter::None, ..query(&namespace) }), (0, told));
    // A client that names no partitions gets those of each node.
    let own = Query { has_parts: false, access: QueryAccess::Master, ..query(&namespace) };
    assert_eq!(here(own), (others, vec![]));
}

/// The query waits for its client after the first records. Meanwhile the partition goes; its other records are not
/// sent.
#[test]
fn a_partition_is_not_reserved_while_the_client_is_waited_for() {
    let (queries, namespace) = start("memory {\n data-size 512M\n }");
    let digest = |key: u8| Digest(std::array::from_fn(|at| if at == 19 { key } else { 0 }));
    for key in 0..20 {
        put_at(&namespace, digest(key), 50_000);
    }
    put(&namespace, 1, 10);
    let partition = PartitionId::of(&digest(0));
    for is_new_life in [false, true] {
        let own = Arc::clone(&namespace);
        let at_first = move || {
            assert!(own.partitions.isolate(partition, Duration::ZERO), "nobody uses it");
            if is_new_life {
                let lost = [(partition, PartitionVersion::default())];
                own.partitions.set_versions(&own.storage, &lost).expect("no headers to write");
                own.deal_alone(2).expect("no headers to write");
            }
        };
        let client = Arc::new(Client { at_first: Mutex::new(Some(Box::new(at_first))), ..Client::default() });
        assert_eq!(walk(&queries, query(&namespace), &client), End::Complete);
        let (records, others) = messages(&client.received.lock());
        assert!((2..20).contains(&records), "{records} records");
        assert_eq!(others, [(ResultCode::Unavailable.code(), 0)]);
        namespace.deal_alone(1).expect("no headers to write");
    }
}

/// A namespace with an index of the whole numbers in bin `n`.
fn start_indexed() -> (Arc<Queries>, Arc<Namespace>) {
    let config =
        crate::config::for_tests("namespace test {\n storage-engine memory {\n data-size 512M\n }\n}\n");
    let indexes = Arc::new(SecondaryIndexes::new(1));
    let mut namespace = Namespace::new(&config, 0, 1, 1).unwrap_or_else(|error| panic!("{error}"));
    namespace.add_observer(indexes.observer(0));
    namespace.deal_alone(1).expect("no headers to write");
    let namespace = Arc::new(namespace);
    indexes.apply(std::slice::from_ref(&namespace), "test||n|.|I", Some("n"), false);
    let metrics = Arc::new(ServerMetrics::new(1));
    let transactions =
        TransactionContext::new(Arc::clone(&config), Arc::new([Arc::clone(&namespace)]), metrics);
    (Arc::new(Queries::new(config, Arc::new(transactions), indexes)), namespace)
}

/// Writes a large record of partition 0, whose last update was long ago.
fn put_number(namespace: &Namespace, key: u8, number: i64) {
    let digest = Digest(std::array::from_fn(|at| if at == 19 { key } else { 0 }));
    let mut bins = Bins::new();
    bins.set(b"n", Particle::Integer(number));
    bins.set(b"b", Particle::Bytes(BytesType::Blob, vec![7; 50_000].into()));
    let (guard, _) = namespace.index.get_or_create(&digest).expect("room");
    let mut meta = if guard.exists() { **guard } else { RecordMeta::new(SetId::NONE) };
    meta.generation = meta.next_generation();
    meta.set_last_update_time(1);
    namespace.write_for_tests(guard, meta, (b"", &bins)).expect("room");
}

/// A query of partition 0 for the numbers from `low` to `high`.
fn range_query(queries: &Queries, namespace: &Arc<Namespace>, low: i64, high: i64) -> Query {
    let mut range = vec![1, 1, b'n', 1];
    for bound in [low, high] {
        range.extend(8u32.to_be_bytes());
        range.extend(bound.to_be_bytes());
    }
    let fields = [
        (field::NAMESPACE, &b"test"[..]),
        (field::PARTITION_ID_ARRAY, &[0, 0][..]),
        (field::INDEX_RANGE, &range[..]),
    ];
    let mut body = vec![22, info1::READ | info1::GET_ALL, 0, info3::PARTITION_DONE];
    body.resize(18, 0);
    body.extend((fields.len() as u16).to_be_bytes());
    body.extend(0u16.to_be_bytes());
    for (number, value) in fields {
        body.extend((value.len() as u32 + 1).to_be_bytes());
        body.push(number);
        body.extend_from_slice(value);
    }
    let request = Request::parse(&body).expect("a request");
    let address = ([127, 0, 0, 1], 1).into();
    let mut requester = Requester { address, permit: None };
    queries.parse(&request, &body, namespace, &mut requester, &Budget::unlimited()).expect("a query")
}

/// While the query waits for its client, a found record is replaced by a version with another value that was last
/// updated long ago, as a copy from another node may be.
#[test]
fn a_record_is_looked_at_again_if_its_entry_went() {
    let (queries, namespace) = start_indexed();
    (0..20).for_each(|key| put_number(&namespace, key, i64::from(key)));
    let found = |at_first: Option<Box<dyn FnOnce() + Send>>| {
        let client = Arc::new(Client { at_first: Mutex::new(at_first), ..Client::default() });
        let query = range_query(&queries, &namespace, 0, 100);
        assert_eq!(walk(&queries, query, &client), End::Complete);
        messages(&client.received.lock())
    };
    assert_eq!(found(None), (20, vec![]));
    let own = Arc::clone(&namespace);
    assert_eq!(found(Some(Box::new(move || put_number(&own, 19, 1_000)))), (19, vec![]));
    assert_eq!(found(None), (19, vec![]));
}

#[test]
fn a_query_gives_a_partition_up_that_is_waited_for() {
    let (_, namespace) = start("memory {\n data-size 512M\n }");
    let partition = PartitionId::new(3).expect("a partition");
    let mut walked = WalkedPartition::reserve(&namespace.partitions, partition, QueryAccess::Full)
        .expect("a node alone reads all");
    assert_eq!(walked.go_on(), Ok(()));
    cf::sync::scope(|scope| {
        let isolated = scope.spawn(|| namespace.partitions.isolate(partition, Duration::from_secs(60)));
        while walked.go_on().is_ok() {
            assert!(!isolated.is_finished(), "it is reserved");
            std::thread::yield_now();
        }
        assert!(isolated.join().expect("no panic"));
    });
    assert_eq!(walked.go_on(), Err(Stop::PartitionLost));
}

#[test]
fn a_panic_ends_the_query_and_tells_the_client() {
    let (queries, namespace) = start("memory {\n data-size 512M\n }");
    put(&namespace, 1, 200_000);
    let received = run(&queries, &namespace, true);
    assert_eq!(last_result(&received), ResultCode::Unknown.code());
}

#[test]
fn no_record_is_sent_before_it_is_on_disk() {
    let folder = std::env::temp_dir().join(format!("asd-query-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("test.dat");
    let (queries, namespace) =
        start(&format!("device {{\n file {}\n filesize 128M\n commit-to-device true\n }}", file.display()));
    let places = [put(&namespace, 1, 200_000), put(&namespace, 2, 100)];
    assert!(places.iter().all(|place| namespace.storage.is_unsettled(*place)));
    let received = run(&queries, &namespace, false);
    assert_eq!(last_result(&received), ResultCode::Ok.code());
    assert!(received.len() > 200_000);
    assert!(!places.iter().any(|place| namespace.storage.is_unsettled(*place)));
    std::fs::remove_dir_all(&folder).expect("it is still there");
}
