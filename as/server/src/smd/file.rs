//! Files of the modules' items: one for each module, in the folder `smd` of the work directory.
//!
//! A file is never overwritten. The new one is written as `<module>.smd.save` and synced, then renamed, and then the
//! folder is synced. Whenever the process or the machine stops, a start finds the whole old file or the whole new one.
//! A damaged file is kept as `<module>.smd.unreadable`, or with a number after that if there is one already, and the
//! module starts empty, as on the C server, which overwrites the file at the next set. If it cannot be kept, the server
//! does not start. It does not start either if the file of users and roles is damaged: without its users it would admit
//! everyone who knows the first administrator's default password. A file that has only lost its version is used.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use datamodel::smd::{SmdFile, SmdFileError, SmdItem, SmdVersion, decode_file, encode_file};

use super::Module;

/// Folder of the files in the work directory.
const FOLDER_NAME: &str = "smd";
/// Most damaged files of a module that are kept.
const KEPT_MAX: usize = 100;

/// The storage of the files. Tests use one that fails.
pub(super) trait Folder: Send + Sync {
    /// The bytes of file `name`; `None` if nothing has this name.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Whether anything has the name `name`, a file or not.
    fn has(&self, name: &str) -> io::Result<bool>;
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
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Such a link is to a place that is not there now, for instance not mounted.
            Err(_) if self.has(name)? => Err(io::Error::other("it is a link to a file that is not there")),
            Err(_) => Ok(None),
        }
    }

    fn has(&self, name: &str) -> io::Result<bool> {
        match fs::symlink_metadata(self.0.join(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
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

/// The file of `module`, in messages.
pub(super) fn place(folder: &dyn Folder, module: Module) -> String {
    format!("{}/{}", folder.path(), file_name(module))
}

/// What a start finds of a module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Found {
    /// Whether there was a file, damaged or not.
    pub(super) is_stored: bool,
    pub(super) version: SmdVersion,
    pub(super) items: Vec<SmdItem>,
}

/// A damaged file, and what becomes of it.
struct Damage {
    error: SmdFileError,
    /// The name under which it will be kept.
    kept_as: String,
}

/// Whether there is a file of `module`.
///
/// # Errors
/// When that cannot be found out.
pub(super) fn is_stored(folder: &dyn Folder, module: Module) -> io::Result<bool> {
    folder.has(&file_name(module))
}

/// Reads the file of `module` without changing it.
///
/// # Errors
/// When it cannot be read, or is damaged and cannot be kept.
fn examine(folder: &dyn Folder, module: Module) -> io::Result<Option<Result<SmdFile, Damage>>> {
    let name = file_name(module);
    let Some(bytes) = folder.read(&name)? else { return Ok(None) };
    Ok(Some(match decode_file(&bytes) {
        Ok(content) => Ok(content),
        Err(error) if module == Module::Security => {
            let text = format!(
                "it holds the users and roles and cannot be used, {error}: put a copy from a backup or from another node \
                 in its place, or take it away to start with the first administrator alone"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Err(error) => match free_name(folder, &name)? {
            Some(kept_as) => Err(Damage { error, kept_as }),
            None => {
                let text = format!(
                    "it cannot be used, {error}, and cannot be kept either, as there are {KEPT_MAX} damaged ones already: \
                     move {name}.unreadable and those with numbers to another folder, and start again"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        },
    }))
}

/// A name under which the damaged file `name` can be kept, so that those kept before stay; `None`: there are too many.
fn free_name(folder: &dyn Folder, name: &str) -> io::Result<Option<String>> {
    for number in 0..KEPT_MAX {
        let free = match number {
            0 => format!("{name}.unreadable"),
            number => format!("{name}.unreadable.{number}"),
        };
        if !folder.has(&free)? {
            return Ok(Some(free));
        }
    }
    Ok(None)
}

/// The items that a start would find in the file of `module`; `None` if there is no file. Nothing is changed.
///
/// # Errors
/// As [`load`].
pub(super) fn look_into(folder: &dyn Folder, module: Module) -> io::Result<Option<Vec<SmdItem>>> {
    Ok(examine(folder, module)?.map(|content| content.map_or_else(|_| Vec::new(), |content| content.items)))
}

/// Version and items in the file of `module`; empty if there is no file.
///
/// # Errors
/// When the file cannot be read. A damaged one is renamed, and it is an error if that is impossible.
pub(super) fn load(folder: &dyn Folder, module: Module) -> io::Result<Found> {
    let (name, place) = (file_name(module), folder.path());
    match examine(folder, module)? {
        None => Ok(Found::default()),
        Some(Ok(SmdFile { version, items, has_damaged_version })) => {
            if has_damaged_version {
                cf::warning!(
                    Smd,
                    "{place}/{name} has no version where it should be: its items are used, and the next change of module {} \
                     writes a new version",
                    module.name()
                );
            }
            Ok(Found { is_stored: true, version, items })
        }
        Some(Err(Damage { error, kept_as })) => {
            cf::warning!(
                Smd,
                "{place}/{name} cannot be used, {error}: it is kept as {kept_as}, and module {} starts empty; to use it, \
                 correct it and put it back under its name while the server is stopped",
                module.name()
            );
            folder.rename(&name, &kept_as).and_then(|()| folder.sync()).map_err(|error| {
                let text = format!("it is damaged and cannot be renamed to {kept_as}, to be kept: {error}");
                io::Error::new(error.kind(), text)
            })?;
            Ok(Found { is_stored: true, ..Found::default() })
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
        decode_file(&bytes).is_ok_and(|read| read.version == version && read.items == items),
        "a file of metadata is written as it is read"
    );
    let of = |name: &str, error: &io::Error| {
        io::Error::new(error.kind(), format!("{}/{name}: {error}", folder.path()))
    };
    folder.write(&new_name, &bytes).map_err(|error| of(&new_name, &error))?;
    folder.rename(&new_name, &name).and_then(|()| folder.sync()).map_err(|error| of(&name, &error))
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

        fn has(&self, name: &str) -> io::Result<bool> {
            Ok(self.disk.lock().live.contains_key(name))
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

        /// The bytes of file `name`, which exists.
        pub(crate) fn content(&self, name: &str) -> Vec<u8> {
            self.disk.lock().live[name].clone()
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
                    let found = load(&found, Module::Truncate).expect("it can be read").items;
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
        let found = load(&found[0], Module::Truncate).expect("it can be read");
        assert_eq!((found.version, found.items), (version, items("new")));
    }

    /// A file without a version too: every server writes one.
    #[test]
    fn each_damaged_file_is_kept() {
        let damaged: [&[u8]; 4] = [b"[[1,1],{\"key\"", b"[]", b"", b"{}"];
        let folder = CrashingFolder::with(&[("UDF.smd.unreadable.3", b"of somebody else")]);
        for bytes in damaged {
            folder.write("UDF.smd", bytes).expect("the disk works");
            let found = load(&folder, Module::Udf).expect("it can be read");
            assert_eq!(found, Found { is_stored: true, ..Found::default() });
            assert_eq!(load(&folder, Module::Udf).expect("it can be read"), Found::default());
        }
        for (suffix, bytes) in [("", damaged[0]), (".1", damaged[1]), (".2", damaged[2]), (".4", damaged[3])]
        {
            let kept = folder.read(&format!("UDF.smd.unreadable{suffix}")).expect("the disk works");
            assert_eq!(kept.as_deref(), Some(bytes), "{suffix}");
        }
    }

    #[test]
    fn what_cannot_be_kept_stops_the_start() {
        let numbered = (1..KEPT_MAX).map(|number| format!("UDF.smd.unreadable.{number}"));
        let names: Vec<_> =
            ["UDF.smd", "UDF.smd.unreadable"].map(str::to_owned).into_iter().chain(numbered).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
        let folder = CrashingFolder::with(&files);
        for error in [look_into(&folder, Module::Udf).unwrap_err(), load(&folder, Module::Udf).unwrap_err()] {
            assert!(error.to_string().contains("move UDF.smd.unreadable and those with numbers"), "{error}");
        }
        assert_eq!(folder.read("UDF.smd").expect("the disk works").as_deref(), Some(&b"x"[..]));
        let folder = CrashingFolder::with(&[("UDF.smd", b"x")]);
        look_into(&folder, Module::Udf).expect("it can be kept");
        folder.disk.lock().stop_at = Some((folder.steps(), 0));
        let error = load(&folder, Module::Udf).unwrap_err().to_string();
        assert_eq!(
            error,
            "it is damaged and cannot be renamed to UDF.smd.unreadable, to be kept: the disk has stopped"
        );
    }

    #[test]
    fn a_file_that_lost_its_version_is_used() {
        let file = encode_file(SmdVersion { cluster_key: 7, tid: 2 }, &items("kept"));
        let damaged = String::from_utf8(file).expect("text").replacen("7,", "null,", 1);
        let folder = CrashingFolder::with(&[("UDF.smd", damaged.as_bytes())]);
        let found = load(&folder, Module::Udf).expect("it can be read");
        assert_eq!((found.version, found.items), (SmdVersion { cluster_key: 0, tid: 2 }, items("kept")));
        assert_eq!(folder.names(), ["UDF.smd"]);
    }

    #[test]
    fn a_link_to_nothing_is_not_a_missing_file() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = DiskFolder::new(place.path());
        fs::create_dir(place.path().join("smd")).expect("a folder");
        assert_eq!(load(&folder, Module::Evict).expect("there is none"), Found::default());
        std::os::unix::fs::symlink("/no/such/file", place.path().join("smd/evict.smd")).expect("a link");
        let error = load(&folder, Module::Evict).unwrap_err().to_string();
        assert!(error.contains("a link to a file that is not there"), "{error}");
        // What is kept may not be a file.
        fs::create_dir(place.path().join("smd/UDF.smd.unreadable")).expect("a folder");
        folder.write("UDF.smd", b"x").expect("it can be written");
        load(&folder, Module::Udf).expect("it is kept");
        assert!(place.path().join("smd/UDF.smd.unreadable.1").is_file());
    }

    #[test]
    fn what_is_not_written_is_named() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = DiskFolder::new(place.path());
        fs::create_dir_all(place.path().join("smd/UDF.smd.save")).expect("a folder");
        let error = save(&folder, Module::Udf, SmdVersion::default(), &[]).unwrap_err().to_string();
        assert!(error.contains("/smd/UDF.smd.save: "), "{error}");
        fs::create_dir(place.path().join("smd/evict.smd")).expect("a folder");
        let error = save(&folder, Module::Evict, SmdVersion::default(), &[]).unwrap_err().to_string();
        assert!(error.contains("/smd/evict.smd: "), "{error}");
    }

    #[test]
    fn files_on_disk_are_replaced_whole() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = DiskFolder::new(&place.path().join("work"));
        let version = SmdVersion { cluster_key: 7, tid: 2 };
        assert_eq!(load(&folder, Module::Sindex).expect("it can be read"), Found::default());
        for value in ["a longer first value", "second"] {
            save(&folder, Module::Sindex, version, &items(value)).expect("it can be written");
            let found = Found { is_stored: true, version, items: items(value) };
            assert_eq!(load(&folder, Module::Sindex).expect("it can be read"), found);
        }
        let names: Vec<_> = fs::read_dir(place.path().join("work/smd"))
            .expect("it was made")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["sindex.smd"]);
    }
}
