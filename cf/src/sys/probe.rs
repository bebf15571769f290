//! Checks whether a file is writable without changing it.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

/// Checks that this process could open the file at `path` for writing, or create it.
///
/// # Errors
/// The error that writing would have.
pub fn check_writable(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.map(drop),
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if !std::fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(faccessat(AT_FDCWD, folder, AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_can_be_written_or_made_or_not() {
        let folder = crate::temp_folder::TempFolder::new("probe");
        let path = folder.join("log");
        check_writable(&path).expect("it could be made");
        assert!(!path.exists());
        std::fs::write(&path, "x").expect("it is made");
        check_writable(&path).expect("it could be written");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"x");
        let kind = |path: &Path| check_writable(path).expect_err("an error").kind();
        assert_eq!(kind(&folder.join("none/log")), io::ErrorKind::NotFound);
        assert_eq!(kind(&path.join("log")), io::ErrorKind::NotADirectory);
        assert_eq!(kind(&folder.join(".")), io::ErrorKind::IsADirectory);
    }
}
