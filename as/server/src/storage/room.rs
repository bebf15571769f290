//! The queue of requests that wait for their device; `waiting` decides which wait, and for how long. Most
//! wait for room: few write blocks are free and defrag is making room, or more full blocks wait to be written
//! than `max-write-cache` allows.
//!
//! Writers thus slow down to the pace of defrag and of the disk, and are refused only if waiting gains
//! nothing. A service thread never waits: its request is queued at the device, and runs again in its turn.
//! The queue is limited to [`WAITING_BYTES_MAX`] bytes of requests; further requests are refused.
//!
//! # Threads and locks
//! The defrag thread of a device resumes requests in their order: after each block that it has emptied, and
//! every few milliseconds while there are any. One mutex for each device; a request is resumed outside of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;

/// Largest number of bytes of requests that wait for room on one device.
const WAITING_BYTES_MAX: usize = 256 << 20;

/// A waiting request.
pub(crate) struct RoomWait {
    /// Bytes that the request keeps in memory, about as many as it writes.
    pub(crate) size: usize,
    /// Time at which the request resumes, whether there is room or not.
    pub(crate) deadline: Instant,
    /// Whether the request has waited before. It is then queued in front of new requests.
    pub(crate) has_waited: bool,
    /// Called once, on another thread, to resume the request. The argument tells whether it may wait again.
    pub(crate) resume: Box<dyn FnOnce(bool) + Send>,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<RoomWait>,
    bytes: usize,
    /// A lower bound of the deadlines in the queue. The request that set it may have left.
    first_deadline: Option<Instant>,
    /// Whether the server stops, so that no request waits any more.
    has_ended: bool,
}

impl Waiting {
    /// Queues a request, in front if it has waited before.
    fn push(&mut self, wait: RoomWait) {
        self.bytes += wait.size;
        self.first_deadline =
            Some(self.first_deadline.map_or(wait.deadline, |earliest| earliest.min(wait.deadline)));
        if wait.has_waited {
            self.queue.push_front(wait);
        } else {
            self.queue.push_back(wait);
        }
    }

    /// Takes the first requests for which `bytes` are enough.
    fn take_first(&mut self, mut bytes: usize) -> Vec<RoomWait> {
        let mut taken = Vec::new();
        while let Some(next) = self.queue.pop_front_if(|_| bytes > 0) {
            bytes = bytes.saturating_sub(next.size.max(1));
            self.bytes -= next.size;
            taken.push(next);
        }
        taken
    }

    /// Takes the requests whose deadline has passed. Searches the queue only if there may be some.
    fn take_late(&mut self, now: Instant) -> VecDeque<RoomWait> {
        if self.first_deadline.is_none_or(|earliest| now < earliest) {
            return VecDeque::new();
        }
        let (late, rest): (VecDeque<RoomWait>, VecDeque<RoomWait>) =
            self.queue.drain(..).partition(|wait| wait.deadline <= now);
        self.queue = rest;
        self.bytes -= late.iter().map(|wait| wait.size).sum::<usize>();
        self.first_deadline = self.queue.iter().map(|wait| wait.deadline).min();
        late
    }
}

/// The requests that wait for one device.
#[derive(Default)]
pub(super) struct RoomQueue {
    waiting: Mutex<Waiting>,
    count: AtomicUsize,
    /// Whether a writer found no block that it may take, so that further writers need not search.
    is_congested: AtomicBool,
    waits: AtomicU64,
}

impl RoomQueue {
    pub(super) fn set_congested(&self, is_congested: bool) {
        self.is_congested.store(is_congested, Relaxed);
    }

    /// Whether a writer need not search for a block.
    #[inline]
    pub(super) fn is_congested(&self) -> bool {
        self.is_congested.load(Relaxed)
    }

    /// Number of waiting requests.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Queues a request at the end, or in front if it has waited before.
    ///
    /// # Errors
    /// The request, if too many wait or the server stops.
    pub(super) fn push(&self, wait: RoomWait) -> Result<(), RoomWait> {
        let mut waiting = self.waiting.lock();
        if waiting.has_ended || waiting.bytes.saturating_add(wait.size) > WAITING_BYTES_MAX {
            return Err(wait);
        }
        if !wait.has_waited {
            self.waits.fetch_add(1, Relaxed);
        }
        waiting.push(wait);
        self.count.store(waiting.queue.len(), Relaxed);
        Ok(())
    }

    /// Resumes all requests, because the server stops.
    pub(super) fn end(&self) {
        self.waiting.lock().has_ended = true;
        self.set_congested(false);
        self.release(usize::MAX);
    }

    /// Number of requests that have waited so far.
    pub(super) fn wait_count(&self) -> u64 {
        self.waits.load(Relaxed)
    }

    /// Resumes the requests whose deadline has passed, and the first ones for which `bytes` are enough.
    pub(super) fn release(&self, bytes: usize) {
        let mut waiting = self.waiting.lock();
        let taken = waiting.take_first(bytes);
        let late = waiting.take_late(Instant::now());
        self.count.store(waiting.queue.len(), Relaxed);
        drop(waiting);
        taken.into_iter().for_each(|wait| (wait.resume)(true));
        late.into_iter().for_each(|wait| (wait.resume)(false));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    type Resumed = Arc<Mutex<Vec<(usize, bool)>>>;

    fn queue(waits: &[(usize, u64)]) -> (RoomQueue, Resumed) {
        let (queue, resumed) = (RoomQueue::default(), Resumed::default());
        for (at, (size, seconds)) in waits.iter().enumerate() {
            let resumed = Arc::clone(&resumed);
            queue.waiting.lock().push(RoomWait {
                size: *size,
                deadline: Instant::now() + Duration::from_secs(*seconds),
                has_waited: false,
                resume: Box::new(move |may_wait| resumed.lock().push((at, may_wait))),
            });
        }
        (queue, resumed)
    }

    #[test]
    fn waiting_requests_resume_in_order_while_there_is_room() {
        let (queue, resumed) = queue(&[(4, 60), (4, 60), (4, 60), (0, 60)]);
        queue.release(0);
        assert!(resumed.lock().is_empty());
        queue.release(5);
        assert_eq!(*resumed.lock(), [(0, true), (1, true)]);
        assert_eq!((queue.waiting.lock().bytes, queue.count.load(Relaxed)), (4, 2));
        queue.release(usize::MAX);
        assert_eq!(resumed.lock()[2..], [(2, true), (3, true)]);
        assert_eq!((queue.waiting.lock().bytes, queue.count.load(Relaxed)), (0, 0));
    }

    #[test]
    fn requests_resume_without_room_at_their_deadline() {
        let (queue, resumed) = queue(&[(4, 60), (4, 0), (4, 60), (4, 0)]);
        queue.release(0);
        assert_eq!(*resumed.lock(), [(1, false), (3, false)]);
        assert_eq!(queue.waiting.lock().bytes, 8);
        // The remaining requests are checked again when the first of them may be late.
        let first = queue.waiting.lock().first_deadline.unwrap();
        assert!(first > Instant::now() + Duration::from_secs(30));
        assert!(queue.waiting.lock().take_late(first - Duration::from_secs(1)).is_empty());
        assert_eq!(queue.waiting.lock().take_late(first + Duration::from_secs(1)).len(), 2);
    }
}
