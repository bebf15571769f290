//! Finds the server that already runs with a configuration, and the resources that it holds.
//!
//! A server is recognised by its name, and by its pid file or the configuration file on its command line. The
//! system shows its descriptors only to root and to its own user; other users see none.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cf::sys::process::written_process;

use crate::cli::{CONFIG_FILE_DEFAULT, Options};
use crate::config::InUse;

const PROGRAM: &str = "asd";
/// The state of a listening socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// Identifies an open file: the number of a device, or the file system and number of another file or socket.
pub(super) type FileId = (u64, u64);

/// A process that holds ports, files and devices.
pub(super) struct RunningServer {
    id: u32,
    held: HashSet<FileId>,
}

impl RunningServer {
    /// The server that was started with the configuration of `options`, or that wrote its process id to `pid_file`.
    pub(super) fn find(options: &Options, pid_file: Option<&str>) -> Option<Self> {
        if options.dev {
            return None;
        }
        let written = pid_file.and_then(|path| written_process(Path::new(path)));
        let configuration = fs::metadata(configuration_file(options)).ok().as_ref().map(file_id);
        let is_it = |id: &u32| {
            let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            name.trim_end() == PROGRAM
                && *id != std::process::id()
                && (written == Some(*id) || configuration.is_some() && configuration_of(*id) == configuration)
        };
        let names = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.file_name());
        let id = names.filter_map(|name| name.to_str()?.parse().ok()).find(is_it)?;
        Some(RunningServer { id, held: held_by(id) })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn holds(&self, what: &InUse) -> bool {
        match what {
            InUse::File(path) => fs::metadata(path).is_ok_and(|file| self.held.contains(&file_id(&file))),
            InUse::Port(port) => {
                let of_sockets: HashSet<u64> = self.held.iter().map(|(_, inode)| *inode).collect();
                ["/proc/net/tcp", "/proc/net/tcp6"]
                    .iter()
                    .filter_map(|table| fs::read_to_string(table).ok())
                    .any(|table| {
                        table
                            .lines()
                            .filter_map(|line| listener(line, *port))
                            .any(|it| of_sockets.contains(&it))
                    })
            }
        }
    }
}

fn configuration_file(options: &Options) -> &Path {
    options.config_file.as_deref().unwrap_or(Path::new(CONFIG_FILE_DEFAULT))
}

/// The configuration file on the command line of process `id`.
fn configuration_of(id: u32) -> Option<FileId> {
    let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let options = Options::from_arguments(words.filter(|word| !word.is_empty())).ok()?;
    if options.dev {
        return None;
    }
    let path = configuration_file(&options);
    let seen_from_here: PathBuf = match path.strip_prefix("/") {
        Ok(inside) => Path::new(&format!("/proc/{id}/root")).join(inside),
        Err(_) => Path::new(&format!("/proc/{id}/cwd")).join(path),
    };
    fs::metadata(seen_from_here).ok().as_ref().map(file_id)
}

fn held_by(id: u32) -> HashSet<FileId> {
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| fs::metadata(entry.path()).ok()).map(|file| file_id(&file)).collect()
}

/// A device may have nodes in several places.
pub(super) fn file_id(file: &Metadata) -> FileId {
    if file.file_type().is_block_device() { (u64::MAX, file.rdev()) } else { (file.dev(), file.ino()) }
}

/// The inode of the socket of a line in `/proc/net/tcp`, if it listens on `port`.
fn listener(line: &str, port: u16) -> Option<u64> {
    let mut words = line.split_whitespace().skip(1);
    let (local, _remote, state) = (words.next()?, words.next()?, words.next()?);
    let found = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    // The fields between them are queues, timer, retransmits, user and timeout.
    let inode = words.nth(5)?.parse().ok()?;
    (state == LISTENS && found == port).then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn resources_of_a_process_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let path = std::env::temp_dir().join(format!("asd-running-{}", std::process::id()));
        let file = fs::File::create(&path).unwrap();
        let own = || RunningServer { id: std::process::id(), held: held_by(std::process::id()) };
        assert!(own().holds(&InUse::Port(port)) && own().holds(&InUse::File(path.clone())));
        drop((listener, file));
        assert!(!own().holds(&InUse::Port(port)) && !own().holds(&InUse::File(path.clone())));
        fs::remove_file(path).unwrap();
        assert!(!own().holds(&InUse::File("/no/such/file".into())));
    }
}
