//! Whether the files and devices of a namespace could be used, without changing anything: for `--check-config`.

use std::io;
use std::path::{Path, PathBuf};

use cf::sys::block::{BlockError, Operation};
use cf::sys::probe::check_writable;

use super::error::OpenError;
use super::medium::{Opened, check_disk};
use super::open::{OpenSettings, check_heads};
use crate::config::StorageConfig;

/// What stands in the way of opening what `config` lists: everything that can be told without creating files. The headers
/// are judged together if all are there.
pub(crate) fn check_backings(namespace: &str, config: &StorageConfig) -> Vec<OpenError> {
    let mut errors = Vec::new();
    let mut disks: Vec<Opened> = Vec::new();
    let backings = config.backings();
    if backings.is_empty() {
        return errors;
    }
    for backing in &backings {
        let paths = || std::iter::once(&backing.path).chain(&backing.shadow).map(PathBuf::from);
        let new: Vec<PathBuf> = paths().filter(|path| !config.is_raw_device() && is_new(path)).collect();
        errors.extend(new.iter().filter_map(|path| check_new(path).err()).map(OpenError::from));
        if new.is_empty() {
            match check_disk(backing, config) {
                Ok(disk) => disks.push(disk),
                Err(error) => errors.push(error),
            }
        }
    }
    if errors.is_empty() && disks.len() == backings.len() && !config.params.cold_start_empty.get() {
        errors.extend(check_heads(&OpenSettings { namespace, config, signature: 1 }, &disks).err());
    }
    errors
}

/// Whether a start would make the file, or fill it.
fn is_new(path: &Path) -> bool {
    std::fs::metadata(path).map_or_else(
        |error| error.kind() == io::ErrorKind::NotFound,
        |file| file.is_file() && file.len() == 0,
    )
}

fn check_new(path: &Path) -> Result<(), BlockError> {
    check_writable(path).map_err(|source| BlockError {
        path: path.to_owned(),
        operation: Operation::Open,
        place: None,
        source,
    })
}
