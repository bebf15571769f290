//! The history of records that writers change while queries run, and the judgement of query results.
//!
//! A change begins when it is sent and ends when it is acknowledged. The record may change at any moment in
//! between, so it may have several possible states at a moment. A query must find, once, each record that
//! matches in all its possible states during the query. It may find records that match in at least one of
//! them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Older changes are dropped. No query takes that long.
const KEPT: Duration = Duration::from_secs(60);

/// The number of a record, from which all its bins follow; `None` if there is no record.
pub type State = Option<i64>;

/// A change of a record: its begin, its end, and its result.
#[derive(Clone, Copy, Debug)]
struct Change {
    begun: Instant,
    /// `None` while the change is in progress.
    done: Option<Instant>,
    to: State,
}

/// The history of one record. Its changes are sequential.
#[derive(Debug, Default)]
struct Changes(VecDeque<Change>);

impl Changes {
    /// The possible states between two moments.
    fn between(&self, from: Instant, to: Instant) -> Vec<State> {
        let mut states = Vec::new();
        let mut before: State = None;
        let mut before_ends = true;
        for change in &self.0 {
            if change.begun > to {
                break;
            }
            // The previous state was possible until the change was done.
            if change.done.is_none_or(|done| done >= from) {
                if before_ends {
                    states.push(before);
                }
                states.push(change.to);
                before_ends = false;
            } else {
                (states, before_ends) = (Vec::new(), true);
            }
            before = change.to;
        }
        if states.is_empty() { vec![before] } else { states }
    }
}

/// The histories of all records, by number.
#[derive(Debug)]
pub struct Histories(Box<[Mutex<Changes>]>);

/// A change in progress.
#[must_use]
#[derive(Debug)]
pub struct Begun<'a>(&'a Histories, usize);

impl Begun<'_> {
    /// Notes that the change is done.
    ///
    /// # Panics
    /// If the change was never begun.
    pub fn done(self) {
        let mut changes = self.0.of(self.1);
        let last = changes.0.back_mut().expect("a change that has begun");
        last.done = Some(Instant::now());
    }
}

impl Histories {
    /// Histories of `count` records, none of which exists yet.
    pub fn new(count: usize) -> Histories {
        Histories((0..count).map(|_| Mutex::default()).collect())
    }

    fn of(&self, number: usize) -> MutexGuard<'_, Changes> {
        self.0[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of records.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Notes that the record with this number is about to change.
    pub fn begin(&self, number: usize, to: State) -> Begun<'_> {
        let mut changes = self.of(number);
        let now = Instant::now();
        while let Some(next) = changes.0.get(1)
            && next.done.is_some_and(|done| now.duration_since(done) > KEPT)
        {
            changes.0.pop_front();
        }
        changes.0.push_back(Change { begun: now, done: None, to });
        drop(changes);
        Begun(self, number)
    }

    /// Notes that the record expires between these moments.
    pub fn ends_between(&self, number: usize, from: Instant, to: Instant) {
        self.of(number).0.push_back(Change { begun: from, done: Some(to), to: None });
    }

    /// The state after all changes so far.
    pub fn now(&self, number: usize) -> State {
        self.of(number).0.back().and_then(|change| change.to)
    }

    /// The possible states of a record between two moments.
    pub fn states(&self, number: usize, (from, to): (Instant, Instant)) -> Vec<State> {
        self.of(number).between(from, to)
    }

    /// Judges the result of a query that ran between two moments. The result has the numbers of records, each
    /// with the number in its bins. Returns how many records the query had to find. A query `by_moved_places`
    /// continues after the last record of a page, in an order in which changed records move, so it only has
    /// to find, once, the records that did not change.
    ///
    /// # Errors
    /// A description of the fault.
    pub fn judge(
        &self,
        (from, to): (Instant, Instant),
        found: &[(usize, i64)],
        matches: &dyn Fn(i64) -> bool,
        by_moved_places: bool,
    ) -> Result<usize, String> {
        let mut once: HashMap<usize, i64> = HashMap::new();
        for (number, value) in found {
            let states = self.of(*number).between(from, to);
            if let Some(before) = once.insert(*number, *value)
                && !(by_moved_places && states.len() > 1)
            {
                return Err(format!("record {number} came twice, as {before} and {value}"));
            }
            if !matches(*value) {
                return Err(format!(
                    "record {number} came as {value}, which does not match; it was {states:?}"
                ));
            }
            if !states.contains(&Some(*value)) {
                return Err(format!("record {number} came as {value}, but was {states:?}"));
            }
        }
        let mut needed = 0;
        for number in 0..self.0.len() {
            let states = self.of(number).between(from, to);
            let is_sure = !by_moved_places || states.len() == 1;
            if is_sure && states.iter().all(|state| state.is_some_and(matches)) {
                needed += 1;
                if !once.contains_key(&number) {
                    return Err(format!("record {number} did not come, though it was {states:?}"));
                }
            }
        }
        Ok(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_states_are_possible_while_a_change_is_in_progress() {
        let histories = Histories::new(1);
        let start = Instant::now();
        histories.begin(0, Some(1)).done();
        let middle = Instant::now();
        let change = histories.begin(0, Some(2));
        let under_way = Instant::now();
        let of = |from, to| histories.of(0).between(from, to);
        assert_eq!(of(middle, middle), [Some(1)]);
        assert_eq!(of(under_way, under_way), [Some(1), Some(2)]);
        assert_eq!(of(start, under_way), [None, Some(1), Some(2)]);
        change.done();
        let end = Instant::now() + Duration::from_millis(1);
        assert_eq!((of(end, end), of(under_way, end)), (vec![Some(2)], vec![Some(1), Some(2)]));
    }

    #[test]
    fn rows_are_judged() {
        let histories = Histories::new(3);
        histories.begin(0, Some(5)).done();
        histories.begin(1, Some(7)).done();
        let now = Instant::now() + Duration::from_millis(1);
        let judge = |found: &[(usize, i64)]| histories.judge((now, now), found, &|value| value < 6, false);
        assert_eq!(judge(&[(0, 5)]), Ok(1));
        for wrong in [&[][..], &[(0, 5), (0, 5)], &[(0, 4)], &[(0, 5), (1, 7)], &[(0, 5), (2, 5)]] {
            assert!(judge(wrong).is_err(), "{wrong:?}");
        }
        histories.ends_between(0, now, now + Duration::from_secs(1));
        let later = now + Duration::from_secs(2);
        assert_eq!(histories.judge((later, later), &[], &|value| value < 6, false), Ok(0));
        assert_eq!(histories.judge((now, later), &[(0, 5)], &|value| value < 6, false), Ok(0));
    }
}
