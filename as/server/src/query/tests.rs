//! Queries whose clients are only pretended: what becomes of those that go wrong, and of records that are not on disk yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::Digest;
use datamodel::{Bins, BytesType, Particle};
use parking_lot::Mutex;

use super::request::{Part, Projection, QueryKind, SetFilter};
use super::*;
use crate::index::{Location, PartitionId, RecordMeta, SetId};
use crate::metrics::ServerMetrics;
use crate::transaction::SinkClosed;

/// A client that keeps what it gets, or has a bug.
#[derive(Default)]
struct Client {
    panics: bool,
    received: Mutex<Vec<u8>>,
}

impl ReplySink for Client {
    fn send(&self, frames: Vec<u8>) -> Result<(), SinkClosed> {
        assert!(!self.panics, "a bug for a test");
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
    let digest = Digest::of_key(b"", 1, &u64::from(key).to_be_bytes());
    let mut bins = Bins::new();
    bins.set(b"b", Particle::Bytes(BytesType::Blob, vec![7; size].into()));
    let (guard, _) = namespace.index.get_or_create(&digest).expect("room");
    let mut meta = RecordMeta::new(SetId::NONE);
    meta.generation = 1;
    meta.set_last_update_time(1);
    namespace.write_for_tests(guard, meta, (b"", &bins)).expect("room").location
}

/// A query for everything.
fn query(namespace: &Arc<Namespace>) -> Query {
    Query {
        id: 1,
        namespace: Arc::clone(namespace),
        set_name: Box::default(),
        set: SetFilter::All,
        kind: QueryKind::Basic(Projection::default()),
        parts: PartitionId::all().map(|partition| Part { partition, after: None }).collect(),
        has_parts: true,
        condition: None,
        filter: None,
        records_per_second: 0,
        sample_max: 0,
        time_max: None,
        socket_timeout: None,
    }
}

/// Runs a query for everything to its end; returns what its client has received.
fn run(queries: &Arc<Queries>, namespace: &Arc<Namespace>, panics: bool) -> Vec<u8> {
    let client = Arc::new(Client { panics, ..Client::default() });
    let from = SocketAddr::from(([127, 0, 0, 1], 1));
    let sink: Arc<dyn ReplySink> = Arc::<Client>::clone(&client);
    queries.start(query(namespace), from, sink).expect("it starts");
    let started = Instant::now();
    while queries.long_threads.at_work() != 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "it is active for ever");
        std::thread::yield_now();
    }
    assert_eq!((queries.long_count(), queries.jobs().len()), (0, 1));
    queries.stop();
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
        guard.generation = 1;
    }
    let of_a_set = |time_max| Query { set: SetFilter::One(SetId(7)), time_max, ..query(&namespace) };
    let from = SocketAddr::from(([127, 0, 0, 1], 1));
    let done = |query: Query| {
        let job = Arc::new(Job::new(&query, from));
        let sink: Arc<dyn ReplySink> = Arc::new(Client::default());
        let transactions = Arc::clone(&queries.transactions);
        let run = Arc::new(QueryRun::new(query, Arc::clone(&job), Some(sink), transactions, Arc::default()));
        let end = run.run_thread().expect("its only thread");
        (end, job.partitions_done.load(Ordering::Relaxed))
    };
    assert_eq!(done(of_a_set(Some(Duration::ZERO))), (End::TimedOut, 0));
    assert_eq!(done(of_a_set(None)), (End::Complete, 4096));
}

/// The result in the last message of what a client has received.
fn last_result(received: &[u8]) -> u8 {
    received[received.len() - 22 + 5]
}

#[test]
fn a_panic_ends_the_query_and_tells_the_client() {
    let (queries, namespace) = start("memory {\n data-size 512M\n }");
    put(&namespace, 1, 200_000);
    let received = run(&queries, &namespace, true);
    assert_eq!(last_result(&received), ResultCode::Unknown.code());
}

#[test]
fn no_record_is_told_of_before_it_is_on_disk() {
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
