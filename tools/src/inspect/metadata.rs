//! Contents of system metadata files, `<work-directory>/smd/*.smd`, as text or JSON.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use datamodel::smd::{SmdItem, SmdVersion, decode_file};
use serde_json::{Value, json};

/// Longest part of a value shown in text.
const VALUE_CHARACTERS: usize = 100;

/// The content of a file, or why it cannot be read.
type Content = Result<(SmdVersion, Vec<SmdItem>), String>;

/// A file of metadata.
pub(super) struct MetadataFile {
    path: PathBuf,
    content: Content,
}

impl MetadataFile {
    /// Whether `path` is a metadata file.
    pub(super) fn is_meant_by(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "smd")
    }

    pub(super) fn read(path: &Path) -> MetadataFile {
        let bytes = fs::read(path).map_err(|error| error.to_string());
        let content = bytes.and_then(|bytes| decode_file(&bytes).map_err(|error| error.to_string()));
        MetadataFile { path: path.to_owned(), content }
    }

    /// Whether it can be read.
    pub(super) fn is_sound(&self) -> bool {
        self.content.is_ok()
    }

    /// Prints as text.
    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let path = self.path.display();
        let (version, items) = match &self.content {
            Ok(content) => content,
            Err(error) => return writeln!(out, "{path}: {error}"),
        };
        let deleted = items.iter().filter(|item| item.value.is_none()).count();
        writeln!(
            out,
            "{path}: version {:X}-{}, {} items, {deleted} deleted ones",
            version.cluster_key,
            version.tid,
            items.len() - deleted
        )?;
        for item in items {
            let value = item.value.as_deref().map_or_else(|| "is deleted".to_owned(), shown);
            let (generation, timestamp) = (item.generation, item.timestamp);
            writeln!(out, "  {} {value} (generation {generation}, timestamp {timestamp})", item.key)?;
        }
        Ok(())
    }

    /// The file as a part of a JSON document.
    pub(super) fn json(&self) -> Value {
        let path = self.path.to_string_lossy();
        let (version, items) = match &self.content {
            Ok(content) => content,
            Err(error) => return json!({ "path": path, "error": error }),
        };
        let item = |item: &SmdItem| {
            json!({
                "key": item.key,
                "value": item.value,
                "generation": item.generation,
                "timestamp": item.timestamp,
            })
        };
        json!({
            "path": path,
            "cluster-key": format!("{:X}", version.cluster_key),
            "tid": version.tid,
            "items": items.iter().map(item).collect::<Vec<_>>(),
        })
    }
}

/// A value as shown in text.
fn shown(value: &str) -> String {
    let start: String = value.chars().take(VALUE_CHARACTERS).collect();
    let end = if start.len() < value.len() { "..." } else { "" };
    format!("= {}{end}", start.escape_debug())
}
