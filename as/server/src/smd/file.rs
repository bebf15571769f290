//! Files of the modules' items: one for each module, in the folder `smd` of the work directory.
//!
//! A file is never overwritten. The new one is written as `<module>.smd.save` and synced, then renamed, and then the
//! folder is synced. Whenever the process or the machine stops, a start finds the whole old file or the whole new one.
//! A damaged file is kept as `<module>.smd.unreadable` and the module starts empty, as on the C server, which
//! overwrites it at the next set. If the file of users and roles is damaged, the server does not start: without its
//! users it would admit everyone who knows the first administrator's default password.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use datamodel::smd::{SmdItem, SmdVersion, decode_file, encode_file};

use super::Module;

/// Folder of the files in the work directory.
const FOLDER_NAME: &str = "smd";

/// The storage of the files. Tests use one that fails.
pub(super) trait Folder: Send + Sync {
    /// The bytes of file `name`; `None` if there is no such file.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Writes `bytes` to file `name`, replacing another one, and syncs it.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Renames file `from` to `to`, replacing another one. The new name is durable after a [`sync`](Self::sync).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes the names of all files durable.
    fn sync(&self) -> io::Result<()>;
    /// Its path in messages.
    fn path(&self) -> String;
}

/// The folder in the work directory. It is created with the first file.
pub(super) struct DiskFolder(PathBuf);

impl DiskFolder {
    pub(super) fn new(work_directory: &Path) -> Self {
        DiskFolder(work_directory.join(FOLDER_NAME))
    }
}

impl Folder for DiskFolder {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(name);
        let created = match File::create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.0)?;
                File::create(&path)
            }
            created => created,
        };
        let mut file = created?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

fn file_name(module: Module) -> String {
    format!("{}.smd", module.name())
}

/// The bytes of the file of `module`, if there is one.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(folder: &dyn Folder, module: Module) -> io::Result<Option<Vec<u8>>> {
    folder.read(&file_name(module))
}

/// Version and items in the file of `module`; empty if there is no file.
///
/// # Errors
/// When the file cannot be read. A damaged one is renamed.
pub(super) fn load(folder: &dyn Folder, module: Module) -> io::Result<(SmdVersion, Vec<SmdItem>)> {
    let name = file_name(module);
    let Some(bytes) = folder.read(&name)? else {
        return Ok(Default::default());
    };
    match decode_file(&bytes) {
        Ok(content) => Ok(content),
        Err(error) if module == Module::Security => {
            let text = format!(
                "it holds the users and roles and cannot be used, {error}: put a copy in its place, or take it away to start \
                 with the first administrator alone"
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
        Err(error) => {
            let aside = format!("{name}.unreadable");
            cf::warning!(
                Smd,
                "{}/{name} cannot be used, {error}: it is kept as {aside}, and module {} starts empty",
                folder.path(),
                module.name()
            );
            folder.rename(&name, &aside)?;
            folder.sync()?;
            Ok(Default::default())
        }
    }
}

/// Replaces the file of `module` with one that holds `items`. It is durable when this returns.
///
/// # Errors
/// When it cannot be written. Then either the old or the new file is in place.
pub(super) fn save(
    folder: &dyn Folder,
    module: Module,
    version: SmdVersion,
    items: &[SmdItem],
) -> io::Result<()> {
    let name = file_name(module);
    let new_name = format!("{name}.save");
    let bytes = encode_file(version, items);
    debug_assert!(
        decode_file(&bytes).is_ok_and(|(read, read_items)| read == version && read_items == items),
        "a file of metadata is written as it is read"
    );
    folder.write(&new_name, &bytes)?;
    folder.rename(&new_name, &name)?;
    folder.sync()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    type Files = BTreeMap<String, Vec<u8>>;

    /// A folder on a disk that stops at a chosen step, with all states that a crash may leave.
    #[derive(Default)]
    pub(crate) struct CrashingFolder {
        pub(crate) disk: Mutex<Disk>,
    }

    #[derive(Default)]
    pub(crate) struct Disk {
        /// The files that the process sees.
        live: Files,
        /// The states that a start may find after a crash.
        after_crash: Vec<Files>,
        steps: usize,
        /// The step that fails, like all later ones, and the bytes that it still writes to its file.
        pub(crate) stop_at: Option<(usize, usize)>,
    }

    impl Disk {
        /// Counts a step; returns whether it fails.
        fn is_end(&mut self) -> bool {
            self.steps += 1;
            self.stop_at.is_some_and(|(step, _)| self.steps > step)
        }

        fn settle(&mut self) {
            self.after_crash = vec![self.live.clone()];
        }
    }

    fn stopped() -> io::Error {
        io::Error::other("the disk has stopped")
    }

    impl Folder for Arc<CrashingFolder> {
        fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
            Ok(self.disk.lock().live.get(name).cloned())
        }

        fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            let mut disk = self.disk.lock();
            let torn = disk.stop_at.map_or(0, |(_, torn)| torn.min(bytes.len()));
            let is_end = disk.is_end();
            let written = if is_end { &bytes[..torn] } else { bytes };
            disk.live.insert(name.to_owned(), written.to_vec());
            // Until the folder is synced, a crash may lose the name or keep it.
            for files in std::mem::take(&mut disk.after_crash) {
                let mut with = files.clone();
                with.insert(name.to_owned(), written.to_vec());
                disk.after_crash.extend([files, with]);
            }
            if is_end { Err(stopped()) } else { Ok(()) }
        }

        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            let mut disk = self.disk.lock();
            if disk.is_end() {
                return Err(stopped());
            }
            let bytes = disk.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
            disk.live.insert(to.to_owned(), bytes);
            let live = disk.live.clone();
            disk.after_crash.push(live);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            let mut disk = self.disk.lock();
            if disk.is_end() {
                return Err(stopped());
            }
            disk.settle();
            Ok(())
        }

        fn path(&self) -> String {
            "folder".to_owned()
        }
    }

    impl CrashingFolder {
        /// The folders that a start may find after a crash.
        pub(crate) fn after_crash(&self) -> Vec<Arc<CrashingFolder>> {
            let disk = self.disk.lock();
            let folder = |files: &Files| {
                let disk = Disk { live: files.clone(), after_crash: vec![files.clone()], ..Disk::default() };
                Arc::new(CrashingFolder { disk: Mutex::new(disk) })
            };
            disk.after_crash.iter().map(folder).collect()
        }

        pub(crate) fn with(files: &[(&str, &[u8])]) -> Arc<CrashingFolder> {
            let files: Files =
                files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
            let disk = Disk { live: files.clone(), after_crash: vec![files], ..Disk::default() };
            Arc::new(CrashingFolder { disk: Mutex::new(disk) })
        }

        pub(crate) fn names(&self) -> Vec<String> {
            self.disk.lock().live.keys().cloned().collect()
        }

        pub(crate) fn steps(&self) -> usize {
            self.disk.lock().steps
        }
    }

    fn items(value: &str) -> Vec<SmdItem> {
        vec![SmdItem { key: "k".to_owned(), value: Some(value.to_owned()), generation: 1, timestamp: 1 }]
    }

    #[test]
    fn a_crash_at_any_write_leaves_the_old_file_or_the_new_one() {
        let version = SmdVersion { cluster_key: 1, tid: 1 };
        let new_size = encode_file(version, &items("new")).len();
        let (mut old, mut new) = (0, 0);
        for stop_at in 0..3 {
            for torn in 0..=new_size {
                let folder = CrashingFolder::with(&[]);
                save(&folder, Module::Truncate, version, &items("old")).expect("the disk works");
                folder.disk.lock().stop_at = Some((folder.steps() + stop_at, torn));
                assert!(save(&folder, Module::Truncate, version, &items("new")).is_err());
                for found in folder.after_crash() {
                    let (_, found) = load(&found, Module::Truncate).expect("it can be read");
                    assert!(found == items("old") || found == items("new"), "{found:?}");
                    *(if found == items("old") { &mut old } else { &mut new }) += 1;
                }
            }
        }
        assert!(old > 0 && new > 0, "both were found: {old}, {new}");
        let folder = CrashingFolder::with(&[]);
        save(&folder, Module::Truncate, version, &items("old")).expect("the disk works");
        save(&folder, Module::Truncate, version, &items("new")).expect("the disk works");
        let found: Vec<_> = folder.after_crash();
        assert_eq!(found.len(), 1, "what is acknowledged is on disk");
        assert_eq!(load(&found[0], Module::Truncate).expect("it can be read"), (version, items("new")));
    }

    #[test]
    fn a_damaged_file_is_kept_aside() {
        let folder = CrashingFolder::with(&[("UDF.smd", b"[[1,1],{\"key\"")]);
        assert_eq!(load(&folder, Module::Udf).expect("it can be read"), Default::default());
        assert_eq!(folder.names(), ["UDF.smd.unreadable"]);
    }

    #[test]
    fn files_on_disk_are_replaced_whole() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = DiskFolder::new(&place.path().join("work"));
        let version = SmdVersion { cluster_key: 7, tid: 2 };
        assert_eq!(load(&folder, Module::Sindex).expect("it can be read"), Default::default());
        for value in ["a longer first value", "second"] {
            save(&folder, Module::Sindex, version, &items(value)).expect("it can be written");
            assert_eq!(load(&folder, Module::Sindex).expect("it can be read"), (version, items(value)));
        }
        let names: Vec<_> = fs::read_dir(place.path().join("work/smd"))
            .expect("it was made")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["sindex.smd"]);
    }
}
