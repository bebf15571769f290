//! Compares two answers to the same request.
//!
//! Record messages must agree in result code, generation, distance of the void-time from now (within five
//! seconds), every field, and every operation byte for byte. An answer of several messages is compared as a
//! set of records, with its rows in any order. Info answers must be equal for the commands whose text is a
//! contract, and of the same kind (ok, error, fail, empty, data) for the others.

use crate::corpus::latin1;
use crate::wire::{Frame, Message, kind};

/// Zero of void-times, in seconds since 1970.
const CITRUSLEAF_EPOCH: f64 = 1_262_304_000.0;
/// Largest difference of two void-times, in seconds. Each is relative to its own clock.
pub(crate) const VOID_TIME_SLACK: i64 = 5;
/// Info commands, by the beginning of the request, whose answers must be equal.
const INFO_EXACT: [&str; 7] =
    ["sindex-exists", "udf-list", "udf-get", "namespaces", "sindex-delete", "udf-remove", "truncate"];
/// Length at which a printed value is truncated.
const BRIEF_MAX: usize = 400;

/// Describes the first difference between two answers of record messages. The wall arguments are the times of
/// the answers, in seconds since 1970.
pub fn messages(expected: &[Frame], expected_wall: f64, got: &[Frame], got_wall: f64) -> Option<String> {
    let expected = rows(expected, expected_wall);
    let got = rows(got, got_wall);
    if expected.len() != got.len() {
        return Some(format!("{} messages expected, {} came", expected.len(), got.len()));
    }
    expected.iter().zip(&got).find_map(|(expected, got)| expected.difference(got, VOID_TIME_SLACK))
}

/// Describes the first difference between two answers to an info request.
pub fn info(request: &str, expected: &Frame, got: &Frame) -> Option<String> {
    let (expected, got) = (latin1(&expected.body), latin1(&got.body));
    let request = request.trim();
    let exact = INFO_EXACT.iter().any(|name| request.starts_with(name));
    let same = if exact { expected == got } else { info_kind(&expected) == info_kind(&got) };
    (!same).then(|| format!("expected {}, got {}", brief(expected.as_bytes()), brief(got.as_bytes())))
}

pub fn describe(request: &[u8]) -> String {
    let Some(frame) = Frame::decode(request) else { return format!("no whole frame: {}", brief(request)) };
    if frame.kind != kind::MESSAGE {
        return format!("info {}", brief(&frame.body));
    }
    let messages = frame.messages().unwrap_or_default();
    let Some(m) = messages.first() else { return format!("malformed: {}", brief(request)) };
    format!(
        "info1 {:#04x} info2 {:#04x} info3 {:#04x} info4 {:#04x} gen {} ttl {} fields {} ops {}",
        m.info1,
        m.info2,
        m.info3,
        m.info4,
        m.generation,
        m.record_ttl,
        fields(&m.fields),
        operations(m)
    )
}

/// A message of an answer in the form for comparison.
#[derive(Debug)]
pub(crate) enum Row {
    Message { message: Message, seconds_to_void: Option<i64> },
    Other(Frame),
}

impl Row {
    pub(crate) fn new(mut message: Message, wall: f64) -> Row {
        message.fields.sort();
        let void_time = f64::from(message.record_ttl) + CITRUSLEAF_EPOCH;
        let seconds_to_void = (message.record_ttl != 0).then(|| (void_time - wall).round() as i64);
        Row::Message { message, seconds_to_void }
    }

    /// Compares in an order that does not depend on the order of arrival.
    pub(crate) fn order(&self, other: &Row) -> std::cmp::Ordering {
        match (self, other) {
            (Row::Message { message: a, .. }, Row::Message { message: b, .. }) => {
                let key = |m: &'_ Message| (m.info3, m.result, m.transaction_ttl, m.generation);
                let (of_a, of_b) = (key(a), key(b));
                (of_a.0, of_a.1, &a.fields, &a.operations, of_a).cmp(&(
                    of_b.0,
                    of_b.1,
                    &b.fields,
                    &b.operations,
                    of_b,
                ))
            }
            (Row::Other(a), Row::Other(b)) => (a.kind, &a.body).cmp(&(b.kind, &b.body)),
            (Row::Message { .. }, Row::Other(_)) => std::cmp::Ordering::Less,
            (Row::Other(_), Row::Message { .. }) => std::cmp::Ordering::Greater,
        }
    }

    /// Describes the difference. Void-times may be `slack` seconds apart.
    pub(crate) fn difference(&self, got: &Row, slack: i64) -> Option<String> {
        let (a, a_void, b, b_void) = match (self, got) {
            (Row::Other(a), Row::Other(b)) => return (a != b).then(|| "frame differs".to_owned()),
            (
                Row::Message { message: a, seconds_to_void: a_void },
                Row::Message { message: b, seconds_to_void: b_void },
            ) => (a, a_void, b, b_void),
            _ => return Some("a frame of another kind, or malformed".to_owned()),
        };
        let differs = |name: &str, a: &dyn ToString, b: &dyn ToString| {
            let (a, b) = (a.to_string(), b.to_string());
            (a != b).then(|| format!("{name}: expected {a}, got {b}"))
        };
        let void_time = match (a_void, b_void) {
            (None, None) => None,
            (Some(a), Some(b)) if (a - b).abs() <= slack => None,
            _ => Some(format!("void-time: expected {}, got {}", from_now(*a_void), from_now(*b_void))),
        };
        None.or_else(|| differs("info3", &a.info3, &b.info3))
            .or_else(|| differs("result code", &a.result, &b.result))
            .or_else(|| differs("generation", &a.generation, &b.generation))
            .or(void_time)
            .or_else(|| differs("transaction-ttl", &a.transaction_ttl, &b.transaction_ttl))
            .or_else(|| {
                (a.fields != b.fields).then(|| expected_got("fields", fields(&a.fields), fields(&b.fields)))
            })
            .or_else(|| {
                (a.operations != b.operations).then(|| expected_got("ops", operations(a), operations(b)))
            })
    }
}

/// The messages of an answer. Several messages are put into an order that does not depend on the order of
/// arrival.
fn rows(frames: &[Frame], wall: f64) -> Vec<Row> {
    let mut rows = Vec::new();
    for frame in frames {
        match frame.messages().filter(|_| frame.kind == kind::MESSAGE) {
            Some(messages) => rows.extend(messages.into_iter().map(|message| Row::new(message, wall))),
            None => rows.push(Row::Other(frame.clone())),
        }
    }
    rows.sort_by(Row::order);
    rows
}

/// The start of the value after the first tab, if it is one of the words for success.
fn info_kind(answer: &str) -> &'static str {
    let value = answer.split_once('\t').map(|(_, value)| value);
    let word = value.unwrap_or("").trim().to_lowercase();
    let word = word.split([':', '=', ';', ' ', '\t', '\n', '\r']).next().unwrap_or_default();
    match word {
        "ok" => "ok",
        "error" => "error",
        "fail" => "fail",
        _ if value.unwrap_or(answer).trim().is_empty() => "empty",
        _ => "data",
    }
}

fn from_now(seconds: Option<i64>) -> String {
    seconds.map_or("none".to_owned(), |seconds| format!("now{seconds:+} s"))
}

fn expected_got(name: &str, expected: String, got: String) -> String {
    format!("{name}: expected {expected}, got {got}")
}

fn fields(fields: &[(u8, Vec<u8>)]) -> String {
    let parts: Vec<String> = fields.iter().map(|(t, value)| format!("{t}={}", brief(value))).collect();
    format!("[{}]", parts.join(", "))
}

fn operations(message: &Message) -> String {
    let part = |op: &crate::wire::Operation| {
        format!("({} {} p{} f{} {})", op.code, brief(&op.name), op.particle, op.flags, brief(&op.value))
    };
    format!("[{}]", message.operations.iter().map(part).collect::<Vec<_>>().join(", "))
}

/// Bytes as quoted text if they are plain ASCII, otherwise in hexadecimal. They are truncated at a readable
/// length.
fn brief(bytes: &[u8]) -> String {
    let plain = bytes.iter().all(|byte| (b' '..=b'~').contains(byte) || matches!(byte, b'\t' | b'\n'));
    let mut text = if plain {
        format!("{:?}", latin1(bytes))
    } else {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    if text.len() > BRIEF_MAX {
        text.truncate(BRIEF_MAX);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Operation, operation};

    const NOW: f64 = CITRUSLEAF_EPOCH + 1000.0;

    fn answer(messages: &[Message]) -> Vec<Frame> {
        vec![Frame { kind: kind::MESSAGE, body: messages.iter().flat_map(Message::body).collect() }]
    }

    fn row(index: u32, value: i64) -> Message {
        let op = Operation::integer(operation::READ, "a", value);
        Message { transaction_ttl: index, ..Message::default() }.with_operation(op)
    }

    #[test]
    fn order_of_rows_does_not_count() {
        let last = Message { info3: 1, ..Message::default() };
        let a = answer(&[row(0, 10), row(1, 5), last.clone()]);
        let b = [answer(&[row(1, 5)]), answer(&[row(0, 10), last.clone()])].concat();
        assert_eq!(messages(&a, NOW, &b, NOW), None);
        let swapped = answer(&[row(1, 10), row(0, 5), last.clone()]);
        assert!(messages(&a, NOW, &swapped, NOW).unwrap().starts_with("transaction-ttl"));
        assert_eq!(
            messages(&a, NOW, &answer(&[row(0, 10), last]), NOW).unwrap(),
            "3 messages expected, 2 came"
        );
    }

    #[test]
    fn void_times_are_relative_to_their_clocks() {
        let at = |void_time| answer(&[Message { record_ttl: void_time, ..Message::default() }]);
        assert_eq!(messages(&at(1100), NOW, &at(1205), NOW + 100.0), None);
        assert!(messages(&at(1100), NOW, &at(1206), NOW + 100.0).unwrap().starts_with("void-time"));
        assert!(messages(&at(1100), NOW, &at(0), NOW).unwrap().starts_with("void-time"));
        assert_eq!(messages(&at(0), NOW, &at(0), NOW), None);
    }

    #[test]
    fn each_part_of_a_message_counts() {
        let base = row(0, 1);
        let others = [
            Message { info3: 1, ..base.clone() },
            Message { result: 2, ..base.clone() },
            Message { generation: 1, ..base.clone() },
            base.clone().with_field(0, b"test"),
            row(0, 2),
        ];
        for other in others {
            assert!(messages(&answer(std::slice::from_ref(&base)), NOW, &answer(&[other]), NOW).is_some());
        }
        let malformed = vec![Frame { kind: kind::MESSAGE, body: base.body()[..30].to_vec() }];
        assert!(messages(&answer(&[base]), NOW, &malformed, NOW).is_some());
    }

    #[test]
    fn info_answers_agree_in_kind_or_whole() {
        let frame = |text: &str| Frame { kind: kind::INFO, body: text.as_bytes().to_vec() };
        let same = |request: &str, a: &str, b: &str| info(request, &frame(a), &frame(b)).is_none();
        assert!(same("statistics\n", "statistics\ta=1\n", "statistics\tb=2;c=3\n"));
        assert!(same("x\n", "x\tERROR:4:one\n", "x\terror=two\n"));
        assert!(!same("x\n", "x\tok\n", "x\tFAIL:4\n"));
        assert!(!same("x\n", "x\t\n", "x\tdata\n"));
        assert!(!same("namespaces\n", "namespaces\ttest;bar\n", "namespaces\ttest\n"));
    }
}
