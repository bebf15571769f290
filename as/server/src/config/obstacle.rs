//! Obstacles to a start with a valid configuration: addresses, files and users of this machine.

use std::fmt;
use std::path::PathBuf;

use super::diagnostic::shown;
use super::parser::storage_label;
use super::{Config, DEVELOPER_SOURCE, NamespaceConfig};

/// One obstacle to a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The line of the file that causes it.
    pub line: Option<usize>,
    /// What is wrong, without full stop.
    pub sentence: String,
    /// The resource that another process holds, if that is the reason.
    pub in_use: Option<InUse>,
}

/// A resource that only one process at a time can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InUse {
    /// A TCP port.
    Port(u16),
    /// A file or device.
    File(PathBuf),
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InUse::Port(port) => write!(f, "port {port}"),
            InUse::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Config {
    /// The line of the file or device at `index` of those of `namespace`.
    #[must_use]
    pub fn line_of_backing(&self, namespace: &NamespaceConfig, index: usize) -> Option<usize> {
        let label = storage_label(namespace.storage.engine, &shown(&namespace.name));
        let name = if namespace.storage.is_raw_device() { "device" } else { "file" };
        self.lines.of_item(&label, name, index)
    }
}

impl Obstacle {
    /// An obstacle other than a resource in use.
    pub fn new(line: Option<usize>, sentence: impl ToString) -> Self {
        Obstacle { line, sentence: sentence.to_string(), in_use: None }
    }

    /// The sentence, after its place in the file if it has one.
    #[must_use]
    pub fn located(&self, config: &Config) -> String {
        match self.line.filter(|_| config.source != DEVELOPER_SOURCE) {
            Some(line) => format!("{}:{line}: {}", config.source, self.sentence),
            None => self.sentence.clone(),
        }
    }
}
