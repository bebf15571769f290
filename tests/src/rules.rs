//! Compares answers by the rule of a recorded step: rows of queries by partition and in order, info answers
//! as a whole, batches in any order. Parts that depend on time, threads or folders are masked.
//!
//! The epoch of void-times, the order of rows within a partition and the masks are the same as in the program
//! that recorded the steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use regex_lite::{Captures, Regex};
use serde::Deserialize;

use crate::compare::Row;
use crate::corpus::latin1;
use crate::wire::{Frame, Message, field, particle};

/// The rule for comparing answers to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Rule {
    /// One message.
    #[serde(rename = "msg")]
    Message,
    /// Messages in any order.
    #[serde(rename = "batch")]
    Batch,
    /// A query's answer: rows of one partition in order, partitions in any order.
    #[serde(rename = "rows")]
    Rows,
    /// A query's answer of which only the number of rows is known.
    #[serde(rename = "count")]
    Count,
    /// The whole text of an info answer.
    #[serde(rename = "info")]
    Info,
}

/// When to wait until indexes are built, jobs are done and truncations are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    Before,
    After,
    Both,
}

/// Two answers, each with its time in seconds since 1970.
pub struct Answers<'a> {
    pub expected: &'a [Frame],
    pub expected_wall: f64,
    pub got: &'a [Frame],
    pub got_wall: f64,
    /// Largest difference of void-times, in seconds.
    pub slack: i64,
}

/// Describes the first difference between two answers.
pub fn difference(rule: Rule, answers: &Answers<'_>) -> Option<String> {
    let Answers { expected, got, slack, .. } = *answers;
    match rule {
        Rule::Info => info(&latin1(&expected[0].body), &latin1(&got[0].body)),
        Rule::Message => lists(&answers.expected_rows(), &answers.got_rows(), slack),
        Rule::Batch => lists(&sorted(answers.expected_rows()), &sorted(answers.got_rows()), slack),
        Rule::Rows | Rule::Count => queries(answers, rule == Rule::Count),
    }
}

impl Answers<'_> {
    fn expected_rows(&self) -> Vec<Row> {
        rows(self.expected, self.expected_wall)
    }

    fn got_rows(&self) -> Vec<Row> {
        rows(self.got, self.got_wall)
    }
}

fn rows(frames: &[Frame], wall: f64) -> Vec<Row> {
    let messages = frames.iter().flat_map(|frame| frame.messages().unwrap_or_default());
    messages.map(|message| Row::new(masked(message), wall)).collect()
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(Row::order);
    rows
}

fn lists(expected: &[Row], got: &[Row], slack: i64) -> Option<String> {
    if expected.len() != got.len() {
        return Some(format!("{} messages expected, {} came", expected.len(), got.len()));
    }
    expected.iter().zip(got).find_map(|(expected, got)| expected.difference(got, slack))
}

/// The parts of a query's answer.
#[derive(Default)]
struct Parts {
    by_partition: BTreeMap<u16, Vec<Row>>,
    /// Values of aggregations, and unavailable partitions.
    others: Vec<Row>,
    last: Vec<Row>,
}

impl Parts {
    fn of(frames: &[Frame], wall: f64) -> Parts {
        let mut parts = Parts::default();
        for message in frames.iter().flat_map(|frame| frame.messages().unwrap_or_default()) {
            let partition = message.field(field::DIGEST).and_then(|digest| digest.first_chunk());
            let partition = partition.map(|bytes| u16::from_le_bytes(*bytes) & 0xfff);
            let list = match partition {
                _ if ends_query(&message) => &mut parts.last,
                None => &mut parts.others,
                Some(partition) => parts.by_partition.entry(partition).or_default(),
            };
            list.push(Row::new(masked(message), wall));
        }
        parts.others = sorted(parts.others);
        parts
    }

    fn count(&self) -> usize {
        self.by_partition.values().map(Vec::len).sum()
    }
}

/// Whether a message is the last of a query's answer. A query may also end with just an error.
pub fn ends_query(message: &Message) -> bool {
    let is_error = message.result != 0 && message.info3 & PARTITION_DONE == 0;
    message.is_last() || is_error && message.fields.is_empty() && message.operations.is_empty()
}

/// Bit of `info3`.
const PARTITION_DONE: u8 = 4;

fn queries(answers: &Answers<'_>, count_only: bool) -> Option<String> {
    let expected = Parts::of(answers.expected, answers.expected_wall);
    let got = Parts::of(answers.got, answers.got_wall);
    if let Some(why) = lists(&expected.last, &got.last, answers.slack) {
        return Some(format!("last message: {why}"));
    }
    let (expected_count, got_count) = (expected.count(), got.count());
    if count_only {
        return (expected_count != got_count)
            .then(|| format!("{expected_count} rows expected, {got_count} came"));
    }
    if let Some(why) = lists(&expected.others, &got.others, answers.slack) {
        return Some(format!("rows without digest: {why}"));
    }
    let partitions: BTreeSet<_> = expected.by_partition.keys().chain(got.by_partition.keys()).collect();
    partitions.into_iter().find_map(|partition| {
        let of = |parts: &Parts| parts.by_partition.get(partition).map_or(&[][..], Vec::as_slice).len();
        let why = match (expected.by_partition.get(partition), got.by_partition.get(partition)) {
            (Some(expected), Some(got)) => lists(expected, got, answers.slack),
            _ => Some(format!("{} messages expected, {} came", of(&expected), of(&got))),
        };
        why.map(|why| {
            format!("partition {partition} ({expected_count} rows expected, {got_count} came): {why}")
        })
    })
}

/// The message with the texts of functions masked.
fn masked(mut message: Message) -> Message {
    for operation in &mut message.operations {
        let is_text = |part: &[u8]| {
            part.windows(4).any(|word| word == b".lua") || part.windows(2).any(|word| word == b"0x")
        };
        match operation.particle {
            particle::STRING if is_text(&operation.value) => operation.value = masked_text(&operation.value),
            particle::LIST | particle::MAP if is_text(&operation.value) => {
                let mut plain = String::new();
                if unpack(&mut &operation.value[..], &mut plain).is_some() {
                    operation.value = plain.into_bytes();
                }
            }
            _ => {}
        }
    }
    message
}

/// The text without the folders of modules and without the addresses of Lua objects.
fn masked_text(text: &[u8]) -> Vec<u8> {
    static MASKS: OnceLock<(Regex, Regex)> = OnceLock::new();
    let (place, address) = MASKS.get_or_init(|| {
        (pattern(r#"(?:\.\.\.)?[^\s"'\[\]:,;]*?([\w-]+\.lua):(\d+)"#), pattern(r"0x[0-9a-f]{6,16}"))
    });
    let text = latin1(text);
    let text = place.replace_all(&text, "$1:$2");
    address.replace_all(&text, "0x").into_owned().into_bytes()
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of ours")
}

/// Writes a packed value as text, with texts masked; `None` if the value is malformed.
fn unpack(rest: &mut &[u8], out: &mut String) -> Option<()> {
    let (&head, after) = rest.split_first()?;
    *rest = after;
    let number = |rest: &mut &[u8], width: usize| {
        let (bytes, after) = rest.split_at_checked(width)?;
        *rest = after;
        Some(bytes.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let (text_size, elements) = match head {
        0x80..=0x8f => (None, Some(2 * usize::from(head & 15))),
        0x90..=0x9f => (None, Some(usize::from(head & 15))),
        0xdc | 0xdd => (None, Some(number(rest, 2 << (head - 0xdc))?)),
        0xde | 0xdf => (None, Some(2 * number(rest, 2 << (head - 0xde))?)),
        0xa0..=0xbf => (Some(usize::from(head & 31)), None),
        0xc4..=0xc6 => (Some(number(rest, 1 << (head - 0xc4))?), None),
        0xd9..=0xdb => (Some(number(rest, 1 << (head - 0xd9))?), None),
        _ => (None, None),
    };
    if let Some(count) = elements {
        out.push(if matches!(head, 0x80..=0x8f | 0xde | 0xdf) { '{' } else { '[' });
        for _ in 0..count {
            unpack(rest, out)?;
            out.push(',');
        }
        return Some(());
    }
    let size = match (text_size, head) {
        (Some(size), _) => size,
        (None, 0xcc | 0xd0) => 1,
        (None, 0xcd | 0xd1 | 0xd4) => 2,
        (None, 0xca | 0xce | 0xd2) => 4,
        (None, 0xcb | 0xcf | 0xd3) => 8,
        (None, 0xc7) => 1 + number(rest, 1)?,
        _ => 0,
    };
    let (bytes, after) = rest.split_at_checked(size)?;
    *rest = after;
    if text_size.is_some() {
        out.push_str(&latin1(&masked_text(bytes)));
    } else {
        out.push_str(&format!("<{head:02x}{bytes:02x?}>"));
    }
    Some(())
}

/// The difference between two info answers, apart from parts that depend on time.
fn info(expected: &str, got: &str) -> Option<String> {
    let (expected, got) = (masked_info(expected), masked_info(got));
    (expected != got).then(|| format!("expected {expected:.600?}, got {got:.600?}"))
}

fn masked_info(text: &str) -> String {
    static MASKS: OnceLock<Vec<(Regex, &str)>> = OnceLock::new();
    let masks = MASKS.get_or_init(|| {
        [
            (r"\b(run-time|time-since-done|net-io-bytes|net-io-time)=\d+", "$1=*"),
            (r"\bfrom=[^:;]*", "from=*"),
            (r"\b(used_bytes|load_time|entries_per_bval|entries_per_rec|stat_gc_recs)=\d+", "$1=*"),
            (r"\btruncate_lut=[1-9]\d*", "truncate_lut=*"),
            (r"^(sindex(?:-stat:[^\t]*\bbar\b|/bar/)[^\t]*\tentries=)\d+", "$1*"),
        ]
        .map(|(mask, by)| (pattern(mask), by))
        .into()
    });
    let lines = text.split('\n').map(|line| {
        let mut line = line.to_owned();
        for (mask, by) in masks {
            line = mask.replace_all(&line, *by).into_owned();
        }
        masked_line(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Masks that apply only to some lines.
fn masked_line(line: String) -> String {
    static MASKS: OnceLock<[Regex; 3]> = OnceLock::new();
    let [progress, moment, sizes] = MASKS.get_or_init(|| {
        [
            pattern(r"\b(job-progress|recs-[a-z-]+)=[\d.]+"),
            pattern(r"=([5-9]\d{11}|\d{9})\b"),
            pattern(r"\b(objects|data_used_bytes)=\d+"),
        ]
    });
    let lower = line.to_ascii_lowercase();
    let named = |captures: &Captures<'_>| format!("{}=*", &captures[1]);
    if line.contains("user-aborted") {
        progress.replace_all(&line, named).into_owned()
    } else if lower.starts_with("smd-show:module=truncate") || lower.starts_with("smd-show:module=evict") {
        moment.replace_all(&line, "=*").into_owned()
    } else if line.starts_with("sets/bar/") {
        sizes.replace_all(&line, named).into_owned()
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Operation, kind, operation};

    #[test]
    fn moments_and_folders_are_masked() {
        assert_eq!(info("a\trun-time=5:x=1\n", "a\trun-time=77:x=1\n"), None);
        assert!(info("a\trun-time=5:x=1\n", "a\trun-time=77:x=2\n").is_some());
        assert_eq!(masked_text(b"/a/b c.lua:5: x 0x12345678"), b"/a/b c.lua:5: x 0x");
        assert_eq!(masked_text(b".../usr/udf/lua/m.lua:5: x"), b"m.lua:5: x");
    }

    #[test]
    fn rows_of_a_partition_keep_their_order() {
        let row = |digest: u8, value: i64| {
            let bin = Operation::integer(operation::READ, "a", value);
            Message::default().with_field(field::DIGEST, &[digest; 20]).with_operation(bin)
        };
        let last = Message { info3: 1, ..Message::default() };
        let frames = |messages: &[&Message]| {
            let body = messages.iter().flat_map(|message| message.body()).collect();
            vec![Frame { kind: kind::MESSAGE, body }]
        };
        let compared = |expected: &[Frame], got: &[Frame]| {
            let answers = Answers { expected, expected_wall: 0.0, got, got_wall: 0.0, slack: 5 };
            difference(Rule::Rows, &answers)
        };
        let (a, b, c) = (row(1, 1), row(1, 2), row(2, 3));
        let expected = frames(&[&a, &b, &c, &last]);
        assert_eq!(compared(&expected, &frames(&[&c, &a, &b, &last])), None);
        assert!(compared(&expected, &frames(&[&c, &b, &a, &last])).is_some());
        assert!(compared(&expected, &frames(&[&a, &b, &last])).is_some());
    }
}
