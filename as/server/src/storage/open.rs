//! Opens the files and devices of a namespace: headers are judged together, records are loaded, and headers
//! are written again.
//!
//! `shadow` decides which of a disk and its shadow is read; the other gets a copy of the blocks that differ.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::time::{Duration, Instant};

use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockMedium};
use datamodel::device_header::{HEADER_SIZE, HeaderError, PARTITION_GROUP_LEN, PartitionEntry};
use datamodel::encryption::UnitCipher;
use datamodel::partition_copy::Mended;
use datamodel::wblock_scan::{is_zero, starts_with_record};
use parking_lot::Mutex;

use super::benchmarks::{DiskBenchmarks, StorageBenchmarks};
use super::device::Device;
use super::disk::Disk;
use super::encryption;
use super::engine::Storage;
use super::erase::erase_former_use;
use super::error::OpenError;
use super::header::{Candidate, DeviceSet, DeviceSetError};
use super::load::{DiskLoad, LoadContext, parser_count};
use super::medium::{Opened, open_disks};
use super::peek::{self, PEEK_SIZE};
use super::reclaim::reclaim_at_start;
use super::settings::Settings;
use super::shadow::{self, Reason, Source};
use super::stripe::Stripe;
use super::wblock::{Reuse, WblockId, WblockTable, wblock_offset};
use super::{WBLOCK_SIZE, disk_reserve};
use crate::config::{Engine, StorageConfig};

/// Time between progress lines of a load in the log.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

/// Input from the node and the configuration for opening devices.
pub(crate) struct OpenSettings<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) config: &'a StorageConfig,
    /// Random, not 0.
    pub(crate) signature: u64,
}

impl Storage {
    /// Opens the configured files or devices and loads their records into the index of `context`.
    ///
    /// # Errors
    /// When one cannot be opened or read, or does not belong to the others. No device has been written then.
    pub(crate) fn open(settings: &OpenSettings<'_>, context: &dyn LoadContext) -> Result<Self, OpenError> {
        let disks = open_disks(settings.namespace, settings.config)?;
        Self::open_on(settings, disks, context)
    }

    /// As [`open`](Self::open), on disks that are open already.
    pub(super) fn open_on(
        settings: &OpenSettings<'_>,
        disks: Vec<Opened>,
        context: &dyn LoadContext,
    ) -> Result<Self, OpenError> {
        let heads = disks.iter().map(|disk| read_heads(settings, disk)).collect::<Result<Vec<_>, _>>()?;
        let mut set = judge(settings, &disks, &heads)?;
        refuse_erased_headers(settings, &set, &disks)?;
        let ciphers = unlock(settings, &mut set, &disks)?;
        for disk in &disks {
            disk.media.written().try_for_each(BlockMedium::grow)?;
        }
        report(settings.namespace, &set, &disks, &heads);
        erase_fresh(&set, &disks)?;
        let params = Settings::new(&settings.config.params);
        let benchmarks = Arc::new(StorageBenchmarks::new(params.clone()));
        let (mut devices, mut sources) = (Vec::new(), Vec::new());
        for (number, ((disk, (_, source)), cipher)) in disks.into_iter().zip(heads).zip(ciphers).enumerate() {
            let end_mark_key = set.headers[number].end_mark_key;
            let wblock_count = (disk.size / u64::from(WBLOCK_SIZE)) as u32;
            let stripe = match settings.config.engine {
                Engine::Memory => Some(
                    Stripe::new(number as u8, wblock_count)
                        .map(Arc::new)
                        .ok_or(OpenError::AddressSpace(disk.size))?,
                ),
                _ => None,
            };
            let of_disk = DiskBenchmarks::new(Arc::clone(&benchmarks));
            let media = match cipher {
                Some(cipher) => encryption::encrypted(disk.media, cipher),
                None => disk.media,
            };
            let disk = Disk::new(media, wblock_count, stripe, end_mark_key, params.clone(), of_disk);
            let wblocks =
                WblockTable::new(number as u8, wblock_count, disk_reserve(wblock_count), Reuse::Oldest);
            devices.push(Device::disk(number as u8, wblocks, disk));
            sources.push(source);
        }
        let pristine = load(settings.namespace, &devices, &sources, &set, context)?;
        context.finish();
        for (device, pristine) in devices.iter_mut().zip(pristine) {
            reclaim_at_start(device, pristine, context.index());
            device.wblocks.sort_loaded(pristine, params.low_water_bytes());
            device.discard_free();
        }
        let storage =
            Storage { headers: Mutex::new(set.headers), ..Storage::new(devices.into(), params, benchmarks) };
        storage.mark_in_use()?;
        Ok(storage)
    }
}

/// The first bytes of the disk or its shadow, whichever is to be read.
fn read_heads(settings: &OpenSettings<'_>, disk: &Opened) -> Result<(AlignedBuf, Source), OpenError> {
    let size = HEADER_SIZE.next_multiple_of(PEEK_SIZE);
    let read = |medium: &dyn BlockMedium| {
        let mut head = AlignedBuf::zeroed(size);
        medium.read_at(0, &mut head, 0..size).map(|()| head)
    };
    let main = read(&*disk.media.main)?;
    let Some(shadow_medium) = &disk.media.shadow else {
        return Ok((main, Source { from_shadow: false, copies: false, reason: Reason::Alike }));
    };
    let shadow = read(&**shadow_medium)?;
    // A file that was just created will have the configured size.
    let used_size = |found_size: u64| if found_size == 0 { disk.size } else { disk.size.min(found_size) };
    let of_main =
        shadow::Copy { path: disk.media.main.path(), first_bytes: &main, size: used_size(disk.found_size) };
    let of_shadow = shadow::Copy {
        path: shadow_medium.path(),
        first_bytes: &shadow,
        size: used_size(disk.shadow_found_size),
    };
    let source = shadow::choose(settings.namespace.as_bytes(), of_main, of_shadow)?;
    Ok((if source.from_shadow { shadow } else { main }, source))
}

/// Judges the headers of existing disks, like a start.
///
/// # Errors
/// When a header cannot be read, or the headers do not belong together.
pub(super) fn check_heads(settings: &OpenSettings<'_>, disks: &[Opened]) -> Result<(), OpenError> {
    let heads = disks.iter().map(|disk| read_heads(settings, disk)).collect::<Result<Vec<_>, _>>()?;
    let mut set = judge(settings, disks, &heads)?;
    refuse_erased_headers(settings, &set, disks)?;
    unlock(settings, &mut set, disks).map(drop)
}

/// The ciphers of the disks.
fn unlock(
    settings: &OpenSettings<'_>,
    set: &mut DeviceSet,
    disks: &[Opened],
) -> Result<Vec<Option<Arc<UnitCipher>>>, OpenError> {
    let paths: Vec<_> = disks.iter().map(|disk| disk.media.main.path()).collect();
    Ok(encryption::unlock(settings.config, set, &paths)?)
}

/// Erases remains of a former use from new disks, including clear records if new ones are encrypted.
fn erase_fresh(set: &DeviceSet, disks: &[Opened]) -> Result<(), BlockError> {
    for (disk, _) in disks.iter().zip(&set.fresh).filter(|(_, fresh)| **fresh) {
        let count = (disk.size / u64::from(WBLOCK_SIZE)) as u32;
        disk.media.written().try_for_each(|medium| erase_former_use(medium, 1, count))?;
    }
    Ok(())
}

fn judge(
    settings: &OpenSettings<'_>,
    disks: &[Opened],
    heads: &[(AlignedBuf, Source)],
) -> Result<DeviceSet, OpenError> {
    let candidates: Vec<Candidate<'_>> = disks
        .iter()
        .zip(heads)
        .map(|(disk, (head, source))| Candidate {
            path: disk
                .media
                .shadow
                .as_ref()
                .filter(|_| source.from_shadow)
                .unwrap_or(&disk.media.main)
                .path(),
            found_size: if source.from_shadow { disk.shadow_found_size } else { disk.found_size },
            size: disk.size,
            first_bytes: head.as_slice(),
        })
        .collect();
    match DeviceSet::judge(settings.namespace.as_bytes(), &candidates, settings.signature) {
        Err(DeviceSetError::Header { device, error }) if error.may_be_damage() => {
            Err(damaged_header(device, error, disks)?.into())
        }
        judged => Ok(judged?),
    }
}

/// The refusal of `device`, whose header is wrong: it depends on whether records follow.
fn damaged_header(
    device: PathBuf,
    error: HeaderError,
    disks: &[Opened],
) -> Result<DeviceSetError, BlockError> {
    let medium = disks.iter().flat_map(|disk| disk.media.written()).find(|medium| medium.path() == device);
    let Some(medium) = medium else { return Ok(DeviceSetError::Header { device, error }) };
    let count = (medium.size() / u64::from(WBLOCK_SIZE)) as u32;
    Ok(match peek::sign_of_use(medium, count, starts_with_record)? {
        Some(used) => {
            DeviceSetError::HeaderDamaged { device, error, record_at: wblock_offset(WblockId(used)) }
        }
        None => DeviceSetError::Header { device, error },
    })
}

/// Refuses a disk with an empty header that holds records, because they would be erased.
fn refuse_erased_headers(
    settings: &OpenSettings<'_>,
    set: &DeviceSet,
    disks: &[Opened],
) -> Result<(), OpenError> {
    if settings.config.params.cold_start_empty.get() {
        return Ok(());
    }
    for (disk, _) in disks.iter().zip(&set.fresh).filter(|(_, fresh)| **fresh) {
        let found = std::iter::once(disk.found_size).chain([disk.shadow_found_size]);
        for (medium, found_size) in disk.media.written().zip(found) {
            let count = (found_size.min(disk.size) / u64::from(WBLOCK_SIZE)) as u32;
            if let Some(used) = peek::sign_of_use(medium, count, starts_with_record)? {
                let (device, record_at) = (medium.path().to_owned(), wblock_offset(WblockId(used)));
                return Err(DeviceSetError::HeaderErased { device, record_at }.into());
            }
            if !settings.config.params.encryption_key_file.is_set() {
                continue;
            }
            if let Some(used) = peek::sign_of_use(medium, count, |bytes| !is_zero(bytes))? {
                let (device, data_at) = (medium.path().to_owned(), wblock_offset(WblockId(used)));
                return Err(DeviceSetError::KeyErased { device, data_at }.into());
            }
        }
    }
    Ok(())
}

/// Logs the kind of this start.
fn report(namespace: &str, set: &DeviceSet, disks: &[Opened], heads: &[(AlignedBuf, Source)]) {
    for (disk, (_, source)) in disks.iter().zip(heads) {
        report_shadow(namespace, disk, *source);
    }
    if set.all_fresh() {
        cf::info!(DrvSsd, "{{{namespace}}} found all {} devices fresh, initializing", disks.len());
        return;
    }
    let states = set.fresh.iter().zip(&set.unclean).zip(&set.size_known);
    for (disk, ((fresh, unclean), size_known)) in disks.iter().zip(states) {
        let path = disk.media.main.path().display();
        if *fresh {
            cf::info!(DrvSsd, "{{{namespace}}} device {path} is empty");
        } else if *unclean {
            cf::info!(DrvSsd, "{{{namespace}}} device {path} prior shutdown not clean");
            if !*size_known {
                report_short(disk);
            }
        }
    }
    for (disk, mended) in disks.iter().zip(&set.mended) {
        report_mended(disk, mended);
    }
    let empty = disks.iter().zip(&set.fresh).filter_map(|(disk, is_fresh)| is_fresh.then_some(disk));
    let empty: Vec<_> = empty.map(|disk| disk.media.main.path().display().to_string()).collect();
    for id in &set.missing_ids {
        if empty.is_empty() {
            cf::warning!(
                DrvSsd,
                "{{{namespace}}} device {id} of those used last is not configured any more: records that only it holds are not \
                 loaded"
            );
        } else {
            cf::warning!(
                DrvSsd,
                "{{{namespace}}} device {id} of those used last is missing, and {} is empty: records that only it holds are not \
                 loaded; if its disk was not mounted, stop now, mount it and start again",
                empty.join(", ")
            );
        }
    }
}

/// Logs the damage of the partition table in a disk's header.
fn report_mended(disk: &Opened, Mended { restored, lost }: &Mended) {
    let path = disk.media.main.path().display();
    let warn = |first: usize, what: &str| {
        let (offset, last) = (PartitionEntry::offset(first), first + PARTITION_GROUP_LEN - 1);
        cf::warning!(
            DrvSsd,
            "{path}: at offset {offset}: the header's entries of partitions {first} to {last} are damaged{what}"
        );
    };
    restored.iter().for_each(|first| warn(*first, ", and taken from their second copy"));
    let advice =
        ", and so is their second copy: partitions may be missing or hold old records; compare with a backup";
    lost.iter().for_each(|first| warn(*first, advice));
}

/// Logs that a file is shorter than configured and was not stopped cleanly, if its former size is unknown.
fn report_short(disk: &Opened) {
    if disk.found_size < disk.size {
        cf::warning!(
            DrvSsd,
            "{}: the file is shorter than configured, {} of {} bytes, and was not stopped cleanly: if it was cut, \
             the missing records are lost; restore it from a copy",
            disk.media.main.path().display(),
            disk.found_size,
            disk.size
        );
    }
}

/// Logs which of a disk and its shadow is copied from the other, and why.
fn report_shadow(namespace: &str, disk: &Opened, source: Source) {
    let Some(shadow) = &disk.media.shadow else { return };
    let (main, shadow) = (disk.media.main.path().display(), shadow.path().display());
    let (read, written) = if source.from_shadow { (&shadow, &main) } else { (&main, &shadow) };
    match source.reason {
        Reason::Alike => {}
        Reason::OtherEmpty => {
            cf::info!(DrvSsd, "{{{namespace}}} {written} is empty, and is rewritten from {read}");
        }
        Reason::Unclean => cf::info!(
            DrvSsd,
            "{{{namespace}}} {main} and its shadow {shadow} were not stopped cleanly: {written} is rewritten from {read}"
        ),
        Reason::OtherStale => cf::warning!(
            DrvSsd,
            "{{{namespace}}} {written} is out of date, because {read} was used without it: it is rewritten from {read}"
        ),
    }
}

/// Loads all used devices in parallel. Returns for each the first block never used.
fn load(
    namespace: &str,
    devices: &[Device],
    sources: &[Source],
    set: &DeviceSet,
    context: &dyn LoadContext,
) -> Result<Vec<u32>, BlockError> {
    let progress: Vec<AtomicU32> = devices.iter().map(|_| AtomicU32::new(0)).collect();
    let is_done = AtomicBool::new(false);
    let parser_count = parser_count(set.fresh.iter().filter(|fresh| !**fresh).count());
    let load_of = |at: usize| {
        let (device, source) = (&devices[at], &sources[at]);
        let disk = device.as_disk().filter(|_| !set.fresh[at])?;
        let (read, other) = match &disk.media.shadow {
            Some(shadow) if source.from_shadow => (&**shadow, Some(&*disk.media.main)),
            shadow => (&*disk.media.main, shadow.as_deref()),
        };
        Some(DiskLoad {
            device,
            devices,
            source: read,
            copy_to: other.filter(|_| source.copies),
            partitions: partitions(set, at),
            known_pristine: (set.headers[at].pristine_offset / u64::from(WBLOCK_SIZE)) as u32,
            was_clean: !set.unclean[at],
            written_in_order: set.written_in_order[at],
            suspects: Mutex::default(),
            progress: &progress[at],
            parser_count,
            context,
        })
    };
    let loads: Vec<Option<DiskLoad<'_>>> = (0..devices.len()).map(load_of).collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let teller = scope.spawn(|| tell_progress(namespace, devices, &progress, context, &is_done));
        let threads: Vec<_> = loads
            .iter()
            .map(|load| {
                let load = load.as_ref()?;
                let path = load.source.path().display();
                cf::info!(DrvSsd, "{{{namespace}}} device {path}: reading to load index");
                Some(scope.spawn(move || load.run()))
            })
            .collect();
        let results = threads
            .into_iter()
            .map(|thread| {
                thread.map_or(Ok(1), |thread| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            })
            .collect();
        is_done.store(true, Release);
        teller.thread().unpark();
        results
    });
    loads.iter().flatten().for_each(DiskLoad::judge_suspects);
    results.into_iter().collect()
}

/// For each partition, whether device number `at` has it, and its tree id.
fn partitions(set: &DeviceSet, at: usize) -> &[PartitionEntry] {
    &set.headers[at].partitions[..]
}

/// Logs the progress of a load every five seconds, until `is_done`.
fn tell_progress(
    namespace: &str,
    devices: &[Device],
    progress: &[AtomicU32],
    context: &dyn LoadContext,
    is_done: &AtomicBool,
) {
    let mut told = Instant::now();
    while !is_done.load(Acquire) {
        std::thread::park_timeout(PROGRESS_PERIOD.saturating_sub(told.elapsed()));
        if told.elapsed() >= PROGRESS_PERIOD {
            told = Instant::now();
            let pct = |(device, done): (&Device, &AtomicU32)| {
                (u64::from(done.load(Relaxed)) * 100 / u64::from(device.wblocks.count())).to_string()
            };
            let pcts: Vec<String> = devices.iter().zip(progress).map(pct).collect();
            let objects = context.stats().unique.load(Relaxed);
            cf::info!(DrvSsd, "{{{namespace}}} loaded: objects {objects} device-pcts ({})", pcts.join(","));
        }
    }
}
