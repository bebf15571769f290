//! System metadata: its items, and the format of its files (`<work-directory>/smd/<module>.smd`).
//!
//! A file is JSON, indented by three spaces and in ASCII only, as the C server writes it:
//!
//! ```json
//! [
//!    [
//!       <cluster key>,
//!       <tid>
//!    ],
//!    {
//!       "key": "test|demo",
//!       "value": "533609292607",
//!       "generation": 1,
//!       "timestamp": 533609292607
//!    }
//! ]
//! ```
//!
//! The items are in the order in which their keys were first set. A deleted item stays, with the value `null`. Files of
//! old servers begin with the first item; they count as tid 1 of cluster key 0. A server that has no items writes the
//! version all the same, so an empty list is no file of any server.

use std::fmt::Write;

use serde_json::Value;

/// The version of a module's items: change number `tid` under the cluster key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SmdVersion {
    pub cluster_key: u64,
    pub tid: u64,
}

/// An item of system metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SmdItem {
    pub key: String,
    /// `None` for a deleted item, from which other nodes are informed of the deletion.
    pub value: Option<String>,
    /// Number of changes of the item, from 1.
    pub generation: u32,
    /// Time of the last change, in milliseconds since 2010-01-01.
    pub timestamp: u64,
}

impl SmdItem {
    /// Whether `other` is a later state of the same item. The timestamp decides, then the generation.
    #[must_use]
    pub fn is_before(&self, other: &SmdItem) -> bool {
        (self.timestamp, self.generation) < (other.timestamp, other.generation)
    }
}

/// The reason why a file of metadata cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SmdFileError {
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it is not a list")]
    NotAList,
    #[error("it is an empty list, without the version that every file has")]
    Empty,
    #[error("item {0}: no {1}")]
    Item(usize, &'static str),
}

/// The content of a file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SmdFile {
    pub version: SmdVersion,
    pub items: Vec<SmdItem>,
    /// Whether the file has something in the place of the version that is none. Missing numbers are 0.
    pub has_damaged_version: bool,
}

/// The content of a file, from its bytes.
///
/// # Errors
/// When the bytes are not JSON of this form.
pub fn decode_file(bytes: &[u8]) -> Result<SmdFile, SmdFileError> {
    let Value::Array(entries) = serde_json::from_slice(bytes)? else {
        return Err(SmdFileError::NotAList);
    };
    let (version, is_sound, skipped) = match entries.first() {
        None => return Err(SmdFileError::Empty),
        Some(Value::Array(parts)) => {
            let part = |at: usize| parts.get(at).and_then(integer);
            let (cluster_key, tid) = (part(0), part(1));
            let version =
                SmdVersion { cluster_key: cluster_key.unwrap_or_default(), tid: tid.unwrap_or_default() };
            (version, cluster_key.is_some() && tid.is_some(), 1)
        }
        Some(_) => (SmdVersion { cluster_key: 0, tid: 1 }, true, 0),
    };
    let items = entries.into_iter().enumerate().skip(skipped).map(|(at, entry)| decode_item(at, entry));
    Ok(SmdFile { version, items: items.collect::<Result<_, _>>()?, has_damaged_version: !is_sound })
}

fn decode_item(at: usize, mut entry: Value) -> Result<SmdItem, SmdFileError> {
    let mut take =
        |name: &'static str| entry.get_mut(name).map(Value::take).ok_or(SmdFileError::Item(at, name));
    let key = match take("key")? {
        Value::String(key) => key,
        _ => return Err(SmdFileError::Item(at, "key")),
    };
    let value = match take("value")? {
        Value::String(value) => Some(value),
        Value::Null => None,
        _ => return Err(SmdFileError::Item(at, "value")),
    };
    let generation = integer(&take("generation")?).ok_or(SmdFileError::Item(at, "generation"))?;
    let timestamp = integer(&take("timestamp")?).ok_or(SmdFileError::Item(at, "timestamp"))?;
    Ok(SmdItem { key, value, generation: generation as u32, timestamp })
}

/// An integer in the C server's notation, in which large integers are negative numbers.
fn integer(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned))
}

/// The bytes of a file with `items`.
#[must_use]
pub fn encode_file(version: SmdVersion, items: &[SmdItem]) -> Vec<u8> {
    let mut out = String::new();
    let (cluster_key, tid) = (version.cluster_key.cast_signed(), version.tid.cast_signed());
    let _ = write!(out, "[\n   [\n      {cluster_key},\n      {tid}\n   ]");
    for item in items {
        out.push_str(",\n   {\n      \"key\": ");
        push_string(&mut out, &item.key);
        out.push_str(",\n      \"value\": ");
        match &item.value {
            Some(value) => push_string(&mut out, value),
            None => out.push_str("null"),
        }
        let (generation, timestamp) = (item.generation, item.timestamp.cast_signed());
        let _ =
            write!(out, ",\n      \"generation\": {generation},\n      \"timestamp\": {timestamp}\n   }}");
    }
    out.push_str("\n]");
    out.into_bytes()
}

/// Appends a JSON string in ASCII only. Other characters are written as escapes of their UTF-16 units.
fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='\u{7f}' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04X}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(key: &str, value: Option<&str>, generation: u32, timestamp: u64) -> SmdItem {
        SmdItem { key: key.to_owned(), value: value.map(str::to_owned), generation, timestamp }
    }

    /// The file that the C server writes, escapes included.
    const WRITTEN: &str = "[\n   [\n      231320937683854,\n      3\n   ],\n   {\n      \"key\": \"test|d\\u00E9\",\n      \
        \"value\": \"a\\\"b\\\\c/\\n\\t\\u0001\\u001F\u{7f}\\uD83D\\uDE00\",\n      \"generation\": 2,\n      \
        \"timestamp\": 533609292773\n   },\n   {\n      \"key\": \"gone\",\n      \"value\": null,\n      \
        \"generation\": 4294967295,\n      \"timestamp\": 0\n   }\n]";

    #[test]
    fn files_are_written_as_c_writes_them() {
        let version = SmdVersion { cluster_key: 231_320_937_683_854, tid: 3 };
        let items = [
            item("test|dé", Some("a\"b\\c/\n\t\u{1}\u{1f}\u{7f}😀"), 2, 533_609_292_773),
            item("gone", None, u32::MAX, 0),
        ];
        assert_eq!(String::from_utf8(encode_file(version, &items)).expect("it is text"), WRITTEN);
        let read = decode_file(WRITTEN.as_bytes()).expect("it is well formed");
        assert_eq!(read, SmdFile { version, items: items.to_vec(), has_damaged_version: false });
    }

    #[test]
    fn files_of_the_c_server_are_read_and_written_unchanged() {
        let files: [&[u8]; 4] = [
            include_bytes!("../../../tests/corpora/smd/UDF.smd"),
            include_bytes!("../../../tests/corpora/smd/evict.smd"),
            include_bytes!("../../../tests/corpora/smd/sindex.smd"),
            include_bytes!("../../../tests/corpora/smd/truncate.smd"),
        ];
        for file in files {
            let SmdFile { version, items, has_damaged_version } =
                decode_file(file).expect("the C server wrote it");
            assert!(!has_damaged_version && version.cluster_key == 231_320_937_683_854 && items.len() > 1);
            assert!(items.iter().any(|item| item.value.is_none()));
            assert_eq!(encode_file(version, &items), file);
        }
    }

    #[test]
    fn old_files_and_those_without_items_are_read() {
        let read = |text: &str| {
            let SmdFile { version, items, has_damaged_version } =
                decode_file(text.as_bytes()).expect("well formed");
            (version.cluster_key, version.tid, items.len(), has_damaged_version)
        };
        assert_eq!(read("[[5, 6]]"), (5, 6, 0, false));
        assert_eq!(read("[[-1, 6]]"), (u64::MAX, 6, 0, false));
        assert_eq!(read("[[0, 0, 7]]"), (0, 0, 0, false));
        let item = r#"{"timestamp": 1, "generation": 1, "value": "v", "key": "k", "more": 1}"#;
        assert_eq!(read(&format!("[{item}]")), (0, 1, 1, false));
        for (damaged, cluster_key, tid) in
            [("[]", 0, 0), ("[5]", 5, 0), (r#"["x", 6]"#, 0, 6), ("[5, null]", 5, 0), ("[1.5, [6]]", 0, 0)]
        {
            assert_eq!(read(&format!("[{damaged}, {item}]")), (cluster_key, tid, 1, true), "{damaged}");
            assert_eq!(read(&format!("[{damaged}]")), (cluster_key, tid, 0, true), "{damaged}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        let good = r#"[[1,1],{"key":"k","value":"v","generation":1,"timestamp":1}]"#;
        assert!(decode_file(good.as_bytes()).is_ok());
        for text in ["", " ", "[]", " [ ] ", "{}", "null", "[null]", "[1,1]"] {
            assert!(decode_file(text.as_bytes()).is_err(), "{text}");
        }
        for (from, to) in [
            ("]", ""),
            ("}]", "}] x"),
            ("[[1,1],{\"key\"", "{\"items\""),
            ("\"k\"", "7"),
            ("\"v\"", "true"),
            ("\"value\":\"v\",", ""),
            ("\"generation\":1", "\"generation\":1.5"),
            ("\"timestamp\":1", "\"timestamp\":null"),
            ("{\"key\":\"k\",\"value\":\"v\",\"generation\":1,\"timestamp\":1}", "8"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good);
            assert!(decode_file(text.as_bytes()).is_err(), "{text}");
        }
        assert!(decode_file(&[b'[', b'"', 0xFF, b'"', b']']).is_err());
        assert!(decode_file("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn written_items_are_read(
            cluster_key: u64,
            tid: u64,
            parts in prop::collection::vec((".*", prop::option::of(".*"), any::<u32>(), any::<u64>()), 0..5),
        ) {
            let version = SmdVersion { cluster_key, tid };
            let items: Vec<_> = parts
                .into_iter()
                .map(|(key, value, generation, timestamp)| SmdItem { key, value, generation, timestamp })
                .collect();
            let bytes = encode_file(version, &items);
            prop_assert!(bytes.is_ascii());
            let read = decode_file(&bytes).expect("well formed");
            prop_assert_eq!(read, SmdFile { version, items, has_damaged_version: false });
        }

        #[test]
        fn no_bytes_are_a_danger(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_file(&bytes);
        }
    }
}
