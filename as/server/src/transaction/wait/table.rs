//! Records that are reserved for a change, and the requests that wait for them.
//!
//! A pool thread computes a long change from a copy of the record, without a lock. If other writers keep changing the
//! record meanwhile, it reserves the record: the requests of other writers wait here until it is done. Readers never
//! wait, and no thread does.
//!
//! # Invariants
//! - A thread that reserves a record reads it afterwards. A thread that changes a record checks the reservation while
//!   it holds the record's sprig lock. So a change either precedes the copy of the reserving thread, or waits.
//! - At most one reservation of a record at a time.
//!
//! # Locks
//! One mutex for each shard. It may be taken under a sprig lock; nothing else is taken under it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{OwnedRequest, RecordKey};

const SHARD_COUNT: usize = 64;

/// By reserved record, the requests that wait for it.
type Shard = Mutex<HashMap<RecordKey, Vec<OwnedRequest>>>;

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
        &self.shards[key.shard(SHARD_COUNT)]
    }

    /// Whether a change of the record must wait. The caller holds its sprig lock, and keeps it during the change.
    #[inline]
    pub(crate) fn is_reserved(&self, key: &RecordKey) -> bool {
        self.count.load(Ordering::Acquire) != 0 && self.shard(key).lock().contains_key(key)
    }

    /// Reserves a record; `None` if it is reserved already. `resume` gets the requests that wait for it. The caller
    /// holds no sprig lock.
    pub(crate) fn reserve<'a>(
        &'a self,
        key: RecordKey,
        resume: &'a dyn Fn(OwnedRequest),
    ) -> Option<RecordReservation<'a>> {
        let mut reserved = self.shard(&key).lock();
        let Entry::Vacant(free) = reserved.entry(key) else { return None };
        free.insert(Vec::new());
        self.count.fetch_add(1, Ordering::Release);
        Some(RecordReservation { table: self, key, resume })
    }

    /// Makes `request` wait for the record of `key`. Returns the request if the record is no longer reserved.
    pub(crate) fn park(&self, key: &RecordKey, request: OwnedRequest) -> Result<(), OwnedRequest> {
        match self.shard(key).lock().get_mut(key) {
            Some(waiting) => {
                waiting.push(request);
                Ok(())
            }
            None => Err(request),
        }
    }
}

impl Drop for RecordReservation<'_> {
    fn drop(&mut self) {
        let waiting = self.table.shard(&self.key).lock().remove(&self.key);
        self.table.count.fetch_sub(1, Ordering::Release);
        cf::invariant!(waiting.is_some(), "the reservation of {} is gone before its end", self.key.digest);
        waiting.into_iter().flatten().for_each(|request| (self.resume)(request));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use cf::Digest;

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

    #[test]
    fn requests_wait_for_the_reservation_of_their_record_alone() {
        let (table, resumed) = (WaitTable::new(), Mutex::new(Vec::new()));
        let resume = |request: OwnedRequest| resumed.lock().push(request.body[0]);
        assert!(table.park(&key(1), request(0)).is_err());
        let reservation = table.reserve(key(1), &resume).expect("it is free");
        assert!(table.is_reserved(&key(1)) && !table.is_reserved(&key(2)));
        // A record of the same shard, in another namespace.
        assert!(!table.is_reserved(&RecordKey { namespace: 1, ..key(1) }));
        assert!(table.park(&key(1), request(7)).is_ok() && table.park(&key(1), request(8)).is_ok());
        assert!(table.park(&key(2), request(9)).is_err());
        assert!(table.reserve(key(1), &resume).is_none());
        drop(table.reserve(key(2), &resume).expect("it is free"));
        assert!(resumed.lock().is_empty());
        drop(reservation);
        assert_eq!(*resumed.lock(), [7, 8]);
        assert!(!table.is_reserved(&key(1)) && table.reserve(key(1), &resume).is_some());
    }

    #[test]
    fn one_thread_at_a_time_has_a_record() {
        let (table, holders) = (WaitTable::new(), AtomicUsize::new(0));
        cf::sync::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Some(_reservation) = table.reserve(key(3), &|_| {}) else { continue };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
                    }
                });
            }
        });
        assert_eq!(table.count.load(Ordering::Relaxed), 0);
    }
}
