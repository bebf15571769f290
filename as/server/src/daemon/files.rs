//! Files that two parts of the server would write to: its data, logs and pid file, and its configuration.
//!
//! Links are followed, so this looks at the file system, and the parser cannot do it. Two namespaces with the same
//! file are found elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use super::running::{FileId, file_id};
use crate::config::{Config, DEVELOPER_SOURCE, LogSinkKind, Obstacle};

/// A file that the server reads or writes.
struct Usage {
    place: Place,
    /// Its name in sentences.
    what: String,
    line: Option<usize>,
}

/// A file, or where it would be made.
#[derive(PartialEq, Eq)]
enum Place {
    Existing(FileId),
    New(PathBuf),
}

impl Place {
    fn of(path: &Path) -> Self {
        if let Ok(found) = fs::metadata(path) {
            return Place::Existing(file_id(&found));
        }
        let of_folder = || {
            let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
            Some(folder.canonicalize().ok()?.join(path.file_name()?))
        };
        Place::New(of_folder().unwrap_or_else(|| path.to_owned()))
    }
}

/// One obstacle for each log that would be written to a file with another purpose, and for such a pid file.
pub(super) fn shared(config: &Config, has_pid_file: bool) -> Vec<Obstacle> {
    let mut others: Vec<Usage> = Vec::new();
    if config.source != DEVELOPER_SOURCE {
        let place = Place::of(Path::new(&config.source));
        others.push(Usage { place, what: "the configuration".to_owned(), line: None });
    }
    for namespace in &config.namespaces {
        let name = &namespace.name;
        for (index, backing) in namespace.storage.backings().into_iter().enumerate() {
            let line = config.line_of_backing(namespace, index);
            let mut found = |path: &str, what| {
                others.push(Usage { place: Place::of(Path::new(path)), what, line });
            };
            found(&backing.path, format!("the data of namespace '{name}'"));
            if let Some(shadow) = &backing.shadow {
                found(shadow, format!("a shadow of namespace '{name}'"));
            }
        }
    }
    let mut obstacles = Vec::new();
    let mut check = |path: &str, word: &str, line, others: &[Usage]| {
        let place = Place::of(Path::new(path));
        if let Some(other) = others.iter().find(|other| other.place == place) {
            let at = other.line.map_or_else(String::new, |line| format!(" on line {line}"));
            let what = &other.what;
            let text = format!("the {word} {path} is the same file as {what}{at}; name another file");
            obstacles.push(Obstacle::new(line, text));
        }
        place
    };
    if let Some(path) = config.service.pidfile.get().filter(|_| has_pid_file) {
        let line = config.lines.last("service", "pidfile");
        let place = check(&path, "pidfile", line, &others);
        others.push(Usage { place, what: "the pidfile".to_owned(), line });
    }
    for sink in &config.logging {
        if let LogSinkKind::File(path) = &sink.kind {
            check(path, "log", Some(sink.line), &others);
        }
    }
    obstacles
}
