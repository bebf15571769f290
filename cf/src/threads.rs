//! Threads: every one has a name that `top -H` shows, and whoever starts it keeps the handle to join it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Longest thread name the kernel keeps, in bytes.
pub const THREAD_NAME_SIZE_MAX: usize = 15;

/// A started thread; joining it is the business of its owner.
pub type Handle = std::thread::JoinHandle<()>;

/// Starts `body` on a thread called `name`.
///
/// # Errors
/// When the system refuses another thread.
#[expect(clippy::disallowed_methods, reason = "this is the one place that starts threads")]
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<Handle> {
    debug_assert!(name.len() <= THREAD_NAME_SIZE_MAX, "thread name {name:?} would be cut");
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Starts `body` on a thread called `name`, without which stored data would be at risk: should it panic, the process ends.
///
/// # Errors
/// When the system refuses another thread.
pub fn spawn_essential(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<Handle> {
    let what = name.to_owned();
    spawn(name, move || {
        let ended = catch_unwind(AssertUnwindSafe(body));
        crate::must!(ended.is_ok(), "thread {what} failed on an internal error, and cannot be done without");
    })
}

/// Number of processors this process may run on, at least 1.
#[must_use]
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const AGAIN: &str = "CF_TEST_ESSENTIAL_THREAD";

    /// Runs itself in a process of its own, which is to be aborted.
    #[test]
    fn a_panic_of_an_essential_thread_ends_the_process() {
        if std::env::var_os(AGAIN).is_some() {
            let thread = spawn_essential("test", || panic!("a bug for a test")).unwrap();
            let _ = thread.join();
            return;
        }
        let name = "threads::tests::a_panic_of_an_essential_thread_ends_the_process";
        let mut again = Command::new(std::env::current_exe().unwrap());
        let output = again.args(["--exact", name]).env(AGAIN, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    }
}
