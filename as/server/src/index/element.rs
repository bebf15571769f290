//! One index element: 64 bytes, one cache line.
//!
//! The holder of the sprig's lock may read an element; the holder of the exclusive lock may change it. Threads that
//! have its handle from an index entry read its digest without that lock. So the digest consists of atomics, and no
//! `&mut` to it ever exists: elements are changed part by part, through pointers.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use cf::Digest;
use cf::arena::Handle;
use cf::zeroed::Zeroable;

/// Children of an element in its sprig's tree.
pub(super) const FANOUT: usize = 4;

/// Latest last-update-time that fits.
const LAST_UPDATE_TIME_MAX: u64 = (1 << 40) - 1;
/// Maximum number of versions of a record with one last-update-time. It is far below half of all generations,
/// so that the order of the versions is known.
const GENERATIONS_AT_ONE_TIME_MAX: u16 = 1 << 14;

/// Number of a set within its namespace; 0 = none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub(crate) struct SetId(pub(crate) u16);

impl SetId {
    /// The record is in no set.
    pub(crate) const NONE: SetId = SetId(0);
}

/// Where a record is stored, how large it is, and whether its key is stored with it.
///
/// Bits: 0-36 first 16-byte block, 37-55 number of blocks less 1, 56-62 device, 63 key stored. Block 0 belongs to the
/// device header, so all zeros mean "not stored".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Location(u64);

impl Location {
    const RBLOCK_BITS: u32 = 37;
    const SIZE_BITS: u32 = 19;
    const DEVICE_SHIFT: u32 = Self::RBLOCK_BITS + Self::SIZE_BITS;
    const KEY_STORED: u64 = 1 << 63;

    /// A record of `rblock_count` 16-byte blocks from block `rblock` of device `device`.
    #[inline]
    pub(crate) fn new(device: u8, rblock: u64, rblock_count: u32) -> Self {
        debug_assert!(rblock < 1 << Self::RBLOCK_BITS && device < 128);
        debug_assert!(rblock_count > 0 && rblock_count <= 1 << Self::SIZE_BITS);
        Location(
            rblock
                | u64::from(rblock_count - 1) << Self::RBLOCK_BITS
                | u64::from(device) << Self::DEVICE_SHIFT,
        )
    }

    #[inline]
    pub(crate) fn is_stored(self) -> bool {
        self.rblock() != 0
    }

    /// First 16-byte block on the device.
    #[inline]
    pub(crate) fn rblock(self) -> u64 {
        self.0 & ((1 << Self::RBLOCK_BITS) - 1)
    }

    /// Number of 16-byte blocks.
    #[inline]
    pub(crate) fn rblock_count(self) -> u32 {
        (self.0 >> Self::RBLOCK_BITS) as u32 % (1 << Self::SIZE_BITS) + 1
    }

    #[inline]
    pub(crate) fn device(self) -> u8 {
        (self.0 >> Self::DEVICE_SHIFT) as u8 & 0x7F
    }

    #[inline]
    pub(crate) fn key_stored(self) -> bool {
        self.0 & Self::KEY_STORED != 0
    }

    #[inline]
    pub(crate) fn with_key_stored(self, stored: bool) -> Self {
        Location(self.0 & !Self::KEY_STORED | if stored { Self::KEY_STORED } else { 0 })
    }

    /// Whether both locations are the same stored bytes.
    #[inline]
    pub(crate) fn same_place(self, other: Location) -> bool {
        (self.0 ^ other.0) & !Self::KEY_STORED == 0
    }
}

/// Metadata of a record in the index. Generation 0 means "no record".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(crate) struct RecordMeta {
    pub(crate) location: Location,
    /// Seconds since 2010-01-01 at which the record expires; 0 = never.
    pub(crate) void_time: u32,
    last_update_low: u32,
    last_update_high: u8,
    flags: u8,
    pub(crate) generation: u16,
    pub(crate) set_id: SetId,
    unused: [u8; 2],
}

/// A node of a sprig's tree: the digest of a record, its place in the tree, and its metadata.
///
/// It is not `Copy`, because digest and children belong to the tree. The holder of a guard can change only the
/// record's metadata.
#[repr(C, align(64))]
pub(crate) struct Element {
    digest: SharedDigest,
    pub(super) children: [Handle; FANOUT],
    pub(super) meta: RecordMeta,
}

const _: () = assert!(size_of::<Element>() == 64 && size_of::<RecordMeta>() == 24);

/// The bytes of a digest, which other threads may read while they are replaced.
#[repr(C)]
struct SharedDigest {
    head: [AtomicU64; 2],
    tail: AtomicU32,
}

/// The digest as integers that have its bytes in memory.
#[inline]
fn words_of(digest: &Digest) -> ([u64; 2], u32) {
    let ([first, second], []) = digest.0[..16].as_chunks() else { unreachable!("16 bytes are two words") };
    let ([tail], []) = digest.0[16..].as_chunks() else { unreachable!("4 bytes are one word") };
    let head = [first, second].map(|bytes| u64::from_le_bytes(*bytes).to_le());
    (head, u32::from_le_bytes(*tail).to_le())
}

impl SharedDigest {
    #[inline]
    fn load(&self) -> Digest {
        let mut digest = Digest([0; 20]);
        digest.0[..8].copy_from_slice(&u64::from_le(self.head[0].load(Relaxed)).to_le_bytes());
        digest.0[8..16].copy_from_slice(&u64::from_le(self.head[1].load(Relaxed)).to_le_bytes());
        digest.0[16..].copy_from_slice(&u32::from_le(self.tail.load(Relaxed)).to_le_bytes());
        digest
    }

    fn store(&self, digest: &Digest) {
        let (head, tail) = words_of(digest);
        self.head[0].store(head[0], Relaxed);
        self.head[1].store(head[1], Relaxed);
        self.tail.store(tail, Relaxed);
    }
}

#[expect(unsafe_code, reason = "elements come zeroed from the arena")]
// SAFETY: integers only.
unsafe impl Zeroable for Element {}

/// Bits of the flags of a record's metadata.
mod flag {
    /// The record was deleted durably; its stored form is a tombstone.
    pub(super) const TOMBSTONE: u8 = 1;
    /// A tombstone for which the tomb raider's current search has found no older copy on disk.
    pub(super) const UNNEEDED: u8 = 2;
    /// The record leaves a tombstone when it is removed.
    pub(super) const LEAVES_TOMBSTONE: u8 = 4;
    /// A secondary index may have entries of the record.
    pub(super) const IN_SINDEX: u8 = 8;
}

impl Element {
    /// Makes the memory at `element` the element of `digest`, without a record.
    ///
    /// # Safety
    /// `element` points to an element of an arena, free or not. Only the caller may change it, and no reference to it
    /// exists.
    #[expect(unsafe_code, reason = "its digest may be looked at meanwhile")]
    pub(super) unsafe fn begin(element: NonNull<Element>, digest: &Digest) {
        let element = element.as_ptr();
        // SAFETY: `element` points to an element, and no other thread writes to it (caller). The digest, which other
        // threads may read, is borrowed shared and consists of atomics; no other thread reads the rest.
        unsafe {
            (&raw const (*element).digest).as_ref_unchecked().store(digest);
            (&raw mut (*element).children).write([Handle::NULL; FANOUT]);
            (&raw mut (*element).meta).write(RecordMeta::default());
        }
    }

    /// The present digest at `element`: that of its record, or an arbitrary one if the element is free or is just
    /// being made that of another record.
    ///
    /// # Safety
    /// `element` points to an element of an arena, free or not.
    #[inline]
    #[expect(unsafe_code, reason = "only the digest is looked at, as others may change the rest")]
    pub(super) unsafe fn digest_at(element: NonNull<Element>) -> Digest {
        // SAFETY: `element` points to an element (caller), or to zeros. Only its digest is borrowed, shared; it
        // consists of atomics.
        unsafe { (&raw const (*element.as_ptr()).digest).as_ref_unchecked() }.load()
    }

    /// The digest of the element's record; it never changes.
    #[inline]
    #[expect(unsafe_code, reason = "a digest that nobody changes is borrowed as such")]
    pub(crate) fn digest(&self) -> &Digest {
        // SAFETY: the words have the bytes of the digest in memory. They are written only by `begin`, while no
        // reference to the element exists; `self` is such a reference.
        unsafe { &*(&raw const self.digest).cast::<Digest>() }
    }

    /// Whether it is the element of `digest`.
    #[inline]
    pub(super) fn is_of(&self, digest: &Digest) -> bool {
        let (head, tail) = words_of(digest);
        self.digest.head[0].load(Relaxed) == head[0]
            && self.digest.head[1].load(Relaxed) == head[1]
            && self.digest.tail.load(Relaxed) == tail
    }
}

impl Deref for Element {
    type Target = RecordMeta;

    #[inline]
    fn deref(&self) -> &RecordMeta {
        &self.meta
    }
}

impl RecordMeta {
    /// The metadata of a record in set `set_id` that has no version yet.
    pub(crate) fn new(set_id: SetId) -> Self {
        RecordMeta { set_id, ..RecordMeta::default() }
    }

    /// Whether there is a record or tombstone.
    #[inline]
    pub(crate) fn exists(&self) -> bool {
        self.generation != 0
    }

    /// Milliseconds since 2010-01-01 of the last change.
    #[inline]
    pub(crate) fn last_update_time(&self) -> u64 {
        u64::from(self.last_update_low) | u64::from(self.last_update_high) << 32
    }

    #[inline]
    pub(crate) fn set_last_update_time(&mut self, millis: u64) {
        self.last_update_low = millis as u32;
        self.last_update_high = (millis >> 32) as u8;
    }

    /// The generation after this one; it skips 0, which means "none".
    #[inline]
    pub(crate) fn next_generation(&self) -> u16 {
        self.generation.wrapping_add(1).max(1)
    }

    /// The last-update-time of the next version, made at `now`. It never goes back, even if the clock was set back. Of
    /// two copies with the same time the later generation wins, compared modulo 2¹⁶; so the time advances by a
    /// millisecond before half of the generations have been used at one time.
    #[inline]
    pub(crate) fn next_update_time(&self, now: u64) -> u64 {
        let present = self.last_update_time();
        let stands_still = self.exists() && now <= present;
        let next = self.next_generation();
        let is_round = next == 1 || next.is_multiple_of(GENERATIONS_AT_ONE_TIME_MAX);
        let step = u64::from(stands_still && is_round);
        now.max((present + step).min(LAST_UPDATE_TIME_MAX))
    }

    /// Whether the record was deleted durably: it does not exist, but older copies on disk must not come back.
    #[inline]
    pub(crate) fn is_tombstone(&self) -> bool {
        self.flags & flag::TOMBSTONE != 0
    }

    /// Whether a tombstone must take the record's place however it is removed: it was created over a tombstone, and
    /// older copies may still be on disk.
    #[inline]
    pub(crate) fn leaves_tombstone(&self) -> bool {
        self.flags & flag::LEAVES_TOMBSTONE != 0
    }

    #[inline]
    pub(crate) fn set_leaves_tombstone(&mut self, leaves_tombstone: bool) {
        let rest = self.flags & !flag::LEAVES_TOMBSTONE;
        self.flags = rest | if leaves_tombstone { flag::LEAVES_TOMBSTONE } else { 0 };
    }

    /// Whether a secondary index may have entries of the record. If not, writers need not read the old record.
    #[inline]
    pub(crate) fn is_in_sindex(&self) -> bool {
        self.flags & flag::IN_SINDEX != 0
    }

    #[inline]
    pub(crate) fn set_in_sindex(&mut self, in_sindex: bool) {
        let rest = self.flags & !flag::IN_SINDEX;
        self.flags = rest | if in_sindex { flag::IN_SINDEX } else { 0 };
    }

    /// Whether both are the same version of the record. It may have been moved.
    pub(crate) fn is_version_of(&self, other: &RecordMeta) -> bool {
        self.generation == other.generation
            && self.last_update_time() == other.last_update_time()
            && self.set_id == other.set_id
            && self.is_tombstone() == other.is_tombstone()
    }

    /// Makes this a tombstone that counts as needed, or a record.
    #[inline]
    pub(crate) fn set_tombstone(&mut self, is_tombstone: bool) {
        self.flags = if is_tombstone { flag::TOMBSTONE } else { 0 };
    }

    /// Whether this is a tombstone that no copy on disk is known to need.
    pub(crate) fn is_unneeded(&self) -> bool {
        self.flags & flag::UNNEEDED != 0
    }

    /// Notes whether a tombstone may be needed against an older copy on disk.
    pub(crate) fn set_unneeded(&mut self, is_unneeded: bool) {
        self.flags = flag::TOMBSTONE | if is_unneeded { flag::UNNEEDED } else { 0 };
    }

    /// Whether the record has expired at `now_seconds` (since 2010-01-01).
    #[inline]
    pub(crate) fn is_expired(&self, now_seconds: u32) -> bool {
        self.void_time != 0 && self.void_time < now_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn location_keeps_its_parts_apart() {
        let max = Location::new(127, (1 << 37) - 1, 1 << 19);
        assert_eq!((max.device(), max.rblock(), max.rblock_count()), (127, (1 << 37) - 1, 1 << 19));
        assert!(!max.key_stored() && max.with_key_stored(true).key_stored());
        assert!(max.same_place(max.with_key_stored(true)));
        let small = Location::new(0, 1, 1);
        assert_eq!((small.device(), small.rblock(), small.rblock_count()), (0, 1, 1));
        assert!(small.is_stored() && !Location::default().is_stored());
        assert!(!small.same_place(max));
    }

    #[test]
    fn a_time_that_stands_still_advances_before_generations_come_round() {
        let mut meta = RecordMeta::new(SetId::NONE);
        meta.set_last_update_time(5_000);
        assert_eq!((meta.next_update_time(4_000), meta.next_update_time(6_000)), (5_000, 6_000));
        // (last-update-time, generation) of all versions made while the clock is behind.
        let mut versions = Vec::new();
        for _ in 0..200_000 {
            let time = meta.next_update_time(4_000);
            meta.generation = meta.next_generation();
            meta.set_last_update_time(time);
            versions.push((time, meta.generation));
        }
        let at_one_time = versions.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len).max();
        assert!(at_one_time <= Some(usize::from(GENERATIONS_AT_ONE_TIME_MAX)), "{at_one_time:?}");
        assert!(versions.is_sorted_by_key(|(time, _)| time) && meta.last_update_time() < 5_020);
    }

    #[test]
    fn forty_bits_of_last_update_time() {
        let mut meta = RecordMeta::default();
        meta.set_last_update_time(0xFF_1234_5678);
        assert_eq!(meta.last_update_time(), 0xFF_1234_5678);
    }

    #[test]
    #[expect(unsafe_code, reason = "a test of what is unsafe")]
    fn a_digest_is_read_while_its_element_is_recreated_and_changed() {
        const ROUNDS: u8 = if cfg!(miri) { 20 } else { 255 };
        let arena = cf::arena::Arena::<Element>::new(1 << 20);
        let handle = arena.allocate(0).expect("room");
        // SAFETY: the arena gave the handle just now. One thread changes the element, the other one looks at its digest.
        cf::sync::scope(|scope| unsafe {
            let element = || arena.resolve(handle);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    Element::begin(element(), &Digest([round; 20]));
                    assert!(element().as_ref().is_of(&Digest([round; 20])));
                    assert_eq!(*element().as_ref().digest(), Digest([round; 20]));
                    (*element().as_ptr()).meta.generation = u16::from(round);
                }
            });
            let mut newest = 0;
            while newest != ROUNDS {
                let seen = Element::digest_at(element()).0;
                // Each word is one that was written.
                for word in [&seen[..8], &seen[8..16], &seen[16..]] {
                    assert!(word.iter().all(|byte| *byte == word[0]));
                }
                newest = seen[0];
                std::thread::yield_now();
            }
        });
    }
}
