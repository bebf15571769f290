//! Folders whose files need no disk writes. The data of a killed process survives in them, and the
//! synchronous writes of many tests are fast.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// The folder of Linux for files in memory.
const MEMORY: &str = "/dev/shm";

/// A folder in memory, if there is room for twice `size` bytes; otherwise a folder for temporary files.
pub fn fast_folder(size: u64) -> TempDir {
    let room = statvfs(Path::new(MEMORY)).map_or(0, |it| it.blocks_available() * it.fragment_size());
    let mut builder = tempfile::Builder::new();
    builder.prefix("ferrospike-data-");
    let folder = if room >= 2 * size { builder.tempdir_in(MEMORY) } else { builder.tempdir() };
    folder.expect("a temporary folder")
}
