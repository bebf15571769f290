//! Ends the process when an internal invariant is broken.
//!
//! Used only where stored data would be at risk otherwise, because index or storage accounting does not add
//! up. Never used for an error that a client, a peer, a disk or a configuration file can cause.

use crate::log::{self, Context, Level, Place};

/// Logs `message` as CRITICAL and aborts, leaving a core for the post-mortem.
#[cold]
#[track_caller]
pub fn abort(message: &str) -> ! {
    let caller = std::panic::Location::caller();
    let place = Place { file: caller.file(), line: caller.line() };
    log::write(Context::Misc, Level::Critical, place, format_args!("{message}"));
    std::process::abort()
}

/// Ends the process unless an internal invariant holds. A panic would be caught, and the process would
/// continue with wrong state.
#[macro_export]
macro_rules! invariant {
    ($holds:expr, $($arg:tt)+) => {
        if !$holds {
            $crate::fatal!($($arg)+)
        }
    };
}

/// Ends the process through [`abort`](crate::fatal::abort) with a formatted message.
#[macro_export]
macro_rules! fatal {
    ($($arg:tt)+) => { $crate::fatal::abort(&format!($($arg)+)) };
}
