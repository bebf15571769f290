//! Whether this node has ever heard of others. A node that is not told where others are then waits for them at each start, as
//! their records may be newer, even if it was alone when it last ran: another may have been alone later. A node that never had
//! company serves at once.
//!
//! A file in the work directory tells it. It is written once in the life of a node, with seeds or without, and only an operator
//! removes it. The cluster thread writes it when it first hears of another node, before the two can be one cluster: the wait
//! for the disk delays no cluster, and no partition of a cluster with others is served before the file is durable.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use datamodel::device_header::PartitionEntry;

use crate::config::Config;

/// Name of the file.
const FILE_NAME: &str = "in-cluster";

/// The file.
#[derive(Debug)]
pub(crate) struct Company {
    /// The work directory, if there is one.
    folder: Option<PathBuf>,
    is_noted: bool,
}

impl Company {
    pub(crate) fn new(config: &Config) -> Self {
        Company::of_folder(config.work_folder())
    }

    /// If it is not known whether the file is there, the node waits for others.
    fn of_folder(folder: Option<PathBuf>) -> Self {
        let is_noted =
            folder.as_ref().is_some_and(|folder| folder.join(FILE_NAME).try_exists().unwrap_or(true));
        Company { folder, is_noted }
    }

    /// Whether the file tells of other nodes.
    pub(crate) fn is_noted(&self) -> bool {
        self.is_noted
    }

    /// Notes that there are other nodes. If that fails, the next call tries again.
    pub(super) fn note(&mut self) {
        if self.is_noted {
            return;
        }
        let nowhere = || io::Error::new(ErrorKind::NotFound, "there is none");
        match self.folder.as_deref().ok_or_else(nowhere).and_then(write) {
            Ok(path) => {
                self.is_noted = true;
                cf::info!(
                    Clustering,
                    "noted in {} that there are other nodes: each start waits for them",
                    path.display()
                );
            }
            Err(error) => cf::warning_limited!(
                Clustering,
                "cannot note in the work directory that there are other nodes: {error}; without seeds, the next start may \
                 not wait for them: set a work-directory that can be written, or seeds"
            ),
        }
    }
}

/// Writes the file durably, in a folder that need not exist.
fn write(folder: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(FILE_NAME);
    File::create(&path)?.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(path)
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
    fn company_is_noted_for_good() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("not/there/yet");
        let company = || Company::of_folder(Some(folder.clone()));
        assert!(!company().is_noted());
        assert!(!folder.exists(), "a node that never had company leaves no trace");
        let mut first = company();
        first.note();
        assert!(first.is_noted() && company().is_noted());
        // Once noted, the file is not written again.
        fs::remove_file(folder.join(FILE_NAME)).unwrap();
        first.note();
        assert!(!company().is_noted());
    }

    #[test]
    fn a_note_that_fails_is_tried_again() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, target) = (parent.path().join("work"), parent.path().join("nowhere"));
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(target.join("file"), folder.join(FILE_NAME)).unwrap();
        let mut company = Company::of_folder(Some(folder));
        company.note();
        assert!(!company.is_noted());
        fs::create_dir(target).unwrap();
        company.note();
        assert!(company.is_noted());
        let mut nowhere = Company::of_folder(None);
        nowhere.note();
        assert!(!nowhere.is_noted());
    }

    #[test]
    fn a_node_that_does_not_know_waits() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Company::of_folder(Some(file.join("below"))).is_noted());
    }

    #[test]
    fn versions_show_whether_there_were_others() {
        let master = PartitionVersion::new(7, 0).with_master(true);
        let entry = |version| PartitionEntry { version, tree_id: 1 };
        let absent = PartitionVersion::default();
        let alone = |versions: [PartitionVersion; 2]| are_of_node_alone(&versions.map(entry));
        assert!(alone([absent, absent]) && alone([master, master]));
        assert!(!alone([master, absent]), "another node had the rest");
        assert!(!alone([master, master.with_master(false)]), "another node was master");
    }
}
