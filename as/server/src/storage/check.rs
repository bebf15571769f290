//! Checks for `--check-config` whether the files and devices of a namespace can be used, without changing
//! anything.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use cf::sys::block::{BlockError, Operation};
use cf::sys::probe::check_writable;

use super::encryption::check_keys;
use super::error::OpenError;
use super::medium::{Opened, check_disk};
use super::open::{OpenSettings, check_heads};
use crate::config::StorageConfig;

/// Reasons why the files or devices of `config` cannot be opened, as far as they can be found without
/// creating files, each with the index of the one concerned. The headers are judged together if all devices exist.
pub(crate) fn check_backings(namespace: &str, config: &StorageConfig) -> Vec<(Option<usize>, OpenError)> {
    let mut errors = Vec::new();
    let mut disks: Vec<Opened> = Vec::new();
    let backings = config.backings();
    if backings.is_empty() {
        return errors;
    }
    errors.extend(check_keys(config).err().map(|error| (None, error.into())));
    for (index, backing) in backings.iter().enumerate() {
        let paths = || std::iter::once(&backing.path).chain(&backing.shadow).map(PathBuf::from);
        let new: Vec<PathBuf> = paths().filter(|path| !config.is_raw_device() && is_new(path)).collect();
        let unusable = new.iter().filter_map(|path| check_new(path).err());
        errors.extend(unusable.map(|error| (Some(index), error.into())));
        if new.is_empty() {
            match check_disk(backing, config) {
                Ok(disk) => disks.push(disk),
                Err(error) => errors.push((Some(index), error)),
            }
        }
    }
    if errors.is_empty() && disks.len() == backings.len() && !config.params.cold_start_empty.get() {
        let judged = check_heads(&OpenSettings { namespace, config, signature: 1 }, &disks);
        errors.extend(judged.err().map(|error| (None, error)));
    }
    errors
}

/// Files and devices that several of `namespaces` would open, each with the second path that names it.
pub(crate) fn shared_backings<'a>(
    namespaces: impl Iterator<Item = (&'a str, &'a StorageConfig)>,
) -> Vec<(&'a str, PathBuf)> {
    let (mut seen, mut shared) = (HashSet::new(), Vec::new());
    for (namespace, config) in namespaces {
        for backing in config.backings() {
            for path in std::iter::once(backing.path).chain(backing.shadow).map(PathBuf::from) {
                if !seen.insert(resolved(&path)) {
                    shared.push((namespace, path));
                }
            }
        }
    }
    shared
}

/// The path with links resolved, as far as its folder exists.
fn resolved(path: &Path) -> PathBuf {
    let of_folder = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(of_folder).unwrap_or_else(|| path.to_owned())
}

/// Whether a start would create or fill the file.
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
