//! Work on many partitions, spread over threads.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::index::PartitionId;

/// Does `work` for each of `partitions` on up to `thread_count` threads, each with a value that `begin` makes; returns
/// the values, without those of threads that panicked.
pub(crate) fn spread<T: Send>(
    thread_count: usize,
    partitions: &[PartitionId],
    begin: impl Fn() -> T + Sync,
    work: impl Fn(&mut T, PartitionId) + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let share = || {
        let mut value = begin();
        while let Some(partition) = partitions.get(next.fetch_add(1, Relaxed)) {
            work(&mut value, *partition);
        }
        value
    };
    let helper_count = thread_count.min(partitions.len()).saturating_sub(1);
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (0..helper_count).map(|_| scope.spawn(share)).collect();
        let own = share();
        // A helper that panicked has logged it; its partitions are done the next time.
        std::iter::once(own).chain(helpers.into_iter().filter_map(|helper| helper.join().ok())).collect()
    })
}
