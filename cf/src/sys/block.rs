//! Block devices, and files used as block devices: whole transfers between an [`AlignedBuf`] and a place.
//!
//! A transfer either completes or returns an error with path, place and operation. Writes never extend a
//! file: a place beyond the end is an error. The file offset is not used, so any number of threads may
//! transfer at once; the owner decides which thread may access which place at which time.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::aligned::AlignedBuf;

/// Smallest transfer that a device may support. A torn write tears between such units.
pub const IO_SIZE_MIN: u32 = 512;
/// Largest minimum transfer that this server supports.
pub const IO_SIZE_MAX: u32 = 4096;
/// Permissions of a created file. Only its owner has access, because it holds the data of all users.
const FILE_PERMISSIONS: u32 = 0o600;

/// The failed operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Open,
    Lock,
    Resize,
    Read,
    Write,
    Sync,
    /// A check that the file is still there.
    Check,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Operation::Open => "open",
            Operation::Lock => "lock",
            Operation::Resize => "resize",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Sync => "sync",
            Operation::Check => "check",
        }
    }
}

/// A failed operation on a device or file.
#[derive(Debug)]
pub struct BlockError {
    pub path: PathBuf,
    pub operation: Operation,
    /// The bytes of a read or write.
    pub place: Option<Range<u64>>,
    pub source: io::Error,
}

impl BlockError {
    fn new(path: &Path, operation: Operation, place: Option<Range<u64>>, source: io::Error) -> Self {
        BlockError { path: path.to_owned(), operation, place, source }
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, operation) = (self.path.display(), self.operation.name());
        write!(f, "{path}: {operation}")?;
        if let Some(place) = &self.place {
            let size = place.end.saturating_sub(place.start);
            write!(f, " of {size} bytes at offset {}", place.start)?;
        }
        write!(f, " failed: {}", self.source)?;
        self.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

impl BlockError {
    /// Whether another process, or another part of this process, uses the device or file.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::ResourceBusy
    }

    /// Advice to an operator about the error.
    fn advice(&self) -> Option<&'static str> {
        use io::ErrorKind::*;
        Some(match self.source.kind() {
            NotFound => "check the path",
            IsADirectory => "configure a file in it",
            PermissionDenied => "let the user that the server runs as read and write it",
            ReadOnlyFilesystem => "make its file system writable",
            StorageFull | QuotaExceeded | FileTooLarge => "make room, or raise the limit",
            UnexpectedEof => "it is shorter than it was: restore it from a copy",
            _ if self.source.raw_os_error() == Some(libc::EIO) => {
                "look for faults of the device in the system's log"
            }
            _ => return None,
        })
    }
}

impl std::error::Error for BlockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A medium for blocks: a device, a file, or a replacement in a test.
pub trait BlockMedium: Send + Sync {
    /// The medium's name in the log.
    fn path(&self) -> &Path;

    /// Usable bytes.
    fn size(&self) -> u64;

    /// Offsets and sizes of transfers are multiples of this many bytes.
    fn io_size(&self) -> u32;

    /// Reads the bytes at `offset` into `range` of `buffer`.
    ///
    /// # Errors
    /// When not all of them could be read. The content of the range is then undefined.
    ///
    /// # Panics
    /// If offset or range are not multiples of [`io_size`](Self::io_size), or the range is not inside the buffer.
    fn read_at(&self, offset: u64, buffer: &mut AlignedBuf, range: Range<usize>) -> Result<(), BlockError>;

    /// Same as [`read_at`](Self::read_at), if the caller uses only `needed`, a part of `range`.
    ///
    /// # Errors
    /// Same as [`read_at`](Self::read_at).
    ///
    /// # Panics
    /// Same as [`read_at`](Self::read_at).
    fn read_for(
        &self,
        offset: u64,
        buffer: &mut AlignedBuf,
        range: Range<usize>,
        needed: Range<usize>,
    ) -> Result<(), BlockError> {
        debug_assert!(range.start <= needed.start && needed.end <= range.end, "a part of what is read");
        self.read_at(offset, buffer, range)
    }

    /// Writes `range` of `buffer` to `offset`.
    ///
    /// # Errors
    /// When not all of it could be written. Any part may have been written.
    ///
    /// # Panics
    /// Same as [`read_at`](Self::read_at).
    fn write_at(&self, offset: u64, buffer: &AlignedBuf, range: Range<usize>) -> Result<(), BlockError>;

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// When the system cannot confirm that.
    fn sync(&self) -> Result<(), BlockError>;

    /// Extends a file that is shorter than the stated size, so that all of it can be read.
    ///
    /// # Errors
    /// When the system refuses.
    fn grow(&self) -> Result<(), BlockError> {
        Ok(())
    }

    /// The first offset at or after `offset` that may hold data: `offset` itself, or the end of a hole in a
    /// sparse file. `None` if the rest is a hole.
    fn next_data(&self, offset: u64) -> Option<u64> {
        Some(offset)
    }

    /// Checks that other processes will still find the written data at the path.
    ///
    /// # Errors
    /// When they would not find it.
    fn check(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

/// Panics unless `offset` and `range` are multiples of `io_size`. For this mistake of the caller, the device
/// would only answer "invalid argument".
pub fn assert_io_unit(io_size: u32, offset: u64, range: &Range<usize>) {
    let unit = io_size as usize;
    let fits = offset.is_multiple_of(u64::from(io_size))
        && range.start.is_multiple_of(unit)
        && range.end.is_multiple_of(unit);
    assert!(fits, "transfer of {range:?} at offset {offset} is not in units of {io_size} bytes");
}

/// How to open a device or file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockMode {
    /// Bypass the page cache (`O_DIRECT`).
    pub direct: bool,
    /// A write is durable when it returns (`O_DSYNC`).
    pub data_sync: bool,
    /// Open without write access.
    pub read_only: bool,
    /// Take the lock; refuse if another descriptor holds it. A second descriptor of the process that holds
    /// the lock must not set this. A block device is also opened with `O_EXCL`. The system then refuses the
    /// open while the device is mounted, or while another server that does not use this lock has opened it
    /// with `O_EXCL`; it also keeps such a server out afterwards.
    pub exclusive: bool,
}

/// An open block device, or a file used as one. The lock is released when the last descriptor is closed.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    path: PathBuf,
    size: u64,
    found_size: u64,
    is_device: bool,
    io_size: u32,
}

impl BlockFile {
    /// Opens an existing device or file with its current size.
    ///
    /// # Errors
    /// When it does not exist, is neither a device nor a file, is in use, or cannot be opened in this mode.
    pub fn open(path: &Path, mode: BlockMode) -> Result<Self, BlockError> {
        let mut file = Self::prepare(path, mode, false)?;
        file.size = file.found_size;
        Ok(file)
    }

    /// Opens or creates a sparse file of `size` bytes. A file with content keeps its length, because only the
    /// content can tell the right length: see [`found_size`](Self::found_size) and [`resize`](Self::resize).
    ///
    /// # Errors
    /// The errors of [`open`](Self::open), and when `size` is too large for the file system.
    pub fn open_or_create(path: &Path, size: u64, mode: BlockMode) -> Result<Self, BlockError> {
        let mut file = Self::prepare(path, mode, true)?;
        if file.is_device {
            let source = io::Error::other("a device where a file is wanted: configure it as device");
            return Err(BlockError::new(path, Operation::Open, None, source));
        }
        file.size = size;
        if file.found_size == 0 {
            file.resize()?;
        }
        Ok(file)
    }

    fn prepare(path: &Path, mode: BlockMode, create: bool) -> Result<Self, BlockError> {
        let fail = |operation| move |source| BlockError::new(path, operation, None, source);
        let file = open(path, mode, create).map_err(fail(Operation::Open))?;
        let file_type = file.metadata().map_err(fail(Operation::Open))?.file_type();
        let is_device = file_type.is_block_device();
        if !is_device && !file_type.is_file() {
            let source = io::Error::other("neither a block device nor a file");
            return Err(BlockError::new(path, Operation::Open, None, source));
        }
        if mode.exclusive {
            file.try_lock().map_err(|error| fail(Operation::Lock)(lock_error(error)))?;
        }
        // The end of a block device is its size, as for a file.
        let found_size = (&file).seek(SeekFrom::End(0)).map_err(fail(Operation::Open))?;
        let io_size = if mode.direct || is_device { probe_io_size(&file, path)? } else { IO_SIZE_MIN };
        Ok(BlockFile { file, path: path.to_owned(), size: found_size, found_size, is_device, io_size })
    }

    /// Its size in bytes when opened; 0 for a created file.
    #[must_use]
    pub fn found_size(&self) -> u64 {
        self.found_size
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// Uses only the first `size` bytes from now on.
    ///
    /// # Panics
    /// If that is more than the current size.
    pub fn limit_size(&mut self, size: u64) {
        assert!(size <= self.size, "{}: {size} of {} bytes", self.path.display(), self.size);
        self.size = size;
    }

    /// Sets a file's length to the stated size. New bytes are zeros; bytes beyond the size are lost.
    ///
    /// # Errors
    /// When the system refuses; a device always does.
    pub fn resize(&self) -> Result<(), BlockError> {
        self.file.set_len(self.size).map_err(|source| self.error(Operation::Resize, None, source))
    }

    fn error(&self, operation: Operation, place: Option<Range<u64>>, source: io::Error) -> BlockError {
        BlockError::new(&self.path, operation, place, source)
    }

    /// The place of a transfer, if it is within the size.
    fn place(&self, operation: Operation, offset: u64, size: usize) -> Result<Range<u64>, BlockError> {
        let place = offset..offset.saturating_add(size as u64);
        if place.end > self.size {
            let source = io::Error::other(format!("beyond the end at {}", self.size));
            return Err(self.error(operation, Some(place), source));
        }
        Ok(place)
    }
}

impl BlockMedium for BlockFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn io_size(&self) -> u32 {
        self.io_size
    }

    fn read_at(&self, offset: u64, buffer: &mut AlignedBuf, range: Range<usize>) -> Result<(), BlockError> {
        assert_io_unit(self.io_size, offset, &range);
        let place = self.place(Operation::Read, offset, range.len())?;
        self.file
            .read_exact_at(&mut buffer[range], offset)
            .map_err(|source| self.error(Operation::Read, Some(place), source))
    }

    fn write_at(&self, offset: u64, buffer: &AlignedBuf, range: Range<usize>) -> Result<(), BlockError> {
        assert_io_unit(self.io_size, offset, &range);
        let place = self.place(Operation::Write, offset, range.len())?;
        self.file
            .write_all_at(&buffer[range], offset)
            .map_err(|source| self.error(Operation::Write, Some(place), source))
    }

    fn sync(&self) -> Result<(), BlockError> {
        self.file.sync_data().map_err(|source| self.error(Operation::Sync, None, source))
    }

    fn grow(&self) -> Result<(), BlockError> {
        let is_shorter = !self.is_device && self.found_size < self.size;
        if is_shorter { self.resize() } else { Ok(()) }
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        match nix::unistd::lseek64(&self.file, offset.cast_signed(), nix::unistd::Whence::SeekData) {
            Ok(found) => Some(found.cast_unsigned().max(offset)),
            Err(nix::errno::Errno::ENXIO) => None,
            // The file system cannot report holes.
            Err(_) => Some(offset),
        }
    }

    fn check(&self) -> Result<(), BlockError> {
        let metadata = self.file.metadata().map_err(|source| self.error(Operation::Check, None, source))?;
        if self.is_device {
            return Ok(());
        }
        let fail = |text: String| Err(self.error(Operation::Check, None, io::Error::other(text)));
        if metadata.len() < self.size {
            return fail(format!(
                "the file was cut to {} of {} bytes, and the data after them is lost; stop the server and restore it from a \
                 copy, or make it as long as it was",
                metadata.len(),
                self.size
            ));
        }
        if metadata.nlink() > 0 {
            return Ok(());
        }
        let place = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        fail(format!(
            "the file was removed, and its data is lost when the server stops; copy it from {place}"
        ))
    }
}

fn open(path: &Path, mode: BlockMode, create: bool) -> io::Result<File> {
    let direct = if mode.direct { libc::O_DIRECT } else { 0 };
    let data_sync = if mode.data_sync { libc::O_DSYNC } else { 0 };
    // For other files the flag means that the file must be created.
    let is_device = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
    let exclusive = if mode.exclusive && is_device { libc::O_EXCL } else { 0 };
    OpenOptions::new()
        .read(true)
        .write(!mode.read_only)
        .create(create && !mode.read_only && !is_device)
        .custom_flags(direct | data_sync | exclusive)
        .mode(FILE_PERMISSIONS)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) if mode.direct => {
                io::Error::other("its file system does not support direct I/O")
            }
            Some(libc::EBUSY) if mode.exclusive => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "in use by another process, mounted, or configured twice",
            ),
            _ => error,
        })
}

fn lock_error(error: TryLockError) -> io::Error {
    match error {
        TryLockError::Error(source) => source,
        TryLockError::WouldBlock => {
            io::Error::new(io::ErrorKind::ResourceBusy, "in use by another process or configured twice")
        }
    }
}

/// The smallest transfer that works. An empty file can be probed as well.
fn probe_io_size(file: &File, path: &Path) -> Result<u32, BlockError> {
    let mut buffer = AlignedBuf::zeroed(IO_SIZE_MAX as usize);
    let mut size = IO_SIZE_MIN;
    loop {
        match file.read_at(&mut buffer[..size as usize], 0) {
            Ok(_) => return Ok(size),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if size < IO_SIZE_MAX => size *= 2,
            Err(source) => {
                let place = Some(0..u64::from(size));
                return Err(BlockError::new(path, Operation::Read, place, source));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_folder::TempFolder;

    const SIZE: u64 = 1 << 20;

    fn pattern() -> AlignedBuf {
        let mut buffer = AlignedBuf::zeroed(8192);
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = (at * 7 % 251) as u8;
        }
        buffer
    }

    #[test]
    fn written_bytes_are_read_back_in_every_mode() {
        let folder = TempFolder::new("block-modes");
        for (n, (direct, data_sync)) in
            [(false, false), (true, false), (true, true), (false, true)].into_iter().enumerate()
        {
            let mode = BlockMode { direct, data_sync, exclusive: true, read_only: false };
            let path = folder.join(n.to_string());
            let file = match BlockFile::open_or_create(&path, SIZE, mode) {
                Err(error) if direct && error.to_string().contains("direct I/O") => continue,
                other => other.unwrap(),
            };
            assert_eq!((file.size(), file.found_size(), file.is_device()), (SIZE, 0, false));
            assert!([512, 1024, 2048, 4096].contains(&file.io_size()));
            let written = pattern();
            file.write_at(SIZE - 8192, &written, 0..8192).unwrap();
            file.write_at(4096, &written, 4096..8192).unwrap();
            file.sync().unwrap();
            let mut read = AlignedBuf::zeroed(8192);
            file.read_at(SIZE - 4096, &mut read, 4096..8192).unwrap();
            assert_eq!(read[4096..], written[4096..]);
            file.read_at(4096, &mut read, 0..4096).unwrap();
            assert_eq!(read[..4096], written[4096..]);
            file.read_at(0, &mut read, 0..4096).unwrap();
            assert!(read[..4096].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn errors_name_path_place_and_operation() {
        let folder = TempFolder::new("block-errors");
        let path = folder.join("data");
        let file = BlockFile::open_or_create(&path, SIZE, BlockMode::default()).unwrap();
        let mut buffer = AlignedBuf::zeroed(8192);
        let error = file.write_at(SIZE - 4096, &buffer, 0..8192).unwrap_err();
        let expected =
            format!("{}: write of 8192 bytes at offset 1044480 failed: beyond the end", path.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(file.size(), std::fs::metadata(&path).unwrap().len());
        assert!(file.read_at(!0xFFF, &mut buffer, 0..8192).is_err());

        File::options().write(true).open(&path).unwrap().set_len(SIZE / 2).unwrap();
        let error = file.read_at(SIZE / 2, &mut buffer, 0..512).unwrap_err();
        assert_eq!((error.operation, error.place), (Operation::Read, Some(SIZE / 2..SIZE / 2 + 512)));
        assert_eq!(error.source.kind(), io::ErrorKind::UnexpectedEof);

        let missing = BlockFile::open(&folder.join("missing"), BlockMode::default()).unwrap_err();
        assert_eq!(missing.operation, Operation::Open);
        let no_file = BlockFile::open(&folder, BlockMode { read_only: true, ..BlockMode::default() });
        assert!(no_file.unwrap_err().to_string().contains("neither a block device nor a file"));

        let read_only =
            BlockFile::open(&path, BlockMode { read_only: true, ..BlockMode::default() }).unwrap();
        assert_eq!(read_only.write_at(0, &buffer, 0..512).unwrap_err().operation, Operation::Write);
    }

    #[test]
    fn files_with_content_keep_their_length_until_resized() {
        let folder = TempFolder::new("block-length");
        let path = folder.join("data");
        std::fs::write(&path, [5; 3000]).unwrap();
        for size in [SIZE, 1024] {
            let found = std::fs::metadata(&path).unwrap().len();
            let file = BlockFile::open_or_create(&path, size, BlockMode::default()).unwrap();
            assert_eq!((file.found_size(), file.size()), (found, size));
            assert_eq!(std::fs::metadata(&path).unwrap().len(), found);
            file.resize().unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        }
        assert_eq!(std::fs::read(&path).unwrap(), [5; 1024]);
        let file = BlockFile::open_or_create(&path, 512, BlockMode::default()).unwrap();
        file.grow().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1024, "growing never cuts");
        let file = BlockFile::open_or_create(&path, 2048, BlockMode::default()).unwrap();
        file.grow().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [[5; 1024], [0; 1024]].concat());
        file.check().unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = file.check().unwrap_err().to_string();
        assert!(error.contains("check failed: the file was removed") && error.contains("/proc/"), "{error}");
        std::fs::write(&path, [5; 1024]).unwrap();
        let mut file = BlockFile::open(&path, BlockMode::default()).unwrap();
        file.limit_size(512);
        assert!(file.read_at(512, &mut AlignedBuf::zeroed(512), 0..512).is_err());
    }

    #[test]
    fn one_owner_at_a_time() {
        let folder = TempFolder::new("block-lock");
        let path = folder.join("data");
        let exclusive = BlockMode { exclusive: true, ..BlockMode::default() };
        let first = BlockFile::open_or_create(&path, SIZE, exclusive).unwrap();
        let second = BlockFile::open_or_create(&path, SIZE, exclusive).unwrap_err();
        assert_eq!(second.operation, Operation::Lock);
        assert!(second.is_in_use() && second.to_string().contains("in use"), "{second}");
        assert!(BlockFile::open(&path, BlockMode::default()).is_ok(), "without the wish for the lock");
        drop(first);
        assert!(BlockFile::open(&path, exclusive).is_ok());
    }

    #[test]
    #[should_panic(expected = "not in units of 512 bytes")]
    fn transfers_in_other_units_are_mistakes() {
        let folder = TempFolder::new("block-unit");
        let file = BlockFile::open_or_create(&folder.join("data"), SIZE, BlockMode::default()).unwrap();
        let _ = file.write_at(100, &AlignedBuf::zeroed(512), 0..512);
    }
}
