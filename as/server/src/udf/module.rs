//! The registered modules are items of the system metadata; their content is kept in memory.
//!
//! A copy of each is written to the folder of `mod-lua`'s `user-path`, where people and tools expect it. The
//! server does not read these copies.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};
use parking_lot::RwLock;

use crate::smd::{Module, NOT_IN_COMMANDS, SmdItem, report_unusable};

/// Maximum number of bytes of a module.
pub(crate) const MODULE_SIZE_MAX: usize = 1 << 20;
/// Length limit (exclusive) of the name of a module's file in bytes.
pub(crate) const FILE_NAME_SIZE_MAX: usize = 128;
/// Lua's own modules: a call can name them, but they have no functions to call.
const OWN_MODULES: [&str; 9] = ["_G", "coroutine", "io", "math", "os", "package", "string", "table", "utf8"];

/// Content is padded to a multiple of four characters; excess bits of the last character are ignored.
const CONTENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// All modules.
pub(crate) struct Modules {
    folder: PathBuf,
    /// Contents by file name.
    contents: RwLock<HashMap<String, Arc<[u8]>>>,
    /// Increases with every change of a module.
    version: AtomicU64,
}

/// Whether `name` may be a module's file name: it has a dot inside, and names no other folder.
pub(crate) fn is_file_name(name: &str) -> bool {
    let dot = name.find('.');
    dot.is_some_and(|dot| dot > 0 && dot + 1 < name.len())
        && is_key(name)
        && !name.contains(['/', '"', '\\'])
        && !name.contains(char::is_control)
}

/// Whether a command can remove the item of system metadata with the key `name`.
pub(crate) fn is_key(name: &str) -> bool {
    (1..FILE_NAME_SIZE_MAX).contains(&name.len()) && !name.contains(NOT_IN_COMMANDS)
}

/// Why a module cannot have some content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ContentError {
    TooLarge,
    /// It is not base64, or empty.
    NotBase64,
}

/// Whether `name` is a known type of modules.
pub(crate) fn is_type(name: &str) -> bool {
    name == "LUA"
}

/// The item of system metadata for a module with `content` in base64.
pub(crate) fn metadata_value(file_name: &str, content: &str) -> String {
    format!(r#"{{"content64": "{content}", "type": "LUA", "name": "{file_name}"}}"#)
}

/// Decodes a module's content from base64.
///
/// # Errors
/// Why no module can have it.
pub(crate) fn decode_content(content: &str) -> Result<Vec<u8>, ContentError> {
    if content.len() / 4 * 3 > MODULE_SIZE_MAX {
        return Err(ContentError::TooLarge);
    }
    let decoded = CONTENT.decode(content).ok().filter(|decoded| !decoded.is_empty());
    decoded.ok_or(ContentError::NotBase64)
}

/// The content of a module in the `value` of its item of system metadata, or why it has none.
fn content_of(value: &str) -> Result<Vec<u8>, String> {
    let value: serde_json::Value =
        serde_json::from_str(value).map_err(|error| format!("its value is not JSON: {error}"))?;
    let field = |name: &str| value.get(name).and_then(serde_json::Value::as_str);
    if value.get("type").is_some() && !field("type").is_some_and(is_type) {
        return Err("its type is not LUA".to_owned());
    }
    decode_content(field("content64").ok_or("its value has no content64")?).map_err(|error| {
        let what = match error {
            ContentError::TooLarge => "is larger than 1 MiB",
            ContentError::NotBase64 => "is empty or not base64",
        };
        format!("its content64 {what}")
    })
}

impl Modules {
    /// No modules yet. Copies will be in `folder`; there are none if it is empty.
    pub(crate) fn new(folder: &Path) -> Self {
        Modules { folder: folder.to_owned(), contents: RwLock::default(), version: AtomicU64::new(1) }
    }

    /// A number that changes with every change of a module.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The content of a module's file.
    pub(crate) fn get(&self, file_name: &str) -> Option<Arc<[u8]>> {
        self.contents.read().get(file_name).cloned()
    }

    /// Applies items of the system metadata.
    pub(crate) fn accept(&self, items: &[&SmdItem]) {
        for item in items {
            match &item.value {
                None => self.remove(&item.key),
                Some(_) if !is_file_name(&item.key) => {
                    let remedy = is_key(&item.key).then_some("send udf-remove for it");
                    report_unusable(Module::Udf, &item.key, "no module has such a name", remedy);
                }
                Some(value) => match content_of(value) {
                    Ok(content) => self.put(&item.key, &content),
                    Err(why) => {
                        let remedy = Some("register the module again, or send udf-remove for it");
                        report_unusable(Module::Udf, &item.key, why, remedy);
                    }
                },
            }
        }
    }

    fn put(&self, file_name: &str, content: &[u8]) {
        self.contents.write().insert(file_name.to_owned(), content.into());
        self.version.fetch_add(1, Ordering::AcqRel);
        match self.write_copy(file_name, content) {
            Ok(()) => cf::info!(Udf, "module {file_name} is registered"),
            Err(error) => cf::info!(Udf, "module {file_name} is registered, without a copy: {error}"),
        }
    }

    fn remove(&self, file_name: &str) {
        if self.contents.write().remove(file_name).is_none() {
            return;
        }
        self.version.fetch_add(1, Ordering::AcqRel);
        cf::info!(Udf, "module {file_name} is removed");
        if self.has_copies()
            && let Err(error) = fs::remove_file(self.folder.join(file_name))
            && error.kind() != io::ErrorKind::NotFound
        {
            cf::warning!(Udf, "cannot remove the copy of module {file_name}: {error}");
        }
    }

    /// The text of module `name`, as named by a call or `require`.
    pub(super) fn content_of_module(&self, name: &str) -> Option<Arc<[u8]>> {
        // A dot would name a folder.
        if name.contains('.') {
            return None;
        }
        self.get(&format!("{name}.lua"))
    }

    /// Whether a call may name this module.
    pub(super) fn has_module(&self, name: &str) -> bool {
        OWN_MODULES.contains(&name) || self.content_of_module(name).is_some()
    }

    /// The file that errors in module `name` refer to.
    pub(super) fn path_of_module(&self, name: &str) -> String {
        format!("{}/{name}.lua", self.folder.display())
    }

    /// `package.path`
    pub(super) fn path_pattern(&self) -> String {
        format!("{}/?.lua", self.folder.display())
    }

    fn has_copies(&self) -> bool {
        !self.folder.as_os_str().is_empty()
    }

    /// Writes a copy to a temporary file and renames it, so that no half of it is visible.
    fn write_copy(&self, file_name: &str, content: &[u8]) -> io::Result<()> {
        if !self.has_copies() {
            return Ok(());
        }
        if !self.folder.is_dir() {
            fs::create_dir(&self.folder)?;
        }
        let temporary = self.folder.join(format!(".{file_name}.new"));
        File::create(&temporary)?.write_all(content)?;
        fs::rename(&temporary, self.folder.join(file_name))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The item of a module.
    pub(crate) fn item(file_name: &str, content: Option<&[u8]>) -> SmdItem {
        let value = content.map(|content| metadata_value(file_name, &CONTENT.encode(content)));
        SmdItem { key: file_name.to_owned(), value, generation: 1, timestamp: 1 }
    }

    #[test]
    fn names_of_files_stay_in_their_folder() {
        assert!(["a.lua", "a.b.lua", "x.txt", "a.."].iter().all(|name| is_file_name(name)));
        for bad in [
            "", ".", "..", "a", ".lua", "a.", "../a.lua", "a/b.lua", "a\0.lua", "..lua", "a\".lua",
            "a\n.lua", "a;b.lua",
        ] {
            assert!(!is_file_name(bad), "{bad:?}");
        }
        assert!(!is_file_name(&format!("{}.lua", "x".repeat(124))));
    }

    #[test]
    fn modules_follow_the_metadata() {
        let folder = std::env::temp_dir().join(format!("ferrospike-modules-{}", std::process::id()));
        let modules = Modules::new(&folder);
        let before = modules.version();
        modules.accept(&[&item("a.lua", Some(b"one")), &item("b.lua", Some(b"two"))]);
        assert_eq!(modules.get("a.lua").as_deref(), Some(&b"one"[..]));
        assert_eq!(fs::read(folder.join("b.lua")).expect("a copy"), b"two");
        modules.accept(&[&item("a.lua", Some(b"three")), &item("b.lua", None)]);
        assert_eq!(modules.content_of_module("a").as_deref(), Some(&b"three"[..]));
        assert_eq!((modules.get("b.lua"), folder.join("b.lua").exists()), (None, false));
        assert!(modules.version() > before);
        let large = CONTENT.encode(vec![b' '; MODULE_SIZE_MAX + 2]);
        let of_type = |name: &str| format!(r#"{{"content64": "eCA9IDEK", "type": {name}, "name": "a.lua"}}"#);
        for value in [
            "{".to_owned(),
            "{}".to_owned(),
            metadata_value("a.lua", ""),
            metadata_value("a.lua", "!!!!"),
            metadata_value("a.lua", &large),
            of_type("\"C\""),
            of_type("7"),
        ] {
            modules.accept(&[&SmdItem { value: Some(value), ..item("a.lua", None) }]);
        }
        modules.accept(&[&item("../x.lua", Some(b"out"))]);
        assert_eq!(modules.get("a.lua").as_deref(), Some(&b"three"[..]));
        fs::remove_dir_all(&folder).expect("it is removed");
    }
}
