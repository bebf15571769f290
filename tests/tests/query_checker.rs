//! Queries of all kinds beside writers, deletes, expiry, truncation and indexes that are dropped and created:
//! a record that matches all the time is found once, and a record that never matches is not found.
//! `FERROSPIKE_QUERY_CHECK_SECONDS` sets the duration of each test, `FERROSPIKE_SOAK_SEED` its seed.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{HashMap, HashSet};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use ferrospike_tests::client::Client;
use ferrospike_tests::query_history::{Begun, Histories};
use ferrospike_tests::random::Random;
use ferrospike_tests::report;
use ferrospike_tests::server::{Server, stored_config_with};
use ferrospike_tests::wire::{
    Message, Operation, digest, field, index_range, info1, info2, integer_range, operation, particle, result,
};

const SECONDS: u64 = 10;
/// Number of records in each of the two sets.
const RECORDS: usize = 3_000;
/// The numbers of records are below this.
const NUMBERS: i64 = 1_000;
const WRITERS: usize = 2;
const READERS: usize = 3;
/// Records per page.
const PAGE: u64 = 200;

const PAGES_MAX: u32 = 60;
/// A result code that no server sends.
const TOO_MANY_PAGES: u8 = 255;

const DIGEST_ARRAY: u8 = 12;
const SAMPLE_MAX: u8 = 13;
const BVAL_ARRAY: u8 = 15;
const GEOJSON: u8 = 23;
const LIST: u8 = 1;
const INDEX_NOT_FOUND: u8 = 201;
const INDEX_NOT_READABLE: u8 = 203;

const SETS: [&str; 2] = ["rig", "other"];
/// Name and definition of the indexes of a set.
const INDEXES: [(&str, &str); 4] = [
    ("n", "indexdata=n,numeric"),
    ("s", "indexdata=s,string"),
    ("l", "indextype=list;indexdata=l,numeric"),
    ("g", "indexdata=g,geo2dsphere"),
];

/// Number of columns with points of records.
const COLUMNS: i64 = 50;

fn texts() -> i64 {
    NUMBERS / 20
}

/// The condition of a query.
#[derive(Clone, Copy, Debug)]
enum Question {
    All,
    Numbers(i64, i64),
    Text(i64),
    Element(i64),
    Elements(i64, i64),
    /// Records with a point in these columns.
    Region(i64),
}

impl Question {
    fn any(random: &mut Random) -> Question {
        let mut below = |max: i64| random.within(0..max as u64) as i64;
        match below(7) {
            0 => Question::All,
            1 => Question::Numbers(below(NUMBERS), NUMBERS),
            2 => {
                let low = below(NUMBERS);
                Question::Numbers(low, low + below(50))
            }
            3 => Question::Text(below(texts())),
            4 => Question::Element(below(20)),
            5 => {
                let low = below(20);
                Question::Elements(low, low + below(8))
            }
            _ => Question::Region(below(COLUMNS)),
        }
    }

    /// Whether a record with this number matches.
    fn matches(self, number: i64) -> bool {
        match self {
            Question::All => true,
            Question::Numbers(low, high) => (low..=high).contains(&number),
            Question::Text(text) => number % texts() == text,
            Question::Element(element) => elements(number).contains(&element),
            Question::Elements(low, high) => elements(number).iter().any(|own| (low..=high).contains(own)),
            Question::Region(column) => (number % COLUMNS - column).abs() <= 1,
        }
    }

    /// The index that the query needs.
    fn index(self) -> Option<&'static str> {
        match self {
            Question::All => None,
            Question::Numbers(..) => Some("n"),
            Question::Text(_) => Some("s"),
            Question::Element(_) | Question::Elements(..) => Some("l"),
            Question::Region(_) => Some("g"),
        }
    }

    /// Whether the query may use pages: the cells of a region are not a single range.
    fn is_paged(self) -> bool {
        matches!(self, Question::All | Question::Numbers(..) | Question::Elements(..))
    }

    fn request(self, set: &str) -> Message {
        let message = Message::scan("test").with_field(field::SET, set.as_bytes());
        let range = match self {
            Question::All => return message,
            Question::Numbers(low, high) => integer_range("n", low, high),
            Question::Text(text) => index_range("s", particle::STRING, &[text_of(text).as_bytes()]),
            Question::Element(element) => integer_range("l", element, element),
            Question::Elements(low, high) => integer_range("l", low, high),
            // A degree is 111 km at the equator.
            Question::Region(column) => {
                let circle = format!(r#"{{"type":"AeroCircle","coordinates":[[{column}.0,0.0],150000]}}"#);
                index_range("g", GEOJSON, &[circle.as_bytes()])
            }
        };
        let message = message.with_field(field::INDEX_RANGE, &range);
        if self.index() == Some("l") { message.with_field(field::INDEX_TYPE, &[LIST]) } else { message }
    }
}

fn text_of(text: i64) -> String {
    format!("text number {text}")
}

fn elements(number: i64) -> [i64; 3] {
    [number % 20, number / 20 % 20, 20 + number % 7]
}

/// A write of a record. All its bins are derived from `number`.
fn write(set: &str, record: usize, number: i64) -> Message {
    let point = format!(r#"{{"type":"Point","coordinates":[{}.0,0.0]}}"#, number % COLUMNS);
    let list = [&[0x93][..], &elements(number).map(|element| element as u8)].concat();
    Message { info2: info2::WRITE, ..Message::on_record("test", set, &record.to_string()) }
        .with_operation(Operation::integer(operation::WRITE, "n", number))
        .with_operation(Operation::string(operation::WRITE, "s", &text_of(number % texts())))
        .with_operation(Operation {
            particle: particle::LIST,
            value: list,
            ..Operation::bare(operation::WRITE, "l")
        })
        .with_operation(Operation {
            particle: GEOJSON,
            value: [&[0, 0, 0], point.as_bytes()].concat(),
            ..Operation::bare(operation::WRITE, "g")
        })
        .with_operation(Operation::blob(operation::WRITE, "pad", vec![7; number as usize % 90]))
}

/// State shared by the threads of a test.
struct Rig {
    histories: [Histories; SETS.len()],
    /// Number of a record, by digest.
    numbers: [HashMap<Vec<u8>, usize>; SETS.len()],
    /// A writer holds it while it changes a record of a set. The truncating thread holds it exclusively.
    truncation: [RwLock<()>; SETS.len()],
    /// Number of drops and creations of each index of the first set. It is odd while the index must not be
    /// used.
    switches: [AtomicU64; INDEXES.len()],
    is_over: AtomicBool,
    queries: AtomicU64,
    rows: AtomicU64,
    /// Number of records that queries had to find.
    needed: AtomicU64,
}

impl Rig {
    fn new() -> Rig {
        let number_of = |set: &str| {
            (0..RECORDS).map(|record| (digest(set, &record.to_string()).to_vec(), record)).collect()
        };
        Rig {
            histories: SETS.map(|_| Histories::new(RECORDS)),
            numbers: SETS.map(number_of),
            truncation: SETS.map(|_| RwLock::new(())),
            switches: INDEXES.map(|_| AtomicU64::new(0)),
            is_over: AtomicBool::new(false),
            queries: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            needed: AtomicU64::new(0),
        }
    }

    /// Changes its own records until the test ends.
    fn write(&self, mut client: Client, writer: usize, mut random: Random) {
        // Records that expire are left alone until they have expired.
        let mut busy: HashMap<(usize, usize), Instant> = HashMap::new();
        while !self.is_over.load(Acquire) {
            let set = random.within(0..SETS.len() as u64) as usize;
            let record = random.within(0..(RECORDS / WRITERS) as u64) as usize * WRITERS + writer;
            if busy.get(&(set, record)).is_some_and(|until| Instant::now() < *until) {
                continue;
            }
            let _shared = self.truncation[set].read().unwrap();
            let histories = &self.histories[set];
            // Some steps are small: such a record moves within a range.
            let number = match histories.now(record) {
                Some(now) if random.chance(50) => (now + 1) % NUMBERS,
                _ => random.within(0..NUMBERS as u64) as i64,
            };
            if random.chance(15) {
                let change = histories.begin(record, None);
                let delete = Message {
                    info2: info2::WRITE | info2::DELETE,
                    ..Message::on_record("test", SETS[set], &record.to_string())
                };
                let deleted = client.ask(&delete).unwrap().result;
                assert!([result::OK, result::NOT_FOUND].contains(&deleted), "result {deleted}");
                change.done();
                continue;
            }
            // A truncation could not know whether such records still exist.
            let expires = set == 0 && random.chance(2);
            let change = histories.begin(record, Some(number));
            let begun = Instant::now();
            let message = write(SETS[set], record, number);
            let message = Message { record_ttl: u32::from(expires), ..message };
            assert_eq!(client.ask(&message).unwrap().result, result::OK);
            change.done();
            if expires {
                // Times to live are whole seconds, and a record exists during the second in which it ends.
                let until = Instant::now() + Duration::from_millis(3_200);
                histories.ends_between(record, begun + Duration::from_millis(800), until);
                busy.insert((set, record), until);
            }
        }
    }

    /// Sends queries and judges the answers until the test ends.
    fn read(&self, mut client: Client, mut random: Random) {
        while !self.is_over.load(Acquire) {
            let set = random.within(0..SETS.len() as u64) as usize;
            let question = Question::any(&mut random);
            let without_bins = random.chance(20);
            let in_pages = question.is_paged() && random.chance(30);
            let switches = self.switches_of(set, question);
            let from = Instant::now();
            let answer = if in_pages {
                self.ask_in_pages(&mut client, set, question)
            } else {
                let mut request = question.request(SETS[set]);
                if without_bins {
                    request.info1 = info1::READ | info1::GET_NO_BINS;
                }
                ask(&mut client, &request)
            };
            let to = Instant::now();
            let rows = match answer {
                Ok(rows) => rows,
                Err(TOO_MANY_PAGES) => continue,
                Err(code) => {
                    let was_switched = switches % 2 == 1 || self.switches_of(set, question) != switches;
                    let is_expected = [INDEX_NOT_FOUND, INDEX_NOT_READABLE].contains(&code) && was_switched;
                    assert!(is_expected, "{question:?} in {} ended with {code}", SETS[set]);
                    thread::sleep(Duration::from_millis(2));
                    continue;
                }
            };
            let mut found: Vec<(usize, i64)> = rows
                .iter()
                .map(|row| self.found(set, row, without_bins && !in_pages, question, (from, to)))
                .collect();
            if in_pages && matches!(question, Question::Elements(..)) {
                // A record is on each page where it has an element.
                let mut known = HashSet::new();
                found.retain(|row| known.insert(*row));
            }
            let judged = self.histories[set].judge(
                (from, to),
                &found,
                &|number| question.matches(number),
                in_pages && question.index().is_some(),
            );
            let needed = judged.unwrap_or_else(|wrong| {
                panic!("{question:?} in {}, pages {in_pages}, bins {}: {wrong}", SETS[set], !without_bins)
            });
            self.queries.fetch_add(1, Relaxed);
            self.rows.fetch_add(rows.len() as u64, Relaxed);
            self.needed.fetch_add(needed as u64, Relaxed);
        }
    }

    fn switches_of(&self, set: usize, question: Question) -> u64 {
        let place = INDEXES.iter().position(|(name, _)| Some(*name) == question.index());
        place.filter(|_| set == 0).map_or(0, |place| self.switches[place].load(Acquire))
    }

    /// The record and number of a row. All bins of the row must have the same number. For a row without bins,
    /// a number that the record may have had.
    fn found(
        &self,
        set: usize,
        row: &Message,
        without_bins: bool,
        question: Question,
        during: (Instant, Instant),
    ) -> (usize, i64) {
        let record = self.numbers[set][row.field(field::DIGEST).unwrap()];
        if without_bins {
            let states = self.histories[set].states(record, during);
            let possible = states.into_iter().flatten().find(|number| question.matches(*number));
            return (
                record,
                possible.unwrap_or_else(|| panic!("{question:?} found {record}, which never matched")),
            );
        }
        let number = i64::from_be_bytes(row.bin("n").unwrap().try_into().unwrap());
        let same = write(SETS[set], record, number);
        for op in &same.operations {
            let value = row.bin(std::str::from_utf8(&op.name).unwrap()).unwrap();
            // A stored point also has its cells.
            let is_same = if op.name == b"g" { value.ends_with(&op.value[3..]) } else { value == op.value };
            assert!(is_same, "record {record} is of two versions");
        }
        (record, number)
    }

    /// Sends a query for one page after another.
    fn ask_in_pages(&self, client: &mut Client, set: usize, question: Question) -> Result<Vec<Message>, u8> {
        let mut rows: Vec<Message> = Vec::new();
        let mut last: HashMap<u16, Message> = HashMap::new();
        for _ in 0..PAGES_MAX {
            let mut request = question.request(SETS[set]).with_field(SAMPLE_MAX, &PAGE.to_be_bytes());
            request.fields.retain(|(number, _)| *number != field::PARTITION_ID_ARRAY);
            let fresh: Vec<u8> =
                (0..4096u16).filter(|id| !last.contains_key(id)).flat_map(u16::to_le_bytes).collect();
            if !fresh.is_empty() {
                request = request.with_field(field::PARTITION_ID_ARRAY, &fresh);
            }
            let behind = |number: u8| -> Vec<u8> {
                last.values().flat_map(|row| row.field(number).unwrap_or_default().to_vec()).collect()
            };
            if !last.is_empty() {
                request = request.with_field(DIGEST_ARRAY, &behind(field::DIGEST));
                if question.index().is_some() {
                    request = request.with_field(BVAL_ARRAY, &behind(BVAL_ARRAY));
                }
            }
            let page = ask(client, &request)?;
            let digests =
                page.iter().filter_map(|row| row.field(field::DIGEST)).collect::<HashSet<&[u8]>>().len();
            assert_eq!(digests, page.len(), "{question:?}: a record came twice on one page");
            let is_last = (page.len() as u64) < PAGE;
            for row in page {
                let digest = row.field(field::DIGEST).unwrap();
                last.insert(u16::from_le_bytes([digest[0], digest[1]]) & 0xFFF, row.clone());
                rows.push(row);
            }
            if is_last {
                return Ok(rows);
            }
        }
        // Records that move forward in the range are found again and again.
        Err(TOO_MANY_PAGES)
    }

    /// Until the test ends: drops and creates indexes of the first set, switches its set index, and truncates
    /// the other set.
    fn disturb(&self, mut client: Client, mut random: Random) {
        let mut is_set_indexed = false;
        while !self.is_over.load(Acquire) {
            thread::sleep(Duration::from_millis(random.within(50..600)));
            match random.within(0..4) {
                0 => {
                    is_set_indexed = !is_set_indexed;
                    let set = format!("set={};enable-index={is_set_indexed}", SETS[0]);
                    tell(&mut client, &format!("set-config:context=namespace;id=test;{set}"));
                }
                1 => self.truncate(&mut client, 1),
                _ => {
                    let place = random.within(0..INDEXES.len() as u64) as usize;
                    self.switches[place].fetch_add(1, AcqRel);
                    drop_index(&mut client, SETS[0], INDEXES[place].0);
                    thread::sleep(Duration::from_millis(random.within(0..200)));
                    create_index(&mut client, SETS[0], INDEXES[place]);
                    await_indexes(&mut client);
                    self.switches[place].fetch_add(1, AcqRel);
                }
            }
        }
    }

    /// Truncates a set. Records of its last milliseconds stay, so no writer may change records during them.
    fn truncate(&self, client: &mut Client, set: usize) {
        let _alone = self.truncation[set].write().unwrap();
        thread::sleep(Duration::from_millis(3));
        let histories = &self.histories[set];
        let changes: Vec<_> = (0..RECORDS)
            .filter(|record| histories.now(*record).is_some())
            .map(|record| histories.begin(record, None))
            .collect();
        tell(client, &format!("truncate:namespace=test;set={}", SETS[set]));
        changes.into_iter().for_each(Begun::done);
    }
}

/// The records of an answer, or the error at its end.
fn ask(client: &mut Client, request: &Message) -> Result<Vec<Message>, u8> {
    client.send(&request.encode()).unwrap();
    let mut rows = Vec::new();
    loop {
        for message in client.receive().unwrap().messages().unwrap() {
            match (message.result, message.is_last()) {
                (result::OK, true) => return Ok(rows),
                (result::OK, false) => rows.push(message),
                (code, _) => return Err(code),
            }
        }
    }
}

fn tell(client: &mut Client, command: &str) {
    assert_eq!(client.info_value(command).unwrap(), "ok", "{command}");
}

fn create_index(client: &mut Client, set: &str, (name, definition): (&str, &str)) {
    tell(client, &format!("sindex-create:namespace=test;set={set};indexname={set}-{name};{definition}"));
}

fn drop_index(client: &mut Client, set: &str, name: &str) {
    tell(client, &format!("sindex-delete:namespace=test;set={set};indexname={set}-{name}"));
}

fn await_indexes(client: &mut Client) {
    while client.info_value("sindex-list").unwrap().contains(":state=WO") {
        thread::sleep(Duration::from_millis(2));
    }
}

fn seconds() -> u64 {
    std::env::var("FERROSPIKE_QUERY_CHECK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS)
}

fn seed() -> u64 {
    std::env::var("FERROSPIKE_SOAK_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn check(engine: &str, storage: &[&str]) {
    let server = Server::start(&stored_config_with("test", &["nsup-period 1"], engine, storage));
    let mut client = server.connect();
    for set in SETS {
        INDEXES.iter().for_each(|index| create_index(&mut client, set, *index));
    }
    await_indexes(&mut client);
    let rig = Rig::new();
    let random = |number: usize| Random::new(seed() * 1_000 + number as u64);
    thread::scope(|scope| {
        let rig = &rig;
        let mut threads = Vec::new();
        for writer in 0..WRITERS {
            let client = server.connect();
            threads.push(scope.spawn(move || rig.write(client, writer, random(writer))));
        }
        for reader in 0..READERS {
            let client = server.connect();
            threads.push(scope.spawn(move || rig.read(client, random(100 + reader))));
        }
        let client = server.connect();
        threads.push(scope.spawn(move || rig.disturb(client, random(200))));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds())
            && !threads.iter().any(thread::ScopedJoinHandle::is_finished)
        {
            thread::sleep(Duration::from_millis(20));
        }
        rig.is_over.store(true, Release);
    });
    let [queries, rows, needed] = [&rig.queries, &rig.rows, &rig.needed].map(|count| count.load(Relaxed));
    report(&format!(
        "{engine}: {queries} queries, {rows} rows, of which {needed} had to come; seed {}",
        seed()
    ));
    assert!(queries > seconds() * 5 && needed > queries, "{queries} queries, {needed} rows that had to come");
}

#[test]
fn queries_in_memory_find_all_records_that_exist_throughout() {
    check("memory", &["data-size 1G"]);
}

#[test]
fn queries_on_a_device_find_all_records_that_exist_throughout() {
    check("device", &["file {dir}/test.dat", "filesize 1G"]);
}
