//! Threads. Each has a name that `top -H` shows. The code that starts it keeps the handle, to join it.
//!
//! [`spawn_essential`] and [`spawn_restarting`] start threads that exist once and serve all. After a panic,
//! which is a bug of the server, the process ends or the thread's body restarts, so that such a thread never
//! disappears silently.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Period of the check whether a thread that is waited for has ended.
const JOIN_PERIOD: Duration = Duration::from_millis(1);
/// Largest nice value, the lowest priority.
const NICENESS_MAX: i32 = 19;
/// Longest thread name the kernel keeps, in bytes.
pub const THREAD_NAME_SIZE_MAX: usize = 15;

/// A started thread; its owner joins it.
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

/// Pause before a thread's body restarts.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause before work that panicked is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The pause before work that has panicked `count` times is tried again. The pause prevents a permanent bug
/// from keeping a processor busy or filling the log.
#[must_use]
pub fn pause_after_panics(count: u32) -> Duration {
    let doubled = 1u32.checked_shl(count.saturating_sub(1)).unwrap_or(u32::MAX);
    RESTART_PAUSE.saturating_mul(doubled).min(PAUSE_MAX)
}

/// Starts `body` on an essential thread called `name`. Such a thread cannot restart, for instance because
/// stored data would be at risk, so a panic ends the process.
///
/// # Errors
/// When the system refuses another thread.
pub fn spawn_essential(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<Handle> {
    let what = name.to_owned();
    spawn(name, move || {
        let ended = catch_unwind(AssertUnwindSafe(body));
        crate::invariant!(ended.is_ok(), "thread {what} failed on an internal error, and is essential");
    })
}

/// Starts `body` on a thread called `name` that restarts after a panic or an error. The thread ends when `body` returns
/// without an error, so `body` must check at its start whether to stop.
///
/// # Errors
/// When the system refuses another thread.
pub fn spawn_restarting(
    name: &str,
    body: impl Fn() -> io::Result<()> + Send + 'static,
) -> io::Result<Handle> {
    let what = name.to_owned();
    spawn(name, move || {
        loop {
            match catch_unwind(AssertUnwindSafe(&body)) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => crate::critical!(Misc, "thread {what} failed, and starts again: {error}"),
                Err(_) => {
                    crate::critical!(Misc, "thread {what} failed on an internal error, and starts again");
                }
            }
            std::thread::park_timeout(RESTART_PAUSE);
        }
    })
}

/// Waits for threads to end, until `deadline` at most. Returns the names of those that still run; these are
/// left alone. Panics of threads have been logged.
pub fn join_until(handles: impl IntoIterator<Item = Handle>, deadline: Instant) -> Vec<String> {
    let mut running = Vec::new();
    for handle in handles {
        while !handle.is_finished() && Instant::now() < deadline {
            std::thread::sleep(JOIN_PERIOD);
        }
        if handle.is_finished() {
            let _ = handle.join();
        } else {
            running.push(handle.thread().name().unwrap_or_default().to_owned());
        }
    }
    running
}

/// Lowers the priority of the calling thread, which counts when processors are short: each step of
/// `niceness`, which the thread has more than those of the server, takes away about a fifth of its share. A
/// failure is not an error.
pub fn lower_own_priority(niceness: i32) {
    let own_thread = 0;
    // SAFETY: the call takes numbers only. On Linux, the process id stands for the first thread alone.
    let of_server = unsafe { libc::getpriority(libc::PRIO_PROCESS, std::process::id()) };
    let niceness = (of_server + niceness).min(NICENESS_MAX);
    // SAFETY: the call takes numbers only. On Linux, "process 0" is the calling thread alone.
    let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, own_thread, niceness) } != 0;
    if failed {
        crate::detail!(Misc, "cannot lower the priority of a thread: {}", io::Error::last_os_error());
    }
}

/// Requests short time slices for the calling thread, so that its waits are short as well: kernels from 6.12
/// on run a thread with shorter slices sooner. The call has no effect on other kernels, and on those that
/// refuse it. `turn` is between 100 µs and 100 ms.
pub fn take_short_turns(turn: Duration) {
    let (own_thread, flags) = (0, 0);
    // SAFETY: the call takes numbers only. On Linux, "process 0" is the calling thread alone.
    let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).expect("it is small"),
        sched_policy: libc::SCHED_OTHER.cast_unsigned(),
        sched_flags: 0,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: u64::try_from(turn.as_nanos()).unwrap_or(u64::MAX),
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the call reads `attributes`, which contains its size. Thread 0 is the calling thread.
    let failed =
        unsafe { libc::syscall(libc::SYS_sched_setattr, own_thread, &raw const attributes, flags) } != 0;
    if failed {
        crate::detail!(Misc, "cannot shorten the turns of a thread: {}", io::Error::last_os_error());
    }
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn pauses_after_panics_double_up_to_a_minute() {
        let pauses = [1, 2, 3, 10, 11, 32, 33, u32::MAX].map(|count| pause_after_panics(count).as_millis());
        assert_eq!(pauses, [100, 200, 400, 51_200, 60_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn a_restarting_thread_ends_when_its_body_does() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let body = move || match counted.fetch_add(1, Relaxed) {
            0 => panic!("a bug for a test"),
            1 => Err(io::ErrorKind::OutOfMemory.into()),
            _ => Ok(()),
        };
        spawn_restarting("test", body).unwrap().join().unwrap();
        assert_eq!(runs.load(Relaxed), 3);
    }

    const AGAIN: &str = "CF_TEST_ESSENTIAL_THREAD";

    /// The test runs itself in a separate process, which must abort.
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
