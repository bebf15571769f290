//! Receives signals in one thread, in order, as ordinary values.
//!
//! [`Signals::block`] is called before any thread is started, so that every thread inherits the mask and
//! signals wait for [`Signals::wait`]. No code runs in a signal handler.

use std::io;

use nix::sys::signal::{SigHandler, SigSet, Signal as Number, signal};

/// A signal to the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGINT: Ctrl-C at the terminal.
    Interrupt,
    /// SIGTERM: stop.
    Terminate,
    /// SIGHUP: roll the log files.
    HangUp,
    /// SIGUSR1 or SIGUSR2: dump the state to the log.
    Dump,
}

impl Signal {
    /// The name as in `kill -l`, with `SIG`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
            Signal::HangUp => "SIGHUP",
            Signal::Dump => "SIGUSR1",
        }
    }
}

/// The signals of [`Signal`], blocked.
pub struct Signals(SigSet);

impl Signals {
    /// Blocks the signals in this thread and in those it starts later, and ignores SIGPIPE and SIGXFSZ, so that a
    /// write to a closed connection, or beyond a file size limit, is an ordinary error.
    ///
    /// # Errors
    /// The errors of the system calls; none is expected.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for number in [Number::SIGINT, Number::SIGTERM, Number::SIGHUP, Number::SIGUSR1, Number::SIGUSR2] {
            set.add(number);
        }
        set.thread_block()?;
        for number in [Number::SIGPIPE, Number::SIGXFSZ] {
            // SAFETY: ignoring a signal installs no code.
            unsafe { signal(number, SigHandler::SigIgn) }?;
        }
        Ok(Signals(set))
    }

    /// Waits for the next signal.
    ///
    /// # Errors
    /// The errors of `sigwait`; none is expected.
    pub fn wait(&self) -> io::Result<Signal> {
        Ok(match self.0.wait()? {
            Number::SIGINT => Signal::Interrupt,
            Number::SIGHUP => Signal::HangUp,
            Number::SIGUSR1 | Number::SIGUSR2 => Signal::Dump,
            _ => Signal::Terminate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    /// Set in a child process that receives the signals. If this process blocked them, other tests would be
    /// affected.
    const CHILD: &str = "CF_TEST_SIGNALS_CHILD";

    #[test]
    fn child_reports_the_signals_that_it_gets() {
        if std::env::var_os(CHILD).is_some() {
            return child();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        // SAFETY: blocking signals is allowed between fork and exec. The child inherits the mask, so that
        // threads of its test harness have it too.
        unsafe { command.pre_exec(|| Signals::block().map(|_| ())) };
        let mut child = command
            .args(["--exact", "sys::signals::tests::child_reports_the_signals_that_it_gets", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("ready")));
        let sent = [
            (Number::SIGHUP, "HangUp"),
            (Number::SIGUSR1, "Dump"),
            (Number::SIGUSR2, "Dump"),
            (Number::SIGINT, "Interrupt"),
            (Number::SIGTERM, "Terminate"),
        ];
        for (number, name) in sent {
            nix::sys::signal::kill(pid, number).unwrap();
            assert_eq!(lines.next().as_deref(), Some(name));
        }
        assert!(child.wait().unwrap().success());
    }

    fn child() {
        let signals = Signals::block().unwrap();
        println!("ready");
        loop {
            let signal = signals.wait().unwrap();
            println!("{signal:?}");
            if signal == Signal::Terminate {
                return;
            }
        }
    }

    #[test]
    fn names_are_those_of_kill() {
        assert_eq!(Signal::Terminate.name(), "SIGTERM");
        assert_eq!(Signal::HangUp.name(), "SIGHUP");
    }
}
