//! The record that a function works on: its state before and after the call.
//!
//! The function works on a copy. A save changes the copy's list of bins; nothing is stored before the function has
//! ended.

use std::borrow::Cow;

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::flat::FlatRecord;
use datamodel::{Bin, Bins, Particle};
use proto::ResultCode;

/// Maximum number of bins of a record that a function can work with.
pub(crate) const BINS_MAX: usize = 512;

/// Maximum number of bytes of the values that a function sets in a record. No record is larger, so an excess
/// is refused at once and not only when the function ends.
const MADE_SIZE_MAX: usize = 8 << 20;

/// A record before a function runs.
#[derive(Debug)]
pub(crate) struct RecordInput {
    pub(crate) digest: Digest,
    pub(crate) now: StoredMillis,
    /// The live record, if there is one.
    pub(crate) found: Option<FoundRecord>,
    /// The set in which a record would be created; empty for none.
    pub(crate) created_set: Vec<u8>,
    /// The key in the request, type byte and bytes.
    pub(crate) sent_key: Option<Vec<u8>>,
    /// Whether the request has a set or key that no record can have.
    pub(crate) is_uncreatable: bool,
    /// The reason why no save is possible at all.
    pub(crate) save_refusal: Option<ResultCode>,
    /// Whether the namespace keeps records in memory.
    pub(crate) is_in_memory: bool,
    /// Whether the namespace keeps records on devices or files.
    pub(crate) is_on_device: bool,
    /// Whether the record belongs to a stream and cannot be changed.
    pub(crate) is_read_only: bool,
}

/// A record that exists.
#[derive(Debug)]
pub(crate) struct FoundRecord {
    /// Its flat form.
    pub(crate) flat: Vec<u8>,
    pub(crate) generation: u16,
    pub(crate) void_time: u32,
    pub(crate) last_update_time: u64,
    pub(crate) stored_size: u64,
    pub(crate) set_name: Vec<u8>,
}

/// The place of a bin's value.
#[derive(Clone, Debug)]
enum BinValue {
    /// In the flat record, under the same name.
    Stored,
    Made(Particle<'static>),
}

type BinList = Vec<(Box<[u8]>, BinValue)>;

/// A record during and after a function's call.
#[derive(Debug)]
pub(crate) struct RecordState {
    pub(super) input: RecordInput,
    /// Whether the record exists or was created.
    is_open: bool,
    /// Whether the last `create` opened it.
    is_just_created: bool,
    /// The bins as saved last. `None` before the first save: then they are those of the flat record.
    bins: Option<BinList>,
    /// The bins when the first save began.
    old: Option<BinList>,
    /// Whether there are changes to store.
    has_updates: bool,
    /// The result of the last save.
    result: ResultCode,
    /// Time to live set by the function.
    ttl: Option<u32>,
    is_key_dropped: bool,
}

impl RecordState {
    pub(crate) fn new(input: RecordInput) -> Self {
        RecordState {
            is_open: input.found.is_some(),
            is_just_created: false,
            input,
            bins: None,
            old: None,
            has_updates: false,
            result: ResultCode::Ok,
            ttl: None,
            is_key_dropped: false,
        }
    }

    /// The flat form of the record before the call; empty if there was none.
    pub(crate) fn into_flat(self) -> Vec<u8> {
        self.input.found.map_or_else(Vec::new, |found| found.flat)
    }

    /// The result of the last save.
    pub(crate) fn result(&self) -> ResultCode {
        self.result
    }

    /// Whether there are changes to store.
    pub(crate) fn has_updates(&self) -> bool {
        self.has_updates
    }

    /// Number of bins before the first save.
    pub(crate) fn old_bin_count(&self) -> usize {
        self.old.as_ref().map_or(0, Vec::len)
    }

    /// Time to live set by the function.
    pub(crate) fn ttl(&self) -> Option<u32> {
        self.ttl
    }

    /// The key to store with the record.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        if self.is_key_dropped {
            return None;
        }
        let stored = self.flat().and_then(|flat| flat.key);
        stored.or(self.input.sent_key.as_deref())
    }

    /// The bins to store.
    pub(crate) fn bins_to_store(&self) -> Bins<'_> {
        let mut bins = Bins::new();
        let flat = self.flat();
        for (name, value) in self.bins.iter().flatten() {
            let particle = match value {
                BinValue::Made(particle) => particle.borrowed(),
                BinValue::Stored => match flat.and_then(|flat| flat.bin(name).ok().flatten()) {
                    Some(particle) => particle,
                    None => continue,
                },
            };
            bins.push(Bin { name, particle });
        }
        bins
    }

    fn flat(&self) -> Option<FlatRecord<'_>> {
        FlatRecord::parse(&self.input.found.as_ref()?.flat).ok()
    }

    /// The flat record, if it has no more bins than a function can work with.
    fn loaded(&self) -> Option<FlatRecord<'_>> {
        self.flat().filter(|flat| flat.bin_count as usize <= BINS_MAX)
    }

    /// Whether the record can be changed: it is open, and its bins can be read.
    fn is_loaded(&self) -> bool {
        self.is_open && (self.input.found.is_none() || self.loaded().is_some())
    }

    /// Names of the bins as saved last; `None` if there is no record.
    pub(super) fn bin_names(&self) -> Option<Vec<Cow<'_, [u8]>>> {
        if !self.is_loaded() {
            return None;
        }
        Some(match &self.bins {
            Some(bins) => bins.iter().map(|(name, _)| Cow::Borrowed(&**name)).collect(),
            None => {
                let stored = self.loaded().into_iter().flat_map(|flat| flat.bins());
                stored.filter_map(Result::ok).map(|bin| Cow::Owned(bin.name.to_vec())).collect()
            }
        })
    }

    /// The value of a bin as saved last.
    pub(super) fn bin(&self, name: &[u8]) -> Option<Particle<'_>> {
        if !self.is_open {
            return None;
        }
        match &self.bins {
            None => self.loaded()?.bin(name).ok()?,
            Some(bins) => match &bins.iter().find(|(other, _)| **other == *name)?.1 {
                BinValue::Stored => self.loaded()?.bin(name).ok()?,
                BinValue::Made(particle) => Some(particle.borrowed()),
            },
        }
    }

    pub(super) fn metadata(&self) -> Option<Metadata<'_>> {
        if !self.is_open {
            return None;
        }
        let created = || Metadata {
            generation: 0,
            ttl: 0,
            last_update_time: 0,
            stored_size: u64::from(crate::storage::RBLOCK_SIZE),
            set_name: &self.input.created_set,
        };
        Some(self.input.found.as_ref().map_or_else(created, |found| Metadata {
            generation: found.generation,
            ttl: found.void_time.saturating_sub(self.input.now.seconds()),
            last_update_time: found.last_update_time,
            stored_size: found.stored_size,
            set_name: &found.set_name,
        }))
    }

    /// The key that the function sees: the stored one, or the one to be stored.
    pub(super) fn visible_key(&self) -> Option<&[u8]> {
        if self.is_loaded() { self.key() } else { None }
    }

    pub(super) fn set_ttl(&mut self, ttl: u32) {
        if !self.input.is_read_only {
            self.ttl = Some(ttl);
        }
    }

    pub(super) fn drop_key(&mut self) {
        if self.is_loaded() && !self.input.is_read_only {
            self.is_key_dropped = true;
        }
    }

    /// Begins `create`.
    ///
    /// # Errors
    /// The return value of `create` if it is not possible.
    pub(super) fn create(&mut self) -> Result<(), i64> {
        if self.input.is_read_only {
            return Err(1);
        }
        self.is_just_created = !self.is_open;
        if self.is_open {
            let is_empty = self.bin_names().is_some_and(|names| names.is_empty());
            return if is_empty { Ok(()) } else { Err(1) };
        }
        if self.input.is_uncreatable {
            return Err(4);
        }
        self.is_open = true;
        self.bins = Some(Vec::new());
        Ok(())
    }

    /// Undoes a creation after its save failed. A record that was open before stays open.
    pub(super) fn uncreate(&mut self) {
        if self.is_just_created {
            self.is_open = false;
            self.bins = None;
            self.old = None;
        }
    }

    /// Checks that `update` is possible; otherwise returns its return value.
    pub(super) fn update(&self) -> Result<(), i64> {
        if self.input.is_read_only {
            return Err(1);
        }
        if self.is_loaded() { Ok(()) } else { Err(-2) }
    }

    pub(super) fn exists(&self) -> bool {
        self.is_open || self.input.is_read_only
    }

    /// Begins a save.
    ///
    /// # Errors
    /// The result if nothing can be saved.
    pub(super) fn begin_save(&mut self) -> Result<(), ResultCode> {
        if !self.has_updates {
            if self.bins.is_none() {
                let names = self.bin_names().unwrap_or_default();
                let stored = names.into_iter().map(|name| (name.into(), BinValue::Stored)).collect();
                self.bins = Some(stored);
            }
            self.old.clone_from(&self.bins);
        }
        self.input.save_refusal.map_or(Ok(()), Err)
    }

    /// Sets a bin.
    ///
    /// # Errors
    /// The result if there would be too many bins or too many bytes.
    pub(super) fn set_bin(&mut self, name: &[u8], particle: Particle<'static>) -> Result<(), ResultCode> {
        let bins = self.bins.get_or_insert_default();
        let made = |(other, value): &(Box<[u8]>, BinValue)| match value {
            BinValue::Made(particle) if **other != *name => particle.flat_size(),
            _ => 0,
        };
        if bins.iter().map(made).sum::<usize>() + particle.flat_size() > MADE_SIZE_MAX {
            return Err(ResultCode::RecordTooBig);
        }
        if let Some((_, value)) = bins.iter_mut().find(|(other, _)| **other == *name) {
            *value = BinValue::Made(particle);
            return Ok(());
        }
        if bins.len() >= BINS_MAX {
            return Err(ResultCode::BinName);
        }
        bins.push((name.into(), BinValue::Made(particle)));
        Ok(())
    }

    pub(super) fn delete_bin(&mut self, name: &[u8]) {
        let bins = self.bins.get_or_insert_default();
        if let Some(position) = bins.iter().position(|(other, _)| **other == *name) {
            bins.swap_remove(position);
        }
    }

    /// Undoes what a save that has begun has set, so that it can begin again. Changes of earlier saves stay, and with them
    /// what this one has set over them.
    pub(super) fn undo_save(&mut self) {
        if !self.has_updates {
            self.bins.clone_from(&self.old);
        }
    }

    pub(super) fn end_save(&mut self) {
        self.result = ResultCode::Ok;
        self.has_updates = true;
    }

    /// Notes a failed save: the bins become those from before the first save.
    pub(super) fn save_failed(&mut self, result: ResultCode) {
        self.result = result;
        self.has_updates = false;
        self.bins.clone_from(&self.old);
    }
}

/// Metadata of a record for a function.
pub(super) struct Metadata<'a> {
    pub(super) generation: u16,
    /// Seconds; 0 = never, or expired.
    pub(super) ttl: u32,
    /// Milliseconds since 2010-01-01.
    pub(super) last_update_time: u64,
    pub(super) stored_size: u64,
    pub(super) set_name: &'a [u8],
}
