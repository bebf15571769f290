//! Whether this node was in a cluster with others when it last ran, for a node that is not told where others are: it then
//! waits for them at a start, as its records may be older than theirs. A node that was alone serves at once.
//!
//! The versions of partitions on devices tell it; for namespaces in memory a file in the work directory does.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use datamodel::device_header::PartitionEntry;

use crate::config::Config;

/// Name of the file that is there while the cluster has other nodes.
const FILE_NAME: &str = "in-cluster";

/// The file; none if the node is told where others are, or has no work directory.
#[derive(Debug)]
pub(crate) struct Company(Option<PathBuf>);

impl Company {
    pub(crate) fn new(config: &Config) -> Self {
        let folder = config.service.work_directory.get().filter(|_| !config.network.looks_for_others());
        let folder = folder.filter(|folder| Path::new(&**folder).is_dir());
        Company(folder.map(|folder| Path::new(&*folder).join(FILE_NAME)))
    }

    /// Whether the file tells of other nodes.
    pub(crate) fn is_noted(&self) -> bool {
        self.0.as_ref().is_some_and(|path| path.exists())
    }

    /// Notes whether the cluster has other nodes.
    pub(super) fn note(&self, has_others: bool) {
        let Some(path) = &self.0 else { return };
        if path.exists() == has_others {
            return;
        }
        if let Err(error) = if has_others { create(path) } else { remove(path) } {
            cf::warning!(Clustering, "{} cannot be changed: {error}", path.display());
        }
    }
}

fn create(path: &Path) -> io::Result<()> {
    File::create(path)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the partitions of a namespace, as its devices store them, are those of a node that was alone: it was master of all,
/// or there are none yet.
pub(crate) fn are_of_node_alone(entries: &[PartitionEntry]) -> bool {
    let has_data = |entry: &PartitionEntry| entry.version.has_data();
    let is_master = |entry: &PartitionEntry| has_data(entry) && entry.version.is_master();
    !entries.iter().any(has_data) || entries.iter().all(is_master)
}

#[cfg(test)]
mod tests {
    use datamodel::partition_version::PartitionVersion;

    use super::*;

    #[test]
    fn the_file_is_there_while_the_cluster_has_others() {
        let folder = tempfile::tempdir().unwrap();
        let company = Company(Some(folder.path().join(FILE_NAME)));
        for has_others in [false, true, true, false, false] {
            company.note(has_others);
            assert_eq!(company.is_noted(), has_others);
        }
        let nowhere = Company(None);
        nowhere.note(true);
        assert!(!nowhere.is_noted());
    }

    #[test]
    fn versions_tell_whether_there_were_others() {
        let master = PartitionVersion::new(7, 0).with_master(true);
        let entry = |version| PartitionEntry { version, tree_id: 1 };
        let absent = PartitionVersion::default();
        let alone = |versions: [PartitionVersion; 2]| are_of_node_alone(&versions.map(entry));
        assert!(alone([absent, absent]) && alone([master, master]));
        assert!(!alone([master, absent]), "another node had the rest");
        assert!(!alone([master, master.with_master(false)]), "another node was master");
    }
}
