//! Configuration: one table of parameters, from which everything else is derived.
//!
//! * [`params`]: the tables. One row says name, kind, bounds, default, whether set-config may change it,
//!   whether anything reads it yet, and one sentence of documentation; the same row declares the typed cell
//!   that the rest of the server reads (`config.service.proto_fd_max.get()`).
//! * [`context`]: the contexts and their tables. [`obsolete`]: names of other versions.
//! * [`parse`]: text to [`Config`], pure, with all errors of a file at once as [`Diagnostic`]s.
//! * [`render`]: get-config. [`set`](set::set): set-config. [`command`]: both as info commands.
//! * [`reference`]: the printed reference.
//!
//! Invariant: no parameter is listed anywhere but in its row and, where several parameters depend on
//! each other, in `validate`. Threads: a [`Config`] is shared by all; its cells are atomics or locked.

pub mod command;
pub mod context;
pub mod diagnostic;
pub mod kind;
mod lexer;
pub mod logging;
mod message;
pub mod model;
pub mod obsolete;
pub mod obsolete_words;
mod obstacle;
pub mod params;
mod parser;
pub mod reference;
pub mod render;
pub mod set;
pub mod setting;
pub mod spec;
mod suggest;
mod validate;
pub mod value;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kind::size_text;
use params::service::WORK_DIRECTORY_DEFAULT;

pub use diagnostic::{Diagnostic, Severity, Topic};
pub use model::{
    Config, Engine, LogSinkConfig, LogSinkKind, NamespaceConfig, NetworkConfig, SetDirectory, StorageConfig,
    TlsConfig,
};
pub use obstacle::{InUse, Obstacle};
pub use parser::parse;
pub use value::{Backing, Endpoint};

/// Largest configuration file that is read, in bytes.
const FILE_SIZE_MAX: u64 = 16 << 20;

/// Text of the configuration that is used when there is no file: one namespace in memory, log on the console.
pub const DEVELOPER_TEXT: &str = include_str!("../../../../etc/aerospike_dev.conf");
/// Name under which messages speak of [`DEVELOPER_TEXT`].
pub const DEVELOPER_SOURCE: &str = "developer configuration";

impl Config {
    /// The configuration that is used when there is no file.
    #[must_use]
    pub fn developer() -> Self {
        // A test parses the text, so the default is never reached.
        let config = parse(DEVELOPER_TEXT, DEVELOPER_SOURCE).map(|(config, _)| config).unwrap_or_default();
        config.keep_no_metadata();
        config
    }

    /// Leaves the server without a work directory and without a folder for modules of Lua: it must neither use nor change those
    /// of another server on the machine.
    pub fn keep_no_metadata(&self) {
        self.service.work_directory.set("");
        self.mod_lua.user_path.set("");
    }

    /// The work directory: the configured one, which is created when something is first kept in it, or the default one if it
    /// exists.
    #[must_use]
    pub fn work_folder(&self) -> Option<PathBuf> {
        let path = PathBuf::from(&*self.service.work_directory.get()?);
        let is_named = !path.as_os_str().is_empty() && path != Path::new(WORK_DIRECTORY_DEFAULT);
        (is_named || path.is_dir()).then_some(path)
    }
}

/// Reads the configuration file at `path`.
///
/// # Errors
/// The errors in the file, or one error if it cannot be read, is too large or is not text.
pub fn load(path: &Path) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let source = path.display().to_string();
    let failed = |line, message| {
        let (severity, topic) = (Severity::Error, Topic::Syntax);
        vec![Diagnostic { severity, topic, file: Arc::from(source.as_str()), line, message }]
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(failed(0, format!("cannot be read: {error}")));
    }
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Err(failed(
            0,
            format!("is larger than {}, so it is no configuration", size_text(FILE_SIZE_MAX)),
        ));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &source),
        Err(error) => {
            let good = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
            let line = 1 + good.filter(|byte| **byte == b'\n').count();
            Err(failed(line, "there are bytes that are not UTF-8 text".to_owned()))
        }
    }
}

/// A configuration for tests of other modules: `namespaces` (whole contexts) and the other required contexts.
#[cfg(test)]
pub(crate) fn for_tests(namespaces: &str) -> Arc<Config> {
    let others = "service {\n cluster-name tests\n}\nnetwork {\n service {\n port 3000\n }\n}\n";
    let (config, _) = parse(&[others, namespaces].concat(), "test").expect("it parses");
    Arc::new(config)
}

#[cfg(test)]
mod tests;
