//! The keys of a run and their digests.

use std::sync::Arc;
use std::thread;

use cf::{Digest, threads};

use super::request::KEY_TYPE_INTEGER;

/// Largest number of keys whose digests are computed before a run, 20 bytes each. If there are more keys,
/// each digest is computed on use.
const TABLE_KEYS_MAX: u64 = 1 << 24;

/// Integer keys `first` to `first + count - 1` of a set.
#[derive(Clone, Debug)]
pub struct Keys {
    set: String,
    first: i64,
    count: u64,
    /// Digests in the order of the keys, or empty.
    table: Arc<[Digest]>,
}

impl Keys {
    /// The keys, without a table of their digests.
    #[must_use]
    pub fn new(set: &str, first: i64, count: u64) -> Self {
        Keys { set: set.to_owned(), first, count, table: Arc::new([]) }
    }

    /// Number of keys.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Computes all digests, on all processors, unless there are too many to keep.
    #[must_use]
    pub fn with_table(mut self) -> Self {
        if self.count == 0 || self.count > TABLE_KEYS_MAX {
            return self;
        }
        let mut table = vec![Digest::default(); self.count as usize];
        let part_size = table.len().div_ceil(threads::cpu_count());
        let keys = &self;
        thread::scope(|scope| {
            for (part, digests) in table.chunks_mut(part_size).enumerate() {
                let start = part * part_size;
                scope.spawn(move || {
                    for (offset, digest) in digests.iter_mut().enumerate() {
                        *digest = keys.compute((start + offset) as u64);
                    }
                });
            }
        });
        self.table = table.into();
        self
    }

    /// The key at `index` below [`Keys::count`].
    #[inline]
    #[must_use]
    pub fn key(&self, index: u64) -> i64 {
        self.first.wrapping_add(index as i64)
    }

    #[inline]
    #[must_use]
    pub fn digest(&self, index: u64) -> Digest {
        match self.table.get(index as usize) {
            Some(digest) => *digest,
            None => self.compute(index),
        }
    }

    fn compute(&self, index: u64) -> Digest {
        Digest::of_key(self.set.as_bytes(), KEY_TYPE_INTEGER, &self.key(index).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_equal_those_of_official_clients() {
        // The digests are those of aerospike.calc_digest("test", "demo", 1) of the Python client.
        let keys = Keys::new("demo", 1, 10);
        assert_eq!(keys.digest(0).to_string(), "b7f4b83889e2da67de683e1df6919a1eacc446c8");
    }

    #[test]
    fn the_table_agrees_with_computing() {
        for count in [1, 2, 3, 1000] {
            let plain = Keys::new("s", -2, count);
            let table = plain.clone().with_table();
            assert!(!table.table.is_empty());
            for index in 0..count {
                assert_eq!(table.digest(index), plain.digest(index));
            }
        }
        assert_eq!(Keys::new("s", -2, 3).key(2), 0);
    }
}
