//! Opens the configured files and devices: each disk with its shadow and its access through the page cache.

use std::path::Path;
use std::sync::Arc;

use cf::aligned::AlignedBuf;
use cf::sys::block::{BlockError, BlockFile, BlockMedium, BlockMode};
use datamodel::device_header::{HEADER_SIZE, HEADER_SPACE};

use super::WBLOCK_SIZE;
use super::error::OpenError;
use super::media::Media;
use crate::config::{Backing, StorageConfig};

/// Smallest size of a device.
const DEVICE_SIZE_MIN: u64 = 128 << 20;
/// Largest number of bytes used of a device: 2 TiB, the range of 37 bits of 16-byte blocks.
const DEVICE_SIZE_MAX: u64 = 2 << 40;

/// A disk that is open but not read yet.
pub(super) struct Opened {
    pub(super) media: Media,
    /// Bytes to be used: a whole number of write blocks.
    pub(super) size: u64,
    /// Former size in bytes; 0 for a file that was just created.
    pub(super) found_size: u64,
    pub(super) shadow_found_size: u64,
}

/// Opens the files or devices of `config`. With `cold-start-empty`, erases the headers.
///
/// # Errors
/// The first one that cannot be used.
pub(super) fn open_disks(namespace: &str, config: &StorageConfig) -> Result<Vec<Opened>, OpenError> {
    let disks =
        config.backings().iter().map(|backing| open_disk(backing, config)).collect::<Result<Vec<_>, _>>()?;
    for disk in &disks {
        if config.params.cold_start_empty.get() {
            disk.media.written().try_for_each(|medium| erase_header(namespace, medium))?;
        }
        let io_size = disk.media.io_size();
        let path = disk.media.main.path().display();
        cf::info!(DrvSsd, "{{{namespace}}} opened {path}: usable size {}, io-min-size {io_size}", disk.size);
    }
    Ok(disks)
}

/// Opens one disk like a start. Its files must exist, so that nothing is changed.
///
/// # Errors
/// When the disk cannot be used.
pub(super) fn check_disk(backing: &Backing, config: &StorageConfig) -> Result<Opened, OpenError> {
    open_disk(backing, config)
}

fn open_disk(backing: &Backing, config: &StorageConfig) -> Result<Opened, OpenError> {
    let path = Path::new(&backing.path);
    let main = open_file(path, config)?;
    let (size, found_size) = (main.size(), main.found_size().min(DEVICE_SIZE_MAX));
    let shadow = backing.shadow.as_deref().map(|shadow| open_file(Path::new(shadow), config)).transpose()?;
    let mut shadow_found_size = 0;
    if let Some(shadow) = &shadow {
        shadow_found_size = shadow.found_size().min(DEVICE_SIZE_MAX);
        if shadow.size() < size {
            return Err(OpenError::ShadowSize {
                path: backing.path.clone(),
                size,
                shadow: shadow.path().display().to_string(),
                shadow_size: shadow.size(),
            });
        }
    }
    // Without O_DIRECT all access goes through the page cache anyway.
    let cached = if mode(config).direct {
        let mode = BlockMode { direct: false, data_sync: false, read_only: true, exclusive: false };
        Some(BlockFile::open(path, mode)?)
    } else {
        None
    };
    let medium = |file: BlockFile| -> Arc<dyn BlockMedium> { Arc::new(file) };
    let media = Media {
        main: medium(main),
        shadow: shadow.map(medium),
        cached: cached.map(medium),
        is_volatile: !mode(config).data_sync,
    };
    Ok(Opened { media, size, found_size, shadow_found_size })
}

/// The access mode. Devices, and files with `direct-files`, are written past the page cache, and each write
/// is durable when it returns. Other files are written to the page cache and synced at intervals (`sync`),
/// unless `commit-to-device` is on.
fn mode(config: &StorageConfig) -> BlockMode {
    let params = &config.params;
    let direct = config.is_raw_device() || params.direct_files.get();
    BlockMode {
        direct,
        data_sync: !params.disable_odsync.get() && (direct || params.commit_to_device.get()),
        read_only: false,
        exclusive: true,
    }
}

fn open_file(path: &Path, config: &StorageConfig) -> Result<BlockFile, OpenError> {
    let mode = mode(config);
    let mut file = if config.is_raw_device() {
        BlockFile::open(path, mode)?
    } else {
        BlockFile::open_or_create(path, config.params.filesize.get(), mode)?
    };
    let size = file.size().min(DEVICE_SIZE_MAX) / u64::from(WBLOCK_SIZE) * u64::from(WBLOCK_SIZE);
    if size < DEVICE_SIZE_MIN {
        return Err(OpenError::TooSmall { path: path.display().to_string(), size: file.size() });
    }
    file.limit_size(size);
    Ok(file)
}

/// Erases a header, so that the medium looks unused.
fn erase_header(namespace: &str, medium: &dyn BlockMedium) -> Result<(), BlockError> {
    let size = HEADER_SIZE.next_multiple_of(medium.io_size() as usize);
    debug_assert!((size as u64) < HEADER_SPACE);
    medium.write_at(0, &AlignedBuf::zeroed(size), 0..size)?;
    let path = medium.path().display();
    cf::info!(DrvSsd, "{{{namespace}}} cold-start-empty - erased header of {path}");
    Ok(())
}
