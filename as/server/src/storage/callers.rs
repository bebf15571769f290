//! Threads that wait for a disk, and whether the disk answers them.
//!
//! A call that a disk does not answer blocks its thread indefinitely. Therefore a thread that reads, or waits
//! until data is on disk, registers the call, and a watch checks the calls several times a second. A disk
//! that has left a call unanswered for [`STUCK_TIME`] is *stuck* until all such calls are over. Meanwhile
//! pool threads begin no further calls: their requests wait (`waiting`), and substitutes work in the place of
//! threads that hang (`transaction::DiskWatch`). Thus a disk of one namespace does not use up the threads of
//! another.
//!
//! # Threads
//! Each call has a slot while it is in progress; a thread mostly finds its previous slot free. Everything is
//! atomic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// A disk is stuck if a call takes longer than this.
const STUCK_TIME: Duration = Duration::from_secs(1);
/// Largest number of calls watched at a time. Further calls are not watched, which does no harm.
const SLOT_COUNT: usize = 64;
/// Number of low bits of a slot for the caller. Above them are the milliseconds since the disk was opened,
/// plus one.
const CALLER_BITS: u32 = 3;

/// Kinds of threads that wait for disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskCaller {
    /// Threads that wait for a disk themselves: service threads, nsup, builders of indexes and others.
    Other = 0,
    /// The transaction pool.
    Transactions = 1,
    Batches = 2,
    Queries = 3,
}

impl DiskCaller {
    /// Callers whose threads get substitutes while they hang.
    pub(crate) const POOLS: [DiskCaller; 3] =
        [DiskCaller::Transactions, DiskCaller::Batches, DiskCaller::Queries];

    /// Whether the threads of this caller begin no call to a stuck disk.
    fn is_careful(self) -> bool {
        self != DiskCaller::Other
    }
}

/// A call in progress, or 0.
#[derive(Default)]
#[repr(align(64))]
struct Slot(AtomicU64);

/// Calls of one disk in progress.
pub(super) struct DiskCallers {
    opened: Instant,
    slots: [Slot; SLOT_COUNT],
    is_stuck: AtomicBool,
}

/// A call in progress, until this is dropped.
pub(super) struct PendingCall<'a>(Option<&'a Slot>);

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            slot.0.store(0, Release);
        }
    }
}

impl DiskCallers {
    pub(super) fn new() -> Self {
        DiskCallers {
            opened: Instant::now(),
            slots: std::array::from_fn(|_| Slot::default()),
            is_stuck: AtomicBool::new(false),
        }
    }

    /// Whether a thread of `caller` must not begin a call now.
    #[inline]
    pub(super) fn must_wait(&self, caller: DiskCaller) -> bool {
        self.is_stuck.load(Relaxed) && caller.is_careful()
    }

    /// Begins a call of a thread of `caller`. `hint` is the thread's storage for its previous slot.
    pub(super) fn begin(&self, caller: DiskCaller, hint: &mut usize) -> PendingCall<'_> {
        let entry = (self.now_ms() + 1) << CALLER_BITS | caller as u64;
        for _ in 0..SLOT_COUNT {
            let slot = &self.slots[*hint % SLOT_COUNT];
            if slot.0.compare_exchange(0, entry, Acquire, Relaxed).is_ok() {
                return PendingCall(Some(slot));
            }
            *hint += 1;
        }
        PendingCall(None)
    }

    fn now_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Checks all calls. Returns whether the disk is stuck, and whether that has changed.
    pub(super) fn check(&self) -> (bool, bool) {
        let is_stuck = self.unanswered(STUCK_TIME).next().is_some();
        (is_stuck, self.is_stuck.swap(is_stuck, Relaxed) != is_stuck)
    }

    /// Whether the disk was stuck at the last check.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Relaxed)
    }

    /// Number of threads of `caller` that hang.
    pub(super) fn hanging(&self, caller: DiskCaller) -> usize {
        self.unanswered(STUCK_TIME).filter(|other| *other == caller as u64).count()
    }

    /// Callers of calls that have taken longer than `longer_than`.
    fn unanswered(&self, longer_than: Duration) -> impl Iterator<Item = u64> {
        let now = self.now_ms() + 1;
        self.slots.iter().filter_map(move |slot| match slot.0.load(Relaxed) {
            0 => None,
            entry => {
                let age = Duration::from_millis(now.saturating_sub(entry >> CALLER_BITS));
                (age >= longer_than).then_some(entry & ((1 << CALLER_BITS) - 1))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_stuck_while_a_call_is_not_answered() {
        let (mut callers, mut hint) = (DiskCallers::new(), 0);
        callers.opened = Instant::now().checked_sub(2 * STUCK_TIME).expect("a machine that runs for a while");
        drop(callers.begin(DiskCaller::Batches, &mut hint));
        assert_eq!(callers.check(), (false, false));
        // This call began when the disk was opened.
        callers.slots[7].0.store(1 << CALLER_BITS | DiskCaller::Queries as u64, Relaxed);
        let young = callers.begin(DiskCaller::Batches, &mut hint);
        assert_eq!(callers.check(), (true, true));
        assert_eq!(DiskCaller::POOLS.map(|caller| callers.hanging(caller)), [0, 0, 1]);
        assert!(DiskCaller::POOLS.iter().all(|caller| callers.must_wait(*caller)));
        assert!(!callers.must_wait(DiskCaller::Other));
        assert_eq!(callers.check(), (true, false));
        callers.slots[7].0.store(0, Relaxed);
        assert_eq!(callers.check(), (false, true));
        assert!(!callers.must_wait(DiskCaller::Queries));
        drop(young);
    }

    #[test]
    fn threads_share_the_slots() {
        let (callers, mut hints) = (DiskCallers::new(), [0; 2]);
        let first = callers.begin(DiskCaller::Batches, &mut hints[0]);
        let second = callers.begin(DiskCaller::Batches, &mut hints[1]);
        assert_eq!(hints, [0, 1]);
        drop((first, second));
        let all: Vec<_> =
            (0..SLOT_COUNT + 1).map(|_| callers.begin(DiskCaller::Other, &mut hints[1])).collect();
        assert!(all.last().is_some_and(|call| call.0.is_none()), "more are not watched");
        drop(all);
        assert!(callers.begin(DiskCaller::Other, &mut hints[1]).0.is_some());
    }
}
