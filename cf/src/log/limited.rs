//! Rate limits for lines that a client, a peer or a disk can cause: a place writes a few lines per interval
//! and counts the others.
//!
//! Each use of a `*_limited!` macro owns one static [`CallSite`]. It writes the first [`LINES_PER_INTERVAL`]
//! lines of an interval, counts the others, and keeps the first of these as a sample.
//! `Logger::report_suppressed` (called by the ticker) or the next line after the interval writes one line
//! about them: `(file.rs:line) (repeated:K) sample`.
//!
//! # Locking
//! A call site's lock is never held while text is formatted or written, so a `Display` that logs is harmless.

use std::fmt;

use parking_lot::Mutex;

use super::context::{Context, Level};
use super::line::Place;
use super::{Logger, logger};

/// Number of lines that a place may write per interval; further lines are counted.
pub const LINES_PER_INTERVAL: u32 = 5;
/// The interval, the same as the default of `ticker-interval`.
pub const INTERVAL_NANOS: u64 = 10_000_000_000;

/// Longest sample kept, in bytes.
const SAMPLE_SIZE_MAX: usize = 256;

/// One place in the source that writes limited lines.
pub struct CallSite {
    context: Context,
    level: Level,
    place: Place,
    interval: Mutex<Interval>,
}

struct Interval {
    /// Start of the interval on the monotonic clock.
    started_nanos: u64,
    written: u32,
    suppressed: u64,
    /// The first suppressed line.
    sample: String,
    /// Whether this place is registered with the logger.
    registered: bool,
}

/// The decision about a line.
enum Verdict {
    Write,
    KeepAsSample { register: bool },
    Count,
}

impl CallSite {
    /// A place that has written nothing yet.
    #[must_use]
    pub const fn new(context: Context, level: Level, place: Place) -> Self {
        let interval = Interval {
            started_nanos: 0,
            written: 0,
            suppressed: 0,
            sample: String::new(),
            registered: false,
        };
        CallSite { context, level, place, interval: Mutex::new(interval) }
    }

    /// Writes or counts a line.
    pub fn write(&'static self, text: fmt::Arguments<'_>) {
        self.write_at(logger(), crate::clock::monotonic_nanos(), text);
    }

    fn write_at(&'static self, logger: &Logger, now_nanos: u64, text: fmt::Arguments<'_>) {
        let (verdict, ended) = self.judge(now_nanos);
        if let Some((count, sample)) = ended {
            self.write_report(logger, count, &sample);
        }
        match verdict {
            Verdict::Write => logger.write(self.context, self.level, self.place, text),
            Verdict::KeepAsSample { register } => {
                let mut sample = text.to_string();
                let size = sample.floor_char_boundary(SAMPLE_SIZE_MAX);
                sample.truncate(size);
                self.interval.lock().sample = sample;
                if register {
                    logger.register(self);
                }
            }
            Verdict::Count => {}
        }
    }

    /// Counts a line. Also returns the suppressed lines of an interval that has ended.
    fn judge(&self, now_nanos: u64) -> (Verdict, Option<(u64, String)>) {
        let mut interval = self.interval.lock();
        let mut ended = None;
        if interval.started_nanos == 0 || now_nanos.saturating_sub(interval.started_nanos) >= INTERVAL_NANOS {
            ended = interval.take_suppressed();
            interval.started_nanos = now_nanos;
            interval.written = 0;
        }
        if interval.written < LINES_PER_INTERVAL {
            interval.written += 1;
            return (Verdict::Write, ended);
        }
        interval.suppressed += 1;
        if interval.suppressed > 1 {
            return (Verdict::Count, ended);
        }
        let register = !std::mem::replace(&mut interval.registered, true);
        (Verdict::KeepAsSample { register }, ended)
    }

    /// Writes a line about the lines that were suppressed since the last report.
    pub(super) fn report(&self, logger: &Logger) {
        let suppressed = self.interval.lock().take_suppressed();
        if let Some((count, sample)) = suppressed {
            self.write_report(logger, count, &sample);
        }
    }

    fn write_report(&self, logger: &Logger, count: u64, sample: &str) {
        logger.write(self.context, self.level, self.place, format_args!("(repeated:{count}) {sample}"));
    }
}

impl Interval {
    fn take_suppressed(&mut self) -> Option<(u64, String)> {
        match std::mem::take(&mut self.suppressed) {
            0 => None,
            count => Some((count, std::mem::take(&mut self.sample))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines_of, logger_to_file};
    use super::*;

    static SITE: CallSite =
        CallSite::new(Context::Service, Level::Warning, Place { file: "a/accept.rs", line: 9 });

    #[test]
    fn lines_beyond_the_limit_are_counted_and_reported_once() {
        let folder = crate::temp_folder::TempFolder::new("limited");
        let (logger, path) = logger_to_file(&folder, Level::Info);
        let start = 1;
        for number in 0..12 {
            SITE.write_at(&logger, start + number, format_args!("bad proto {number}"));
        }
        assert_eq!(lines_of(&path).len(), LINES_PER_INTERVAL as usize);

        logger.report_suppressed();
        logger.report_suppressed();
        let lines = lines_of(&path);
        assert_eq!(lines.len(), LINES_PER_INTERVAL as usize + 1);
        let report = "WARNING (service): (accept.rs:9) (repeated:7) bad proto 5";
        assert!(lines.last().unwrap().ends_with(report), "{lines:?}");

        SITE.write_at(&logger, start + 20, format_args!("still limited"));
        SITE.write_at(&logger, start + INTERVAL_NANOS, format_args!("next interval"));
        let lines = lines_of(&path);
        assert_eq!(lines.len(), LINES_PER_INTERVAL as usize + 3);
        assert!(lines[lines.len() - 2].ends_with("(repeated:1) still limited"), "{lines:?}");
        assert!(lines[lines.len() - 1].ends_with("next interval"), "{lines:?}");
    }
}
