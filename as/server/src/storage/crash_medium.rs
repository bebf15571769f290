//! A medium that loses in a crash the data that a power failure may lose: it has live and durable bytes, and
//! faults on demand.
//!
//! Reads see the live bytes. A write reaches the durable bytes when [`sync`](BlockMedium::sync) returns, or
//! at once if writes are durable. In a crash, each sector that differs between the two states may or may not
//! have arrived. One mutex guards everything and is taken alone. A delayed sync has another mutex, which is
//! not held while it waits.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockMedium, IO_SIZE_MIN, Operation, assert_io_unit};
use parking_lot::{Condvar, Mutex};

/// Number of bytes that a device writes atomically.
pub(super) const SECTOR_SIZE: usize = IO_SIZE_MIN as usize;

/// Faults. Writes are counted from 0, over the life of the medium.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// This write and all later ones fail; this many sectors of it arrive.
    pub(super) write_fails_at: Option<(u64, usize)>,
    /// After this many writes all others seem to succeed, but make nothing durable any more.
    pub(super) freeze_at: Option<u64>,
    /// Reads that touch these bytes fail.
    pub(super) unreadable: Option<Range<u64>>,
    /// Syncs fail after this many have succeeded.
    pub(super) syncs_fail_after: Option<u64>,
    /// The next sync fails, and its data never becomes durable even if later syncs succeed, as in the page cache.
    pub(super) next_sync_loses: bool,
}

/// Whether a sync is delayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SyncHold {
    No,
    Next,
    Held,
}

struct State {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ, or may differ, between live and durable bytes.
    pending: BTreeSet<usize>,
    faults: Faults,
    writes: u64,
    failed: bool,
}

/// The medium. It stays usable after [`crash`](Self::crash), which only returns what a restart would find.
pub(super) struct CrashMedium {
    path: PathBuf,
    durable_writes: bool,
    state: Mutex<State>,
    sync_hold: Mutex<SyncHold>,
    sync_hold_changed: Condvar,
}

impl CrashMedium {
    /// Makes a medium of zeros.
    pub(super) fn zeroed(size: usize, durable_writes: bool) -> Self {
        Self::from_image(vec![0; size], durable_writes)
    }

    /// Makes a medium with the content of an earlier one. `durable_writes` is as with `O_DSYNC`.
    pub(super) fn from_image(image: Vec<u8>, durable_writes: bool) -> Self {
        assert!(image.len().is_multiple_of(SECTOR_SIZE));
        let state = State {
            live: image.clone(),
            durable: image,
            pending: BTreeSet::new(),
            faults: Faults::default(),
            writes: 0,
            failed: false,
        };
        CrashMedium {
            path: PathBuf::from("crash-medium"),
            durable_writes,
            state: Mutex::new(state),
            sync_hold: Mutex::new(SyncHold::No),
            sync_hold_changed: Condvar::new(),
        }
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Ends all faults.
    pub(super) fn repair(&self) {
        let mut state = self.state.lock();
        state.faults = Faults::default();
        state.failed = false;
    }

    /// Delays the next sync, before anything of it is durable, until [`let_sync_go`](Self::let_sync_go).
    pub(super) fn hold_next_sync(&self) {
        *self.sync_hold.lock() = SyncHold::Next;
    }

    /// Waits until a sync is delayed.
    pub(super) fn await_held_sync(&self) {
        let mut hold = self.sync_hold.lock();
        while *hold == SyncHold::Next {
            self.sync_hold_changed.wait(&mut hold);
        }
    }

    /// Resumes the delayed sync.
    pub(super) fn let_sync_go(&self) {
        *self.sync_hold.lock() = SyncHold::No;
        self.sync_hold_changed.notify_all();
    }

    fn wait_while_held(&self) {
        let mut hold = self.sync_hold.lock();
        if *hold != SyncHold::Next {
            return;
        }
        *hold = SyncHold::Held;
        self.sync_hold_changed.notify_all();
        while *hold == SyncHold::Held {
            self.sync_hold_changed.wait(&mut hold);
        }
    }

    /// Changes each of these bytes.
    pub(super) fn damage(&self, place: Range<u64>) {
        let mut state = self.state.lock();
        for at in place {
            state.live[at as usize] ^= 0xA5;
            state.durable[at as usize] ^= 0xA5;
        }
    }

    /// Number of writes so far, including failed ones.
    pub(super) fn writes(&self) -> u64 {
        self.state.lock().writes
    }

    /// The content that a restart would find if those of the pending sectors arrived for which `arrived`
    /// returns true (by sector number).
    pub(super) fn crash(&self, mut arrived: impl FnMut(usize) -> bool) -> Vec<u8> {
        let state = self.state.lock();
        let mut image = state.durable.clone();
        for sector in state.pending.iter().copied().filter(|sector| arrived(*sector)) {
            let bytes = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
            image[bytes.clone()].copy_from_slice(&state.live[bytes]);
        }
        image
    }

    fn fail(&self, operation: Operation, place: Option<Range<u64>>) -> BlockError {
        let source = io::Error::other("injected fault");
        BlockError { path: self.path.clone(), operation, place, source }
    }
}

impl State {
    /// Makes the first `size` of `bytes` live at `offset`.
    fn arrive(&mut self, offset: usize, bytes: &[u8], durable: bool) {
        self.live[offset..offset + bytes.len()].copy_from_slice(bytes);
        let frozen = self.faults.freeze_at.is_some_and(|at| self.writes > at);
        let sectors = offset / SECTOR_SIZE..(offset + bytes.len()) / SECTOR_SIZE;
        if frozen {
            return;
        }
        if durable {
            self.durable[offset..offset + bytes.len()].copy_from_slice(bytes);
            self.pending.retain(|sector| !sectors.contains(sector));
        } else {
            self.pending.extend(sectors);
        }
    }
}

impl BlockMedium for CrashMedium {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        self.state.lock().live.len() as u64
    }

    fn io_size(&self) -> u32 {
        IO_SIZE_MIN
    }

    fn read_at(&self, offset: u64, buffer: &mut AlignedBuf, range: Range<usize>) -> Result<(), BlockError> {
        assert_io_unit(IO_SIZE_MIN, offset, &range);
        let place = offset..offset + range.len() as u64;
        let state = self.state.lock();
        let unreadable = state.faults.unreadable.clone().unwrap_or(0..0);
        if place.start < unreadable.end && unreadable.start < place.end {
            return Err(self.fail(Operation::Read, Some(place)));
        }
        let bytes = state.live.get(offset as usize..place.end as usize);
        buffer[range].copy_from_slice(bytes.ok_or_else(|| self.fail(Operation::Read, Some(place)))?);
        Ok(())
    }

    fn write_at(&self, offset: u64, buffer: &AlignedBuf, range: Range<usize>) -> Result<(), BlockError> {
        assert_io_unit(IO_SIZE_MIN, offset, &range);
        let place = offset..offset + range.len() as u64;
        let mut state = self.state.lock();
        let number = state.writes;
        state.writes += 1;
        let bytes = &buffer[range];
        if place.end > state.live.len() as u64 || state.failed {
            return Err(self.fail(Operation::Write, Some(place)));
        }
        if let Some((fails_at, sectors)) = state.faults.write_fails_at
            && number >= fails_at
        {
            state.failed = true;
            let arrived = (sectors * SECTOR_SIZE).min(bytes.len());
            state.arrive(offset as usize, &bytes[..arrived], true);
            return Err(self.fail(Operation::Write, Some(place)));
        }
        state.arrive(offset as usize, bytes, self.durable_writes);
        Ok(())
    }

    fn sync(&self) -> Result<(), BlockError> {
        self.wait_while_held();
        let mut state = self.state.lock();
        let left = state.faults.syncs_fail_after;
        if left == Some(0) || state.failed {
            return Err(self.fail(Operation::Sync, None));
        }
        state.faults.syncs_fail_after = left.map(|left| left - 1);
        if std::mem::take(&mut state.faults.next_sync_loses) {
            state.pending.clear();
            return Err(self.fail(Operation::Sync, None));
        }
        let state = &mut *state;
        for sector in std::mem::take(&mut state.pending) {
            let bytes = sector * SECTOR_SIZE..(sector + 1) * SECTOR_SIZE;
            state.durable[bytes.clone()].copy_from_slice(&state.live[bytes]);
        }
        Ok(())
    }
}

mod tests {
    use super::*;

    const SIZE: usize = 16 * SECTOR_SIZE;

    fn filled(byte: u8) -> AlignedBuf {
        let mut buffer = AlignedBuf::zeroed(4096);
        buffer.fill(byte);
        buffer
    }

    fn sectors(image: &[u8]) -> Vec<u8> {
        image.chunks(SECTOR_SIZE).map(|sector| sector[0]).collect()
    }

    #[test]
    fn unsynced_writes_may_be_torn_at_any_sector() {
        let medium = CrashMedium::zeroed(SIZE, false);
        medium.write_at(0, &filled(1), 0..1024).unwrap();
        medium.sync().unwrap();
        medium.write_at(512, &filled(2), 0..1536).unwrap();
        assert_eq!(sectors(&medium.crash(|_| false))[..5], [1, 1, 0, 0, 0]);
        assert_eq!(sectors(&medium.crash(|sector| sector == 2))[..5], [1, 1, 2, 0, 0]);
        assert_eq!(sectors(&medium.crash(|_| true))[..5], [1, 2, 2, 2, 0]);
        let mut live = AlignedBuf::zeroed(4096);
        medium.read_at(0, &mut live, 0..4096).unwrap();
        assert_eq!(sectors(&live)[..5], [1, 2, 2, 2, 0]);
        let restarted = CrashMedium::from_image(medium.crash(|_| false), true);
        restarted.write_at(2048, &filled(3), 0..512).unwrap();
        assert_eq!(sectors(&restarted.crash(|_| false))[..6], [1, 1, 0, 0, 3, 0]);
        assert_eq!(restarted.writes(), 1);
    }

    #[test]
    fn faults_strike_at_the_chosen_places() {
        let medium = CrashMedium::zeroed(SIZE, true);
        medium.set_faults(Faults {
            write_fails_at: Some((1, 2)),
            unreadable: Some(1024..1025),
            ..Faults::default()
        });
        medium.write_at(0, &filled(1), 0..512).unwrap();
        assert_eq!(medium.write_at(512, &filled(2), 0..2048).unwrap_err().operation, Operation::Write);
        assert!(medium.write_at(0, &filled(3), 0..512).is_err(), "and all after it");
        assert!(medium.sync().is_err());
        assert_eq!(sectors(&medium.crash(|_| true))[..5], [1, 2, 2, 0, 0]);
        let mut buffer = AlignedBuf::zeroed(4096);
        assert!(medium.read_at(512, &mut buffer, 0..1024).is_err());
        assert!(medium.read_at(0, &mut buffer, 0..1024).is_ok());

        let medium = CrashMedium::zeroed(SIZE, true);
        medium.set_faults(Faults { freeze_at: Some(1), ..Faults::default() });
        medium.write_at(0, &filled(1), 0..512).unwrap();
        medium.write_at(512, &filled(2), 0..512).unwrap();
        assert_eq!(sectors(&medium.crash(|_| true))[..3], [1, 0, 0]);
        medium.read_at(512, &mut buffer, 0..512).unwrap();
        assert_eq!(buffer[0], 2, "to the living it looks written");
    }
}
