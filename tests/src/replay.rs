//! Sends a recorded corpus to a server and reports the differences of its answers.
//!
//! Steps are sent one at a time, in order, each on its recorded connection. If a connection fails, it is
//! reopened once for the step. A step that fails on a fresh connection counts as lost.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::Client;
use crate::compare::{self, VOID_TIME_SLACK};
use crate::corpus::Step;
use crate::rules::{self, Answers, Rule, Wait};
use crate::wire::{Frame, field, info1, info2, kind};

/// Info commands, by the beginning of the request, that take effect after their answer.
const SPREADING: [&str; 6] =
    ["sindex-create", "sindex-delete", "truncate", "udf-put", "udf-remove", "set-config"];

/// Truncation spares records of the same millisecond. In the recording, a second lay in between.
const BEFORE_TRUNCATE: Duration = Duration::from_millis(5);

/// Parts of info answers that are signs of a busy server.
const BUSY: [&str; 4] = ["state=WO", "status=active", "index_populating=true", "truncating=true"];
/// Interval of the checks whether the server is idle, and the largest number of checks.
const IDLE_LOOK_PERIOD: Duration = Duration::from_millis(5);
const IDLE_LOOKS_MAX: u32 = 4_000;

/// The error of a function that ran out of time.
const CUT_OFF: &[u8] = b"UDF Execution Timeout";
/// Maximum number of calls of a function that runs out of time.
const CALLS_MAX: u32 = 4;

/// The options of a replay.
#[derive(Clone, Debug)]
pub struct Options {
    /// Compare only tests whose name contains this.
    pub only: String,
    /// Do not send the tests that are not compared.
    pub skip_rest: bool,
    /// Also send requests that the reference refused as a feature of another edition.
    pub send_refused: bool,
    /// Longest wait for bytes of an answer.
    pub timeout: Duration,
    /// Pause after a request that takes effect after its answer.
    pub effect_delay: Duration,
    /// Number of lost steps after which the replay is given up, because each may cost a timeout.
    pub lost_max: usize,
    /// Number of differences that are described.
    pub shown_max: usize,
    /// Keep the lines of the steps that agree.
    pub keep_agreeing: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            only: String::new(),
            skip_rest: false,
            send_refused: false,
            timeout: Duration::from_secs(20),
            effect_delay: Duration::from_millis(150),
            lost_max: usize::MAX,
            shown_max: 20,
            keep_agreeing: false,
        }
    }
}

/// The result of a replay.
#[derive(Debug, Default)]
pub struct Report {
    /// Compared answers by test file (the part of the test's name before the first `::`).
    pub files: BTreeMap<String, Tally>,
    /// The first differences.
    pub differences: Vec<Difference>,
    /// Steps without an answer on a fresh connection, including those that are not compared.
    pub lost: usize,
    /// Lines of the agreeing steps, if requested.
    pub agreeing: Vec<String>,
}

/// Numbers of compared answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub agree: usize,
    pub differ: usize,
}

impl Tally {
    /// Their total.
    pub fn total(self) -> usize {
        self.agree + self.differ
    }
}

/// An answer that differs from the recording.
#[derive(Debug)]
pub struct Difference {
    pub test: String,
    pub request: String,
    pub why: String,
}

impl Report {
    /// The total over all test files.
    pub fn tally(&self) -> Tally {
        self.of(|_| true)
    }

    /// The total over the test files that `is_meant` selects.
    pub fn of(&self, is_meant: impl Fn(&str) -> bool) -> Tally {
        let meant = self.files.iter().filter(|(file, _)| is_meant(file));
        meant.fold(Tally::default(), |sum, (_, file)| Tally {
            agree: sum.agree + file.agree,
            differ: sum.differ + file.differ,
        })
    }

    /// The first differences as text, one paragraph each.
    pub fn in_words(&self) -> String {
        let words = |d: &Difference| format!("--- {}\n    {}\n    {}\n", d.test, d.request, d.why);
        self.differences.iter().map(words).collect()
    }

    fn count(&mut self, step: &Step, why: Option<String>, options: &Options) {
        let tally = self.files.entry(step.file().to_owned()).or_default();
        match why {
            None => {
                tally.agree += 1;
                if options.keep_agreeing {
                    self.agreeing.push(step.line.clone());
                }
            }
            Some(why) => {
                tally.differ += 1;
                if self.differences.len() < options.shown_max {
                    let request = compare::describe(&step.request);
                    self.differences.push(Difference { test: step.test.clone(), request, why });
                }
            }
        }
    }
}

/// The counts, without the differences.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut files: Vec<_> = self.files.iter().filter(|(_, tally)| tally.differ > 0).collect();
        files.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.differ));
        for (file, tally) in files {
            writeln!(f, "{:6} / {:6} agree  {file}", tally.agree, tally.total())?;
        }
        let tally = self.tally();
        let percent = 100.0 * tally.agree as f64 / tally.total().max(1) as f64;
        write!(
            f,
            "{} of {} answers agree ({percent:.2} %), {} not answered",
            tally.agree,
            tally.total(),
            self.lost
        )
    }
}

/// Replays `steps` against the server at `address`. An error means that the corpus cannot be read; faults of
/// the server are in the report.
pub fn replay(
    steps: impl Iterator<Item = io::Result<Step>>,
    address: SocketAddr,
    options: &Options,
) -> io::Result<Report> {
    let mut report = Report::default();
    // The time of the first answer, in the recording and in this replay.
    let mut start: Option<(f64, f64)> = None;
    let mut connections =
        Connections { address, timeout: options.timeout, open: HashMap::new(), looks: None };
    for step in steps {
        let step = step?;
        let compared = step.test.contains(&options.only);
        if (options.skip_rest && !compared) || (!options.send_refused && step.was_refused_by_edition()) {
            continue;
        }
        if step.request_kind() == kind::INFO && step.info_names().starts_with("truncate") {
            thread::sleep(BEFORE_TRUNCATE);
        }
        if matches!(step.wait, Some(Wait::Before | Wait::Both)) {
            connections.await_idle()?;
        }
        let why = match connections.ask_in_time(&step) {
            Ok(got) => {
                let now = wall();
                await_effect(&step, &got, options.effect_delay);
                // Steps with a rule say when to wait.
                let is_over_later = step.rule.is_none() && starts_background_job(&step.request);
                if matches!(step.wait, Some(Wait::After | Wait::Both)) || is_over_later {
                    connections.await_idle()?;
                }
                let (recorded, own) = *start.get_or_insert((step.wall, now));
                let lag = ((now - own) - (step.wall - recorded)).abs();
                difference(&step, &got, now, VOID_TIME_SLACK + lag as i64)
            }
            Err(error) => {
                report.lost += 1;
                Some(error.to_string())
            }
        };
        if compared {
            report.count(&step, why, options);
        }
        if report.lost >= options.lost_max {
            break;
        }
    }
    Ok(report)
}

/// Seconds since 1970.
fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}

fn difference(step: &Step, got: &[Frame], now: f64, slack: i64) -> Option<String> {
    if let Some(rule) = step.rule {
        // If the step has no time, void-times are compared unchanged.
        let got_wall = if step.wall == 0.0 { 0.0 } else { now };
        let (expected, expected_wall) = (&step.answer[..], step.wall);
        return rules::difference(rule, &Answers { expected, expected_wall, got, got_wall, slack });
    }
    if step.request_kind() == kind::INFO {
        return compare::info(&step.info_names(), &step.answer[0], &got[0]);
    }
    compare::messages(&step.answer, step.wall, got, now)
}

/// Waits after an accepted request that takes effect later. A refused request changes nothing.
fn await_effect(step: &Step, got: &[Frame], delay: Duration) {
    let spreads = match step.request_kind() {
        kind::INFO => {
            let names = step.info_names();
            SPREADING.iter().any(|command| names.starts_with(command))
                && got
                    .iter()
                    .any(|frame| frame.body.to_ascii_lowercase().windows(2).any(|word| word == b"ok"))
        }
        _ => false,
    };
    if spreads {
        thread::sleep(delay);
    }
}

/// Whether a request is a query that writes. Such a job is answered when it begins.
fn starts_background_job(request: &[u8]) -> bool {
    let messages = Frame::decode(request).and_then(|frame| frame.messages()).unwrap_or_default();
    messages.first().is_some_and(|message| {
        let names_record = message.fields.iter().any(|(field_type, _)| *field_type == field::DIGEST);
        message.info2 & info2::WRITE != 0 && message.info1 & info1::BATCH == 0 && !names_record
    })
}

/// The connections of the recording. They are opened on first use.
struct Connections {
    address: SocketAddr,
    timeout: Duration,
    open: HashMap<u64, Client>,
    /// The connection for checks whether the server is idle.
    looks: Option<Client>,
}

impl Connections {
    /// Waits until no index is being built, no job runs and no truncation is in progress.
    fn await_idle(&mut self) -> io::Result<()> {
        // A write and a following truncation must not happen in the same millisecond.
        thread::sleep(Duration::from_millis(3));
        let client = match &mut self.looks {
            Some(client) => client,
            none => none.insert(Client::connect_patiently(self.address, self.timeout)?),
        };
        for _ in 0..IDLE_LOOKS_MAX {
            let answer = client.info("sindex-list:\nquery-show\nsets\nnamespace/test\nnamespace/bar")?;
            if !BUSY.iter().any(|word| answer.contains(word)) {
                break;
            }
            thread::sleep(IDLE_LOOK_PERIOD);
        }
        Ok(())
    }

    /// The answer to a step. A function that ran out of time on a busy machine has changed nothing, and is
    /// called again.
    fn ask_in_time(&mut self, step: &Step) -> io::Result<Vec<Frame>> {
        // A batch is not repeated, because its other rows would be repeated too.
        let is_cut_off =
            |frames: &[Frame]| matches!(frames, [only] if !only.holds_last() && holds(&only.body, CUT_OFF));
        for _ in 1..CALLS_MAX {
            let frames = self.ask(step)?;
            if !is_cut_off(&frames) || is_cut_off(&step.answer) {
                return Ok(frames);
            }
        }
        self.ask(step)
    }

    /// The answer to a step. The server may have closed a connection that was used before, so after a failure
    /// a new connection is used once. The result on the new connection is final.
    fn ask(&mut self, step: &Step) -> io::Result<Vec<Frame>> {
        if let Some(mut used) = self.open.remove(&step.connection)
            && let Ok(frames) = exchange(&mut used, step)
        {
            self.open.insert(step.connection, used);
            return Ok(frames);
        }
        let mut fresh = Client::connect_patiently(self.address, self.timeout)?;
        let frames = exchange(&mut fresh, step)?;
        self.open.insert(step.connection, fresh);
        Ok(frames)
    }
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// Sends a step's request and receives frames until its answer is complete.
fn exchange(client: &mut Client, step: &Step) -> io::Result<Vec<Frame>> {
    client.send(&step.request)?;
    let several = step.answer.last().is_some_and(|last| last.kind == kind::MESSAGE && last.holds_last());
    let mut frames = vec![client.receive()?];
    if matches!(step.rule, Some(Rule::Rows | Rule::Count)) {
        let is_last = |frame: &Frame| {
            frame.kind != kind::MESSAGE
                || frame.messages().is_none_or(|messages| messages.iter().any(rules::ends_query))
        };
        while !frames.last().is_some_and(is_last) {
            frames.push(client.receive()?);
        }
        return Ok(frames);
    }
    while several && !frames.last().is_some_and(Frame::holds_last) {
        frames.push(client.receive()?);
    }
    Ok(frames)
}
