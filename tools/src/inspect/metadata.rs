//! Contents of system metadata files, `<work-directory>/smd/*.smd`, as text or JSON. Secrets in them are
//! hidden unless the user asks for them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use datamodel::smd::{SmdFile, SmdItem, decode_file};
use serde_json::{Value, json};

/// Longest part of a value shown in text.
const VALUE_CHARACTERS: usize = 100;
/// Shown instead of a secret.
const HIDDEN: &str = "hidden";

/// The content of a file, or why it cannot be read.
type Content = Result<SmdFile, String>;

pub(super) struct MetadataFile {
    path: PathBuf,
    content: Content,
    hides_secrets: bool,
}

impl MetadataFile {
    /// Whether `path` is a metadata file, which is a list in JSON, possibly under another name.
    pub(super) fn is_meant_by(path: &Path) -> bool {
        let is_list = || {
            let mut first = [0];
            let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|file| file.is_file()));
            file.is_some_and(|mut file| file.read_exact(&mut first).is_ok() && first == *b"[")
        };
        path.extension().is_some_and(|extension| extension == "smd") || is_list()
    }

    pub(super) fn read(path: &Path, show_secrets: bool) -> MetadataFile {
        let bytes = fs::read(path).map_err(|error| error.to_string());
        let mut content = bytes.and_then(|bytes| decode_file(&bytes).map_err(|error| error.to_string()));
        let mut hides_secrets = false;
        if let (Ok(SmdFile { items, .. }), false) = (&mut content, show_secrets) {
            for SmdItem { key, value, .. } in items {
                if let Some(shown) = value.as_deref().and_then(|value| without_secrets(key, value)) {
                    *value = Some(shown);
                    hides_secrets = true;
                }
            }
        }
        MetadataFile { path: path.to_owned(), content, hides_secrets }
    }

    /// Whether it can be read without loss.
    pub(super) fn is_sound(&self) -> bool {
        self.content.as_ref().is_ok_and(|content| !content.has_damaged_version)
    }

    /// Prints the file as text.
    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let path = self.path.display();
        let SmdFile { version, items, has_damaged_version } = match &self.content {
            Ok(content) => content,
            Err(error) => return writeln!(out, "{path}: {error}"),
        };
        let deleted = items.iter().filter(|item| item.value.is_none()).count();
        writeln!(
            out,
            "{path}: version {:X}-{}, {} items, {deleted} deleted ones{}{}",
            version.cluster_key,
            version.tid,
            items.len() - deleted,
            if *has_damaged_version { "; the version is damaged" } else { "" },
            if self.hides_secrets { "; --show-secrets shows what is hidden" } else { "" }
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
        let SmdFile { version, items, has_damaged_version } = match &self.content {
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
        let mut shown = json!({
            "path": path,
            "cluster-key": format!("{:X}", version.cluster_key),
            "tid": version.tid,
            "items": items.iter().map(item).collect::<Vec<_>>(),
        });
        if *has_damaged_version {
            shown["error"] = "the version is damaged".into();
        }
        shown
    }
}

/// The value of item `key` with its secrets hidden; `None` if it has none. Secrets are the hashes of users'
/// passwords and the keys that sign their sessions.
fn without_secrets(key: &str, value: &str) -> Option<String> {
    if !key.starts_with("user|") {
        let is_secret = key.starts_with("secret|") || value.starts_with('$');
        return is_secret.then(|| HIDDEN.to_owned());
    }
    let Ok(mut user) = serde_json::from_str::<Value>(value) else { return Some(HIDDEN.to_owned()) };
    *user.get_mut("password")? = HIDDEN.into();
    Some(user.to_string())
}

/// A value in the form for text.
fn shown(value: &str) -> String {
    let start: String = value.chars().take(VALUE_CHARACTERS).collect();
    let end = if start.len() < value.len() { "..." } else { "" };
    format!("= {}{end}", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_are() {
        let user = r#"{"id":1,"password":"$argon2id$v=19$x","roles":["read"]}"#;
        let shown = without_secrets("user|bob", user).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["roles"][0], "read");
        assert!(shown.contains("\"password\":\"hidden\"") && !shown.contains('$'), "{shown}");
        for (key, value) in
            [("secret|token", "c2VjcmV0"), ("user|eve", "{damaged $2a$"), ("bob|P", "$2a$10$7EqJtq98")]
        {
            assert_eq!(without_secrets(key, value).as_deref(), Some(HIDDEN), "{key}");
        }
        for (key, value) in
            [("role|r", "{\"privileges\":[]}"), ("test|demo", "7"), ("user|set", "533609292607")]
        {
            assert_eq!(without_secrets(key, value), None, "{key}");
        }
    }
}
