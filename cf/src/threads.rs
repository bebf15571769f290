//! Threads: every one has a name that `top -H` shows, and whoever starts it keeps the handle to join it.

use std::io;

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

/// Number of processors this process may run on, at least 1.
#[must_use]
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
