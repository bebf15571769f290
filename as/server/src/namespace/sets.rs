//! The sets of a namespace: numbered 1 to 4095 in order of creation, never removed while the server runs.
//!
//! # Locking
//! A lookup by number or name takes no lock: names are found through an open-addressing table of set numbers that only
//! grows. Creating a set takes the `create` mutex.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::*};
use std::sync::{Arc, OnceLock};

use datamodel::flat::SET_NAME_SIZE_MAX;
use parking_lot::Mutex;

use super::set_index::SetIndex;
use super::thresholds::Threshold;
use crate::config::model::SetDirectory;
use crate::config::params::namespace::SetParams;
use crate::index::SetId;

/// Maximum number of sets in a namespace.
const SET_COUNT_MAX: usize = 4095;
/// Slots of the name table; twice the sets, so that searches stay short.
const NAME_SLOTS: usize = 8192;

/// How the figures of a set change.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct SetChange {
    pub(super) objects: i64,
    pub(super) tombstones: i64,
    pub(super) data_used_bytes: i64,
}

impl SetChange {
    #[inline]
    pub(super) fn add(&mut self, other: SetChange) {
        self.objects += other.objects;
        self.tombstones += other.tombstones;
        self.data_used_bytes += other.data_used_bytes;
    }
}

/// Makes the next field begin on a new cache line; 128 bytes, as processors load lines in pairs.
#[repr(align(128))]
struct NewLine;

/// One set. Fields read by every access do not share a cache line with those that writes change.
#[repr(C)]
pub(crate) struct Set {
    pub(crate) id: SetId,
    /// 1 to 63 bytes as the client sent them.
    pub(crate) name: Box<[u8]>,
    pub(crate) params: Arc<SetParams>,
    pub(crate) truncation: Threshold,
    /// Number of secondary indexes of this set alone.
    pub(crate) sindexes: AtomicU64,
    /// Made when first enabled.
    pub(super) index: OnceLock<Box<SetIndex>>,
    new_line: [NewLine; 0],
    pub(crate) objects: AtomicU64,
    pub(crate) tombstones: AtomicU64,
    pub(crate) data_used_bytes: AtomicU64,
}

const _: () = assert!(std::mem::offset_of!(Set, objects).is_multiple_of(align_of::<NewLine>()));

impl Set {
    /// Whether `stop-writes-count` forbids another record.
    pub(crate) fn is_at_count_limit(&self) -> bool {
        let limit = self.params.stop_writes_count.get();
        limit != 0 && self.objects.load(Relaxed) >= limit
    }

    /// Whether `stop-writes-size` forbids writes.
    pub(crate) fn is_at_size_limit(&self) -> bool {
        let limit = self.params.stop_writes_size.get();
        limit != 0 && self.data_used_bytes.load(Relaxed) >= limit
    }

    /// Changes the figures.
    #[inline]
    pub(super) fn change(&self, change: SetChange) {
        let SetChange { objects, tombstones, data_used_bytes } = change;
        for (figure, change) in [
            (&self.objects, objects),
            (&self.tombstones, tombstones),
            (&self.data_used_bytes, data_used_bytes),
        ] {
            if change != 0 {
                // Wrapping: the change may be negative.
                figure.fetch_add(change.cast_unsigned(), Relaxed);
            }
        }
    }

    /// Whether its index is still being filled.
    pub(crate) fn is_index_populating(&self) -> bool {
        self.index.get().is_some_and(|index| index.is_populating())
    }

    /// The name as text for logs and info answers.
    pub(crate) fn display_name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }
}

/// The reason why a set cannot be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SetCreationError {
    NameTooLong,
    TooManySets,
}

/// All sets of a namespace.
pub(crate) struct Sets {
    by_id: Box<[OnceLock<Box<Set>>]>,
    /// Set numbers at the slots of their names' hashes, or in the next free slots; 0 = free.
    by_name: Box<[AtomicU16]>,
    create: Mutex<u16>,
}

impl Sets {
    pub(crate) fn new() -> Self {
        Sets {
            by_id: (0..=SET_COUNT_MAX).map(|_| OnceLock::new()).collect(),
            by_name: (0..NAME_SLOTS).map(|_| AtomicU16::new(0)).collect(),
            create: Mutex::new(0),
        }
    }

    /// Set number `id`; `None` for records in no set.
    #[inline]
    pub(crate) fn get(&self, id: SetId) -> Option<&Set> {
        self.by_id.get(usize::from(id.0))?.get().map(|set| &**set)
    }

    /// The set called `name`.
    #[inline]
    pub(crate) fn find(&self, name: &[u8]) -> Option<&Set> {
        self.search(name).ok()
    }

    /// The set called `name`, or the slot for its number.
    #[inline]
    fn search(&self, name: &[u8]) -> Result<&Set, usize> {
        let mut slot = cf::wyhash::hash64(name) as usize % NAME_SLOTS;
        loop {
            let id = self.by_name[slot].load(Acquire);
            if id == 0 {
                return Err(slot);
            }
            match self.get(SetId(id)) {
                Some(set) if *set.name == *name => return Ok(set),
                _ => slot = (slot + 1) % NAME_SLOTS,
            }
        }
    }

    /// The set called `name`, created if it does not exist. Its parameters come from `directory`.
    ///
    /// # Errors
    /// When the name is longer than 63 bytes or there are 4095 sets.
    pub(crate) fn find_or_create(
        &self,
        name: &[u8],
        directory: &SetDirectory,
    ) -> Result<&Set, SetCreationError> {
        if let Ok(set) = self.search(name) {
            return Ok(set);
        }
        if name.len() > SET_NAME_SIZE_MAX {
            return Err(SetCreationError::NameTooLong);
        }
        let mut count = self.create.lock();
        let slot = match self.search(name) {
            Ok(set) => return Ok(set),
            Err(slot) => slot,
        };
        if usize::from(*count) >= SET_COUNT_MAX {
            return Err(SetCreationError::TooManySets);
        }
        let id = *count + 1;
        // The configuration knows only names that are text; sets with other names have parameters of their own.
        let params = std::str::from_utf8(name)
            .ok()
            .and_then(|name| directory.get_or_create(name).ok())
            .unwrap_or_default();
        let set = self.by_id[usize::from(id)].get_or_init(|| {
            Box::new(Set {
                id: SetId(id),
                name: name.into(),
                params,
                truncation: Threshold::default(),
                sindexes: AtomicU64::new(0),
                index: OnceLock::new(),
                new_line: [],
                objects: AtomicU64::new(0),
                tombstones: AtomicU64::new(0),
                data_used_bytes: AtomicU64::new(0),
            })
        });
        *count = id;
        self.by_name[slot].store(id, Release);
        Ok(set)
    }

    /// All sets, in order of creation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Set> {
        self.by_id.iter().skip(1).map_while(|slot| slot.get().map(|set| &**set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_numbered_and_found_again() {
        let (sets, directory) = (Sets::new(), SetDirectory::default());
        for n in 0..SET_COUNT_MAX {
            let name = format!("set-{n}");
            assert!(sets.find(name.as_bytes()).is_none());
            let set = sets.find_or_create(name.as_bytes(), &directory).unwrap_or_else(|e| panic!("{e:?}"));
            assert_eq!(set.id, SetId(n as u16 + 1));
        }
        for n in 0..SET_COUNT_MAX {
            let name = format!("set-{n}");
            assert_eq!(sets.find(name.as_bytes()).map(|set| set.id), Some(SetId(n as u16 + 1)));
        }
        assert_eq!(sets.iter().count(), SET_COUNT_MAX);
        assert_eq!(sets.find_or_create(b"one more", &directory).err(), Some(SetCreationError::TooManySets));
        assert_eq!(sets.find_or_create(&[b'x'; 64], &directory).err(), Some(SetCreationError::NameTooLong));
        assert!(sets.get(SetId::NONE).is_none());
    }

    #[test]
    fn parameters_are_shared_with_the_configuration() {
        let (sets, directory) = (Sets::new(), SetDirectory::default());
        directory.get_or_create("demo").expect("room").stop_writes_count.set(1);
        let set = sets.find_or_create(b"demo", &directory).unwrap_or_else(|e| panic!("{e:?}"));
        assert!(!set.is_at_count_limit());
        set.objects.store(1, Relaxed);
        assert!(set.is_at_count_limit());
    }

    #[test]
    fn threads_create_a_set_once() {
        let (sets, directory) = (Sets::new(), SetDirectory::default());
        cf::sync::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..200 {
                        let name = format!("{n}");
                        assert!(sets.find_or_create(name.as_bytes(), &directory).is_ok());
                    }
                });
            }
        });
        assert_eq!(sets.iter().count(), 200);
    }
}
