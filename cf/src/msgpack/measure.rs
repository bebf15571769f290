//! Measures values. All other functions use this walk over elements.
//!
//! Lists and maps add their elements to the count of values still to be skipped, which saturates at 64 bits.
//! If a header promises more than the bytes hold, the walk ends at the end of the bytes without a result.
//!
//! The length of a value comes from a branch on its marker rather than from a table: neighbours are mostly of
//! one kind, and with a predicted branch the processor reads the next marker before this one has arrived. For
//! values of one kind a walk takes a third of the time. Runs of numbers of one size are skipped several at a
//! time.

use super::{Meter, SEARCH};

/// The end of `count` values that begin at `at`; `None` if they are invalid or truncated.
#[inline]
#[must_use]
pub fn end_of(bytes: &[u8], at: usize, count: u64) -> Option<usize> {
    Walk::new(bytes, at, &()).pass(count)
}

/// Same as [`end_of`], but draws on a meter; `None` also if that is exhausted.
#[inline]
#[must_use]
pub fn end_of_metered(bytes: &[u8], at: usize, count: u64, meter: &impl Meter) -> Option<usize> {
    let mut walk = Walk::new(bytes, at, meter);
    let end = walk.pass(count)?;
    walk.finish()?;
    Some(end)
}

/// Number of bytes that a walk covers between two draws on the meter.
const WINDOW_SIZE: usize = 4096;

/// A walk over values that draws on a meter: a step for each byte, but few steps for the inside of a long
/// value, which is skipped.
#[derive(Debug)]
pub struct Walk<'b, 'm, M> {
    bytes: &'b [u8],
    /// The bytes up to the next draw on the meter. Each value checks for the end of the window instead of the
    /// end of the bytes, so the draw needs no check of its own.
    window: &'b [u8],
    at: usize,
    /// The offset up to which steps were drawn, and the number of bytes skipped since, which cost none.
    counted: usize,
    jumped: usize,
    meter: &'m M,
}

impl<'b, 'm, M: Meter> Walk<'b, 'm, M> {
    /// Begins at `at`.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'b [u8], at: usize, meter: &'m M) -> Self {
        let window = if M::IS_FREE { bytes } else { window(bytes, at) };
        Self { bytes, window, at, counted: at, jumped: 0, meter }
    }

    /// The current offset.
    #[inline]
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Skips `count` values and returns their end; `None` if they are invalid or truncated, or the meter is
    /// exhausted.
    #[inline]
    pub fn pass(&mut self, count: u64) -> Option<usize> {
        let (mut at, mut pending) = (self.at, count);
        while pending != 0 {
            let Some(&marker) = self.window.get(at) else {
                self.go_on(at)?;
                continue;
            };
            pending -= 1;
            // Both ranges of one-byte integers.
            if marker.cast_signed() >= -32 {
                at = behind_small_integers(self.window, at + 1, &mut pending);
                continue;
            }
            match marker {
                0xa0..=0xbf => at += 1 + usize::from(marker & 0x1f),
                0xc0 | 0xc2 | 0xc3 => at += 1,
                0xcc | 0xd0 => at = behind_run::<2>(self.window, at + 2, marker, &mut pending),
                0xcd | 0xd1 | 0xd4 => at = behind_run::<3>(self.window, at + 3, marker, &mut pending),
                0xca | 0xce | 0xd2 => at = behind_run::<5>(self.window, at + 5, marker, &mut pending),
                0xcb | 0xcf | 0xd3 => at = behind_run::<9>(self.window, at + 9, marker, &mut pending),
                0x90..=0x9f => {
                    at += 1;
                    pending = pending.saturating_add(u64::from(marker & 0x0f));
                }
                0x80..=0x8f => {
                    at += 1;
                    pending = pending.saturating_add(2 * u64::from(marker & 0x0f));
                }
                0xd5 => at += 4,
                0xd6 => at += 6,
                0xd7 => at += 10,
                0xd8 => at += 18,
                _ => {
                    let end = end_of_long(self.bytes, at, &mut pending)?;
                    if !M::IS_FREE {
                        self.jumped += (end - at).saturating_sub(16);
                    }
                    at = end;
                }
            }
        }
        self.at = at;
        (at <= self.bytes.len()).then_some(at)
    }

    /// Draws for the bytes walked over and continues the walk, unless the bytes have ended.
    #[cold]
    fn go_on(&mut self, at: usize) -> Option<()> {
        if self.window.len() == self.bytes.len() {
            return None;
        }
        self.meter.draw(at.saturating_sub(self.counted + self.jumped))?;
        (self.counted, self.jumped) = (at, 0);
        self.window = window(self.bytes, at);
        Some(())
    }

    /// Draws for the bytes walked over since the last draw.
    #[inline]
    pub fn finish(&mut self) -> Option<()> {
        let walked = self.at.saturating_sub(self.counted + self.jumped);
        (self.counted, self.jumped) = (self.at, 0);
        self.meter.draw(walked)
    }
}

/// The end, or an earlier position, of a run of values from `at` that begin with `marker` and have `SIZE`
/// bytes each. They are skipped four at a time.
#[inline(always)]
fn behind_run<const SIZE: usize>(bytes: &[u8], mut at: usize, marker: u8, pending: &mut u64) -> usize {
    while *pending >= 4
        && let Some(run) = bytes.get(at..at + 3 * SIZE + 1)
        && run[0] == marker
        && run[SIZE] == marker
        && run[2 * SIZE] == marker
        && run[3 * SIZE] == marker
    {
        *pending -= 4;
        at += 4 * SIZE;
    }
    at
}

/// The end, or an earlier position, of a run of integers from 0 to 127 from `at`. They are skipped eight at a
/// time.
#[inline(always)]
fn behind_small_integers(bytes: &[u8], mut at: usize, pending: &mut u64) -> usize {
    const OTHERS: u64 = 0x8080_8080_8080_8080;
    while *pending >= 8
        && let Some(run) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>)
        && u64::from_le_bytes(*run) & OTHERS == 0
    {
        *pending -= 8;
        at += 8;
    }
    at
}

#[inline]
fn window(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(..at.saturating_add(WINDOW_SIZE)).unwrap_or(bytes)
}

/// The end of a value, or of a container's header, whose length follows its marker.
#[inline(never)]
fn end_of_long(bytes: &[u8], at: usize, pending: &mut u64) -> Option<usize> {
    let tail = bytes.get(at + 1..)?;
    let byte = || tail.first().map(|&byte| usize::from(byte));
    let short = || tail.first_chunk::<2>().map(|bytes| usize::from(u16::from_be_bytes(*bytes)));
    let long = || tail.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
    let long_len = || long().map(|len| len as usize);
    let end = match bytes[at] {
        0xc4 | 0xd9 => 2 + byte()?,
        0xc5 | 0xda => 3 + short()?,
        0xc6 | 0xdb => 5 + long_len()?,
        0xc7 => 3 + byte()?,
        0xc8 => 4 + short()?,
        0xc9 => 6 + long_len()?,
        0xdc => {
            *pending = pending.saturating_add(short()? as u64);
            3
        }
        0xdd => {
            *pending = pending.saturating_add(u64::from(long()?));
            5
        }
        0xde => {
            *pending = pending.saturating_add(2 * short()? as u64);
            3
        }
        0xdf => {
            *pending = pending.saturating_add(2 * u64::from(long()?));
            5
        }
        _ => return None,
    };
    // The result is never past the end, so that adding the next step cannot overflow.
    Some(at + end).filter(|&end| end <= bytes.len())
}

/// Whether the (valid) value `bytes` is or contains a search value.
#[must_use]
pub fn holds_search_value(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&marker) = bytes.get(at) {
        match marker {
            0xd4 | 0xd5 if bytes.get(at + 1) == Some(&SEARCH) => return true,
            0xc7..=0xc9 if bytes.get(at..).is_some_and(is_long_search_value) => return true,
            _ => {}
        }
        // Containers are entered, so that each inner value is checked.
        let end = match marker {
            0x80..=0x9f => Some(at + 1),
            0xdc | 0xde => Some(at + 3),
            0xdd | 0xdf => Some(at + 5),
            _ => end_of(bytes, at, 1),
        };
        let Some(end) = end else { return false };
        at = end;
    }
    false
}

/// Whether the value is an extension of type [`SEARCH`] with a length field, and a length of search values.
fn is_long_search_value(bytes: &[u8]) -> bool {
    let (len, kind) = match bytes {
        [0xc7, len, kind, ..] => (u32::from(*len), *kind),
        [0xc8, high, low, kind, ..] => (u32::from(u16::from_be_bytes([*high, *low])), *kind),
        [0xc9, a, b, c, d, kind, ..] => (u32::from_be_bytes([*a, *b, *c, *d]), *kind),
        _ => return false,
    };
    kind == SEARCH && (1..4).contains(&len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_marker_has_the_length_the_format_gives_it() {
        let cases: [(&[u8], usize); 14] = [
            (&[0x00], 1),
            (&[0xff], 1),
            (&[0xc0], 1),
            (&[0xa2, 3, b'a'], 3),
            (&[0xcb, 0, 0, 0, 0, 0, 0, 0, 0], 9),
            (&[0xd9, 1, 3], 3),
            (&[0xc5, 0, 2, 4, 5], 5),
            (&[0xdb, 0, 0, 0, 1, 3], 6),
            (&[0x92, 1, 0x91, 2], 4),
            (&[0x81, 1, 0x81, 2, 3], 5),
            (&[0xdc, 0, 2, 1, 2], 5),
            (&[0xdf, 0, 0, 0, 1, 1, 2], 7),
            (&[0xd8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], 18),
            (&[0xc7, 2, 1, 7, 8], 5),
        ];
        for (bytes, len) in cases {
            assert_eq!(end_of(bytes, 0, 1), Some(len), "{bytes:x?}");
            let mut followed = bytes.to_vec();
            followed.push(7);
            assert_eq!(end_of(&followed, 0, 1), Some(len));
            assert_eq!(end_of(&followed, 0, 2), Some(len + 1));
            assert_eq!(end_of(&bytes[..len - 1], 0, 1), None, "{bytes:x?} cut short");
        }
    }

    #[test]
    fn runs_of_one_kind_end_where_each_value_by_itself_says() {
        let values: [&[u8]; 8] = [
            &[7],
            &[0xff],
            &[0xcc, 0xcc],
            &[0xcd, 0xcd, 0xcd],
            &[0xd2, 0xd2, 0, 0, 0],
            &[0xcb, 0xcb, 0, 0, 0, 0, 0, 0, 0xcb],
            &[0xa1, 0xcd],
            &[0xc0],
        ];
        let mut seed = 1_u64;
        for _ in 0..2000 {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for _ in 0..6 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (value, count) = (values[(seed >> 40) as usize % 8], (seed >> 50) as usize % 20);
                for _ in 0..count {
                    bytes.extend_from_slice(value);
                    ends.push(bytes.len());
                }
            }
            for count in [0, 1, 4, 7, 8, 9, ends.len() / 2, ends.len() - 1] {
                let end = ends.get(count).copied();
                assert_eq!(end_of(&bytes, 0, count as u64), end, "{count} of {bytes:x?}");
            }
            assert_eq!(end_of(&bytes, 0, ends.len() as u64), None);
            let cut = bytes.get(..bytes.len().saturating_sub(1)).unwrap_or_default();
            let all = end_of(cut, 0, ends.len() as u64 - 1);
            assert_eq!(all, if bytes.is_empty() { Some(0) } else { None });
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert_eq!(end_of(&[0xc1], 0, 1), None);
        assert_eq!(end_of(&[0xdf, 0x80, 0, 0, 0], 0, 1), None, "a count whose double overflows 32 bits");
        assert_eq!(end_of(&[0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2], 0, 1), None);
        assert_eq!(end_of(&[0xc6, 0xff, 0xff, 0xff, 0xff, 1], 0, 1), None);
        assert_eq!(end_of(&[0xc9, 0xff, 0xff, 0xff, 0xff, 1, 1], 0, 1), None);
        assert_eq!(end_of(&[], 0, 1), None);
        assert_eq!(end_of(&[1], 2, 1), None);
        assert_eq!(end_of(&[1], 1, 0), Some(1));
    }

    /// Counts, and refuses above a limit.
    struct Counter {
        left: std::cell::Cell<usize>,
        limit: usize,
    }

    impl Counter {
        fn new(limit: usize) -> Self {
            Self { left: std::cell::Cell::new(limit), limit }
        }

        fn drawn(&self) -> usize {
            self.limit - self.left.get()
        }
    }

    impl Meter for Counter {
        fn draw(&self, steps: usize) -> Option<()> {
            self.left.set(self.left.get().checked_sub(steps)?);
            Some(())
        }
    }

    #[test]
    fn a_walk_draws_for_the_bytes_that_it_looks_at() {
        let small = vec![7; 100_000];
        let counter = Counter::new(usize::MAX);
        assert_eq!(end_of_metered(&small, 0, 90_000, &counter), Some(90_000));
        assert_eq!(counter.drawn(), 90_000);
        let limited = Counter::new(50_000);
        assert_eq!(end_of_metered(&small, 0, 90_000, &limited), None);
        assert!(limited.left.get() < WINDOW_SIZE, "the walk ends where the limit is");

        let mut long = vec![0xc6, 0, 1, 0x86, 0xa0];
        long.resize(5 + 100_000, 0);
        let long = long.repeat(10);
        let counter = Counter::new(usize::MAX);
        assert_eq!(end_of_metered(&long, 0, 10, &counter), Some(long.len()));
        assert!(counter.drawn() <= 160, "long values are jumped over");
        assert_eq!(end_of_metered(&long, 0, 11, &counter), None);
    }

    #[test]
    fn a_walk_can_stop_between_values_and_continue() {
        let bytes = [&[0x92, 1, 0xa2, 3, b'a', 0xcd, 1, 2][..]; 2000].concat();
        let counter = Counter::new(usize::MAX);
        let mut walk = Walk::new(&bytes, 0, &counter);
        for element in 1..=2000 {
            assert_eq!(walk.pass(2), Some(8 * element));
            assert_eq!(walk.position(), 8 * element);
        }
        assert_eq!(walk.pass(1), None);
        assert_eq!(walk.finish(), Some(()));
        assert_eq!(counter.drawn(), bytes.len());
    }

    #[test]
    fn search_values_are_found_at_any_depth() {
        assert!(holds_search_value(&[0xd4, 0xff, 0]));
        assert!(holds_search_value(&[0x92, 1, 0x91, 0xd4, 0xff, 1]));
        assert!(holds_search_value(&[0x81, 1, 0xc7, 1, 0xff, 1]));
        assert!(!holds_search_value(&[0x93, 1, 0xd4, 1, 0xff, 0xa2, 0xff, 0xff]));
        assert!(!holds_search_value(&[0xc7, 0, 0xff]));
    }
}
