//! Keeps log lines until the sinks are known.
//!
//! Memory is bounded: a full buffer only counts further lines. Lines that should not wait (warnings and
//! above; all lines with `--early-verbose`) also go to standard error at once, and are not repeated there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::context::{Context, Level};
use super::line::{Line, TimeStyle};
use super::sink::{Sink, write_whole};

/// Maximum size of the text in the buffer, in bytes.
const TEXT_SIZE_MAX: usize = 256 * 1024;

struct EarlyLine {
    time: SystemTime,
    context: Context,
    level: Level,
    shown: bool,
    body: String,
}

/// The buffered lines.
pub(super) struct EarlyLines {
    verbose: AtomicBool,
    kept: Mutex<Kept>,
}

struct Kept {
    lines: Vec<EarlyLine>,
    text_size: usize,
    dropped: u64,
}

impl EarlyLines {
    pub(super) const fn new() -> Self {
        let kept = Kept { lines: Vec::new(), text_size: 0, dropped: 0 };
        EarlyLines { verbose: AtomicBool::new(false), kept: Mutex::new(kept) }
    }

    /// Sends all further lines to standard error as well.
    pub(super) fn show_all(&self) {
        self.verbose.store(true, Ordering::Relaxed);
    }

    pub(super) fn add(&self, time: SystemTime, context: Context, level: Level, line: &Line) {
        let shown = level <= Level::Warning || self.verbose.load(Ordering::Relaxed);
        if shown {
            // If standard error is closed, there is no other output.
            let _ = write_whole(&std::io::stderr(), line.bytes());
        }
        let body = String::from_utf8_lossy(line.body()).into_owned();
        let mut kept = self.kept.lock();
        if kept.text_size + body.len() > TEXT_SIZE_MAX {
            kept.dropped += 1;
            return;
        }
        kept.text_size += body.len();
        kept.lines.push(EarlyLine { time, context, level, shown, body });
    }

    /// Empties the buffer into `sinks`; returns how many lines were dropped.
    pub(super) fn replay(&self, sinks: &[Sink], style: TimeStyle) -> u64 {
        let mut kept = self.kept.lock();
        for early in std::mem::take(&mut kept.lines) {
            let line = Line::from_body(early.time, style, &early.body);
            for sink in sinks {
                let repeats = early.shown && sink.is_console();
                if !repeats && early.level <= sink.level(early.context) {
                    sink.write(early.time, style, early.level, &line);
                }
            }
        }
        kept.text_size = 0;
        std::mem::take(&mut kept.dropped)
    }
}
