//! Destinations of lines: the console (standard error), files, syslog.
//!
//! Each line is one `write`, so lines of several threads never mix: files are opened for appending, and a
//! pipe takes a line in one piece. Rolling puts a fresh file under the descriptor in use (`dup3`), so writers
//! need no lock. A sink that fails is reported on standard error once, and again only after it has worked in
//! between. The server continues.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use parking_lot::Mutex;

use super::context::{CONTEXT_COUNT, Context, Level, Levels};
use super::line::{Line, TimeStyle, syslog_time};
use crate::sys::probe::open_at_once;

/// The socket of syslog, if not configured otherwise.
pub const SYSLOG_PATH_DEFAULT: &str = "/dev/log";
/// The tag of syslog lines, if not configured otherwise.
pub const SYSLOG_TAG_DEFAULT: &str = "asd";
/// The facility of syslog lines, if not configured otherwise.
pub const SYSLOG_FACILITY_DEFAULT: &str = "local0";

/// The console's name among the sinks.
pub const CONSOLE: &str = "stderr";

/// All users may read the file as far as the umask allows; only the server may write to it.
const FILE_MODE: u32 = 0o666;

/// Longest wait of a line for a syslog daemon that accepts nothing.
const SYSLOG_PATIENCE: Duration = Duration::from_millis(100);
/// Longest wait of a line after one that the daemon has not accepted.
const STUCK_SYSLOG_PATIENCE: Duration = Duration::from_millis(1);

/// Facilities of syslog and their numbers (RFC 5424 §6.2.1).
pub const SYSLOG_FACILITIES: [(&str, u8); 20] = [
    ("auth", 4),
    ("authpriv", 10),
    ("cron", 9),
    ("daemon", 3),
    ("ftp", 11),
    ("kern", 0),
    ("lpr", 6),
    ("mail", 2),
    ("news", 7),
    ("syslog", 5),
    ("user", 1),
    ("uucp", 8),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkSettings {
    /// The destination of the lines.
    pub target: Target,
    /// The most verbose level of each context. Without any `context` line, only critical lines are written.
    pub levels: Levels,
}

/// The destination of a sink's lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Standard error.
    Console,
    /// A file. Lines are appended; a missing file is created.
    File(PathBuf),
    /// A syslog daemon.
    Syslog {
        /// Its socket.
        path: PathBuf,
        /// The word at the start of each line.
        tag: String,
        /// A number of [`SYSLOG_FACILITIES`].
        facility: u8,
    },
}

impl fmt::Display for Target {
    /// The sink's name in `logs`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Console => f.write_str("stderr"),
            Target::File(path) | Target::Syslog { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

/// An open sink.
pub(super) struct Sink {
    output: Output,
    levels: [AtomicU8; CONTEXT_COUNT],
    /// Whether the last write failed; that has been reported.
    failing: AtomicBool,
}

enum Output {
    Console {
        /// Set if the console is a terminal. Lines are then short, and coloured if the terminal supports it.
        terminal: Option<Terminal>,
    },
    File {
        path: PathBuf,
        file: OwnedFd,
    },
    Syslog(Syslog),
}

/// Checks that a process listens at the socket `path` of syslog.
///
/// # Errors
/// When no process listens.
pub fn check_syslog(path: &Path) -> io::Result<()> {
    let syslog = Syslog { path: path.to_owned(), tag: String::new(), facility: 0, link: Mutex::default() };
    syslog.connect(SYSLOG_PATIENCE).map(drop)
}

/// The format of lines on a terminal.
#[derive(Clone, Copy)]
struct Terminal {
    has_colours: bool,
}

impl Terminal {
    /// The terminal, if standard error is one. `NO_COLOR` and terminals without colours are respected.
    fn of_console() -> Option<Self> {
        let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        let no_colours = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        io::stderr().is_terminal().then_some(Terminal { has_colours: !is_dumb && !no_colours })
    }

    /// The time of day, the level unless it is INFO, and the text of a complete `line`.
    fn short(self, level: Level, line: &[u8]) -> Vec<u8> {
        // `Nov 29 2026 10:45:03 GMT: INFO (as): (server.rs:87) text`
        let whole = || line.to_vec();
        let Some(time) = line.get(12..20) else { return whole() };
        let Some(place) = find(line, b"): (") else { return whole() };
        let Some(text) = find(&line[place + 4..], b") ") else { return whole() };
        let text = &line[place + 4 + text + 2..];
        let (colour, plain): (&[u8], &[u8]) = match level {
            _ if !self.has_colours => (b"", b""),
            Level::Critical => (b"\x1b[1;31m", b"\x1b[0m"),
            Level::Warning => (b"\x1b[33m", b"\x1b[0m"),
            _ => (b"\x1b[2m", b"\x1b[0m"),
        };
        let mut short = Vec::with_capacity(line.len());
        match level {
            Level::Critical | Level::Warning => {
                for part in [colour, time, b" ", level.name().as_bytes(), b" ", text.trim_ascii_end(), plain]
                {
                    short.extend_from_slice(part);
                }
            }
            _ => {
                for part in [colour, time, plain, b" ", text.trim_ascii_end()] {
                    short.extend_from_slice(part);
                }
            }
        }
        short.push(b'\n');
        short
    }
}

/// The first position of `wanted` in `bytes`.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

impl Sink {
    /// Opens the sink.
    ///
    /// # Errors
    /// When its file cannot be opened. A missing syslog daemon is no error: each line tries again.
    pub(super) fn open(settings: &SinkSettings) -> io::Result<Self> {
        let output = match &settings.target {
            Target::Console => Output::Console { terminal: Terminal::of_console() },
            Target::File(path) => Output::File { path: path.clone(), file: open_file(path)? },
            Target::Syslog { path, tag, facility } => Output::Syslog(Syslog {
                path: path.clone(),
                tag: tag.clone(),
                facility: *facility,
                link: Mutex::default(),
            }),
        };
        let levels = Context::ALL.map(|context| AtomicU8::new(settings.levels.get(context) as u8));
        Ok(Sink { output, levels, failing: AtomicBool::new(false) })
    }

    /// The sink's name in `logs`.
    pub(super) fn name(&self) -> String {
        match &self.output {
            Output::Console { .. } => CONSOLE.to_owned(),
            Output::File { path, .. } | Output::Syslog(Syslog { path, .. }) => path.display().to_string(),
        }
    }

    pub(super) fn is_console(&self) -> bool {
        matches!(self.output, Output::Console { .. })
    }

    pub(super) fn level(&self, context: Context) -> Level {
        Level::from_byte(self.levels[context as usize].load(Ordering::Relaxed))
    }

    pub(super) fn set_level(&self, context: Context, level: Level) {
        self.levels[context as usize].store(level as u8, Ordering::Relaxed);
    }

    /// Writes `line`. A critical line is on disk on return.
    pub(super) fn write(&self, time: SystemTime, style: TimeStyle, level: Level, line: &Line) {
        let written = match &self.output {
            Output::Console { terminal: Some(terminal) } => {
                write_whole(&io::stderr(), &terminal.short(level, line.bytes()))
            }
            Output::Console { terminal: None } => write_whole(&io::stderr(), line.bytes()),
            Output::File { file, .. } => {
                let written = write_whole(file, line.bytes());
                if level == Level::Critical {
                    // SAFETY: no memory is passed. If it fails, the line stays where the write put it.
                    unsafe { libc::fdatasync(file.as_raw_fd()) };
                }
                written
            }
            Output::Syslog(syslog) => syslog.write(time, style, level, line.body()),
        };
        let failed = written.is_err();
        if self.failing.swap(failed, Ordering::Relaxed) != failed
            && let Err(error) = written
        {
            complain(format_args!("cannot write to the log {}: {error}", self.name()));
        }
    }

    /// Reopens the file, so that lines go to a new one after a rename.
    ///
    /// # Errors
    /// When the file cannot be opened. Lines then still go to the old file.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let Output::File { path, file } = &self.output else { return Ok(()) };
        let fresh = open_file(path)?;
        // SAFETY: both descriptors are open and owned here; `dup3` swaps the file under `file` in one step, so a
        // concurrent write goes to the old or to the new file.
        if unsafe { libc::dup3(fresh.as_raw_fd(), file.as_raw_fd(), libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<OwnedFd> {
    let file = open_at_once(OpenOptions::new().append(true).create(true).mode(FILE_MODE), path)?;
    // Only opening does not wait: lines are kept until the reader of a pipe takes them.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file.into())
}

/// Reports errors of the log itself on standard error, the only place left for them.
pub(super) fn complain(text: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Writes all bytes with one `write`. Further calls follow only if the system took a part (a full disk, a
/// signal).
pub(super) fn write_whole(file: &impl AsRawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: `bytes` is readable over its length.
        let written = unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error if error.kind() == io::ErrorKind::WouldBlock => wait_writable(file),
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Waits until a descriptor that another program made non-blocking (a shared terminal) has room.
fn wait_writable(file: &impl AsRawFd) {
    // SAFETY: the descriptor stays open as long as `file` is borrowed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
    let mut poll = [nix::poll::PollFd::new(borrowed, nix::poll::PollFlags::POLLOUT)];
    // If this fails, the following write reports the error again.
    let _ = nix::poll::poll(&mut poll, 1000u16);
}

/// A connection to a syslog daemon. It is made on first use, and again when it was lost.
///
/// A daemon that accepts nothing must not delay the threads that log. The first line that it does not accept
/// waits for [`SYSLOG_PATIENCE`], and later lines wait only [`STUCK_SYSLOG_PATIENCE`] until it accepts one.
/// Lines that it has not accepted are lost.
struct Syslog {
    path: PathBuf,
    tag: String,
    facility: u8,
    link: Mutex<SyslogLink>,
}

#[derive(Default)]
struct SyslogLink {
    socket: Option<SyslogSocket>,
    /// Whether the daemon has not accepted the last line in time.
    is_stuck: bool,
}

impl SyslogLink {
    /// Longest wait of the next line for the daemon.
    fn patience(&self) -> Duration {
        if self.is_stuck { STUCK_SYSLOG_PATIENCE } else { SYSLOG_PATIENCE }
    }

    /// Sends a message over `socket`, and keeps the socket unless it has failed.
    fn send(&mut self, socket: SyslogSocket, message: &[u8]) -> io::Result<()> {
        let sent = socket.send(message);
        let is_stuck = sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if is_stuck != self.is_stuck {
            self.is_stuck = is_stuck;
            socket.set_patience(self.patience())?;
        }
        // A stream may have taken a part of the message, and the next message would follow that part.
        if sent.is_ok() || is_stuck && matches!(socket, SyslogSocket::Datagram(_)) {
            self.socket = Some(socket);
        }
        sent
    }
}

enum SyslogSocket {
    Datagram(UnixDatagram),
    Stream(UnixStream),
}

impl Syslog {
    fn write(&self, time: SystemTime, style: TimeStyle, level: Level, body: &[u8]) -> io::Result<()> {
        let severity = match level {
            Level::Critical => 0,
            Level::Warning => 4,
            Level::Info => 6,
            Level::Debug | Level::Detail => 7,
        };
        let priority = u32::from(self.facility) * 8 + severity;
        let mut message = format!("<{priority}>{} {}: ", syslog_time(time, style), self.tag).into_bytes();
        message.extend_from_slice(body);

        let mut link = self.link.lock();
        let kept = link.socket.take();
        let reused = kept.is_some();
        let socket = match kept.map_or_else(|| self.connect(link.patience()), Ok) {
            Ok(socket) => socket,
            Err(error) => {
                // A daemon that accepts no connection does not accept the line either.
                link.is_stuck |= error.kind() == io::ErrorKind::WouldBlock;
                return Err(error);
            }
        };
        match link.send(socket, &message) {
            // The daemon may have restarted since the last line.
            Err(error) if reused && error.kind() != io::ErrorKind::WouldBlock => {
                let socket = self.connect(link.patience())?;
                link.send(socket, &message)
            }
            result => result,
        }
    }

    /// Connects by datagrams, or by a stream if the daemon listens for that.
    fn connect(&self, patience: Duration) -> io::Result<SyslogSocket> {
        let datagram = UnixDatagram::unbound()?;
        let socket = if datagram.connect(&self.path).is_ok() {
            SyslogSocket::Datagram(datagram)
        } else {
            SyslogSocket::Stream(connect_stream(&self.path, patience)?)
        };
        socket.set_patience(patience)?;
        Ok(socket)
    }
}

/// Connects to a daemon that listens for a stream. The timeout is set first, because connecting waits while
/// the daemon's queue of connections is full.
fn connect_stream(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    Ok(UnixStream::from(socket))
}

impl SyslogSocket {
    /// Sets the longest wait of a message for the daemon.
    fn set_patience(&self, patience: Duration) -> io::Result<()> {
        match self {
            SyslogSocket::Datagram(socket) => socket.set_write_timeout(Some(patience)),
            SyslogSocket::Stream(socket) => socket.set_write_timeout(Some(patience)),
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match self {
            SyslogSocket::Datagram(socket) => socket.send(message).map(|_| ()),
            // A zero byte ends a message in a stream.
            SyslogSocket::Stream(socket) => {
                let mut socket = socket;
                socket.write_all(&[message, &[0]].concat())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_on_a_terminal_are_short() {
        let line = b"Nov 29 2026 10:45:03 GMT: WARNING (as): (daemon.mod.rs:7) hot (or) cold\n";
        let plain = Terminal { has_colours: false };
        let text =
            |terminal: Terminal, level, line| String::from_utf8(terminal.short(level, line)).expect("text");
        assert_eq!(text(plain, Level::Warning, &line[..]), "10:45:03 WARNING hot (or) cold\n");
        assert_eq!(text(plain, Level::Info, &line[..]), "10:45:03 hot (or) cold\n");
        let coloured = Terminal { has_colours: true };
        assert_eq!(text(coloured, Level::Info, &line[..]), "\x1b[2m10:45:03\x1b[0m hot (or) cold\n");
        assert_eq!(
            text(coloured, Level::Critical, &line[..]),
            "\x1b[1;31m10:45:03 CRITICAL hot (or) cold\x1b[0m\n"
        );
        // Other text is written as it is.
        assert_eq!(text(plain, Level::Info, b"short\n"), "short\n");
    }
}
