//! Records that migrate between nodes: nodes that join, fail and come back, copies that differ, and the
//! answers to clients meanwhile.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::nodes::{IN_MEMORY, Nodes};
use ferrospike_tests::report;
use ferrospike_tests::server::Server;
use ferrospike_tests::wire::{Message, Operation, info2, operation, result};

const FILE: &str = "
namespace test {
    replication-factor 2
    storage-engine device {
        file {dir}/test.dat
        filesize 256M
        flush-max-ms 10
    }
}
";
/// The result of a node that does not serve the partition of a record.
const UNAVAILABLE: u8 = 11;
/// Reads the newest of all copies.
const CONSISTENCY_LEVEL_ALL: u8 = 0x40;
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of several nodes. It searches for the node that serves a record.
struct Clients(Vec<Client>);

impl Clients {
    fn of(nodes: &Nodes, numbers: &[usize]) -> Clients {
        Clients(numbers.iter().map(|number| nodes.servers[*number].connect()).collect())
    }

    /// Asks one node after another until one serves the record in time.
    fn ask(&mut self, request: &Message) -> Message {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            for client in &mut self.0 {
                let answer = client.ask(request).unwrap();
                if answer.result != UNAVAILABLE && answer.result != result::TIMEOUT {
                    return answer;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("nobody serves the record");
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        assert_eq!(self.ask(&Message::put(key, value.to_vec())).result, result::OK, "{key}");
    }

    /// The value of a record; `None` if it does not exist.
    fn value(&mut self, key: &str) -> Option<Vec<u8>> {
        let answer = self.ask(&Message::get(key));
        match answer.result {
            result::OK => Some(answer.operations[0].value.clone()),
            result::NOT_FOUND => None,
            code => panic!("{key}: result {code}"),
        }
    }
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Waits until the nodes with replicas of a partition have the same number of its records, and other nodes
/// have none. Returns the number of all copies.
fn check_copies(nodes: &Nodes, numbers: &[usize]) -> u64 {
    let began = Instant::now();
    loop {
        match count_copies(nodes, numbers) {
            Ok(count) => return count,
            // Superfluous copies are removed a little later.
            Err(_) if began.elapsed() < PATIENCE / 3 => std::thread::sleep(Duration::from_millis(20)),
            Err(rows) => panic!("copies differ: {rows:?}"),
        }
    }
}

/// The number of records on all nodes, or the reports about a wrong partition.
fn count_copies(nodes: &Nodes, numbers: &[usize]) -> Result<u64, Vec<Vec<String>>> {
    let mut partitions = BTreeMap::<String, Vec<Vec<String>>>::new();
    for number in numbers {
        for row in nodes.info(*number, "partition-info").split(';').skip(1) {
            let columns: Vec<String> = row.split(':').map(str::to_owned).collect();
            partitions.entry(columns[1].clone()).or_default().push(columns);
        }
    }
    let mut count = 0;
    for rows in partitions.into_values() {
        let is_replica = |row: &&Vec<String>| row[4] != "-1";
        let (replicas, others): (Vec<_>, Vec<_>) = rows.iter().partition(is_replica);
        let is_right =
            replicas.iter().all(|row| row[11] == replicas[0][11]) && others.iter().all(|row| row[11] == "0");
        if !is_right {
            return Err(rows);
        }
        count += replicas.iter().map(|row| row[11].parse::<u64>().unwrap()).sum::<u64>();
    }
    Ok(count)
}

/// The sum of a namespace statistic over the nodes.
fn sum(nodes: &Nodes, numbers: &[usize], figure: &str) -> u64 {
    let of = |number: &usize| nodes.servers[*number].connect().figure("namespace/test", figure).unwrap();
    numbers.iter().map(of).sum()
}

/// Adds 1 to one counter after another until stopped. Returns the number of acknowledgements for each
/// counter.
fn count_up(
    nodes: &Nodes,
    numbers: &[usize],
    keys: std::ops::Range<usize>,
    is_done: &AtomicBool,
) -> Vec<u64> {
    let mut clients = Clients::of(nodes, numbers);
    let mut counts = vec![0; keys.len()];
    while !is_done.load(Relaxed) {
        for (at, number) in keys.clone().enumerate() {
            let add =
                Message::write(&key(number)).with_operation(Operation::integer(operation::INCR, "n", 1));
            assert_eq!(clients.ask(&add).result, result::OK);
            counts[at] += 1;
        }
    }
    counts
}

fn counter(clients: &mut Clients, number: usize) -> u64 {
    let answer = clients.ask(&Message::get(&key(number)));
    assert_eq!(answer.result, result::OK, "counter {number}");
    u64::from_be_bytes(answer.bin("n").unwrap().try_into().unwrap())
}

#[test]
fn a_node_that_joins_gets_its_share_while_clients_write() {
    const KEYS: usize = 3000;
    const COUNTERS: usize = 200;
    let mut nodes = Nodes::start_some(3, 2, IN_MEMORY);
    nodes.await_cluster(&[0, 1]);
    let mut clients = Clients::of(&nodes, &[0, 1]);
    (COUNTERS..KEYS).for_each(|number| clients.put(&key(number), &number.to_be_bytes()));

    let is_done = AtomicBool::new(false);
    nodes.start_next();
    let counts = std::thread::scope(|scope| {
        let halves = [0..COUNTERS / 2, COUNTERS / 2..COUNTERS];
        let writers = halves.map(|keys| scope.spawn(|| count_up(&nodes, &[0, 1, 2], keys, &is_done)));
        nodes.await_cluster(&[0, 1, 2]);
        is_done.store(true, Relaxed);
        writers.map(|writer| writer.join().unwrap()).concat()
    });
    assert_eq!(check_copies(&nodes, &[0, 1, 2]), 2 * KEYS as u64);
    assert_eq!(sum(&nodes, &[0, 1, 2], "master_objects"), KEYS as u64);
    assert_eq!(sum(&nodes, &[0, 1, 2], "non_replica_objects"), 0);
    let transmitted = sum(&nodes, &[0, 1, 2], "migrate_records_transmitted");
    assert!(transmitted > KEYS as u64 / 3, "{transmitted} records migrated");
    assert!(sum(&nodes, &[2], "migrate_record_receives") > KEYS as u64 / 3);
    assert_eq!(sum(&nodes, &[0, 1, 2], "migrate_record_retransmits"), 0);
    assert!(sum(&nodes, &[2], "migrate_rx_partitions_initial") > 2000);
    assert!(sum(&nodes, &[0, 1], "migrate_tx_partitions_initial") > 2000);
    nodes.await_info(2, "namespace/test", "migrate_signals_remaining=0;");
    for figure in ["tx_partitions_active", "rx_partitions_active", "signals_active", "signals_remaining"] {
        assert_eq!(sum(&nodes, &[0, 1, 2], &format!("migrate_{figure}")), 0, "{figure}");
    }

    // Each node has its records: without one of the old nodes no record is missing.
    nodes.servers[0].kill9();
    nodes.await_members(&[1, 2]);
    let mut clients = Clients::of(&nodes, &[1, 2]);
    for (number, count) in counts.iter().enumerate() {
        assert_eq!(counter(&mut clients, number), *count, "counter {number}");
    }
    for number in COUNTERS..KEYS {
        assert_eq!(clients.value(&key(number)).as_deref(), Some(&number.to_be_bytes()[..]), "key {number}");
    }
    // Lost copies are made again.
    nodes.await_cluster(&[1, 2]);
    assert_eq!(check_copies(&nodes, &[1, 2]), 2 * KEYS as u64);
}

/// The system's file about a thread of a server.
fn thread_file(server: &Server, thread: &str, file: &str) -> String {
    let tasks = format!("/proc/{}/task", server.process_id().unwrap());
    let folders = std::fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path());
    let name_of = |folder: &PathBuf| std::fs::read_to_string(folder.join("comm"));
    let is_it = |folder: &PathBuf| name_of(folder).is_ok_and(|name| name.trim_end() == thread);
    let folder = folders.into_iter().find(is_it).unwrap();
    std::fs::read_to_string(folder.join(file)).unwrap()
}

/// How often a thread of a server has waited for work.
fn waits(server: &Server, thread: &str) -> u64 {
    let status = thread_file(server, thread, "status");
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    count.trim().parse().unwrap()
}

/// The nice value of a thread of a server: the 17th field behind its name.
fn niceness(server: &Server, thread: &str) -> i64 {
    let stat = thread_file(server, thread, "stat");
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap()
}

/// A third node joins two nodes with `count` records of this size. Returns how often threads of low priority
/// have worked for that on each of the two.
fn low_priority_work(count: usize, size: usize) -> [u64; 2] {
    let mut nodes = Nodes::start_some(3, 2, IN_MEMORY);
    nodes.await_cluster(&[0, 1]);
    let mut clients = Clients::of(&nodes, &[0, 1]);
    (0..count).for_each(|number| clients.put(&key(number), &vec![7; size]));
    let waits = |nodes: &Nodes| [0, 1].map(|number| waits(&nodes.servers[number], "migrate-0"));
    let before = waits(&nodes);
    nodes.start_next();
    nodes.await_cluster(&[0, 1, 2]);
    assert_eq!(check_copies(&nodes, &[0, 1, 2]), 2 * count as u64);
    assert!(sum(&nodes, &[0, 1], "migrate_tx_partitions_initial") > 2000);
    let server = &nodes.servers[0];
    assert_eq!(niceness(server, "migrate-0"), niceness(server, "migrate-small-0") + 10);
    let after = waits(&nodes);
    [0, 1].map(|number| after[number] - before[number])
}

#[test]
fn small_partitions_do_not_wait_for_a_thread_of_low_priority() {
    assert_eq!(low_priority_work(1000, 5), [0, 0]);
}

#[test]
fn partitions_with_large_records_leave_the_priority_to_clients() {
    let [first, second] = low_priority_work(200, 100_000);
    assert!(first > 0 && second > 0, "{first} and {second}");
}

#[test]
fn small_partitions_are_sent_many_at_a_time() {
    const KEYS: usize = 3000;
    const SENT: &str = "emigration";
    if !cfg!(debug_assertions) || std::env::var_os("ASD").is_some() {
        report("skipped: no migration of this build can be stalled");
        return;
    }
    let mut nodes = Nodes::start_some(2, 0, IN_MEMORY);
    nodes.start_next_with_faults();
    nodes.await_cluster(&[0]);
    let mut clients = Clients::of(&nodes, &[0]);
    (0..KEYS).for_each(|number| clients.put(&key(number), b"value"));
    nodes.servers[0].stall(SENT);
    nodes.start_next();
    nodes.await_members(&[0, 1]);
    // Partitions without records are sent. Those with records cannot go on, and begin as long as more may.
    nodes.await_info(0, "namespace/test", "migrate_tx_partitions_active=16;");
    nodes.await_info(1, "namespace/test", "migrate_rx_partitions_active=16;");
    nodes.servers[0].release(SENT);
    nodes.await_cluster(&[0, 1]);
    assert_eq!(check_copies(&nodes, &[0, 1]), 2 * KEYS as u64);
}

/// A node is killed, the others write and delete, and it comes back, with or without its records.
fn check_return(namespaces: &str, forgets: bool) {
    const KEYS: usize = 1200;
    let mut nodes = Nodes::start(3, namespaces);
    nodes.await_cluster(&[0, 1, 2]);
    let mut clients = Clients::of(&nodes, &[0, 1, 2]);
    (0..KEYS).for_each(|number| clients.put(&key(number), b"before"));
    nodes.servers[1].kill9();
    if forgets {
        let file = nodes.servers[1].folder().join("test.dat");
        if file.exists() {
            std::fs::remove_file(file).unwrap();
        }
    }
    nodes.await_members(&[0, 2]);
    let mut clients = Clients::of(&nodes, &[0, 2]);
    let durably = |mut message: Message| {
        message.info2 |= info2::DURABLE_DELETE;
        message
    };
    for number in 0..KEYS {
        match number % 4 {
            0 => clients.put(&key(number), b"after"),
            1 => {
                let delete = durably(Message::delete(&key(number)));
                assert_eq!(clients.ask(&delete).result, result::OK);
            }
            _ => {}
        }
    }
    nodes.await_cluster(&[0, 2]);
    check_copies(&nodes, &[0, 2]);

    nodes.servers[1].restart();
    nodes.await_cluster(&[0, 1, 2]);
    check_copies(&nodes, &[0, 1, 2]);
    let check = |clients: &mut Clients| {
        for number in 0..KEYS {
            let expected = match number % 4 {
                0 => Some(&b"after"[..]),
                1 => None,
                _ => Some(&b"before"[..]),
            };
            assert_eq!(clients.value(&key(number)).as_deref(), expected, "key {number}");
        }
    };
    check(&mut Clients::of(&nodes, &[0, 1, 2]));
    // The node that came back has the right records too.
    nodes.servers[2].kill9();
    nodes.await_members(&[0, 1]);
    check(&mut Clients::of(&nodes, &[0, 1]));
}

#[test]
fn a_killed_node_comes_back_with_its_records() {
    check_return(FILE, false);
}

#[test]
fn a_killed_node_comes_back_without_its_records() {
    check_return(FILE, true);
}

#[test]
fn a_killed_node_comes_back_that_keeps_records_in_memory() {
    check_return(IN_MEMORY, true);
}

#[test]
fn deleted_records_stay_deleted_while_their_copies_move() {
    const KEYS: usize = 4000;
    let mut nodes = Nodes::start_some(3, 2, IN_MEMORY);
    nodes.await_cluster(&[0, 1]);
    let mut clients = Clients::of(&nodes, &[0, 1]);
    (0..KEYS).for_each(|number| clients.put(&key(number), b"value"));
    nodes.start_next();
    nodes.await_members(&[0, 1, 2]);
    let mut clients = Clients::of(&nodes, &[0, 1, 2]);
    (0..KEYS).step_by(2).for_each(|number| {
        assert_eq!(clients.ask(&Message::delete(&key(number))).result, result::OK);
    });
    nodes.await_cluster(&[0, 1, 2]);
    assert_eq!(check_copies(&nodes, &[0, 1, 2]), KEYS as u64);
    for number in 0..KEYS {
        assert_eq!(clients.value(&key(number)).is_some(), number % 2 == 1, "key {number}");
    }
}

#[test]
fn the_newest_of_several_copies_counts() {
    const KEYS: usize = 300;
    let nodes = Nodes::start_apart(2, IN_MEMORY);
    for number in 0..2 {
        nodes.await_cluster(&[number]);
        let answer = nodes.info(number, "set-config:context=service;migrate-threads=0");
        assert_eq!(answer, "ok");
    }
    // Each node is a separate cluster, and writes the same records. The record with more writes wins.
    let mut apart: Vec<Clients> = (0..2).map(|number| Clients::of(&nodes, &[number])).collect();
    for number in 0..KEYS {
        for (node, clients) in apart.iter_mut().enumerate() {
            let rounds = if number % 2 == node { 3 } else { 1 };
            for _ in 0..rounds {
                let add = Message::write(&key(number)).with_operation(Operation::integer(
                    operation::INCR,
                    "n",
                    1 + 10 * node as i64,
                ));
                assert_eq!(clients.ask(&add).result, result::OK);
            }
        }
    }
    let expected = |number: usize| -> u64 { if number.is_multiple_of(2) { 3 } else { 33 } };
    nodes.bring_together();
    nodes.await_members(&[0, 1]);
    let mut clients = Clients::of(&nodes, &[0, 1]);
    for number in (0..KEYS).step_by(3) {
        // In about half of the cases the master has the older copy.
        let mut get = Message::get(&key(number));
        get.info1 |= CONSISTENCY_LEVEL_ALL;
        let answer = clients.ask(&get);
        assert_eq!(answer.bin("n"), Some(&expected(number).to_be_bytes()[..]), "key {number}");
    }
    for number in (1..KEYS).step_by(3) {
        let add = Message::write(&key(number)).with_operation(Operation::integer(operation::INCR, "n", 100));
        assert_eq!(clients.ask(&add).result, result::OK);
        assert_eq!(counter(&mut clients, number), expected(number) + 100, "key {number}");
    }
    assert!(sum(&nodes, &[0, 1], "dup_res_ask") > KEYS as u64 / 3);
    assert!(sum(&nodes, &[0, 1], "dup_res_respond_read") > KEYS as u64 / 6);
    assert!(sum(&nodes, &[0, 1], "dup_res_respond_no_read") > KEYS as u64 / 6);
    assert!(sum(&nodes, &[0, 1], "migrate_tx_partitions_remaining") > 4000, "nothing migrates");

    // Batches read the newest copies of all their records too.
    let option = "set-config:context=namespace;id=test;read-consistency-level-override=all";
    // A node forwards requests that another node serves, and that node uses its own option.
    for number in 0..2 {
        assert_eq!(nodes.info(number, option), "ok");
    }
    for client in &mut clients.0 {
        let mut is_served =
            |number: &usize| client.ask(&Message::get(&key(*number))).unwrap().result == result::OK;
        let served: Vec<usize> = (2..KEYS).step_by(3).filter(&mut is_served).collect();
        assert!(served.len() > KEYS / 12);
        let keys: Vec<String> = served.iter().copied().map(key).collect();
        client.send(&Message::get_all(keys.iter().map(String::as_str)).encode()).unwrap();
        let rows = client.take_rows().unwrap();
        let value = |row: &Message| u64::from_be_bytes(row.bin("n").unwrap().try_into().unwrap());
        let sum: u64 = rows.iter().map(value).sum();
        assert_eq!(sum, served.iter().map(|number| expected(*number)).sum::<u64>());
    }

    for number in 0..2 {
        assert_eq!(nodes.info(number, "set-config:context=service;migrate-threads=4"), "ok");
    }
    nodes.await_cluster(&[0, 1]);
    assert_eq!(check_copies(&nodes, &[0, 1]), 2 * KEYS as u64);
    for number in 0..KEYS {
        let added = if number % 3 == 1 { 100 } else { 0 };
        assert_eq!(counter(&mut clients, number), expected(number) + added, "key {number}");
    }
    assert_eq!(sum(&nodes, &[0, 1], "migrate_tx_partitions_imbalance"), 0);
}

#[test]
fn secondary_indexes_follow_records_that_move() {
    const KEYS: usize = 1000;
    let mut nodes = Nodes::start_some(3, 2, IN_MEMORY);
    let create = "sindex-create:ns=test;set=rig;indexname=i;indexdata=n,numeric";
    let create_on = |nodes: &Nodes, number: usize| {
        // A node may have received the change from another node.
        let answer = nodes.info(number, create);
        assert!(answer == "ok" || answer.contains("exists"), "{answer}");
    };
    nodes.await_cluster(&[0, 1]);
    (0..2).for_each(|number| create_on(&nodes, number));
    let mut clients = Clients::of(&nodes, &[0, 1]);
    for number in 0..KEYS {
        let put = Message::write(&key(number)).with_operation(Operation::integer(
            operation::WRITE,
            "n",
            number as i64,
        ));
        assert_eq!(clients.ask(&put).result, result::OK);
    }
    nodes.start_next();
    nodes.servers[2].allow("'sindex-create");
    create_on(&nodes, 2);
    nodes.await_cluster(&[0, 1, 2]);
    assert_eq!(check_copies(&nodes, &[0, 1, 2]), 2 * KEYS as u64);
    for number in 0..3 {
        let objects = sum(&nodes, &[number], "objects");
        assert!(objects > KEYS as u64 / 2);
        nodes.await_info(number, "sindex-stat:namespace=test;indexname=i", &format!("entries={objects};"));
    }
}
