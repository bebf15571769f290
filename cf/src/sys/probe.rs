//! Checks whether a file is writable without changing it, and opening without a wait.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

/// Checks that this process could open the file at `path` for writing, or create it.
///
/// # Errors
/// The error that writing would have.
pub fn check_writable(path: &Path) -> io::Result<()> {
    match open_at_once(OpenOptions::new().append(true), path) {
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

/// Checks that the folder at `path` exists, or that this process could create it and the folders above it.
///
/// # Errors
/// The error that creating it would have.
pub fn check_creatable(path: &Path) -> io::Result<()> {
    for folder in path.ancestors() {
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        match std::fs::metadata(folder) {
            Ok(found) if !found.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
            Ok(_) if folder == path => return Ok(()),
            Ok(_) => {
                let access = AccessFlags::W_OK | AccessFlags::X_OK;
                return Ok(faccessat(AT_FDCWD, folder, access, AtFlags::AT_EACCESS)?);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Opens the file at `path` without a wait. A pipe without a process that reads it would be waited for otherwise.
/// `options` must have no custom flags, because O_NONBLOCK replaces them; reads and writes of the file do not block either.
///
/// # Errors
/// The error of opening; for a pipe or socket that has no reader, it says that.
pub fn open_at_once(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| {
        let kind = std::fs::metadata(path).map(|found| found.file_type());
        let is = |test: fn(&std::fs::FileType) -> bool| kind.as_ref().is_ok_and(test);
        let text = match error.raw_os_error() {
            Some(libc::ENXIO) if is(FileTypeExt::is_fifo) => {
                "it is a pipe that no process reads; start its reader first, or name a regular file"
            }
            Some(libc::ENXIO) if is(FileTypeExt::is_socket) => "it is a socket; name a regular file",
            _ => return error,
        };
        io::Error::other(text)
    })
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

    #[test]
    fn a_folder_is_there_or_can_be_made_or_not() {
        let folder = crate::temp_folder::TempFolder::new("probe-folder");
        check_creatable(&folder.join("")).expect("it is there");
        check_creatable(&folder.join("a/b/c")).expect("it could be made");
        check_creatable(Path::new("neither")).expect("it could be made here");
        assert!(!folder.join("a").exists());
        std::fs::write(folder.join("file"), "x").expect("it is made");
        let kind = |path: &Path| check_creatable(path).expect_err("an error").kind();
        assert_eq!(kind(&folder.join("file")), io::ErrorKind::NotADirectory);
        assert_eq!(kind(&folder.join("file/a")), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn a_pipe_without_a_reader_is_not_waited_for() {
        let folder = crate::temp_folder::TempFolder::new("pipe");
        let path = folder.join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let (sender, said) = std::sync::mpsc::channel();
        let checked = path.clone();
        // It would block without end, so another thread waits.
        #[expect(clippy::disallowed_methods, reason = "a thread of a test")]
        std::thread::spawn(move || sender.send(check_writable(&checked).map_err(|error| error.to_string())));
        let said = said.recv_timeout(std::time::Duration::from_secs(20)).expect("no wait");
        assert!(said.expect_err("no reader").starts_with("it is a pipe that no process reads"));
        let _reader = open_at_once(OpenOptions::new().read(true), &path).expect("a reader");
        check_writable(&path).expect("it has a reader");
        let socket = folder.join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        assert!(check_writable(&socket).expect_err("no file").to_string().contains("it is a socket"));
    }
}
