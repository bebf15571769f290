//! Records that are reserved for a change, and the requests that wait for them.
//!
//! A thread of the pool computes a long change from a copy of the record, without a lock. If other writers keep changing
//! the record meanwhile, it reserves the record: other writers wait here until it is done. DiskCallers never wait.
//!
//! # Invariants
//! - A thread that reserves a record reads it afterwards. A thread that changes a record checks the reservation while
//!   it holds the record's sprig lock. So a change either precedes the copy of the reserving thread, or waits.
//! - At most one reservation of a record at a time.
//!
//! # Locks
//! One mutex for each shard. It may be taken under a sprig lock; nothing else is taken under it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cf::Digest;
use parking_lot::{Condvar, Mutex};

use super::OwnedRequest;

const SHARD_COUNT: usize = 64;

/// Identifies a record of the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RecordKey {
    /// Position of the namespace.
    pub(crate) namespace: usize,
    pub(crate) digest: Digest,
}

#[derive(Default)]
struct Shard {
    /// By reserved record, the requests that wait for it.
    reserved: Mutex<HashMap<RecordKey, Vec<OwnedRequest>>>,
    /// Signalled when a reservation ends.
    changed: Condvar,
}

/// The reserved records of a server.
pub(crate) struct WaitTable {
    shards: [Shard; SHARD_COUNT],
    /// Number of reservations; usually 0, which skips the lookup.
    count: AtomicUsize,
}

/// Reserves a record until it is dropped.
pub(crate) struct RecordReservation<'a> {
    table: &'a WaitTable,
    key: RecordKey,
    /// Called with each request that waited.
    resume: &'a dyn Fn(OwnedRequest),
}

impl WaitTable {
    pub(crate) fn new() -> Self {
        WaitTable { shards: std::array::from_fn(|_| Shard::default()), count: AtomicUsize::new(0) }
    }

    fn shard(&self, key: &RecordKey) -> &Shard {
        &self.shards[usize::from(key.digest.0[19]) % SHARD_COUNT]
    }

    /// Whether a change of the record must wait. The caller holds the record's sprig lock.
    #[inline]
    pub(crate) fn is_reserved(&self, key: &RecordKey) -> bool {
        self.count.load(Ordering::Acquire) != 0 && self.shard(key).reserved.lock().contains_key(key)
    }

    /// Reserves a record; waits until `deadline` for another reservation of it to end. `resume` gets the requests that
    /// come to wait for this one. The caller holds no sprig lock.
    pub(crate) fn reserve<'a>(
        &'a self,
        key: RecordKey,
        deadline: Instant,
        resume: &'a dyn Fn(OwnedRequest),
    ) -> Option<RecordReservation<'a>> {
        let shard = self.shard(&key);
        let mut reserved = shard.reserved.lock();
        while reserved.contains_key(&key) {
            if shard.changed.wait_until(&mut reserved, deadline).timed_out() {
                return None;
            }
        }
        reserved.insert(key, Vec::new());
        self.count.fetch_add(1, Ordering::Release);
        Some(RecordReservation { table: self, key, resume })
    }

    /// Makes `request` wait for the record of `key`. Returns the request if the record is no longer reserved.
    pub(crate) fn park(&self, key: &RecordKey, request: OwnedRequest) -> Result<(), OwnedRequest> {
        match self.shard(key).reserved.lock().get_mut(key) {
            Some(waiting) => {
                waiting.push(request);
                Ok(())
            }
            None => Err(request),
        }
    }

    /// Waits until the record of `key` is not reserved, or until `deadline`; returns whether it is free.
    pub(crate) fn wait_until_free(&self, key: &RecordKey, deadline: Instant) -> bool {
        let shard = self.shard(key);
        let mut reserved = shard.reserved.lock();
        while reserved.contains_key(key) {
            if shard.changed.wait_until(&mut reserved, deadline).timed_out() {
                return !reserved.contains_key(key);
            }
        }
        true
    }
}

impl Drop for RecordReservation<'_> {
    fn drop(&mut self) {
        let shard = self.table.shard(&self.key);
        let waiting = shard.reserved.lock().remove(&self.key);
        self.table.count.fetch_sub(1, Ordering::Release);
        shard.changed.notify_all();
        cf::invariant!(waiting.is_some(), "the reservation of {} is gone before its end", self.key.digest);
        waiting.into_iter().flatten().for_each(|request| (self.resume)(request));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::transaction::{ReplySink, SinkClosed};

    struct NoSink;

    impl ReplySink for NoSink {
        fn send(&self, _: Vec<u8>) -> Result<(), SinkClosed> {
            Ok(())
        }

        fn post(&self, _: Vec<u8>) {}

        fn finish(&self, _: Vec<u8>) {}
    }

    fn key(n: u8) -> RecordKey {
        RecordKey { namespace: 0, digest: Digest([n; 20]) }
    }

    fn request(tag: u8) -> OwnedRequest {
        OwnedRequest::new(&[tag], Instant::now(), Arc::new(NoSink))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[test]
    fn requests_wait_for_the_reservation_of_their_record_alone() {
        let (table, resumed) = (WaitTable::new(), Mutex::new(Vec::new()));
        let resume = |request: OwnedRequest| resumed.lock().push(request.body[0]);
        assert!(table.park(&key(1), request(0)).is_err());
        let reservation = table.reserve(key(1), soon(), &resume).expect("it is free");
        assert!(table.is_reserved(&key(1)) && !table.is_reserved(&key(2)));
        // A record of the same shard, in another namespace.
        assert!(!table.is_reserved(&RecordKey { namespace: 1, ..key(1) }));
        assert!(table.park(&key(1), request(7)).is_ok() && table.park(&key(1), request(8)).is_ok());
        assert!(table.park(&key(2), request(9)).is_err());
        assert!(!table.wait_until_free(&key(1), soon()) && table.wait_until_free(&key(2), soon()));
        assert!(table.reserve(key(1), soon(), &resume).is_none());
        assert!(resumed.lock().is_empty());
        drop(reservation);
        assert_eq!(*resumed.lock(), [7, 8]);
        assert!(!table.is_reserved(&key(1)) && table.wait_until_free(&key(1), soon()));
    }

    #[test]
    fn reservations_of_one_record_follow_one_another() {
        let (table, holders) = (WaitTable::new(), AtomicUsize::new(0));
        cf::sync::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let until = Instant::now() + Duration::from_secs(30);
                        let _reservation = table.reserve(key(3), until, &|_| {}).expect("its turn comes");
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
                    }
                });
            }
        });
        assert_eq!(table.count.load(Ordering::Relaxed), 0);
    }
}
