//! What a test knows of one record: the operations that it requested, and which were acknowledged. From these
//! follow the values that the record may have after the server has ended and restarted.
//!
//! Values are numbered in the order of their writes. Record and number determine every byte of a value, so
//! damaged values are recognised.
//!
//! The values that are allowed after a restart follow from the last *certain* operation. An operation is
//! certain if it was acknowledged, and, with a server that acknowledges before it stores, long enough ago.
//! The result of this or of a later operation must be found. A plain delete leaves nothing on disk, as in the
//! C server: older values of the record may come back, also after the record has expired, if they had a
//! longer time to live. But no value from before a durable delete ever comes back, whatever was done to the
//! record since.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::random::Random;
use crate::wire::{Message, Operation, field, info1, info2, operation, result};

/// The bin that holds the value.
const BIN: &str = "v";
/// Size of the number at the start of a value, in bytes.
const NUMBER_SIZE: usize = 8;

/// A record and the sizes of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The number of the record.
    pub id: u64,
    /// Smallest and largest size of its values.
    pub sizes: (u64, u64),
}

impl Key {
    /// The name of the record, a string key in set `rig`.
    pub fn name(&self) -> String {
        format!("key-{}", self.id)
    }

    /// Value number `number`: the number, then bytes derived from it.
    pub fn value(&self, number: u64) -> Vec<u8> {
        let mut random = Random::new(self.id << 40 ^ number);
        let size = random.within(self.sizes.0..self.sizes.1 + 1) as usize;
        let mut value = number.to_le_bytes().to_vec();
        value.extend(random.bytes(size.saturating_sub(NUMBER_SIZE)));
        value
    }

    /// The number of a value, if it is intact.
    pub fn number(&self, value: &[u8]) -> Option<u64> {
        let number = u64::from_le_bytes(*value.first_chunk()?);
        (self.value(number) == value).then_some(number)
    }

    fn message(&self, namespace: &str) -> Message {
        Message::on_record(namespace, "rig", &self.name())
    }
}

/// The operations on a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Write a value with a time to live in seconds; 0 means for ever.
    Put {
        number: u64,
        ttl: u32,
    },
    /// Set the record's time to live in seconds.
    Touch {
        ttl: u32,
    },
    Delete,
    DeleteDurably,
}

impl Act {
    /// The request for the operation.
    pub fn message(&self, namespace: &str, key: &Key) -> Message {
        let message = key.message(namespace);
        let never = |ttl: u32| if ttl == 0 { u32::MAX } else { ttl };
        match *self {
            Act::Put { number, ttl } => {
                let value = Operation::blob(operation::WRITE, BIN, key.value(number));
                Message { info2: info2::WRITE, record_ttl: never(ttl), ..message }.with_operation(value)
            }
            Act::Touch { ttl } => Message { info2: info2::WRITE, record_ttl: never(ttl), ..message }
                .with_operation(Operation::bare(operation::TOUCH, "")),
            Act::Delete => Message { info2: info2::WRITE | info2::DELETE, ..message },
            Act::DeleteDurably => {
                Message { info2: info2::WRITE | info2::DELETE | info2::DURABLE_DELETE, ..message }
            }
        }
    }
}

/// The request that reads a record.
pub fn read(namespace: &str, key: &Key) -> Message {
    Message { info1: info1::READ | info1::GET_ALL, ..key.message(namespace) }
}

/// Longest time for which a server that makes room by defrag may refuse a write.
const ROOM_PATIENCE: Duration = Duration::from_secs(60);

/// Repeats a write until there is room for it; `None` if the server has ended.
///
/// # Panics
/// If there is no room for that long.
pub fn ask_for_room(client: &mut Client, request: &Message) -> Option<Message> {
    let start = Instant::now();
    loop {
        let answer = client.ask(request).ok()?;
        if !matches!(answer.result, result::OUT_OF_SPACE | result::DEVICE_OVERLOAD) {
            return Some(answer);
        }
        assert!(start.elapsed() < ROOM_PATIENCE, "no room any more");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Does `act`, and waits for room if necessary; `None` if the server has ended.
///
/// # Panics
/// If the operation is refused, or the answer does not follow from the state before.
pub fn perform(
    client: &mut Client,
    namespace: &str,
    (key, history): (&Key, &mut History),
    act: Act,
) -> Option<()> {
    history.begin(act);
    let answer = ask_for_room(client, &act.message(namespace, key))?;
    acknowledge(key, history, act, &answer);
    Some(())
}

/// Does all of `acts`, each on a different record, with the requests sent together; `None` if the server has
/// ended.
///
/// # Panics
/// Same as [`perform`].
pub fn perform_together(
    client: &mut Client,
    namespace: &str,
    acts: &mut [(&Key, &mut History, Act)],
) -> Option<()> {
    let mut requests = Vec::new();
    for (key, history, act) in &mut *acts {
        history.begin(*act);
        requests.extend(act.message(namespace, key).encode());
    }
    client.send(&requests).ok()?;
    let mut refused = Vec::new();
    for (key, history, act) in &mut *acts {
        let answer = client.receive_message().ok()?;
        if matches!(answer.result, result::OUT_OF_SPACE | result::DEVICE_OVERLOAD) {
            refused.push((key, history, act));
        } else {
            acknowledge(key, history, *act, &answer);
        }
    }
    for (key, history, act) in refused {
        let answer = ask_for_room(client, &act.message(namespace, key))?;
        acknowledge(key, history, *act, &answer);
    }
    Some(())
}

fn acknowledge(key: &Key, history: &mut History, act: Act, answer: &Message) {
    assert_eq!(answer.result, result::OK, "{key:?}: {act:?}");
    history.acknowledge(answer.record_ttl, Instant::now());
    if let Some(found) = history.now() {
        assert_eq!(answer.generation, found.generation, "{key:?}: {act:?}");
    }
}

/// A record found by a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub number: u64,
    pub generation: u32,
    /// Seconds since 2010-01-01; 0 means never.
    pub void_time: u32,
}

impl Found {
    /// Parses an answer to a read. Fails if the value does not belong to this record.
    pub fn from_answer(key: &Key, answer: &Message) -> Found {
        let value = answer.bin(BIN).unwrap_or_else(|| panic!("{key:?}: no value in {answer:?}"));
        let number = key.number(value);
        let number = number.unwrap_or_else(|| {
            panic!(
                "{key:?}: damaged value of {} bytes: {:02x?} …",
                value.len(),
                &value[..value.len().min(64)]
            )
        });
        Found { number, generation: answer.generation, void_time: answer.record_ttl }
    }

    /// The digest of the record in an answer of a scan.
    pub fn digest(answer: &Message) -> &[u8] {
        answer.field(field::DIGEST).expect("the digest of a scanned record")
    }
}

/// The state of a record after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Stored(Found),
    /// Deleted. The disk has no trace of it.
    Deleted,
    DeletedDurably,
}

/// The operations on one record, in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The record after each operation, and when the operation was acknowledged.
    states: Vec<(State, Option<Instant>)>,
    last_number: u64,
    /// Whether deletes are durable even if the request does not ask for that.
    deletes_are_durable: bool,
}

impl History {
    /// The history of a record in a namespace with or without `durable-deletes`.
    pub fn new(deletes_are_durable: bool) -> History {
        History { deletes_are_durable, ..History::default() }
    }

    /// The number of the next value.
    pub fn next_number(&self) -> u64 {
        self.last_number + 1
    }

    /// The current record, if all operations were acknowledged.
    pub fn now(&self) -> Option<Found> {
        match self.states.last() {
            Some((State::Stored(found), _)) => Some(*found),
            _ => None,
        }
    }

    /// Whether the record was removed by a durable delete.
    pub fn is_deleted_durably(&self) -> bool {
        self.states.last().is_some_and(|(state, _)| *state == State::DeletedDurably)
    }

    /// Notes that the request for `act` is about to be sent.
    pub fn begin(&mut self, act: Act) {
        let now = self.now();
        let generation = now.map_or(1, |found| found.generation + 1);
        let state = match act {
            Act::Put { number, .. } => {
                self.last_number = number;
                State::Stored(Found { number, generation, void_time: 0 })
            }
            Act::Touch { .. } => match now {
                Some(found) => State::Stored(Found { generation, ..found }),
                None => panic!("a touch of what is not there"),
            },
            Act::Delete if !self.deletes_are_durable => State::Deleted,
            Act::Delete | Act::DeleteDurably => State::DeletedDurably,
        };
        self.states.push((state, None));
    }

    /// Notes that the last request succeeded at `time`.
    pub fn acknowledge(&mut self, void_time: u32, time: Instant) {
        let (state, acknowledged) = self.states.last_mut().expect("an operation that was begun");
        *acknowledged = Some(time);
        if let State::Stored(found) = state {
            found.void_time = void_time;
        }
    }

    /// Notes that the record has expired.
    pub fn expire(&mut self, time: Instant) {
        self.states.push((State::Deleted, Some(time)));
    }

    /// Judges the record that was found after a restart, at `now` in seconds since 2010-01-01. Operations
    /// acknowledged up to `certain_until` are certain. The found state becomes the current one.
    ///
    /// # Errors
    /// The reason why the record must not be in this state.
    pub fn judge(&mut self, found: Option<Found>, certain_until: Instant, now: u32) -> Result<(), String> {
        let is_certain = |time: &Option<Instant>| time.is_some_and(|time| time <= certain_until);
        let last_certain = self.states.iter().rposition(|(_, time)| is_certain(time));
        let from = last_certain.unwrap_or(0);
        let lapsed = |state: &State| match state {
            State::Deleted => true,
            State::Stored(found) => found.void_time != 0 && found.void_time <= now,
            State::DeletedDurably => false,
        };
        let may_lapse = last_certain.is_none() || self.states[from..].iter().any(|(state, _)| lapsed(state));
        let explain = |why: &str| {
            let first = self.states.len().saturating_sub(6).min(from);
            let states = &self.states[first..];
            Err(format!(
                "{why}: found {found:?} at {now}; certain is state {from}, from {first} they are {states:?}"
            ))
        };
        match found {
            None => {
                let durable_delete =
                    self.states[from..].iter().rposition(|(state, _)| *state == State::DeletedDurably);
                match durable_delete {
                    Some(at) if !may_lapse => self.take_as_found(from + at),
                    _ if may_lapse || durable_delete.is_some() => {
                        self.states.truncate(from + 1);
                        self.states.push((State::Deleted, None));
                        self.take_as_found(self.states.len() - 1);
                    }
                    _ => return explain("it is lost"),
                }
            }
            Some(found) => {
                let fits = |(state, time): &(State, Option<Instant>)| match state {
                    State::Stored(stored) => {
                        stored.number == found.number
                            && (time.is_none()
                                || (stored.generation, stored.void_time)
                                    == (found.generation, found.void_time))
                    }
                    _ => false,
                };
                let Some(at) = self.states.iter().rposition(fits) else { return explain("it was never so") };
                if found.void_time != 0 && found.void_time + 1 < now {
                    return explain("it has expired");
                }
                if at < from {
                    if self.states[at..=from].iter().any(|(state, _)| *state == State::DeletedDurably) {
                        return explain("it came back from the dead");
                    }
                    if !may_lapse {
                        return explain("it is out of date");
                    }
                }
                self.states[at].0 = State::Stored(found);
                self.take_as_found(at);
            }
        }
        Ok(())
    }

    /// Takes state number `at` as the found state: later operations did not happen.
    fn take_as_found(&mut self, at: usize) {
        self.states.truncate(at + 1);
        let long_ago = self.states.iter().find_map(|(_, time)| *time).unwrap_or_else(Instant::now);
        if let Some((_, time)) = self.states.last_mut() {
            *time = Some(long_ago);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { id: 3, sizes: (100, 200) };

    struct Told {
        history: History,
        time: Instant,
    }

    impl Told {
        /// A history of `acts`. All but the last `in_flight` are acknowledged.
        fn of(acts: &[Act], in_flight: usize) -> Told {
            let (mut history, time) = (History::new(false), Instant::now());
            for (at, act) in acts.iter().enumerate() {
                history.begin(*act);
                if at + in_flight < acts.len() {
                    history.acknowledge(0, time);
                }
            }
            Told { history, time }
        }

        fn allows(&self, number: Option<u64>, generation: u32) -> bool {
            let found = number.map(|number| Found { number, generation, void_time: 0 });
            self.history.clone().judge(found, self.time, 1000).is_ok()
        }
    }

    const fn put(number: u64) -> Act {
        Act::Put { number, ttl: 0 }
    }

    #[test]
    fn values_are_recognised() {
        let value = KEY.value(7);
        assert_eq!(KEY.number(&value), Some(7));
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert_eq!(KEY.number(&damaged), None);
        }
        assert_eq!(KEY.number(&value[1..]), None);
        assert_eq!(Key { id: 4, ..KEY }.number(&value), None);
    }

    #[test]
    fn the_acknowledged_or_a_later_state_must_be_found() {
        let told = Told::of(&[put(1), put(2), put(3)], 1);
        assert!(told.allows(Some(2), 2) && told.allows(Some(3), 3));
        assert!(!told.allows(Some(1), 1) && !told.allows(None, 0) && !told.allows(Some(4), 4));
        assert!(!told.allows(Some(2), 1), "the generation is wrong");
    }

    #[test]
    fn plain_deletes_let_older_values_show_again() {
        let told = Told::of(&[put(1), put(2), Act::Delete], 0);
        assert!(told.allows(None, 0) && told.allows(Some(1), 1) && told.allows(Some(2), 2));
        let told = Told::of(&[put(1), Act::Delete, put(2)], 0);
        assert!(told.allows(Some(2), 1));
        assert!(!told.allows(Some(1), 1) && !told.allows(None, 0), "recreated");
        let durable = History::new(true);
        assert!(!Told { history: durable, ..Told::of(&[], 0) }.history.is_deleted_durably());
    }

    #[test]
    fn the_buried_stay_where_they_are() {
        let told = Told::of(&[put(1), Act::DeleteDurably], 0);
        assert!(told.allows(None, 0) && !told.allows(Some(1), 1) && told.history.is_deleted_durably());
        let told = Told::of(&[put(1), Act::DeleteDurably, put(2), Act::Delete], 0);
        assert!(told.allows(None, 0) && told.allows(Some(2), 1), "written again");
        assert!(!told.allows(Some(1), 1), "nothing from before it shows again");
        let told = Told::of(&[put(1), Act::Delete, Act::DeleteDurably], 0);
        assert!(told.allows(None, 0) && !told.allows(Some(1), 1));
        let told = Told::of(&[put(1), Act::DeleteDurably], 1);
        assert!(told.allows(None, 0) && told.allows(Some(1), 1), "not acknowledged");
    }

    #[test]
    fn the_found_state_counts_from_then_on() {
        let Told { mut history, time } = Told::of(&[put(1), put(2), put(3)], 1);
        history.judge(Some(Found { number: 2, generation: 2, void_time: 0 }), time, 0).unwrap();
        assert_eq!(history.now().map(|found| found.number), Some(2));
        assert!(history.judge(Some(Found { number: 3, generation: 3, void_time: 0 }), time, 0).is_err());
        assert_eq!(history.next_number(), 4);
    }
}
