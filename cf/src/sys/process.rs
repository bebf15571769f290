//! Operations of a daemon on its own process: the pid file, its user, leaving the terminal, ending at once.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Group, Pid, Uid, User, setgid, setgroups, setuid};

use super::probe::{check_writable, open_at_once};

/// Ends the process at once, without the clean-up of `exit`. Used for the second request to stop.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` touches no memory of ours and does not return.
    unsafe { libc::_exit(code) }
}

/// Makes further files accessible only to the user, or to the user and the group.
pub fn set_file_permissions(for_group: bool) {
    let others = Mode::S_IROTH | Mode::S_IWOTH;
    umask(if for_group { others } else { others | Mode::S_IRGRP | Mode::S_IWGRP });
}

/// The user called `name`.
///
/// # Errors
/// When there is none.
pub fn user_id(name: &str) -> io::Result<u32> {
    Ok(find_user(User::from_name(name), name)?.uid.as_raw())
}

/// The group called `name`.
///
/// # Errors
/// When there is none.
pub fn group_id(name: &str) -> io::Result<u32> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("there is no group {name}"));
    Ok(Group::from_name(name)?.ok_or_else(unknown)?.gid.as_raw())
}

fn find_user(found: nix::Result<Option<User>>, name: &str) -> io::Result<User> {
    found?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no user {name}")))
}

/// Runs the process as `user` and `group` from now on, without the supplementary groups of root.
///
/// Without `group` it gets the user's primary group. Only a process of root can change its user. The process
/// must have only one thread. Files that only root may open must be open before.
///
/// # Errors
/// When the process may not change them.
pub fn switch_user(user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
    let (own_user, own_group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    // A set-user-id executable keeps its changed user.
    setuid(own_user)?;
    setgid(own_group)?;
    if !own_user.is_root() {
        if user.is_some_and(|user| user != own_user) || group.is_some_and(|group| group != own_group) {
            let text = format!("only root can switch to another user or group, this is user {own_user}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        return Ok(());
    }
    let of_user = match user.filter(|user| !user.is_root()) {
        Some(user) => User::from_uid(user)?.map(|user| user.gid),
        None => None,
    };
    if let Some(group) = group.or(of_user) {
        setgroups(&[])?;
        setgid(group)?;
    }
    if let Some(user) = user {
        setuid(user)?;
    }
    Ok(())
}

/// The result of [`fork`] in each of the two processes.
pub enum Forked {
    /// In the original process, which a user started: the process that continues in the background.
    Parent(Background),
    /// In the process that continues in the background: the process that waits for it.
    Child(Starter),
}

/// The process in the background, as seen by the process that started it.
pub struct Background {
    id: Pid,
    reports: UnixStream,
}

/// The progress of a start in the background.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    Ready,
    Failed(String),
    /// The process has ended without a report, or is about to; a few words say how it ends.
    Gone(String),
    /// The process has not reported yet.
    Starting,
}

/// The process that waits until this one, its child, is ready.
pub struct Starter(UnixStream);

/// Longest time between the moment when a process closes its files and its end.
const ENDING_WAIT: Duration = Duration::from_secs(1);

/// The report of a process that is ready.
const READY: &[u8] = &[0];

/// Continues in a child process as well.
///
/// # Errors
/// The errors of the system calls. The child does not exist then.
///
/// # Panics
/// When the process has more than one thread: the child would lack the others.
pub fn fork() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    assert!(threads <= 1, "leaving the terminal with {threads} threads");
    let (reports, starter) = UnixStream::pair()?;
    // SAFETY: the process has one thread, so the child has all of it, and may continue with any code.
    Ok(match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Forked::Parent(Background { id: child, reports }),
        ForkResult::Child => Forked::Child(Starter(starter)),
    })
}

impl Background {
    pub fn id(&self) -> i32 {
        self.id.as_raw()
    }

    /// Waits until the process has reported or has ended, for at most about `patience`.
    pub fn await_report(mut self, patience: Duration) -> Progress {
        let mut report = Vec::new();
        // The process sends its report at once or not at all, so the time limits only the first byte.
        let read = self.reports.set_read_timeout(Some(patience));
        match read.and_then(|()| self.reports.read_to_end(&mut report)) {
            Ok(0) => Progress::Gone(self.await_ending()),
            Ok(_) if report == READY => Progress::Ready,
            Ok(_) => Progress::Failed(String::from_utf8_lossy(&report).into_owned()),
            // A process that writes a core dump still has its files open.
            Err(_) => self.ending().map_or(Progress::Starting, Progress::Gone),
        }
    }

    /// How the process ends. It has closed its files.
    fn await_ending(&self) -> String {
        let limit = Instant::now() + ENDING_WAIT;
        loop {
            match self.ending() {
                Some(how) => return how,
                None if Instant::now() >= limit => return "it has not ended completely yet".to_owned(),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// How the process ends; `None` while it runs.
    fn ending(&self) -> Option<String> {
        match waitpid(self.id, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                let status = std::fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap_or_default();
                is_dumping(&status).then(|| "it has crashed and is writing a core dump".to_owned())
            }
            Ok(WaitStatus::Exited(_, code)) => Some(format!("exit code {code}")),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(signal.to_string()),
            Ok(status) => Some(format!("{status:?}")),
            Err(error) => Some(error.to_string()),
        }
    }
}

/// Whether the process with this text in `/proc/PID/status` is writing a core dump.
fn is_dumping(status: &str) -> bool {
    let value = status.lines().find_map(|line| line.strip_prefix("CoreDumping:"));
    value.is_some_and(|value| value.trim() == "1")
}

/// Reports are ignored if no process waits for them any more.
impl Starter {
    pub fn report_ready(mut self) {
        let _ = self.0.write_all(READY);
    }

    pub fn report_failure(mut self, reason: &str) {
        let _ = self.0.write_all(reason.as_bytes());
    }
}

/// The file that takes the console output of the process `id` once it has [left the terminal](leave_terminal).
#[must_use]
pub fn console_file(id: i32) -> PathBuf {
    format!("/tmp/aerospike-console.{id}").into()
}

/// Leaves the terminal: starts a session, and sends the output to the [console file](console_file).
///
/// # Errors
/// The errors of the system calls.
pub fn leave_terminal() -> io::Result<()> {
    nix::unistd::setsid()?;
    let console = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o644)
        // A link in the shared folder is not followed, because any user may have made it.
        .custom_flags(libc::O_NOFOLLOW)
        .open(console_file(nix::unistd::getpid().as_raw()))?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    nix::unistd::dup2_stdout(&console)?;
    nix::unistd::dup2_stderr(&console)?;
    Ok(())
}

/// A file with this process's id. It is locked while the process runs, and removed at a clean end.
pub struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    file: File,
}

/// Largest size of a pid file: a process id and white space.
const PID_FILE_SIZE_MAX: u64 = 32;

impl PidFile {
    /// Creates the file, or takes over that of an ended process.
    ///
    /// # Errors
    /// When a running process holds it, it is not a pid file, or it cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = open_at_once(options.read(true).write(true).create(true).truncate(false), path)?;
        lock_pid_file(&file)?;
        file.set_len(0)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
        Ok(PidFile { path: path.to_owned(), file })
    }
}

/// Locks the pid file until it is closed.
fn lock_pid_file(file: &File) -> io::Result<()> {
    let holder = process_in(file)?;
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let text = format!("process {holder} holds it, probably a server that runs already");
            Err(io::Error::new(io::ErrorKind::AddrInUse, text))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The process id in the pid file, perhaps empty. Any other file may be somebody's data, and must not be overwritten.
fn process_in(mut file: &File) -> io::Result<String> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file; name a file of the server's own"));
    }
    let mut text = Vec::new();
    file.take(PID_FILE_SIZE_MAX).read_to_end(&mut text)?;
    file.rewind()?;
    if found.len() > PID_FILE_SIZE_MAX
        || text.iter().any(|byte| !byte.is_ascii_digit() && !byte.is_ascii_whitespace())
    {
        let text = "the file holds something other than a process id, and would be overwritten and later removed; name \
                    another file, or remove this one if nobody needs it";
        return Err(io::Error::other(text));
    }
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// The process whose id is in the pid file `path`, if it is one.
#[must_use]
pub fn written_process(path: &Path) -> Option<u32> {
    let file = open_at_once(OpenOptions::new().read(true), path).ok()?;
    process_in(&file).ok()?.parse().ok()
}

/// Checks that this process could hold the pid file `path`.
///
/// # Errors
/// Same errors as [`PidFile::create`].
pub fn check_pid_file(path: &Path) -> io::Result<()> {
    match open_at_once(OpenOptions::new().read(true).write(true), path) {
        Ok(file) => lock_pid_file(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => check_writable(path),
        Err(error) => Err(error),
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let id = |found: Metadata| (found.dev(), found.ino());
        // Another file may have taken its place.
        if self.file.metadata().ok().map(id) == std::fs::metadata(&self.path).ok().map(id) {
            // This may not be permitted (in a folder of root's). The file then stays, unlocked.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A process that runs the script, and the end of the socket with which it would report.
    fn background(script: &str) -> (Background, UnixStream) {
        let (reports, starter) = UnixStream::pair().unwrap();
        #[expect(clippy::zombie_processes, reason = "it is awaited by its id")]
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        (Background { id: Pid::from_raw(child.id().cast_signed()), reports }, starter)
    }

    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn a_process_that_closes_its_files_or_not_is_seen_to_end() {
        // The files may stay open after the end, because other processes may have them too.
        let (process, _starter) = background("kill -ABRT $$");
        assert_eq!(process.await_report(SHORT), Progress::Gone("SIGABRT".to_owned()));
        let (process, starter) = background("exit 3");
        drop(starter);
        assert_eq!(process.await_report(SHORT), Progress::Gone("exit code 3".to_owned()));
    }

    #[test]
    fn a_process_that_does_not_end_is_not_awaited_for_ever() {
        for is_open in [true, false] {
            let (process, starter) = background("exec sleep 60");
            let id = process.id;
            let _starter = is_open.then_some(starter);
            let start = Instant::now();
            let progress = process.await_report(SHORT);
            assert!(start.elapsed() < Duration::from_secs(30), "{progress:?}");
            let unfinished = Progress::Gone("it has not ended completely yet".to_owned());
            assert_eq!(progress, if is_open { Progress::Starting } else { unfinished });
            nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL).unwrap();
            waitpid(id, None).unwrap();
        }
    }

    #[test]
    fn a_core_dump_is_seen() {
        assert!(is_dumping("Name:\tasd\nState:\tS (sleeping)\nCoreDumping:\t1\nTHP_enabled:\t1\n"));
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(own.contains("\nCoreDumping:\t0\n") && !is_dumping(&own), "{own}");
    }

    #[test]
    fn a_pid_file_is_held_by_one_process() {
        let folder = crate::temp_folder::TempFolder::new("pid");
        let path = folder.join("asd.pid");
        std::fs::write(&path, " 999999999999\n\n").unwrap();
        let held = PidFile::create(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let second = PidFile::create(&path).err().unwrap();
        assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
        assert_eq!(check_pid_file(&path).unwrap_err().to_string(), second.to_string());
        drop(held);
        assert!(!path.exists());
        check_pid_file(&path).unwrap();
        assert!(!path.exists());
        drop(PidFile::create(&path).unwrap());
        assert!(PidFile::create(Path::new("/no/such/folder/asd.pid")).is_err());
    }

    #[test]
    fn a_file_of_others_is_no_pid_file() {
        let folder = crate::temp_folder::TempFolder::new("foreign-pid");
        let path = folder.join("data");
        for content in ["12 of 13", "key=value\n", "\0\0\0\0", "1 x", &"1 ".repeat(100)] {
            std::fs::write(&path, content).unwrap();
            let refusals =
                [check_pid_file(&path).unwrap_err(), PidFile::create(&path).err().expect("a refusal")];
            for refusal in refusals {
                assert!(refusal.to_string().contains("something other than a process id"), "{refusal}");
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let pipe = folder.join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        for refusal in [check_pid_file(&pipe).unwrap_err(), PidFile::create(&pipe).err().expect("a refusal")]
        {
            assert!(refusal.to_string().contains("not a regular file"), "{refusal}");
        }
        assert!(pipe.exists());
        assert_eq!((written_process(&pipe), written_process(&path)), (None, None));
        std::fs::write(&path, "77\n").unwrap();
        assert_eq!(written_process(&path), Some(77));
    }

    #[test]
    fn a_file_in_the_place_of_a_pid_file_stays() {
        let folder = crate::temp_folder::TempFolder::new("moved-pid");
        let path = folder.join("asd.pid");
        let held = PidFile::create(&path).unwrap();
        std::fs::rename(&path, folder.join("old.pid")).unwrap();
        std::fs::write(&path, "another file").unwrap();
        drop(held);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "another file");
    }

    #[test]
    fn users_and_groups_have_names() {
        assert_eq!(user_id("root").unwrap(), 0);
        assert_eq!(group_id("root").unwrap(), 0);
        assert!(user_id("no-such-user").unwrap_err().to_string().contains("no-such-user"));
        assert!(group_id("no-such-group").unwrap_err().to_string().contains("no-such-group"));
    }

    #[test]
    fn a_process_may_switch_to_its_own_user() {
        switch_user(None, None).unwrap();
        let own = nix::unistd::geteuid();
        if !own.is_root() {
            switch_user(Some(own.as_raw()), None).unwrap();
            assert!(switch_user(Some(0), None).is_err());
        }
    }
}
