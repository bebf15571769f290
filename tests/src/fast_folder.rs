//! Folders whose files cost no writes to a disk: what a killed process has written is there as well, and writes that
//! wait for the disk, as tests make many of, are fast.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";

/// A folder in memory if there is room for `size` bytes and as much again, else one where temporary files are.
pub fn fast_folder(size: u64) -> TempDir {
    let room = statvfs(Path::new(MEMORY)).map_or(0, |it| it.blocks_available() * it.fragment_size());
    let mut builder = tempfile::Builder::new();
    builder.prefix("ferrospike-data-");
    let folder = if room >= 2 * size { builder.tempdir_in(MEMORY) } else { builder.tempdir() };
    folder.expect("a temporary folder")
}
