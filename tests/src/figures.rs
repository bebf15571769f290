//! Figures of a server from its statistics: the effects of requests, and waits for background work.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, PATIENCE};
use crate::wire::{Message, info3};

/// How often figures are read.
const POLL: Duration = Duration::from_millis(5);
/// Prefixes of figures that only requests change.
const OF_REQUESTS: [&str; 10] = [
    "client_",
    "xdr_",
    "from_",
    "batch_sub_",
    "fail_",
    "deleted_",
    "read_touch_",
    "pi_query_",
    "si_query_",
    "udf_sub_",
];

/// Whole numbers by name.
pub type Figures = BTreeMap<String, i64>;

/// The texts in the answer to the info name `request`, by name.
///
/// # Panics
/// When there is no answer.
pub fn texts(client: &mut Client, request: &str) -> BTreeMap<String, String> {
    let answer = client.info_value(request).expect("an answer");
    // Colons separate the statistics of a set.
    let divider = if request.starts_with("sets/") { ':' } else { ';' };
    let pairs = answer.trim_end_matches(';').split(divider).filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The figures of the info name `request` that are whole numbers.
pub fn figures(client: &mut Client, request: &str) -> Figures {
    texts(client, request).into_iter().filter_map(|(key, value)| Some((key, value.parse().ok()?))).collect()
}

/// The changes between two readings.
pub fn changes(before: &Figures, after: &Figures) -> Vec<(String, i64)> {
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    changed.map(|(key, value)| (key.clone(), value - before.get(key).unwrap_or(&0))).collect()
}

/// Sends `request`. Checks its result, and that exactly these counters of namespace `test` moved, each by
/// one.
///
/// # Panics
/// When the result or a counter is different.
pub fn moves(client: &mut Client, request: &Message, expected_result: u8, counters: &[&str]) {
    let before = figures(client, "namespace/test");
    let answer = client.ask(request).expect("an answer");
    assert_eq!(answer.result, expected_result, "{counters:?}");
    expect_moved(client, &before, counters);
}

/// Waits until these counters of namespace `test` have moved by one, and no others that requests change.
///
/// # Panics
/// When that does not happen.
pub fn expect_moved(client: &mut Client, before: &Figures, counters: &[&str]) {
    let mut expected: Vec<(String, i64)> = counters.iter().map(|key| ((*key).to_owned(), 1)).collect();
    expected.sort();
    let start = Instant::now();
    loop {
        let mut moved = changes(before, &figures(client, "namespace/test"));
        moved.retain(|(key, _)| OF_REQUESTS.iter().any(|prefix| key.starts_with(prefix)));
        if moved == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "moved {moved:?}, expected {counters:?}");
        thread::sleep(POLL);
    }
}

/// Waits until the figures of `request` fulfil the condition `holds`. Returns them.
///
/// # Panics
/// When they do not.
pub fn await_figures(client: &mut Client, request: &str, holds: impl Fn(&Figures) -> bool) -> Figures {
    let start = Instant::now();
    loop {
        let now = figures(client, request);
        if holds(&now) {
            return now;
        }
        assert!(start.elapsed() < PATIENCE, "{now:?}");
        thread::sleep(POLL);
    }
}

/// Sends a query or a batch and receives its whole answer. Returns the number of records, and the last
/// result.
///
/// # Panics
/// When the connection ends before the answer is complete.
pub fn run(client: &mut Client, request: &Message) -> (usize, u8) {
    client.send(&request.encode()).expect("it is sent");
    take_answer(client)
}

/// Same as [`run`], for a request that was sent before.
///
/// # Panics
/// When the connection ends before the answer is complete.
pub fn take_answer(client: &mut Client) -> (usize, u8) {
    let mut records = 0;
    loop {
        let frame = client.receive().expect("a frame");
        for message in frame.messages().expect("messages") {
            if message.info3 & info3::LAST != 0 {
                return (records, message.result);
            }
            records += 1;
        }
    }
}
