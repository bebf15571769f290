//! Lua's patterns, matched with a time limit. Lua's own matcher is C code that no hook can stop, and a pattern of a few
//! characters can keep it busy for years.
//!
//! A pattern is matched by backtracking, as its definition requires. Depth is bounded by [`DEPTH_MAX`], time by the
//! watch.

use super::watch::Watch;

/// Maximum number of captures of a pattern.
const CAPTURES_MAX: usize = 32;
/// Maximum number of nested calls of the matcher.
const DEPTH_MAX: usize = 200;
/// Steps between two checks of the watch.
const WATCHED_STEPS: u32 = 20_000;
/// Steps of a repetition that are counted together.
const REPEATED_STEPS: usize = 8_192;
/// Introduces a class or escapes a character.
const ESCAPE: u8 = b'%';
const SPECIALS: &[u8] = b"^$*+?.([%-";

/// The reason why matching failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PatternError {
    /// The pattern is malformed; the text says how.
    Malformed(String),
    /// The time of the function is over.
    Timeout,
}

fn malformed<T>(text: &str) -> Result<T, PatternError> {
    Err(PatternError::Malformed(text.to_owned()))
}

/// The text of a pair of parentheses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capture {
    /// Bytes from the first to before the second position.
    Text(usize, usize),
    /// A position, counted from 0.
    Position(usize),
    /// It has no closing parenthesis, so a program cannot have it.
    Unfinished,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Open,
    Position,
    Closed(usize),
}

/// Whether `pattern` has no special characters.
pub(super) fn is_plain(pattern: &[u8]) -> bool {
    !pattern.iter().any(|byte| SPECIALS.contains(byte))
}

/// Matches a pattern. It has nothing that must be dropped.
pub(super) struct Matcher<'a> {
    subject: &'a [u8],
    pattern: &'a [u8],
    captures: [(usize, Extent); CAPTURES_MAX],
    level: usize,
    depth: usize,
    steps: u32,
    watch: &'a Watch,
}

type Matched = Result<Option<usize>, PatternError>;

impl<'a> Matcher<'a> {
    /// A matcher of `pattern` in `subject`. The mark of a pattern that matches at the beginning only is not a part of the pattern.
    pub(super) fn new(subject: &'a [u8], pattern: &'a [u8], watch: &'a Watch) -> Self {
        let captures = [(0, Extent::Open); CAPTURES_MAX];
        Matcher { subject, pattern, captures, level: 0, depth: 0, steps: 0, watch }
    }

    /// The start and end of the first match from `from` on. With `is_anchored` it must begin there. An empty match at `last`,
    /// the end of the previous match, does not count.
    ///
    /// # Errors
    /// For a malformed pattern, and when the time is over.
    pub(super) fn find(
        &mut self,
        from: usize,
        is_anchored: bool,
        last: Option<usize>,
    ) -> Result<Option<(usize, usize)>, PatternError> {
        for start in from..=self.subject.len() {
            self.level = 0;
            if let Some(end) = self.run(start, 0)?
                && Some(end) != last
            {
                return Ok(Some((start, end)));
            }
            if is_anchored {
                break;
            }
        }
        Ok(None)
    }

    /// Number of captures of the last match.
    pub(super) fn capture_count(&self) -> usize {
        self.level
    }

    /// A capture of the last match, counted from 0.
    pub(super) fn capture(&self, index: usize) -> Option<Capture> {
        let (start, extent) = self.captures[..self.level].get(index)?;
        Some(match extent {
            Extent::Closed(end) => Capture::Text(*start, *end),
            Extent::Position => Capture::Position(*start),
            Extent::Open => Capture::Unfinished,
        })
    }

    fn step(&mut self) -> Result<(), PatternError> {
        self.draw(1)
    }

    /// Counts steps of one byte or item each.
    fn draw(&mut self, steps: usize) -> Result<(), PatternError> {
        self.steps = self.steps.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX));
        if self.steps >= WATCHED_STEPS {
            self.steps = 0;
            if self.watch.is_over() {
                return Err(PatternError::Timeout);
            }
        }
        Ok(())
    }

    /// Matches the pattern from `p` on at `s`; returns the end of the match.
    fn run(&mut self, s: usize, p: usize) -> Matched {
        if self.depth >= DEPTH_MAX {
            return malformed("pattern too complex");
        }
        self.depth += 1;
        let matched = self.run_items(s, p);
        self.depth -= 1;
        matched
    }

    fn run_items(&mut self, mut s: usize, mut p: usize) -> Matched {
        loop {
            self.step()?;
            let Some(&item) = self.pattern.get(p) else { return Ok(Some(s)) };
            match (item, self.pattern.get(p + 1).copied()) {
                (b'(', Some(b')')) => return self.start_capture(s, p + 2, Extent::Position),
                (b'(', _) => return self.start_capture(s, p + 1, Extent::Open),
                (b')', _) => return self.end_capture(s, p + 1),
                (b'$', None) => return Ok((s == self.subject.len()).then_some(s)),
                (ESCAPE, Some(b'b')) => match self.balanced(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => return Ok(None),
                },
                (ESCAPE, Some(b'f')) => {
                    let set = p + 2;
                    if self.pattern.get(set) != Some(&b'[') {
                        return malformed("missing '[' after '%f' in pattern");
                    }
                    let end = self.class_end(set)?;
                    self.draw(end - set)?;
                    let before = if s == 0 { 0 } else { self.subject[s - 1] };
                    let here = self.subject.get(s).copied().unwrap_or(0);
                    if self.in_set(before, set, end - 1) || !self.in_set(here, set, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                }
                (ESCAPE, Some(digit @ b'0'..=b'9')) => match self.back_reference(s, digit)? {
                    Some(end) => (s, p) = (end, p + 2),
                    None => return Ok(None),
                },
                _ => {
                    let end = self.class_end(p)?;
                    self.draw(end - p)?;
                    match self.pattern.get(end) {
                        // What occurs no time takes no depth.
                        Some(b'*' | b'-' | b'?') if !self.is_single(s, p, end) => p = end + 1,
                        Some(b'?') => {
                            if let Some(matched) = self.run(s + 1, end + 1)? {
                                return Ok(Some(matched));
                            }
                            p = end + 1;
                        }
                        Some(b'+') => {
                            return if self.is_single(s, p, end) {
                                self.longest(s + 1, p, end)
                            } else {
                                Ok(None)
                            };
                        }
                        Some(b'*') => return self.longest(s, p, end),
                        Some(b'-') => return self.shortest(s, p, end),
                        _ => {
                            if !self.is_single(s, p, end) {
                                return Ok(None);
                            }
                            (s, p) = (s + 1, end);
                        }
                    }
                }
            }
        }
    }

    /// Matches an item as often as possible; less often if the rest requires it.
    fn longest(&mut self, s: usize, p: usize, end: usize) -> Matched {
        let mut count = self.repeated(s, p, end)?;
        // Nothing follows, so the longest one matches.
        if end + 1 == self.pattern.len() {
            return Ok(Some(s + count));
        }
        loop {
            if let Some(matched) = self.run(s + count, end + 1)? {
                return Ok(Some(matched));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    /// How many bytes from `s` on match an item.
    fn repeated(&mut self, s: usize, p: usize, end: usize) -> Result<usize, PatternError> {
        let (subject, mut count) = (self.subject, 0);
        for part in subject[s..].chunks((REPEATED_STEPS / (end - p)).max(1)) {
            let matched = match self.pattern[p] {
                b'.' => part.len(),
                ESCAPE => {
                    let class = Class::of(self.pattern[p + 1]);
                    matched_at_start(part, |byte| class.contains(byte))
                }
                b'[' if end - p == 4 && self.pattern[p + 1] == b'^' && self.pattern[p + 2] != ESCAPE => {
                    memchr::memchr(self.pattern[p + 2], part).unwrap_or(part.len())
                }
                b'[' => matched_at_start(part, |byte| self.in_set(byte, p, end - 1)),
                literal => matched_at_start(part, |byte| byte == literal),
            };
            self.draw(matched * (end - p))?;
            count += matched;
            if matched < part.len() {
                break;
            }
        }
        Ok(count)
    }

    /// Matches an item as few times as the rest allows.
    fn shortest(&mut self, mut s: usize, p: usize, end: usize) -> Matched {
        loop {
            if let Some(matched) = self.run(s, end + 1)? {
                return Ok(Some(matched));
            }
            self.draw(end - p)?;
            if !self.is_single(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn start_capture(&mut self, s: usize, p: usize, extent: Extent) -> Matched {
        if self.level >= CAPTURES_MAX {
            return malformed("too many captures");
        }
        self.captures[self.level] = (s, extent);
        self.level += 1;
        let matched = self.run(s, p)?;
        if matched.is_none() {
            self.level -= 1;
        }
        Ok(matched)
    }

    fn end_capture(&mut self, s: usize, p: usize) -> Matched {
        let open = (0..self.level).rev().find(|level| self.captures[*level].1 == Extent::Open);
        let Some(open) = open else { return malformed("invalid pattern capture") };
        self.captures[open].1 = Extent::Closed(s);
        let matched = self.run(s, p)?;
        if matched.is_none() {
            self.captures[open].1 = Extent::Open;
        }
        Ok(matched)
    }

    fn back_reference(&mut self, s: usize, digit: u8) -> Matched {
        let number = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let (start, extent) = match self.captures.get(number) {
            Some((start, extent)) if number < self.level && *extent != Extent::Open => (*start, *extent),
            _ => return malformed(&format!("invalid capture index %{}", number.wrapping_add(1))),
        };
        // The text of a position occurs nowhere.
        let Extent::Closed(end) = extent else { return Ok(None) };
        let text = &self.subject[start..end];
        self.draw(text.len())?;
        Ok(self.subject[s..].starts_with(text).then_some(s + text.len()))
    }

    /// Matches from one delimiter to the balancing other one.
    fn balanced(&mut self, s: usize, p: usize) -> Matched {
        let (Some(&open), Some(&close)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return malformed("malformed pattern (missing arguments to '%b')");
        };
        if self.subject.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1u64;
        for at in s + 1..self.subject.len() {
            self.step()?;
            let byte = self.subject[at];
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    /// The end of the item that begins at `p`.
    fn class_end(&self, p: usize) -> Result<usize, PatternError> {
        let mut at = p + 1;
        match self.pattern[p] {
            ESCAPE => {
                if at == self.pattern.len() {
                    return malformed("malformed pattern (ends with '%')");
                }
                Ok(at + 1)
            }
            b'[' => {
                if self.pattern.get(at) == Some(&b'^') {
                    at += 1;
                }
                // A bracket that comes first is a member of the set.
                loop {
                    let Some(&byte) = self.pattern.get(at) else {
                        return malformed("malformed pattern (missing ']')");
                    };
                    at += 1;
                    if byte == ESCAPE {
                        at += 1;
                    }
                    if self.pattern.get(at) == Some(&b']') {
                        return Ok(at + 1);
                    }
                }
            }
            _ => Ok(at),
        }
    }

    fn is_single(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.subject.get(s) else { return false };
        match self.pattern[p] {
            b'.' => true,
            ESCAPE => in_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1),
            literal => literal == byte,
        }
    }

    /// Whether `byte` is in the set between the brackets at `open` and `close`.
    fn in_set(&self, byte: u8, open: usize, close: usize) -> bool {
        let mut at = open + 1;
        let is_negated = self.pattern.get(at) == Some(&b'^');
        if is_negated {
            at += 1;
        }
        while at < close {
            let item = self.pattern[at];
            if item == ESCAPE {
                at += 1;
                if self.pattern.get(at).is_some_and(|class| in_class(byte, *class)) {
                    return !is_negated;
                }
            } else if self.pattern.get(at + 1) == Some(&b'-') && at + 2 < close {
                if (item..=self.pattern[at + 2]).contains(&byte) {
                    return !is_negated;
                }
                at += 2;
            } else if item == byte {
                return !is_negated;
            }
            at += 1;
        }
        is_negated
    }
}

/// Number of bytes at the start that match.
fn matched_at_start(part: &[u8], is_match: impl Fn(u8) -> bool) -> usize {
    part.iter().position(|byte| !is_match(*byte)).unwrap_or(part.len())
}

/// A class of bytes, written `%class`.
#[derive(Clone, Copy)]
enum Class {
    /// The bytes that have this bit in [`CLASSES`], or that have it not.
    Bit(u16, bool),
    /// A letter that names no class stands for itself.
    Byte(u8),
}

impl Class {
    fn of(class: u8) -> Self {
        let at = match class.to_ascii_lowercase() {
            b'a' => 0,
            b'c' => 1,
            b'd' => 2,
            b'g' => 3,
            b'l' => 4,
            b'p' => 5,
            b's' => 6,
            b'u' => 7,
            b'w' => 8,
            b'x' => 9,
            b'z' => 10,
            _ => return Class::Byte(class),
        };
        Class::Bit(1 << at, class.is_ascii_uppercase())
    }

    fn contains(self, byte: u8) -> bool {
        match self {
            Class::Bit(bit, is_negated) => (CLASSES[usize::from(byte)] & bit != 0) != is_negated,
            Class::Byte(other) => byte == other,
        }
    }
}

/// A bit for each class that a byte is in, in the order of the names `acdglpsuwxz`.
static CLASSES: [u16; 256] = {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        classes[at] = byte.is_ascii_alphabetic() as u16
            | (byte.is_ascii_control() as u16) << 1
            | (byte.is_ascii_digit() as u16) << 2
            | (byte.is_ascii_graphic() as u16) << 3
            | (byte.is_ascii_lowercase() as u16) << 4
            | (byte.is_ascii_punctuation() as u16) << 5
            | ((byte.is_ascii_whitespace() || byte == 0x0B) as u16) << 6
            | (byte.is_ascii_uppercase() as u16) << 7
            | (byte.is_ascii_alphanumeric() as u16) << 8
            | (byte.is_ascii_hexdigit() as u16) << 9
            | ((byte == 0) as u16) << 10;
        at += 1;
    }
    classes
};

fn in_class(byte: u8, class: u8) -> bool {
    Class::of(class).contains(byte)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::watch::TimeLimit;

    use super::*;

    fn find(subject: &[u8], pattern: &[u8], watch: &Watch) -> Result<Option<(usize, usize)>, PatternError> {
        Matcher::new(subject, pattern, watch).find(0, false, None)
    }

    /// Start, end and captures of the first match, counted as Lua does.
    fn found(subject: &str, pattern: &str) -> Option<(usize, usize, Vec<String>)> {
        let is_anchored = pattern.starts_with('^');
        let bare = &pattern[usize::from(is_anchored)..];
        let watch = Watch::default();
        let mut matcher = Matcher::new(subject.as_bytes(), bare.as_bytes(), &watch);
        let (start, end) = matcher.find(0, is_anchored, None).expect("it is well formed")?;
        let text = |index| match matcher.capture(index).expect("it is there") {
            Capture::Text(start, end) => subject[start..end].to_owned(),
            Capture::Position(at) => format!("@{}", at + 1),
            Capture::Unfinished => "unfinished".to_owned(),
        };
        Some((start + 1, end, (0..matcher.capture_count()).map(text).collect()))
    }

    fn at(start: usize, end: usize, captures: &[&str]) -> Option<(usize, usize, Vec<String>)> {
        Some((start, end, captures.iter().map(|text| (*text).to_owned()).collect()))
    }

    #[test]
    fn patterns_match_as_in_lua() {
        assert_eq!(found("hello world", "o w"), at(5, 7, &[]));
        assert_eq!(found("hello world", "^w"), None);
        assert_eq!(found("key = value", "(%w+)%s*=%s*(%w+)"), at(1, 11, &["key", "value"]));
        assert_eq!(found("  x", "^%s*()"), at(1, 2, &["@3"]));
        assert_eq!(found("f(a(b)c)d", "%b()"), at(2, 8, &[]));
        assert_eq!(found("THE (quick) fox", "%f[%a]%a+"), at(1, 3, &[]));
        assert_eq!(found("say \"hi\" 'x'", "([\"'])(.-)%1"), at(5, 8, &["\"", "hi"]));
        assert_eq!(found("abc123", "%a-%d"), at(1, 4, &[]));
        assert_eq!(found("a]b", "[]]"), at(2, 2, &[]));
        assert_eq!(found("a-b", "[a%-]+"), at(1, 2, &[]));
        assert_eq!(found("2024", "[0-9][^0-1]$"), at(3, 4, &[]));
        assert_eq!(found("abc", "b?c"), at(2, 3, &[]));
        assert_eq!(found("abc", ".$"), at(3, 3, &[]));
        assert_eq!(found("", ""), at(1, 0, &[]));
        assert_eq!(found("x^y", "%^"), at(2, 2, &[]));
        assert_eq!(found("abc", "b(c"), at(2, 3, &["unfinished"]));
        assert_eq!(found("abc", "()%1"), None);
        assert_eq!(found("a\0b", "%Z%z"), at(1, 2, &[]));
        assert_eq!(found("ac", &format!("a{}c", "b*b-b?".repeat(100))), at(1, 2, &[]));
    }

    #[test]
    fn malformed_patterns_are_reported() {
        for (pattern, text) in [
            ("[a", "malformed pattern (missing ']')"),
            ("%", "malformed pattern (ends with '%')"),
            ("a)", "invalid pattern capture"),
            ("%1", "invalid capture index %1"),
            ("%b", "malformed pattern (missing arguments to '%b')"),
            ("%fa", "missing '[' after '%f' in pattern"),
        ] {
            let result = find(b"aaa", pattern.as_bytes(), &Watch::default());
            assert_eq!(result, Err(PatternError::Malformed(text.to_owned())), "{pattern}");
        }
        let deep = "(".repeat(40);
        assert!(find(b"aaa", deep.as_bytes(), &Watch::default()).is_err());
        let deep = "a?".repeat(500);
        let many = "a".repeat(500);
        let result = find(many.as_bytes(), deep.as_bytes(), &Watch::default());
        assert_eq!(result, Err(PatternError::Malformed("pattern too complex".to_owned())));
    }

    #[test]
    fn a_catastrophic_pattern_ends_with_its_time() {
        let watch = Watch::default();
        watch.begin(TimeLimit::by_clock(Duration::from_millis(20)));
        let begun = Instant::now();
        let result = find("a".repeat(30_000).as_bytes(), b".-.-.-.-.-b", &watch);
        assert_eq!(result, Err(PatternError::Timeout));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
