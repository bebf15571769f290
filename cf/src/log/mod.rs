//! The log: lines in the C server's format, written to sinks that each have a level per context.
//!
//! The path of a line: a macro (`cf::info!(Service, "…")`) compares its level with the most verbose one of
//! any sink for the context (one relaxed load), formats the line once on the stack, and passes it to each
//! sink that wants it, which writes it with one `write`. Before [`Logger::configure`], lines wait in a
//! buffer.
//!
//! A process has one [`Logger`], as it has one standard error; several servers in one process share it.
//!
//! # Locking
//! Threads that write a line hold `route` for reading; only `configure` holds it for writing. The lock of the
//! call sites is never held together with another lock. The log has no thread.

mod context;
mod early;
mod facade;
mod limited;
mod line;
mod macros;
mod sink;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

pub use context::{CONTEXT_COUNT, Context, Level, Levels, SetLevelError};
pub use facade::install;
pub use limited::{CallSite, INTERVAL_NANOS, LINES_PER_INTERVAL};
pub use line::{LINE_SIZE_MAX, Place, TimeStyle, file_name};
pub use sink::{
    CONSOLE, SYSLOG_FACILITIES, SYSLOG_FACILITY_DEFAULT, SYSLOG_PATH_DEFAULT, SYSLOG_TAG_DEFAULT,
    SinkSettings, Target, check_syslog,
};

use early::EarlyLines;
use line::Line;
use sink::Sink;

pub const SINKS_MAX: usize = 8;

/// The level before the sinks are known.
const EARLY_LEVEL: Level = Level::Info;

static LOGGER: Logger = Logger::new();

/// The log of this process.
#[inline]
#[must_use]
pub fn logger() -> &'static Logger {
    &LOGGER
}

/// Whether a sink wants lines of `level` and `context`.
#[inline]
#[must_use]
pub fn enabled(context: Context, level: Level) -> bool {
    LOGGER.enabled(context, level)
}

/// Writes a line; the macros check [`enabled`] first.
#[inline(never)]
pub fn write(context: Context, level: Level, place: Place, text: fmt::Arguments<'_>) {
    LOGGER.write(context, level, place, text);
}

/// The `logging` part of a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// The sinks; the index is the sink's id.
    pub sinks: Vec<SinkSettings>,
    /// The format of times (`log-local-time`, `log-millis`).
    pub time_style: TimeStyle,
}

/// The reason why the sinks could not be opened.
#[derive(Debug)]
pub struct ConfigureError {
    /// The sink's name in `logs`.
    pub sink: String,
    /// The system's error.
    pub error: io::Error,
}

impl fmt::Display for ConfigureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open the log {}: {}", self.sink, self.error)
    }
}

impl std::error::Error for ConfigureError {}

/// The log.
pub struct Logger {
    /// The most verbose level of any sink, by context.
    levels: [AtomicU8; CONTEXT_COUNT],
    local_time: AtomicBool,
    millis: AtomicBool,
    route: RwLock<Route>,
    /// Places that have suppressed lines at some time.
    call_sites: Mutex<Vec<&'static CallSite>>,
}

/// The current destination of lines.
enum Route {
    Early(EarlyLines),
    Sinks(Vec<Sink>),
}

impl Logger {
    const fn new() -> Self {
        Logger {
            levels: [const { AtomicU8::new(EARLY_LEVEL as u8) }; CONTEXT_COUNT],
            local_time: AtomicBool::new(false),
            millis: AtomicBool::new(false),
            route: RwLock::new(Route::Early(EarlyLines::new())),
            call_sites: Mutex::new(Vec::new()),
        }
    }

    /// Sends all lines before the configuration to standard error at once (`--early-verbose`).
    pub fn show_early_lines(&self) {
        if let Route::Early(early) = &*self.route.read() {
            early.show_all();
            for level in &self.levels {
                level.store(Level::Detail as u8, Ordering::Relaxed);
            }
        }
        self.refresh_facade();
    }

    /// Replaces the sinks by those of `settings`, and writes the early lines to them.
    ///
    /// # Errors
    /// When the file of a sink cannot be opened. The old sinks then stay.
    pub fn configure(&self, settings: &Settings) -> Result<(), ConfigureError> {
        let open = |sink: &SinkSettings| {
            Sink::open(sink).map_err(|error| ConfigureError { sink: sink.target.to_string(), error })
        };
        let sinks = settings.sinks.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        self.local_time.store(settings.time_style.local, Ordering::Relaxed);
        self.millis.store(settings.time_style.millis, Ordering::Relaxed);
        let dropped = {
            let mut route = self.route.write();
            let dropped = match &*route {
                Route::Early(early) => early.replay(&sinks, settings.time_style),
                Route::Sinks(_) => 0,
            };
            *route = Route::Sinks(sinks);
            dropped
        };
        self.refresh_levels();
        if dropped != 0 {
            let place = Place { file: file!(), line: line!() };
            let text = format_args!("{dropped} lines from before the configuration found no room");
            self.write(Context::Misc, Level::Warning, place, text);
        }
        Ok(())
    }

    /// The format of times.
    #[must_use]
    pub fn time_style(&self) -> TimeStyle {
        TimeStyle {
            local: self.local_time.load(Ordering::Relaxed),
            millis: self.millis.load(Ordering::Relaxed),
        }
    }

    /// Whether a sink wants lines of `level` and `context`.
    #[inline]
    #[must_use]
    pub fn enabled(&self, context: Context, level: Level) -> bool {
        level as u8 <= self.levels[context as usize].load(Ordering::Relaxed)
    }

    /// Writes a line to the sinks that want it.
    pub fn write(&self, context: Context, level: Level, place: Place, text: fmt::Arguments<'_>) {
        let (time, style) = (SystemTime::now(), self.time_style());
        let line = Line::new(time, style, context, level, place, text);
        match &*self.route.read() {
            Route::Early(early) => early.add(time, context, level, &line),
            Route::Sinks(sinks) => {
                for sink in sinks {
                    if level <= sink.level(context) {
                        sink.write(time, style, level, &line);
                    }
                }
            }
        }
    }

    /// The names of the sinks, by id: a path, or `stderr`.
    #[must_use]
    pub fn sinks(&self) -> Vec<String> {
        self.with_sinks(|sinks| sinks.iter().map(Sink::name).collect())
    }

    /// The levels of a sink; `None` for an unknown id.
    #[must_use]
    pub fn levels(&self, sink: usize) -> Option<Levels> {
        self.with_sinks(|sinks| {
            let sink = sinks.get(sink)?;
            let mut levels = Levels::all(Level::Critical);
            for context in Context::ALL {
                levels.set(Some(context), sink.level(context));
            }
            Some(levels)
        })
    }

    /// Sets a level of a sink from the words of `log-set`. The context `any` means all; it must be in lower
    /// case, unlike in the configuration file.
    ///
    /// # Errors
    /// The error says which of the three is unknown.
    pub fn set_level(&self, sink: usize, context: &str, level: &str) -> Result<(), SetLevelError> {
        self.with_sinks(|sinks| {
            let sink = sinks.get(sink).ok_or(SetLevelError::UnknownSink)?;
            let level = Level::from_name(level).ok_or(SetLevelError::UnknownLevel)?;
            if context == "any" {
                Context::ALL.into_iter().for_each(|context| sink.set_level(context, level));
                return Ok(());
            }
            let context = Context::from_name(context).ok_or(SetLevelError::UnknownContext)?;
            sink.set_level(context, level);
            Ok(())
        })?;
        self.refresh_levels();
        Ok(())
    }

    /// Reopens the files, so that lines go to new files after a rename (SIGHUP).
    pub fn reopen(&self) {
        let failures: Vec<_> = self.with_sinks(|sinks| {
            let reopen = |sink: &Sink| sink.reopen().err().map(|error| (sink.name(), error));
            sinks.iter().filter_map(reopen).collect()
        });
        for (sink, error) in failures {
            let place = Place { file: file!(), line: line!() };
            let text = format_args!("cannot reopen the log {sink}, lines still go to the old file: {error}");
            self.write(Context::Misc, Level::Warning, place, text);
        }
    }

    /// Writes one line for each place that suppressed lines since the last call. The ticker calls it, and the
    /// server when it ends.
    pub fn report_suppressed(&self) {
        let call_sites = self.call_sites.lock().clone();
        for call_site in call_sites {
            call_site.report(self);
        }
    }

    fn register(&self, call_site: &'static CallSite) {
        self.call_sites.lock().push(call_site);
    }

    fn with_sinks<T>(&self, read: impl FnOnce(&[Sink]) -> T) -> T {
        match &*self.route.read() {
            Route::Early(_) => read(&[]),
            Route::Sinks(sinks) => read(sinks),
        }
    }

    /// Updates `levels` from the sinks.
    fn refresh_levels(&self) {
        self.with_sinks(|sinks| {
            for (context, level) in Context::ALL.into_iter().zip(&self.levels) {
                let most_verbose = sinks.iter().map(|sink| sink.level(context)).max();
                level.store(most_verbose.unwrap_or(Level::Critical) as u8, Ordering::Relaxed);
            }
        });
        self.refresh_facade();
    }

    /// Sets the level of the `log` facade, so that it drops lines that no sink wants. Only the process's
    /// logger does this.
    fn refresh_facade(&self) {
        if std::ptr::eq(self, logger()) {
            let levels = self.levels.iter().map(|level| Level::from_byte(level.load(Ordering::Relaxed)));
            ::log::set_max_level(facade::filter_of(levels.max().unwrap_or(Level::Critical)));
        }
    }
}

#[cfg(test)]
mod tests;
