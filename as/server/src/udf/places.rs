//! Places for stream functions: they limit how many functions run at a time, and so the memory that functions
//! can take.
//!
//! A function that waits for records or for its client needs no place, because its memory does not grow meanwhile. So a
//! function that needs a place takes that of a waiting one, which takes a place again before it resumes. The memory of
//! functions without a place is counted and bounded too. A function that exceeds the bound keeps its place; if it waits
//! long for its client, it is ended for the next function.
//!
//! # Order
//! A running function ends or waits in bounded time, and needs no other place for that. So no function waits for a
//! place for ever.
//!
//! # Locking
//! `state` is taken alone and briefly. A function that begins or ends a wait changes only its own phase, unless its
//! place has been taken: that happens under the lock, with the same atomic word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

use cf::sys::facts::Memory;
use parking_lot::{Condvar, Mutex};

use super::long_strings::MEMORY_MAX;

/// The interpreters of all functions with a place may together take the machine's memory divided by this.
/// Those without a place may take as much again.
const MEMORY_SHARE: u64 = 8;
/// This many stream functions may run at a time even with little memory.
const COUNT_MIN: u64 = 4;
const COUNT_MAX: u64 = 256;
/// Interval at which a function without a place searches for a free one, and checks whether it is still wanted.
const LOOK_PERIOD: Duration = Duration::from_millis(50);
/// How long a function that keeps its place may wait for its client while others wait for a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// State of a function with a place.
mod phase {
    pub(super) const RUNS: u8 = 0;
    pub(super) const WAITS_FOR_RECORDS: u8 = 1;
    pub(super) const WAITS_FOR_CLIENT: u8 = 2;
    /// It waits or is about to resume, and another function has its place.
    pub(super) const WITHOUT_PLACE: u8 = 3;
}

/// The reason for a function's wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitReason {
    Records,
    Client,
}

/// Ends a function's wait for its client. Called on another thread.
pub(crate) type EndWait = Box<dyn Fn() + Send + Sync>;

/// All places.
pub(super) struct Places {
    state: Mutex<PlacesState>,
    freed: Condvar,
    /// Maximum number of bytes of all functions without a place.
    parked_max: usize,
    patience: Duration,
    started: Instant,
}

struct PlacesState {
    free: u64,
    /// Holders of the places that are not free.
    holders: Vec<Arc<Holder>>,
    /// Bytes of functions without a place.
    parked: usize,
}

/// A function that has a place, or had one and wants it back.
struct Holder {
    /// A value of [`phase`].
    phase: AtomicU8,
    /// Number of bytes in memory while it waits.
    used: AtomicUsize,
    /// Start of its wait, in nanoseconds since `Places::started`.
    since: AtomicU64,
    end_wait: EndWait,
    is_ended: AtomicBool,
}

impl Holder {
    /// Takes the place of the function if it waits and has at most `room` bytes in memory. The caller holds the lock of
    /// the state.
    fn lend(&self, room: usize) -> bool {
        let phase = self.phase.load(Acquire);
        let is_waiting = [phase::WAITS_FOR_RECORDS, phase::WAITS_FOR_CLIENT].contains(&phase);
        if !is_waiting || self.phase.compare_exchange(phase, phase::WITHOUT_PLACE, AcqRel, Acquire).is_err() {
            return false;
        }
        // It cannot resume now: it has lost its place, and waits for the lock to check again.
        let is_lent = self.used.load(Relaxed) <= room;
        if !is_lent {
            self.phase.store(phase, Release);
        }
        is_lent
    }

    /// Whether it has waited for its client for `longest`, as of `now`.
    fn has_waited(&self, longest: Duration, now: Duration) -> bool {
        let since = Duration::from_nanos(self.since.load(Relaxed));
        self.phase.load(Acquire) == phase::WAITS_FOR_CLIENT && now.saturating_sub(since) >= longest
    }
}

impl PlacesState {
    /// Frees the place of a waiting function; `false` if there is none to take.
    fn take_from_waiting(&mut self, parked_max: usize) -> bool {
        let room = parked_max.saturating_sub(self.parked);
        let Some(at) = self.holders.iter().position(|holder| holder.lend(room)) else { return false };
        let holder = self.holders.swap_remove(at);
        self.parked += holder.used.load(Relaxed);
        self.free += 1;
        true
    }

    /// Chooses a function to end because it has waited long for its client; none while another one is ending.
    fn choose_to_end(&self, patience: Duration, now: Duration) -> Option<Arc<Holder>> {
        if self.holders.iter().any(|holder| holder.is_ended.load(Relaxed)) {
            return None;
        }
        let chosen = self.holders.iter().find(|holder| holder.has_waited(patience, now))?;
        chosen.is_ended.store(true, Relaxed);
        Some(Arc::clone(chosen))
    }
}

impl Places {
    /// The number of places depends on the memory of this machine.
    pub(super) fn of_machine() -> Self {
        let of_each = MEMORY_MAX as u64;
        Places::new((Memory::now().total / MEMORY_SHARE / of_each).clamp(COUNT_MIN, COUNT_MAX))
    }

    fn new(count: u64) -> Self {
        Places {
            state: Mutex::new(PlacesState { free: count, holders: Vec::new(), parked: 0 }),
            freed: Condvar::new(),
            parked_max: (count as usize).saturating_mul(MEMORY_MAX),
            patience: PATIENCE,
            started: Instant::now(),
        }
    }

    /// Waits for a place; `None` if the function `is_unwanted` meanwhile. `end_wait` may be called while the function
    /// waits for its client.
    pub(super) fn enter(&self, end_wait: EndWait, is_unwanted: &dyn Fn() -> bool) -> Option<Place<'_>> {
        if !self.take(is_unwanted) {
            return None;
        }
        let holder = Arc::new(Holder {
            phase: AtomicU8::new(phase::RUNS),
            used: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            end_wait,
            is_ended: AtomicBool::new(false),
        });
        self.state.lock().holders.push(Arc::clone(&holder));
        Some(Place { places: self, holder })
    }

    /// Takes a free place, which has no holder yet; `false` if `is_unwanted` returns true first.
    fn take(&self, is_unwanted: &dyn Fn() -> bool) -> bool {
        loop {
            let mut late = None;
            let mut state = self.state.lock();
            if state.free == 0 {
                let has_waited = self.freed.wait_for(&mut state, LOOK_PERIOD).timed_out();
                if has_waited && state.free == 0 && !state.take_from_waiting(self.parked_max) {
                    late = state.choose_to_end(self.patience, self.started.elapsed());
                }
            }
            if state.free > 0 {
                state.free -= 1;
                return true;
            }
            drop(state);
            if let Some(late) = late {
                (late.end_wait)();
            }
            if is_unwanted() {
                return false;
            }
        }
    }
}

/// A place, until it is dropped.
pub(super) struct Place<'a> {
    places: &'a Places,
    holder: Arc<Holder>,
}

impl Place<'_> {
    /// Runs `wait` for the function, which has `used` bytes in memory; others may take its place meanwhile. `None` if
    /// the function `is_unwanted` and has lost its place.
    pub(super) fn lend<T>(
        &self,
        reason: WaitReason,
        used: usize,
        is_unwanted: &dyn Fn() -> bool,
        wait: impl FnOnce() -> T,
    ) -> Option<T> {
        self.begin_wait(reason, used);
        let waited = wait();
        self.go_on(is_unwanted).then_some(waited)
    }

    fn begin_wait(&self, reason: WaitReason, used: usize) {
        let holder = &*self.holder;
        // A function that lost its place stays without one.
        if holder.phase.load(Relaxed) != phase::RUNS {
            return;
        }
        holder.used.store(used, Relaxed);
        let phase = match reason {
            WaitReason::Records => phase::WAITS_FOR_RECORDS,
            WaitReason::Client => {
                holder.since.store(self.places.started.elapsed().as_nanos() as u64, Relaxed);
                phase::WAITS_FOR_CLIENT
            }
        };
        holder.phase.store(phase, Release);
    }

    /// Resumes after a wait; returns whether the function has a place, for which it may have to wait.
    fn go_on(&self, is_unwanted: &dyn Fn() -> bool) -> bool {
        let holder = &*self.holder;
        let phase = holder.phase.load(Relaxed);
        let is_kept = phase != phase::WITHOUT_PLACE
            && holder.phase.compare_exchange(phase, phase::RUNS, AcqRel, Relaxed).is_ok();
        if is_kept {
            return true;
        }
        let state = self.places.state.lock();
        if holder.phase.load(Relaxed) != phase::WITHOUT_PLACE {
            // Another thread tried to take the place and gave it back.
            holder.phase.store(phase::RUNS, Release);
            return true;
        }
        drop(state);
        if !self.places.take(is_unwanted) {
            return false;
        }
        let mut state = self.places.state.lock();
        state.parked -= holder.used.load(Relaxed);
        state.holders.push(Arc::clone(&self.holder));
        holder.phase.store(phase::RUNS, Release);
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.places.state.lock();
        if self.holder.phase.load(Relaxed) == phase::WITHOUT_PLACE {
            state.parked -= self.holder.used.load(Relaxed);
            return;
        }
        state.holders.retain(|holder| !Arc::ptr_eq(holder, &self.holder));
        state.free += 1;
        drop(state);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place for a function that is never ended; `None` if there is no place and the function
    /// `is_unwanted`.
    fn enter(places: &Places, is_unwanted: bool) -> Option<Place<'_>> {
        places.enter(Box::new(|| ()), &move || is_unwanted)
    }

    #[test]
    fn no_more_run_at_a_time_than_there_are_places() {
        let (places, most) = (Places::new(2), Mutex::new((0, 0)));
        cf::sync::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let place = enter(&places, false).expect("it is wanted");
                        let count = |change: i32| {
                            let mut counts = most.lock();
                            counts.0 += change;
                            counts.1 = counts.0.max(counts.1);
                        };
                        count(1);
                        std::thread::yield_now();
                        count(-1);
                        for reason in [WaitReason::Records, WaitReason::Client] {
                            place.lend(reason, 1, &|| false, std::thread::yield_now).expect("it is wanted");
                            count(1);
                            std::thread::yield_now();
                            count(-1);
                        }
                    }
                });
            }
        });
        assert_eq!(*most.lock(), (0, 2));
        let state = places.state.lock();
        assert_eq!((state.free, state.holders.len(), state.parked), (2, 0, 0));
        drop(state);
        let held = [enter(&places, false), enter(&places, false)];
        assert!(held.iter().all(Option::is_some) && enter(&places, true).is_none());
        drop(held);
        assert!(enter(&places, true).is_some());
    }

    #[test]
    fn a_function_that_waits_lends_its_place() {
        let places = Places::new(1);
        let first = enter(&places, false).expect("it is free");
        let waited = first.lend(WaitReason::Client, 10, &|| false, || {
            let second = enter(&places, false).expect("that of the first");
            assert_eq!(places.state.lock().parked, 10);
            assert!(enter(&places, true).is_none(), "the second runs");
            drop(second);
            7
        });
        assert_eq!((waited, places.state.lock().parked), (Some(7), 0));
        assert!(enter(&places, true).is_none(), "the first runs");
        // The function is unwanted, so it ends without a place.
        let mut second = None;
        let waited = first.lend(WaitReason::Records, 10, &|| true, || second = enter(&places, false));
        assert_eq!(waited, None);
        assert_eq!(first.lend(WaitReason::Records, 20, &|| true, || ()), None);
        drop(first);
        let figures = || {
            let state = places.state.lock();
            (state.free, state.holders.len(), state.parked)
        };
        assert_eq!(figures(), (0, 1, 0));
        drop(second);
        assert_eq!(figures(), (1, 0, 0));
    }

    #[test]
    fn a_function_with_much_memory_keeps_its_place_until_it_is_ended() {
        let places = Places { patience: Duration::from_millis(200), ..Places::new(1) };
        let is_ended = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&is_ended);
        let place = places.enter(Box::new(move || own.store(true, Release)), &|| false).expect("it is free");
        let much = MEMORY_MAX + 1;
        // It waits for records, or only briefly for its client.
        for reason in [WaitReason::Records, WaitReason::Client] {
            let waited = place.lend(reason, much, &|| false, || enter(&places, true).is_none());
            assert_eq!(waited, Some(true), "nobody has its place");
        }
        assert!(!is_ended.load(Acquire));
        cf::sync::scope(|scope| {
            let next = scope.spawn(|| enter(&places, false).is_some());
            let waited = place.lend(WaitReason::Client, much, &|| false, || {
                while !is_ended.load(Acquire) {
                    std::thread::yield_now();
                }
            });
            assert_eq!(waited, Some(()));
            drop(place);
            assert!(next.join().expect("no panic"));
        });
    }
}
