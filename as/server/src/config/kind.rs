//! Kinds of parameter values: what they allow, how their text is read and how it is written back.
//!
//! Reading is pure and total: any words give a value or a sentence that says what is allowed.

use cf::log::{Context, Level};

use super::setting::Field;
use super::suggest::closest;
use super::value::{ANY_CONTEXT, Backing, Endpoint, LEVEL_NAMES, LogLevelRule};

/// Time to live of a set that never expires (`-1` in the file).
pub const TTL_NEVER: u32 = u32::MAX;
/// Read-touch percentage of a set that never touches (`-1` in the file).
pub const PCT_OFF: u32 = u32::MAX;
/// Lowest port that may be configured; 0 means "any free one".
pub const PORT_MIN: u16 = 1024;

/// A further condition on a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberRule {
    /// None.
    Any,
    /// 0, where the bounds allow it, or a power of two.
    PowerOf2,
    /// A multiple of this.
    MultipleOf(u64),
}

/// The type of a parameter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; with `bare`, no value means true.
    Bool {
        /// The value may be left out.
        bare: bool,
    },
    /// A whole number; suffixes K, M, G, T, P multiply by powers of 1024.
    Number {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
        /// Further condition.
        shape: NumberRule,
        /// It counts bytes.
        bytes: bool,
    },
    /// A time in seconds; suffixes s, m, h, d.
    Seconds {
        /// Least value.
        min: u32,
        /// Greatest value.
        max: u32,
        /// `-1` is allowed and stands for [`TTL_NEVER`].
        never: bool,
    },
    /// 0 to 100, or `-1` for [`PCT_OFF`].
    PctOrOff,
    /// A TCP or UDP port.
    Port {
        /// 0 is allowed and stands for any free one.
        or_any: bool,
    },
    /// A 64-bit hexadecimal number, not 0.
    Hex,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A word, of at most `max` bytes.
    Text {
        /// Greatest length in bytes.
        max: usize,
    },
    /// From `min` to `max` words, kept with `:` between them.
    Joined {
        /// Least number of words.
        min: usize,
        /// Greatest number of words.
        max: usize,
    },
    /// Words on up to `count_max` lines, each with up to `words` words.
    Texts {
        /// Greatest number of lines.
        count_max: usize,
        /// Greatest length of a word in bytes.
        max: usize,
        /// Greatest number of words on a line.
        words: usize,
        /// get-config shows `name[0]=…` instead of repeating `name=…`.
        indexed: bool,
    },
    /// Up to `count_max` lines, each with an address and a port; with `tls`, a TLS name may follow.
    Endpoints {
        /// Greatest number of lines.
        count_max: usize,
        /// A TLS name may follow.
        tls: bool,
    },
    /// Up to `count_max` lines, each with a file or device and optionally its shadow.
    Backings {
        /// Greatest number of lines.
        count_max: usize,
    },
    /// A log context and a level on a line.
    LogLevels,
}

/// The reason why a value was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueError {
    /// There is no value.
    Missing,
    /// The value is not of the kind or out of bounds.
    NotAllowed {
        /// The offending word.
        word: String,
        /// The likely intended word, if there is one.
        suggestion: Option<&'static str>,
    },
    /// The list already has this item.
    Duplicate(String),
    /// The list is full.
    TooMany(usize),
}

impl Kind {
    /// Greatest number of words that belong to the value.
    #[must_use]
    pub fn words_max(&self) -> usize {
        match self {
            Self::Joined { max, .. } => *max,
            Self::Texts { words, .. } => *words,
            Self::Endpoints { tls: true, .. } => 3,
            Self::Endpoints { .. } | Self::Backings { .. } | Self::LogLevels => 2,
            _ => 1,
        }
    }

    /// Whether the parameter may be given on several lines, each of which adds to the value.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self, Self::Texts { .. } | Self::Endpoints { .. } | Self::Backings { .. } | Self::LogLevels)
    }

    /// The allowed values, as the end of a sentence: "a number from 1 to 256".
    #[must_use]
    pub fn allowed(&self) -> String {
        match *self {
            Self::Bool { .. } => "true or false".to_owned(),
            Self::Number { min, max, shape, bytes } => number_allowed(min, max, shape, bytes),
            Self::Seconds { min, max, never } => {
                let range = if max == u32::MAX {
                    format!("{min} or more seconds (or with suffix s, m, h or d)")
                } else {
                    format!("{min} to {max} seconds (or with suffix s, m, h or d)")
                };
                if never { format!("{range}, or -1 for never") } else { range }
            }
            Self::PctOrOff => "a number from 0 to 100, or -1 for off".to_owned(),
            Self::Port { or_any } => {
                let or_any = if or_any { ", or 0 for any free one" } else { "" };
                format!("a port from {PORT_MIN} to {}{or_any}", u16::MAX)
            }
            Self::Hex => "a hexadecimal number of up to 16 digits, not 0".to_owned(),
            Self::Choice(names) => list_words(names),
            Self::Text { max } | Self::Texts { max, words: 1, .. } if max < usize::MAX => {
                format!("a word of at most {max} characters")
            }
            Self::Text { .. } | Self::Texts { words: 1, .. } => "a word".to_owned(),
            Self::Texts { words, .. } => format!("1 to {words} words"),
            Self::Joined { min, max } => format!("{min} to {max} words"),
            Self::Endpoints { tls, .. } => {
                let name = if tls { ", perhaps with a TLS name" } else { "" };
                format!("an address and a port from {PORT_MIN} to {}{name}", u16::MAX)
            }
            Self::Backings { .. } => "a path and perhaps the path of its shadow".to_owned(),
            Self::LogLevels => {
                "a log context (or any) and one of critical, warning, info, debug, detail".to_owned()
            }
        }
    }

    /// Reads `words` into `field`. Lists get one more item, other values are replaced.
    ///
    /// # Errors
    /// When the kind does not allow the words; the field is then unchanged.
    pub fn assign(&self, field: Field<'_>, words: &[&str]) -> Result<(), ValueError> {
        if let Self::Bool { bare: true } = self
            && words.is_empty()
            && let Field::Flag(flag) = field
        {
            flag.set(true);
            return Ok(());
        }
        let first = *words.first().ok_or(ValueError::Missing)?;
        let refuse = || ValueError::NotAllowed { word: first.to_owned(), suggestion: None };
        match (*self, field) {
            (Self::Bool { .. }, Field::Flag(flag)) => flag.set(parse_bool(first).ok_or_else(refuse)?),
            (Self::Choice(names), Field::Choice(choice)) => {
                choice.set_index(choice_index(names, first).ok_or_else(|| ValueError::NotAllowed {
                    word: first.to_owned(),
                    suggestion: closest(first, names.iter().copied()),
                })?);
            }
            (Self::Text { max }, Field::Text(text)) => {
                text.set(Some(first).filter(|word| word.len() <= max).ok_or_else(refuse)?);
            }
            (Self::Joined { min, max }, Field::Text(text)) => {
                if words.len() < min {
                    return Err(ValueError::Missing);
                }
                text.set(&words.get(..max).unwrap_or(words).join(":"));
            }
            (_, Field::U16(_) | Field::U32(_) | Field::U64(_)) => {
                let value = self.number(first).ok_or_else(refuse)?;
                store_number(field, value).ok_or_else(refuse)?;
            }
            _ => return self.append(field, first, words.get(1).copied(), words.get(2).copied()),
        }
        Ok(())
    }

    /// The number that `word` spells, if it is in bounds.
    fn number(&self, word: &str) -> Option<u64> {
        match *self {
            Self::Number { min, max, shape, .. } => {
                parse_size(word).filter(|value| (min..=max).contains(value)).filter(|value| match shape {
                    NumberRule::Any => true,
                    NumberRule::PowerOf2 => *value == 0 || value.is_power_of_two(),
                    NumberRule::MultipleOf(factor) => value.checked_rem(factor) == Some(0),
                })
            }
            Self::Seconds { never: true, .. } if word == "-1" => Some(u64::from(TTL_NEVER)),
            Self::Seconds { min, max, .. } => {
                parse_seconds(word).filter(|value| (u64::from(min)..=u64::from(max)).contains(value))
            }
            Self::PctOrOff if word == "-1" => Some(u64::from(PCT_OFF)),
            Self::PctOrOff => parse_size(word).filter(|value| *value <= 100),
            Self::Port { or_any } => parse_size(word).filter(|value| {
                or_any && *value == 0 || (u64::from(PORT_MIN)..=u64::from(u16::MAX)).contains(value)
            }),
            Self::Hex => parse_hex(word).filter(|value| *value != 0),
            _ => None,
        }
    }

    /// Appends one item to a list.
    fn append(
        &self,
        field: Field<'_>,
        first: &str,
        second: Option<&str>,
        third: Option<&str>,
    ) -> Result<(), ValueError> {
        let refuse = |word: &str| ValueError::NotAllowed { word: word.to_owned(), suggestion: None };
        match (*self, field) {
            (Self::Texts { count_max, max, words, .. }, Field::Texts(list)) => {
                let second = second.filter(|_| words > 1);
                if let Some(long) = std::iter::once(first).chain(second).find(|word| word.len() > max) {
                    return Err(refuse(long));
                }
                let item = second.map_or_else(|| first.to_owned(), |second| format!("{first} {second}"));
                push_unique(&list.get(), &item, count_max, |other| *other == item)?;
                list.push(item);
            }
            (Self::Endpoints { count_max, tls }, Field::Endpoints(list)) => {
                let missing = || if first.contains(':') { refuse(first) } else { ValueError::Missing };
                let port = second.ok_or_else(missing)?;
                let number = parse_size(port)
                    .and_then(|value| u16::try_from(value).ok())
                    .filter(|value| *value >= PORT_MIN)
                    .ok_or_else(|| refuse(port))?;
                let tls_name = third.filter(|_| tls).map(str::to_owned);
                let item = Endpoint { host: first.to_owned(), port: number, tls_name };
                push_unique(&list.get(), &format!("{first} {port}"), count_max, |other| *other == item)?;
                list.push(item);
            }
            (Self::Backings { count_max }, Field::Backings(list)) => {
                let item = Backing { path: first.to_owned(), shadow: second.map(str::to_owned) };
                let have = list.get();
                push_unique(&have, first, count_max, |other| other.path == item.path)?;
                if let Some(shadow) = &item.shadow {
                    push_unique(&have, shadow, count_max, |other| other.shadow.as_ref() == Some(shadow))?;
                }
                list.push(item);
            }
            (Self::LogLevels, Field::Levels(list)) => {
                let level = second.ok_or(ValueError::Missing)?;
                let names = || Context::ALL.into_iter().map(Context::name).chain([ANY_CONTEXT]);
                let context = match Context::from_name(first) {
                    None if !first.eq_ignore_ascii_case(ANY_CONTEXT) => {
                        let suggestion = closest(first, names());
                        return Err(ValueError::NotAllowed { word: first.to_owned(), suggestion });
                    }
                    context => context,
                };
                let level = Level::from_name(level).ok_or_else(|| ValueError::NotAllowed {
                    word: level.to_owned(),
                    suggestion: closest(level, LEVEL_NAMES.into_iter()),
                })?;
                list.push(LogLevelRule { context, level });
            }
            _ => return Err(refuse(first)),
        }
        Ok(())
    }

    /// The value of `field` as get-config writes it; lists with `,` between items, unset texts as `null`.
    #[must_use]
    pub fn text(&self, field: Field<'_>) -> String {
        match field {
            Field::Flag(flag) => flag.get().to_string(),
            Field::U16(number) => number.get().to_string(),
            Field::U32(number) => number.get().to_string(),
            Field::U64(number) if *self == Self::Hex => format!("{:X}", number.get()),
            Field::U64(number) => number.get().to_string(),
            Field::Choice(choice) => match self {
                Self::Choice(names) => names.get(usize::from(choice.index())).copied().unwrap_or("undefined"),
                _ => "undefined",
            }
            .to_owned(),
            Field::Text(text) => text.get().map_or_else(|| "null".to_owned(), |text| text.to_string()),
            Field::Texts(list) => list.get().join(","),
            Field::Endpoints(list) => join(&list.get(), |item| format!("{}:{}", item.host, item.port)),
            Field::Backings(list) => join(&list.get(), |item| item.path.clone()),
            Field::Levels(list) => join(&list.get(), |rule| {
                let context = rule.context.map_or(ANY_CONTEXT, Context::name);
                format!("{context}:{}", rule.level.name())
            }),
        }
    }
}

fn join<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Words with commas between them and `or` before the last.
#[must_use]
pub fn list_words(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}

fn number_allowed(min: u64, max: u64, shape: NumberRule, bytes: bool) -> String {
    let spell = |value: u64| if bytes { size_text(value) } else { value.to_string() };
    let what = if bytes { "a size" } else { "a number" };
    let range = match (min, max) {
        (0, u64::MAX) if bytes => "a size in bytes (or with suffix K, M, G, T or P)".to_owned(),
        (0, u64::MAX) => "a whole number".to_owned(),
        (min, u64::MAX) => format!("{what} of at least {}", spell(min)),
        (min, max) => format!("{what} from {} to {}", spell(min), spell(max)),
    };
    match shape {
        NumberRule::Any => range,
        NumberRule::PowerOf2 => format!("{range}, a power of 2"),
        NumberRule::MultipleOf(factor) => format!("{range}, a multiple of {factor}"),
    }
}

/// A size with the greatest suffix that divides it.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    const SUFFIXES: [(u32, &str); 5] = [(50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")];
    SUFFIXES
        .iter()
        .find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(|| bytes.to_string(), |(shift, suffix)| format!("{}{suffix}", bytes >> shift))
}

fn parse_bool(word: &str) -> Option<bool> {
    let is = |names: [&str; 2]| names.iter().any(|name| word.eq_ignore_ascii_case(name));
    if is(["true", "yes"]) {
        Some(true)
    } else if is(["false", "no"]) {
        Some(false)
    } else {
        None
    }
}

fn choice_index(names: &[&str], word: &str) -> Option<u8> {
    names.iter().position(|name| *name == word).and_then(|index| u8::try_from(index).ok())
}

/// Digits with an optional suffix; `scale` gives the factor of a (lower-case) suffix.
fn parse_scaled(word: &str, scale: impl Fn(u8) -> Option<u64>) -> Option<u64> {
    let last = word.as_bytes().last()?.to_ascii_lowercase();
    let (digits, factor) = match scale(last) {
        Some(factor) => (word.get(..word.len() - 1)?, factor),
        None => (word, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A number with an optional suffix K, M, G, T or P in either case.
fn parse_size(word: &str) -> Option<u64> {
    parse_scaled(word, |suffix| match suffix {
        b'k' => Some(1 << 10),
        b'm' => Some(1 << 20),
        b'g' => Some(1 << 30),
        b't' => Some(1 << 40),
        b'p' => Some(1 << 50),
        _ => None,
    })
}

/// Seconds with an optional suffix s, m, h or d in either case.
fn parse_seconds(word: &str) -> Option<u64> {
    parse_scaled(word, |suffix| match suffix {
        b's' => Some(1),
        b'm' => Some(60),
        b'h' => Some(60 * 60),
        b'd' => Some(24 * 60 * 60),
        _ => None,
    })
}

/// Hexadecimal digits, with or without `0x`.
fn parse_hex(word: &str) -> Option<u64> {
    let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

fn store_number(field: Field<'_>, value: u64) -> Option<()> {
    match field {
        Field::U16(number) => number.set(u16::try_from(value).ok()?),
        Field::U32(number) => number.set(u32::try_from(value).ok()?),
        Field::U64(number) => number.set(value),
        _ => return None,
    }
    Some(())
}

/// Checks that a further item is not in the list `have` yet and fits into it.
fn push_unique<T>(
    have: &[T],
    word: &str,
    count_max: usize,
    same: impl Fn(&T) -> bool,
) -> Result<(), ValueError> {
    if have.iter().any(same) {
        return Err(ValueError::Duplicate(word.to_owned()));
    }
    if have.len() >= count_max {
        return Err(ValueError::TooMany(count_max));
    }
    Ok(())
}
