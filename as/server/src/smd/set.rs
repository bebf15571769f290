//! The items of all modules on this node: setting them, and notifying listeners.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use cf::clock::StoredMillis;
use datamodel::smd::{SmdItem, SmdVersion};
use parking_lot::Mutex;

use super::file::{self, DiskFolder, Folder, Found};
use super::merge::{Catalog, Update};
use super::{MODULES, Module};

/// The reason for a call of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Occasion {
    /// The listener has just begun to listen; it gets the present items.
    Start,
    /// The items have just changed.
    Change,
}

/// A part of the server that acts on the items of a module.
pub(crate) trait Listener: Send + Sync {
    /// Acts on `items`; one without a value is deleted. It must not set an item of its module.
    fn accept(&self, items: &[&SmdItem], occasion: Occasion);
}

impl<F: Fn(&[&SmdItem], Occasion) + Send + Sync> Listener for F {
    fn accept(&self, items: &[&SmdItem], occasion: Occasion) {
        self(items, occasion);
    }
}

/// The reason why an item is not set. Nothing has changed then, except as `Timeout` says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetError {
    /// C cannot represent such text, and would refuse the whole file.
    #[error("a zero byte cannot be stored")]
    ZeroByte,
    #[error("cannot be stored: {0}")]
    Storage(#[from] io::Error),
    /// The principal could not act on it, for this reason.
    #[error("{0}")]
    Refused(String),
    /// Not all nodes have the change; some may.
    #[error("timeout")]
    Timeout,
}

/// Makes a change on all nodes of the cluster: module, key, and the value, or `None` to delete the key. Returns when
/// all nodes have it.
pub(crate) type Propagate = Box<dyn Fn(Module, &str, Option<&str>) -> Result<(), SetError> + Send + Sync>;

/// A module's items and its listeners.
struct ModuleState {
    catalog: Catalog,
    /// Whether the start found a file.
    was_stored: bool,
    listeners: Vec<Box<dyn Listener>>,
}

impl ModuleState {
    /// Notifies the listeners of items that have just changed.
    fn tell(&self, news: &[&SmdItem]) {
        self.listeners.iter().for_each(|listener| listener.accept(news, Occasion::Change));
    }
}

/// All modules. See [`super`] for how to use it.
pub(crate) struct Smd {
    /// `None`: nothing is stored.
    folder: Option<Box<dyn Folder>>,
    cluster_key: u64,
    /// In the order of [`MODULES`].
    modules: Vec<Mutex<ModuleState>>,
    /// Set when the node joins other nodes.
    propagate: OnceLock<Propagate>,
}

/// The error of reading the file of `module`, with its place.
fn unreadable(folder: &dyn Folder, module: Module, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("system metadata in {}: {error}", file::place(folder, module)))
}

/// Logs the keys that have several items in the file of `module`.
fn report_repeated(module: Module, items: &[SmdItem]) {
    let mut known = HashSet::new();
    let repeated = items.iter().filter(|item| !known.insert(item.key.as_str()));
    let keys: Vec<String> = repeated.map(|item| item.key.escape_debug().to_string()).collect();
    if !keys.is_empty() {
        let name = module.name();
        cf::warning!(
            Smd,
            "{name}.smd has several items of one key ('{}'): the latest of each counts, and the next change of the module \
             drops the others",
            keys.join("', '")
        );
    }
}

/// Checks that changes can be stored, so that the first one does not fail long after the start.
fn check_creatable(work_directory: &Path) -> io::Result<()> {
    cf::sys::probe::check_creatable(work_directory).map_err(|error| {
        let path = work_directory.display();
        let remedy = match error.kind() {
            io::ErrorKind::NotADirectory => {
                "a file is in its place: remove it, or name another work-directory"
            }
            _ => "create it, or name another one",
        };
        io::Error::new(
            error.kind(),
            format!("the work-directory {path} cannot be created: {error}; {remedy}"),
        )
    })
}

impl Smd {
    /// Whether `work_directory` has a file of `module`.
    pub(crate) fn has_file(work_directory: &Path, module: Module) -> bool {
        file::is_stored(&DiskFolder::new(work_directory), module).unwrap_or(false)
    }

    /// Checks that a start could use the files in `work_directory`, without changing any.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn check(work_directory: &Path) -> io::Result<()> {
        check_creatable(work_directory)?;
        let folder = DiskFolder::new(work_directory);
        let modules = MODULES.iter().map(|row| row.module).filter(|module| module.is_used());
        for module in modules {
            file::look_into(&folder, module).map_err(|error| unreadable(&folder, module, &error))?;
        }
        Ok(())
    }

    /// The items in the file of `module` in `work_directory`, without deleted ones, and its place; `None` if there is no
    /// file. Nothing is changed.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn look_into(
        work_directory: &Path,
        module: Module,
    ) -> io::Result<Option<(String, Vec<SmdItem>)>> {
        let folder = DiskFolder::new(work_directory);
        let found = file::look_into(&folder, module).map_err(|error| unreadable(&folder, module, &error))?;
        Ok(found.map(|items| {
            let catalog = Catalog::new(module.row().rule, SmdVersion::default(), items);
            (file::place(&folder, module), catalog.live_items().cloned().collect())
        }))
    }

    /// Opens the items in the files of `work_directory`; without one nothing is stored. Changes get versions of
    /// `cluster_key`.
    ///
    /// # Errors
    /// When a file exists and cannot be read, or is damaged and the server cannot do without it; when the folder does not
    /// exist and cannot be created.
    pub(crate) fn open(work_directory: Option<&Path>, cluster_key: u64) -> io::Result<Self> {
        work_directory.map_or(Ok(()), check_creatable)?;
        let folder = work_directory.map(|path| Box::new(DiskFolder::new(path)) as Box<dyn Folder>);
        Smd::open_in(folder, cluster_key)
    }

    pub(super) fn open_in(folder: Option<Box<dyn Folder>>, cluster_key: u64) -> io::Result<Self> {
        let load = |module: Module| match &folder {
            Some(folder) if module.is_used() => {
                file::load(&**folder, module).map_err(|error| unreadable(&**folder, module, &error))
            }
            _ => Ok(Found::default()),
        };
        let modules = MODULES.iter().map(|row| {
            let Found { is_stored, version, items } = load(row.module)?;
            report_repeated(row.module, &items);
            let catalog = Catalog::new(row.rule, version, items);
            Ok(Mutex::new(ModuleState { catalog, was_stored: is_stored, listeners: Vec::new() }))
        });
        let modules = modules.collect::<io::Result<_>>()?;
        Ok(Smd { folder, cluster_key, modules, propagate: OnceLock::new() })
    }

    /// The items in a folder of a test.
    #[cfg(test)]
    pub(crate) fn open_for_tests(folder: &std::sync::Arc<super::CrashingFolder>) -> Self {
        Smd::open_in(Some(Box::new(std::sync::Arc::clone(folder))), 5).expect("it can be read")
    }

    fn state(&self, module: Module) -> &Mutex<ModuleState> {
        &self.modules[module as usize]
    }

    /// Sets `key` to `value` in the whole cluster, and waits until the change is durable and this node's listeners have
    /// seen it.
    ///
    /// # Errors
    /// When the change cannot be made; then nothing has changed.
    pub(crate) fn set(&self, module: Module, key: &str, value: &str) -> Result<(), SetError> {
        self.change(module, key, Some(value))
    }

    /// As [`set`](Self::set), but deletes `key`.
    ///
    /// # Errors
    /// When the change cannot be made; then nothing has changed.
    pub(crate) fn delete(&self, module: Module, key: &str) -> Result<(), SetError> {
        self.change(module, key, None)
    }

    fn change(&self, module: Module, key: &str, value: Option<&str>) -> Result<(), SetError> {
        assert!(module.is_used(), "module {} is known by name alone", module.name());
        if [Some(key), value].into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(SetError::ZeroByte);
        }
        if let Some(propagate) = self.propagate.get() {
            return propagate(module, key, value);
        }
        self.make_change(module, (key, value), None)?;
        Ok(())
    }

    /// Makes a change that leads to `version`, or to this node's next one. Returns the item; `None` if nothing changes.
    ///
    /// # Errors
    /// When it cannot be stored, or has no effect on this node; nothing has changed then.
    fn make_change(
        &self,
        module: Module,
        (key, value): (&str, Option<&str>),
        version: Option<SmdVersion>,
    ) -> Result<Option<SmdItem>, SetError> {
        let mut state = self.state(module).lock();
        let now = StoredMillis::now();
        if let Some(error) = state.catalog.refusal(key, value, now.0) {
            let (name, value) = (module.name(), value.unwrap_or_default());
            let why = format!(
                "item '{}' of module {name} cannot be set to '{}': {error}; this node is the principal, and its clock shows \
                 {now}: correct it, or that of the node that wants the change",
                key.escape_debug(),
                value.escape_debug(),
            );
            cf::warning_limited!(Smd, "{why}");
            return Err(SetError::Refused(why));
        }
        let cluster_key = version.map_or(self.cluster_key, |version| version.cluster_key);
        let update = state.catalog.prepare_set(key, value, now.0, cluster_key);
        let Some(update) = update else { return Ok(None) };
        let item = update.item.clone();
        let undo = state.catalog.apply(Update { version: version.unwrap_or(update.version), ..update });
        if let Err(error) = self.save(module, &state.catalog) {
            cf::warning_limited!(Smd, "cannot store metadata of module {}: {error}", module.name());
            if let Some(undo) = undo {
                state.catalog.undo(undo);
            }
            return Err(error.into());
        }
        state.tell(&[&item]);
        Ok(Some(item))
    }

    /// Adds an item that is valid until another value is known, for instance from other nodes.
    ///
    /// # Errors
    /// When it cannot be stored; nothing has changed then.
    pub(crate) fn add_default(&self, module: Module, key: &str, value: &str) -> Result<(), SetError> {
        let mut state = self.state(module).lock();
        if !state.catalog.add_default(key, value) {
            return Ok(());
        }
        if let Err(error) = self.save(module, &state.catalog) {
            state.catalog.remove_default(key);
            return Err(error.into());
        }
        if let Some(item) = state.catalog.get(key) {
            state.tell(&[item]);
        }
        Ok(())
    }

    /// Where the items of `module` are stored, if there was a file when the server started.
    pub(crate) fn stored_in(&self, module: Module) -> Option<String> {
        let folder = self.folder.as_ref().filter(|_| self.state(module).lock().was_stored)?;
        Some(file::place(&**folder, module))
    }

    fn save(&self, module: Module, catalog: &Catalog) -> io::Result<()> {
        match &self.folder {
            Some(folder) => file::save(&**folder, module, catalog.version(), catalog.items()),
            None => Ok(()),
        }
    }

    /// Passes the present items of `module` to `listener`, and each change from now on.
    pub(crate) fn listen(&self, module: Module, listener: impl Listener + 'static) {
        let mut state = self.state(module).lock();
        let items: Vec<&SmdItem> = state.catalog.live_items().collect();
        listener.accept(&items, Occasion::Start);
        state.listeners.push(Box::new(listener));
    }

    /// The items of `module`, without deleted ones.
    pub(crate) fn live_items(&self, module: Module) -> Vec<SmdItem> {
        self.state(module).lock().catalog.live_items().cloned().collect()
    }

    /// Makes `propagate` carry out all further changes, on all nodes.
    pub(crate) fn propagate_by(&self, propagate: Propagate) {
        // A node joins others once, so the cell is empty.
        let _ = self.propagate.set(propagate);
    }

    /// All items of `module`, deleted ones included.
    pub(crate) fn all_items(&self, module: Module) -> Vec<SmdItem> {
        self.state(module).lock().catalog.items().to_vec()
    }

    /// As the principal, makes a change that leads to `version`. Returns the item; `None` if nothing changes.
    ///
    /// # Errors
    /// When it cannot be stored, or has no effect on this node; nothing has changed then.
    pub(crate) fn change_as_principal(
        &self,
        module: Module,
        (key, value): (&str, Option<&str>),
        version: SmdVersion,
    ) -> Result<Option<SmdItem>, SetError> {
        self.make_change(module, (key, value), Some(version))
    }

    /// Whether a principal whose clock shows `now` refuses a set of `key` to `value`.
    pub(super) fn is_refused_at(&self, module: Module, key: &str, value: &str, now: StoredMillis) -> bool {
        self.state(module).lock().catalog.refusal(key, Some(value), now.0).is_some()
    }

    /// Applies a change that the principal has made.
    pub(crate) fn take_change(&self, module: Module, item: SmdItem, version: SmdVersion) {
        let mut state = self.state(module).lock();
        state.catalog.apply(Update { version, item: item.clone() });
        self.keep_and_tell(module, &state, &[&item]);
    }

    /// Replaces all items with those of the principal.
    pub(crate) fn take_all(&self, module: Module, items: Vec<SmdItem>, version: SmdVersion) {
        let mut state = self.state(module).lock();
        let news = state.catalog.replace(version, items);
        self.keep_and_tell(module, &state, &news.iter().collect::<Vec<_>>());
    }

    /// As the principal, merges in the items of other nodes. Returns all items.
    pub(crate) fn merge_in(&self, module: Module, others: Vec<SmdItem>, version: SmdVersion) -> Vec<SmdItem> {
        let mut state = self.state(module).lock();
        let news = state.catalog.merge(vec![others], version.cluster_key, StoredMillis::now().0);
        self.keep_and_tell(module, &state, &news.iter().collect::<Vec<_>>());
        state.catalog.items().to_vec()
    }

    /// Stores items that all nodes have agreed on. If that fails, they are valid anyway: other nodes have
    /// them, and the next change stores them too.
    fn keep_and_tell(&self, module: Module, state: &ModuleState, news: &[&SmdItem]) {
        if let Err(error) = self.save(module, &state.catalog) {
            cf::warning!(Smd, "cannot store metadata of module {}: {error}", module.name());
        }
        if !news.is_empty() {
            state.tell(news);
        }
    }

    /// Version of a module's items, and their number including deleted ones.
    pub(crate) fn version(&self, module: Module) -> (SmdVersion, usize) {
        let state = self.state(module).lock();
        (state.catalog.version(), state.catalog.items().len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::file::tests::CrashingFolder;
    use super::*;

    fn open(folder: &Arc<CrashingFolder>) -> Smd {
        Smd::open_in(Some(Box::new(Arc::clone(folder))), 5).expect("it can be read")
    }

    fn pairs(smd: &Smd) -> Vec<(String, String)> {
        let items = smd.live_items(Module::Udf).into_iter();
        items.map(|item| (item.key, item.value.unwrap_or_default())).collect()
    }

    type Heard = Arc<Mutex<Vec<(String, Option<String>, Occasion)>>>;

    fn listen(smd: &Smd) -> Heard {
        let heard = Heard::default();
        let notes = Arc::clone(&heard);
        smd.listen(Module::Udf, move |items: &[&SmdItem], occasion| {
            notes.lock().extend(items.iter().map(|item| (item.key.clone(), item.value.clone(), occasion)));
        });
        heard
    }

    #[test]
    fn listeners_get_changes_and_files_keep_them() {
        let folder = CrashingFolder::with(&[]);
        let smd = open(&folder);
        smd.set(Module::Udf, "a", "1").expect("it is stored");
        let heard = listen(&smd);
        smd.set(Module::Udf, "a", "1").expect("nothing changes");
        smd.set(Module::Udf, "b", "2").expect("it is stored");
        smd.set(Module::Sindex, "b", "another module").expect("it is stored");
        smd.delete(Module::Udf, "a").expect("it is stored");
        smd.delete(Module::Udf, "a").expect("nothing changes");
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            *heard.lock(),
            [
                ("a".to_owned(), text("1"), Occasion::Start),
                ("b".to_owned(), text("2"), Occasion::Change),
                ("a".to_owned(), None, Occasion::Change),
            ]
        );
        let again = open(&folder);
        assert_eq!(pairs(&again), [("b".to_owned(), "2".to_owned())]);
        assert_eq!(again.version(Module::Udf), (SmdVersion { cluster_key: 5, tid: 3 }, 2));
        assert_eq!(*listen(&again).lock(), [("b".to_owned(), text("2"), Occasion::Start)]);
    }

    #[test]
    fn a_set_that_cannot_be_stored_changes_nothing() {
        let folder = CrashingFolder::with(&[]);
        let smd = open(&folder);
        smd.set(Module::Udf, "a", "1").expect("it is stored");
        let heard = listen(&smd);
        heard.lock().clear();
        for stop_after in 0..3 {
            folder.disk.lock().stop_at = Some((folder.steps() + stop_after, 3));
            assert!(smd.set(Module::Udf, "b", "2").is_err());
            assert!(smd.delete(Module::Udf, "a").is_err());
            folder.disk.lock().stop_at = None;
        }
        assert!(matches!(smd.set(Module::Udf, "a\0", "x"), Err(SetError::ZeroByte)));
        assert!(matches!(smd.set(Module::Udf, "a", "\0"), Err(SetError::ZeroByte)));
        assert!(heard.lock().is_empty());
        assert_eq!(pairs(&smd), [("a".to_owned(), "1".to_owned())]);
        smd.set(Module::Udf, "c", "3").expect("the disk works again");
        assert_eq!(pairs(&open(&folder)).len(), 2);
    }

    /// The clock of this node, the principal, is two days behind that of a node whose client truncates.
    #[test]
    fn a_truncation_that_would_have_no_effect_is_refused() {
        let folder = CrashingFolder::with(&[]);
        let smd = open(&folder);
        let version = SmdVersion { cluster_key: 7, tid: 1 };
        let truncate = |moment: u64| {
            smd.change_as_principal(Module::Truncate, ("test|a", Some(&moment.to_string())), version)
        };
        let now = StoredMillis::now();
        let ahead = now.0 + 2 * 24 * 60 * 60 * 1_000;
        for _ in 0..2 {
            assert!(smd.is_refused_at(Module::Truncate, "test|a", &ahead.to_string(), now));
            assert!(matches!(truncate(ahead), Err(SetError::Refused(_))));
            // Then there is an earlier truncation.
            truncate(5).expect("it is stored");
        }
        let items = smd.live_items(Module::Truncate);
        assert_eq!((items.len(), items[0].value.as_deref()), (1, Some("5")));
        assert!(truncate(now.0).expect("it is stored").is_some());
    }

    #[test]
    fn without_a_folder_items_live_as_long_as_the_server() {
        let smd = Smd::open(None, 1).expect("there is nothing to read");
        smd.set(Module::Evict, "test", "17").expect("nothing is stored");
        let items = smd.live_items(Module::Evict);
        assert_eq!(items.len(), 1);
        assert_eq!((&*items[0].key, items[0].value.as_deref()), ("test", Some("17")));
    }
}
