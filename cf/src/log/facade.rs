//! Passes panics, and lines of library crates (from the `log` crate), to the server's log.

use log::{LevelFilter, Log, Metadata, Record};

use super::context::{Context, Level};
use super::line::Place;
use super::{Logger, logger};

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.enabled(context_of(metadata.target()), level_of(metadata.level()))
    }

    fn log(&self, record: &Record<'_>) {
        let (context, level) = (context_of(record.target()), level_of(record.level()));
        if self.enabled(context, level) {
            let place = Place {
                file: record.file_static().or(record.module_path_static()).unwrap_or("?"),
                line: record.line().unwrap_or(0),
            };
            self.write(context, level, place, *record.args());
        }
    }

    /// Does nothing, because lines are written at once.
    fn flush(&self) {}
}

/// A target that names a context is that context, all others are `misc`.
fn context_of(target: &str) -> Context {
    Context::from_name(target).unwrap_or(Context::Misc)
}

/// An error in a library does not end the server, so it is a warning.
fn level_of(level: log::Level) -> Level {
    match level {
        log::Level::Error | log::Level::Warn => Level::Warning,
        log::Level::Info => Level::Info,
        log::Level::Debug => Level::Debug,
        log::Level::Trace => Level::Detail,
    }
}

/// The most verbose level of the facade that can produce a line of `level`.
pub(super) fn filter_of(level: Level) -> LevelFilter {
    match level {
        Level::Critical => LevelFilter::Off,
        Level::Warning => LevelFilter::Warn,
        Level::Info => LevelFilter::Info,
        Level::Debug => LevelFilter::Debug,
        Level::Detail => LevelFilter::Trace,
    }
}

/// Makes the log the receiver of the `log` facade and of panics. Called once, by `main`.
///
/// A panic becomes a WARNING, because the thread may continue with its next request. The line has the
/// thread's name; the frames follow if `RUST_BACKTRACE` asks for them.
pub fn install() {
    // This fails if another logger was set before; that logger then stays.
    if log::set_logger(logger()).is_ok() {
        logger().refresh_facade();
    }
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no text)");
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?").to_owned();
        let (file, line) = panic.location().map_or(("?".to_owned(), 0), |l| (l.file().to_owned(), l.line()));
        let backtrace = std::backtrace::Backtrace::capture();
        crate::warning!(As, "thread {name} panicked at {file}:{line}: {text}");
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            for frame in backtrace.to_string().lines() {
                crate::warning!(As, "stacktrace: {}", frame.trim());
            }
        }
    }));
}
