//! The files or devices of a disk.

use std::sync::Arc;

use cf::sys::block::{BlockMedium, IO_SIZE_MAX};

/// The files or devices of a disk.
pub(super) struct Media {
    pub(super) main: Arc<dyn BlockMedium>,
    /// The shadow, which gets the same writes.
    pub(super) shadow: Option<Arc<dyn BlockMedium>>,
    /// The main medium, opened again to read through the system's page cache.
    pub(super) cached: Option<Arc<dyn BlockMedium>>,
    /// Whether a power failure may lose a write that has returned, until the medium is synced.
    pub(super) is_volatile: bool,
}

impl Media {
    /// The media that are written, in order.
    pub(super) fn written(&self) -> impl Iterator<Item = &dyn BlockMedium> {
        std::iter::once(&*self.main).chain(self.shadow.as_deref())
    }

    /// The sizes of transfers are multiples of this many bytes.
    pub(super) fn io_size(&self) -> u32 {
        self.written().map(BlockMedium::io_size).max().unwrap_or(IO_SIZE_MAX)
    }
}
