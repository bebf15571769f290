//! Entries of an index in one partition: pairs of a key and a record, ordered by key, then by the record's digest.
//!
//! A B-tree of two levels: leaves of up to [`LEAF_SIZE_MAX`] entries, and a directory with the first entry of each. An
//! entry has the key, the record's handle in the primary index, and 16 bits of the digest, which decide nearly all
//! comparisons of equal keys without reading the record: 14 bytes in a secondary index, 6 in the index of a set, which
//! has no keys. Leaves grow in small steps, so that little memory is unused.
//!
//! Digests of one partition have their first 12 bits in common. The 16 bits kept are the next ones in the order of
//! digests.
//!
//! # Entries and records
//! Entries are added and removed under the lock of the record's sprig, and the commit that removes a record removes its
//! entries before the element is released. So the holder of a tree's lock may follow the handles in it
//! ([`LiveElements`]). A damaged record may leave entries behind whose handles belong to no record or to another one,
//! until they are swept out (`sindex/sweep.rs`). So a digest that an entry leads to must be looked up before it is
//! used.

use std::cmp::Ordering;
use std::ops::Range;

use cf::Digest;

use super::tree::{ElementHandle, Index};

/// Maximum number of entries in a leaf.
const LEAF_SIZE_MAX: usize = 256;
/// Maximum number of entries in a leaf of a tree that is built all at once, so that each leaf has some room.
const LEAF_SIZE_BUILT: usize = LEAF_SIZE_MAX / 8 * 7;
/// A leaf with fewer entries is joined with the next one if both fit together.
const LEAF_SIZE_MIN: usize = LEAF_SIZE_MAX / 4;
/// How many entries ahead of the current one records are prefetched.
const PREFETCH_DISTANCE: usize = 8;

/// Bytes of a directory or leaf that are prefetched at most.
const PREFETCH_SIZE_MAX: usize = 4 << 10;

/// The records that entries stand for.
pub(crate) trait RecordDigests {
    type Handle: Copy + PartialEq;

    /// The digest of a record that has an entry.
    fn digest(&self, handle: Self::Handle) -> Digest;

    /// Hints that the digest will be asked for soon.
    fn prefetch(&self, _: Self::Handle) {}
}

/// The records of an index, for the holder of the lock of a tree.
pub(crate) struct LiveElements<'a>(pub(crate) &'a Index);

impl RecordDigests for LiveElements<'_> {
    type Handle = ElementHandle;

    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena")]
    fn digest(&self, handle: ElementHandle) -> Digest {
        // The commit that releases an element takes the lock of the tree first, to remove the entry. So the digest is
        // that of the record. Only for an entry that a damaged record has left behind it may be any digest.
        // SAFETY: a tree holds handles of elements of the index that it belongs to.
        unsafe { self.0.digest_at(handle) }
    }

    #[inline]
    fn prefetch(&self, handle: ElementHandle) {
        self.0.prefetch_handle(handle);
    }
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct TreeEntry<K, H> {
    key: K,
    handle: H,
    stub: Stub,
}

/// The bits of a digest that come first in the order of one partition's digests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Stub(u16);

impl Stub {
    pub(crate) fn of(digest: &Digest) -> Self {
        let [_, b, c, d, ..] = digest.0;
        Stub(u16::from(b & 0xF0) << 8 | u16::from(c) << 4 | u16::from(d >> 4))
    }
}

impl<K: Copy + Ord, H: Copy + PartialEq> TreeEntry<K, H> {
    fn of(found: &IndexEntry<K, H>) -> Self {
        TreeEntry { key: found.key, handle: found.handle, stub: Stub::of(&found.digest) }
    }

    /// Compares the entry with `key` and the record of `digest`.
    fn compare(&self, key: K, digest: &Digest, records: &impl RecordDigests<Handle = H>) -> Ordering {
        let TreeEntry { key: own_key, handle, stub: own_stub } = *self;
        own_key
            .cmp(&key)
            .then_with(|| own_stub.cmp(&Stub::of(digest)))
            .then_with(|| records.digest(handle).cmp(digest))
    }
}

struct Leaf<K, H> {
    first: TreeEntry<K, H>,
    /// Never empty.
    entries: Vec<TreeEntry<K, H>>,
}

/// An entry as a search returns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexEntry<K, H = ElementHandle> {
    pub(crate) key: K,
    pub(crate) digest: Digest,
    pub(crate) handle: H,
}

/// Start of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RangeStart<K> {
    /// With the first entry of this key or a higher one.
    From(K),
    /// After this entry, whether it exists or not.
    Behind(K, Digest),
}

/// Entries of a tree that is not built yet, in any order.
pub(crate) struct LooseEntries<K, H>(Vec<TreeEntry<K, H>>);

impl<K: Copy + Ord, H: Copy + PartialEq> LooseEntries<K, H> {
    pub(crate) const fn new() -> Self {
        LooseEntries(Vec::new())
    }

    /// Adds an entry of a record, which must not have it yet; returns whether that took more memory.
    pub(crate) fn push(&mut self, key: K, digest: &Digest, handle: H) -> bool {
        let (len, is_full) = (self.0.len(), self.0.len() == self.0.capacity());
        if is_full {
            self.0.reserve_exact((len / 4).max(8));
        }
        self.0.push(TreeEntry { key, handle, stub: Stub::of(digest) });
        is_full
    }

    /// Keeps the entries of the records that `is_kept` accepts.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(H) -> bool) {
        self.0.retain(|entry| is_kept(entry.handle));
    }
}

/// The entries of one partition.
pub(crate) struct EntryTree<K, H> {
    leaves: Vec<Leaf<K, H>>,
    len: usize,
}

impl<K: Copy + Ord, H: Copy + PartialEq> EntryTree<K, H> {
    pub(crate) const fn new() -> Self {
        EntryTree { leaves: Vec::new(), len: 0 }
    }

    /// A tree of these entries.
    pub(crate) fn build(entries: LooseEntries<K, H>, records: &impl RecordDigests<Handle = H>) -> Self {
        let LooseEntries(mut entries) = entries;
        entries.sort_unstable_by(|one, other| {
            let (TreeEntry { key, stub, handle }, TreeEntry { key: key2, stub: stub2, handle: handle2 }) =
                (*one, *other);
            let by_digest = || records.digest(handle).cmp(&records.digest(handle2));
            key.cmp(&key2).then_with(|| stub.cmp(&stub2)).then_with(by_digest)
        });
        Self::of_ordered(entries.len(), |part| entries[part].to_vec())
    }

    /// A tree of `entries`, which are in order and different.
    pub(crate) fn of_sorted(entries: &[IndexEntry<K, H>]) -> Self {
        Self::of_ordered(entries.len(), |part| entries[part].iter().map(TreeEntry::of).collect())
    }

    /// A tree of `len` entries; `entries_of` returns those of a leaf, by their places in the order.
    fn of_ordered(len: usize, entries_of: impl Fn(Range<usize>) -> Vec<TreeEntry<K, H>>) -> Self {
        let leaf_count = len.div_ceil(LEAF_SIZE_BUILT);
        let leaf = |at: usize| {
            let entries = entries_of(len * at / leaf_count..len * (at + 1) / leaf_count);
            Leaf { first: entries[0], entries }
        };
        EntryTree { leaves: (0..leaf_count).map(leaf).collect(), len }
    }

    /// Adds the entries of `other` that lead to their records.
    pub(crate) fn insert_all_of(&mut self, other: &Self, records: &impl RecordDigests<Handle = H>) {
        other.for_each_entry(|TreeEntry { key, handle, stub }| {
            let digest = records.digest(handle);
            // A stale entry leads to another record.
            if Stub::of(&digest) == stub {
                self.insert(key, &digest, handle, records);
            }
        });
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory besides the size of this struct.
    pub(crate) fn memory(&self) -> usize {
        let leaves = self.leaves.iter().map(|leaf| leaf.entries.capacity()).sum::<usize>();
        leaves * size_of::<TreeEntry<K, H>>() + self.leaves.capacity() * size_of::<Leaf<K, H>>()
    }

    /// The leaf that contains a place. `order` compares an entry with that place.
    fn leaf_of(&self, order: impl Fn(&TreeEntry<K, H>) -> Ordering) -> usize {
        self.leaves.partition_point(|leaf| order(&leaf.first) != Ordering::Greater).saturating_sub(1)
    }

    /// Adds an entry; returns `false` if it exists already, and by how many bytes the memory grew.
    pub(crate) fn insert(
        &mut self,
        key: K,
        digest: &Digest,
        handle: H,
        records: &impl RecordDigests<Handle = H>,
    ) -> (bool, isize) {
        let order = |entry: &TreeEntry<K, H>| entry.compare(key, digest, records);
        let at = self.leaf_of(order);
        let entry = TreeEntry { key, handle, stub: Stub::of(digest) };
        let Some(leaf) = self.leaves.get_mut(at) else {
            // The directory of leaves may still have room from earlier entries.
            let before = self.memory();
            self.leaves.push(Leaf { first: entry, entries: Vec::new() });
            self.leaves[at].entries.reserve_exact(8);
            self.leaves[at].entries.push(entry);
            self.len = 1;
            return (true, self.memory() as isize - before as isize);
        };
        let Err(place) = leaf.entries.binary_search_by(order) else { return (false, 0) };
        let mut grown = 0;
        let (mut at, mut place) = (at, place);
        if leaf.entries.len() == LEAF_SIZE_MAX {
            let is_at_end = place == LEAF_SIZE_MAX && at + 1 == self.leaves.len();
            grown += self.split(at, if is_at_end { LEAF_SIZE_MAX } else { LEAF_SIZE_MAX / 2 }, entry);
            let left = self.leaves[at].entries.len();
            if place > left || is_at_end {
                (at, place) = (at + 1, place - left);
            }
        }
        grown += self.leaves[at].insert(place, entry);
        self.len += 1;
        (true, grown)
    }

    /// Splits leaf `at` before its entry `middle`. A split at the end makes an empty leaf for `next`.
    fn split(&mut self, at: usize, middle: usize, next: TreeEntry<K, H>) -> isize {
        let directory = self.leaves.capacity();
        let before = self.leaves[at].memory();
        let mut right = Vec::new();
        right.reserve_exact((LEAF_SIZE_MAX - middle).max(8));
        right.extend_from_slice(&self.leaves[at].entries[middle..]);
        let left = &mut self.leaves[at];
        left.entries.truncate(middle);
        left.entries.shrink_to(middle + 8);
        let first = right.first().copied().unwrap_or(next);
        self.leaves.insert(at + 1, Leaf { first, entries: right });
        let after = self.leaves[at].memory() + self.leaves[at + 1].memory();
        let directory = (self.leaves.capacity() - directory) * size_of::<Leaf<K, H>>();
        (after + directory) as isize - before as isize
    }

    /// Removes an entry; returns `false` if it does not exist, and by how many bytes the memory grew.
    pub(crate) fn remove(
        &mut self,
        key: K,
        digest: &Digest,
        records: &impl RecordDigests<Handle = H>,
    ) -> (bool, isize) {
        let order = |entry: &TreeEntry<K, H>| entry.compare(key, digest, records);
        let at = self.leaf_of(order);
        let Some(leaf) = self.leaves.get_mut(at) else { return (false, 0) };
        let Ok(place) = leaf.entries.binary_search_by(order) else { return (false, 0) };
        leaf.entries.remove(place);
        self.len -= 1;
        (true, self.mend(at))
    }

    /// Removes all entries of a record by looking at every entry: for a record that cannot be read. Returns how many
    /// were removed, and by how many bytes the memory grew.
    pub(crate) fn remove_all_of(&mut self, handle: H) -> (usize, isize) {
        self.remove_where(&|own, _| own == handle)
    }

    /// Removes all entries whose handle and stub `is_removed` accepts. Returns how many were removed, and by how many
    /// bytes the memory grew.
    pub(crate) fn remove_where(&mut self, is_removed: &dyn Fn(H, Stub) -> bool) -> (usize, isize) {
        let (len, memory) = (self.len, self.memory());
        for leaf in &mut self.leaves {
            leaf.entries.retain(|entry| {
                let TreeEntry { handle, stub, .. } = *entry;
                !is_removed(handle, stub)
            });
            if let Some(first) = leaf.entries.first() {
                leaf.first = *first;
            }
        }
        self.leaves.retain(|leaf| !leaf.entries.is_empty());
        self.len = self.leaves.iter().map(|leaf| leaf.entries.len()).sum();
        (len - self.len, self.memory() as isize - memory as isize)
    }

    /// The handles of all entries, with their stubs, in order.
    pub(crate) fn handles(&self) -> impl Iterator<Item = (H, Stub)> + '_ {
        self.leaves.iter().flat_map(|leaf| &leaf.entries).map(|entry| {
            let TreeEntry { handle, stub, .. } = *entry;
            (handle, stub)
        })
    }

    /// Restores the properties of leaf `at` after it lost entries: it is not empty, does not stay small, and takes
    /// not much more memory than its entries need.
    fn mend(&mut self, at: usize) -> isize {
        let leaf = &mut self.leaves[at];
        let before = leaf.memory();
        let Some(first) = leaf.entries.first() else {
            self.leaves.remove(at);
            return -(before as isize);
        };
        leaf.first = *first;
        if leaf.entries.len() < LEAF_SIZE_MIN
            && let Some(next) = self.leaves.get(at + 1)
            && self.leaves[at].entries.len() + next.entries.len() <= LEAF_SIZE_MAX / 4 * 3
        {
            let next = self.leaves.remove(at + 1);
            let joined = &mut self.leaves[at];
            joined.entries.reserve_exact(next.entries.len());
            joined.entries.extend_from_slice(&next.entries);
            return joined.memory() as isize - (before + next.memory()) as isize;
        }
        let leaf = &mut self.leaves[at];
        if leaf.entries.capacity() > 2 * leaf.entries.len() + 16 {
            leaf.entries.shrink_to(leaf.entries.len() + leaf.entries.len() / 4 + 4);
        }
        leaf.memory() as isize - before as isize
    }

    /// First of two hints that entries will be looked for soon.
    pub(crate) fn prefetch_directory(&self) {
        let size = self.leaves.len() * size_of::<Leaf<K, H>>();
        cf::prefetch::bytes(self.leaves.as_ptr().cast(), size.min(PREFETCH_SIZE_MAX));
    }

    /// Second hint, once the directory is loaded: entries will be looked for from `key` on.
    pub(crate) fn prefetch_leaf(&self, key: K) {
        let at = self.leaves.partition_point(|leaf| leaf.first_key() < key).saturating_sub(1);
        if let Some(leaf) = self.leaves.get(at) {
            let size = leaf.entries.len() * size_of::<TreeEntry<K, H>>();
            cf::prefetch::bytes(leaf.entries.as_ptr().cast(), size.min(PREFETCH_SIZE_MAX));
        }
    }

    /// Adds the entries from `start` to those of key `high`, at most `max` of them, to `out`, in order. Returns whether there
    /// may be more.
    pub(crate) fn collect(
        &self,
        start: RangeStart<K>,
        high: K,
        max: usize,
        records: &impl RecordDigests<Handle = H>,
        out: &mut Vec<IndexEntry<K, H>>,
    ) -> bool {
        let is_before = |entry: &TreeEntry<K, H>| match start {
            RangeStart::From(key) => {
                let own = entry.key;
                own < key
            }
            RangeStart::Behind(key, digest) => entry.compare(key, &digest, records) != Ordering::Greater,
        };
        let at = self.leaves.partition_point(|leaf| is_before(&leaf.first)).saturating_sub(1);
        let Some(first) = self.leaves.get(at) else { return false };
        let mut place = first.entries.partition_point(is_before);
        let mut left = max;
        for leaf in &self.leaves[at..] {
            let rest = &leaf.entries[place..];
            place = 0;
            for (position, entry) in rest.iter().enumerate() {
                let TreeEntry { key, handle, stub } = *entry;
                if key > high {
                    return false;
                }
                if left == 0 {
                    return true;
                }
                if let Some(ahead) = rest.get(position + PREFETCH_DISTANCE) {
                    records.prefetch(ahead.handle);
                }
                let digest = records.digest(handle);
                // A stale entry leads to another record.
                if Stub::of(&digest) == stub {
                    left -= 1;
                    out.push(IndexEntry { key, digest, handle });
                }
            }
        }
        false
    }

    /// Adds the digests of the records before that of `bound`, or of all, to `out`, the greatest first, at most `max`
    /// of them. All entries have the same key, as in the index of a set. Returns whether there may be more.
    pub(crate) fn collect_falling(
        &self,
        (key, bound): (K, Option<&Digest>),
        max: usize,
        records: &impl RecordDigests<Handle = H>,
        out: &mut Vec<Digest>,
    ) -> bool {
        let is_before = |entry: &TreeEntry<K, H>| {
            bound.is_none_or(|digest| entry.compare(key, digest, records) == Ordering::Less)
        };
        let leaf_count = self.leaves.partition_point(|leaf| is_before(&leaf.first));
        let mut left = max;
        for (at, leaf) in self.leaves[..leaf_count].iter().enumerate().rev() {
            // Only the last of these leaves may have entries at or after the bound.
            let count = if at + 1 == leaf_count {
                leaf.entries.partition_point(is_before)
            } else {
                leaf.entries.len()
            };
            for (position, entry) in leaf.entries[..count].iter().enumerate().rev() {
                if left == 0 {
                    return true;
                }
                left -= 1;
                if let Some(ahead) = position.checked_sub(PREFETCH_DISTANCE) {
                    records.prefetch(leaf.entries[ahead].handle);
                }
                out.push(records.digest(entry.handle));
            }
        }
        false
    }

    /// Calls `visit` with the key and handle of each entry, in order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(K, H)) {
        self.for_each_entry(|TreeEntry { key, handle, .. }| visit(key, handle));
    }

    fn for_each_entry(&self, mut visit: impl FnMut(TreeEntry<K, H>)) {
        self.leaves.iter().flat_map(|leaf| &leaf.entries).for_each(|entry| visit(*entry));
    }
}

impl<K: Copy, H: Copy> Leaf<K, H> {
    fn first_key(&self) -> K {
        self.first.key
    }

    fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<TreeEntry<K, H>>()
    }

    /// Inserts an entry; returns by how many bytes the memory grew.
    fn insert(&mut self, place: usize, entry: TreeEntry<K, H>) -> isize {
        let before = self.memory();
        let len = self.entries.len();
        if len == self.entries.capacity() {
            self.entries.reserve_exact((len / 8).max(8).min(LEAF_SIZE_MAX.saturating_sub(len)).max(1));
        }
        self.entries.insert(place, entry);
        if place == 0 {
            self.first = entry;
        }
        self.memory() as isize - before as isize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datamodel::sindex::{Key, KeyType};
    use proptest::prelude::*;

    use super::*;

    /// Digests by number. Many share the bits that entries keep.
    struct Numbers;

    impl RecordDigests for Numbers {
        type Handle = u32;

        fn digest(&self, handle: u32) -> Digest {
            let mut digest = Digest([7; 20]);
            digest.0[1] = (handle as u8 & 3) << 4;
            digest.0[2] = handle as u8 >> 2 & 1;
            digest.0[3] = handle as u8 >> 3 & 0x0F;
            digest.0[16..].copy_from_slice(&handle.wrapping_mul(0x9E37_79B1).to_be_bytes());
            digest
        }
    }

    fn key(key: i64) -> Key {
        Key::from_bval(key, KeyType::Numeric)
    }

    type Model = BTreeSet<(Key, Digest)>;

    #[test]
    fn a_tree_of_loose_entries_is_like_one_that_they_were_inserted_in() {
        for count in [0u32, 1, 223, 224, 225, 448, 449, 5_000] {
            let (mut loose, mut sorted, mut model) = (LooseEntries::new(), Vec::new(), Model::new());
            // Many entries have the same key, and the same bits of their digests.
            for n in 0..count {
                let handle = n.wrapping_mul(7_919) % count.max(1);
                let (key, digest) = (key(i64::from(handle % 3) - 1), Numbers.digest(handle));
                if model.insert((key, digest)) {
                    loose.push(key, &digest, handle);
                    sorted.push(IndexEntry { key, digest, handle });
                }
            }
            let mut tree = EntryTree::build(loose, &Numbers);
            check(&tree, &model);
            sorted.sort_unstable_by_key(|entry| (entry.key, entry.digest));
            let (early, late) = sorted.split_at(sorted.len() / 3);
            let mut joined = EntryTree::of_sorted(late);
            joined.insert_all_of(&EntryTree::of_sorted(early), &Numbers);
            joined.insert_all_of(&EntryTree::of_sorted(late), &Numbers);
            check(&joined, &model);
            check(&EntryTree::of_sorted(&sorted), &model);
            // It takes further entries and gives up others, and its memory stays known.
            let mut memory = tree.memory() as isize;
            for handle in count..count + 600 {
                let (key, digest) = (key(1), Numbers.digest(handle));
                let (is_new, grown) = tree.insert(key, &digest, handle, &Numbers);
                assert_eq!(is_new, model.insert((key, digest)));
                memory += grown;
            }
            for (key, digest) in model.iter().copied().step_by(2).collect::<Vec<_>>() {
                let (was_there, grown) = tree.remove(key, &digest, &Numbers);
                assert!(was_there && model.remove(&(key, digest)));
                memory += grown;
            }
            assert_eq!(tree.memory() as isize, memory);
            check(&tree, &model);
        }
    }

    fn collected(
        tree: &EntryTree<Key, u32>,
        start: RangeStart<Key>,
        high: Key,
        portion: usize,
    ) -> Vec<(Key, Digest)> {
        let (mut found, mut start) = (Vec::new(), start);
        loop {
            let mut part = Vec::new();
            let has_more = tree.collect(start, high, portion, &Numbers, &mut part);
            assert!(part.len() <= portion && (!has_more || part.len() == portion));
            found.extend(part.iter().map(|found| (found.key, found.digest)));
            match part.last() {
                Some(last) if has_more => start = RangeStart::Behind(last.key, last.digest),
                _ => return found,
            }
        }
    }

    fn check(tree: &EntryTree<Key, u32>, model: &Model) {
        assert_eq!(tree.len(), model.len());
        assert!(tree.leaves.iter().all(|leaf| (1..=LEAF_SIZE_MAX).contains(&leaf.entries.len())));
        let all: Vec<(Key, Digest)> = model.iter().copied().collect();
        assert_eq!(collected(tree, RangeStart::From(key(i64::MIN)), key(i64::MAX), 1000), all);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn agrees_with_a_set(
            steps in prop::collection::vec((0u8..12, -6i64..6, 0u32..3_000), 1..4_000),
            low in -7i64..7, width in 0i64..14, behind in 0u32..3_000, portion in 1usize..700,
        ) {
            let (mut tree, mut model, mut memory) = (EntryTree::new(), Model::new(), 0isize);
            for (what, at, handle) in steps {
                let (at, digest) = (key(at), Numbers.digest(handle));
                match what {
                    0..8 => {
                        let (is_new, grown) = tree.insert(at, &digest, handle, &Numbers);
                        prop_assert_eq!(is_new, model.insert((at, digest)));
                        memory += grown;
                    }
                    8..11 => {
                        let (was_there, grown) = tree.remove(at, &digest, &Numbers);
                        prop_assert_eq!(was_there, model.remove(&(at, digest)));
                        memory += grown;
                    }
                    _ => {
                        let (count, grown) = tree.remove_all_of(handle);
                        let before = model.len();
                        model.retain(|(_, other)| *other != digest);
                        prop_assert_eq!(count, before - model.len());
                        memory += grown;
                    }
                }
                prop_assert_eq!(tree.memory() as isize, memory);
            }
            check(&tree, &model);
            let (low, high) = (key(low), key(low + width));
            let expected: Vec<_> = model.range((low, Digest([0; 20]))..=(high, Digest([255; 20]))).copied().collect();
            prop_assert_eq!(collected(&tree, RangeStart::From(low), high, portion), expected);
            let digest = Numbers.digest(behind);
            let expected: Vec<_> =
                model.range((low, digest)..=(high, Digest([255; 20]))).copied().filter(|at| *at != (low, digest)).collect();
            prop_assert_eq!(collected(&tree, RangeStart::Behind(low, digest), high, portion), expected);
        }
    }

    #[test]
    fn takes_little_memory_and_shrinks_again() {
        for ascending in [true, false] {
            let mut tree = EntryTree::new();
            let mut memory = 0;
            let key_of =
                |n: u32| key(if ascending { i64::from(n) } else { i64::from(n.wrapping_mul(0x9E37_79B1)) });
            for n in 0..20_000 {
                memory += tree.insert(key_of(n), &Numbers.digest(n), n, &Numbers).1;
            }
            assert_eq!((tree.memory() as isize, size_of::<TreeEntry<Key, u32>>()), (memory, 14));
            let bytes_per_entry = tree.memory() as f64 / 20_000.0;
            assert!(bytes_per_entry < 21.0, "{bytes_per_entry} bytes an entry");
            for n in 0..20_000 {
                if n % 50 != 0 {
                    memory += tree.remove(key_of(n), &Numbers.digest(n), &Numbers).1;
                }
            }
            assert_eq!((tree.len(), tree.memory() as isize), (400, memory));
            assert!(tree.memory() < 40_000, "{} bytes", tree.memory());
            for n in 0..20_000 {
                memory += tree.remove(key_of(n), &Numbers.digest(n), &Numbers).1;
            }
            assert_eq!((tree.len(), tree.leaves.len(), tree.memory() as isize), (0, 0, memory));
            // The memory of a tree whose only entry comes and goes is counted correctly.
            for n in 0..100 {
                memory += tree.insert(key_of(n), &Numbers.digest(n), n, &Numbers).1;
                assert_eq!(tree.memory() as isize, memory);
                memory += tree.remove(key_of(n), &Numbers.digest(n), &Numbers).1;
                assert_eq!(tree.memory() as isize, memory);
            }
        }
    }

    #[test]
    fn walks_fall_from_the_greatest_digest_in_portions() {
        let (mut tree, mut model) = (EntryTree::new(), BTreeSet::new());
        for number in 0..3_000u32 {
            tree.insert((), &Numbers.digest(number), number, &Numbers);
            model.insert(Numbers.digest(number));
        }
        assert_eq!(size_of::<TreeEntry<(), u32>>(), 6);
        assert!(tree.memory() < 3_000 * 10, "{} bytes", tree.memory());
        for number in (0..3_000).step_by(3) {
            tree.remove((), &Numbers.digest(number), &Numbers);
            model.remove(&Numbers.digest(number));
        }
        for portion in [1, 7, 500, 5_000] {
            let (mut found, mut bound) = (Vec::new(), None);
            loop {
                let mut part = Vec::new();
                let has_more = tree.collect_falling(((), bound.as_ref()), portion, &Numbers, &mut part);
                assert!(part.len() <= portion && (!has_more || part.len() == portion));
                bound = part.last().copied().or(bound);
                found.extend(part);
                if !has_more {
                    break;
                }
            }
            assert!(found.iter().eq(model.iter().rev()), "portions of {portion}");
        }
        // Before a record that does not exist.
        let mut part = Vec::new();
        let gone = Numbers.digest(300);
        tree.collect_falling(((), Some(&gone)), 9, &Numbers, &mut part);
        assert!(part.iter().eq(model.range(..gone).rev().take(9)));
    }
}
