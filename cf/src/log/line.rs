//! One line of the log, built on the stack.
//!
//! `Nov 20 2026 18:36:00.123 GMT: INFO (service): (accept.rs:42) text`. Control characters in the text (which
//! may come from a client) are escaped, so that it stays one line. A line has at most [`LINE_SIZE_MAX`]
//! bytes, so that a pipe takes it whole.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Context, Level};
use crate::clock::date_of_days;

/// Longest line in bytes, with its newline: the size that Linux writes to a pipe in one piece.
pub const LINE_SIZE_MAX: usize = 4096;

/// The place in the source that wrote a line.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Path of the file, from the compiler.
    pub file: &'static str,
    /// Line in that file.
    pub line: u32,
}

/// The format of times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeStyle {
    /// Whether times are in the time zone of the machine instead of GMT.
    pub local: bool,
    /// Whether times have milliseconds.
    pub millis: bool,
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The file's name without its folders. `mod.rs` keeps the last folder, because the name alone says nothing.
#[must_use]
pub const fn file_name(path: &str) -> &str {
    let bytes = path.as_bytes();
    let mut segments_left = if ends_with(bytes, b"/mod.rs") { 2 } else { 1 };
    let mut start = bytes.len();
    while start > 0 {
        if bytes[start - 1] == b'/' {
            segments_left -= 1;
            if segments_left == 0 {
                break;
            }
        }
        start -= 1;
    }
    path.split_at(start).1
}

const fn ends_with(bytes: &[u8], end: &[u8]) -> bool {
    if bytes.len() < end.len() {
        return false;
    }
    let mut at = 0;
    while at < end.len() {
        if bytes[bytes.len() - end.len() + at] != end[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The calendar fields of a moment.
struct Calendar {
    year: i64,
    /// 0 is January.
    month: usize,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    millis: u32,
    /// Seconds east of Greenwich.
    offset: i64,
}

impl Calendar {
    fn new(time: SystemTime, style: TimeStyle) -> Self {
        let unix = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(unix.as_secs()).unwrap_or(0);
        let offset = if style.local { local_offset(seconds) } else { 0 };
        let local = seconds + offset;
        let (year, month, day) = date_of_days(local.div_euclid(86_400));
        let of_day = local.rem_euclid(86_400);
        Calendar {
            year,
            month,
            day,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            millis: unix.subsec_millis(),
            offset,
        }
    }
}

/// The offset of the machine's time zone at `unix_seconds`, in seconds east of Greenwich.
fn local_offset(unix_seconds: i64) -> i64 {
    // SAFETY: all-zero is a valid `tm`: numbers, and a null pointer to the zone's name.
    let mut fields: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right types; `localtime_r` keeps neither.
    let done = unsafe { libc::localtime_r(&raw const unix_seconds, &raw mut fields) };
    if done.is_null() { 0 } else { fields.tm_gmtoff }
}

/// A line that is being built, and then complete.
pub(super) struct Line {
    bytes: [u8; LINE_SIZE_MAX],
    len: usize,
    /// The offset of the text after the time.
    body: usize,
}

impl Line {
    /// A complete line: `time`, the text `body`, and a newline.
    pub(super) fn from_body(time: SystemTime, style: TimeStyle, body: &str) -> Self {
        let mut line = Line::with_time(time, style);
        line.push(body.as_bytes());
        line.finish();
        line
    }

    /// A complete line.
    pub(super) fn new(
        time: SystemTime,
        style: TimeStyle,
        context: Context,
        level: Level,
        place: Place,
        text: fmt::Arguments<'_>,
    ) -> Self {
        let mut line = Line::with_time(time, style);
        let (level, context, file) = (level.name(), context.name(), file_name(place.file));
        // Both writes fail only if there is no room left; the line then ends there.
        let _ = write!(line, "{level} ({context}): (");
        // Log readers do not expect a slash in a place.
        for (n, part) in file.split('/').enumerate() {
            let _ = write!(line, "{}{part}", if n == 0 { "" } else { "." });
        }
        let _ = write!(line, ":{}) ", place.line);
        let _ = line.write_fmt(text);
        line.finish();
        line
    }

    fn with_time(time: SystemTime, style: TimeStyle) -> Self {
        let mut line = Line { bytes: [0; LINE_SIZE_MAX], len: 0, body: 0 };
        let Calendar { year, month, day, hour, minute, second, millis, offset } = Calendar::new(time, style);
        let month = MONTHS.get(month).copied().unwrap_or("???");
        let _ = write!(line, "{month} {day:02} {year} {hour:02}:{minute:02}:{second:02}");
        if style.millis {
            let _ = write!(line, ".{millis:03}");
        }
        let _ = line.write_str(" GMT");
        if style.local {
            let (sign, offset) = if offset < 0 { ('-', -offset) } else { ('+', offset) };
            let _ = write!(line, "{sign}{:02}{:02}", offset / 3600, offset / 60 % 60);
        }
        let _ = line.write_str(": ");
        line.body = line.len;
        line
    }

    /// The whole line with its newline.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The text after the time, without the newline.
    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[self.body..self.len - 1]
    }

    /// Appends as much as fits, in whole characters. One byte stays free for the newline.
    fn push(&mut self, bytes: &[u8]) -> bool {
        let room = LINE_SIZE_MAX - 1 - self.len;
        let mut size = bytes.len().min(room);
        while size < bytes.len() && size > 0 && bytes[size] & 0xC0 == 0x80 {
            size -= 1;
        }
        self.bytes[self.len..self.len + size].copy_from_slice(&bytes[..size]);
        self.len += size;
        size == bytes.len()
    }

    fn finish(&mut self) {
        self.bytes[self.len] = b'\n';
        self.len += 1;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t') {
            let escape = match rest[at] {
                b'\n' => *b"\\n  ",
                b'\r' => *b"\\r  ",
                byte => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    [b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
                }
            };
            let size = if escape[1] == b'x' { 4 } else { 2 };
            if !self.push(&rest[..at]) || !self.push(&escape[..size]) {
                return Err(fmt::Error);
            }
            rest = &rest[at + 1..];
        }
        if self.push(rest) { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The time before a syslog message: `Nov 20 18:36:00`, the day padded with a blank.
pub(super) fn syslog_time(time: SystemTime, style: TimeStyle) -> String {
    let Calendar { month, day, hour, minute, second, .. } = Calendar::new(time, style);
    let month = MONTHS.get(month).copied().unwrap_or("???");
    format!("{month} {day:2} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn the_place_of_a_line_has_no_slash() {
        let place = Place { file: "as/server/src/daemon/mod.rs", line: 7 };
        let line =
            Line::new(UNIX_EPOCH, TimeStyle::default(), Context::As, Level::Info, place, format_args!("x"));
        let text = String::from_utf8_lossy(line.bytes()).into_owned();
        assert!(text.ends_with(": INFO (as): (daemon.mod.rs:7) x\n"), "{text}");
    }

    const PLACE: Place = Place { file: "as/server/src/service/accept.rs", line: 123 };

    fn at(unix_millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(unix_millis)
    }

    fn text_of(time: SystemTime, style: TimeStyle, text: &str) -> String {
        let line = Line::new(time, style, Context::As, Level::Info, PLACE, format_args!("{text}"));
        String::from_utf8(line.bytes().to_vec()).unwrap()
    }

    #[test]
    fn lines_have_the_familiar_format() {
        let time = at(1_795_199_760_042);
        let plain = TimeStyle::default();
        assert_eq!(
            text_of(time, plain, "hello"),
            "Nov 20 2026 18:36:00 GMT: INFO (as): (accept.rs:123) hello\n"
        );
        let millis = TimeStyle { millis: true, local: false };
        assert_eq!(text_of(time, millis, ""), "Nov 20 2026 18:36:00.042 GMT: INFO (as): (accept.rs:123) \n");
        assert_eq!(syslog_time(time, plain), "Nov 20 18:36:00");
        assert_eq!(syslog_time(at(1_772_600_000_000), plain), "Mar  4 04:53:20");
        let line = Line::new(time, plain, Context::Hb, Level::Warning, PLACE, format_args!("x"));
        assert_eq!(line.body(), b"WARNING (hb): (accept.rs:123) x");
        let replayed = Line::from_body(time, plain, "INFO (as): (a.rs:1) x");
        assert_eq!(replayed.bytes(), b"Nov 20 2026 18:36:00 GMT: INFO (as): (a.rs:1) x\n");
    }

    #[test]
    fn local_time_carries_its_offset() {
        let text = text_of(at(0), TimeStyle { local: true, millis: false }, "x");
        let zone = text.split(" GMT").nth(1).unwrap();
        assert!(zone.starts_with('+') || zone.starts_with('-'), "{text}");
        assert_eq!(&zone[5..7], ": ", "{text}");
    }

    #[test]
    fn dates_across_leap_years() {
        assert_eq!(date_of_days(0), (1970, 0, 1));
        assert_eq!(date_of_days(11_016), (2000, 1, 29));
        assert_eq!(date_of_days(11_017), (2000, 2, 1));
        assert_eq!(date_of_days(19_782), (2024, 1, 29));
        assert_eq!(date_of_days(47_540), (2100, 1, 28));
        assert_eq!(date_of_days(47_541), (2100, 2, 1));
        let mut last = date_of_days(-1);
        for days in 0..60_000 {
            let date = date_of_days(days);
            let next_day = date.2 == last.2 + 1 && (date.0, date.1) == (last.0, last.1);
            let next_month = date.2 == 1 && date.1 == (last.1 + 1) % 12 && last.2 >= 28;
            assert!(next_day || next_month, "{last:?} then {date:?}");
            last = date;
        }
    }

    #[test]
    fn file_names_lose_their_folders() {
        assert_eq!(file_name("as/server/src/main.rs"), "main.rs");
        assert_eq!(file_name("main.rs"), "main.rs");
        assert_eq!(file_name("as/server/src/info/mod.rs"), "info/mod.rs");
        assert_eq!(file_name("mod.rs"), "mod.rs");
        assert_eq!(file_name(""), "");
    }

    #[test]
    fn text_cannot_forge_a_line() {
        let text = text_of(at(0), TimeStyle::default(), "a\nJan 01\r\x1b[0m\tb\x7f");
        assert!(text.ends_with(") a\\nJan 01\\r\\x1b[0m\tb\\x7f\n"), "{text}");
    }

    proptest! {
        #[test]
        fn any_text_gives_one_bounded_line(text in ".{0,20}", repeat in 1usize..600) {
            let line = Line::new(
                at(0), TimeStyle::default(), Context::Misc, Level::Detail, PLACE,
                format_args!("{}", text.repeat(repeat)),
            );
            let written = std::str::from_utf8(line.bytes()).unwrap();
            prop_assert!(written.len() <= LINE_SIZE_MAX);
            prop_assert_eq!(written.matches('\n').count(), 1);
            prop_assert!(written.ends_with('\n'));
        }
    }
}
