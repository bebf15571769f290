//! Recorded conversations: requests of official clients and a generator to the C server, and its answers.
//!
//! A corpus is gzipped JSON, one step per line:
//! `{"t": test, "c": connection, "w": wall clock in seconds, "q": base64 of the request frame, "a": [base64 of each answering frame]}`,
//! some with a rule of comparison "k", and with "wait", which says when to wait for background work of the
//! server. `corpora/agreed.toml` lists the steps that the server must answer in the same way.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::rules::{Rule, Wait};
use crate::wire::{Frame, kind};

/// A request and its recorded answer.
#[derive(Debug)]
pub struct Step {
    /// The test that sent it: `path/file.py::class::test[parameters]`.
    pub test: String,
    /// The connection. Requests of one connection were sent one after another.
    pub connection: u64,
    /// Time of the answer, in seconds since 1970. Void-times are compared relative to it.
    pub wall: f64,
    pub request: Vec<u8>,
    /// The answer: at least one frame, and several for a batch or query.
    pub answer: Vec<Frame>,
    /// The rule for comparing answers, if the step has one.
    pub rule: Option<Rule>,
    /// When to wait for background work of the server.
    pub wait: Option<Wait>,
    /// Its line in the corpus.
    pub line: String,
}

impl Step {
    /// Reads one line of a corpus.
    pub fn parse(line: &str) -> io::Result<Step> {
        let row: Row = serde_json::from_str(line)?;
        let answer: Option<Vec<Frame>> =
            row.a.iter().map(|text| Frame::decode(&decode(text).ok()?)).collect();
        let answer = answer.filter(|frames| !frames.is_empty()).ok_or_else(|| invalid("no whole answer"))?;
        let request = decode(row.q)?;
        if request.len() < 8 {
            return Err(invalid("request without a header"));
        }
        let (test, connection, wall) = (row.t.into_owned(), row.c, row.w);
        Ok(Step {
            test,
            connection,
            wall,
            request,
            answer,
            rule: row.k,
            wait: row.wait,
            line: line.to_owned(),
        })
    }

    /// The file of its test. Answers are counted by file.
    pub fn file(&self) -> &str {
        let name = self.test.split('[').next().unwrap_or_default();
        name.split("::").next().unwrap_or_default()
    }

    /// The frame kind of the request.
    pub fn request_kind(&self) -> u8 {
        self.request[1]
    }

    /// Whether the reference refused it because it belongs to another edition; other servers may support it.
    pub fn was_refused_by_edition(&self) -> bool {
        use crate::wire::result::ENTERPRISE_ONLY;
        // Only the header is read, because some answers have a body that cannot be parsed.
        self.answer[0].kind == kind::MESSAGE && self.answer[0].body.get(5) == Some(&ENTERPRISE_ONLY)
    }

    /// The lines of an info request.
    pub fn info_names(&self) -> String {
        latin1(&self.request[8..])
    }
}

/// The steps of a corpus file, in order.
pub fn open(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Step>> + use<>> {
    let lines = BufReader::with_capacity(1 << 20, GzDecoder::new(File::open(path)?)).lines();
    Ok(lines.map(|line| Step::parse(&line?)))
}

/// The folder of the project's corpora.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora")
}

/// A corpus and the requirements on the server's answers to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreed {
    /// Name of the corpus, without `.jsonl.gz`.
    pub corpus: String,
    /// Test files (names without folder and `.py`) whose answers must all agree; `*` for every file. The others are
    /// sent as well, and must be answered.
    pub files: Vec<String>,
}

impl Agreed {
    /// Whether `name`, an entry of `files`, includes this file of the corpus.
    pub fn names(name: &str, file: &str) -> bool {
        name == "*" || file.rsplit('/').next().unwrap_or(file).trim_end_matches(".py") == name
    }

    /// The path of the corpus.
    pub fn path(&self) -> PathBuf {
        folder().join(format!("{}.jsonl.gz", self.corpus))
    }
}

/// Reads `agreed.toml`.
pub fn agreed() -> io::Result<Vec<Agreed>> {
    #[derive(Deserialize)]
    struct Table {
        corpus: Vec<Agreed>,
    }
    let text = std::fs::read_to_string(folder().join("agreed.toml"))?;
    toml::from_str(&text).map(|table: Table| table.corpus).map_err(invalid)
}

/// The bytes as text with one character for each byte.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    t: std::borrow::Cow<'a, str>,
    c: u64,
    w: f64,
    q: &'a str,
    a: Vec<&'a str>,
    k: Option<Rule>,
    wait: Option<Wait>,
}

fn decode(text: &str) -> io::Result<Vec<u8>> {
    BASE64_STANDARD.decode(text).map_err(invalid)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_read_from_its_line() {
        let line = r#"{"t": "a/b.py::C::d[e[f]]", "c": 3, "w": 1.5, "q": "AgEAAAAAAABub2RlCg==", "a": ["AgEAAAAAAAA="]}"#;
        let step = Step::parse(line).unwrap();
        assert_eq!((step.file(), step.connection, step.wall), ("a/b.py", 3, 1.5));
        assert_eq!((step.request_kind(), step.info_names().as_str()), (kind::INFO, "node\n"));
        assert_eq!(step.answer, [Frame { kind: kind::INFO, body: vec![] }]);
        assert!(Step::parse(&line.replace("AgEAAAAAAAA=", "AgEAAAAAAAE=")).is_err(), "an answer cut short");
    }

    #[test]
    fn every_corpus_file_has_its_line_and_every_line_its_file() {
        let mut listed: Vec<PathBuf> = agreed().unwrap().iter().map(Agreed::path).collect();
        let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|e| e == "gz")).collect();
        listed.sort();
        files.sort();
        assert_eq!(listed, files);
    }

    #[test]
    fn entries_are_names_of_files() {
        assert!(Agreed::names("test_kv", "test/new_tests/test_kv.py"));
        assert!(!Agreed::names("test_kv", "test/new_tests/test_kv2.py"));
        assert!(Agreed::names("*", "random kv seed 1"));
    }
}
