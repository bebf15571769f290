//! Event counters. The thread that owns a shard counts with one store to memory that no other thread writes.
//!
//! A set of counters is split into shards. All threads share shard 0 and add to it atomically. A thread that
//! claimed another shard (see [`claim_shard`]) is its only writer, and adds with a plain load and store. A
//! read sums the shards; a sum never decreases, and is exact when no thread is counting.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Makes the calling thread the only writer of `shard` in every [`Counters`] it touches.
///
/// The caller must give each shard number to only one thread at a time; 0 is the shared shard.
pub fn claim_shard(shard: usize) {
    SHARD.set(shard);
}

/// The shard the calling thread writes to.
#[inline]
#[must_use]
pub fn current_shard() -> usize {
    SHARD.get()
}

/// One thread's counters, on cache lines of their own.
#[repr(align(128))]
struct Shard<const N: usize>([AtomicU64; N]);

/// `N` counters that only grow, sharded by thread.
pub struct Counters<const N: usize> {
    shards: Box<[Shard<N>]>,
}

impl<const N: usize> Counters<N> {
    /// Zeroed counters with a shared shard and `owned_shards` more.
    #[must_use]
    pub fn new(owned_shards: usize) -> Self {
        let shards = (0..=owned_shards).map(|_| Shard(std::array::from_fn(|_| AtomicU64::new(0)))).collect();
        Counters { shards }
    }

    /// Adds `amount` to counter `index`.
    #[inline]
    pub fn add(&self, index: usize, amount: u64) {
        let shard = SHARD.get();
        match self.shards.get(shard) {
            Some(owned) if shard != 0 => {
                let counter = &owned.0[index];
                counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
            }
            _ => {
                self.shards[0].0[index].fetch_add(amount, Relaxed);
            }
        }
    }

    /// The sum of counter `index` over all shards.
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        self.shards.iter().map(|shard| shard.0[index].load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up() {
        let counters = Counters::<3>::new(2);
        crate::sync::scope(|scope| {
            for shard in 0..=3 {
                let counters = &counters;
                scope.spawn(move || {
                    claim_shard(shard); // shard 3 does not exist: falls back to the shared one
                    for _ in 0..1000 {
                        counters.add(1, 2);
                    }
                });
            }
        });
        assert_eq!(counters.get(1), 8000);
        assert_eq!(counters.get(0), 0);
    }
}
