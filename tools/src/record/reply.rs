//! Replies to record requests. They are parsed in place.

use super::object_spec::ValueSpec;
use super::request::{MESSAGE_SIZE, PROTO_SIZE, PROTO_TYPE_MESSAGE, PROTO_VERSION};

/// Largest body that a server may send, in bytes.
const BODY_SIZE_MAX: u64 = 128 << 20;

/// A reply in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct ReplyMessage<'a> {
    /// Bytes of the whole frame.
    pub size: usize,
    /// The server's result code.
    pub code: u8,
    /// Number of ops that the reply announces.
    pub op_count: usize,
    /// The ops. The fields before them are skipped.
    ops: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyBin<'a> {
    /// Bin name.
    pub name: &'a [u8],
    pub particle_type: u8,
    /// The particle.
    pub value: &'a [u8],
}

/// Cuts a reply off the front of `bytes`; `None` while the reply is incomplete.
///
/// # Errors
/// A sentence when `bytes` is not a record reply.
pub fn parse(bytes: &[u8]) -> Result<Option<ReplyMessage<'_>>, String> {
    let Some(header) = bytes.first_chunk::<PROTO_SIZE>() else { return Ok(None) };
    if header[0] != PROTO_VERSION || header[1] != PROTO_TYPE_MESSAGE {
        return Err(format!("the server sent a frame of version {}, type {}", header[0], header[1]));
    }
    let length = u64::from_be_bytes(*header) & 0xFFFF_FFFF_FFFF;
    if length > BODY_SIZE_MAX || length < MESSAGE_SIZE as u64 {
        return Err(format!("the server sent a record message of {length} bytes"));
    }
    let size = PROTO_SIZE + length as usize;
    let Some(body) = bytes.get(PROTO_SIZE..size) else { return Ok(None) };
    let header_size = usize::from(body[0]);
    let field_count = u16::from_be_bytes([body[18], body[19]]);
    let mut rest = body
        .get(header_size..)
        .filter(|_| header_size >= MESSAGE_SIZE)
        .ok_or_else(|| format!("the server sent a message header of {header_size} bytes"))?;
    for _ in 0..field_count {
        (_, rest) = split_sized(rest).ok_or("the server sent a field that does not fit its message")?;
    }
    Ok(Some(ReplyMessage {
        size,
        code: body[5],
        op_count: usize::from(u16::from_be_bytes([body[20], body[21]])),
        ops: rest,
    }))
}

/// The combined messages of the answer to a batch or a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchReply {
    /// Bytes of all frames.
    pub size: usize,
    /// The first result code other than 0, of a row or of the whole.
    pub code: u8,
    /// The ops of all rows.
    pub op_count: usize,
}

/// Bit of info3 in the last of several messages.
const INFO3_LAST: u8 = 0x01;

/// Cuts all frames of a batch's answer off the front of `bytes`; `None` while they are incomplete.
///
/// # Errors
/// A sentence when `bytes` is not such an answer.
pub fn parse_batch(bytes: &[u8]) -> Result<Option<BatchReply>, String> {
    let mut all = BatchReply { size: 0, code: 0, op_count: 0 };
    loop {
        let Some(first) = parse(&bytes[all.size..])? else { return Ok(None) };
        let end = all.size + first.size;
        let is_last = for_each_message(&bytes[all.size + PROTO_SIZE..end], |code, op_count| {
            all.code = if all.code == 0 { code } else { all.code };
            all.op_count += op_count;
        })?;
        all.size = end;
        if is_last {
            return Ok(Some(all));
        }
    }
}

/// Cuts all frames of a query's answer off the front of `bytes`; `None` while they are incomplete.
///
/// # Errors
/// A sentence when `bytes` is not such an answer.
pub fn parse_query(bytes: &[u8]) -> Result<Option<BatchReply>, String> {
    match parse(bytes)? {
        // The answer to a refused query is one message, which does not say that it is the last.
        Some(first) if first.code != 0 && bytes[PROTO_SIZE + 3] == 0 => {
            Ok(Some(BatchReply { size: first.size, code: first.code, op_count: 0 }))
        }
        _ => parse_batch(bytes),
    }
}

/// Calls `see` with the result code and the number of ops of each message in the body of a frame. Returns
/// whether one of them is the last of the whole answer.
///
/// # Errors
/// A sentence when a message does not fit the body.
pub fn for_each_message(body: &[u8], mut see: impl FnMut(u8, usize)) -> Result<bool, &'static str> {
    let mut rest = body;
    let mut is_last = false;
    while let Some(header) = rest.first_chunk::<MESSAGE_SIZE>() {
        let count = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
        is_last |= header[3] & INFO3_LAST != 0;
        see(header[5], count(20));
        rest = &rest[MESSAGE_SIZE..];
        for _ in 0..count(18) + count(20) {
            (_, rest) = split_sized(rest).ok_or("the server sent a row that does not fit its frame")?;
        }
    }
    Ok(is_last)
}

impl<'a> ReplyMessage<'a> {
    /// The bins in order. An invalid bin gives `Err` and is the last.
    pub fn bins(&self) -> impl Iterator<Item = Result<ReplyBin<'a>, &'static str>> + use<'a> {
        let mut rest = self.ops;
        let mut left = self.op_count;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let Some((bin, after)) = split_bin(rest) else {
                left = 0;
                return Some(Err("a bin does not fit its message"));
            };
            rest = after;
            Some(Ok(bin))
        })
    }
}

fn split_bin(bytes: &[u8]) -> Option<(ReplyBin<'_>, &[u8])> {
    let (op, rest) = split_sized(bytes)?;
    let [_op, particle_type, _flags, name_size] = *op.first_chunk()?;
    let (name, value) = op.get(4..)?.split_at_checked(usize::from(name_size))?;
    Some((ReplyBin { name, particle_type, value }, rest))
}

/// Splits off the bytes whose number is in the u32 before them.
fn split_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*size) as usize)
}

/// The expected bins of a read.
#[derive(Clone, Debug)]
pub struct Expectation {
    bins: Vec<ExpectedBin>,
    /// Whether all bins must exist. Otherwise some may be missing.
    all: bool,
}

#[derive(Clone, Debug)]
struct ExpectedBin {
    name: String,
    particle_type: u8,
    size: Option<usize>,
}

impl Expectation {
    /// Expects bins with these names and values.
    pub fn new<'a>(bins: impl Iterator<Item = (&'a str, &'a ValueSpec)>, all: bool) -> Self {
        let bins = bins
            .map(|(name, spec)| ExpectedBin {
                name: name.to_owned(),
                particle_type: spec.particle_type(),
                size: spec.particle_size(),
            })
            .collect();
        Expectation { bins, all }
    }

    /// Whether `reply` is as expected. [`Expectation::explain`], which is slow, describes the difference.
    #[inline]
    #[must_use]
    pub fn is_met_by(&self, reply: &ReplyMessage<'_>) -> bool {
        (!self.all || reply.op_count == self.bins.len())
            && reply.bins().enumerate().all(|(at, bin)| bin.is_ok_and(|bin| self.allows(at, &bin)))
    }

    fn allows(&self, at: usize, bin: &ReplyBin<'_>) -> bool {
        self.find(at, bin.name).is_some_and(|expected| {
            expected.particle_type == bin.particle_type
                && expected.size.is_none_or(|size| size == bin.value.len())
        })
    }

    /// The expected bin with this name, which is most likely at this position.
    fn find(&self, at: usize, name: &[u8]) -> Option<&ExpectedBin> {
        let named = |bin: &&ExpectedBin| bin.name.as_bytes() == name;
        self.bins.get(at).filter(named).or_else(|| self.bins.iter().find(named))
    }

    /// The first difference between `reply` and the expectation.
    #[must_use]
    pub fn explain(&self, reply: &ReplyMessage<'_>) -> String {
        for (at, bin) in reply.bins().enumerate() {
            let bin = match bin {
                Ok(bin) => bin,
                Err(what) => return what.to_owned(),
            };
            if self.allows(at, &bin) {
                continue;
            }
            let name = String::from_utf8_lossy(bin.name);
            let got = format!("{} of {} bytes", type_name(bin.particle_type), bin.value.len());
            return match self.find(at, bin.name) {
                None => format!("a record has a bin \"{name}\" that the object spec does not give"),
                Some(expected) => {
                    let size = expected.size.map_or("any length".to_owned(), |size| format!("{size} bytes"));
                    let type_name = type_name(expected.particle_type);
                    format!("bin \"{name}\" is {got}, but the object spec gives {type_name} of {size}")
                }
            };
        }
        format!("a record has {} bins where {} are expected", reply.op_count, self.bins.len())
    }
}

/// The type of a bin's value, with an article.
fn type_name(particle_type: u8) -> String {
    match particle_type {
        1 => "an integer".to_owned(),
        2 => "a double".to_owned(),
        3 => "a string".to_owned(),
        4 => "a blob".to_owned(),
        17 => "a bool".to_owned(),
        19 => "a map".to_owned(),
        20 => "a list".to_owned(),
        other => format!("a value of type {other}"),
    }
}

/// The meaning of a result code in a few words.
#[must_use]
pub fn result_text(code: u8) -> &'static str {
    RESULT_TEXTS.iter().find(|(known, _)| *known == code).map_or("unknown result code", |(_, text)| text)
}

/// The result codes of requests for records and of queries.
const RESULT_TEXTS: &[(u8, &str)] = &[
    (0, "ok"),
    (1, "server error"),
    (2, "record not found"),
    (3, "generation differs"),
    (4, "bad parameter"),
    (5, "record exists"),
    (7, "cluster key mismatch"),
    (8, "out of space, or writes are stopped"),
    (9, "timeout"),
    (11, "partition unavailable"),
    (12, "bin has another type"),
    (13, "record too big"),
    (14, "key busy"),
    (16, "unsupported feature"),
    (17, "bin not found"),
    (18, "device overload"),
    (19, "key mismatch"),
    (20, "no such namespace"),
    (21, "bad bin name"),
    (22, "forbidden"),
    (25, "enterprise only"),
    (26, "operation not applicable"),
    (27, "filtered out"),
    (51, "security not supported"),
    (52, "security not enabled"),
    (80, "not authenticated"),
    (81, "not allowed for this user"),
    (100, "UDF failed"),
    (201, "no such index"),
    (203, "index not ready"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::object_spec::ObjectSpec;
    use super::*;

    /// A reply with these ops.
    fn frame(code: u8, op_count: u16, rest: &[u8]) -> Vec<u8> {
        let mut frame = ((MESSAGE_SIZE + rest.len()) as u64).to_be_bytes().to_vec();
        frame[0] = PROTO_VERSION;
        frame[1] = PROTO_TYPE_MESSAGE;
        let mut message = [0; MESSAGE_SIZE];
        message[0] = MESSAGE_SIZE as u8;
        message[5] = code;
        message[20..].copy_from_slice(&op_count.to_be_bytes());
        frame.extend_from_slice(&message);
        frame.extend_from_slice(rest);
        frame
    }

    fn expectation(spec: &str) -> Expectation {
        let spec = ObjectSpec::parse(spec).unwrap();
        Expectation::new(["a", "b"].into_iter().zip(&spec.bins), true)
    }

    #[test]
    fn a_reply_is_cut_off_when_it_is_complete() {
        let reply = frame(2, 0, &[]);
        for size in 0..reply.len() {
            assert!(parse(&reply[..size]).unwrap().is_none());
        }
        let mut more = reply.clone();
        more.push(2);
        let parsed = parse(&more).unwrap().unwrap();
        assert_eq!((parsed.size, parsed.code, parsed.op_count), (reply.len(), 2, 0));
    }

    #[test]
    fn bins_are_compared_with_the_spec() {
        let reply = frame(0, 2, b"\0\0\0\x08\x01\x03\0\x01axyz\0\0\0\x06\x01\x11\0\x01b\x01");
        let parsed = parse(&reply).unwrap().unwrap();
        assert!(expectation("S3,b").is_met_by(&parsed));
        for (spec, why) in [("S4,b", "\"a\" is a string of 3 bytes"), ("I,b", "an integer"), ("S3", "\"b\"")]
        {
            assert!(!expectation(spec).is_met_by(&parsed), "{spec}");
            let explained = expectation(spec).explain(&parsed);
            assert!(explained.contains(why), "{explained}");
        }
        let one = frame(0, 1, b"\0\0\0\x06\x01\x11\0\x01b\x01");
        let parsed = parse(&one).unwrap().unwrap();
        assert!(!expectation("S3,b").is_met_by(&parsed));
        assert!(expectation("S3,b").explain(&parsed).contains("1 bins where 2"));
    }

    #[test]
    fn bytes_that_are_not_a_reply_are_refused() {
        assert!(parse(b"\x02\x01\0\0\0\0\0\0").is_err());
        assert!(parse(b"HTTP/1.1 400").is_err());
        assert!(parse(b"\x02\x03\xff\xff\xff\xff\xff\xff").is_err());
        assert!(parse(b"\x02\x03\0\0\0\0\0\x15").is_err());
        let cut = frame(0, 1, b"\0\0\0\x09\x01\x03\0\x01axyz");
        let parsed = parse(&cut).unwrap().unwrap();
        assert!(!expectation("S3").is_met_by(&parsed));
        assert!(expectation("S3").explain(&parsed).contains("does not fit"));
    }

    #[test]
    fn result_codes_have_texts() {
        assert_eq!(result_text(8), "out of space, or writes are stopped");
        assert_eq!(result_text(99), "unknown result code");
        assert!(RESULT_TEXTS.is_sorted_by_key(|(code, _)| *code));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), length in 0u8..120) {
            for (at, value) in [2, 3, 0, 0, 0, 0, 0, length, 22].into_iter().enumerate() {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Ok(Some(reply)) = parse(&bytes) {
                let expectation = expectation("I,S3");
                prop_assert!(!expectation.is_met_by(&reply) || reply.op_count == 2);
                drop(expectation.explain(&reply));
            }
        }
    }
}
