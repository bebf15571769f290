//! Errors of storage: about a record, or about the files and devices of a namespace.

use cf::sys::block::BlockError;

use super::encryption::EncryptionError;
use super::header::DeviceSetError;
use super::shadow::ShadowMismatch;

/// The reason why a record could not be stored or read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// No write block is free.
    #[error("no write block is free")]
    OutOfSpace,
    /// No write block is free for now: defrag is making room.
    #[error("no write block is free until defrag has made room")]
    Congested,
    /// The device failed; the log has the details.
    #[error("it cannot be read or written, as its device failed")]
    Failed,
    /// The device holds something else at the record's place.
    #[error("its place holds something else: the record is damaged")]
    Damaged,
    /// The record must be read from its disk first, without its guard.
    #[error("it is not in memory")]
    NotInMemory,
    /// The reader's budget does not suffice to unpack the record.
    #[error("it takes too long to unpack")]
    Refused,
}

/// The reason why the devices of a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("{0}")]
    Set(#[from] DeviceSetError),
    #[error("{0}")]
    Shadow(#[from] Box<ShadowMismatch>),
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    #[error("{path}: {size} bytes, but a device needs 128 MiB at least")]
    TooSmall { path: String, size: u64 },
    #[error("{shadow}: {shadow_size} bytes, but {path}, which it is the shadow of, has {size}")]
    ShadowSize { path: String, size: u64, shadow: String, shadow_size: u64 },
    #[error("cannot reserve {0} bytes of address space for its records")]
    AddressSpace(u64),
}
