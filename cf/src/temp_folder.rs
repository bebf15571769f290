//! A temporary folder of one test.

use std::ops::Deref;
use std::path::{Path, PathBuf};

/// The folder; it is removed when dropped.
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    /// A fresh folder; `name` distinguishes the tests of one process.
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cf-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        TempFolder(path)
    }
}

impl Deref for TempFolder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
