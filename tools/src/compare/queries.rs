//! Queries, secondary indexes and functions: the cost of a record of a query, of an index entry, of a write
//! of an indexed record, and of a call.
//!
//! Every round drops the indexes and creates them again, on one server after the other. Costs are processor
//! times of the server's process per record, entry or call. Times are those of one query or one build.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::options::QueryOptions;
use super::say;
use super::table::{append_header, append_values, median};
use super::target::{Target, TargetKind};
use crate::link::Link;
use crate::record::keys::Keys;
use crate::record::particle_type;
use crate::record::reply;
use crate::record::request::{self, Header, MESSAGE_SIZE, PROTO_SIZE, Template, info};
use crate::{info as info_protocol, process};

/// Longest wait for bytes from a server.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for an index to be built.
const BUILD_TIME_MAX: Duration = Duration::from_secs(300);
/// Requests in flight on a writing connection.
const DEPTH: u64 = 200;
/// Number of connections that call functions. Each has one call at a time.
const CALLERS: usize = 16;
const OP_WRITE: u8 = 2;
/// Bit of an answer's last message.
const LAST: u8 = 1;
const MODULE: &str = "function twice(r) return r.n * 2 end\n";

/// A figure: name, decimals, and, if there is a bar, the highest accepted ratio to the other server.
type Figure = (&'static str, usize, Option<f64>);

const FIGURES: [Figure; 13] = [
    ("query with bins: server CPU per record, µs", 3, Some(0.7)),
    ("query with bins: time, ms", 0, Some(1.0)),
    ("query without bins: server CPU per record, µs", 3, Some(0.8)),
    ("query without bins: time, ms", 0, Some(1.0)),
    ("index build: time, ms", 0, Some(0.667)),
    ("index build: server CPU per record, µs", 3, None),
    ("index: bytes per entry", 1, Some(1.0)),
    ("query of a range of a tenth: server CPU per record, µs", 3, Some(0.7)),
    ("query of a range of a tenth: time, ms", 1, None),
    ("write of a record in three indexes: server CPU, µs", 2, Some(0.7)),
    ("write of a record in three indexes: per second", 0, None),
    ("call of a small function: server CPU, µs", 2, Some(0.8)),
    ("call of a small function: per second", 0, None),
];

/// The figures of a server in a round, in the order of [`FIGURES`].
type Sample = [Option<f64>; FIGURES.len()];

/// Measures and returns the table.
///
/// # Errors
/// When a server is lost, or a request fails.
pub(super) fn measure(options: &QueryOptions, progress: &mut impl Write) -> Result<String, String> {
    let targets = options.servers.targets()?;
    let mut servers = Vec::new();
    for target in targets.iter().filter(|target| !target.is_redis()) {
        say(progress, &target.describe());
        let mut server = Server::open(target, options.keys)?;
        server.fill()?;
        servers.push((target, server));
    }
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); servers.len()];
    let count = servers.len();
    for round in 0..options.rounds {
        for turn in 0..count {
            let at = (turn + round) % count;
            let (target, server) = &mut servers[at];
            let sample = server.round(round as u64)?;
            let mut line = format!("round {}: {}", round + 1, target.label);
            for ((name, decimals, _), value) in FIGURES.iter().zip(sample) {
                if let Some(value) = value {
                    let _ = write!(line, "; {name} {value:.decimals$}");
                }
            }
            say(progress, &line);
            samples[at].push(sample);
        }
    }
    let labels: Vec<&str> = servers.iter().map(|(target, _)| target.label.as_str()).collect();
    let mut text = render(&labels, &samples);
    let _ = writeln!(
        text,
        "\n{} records of two numbers, a string and 100 bytes; median of {} rounds; ratio: {} to the server on its left.",
        options.keys,
        options.rounds,
        labels.first().unwrap_or(&"")
    );
    for (target, _) in &servers {
        let _ = writeln!(text, "- {}", target.describe());
    }
    Ok(text)
}

fn render(labels: &[&str], samples: &[Vec<Sample>]) -> String {
    let mut text = String::new();
    append_header(&mut text, labels);
    let values = |figure: usize| -> Vec<Vec<f64>> {
        samples.iter().map(|rounds| rounds.iter().filter_map(|sample| sample[figure]).collect()).collect()
    };
    for (at, (name, decimals, _)) in FIGURES.iter().enumerate() {
        append_values(&mut text, name, *decimals, &values(at));
    }
    for (other, label) in labels.iter().enumerate().skip(1) {
        for (at, (name, _, bar)) in FIGURES.iter().enumerate() {
            let of = values(at);
            let ratios = of[0].iter().zip(&of[other]).map(|(own, theirs)| own / theirs);
            let (Some(bar), Some(ratio)) = (bar, median(ratios.filter(|ratio| ratio.is_finite()).collect()))
            else {
                continue;
            };
            if ratio > *bar {
                let _ =
                    writeln!(text, "- not held beside {label}: {name}, {ratio:.2} where {bar:.2} is the bar");
            }
        }
    }
    text
}

/// A measured server with its own connections.
struct Server<'a> {
    target: &'a Target,
    namespace: &'a str,
    set: String,
    keys: Keys,
    link: Link,
    callers: Vec<Link>,
    buffer: Vec<u8>,
}

/// Processor time and clock at a moment.
struct Span {
    cpu_us: Option<u64>,
    start: Instant,
}

impl<'a> Server<'a> {
    fn open(target: &'a Target, key_count: u64) -> Result<Self, String> {
        let TargetKind::Aerospike { namespace, set } = &target.kind else {
            return Err("no such server".to_owned());
        };
        let set = format!("{set}-query");
        let link = || -> Result<Link, String> {
            let link = Link::connect(&target.address, SILENCE_MAX, &target.access);
            let link = link.map_err(|error| format!("{}: {error}", target.label))?;
            link.set_timeout(Some(SILENCE_MAX)).map_err(|error| error.to_string())?;
            Ok(link)
        };
        Ok(Server {
            target,
            namespace,
            keys: Keys::new(&set, 0, key_count).with_table(),
            set,
            link: link()?,
            callers: (0..CALLERS).map(|_| link()).collect::<Result<_, _>>()?,
            buffer: Vec::new(),
        })
    }

    fn lost(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.target.label)
    }

    fn span(&self) -> Span {
        let cpu_us = self.target.pid.and_then(|pid| process::usage(pid).ok()).map(|usage| usage.cpu_us);
        Span { cpu_us, start: Instant::now() }
    }

    /// Processor time per item since `span` began, for `count` items, and the elapsed milliseconds.
    fn since(&self, span: &Span, count: u64) -> (Option<f64>, Option<f64>) {
        let now = self.span();
        let cpu = now.cpu_us.zip(span.cpu_us).map(|(now, then)| (now - then) as f64 / count.max(1) as f64);
        (cpu, Some((now.start - span.start).as_secs_f64() * 1000.0))
    }

    fn ask(&mut self, command: &str) -> Result<String, String> {
        let answers = info_protocol::exchange(&mut self.link, &[command.to_owned()], SILENCE_MAX);
        let answers = answers.map_err(|error| format!("{}: {error}", self.target.label))?;
        Ok(answers.into_iter().next().map(|(_, value)| value).unwrap_or_default())
    }

    fn tell(&mut self, command: &str) -> Result<(), String> {
        let answer = self.ask(command)?;
        if answer.eq_ignore_ascii_case("ok") {
            Ok(())
        } else {
            Err(format!("{}: {command}: {answer}", self.target.label))
        }
    }

    fn record_target(&self) -> request::Target<'_> {
        request::Target { namespace: self.namespace, set: &self.set, send_key: false }
    }

    /// Appends the write of record `at`. `number` determines its numbers and text.
    fn append_write(&self, at: u64, number: u64, pad: Option<&[u8]>, out: &mut Vec<u8>) {
        let header = Header { info2: info::INFO2_WRITE, ..Header::default() };
        let write = Template::new(header, self.record_target())
            .with_op(OP_WRITE, particle_type::INTEGER, "n", &number.to_be_bytes())
            .with_op(OP_WRITE, particle_type::INTEGER, "m", &(number % 1000).to_be_bytes())
            .with_op(OP_WRITE, particle_type::STRING, "s", format!("text {}", number % 10_000).as_bytes());
        let write = match pad {
            Some(pad) => write.with_op(OP_WRITE, particle_type::BLOB, "pad", pad),
            None => write,
        };
        write.append(&self.keys.digest(at), 0, out);
    }

    /// Writes records `0..count`. `number` returns the number of each.
    fn write(&mut self, count: u64, pad: Option<&[u8]>, number: impl Fn(u64) -> u64) -> Result<(), String> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < count {
            let end = (at + DEPTH).min(count);
            out.clear();
            (at..end).for_each(|at| self.append_write(at, number(at), pad, &mut out));
            self.link.write_all(&out).map_err(|error| self.lost(&error))?;
            for _ in at..end {
                self.buffer.clear();
                read_frame(&mut self.link, &mut self.buffer).map_err(|error| self.lost(&error))?;
                let reply = reply::parse(&self.buffer)?.ok_or("half a reply")?;
                if reply.code != 0 {
                    return Err(format!("{}: a write has result {}", self.target.label, reply.code));
                }
            }
            at = end;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), String> {
        for name in ["n", "m", "s"] {
            self.drop_index(name)?;
        }
        let pad = [0xA5; 100];
        let count = self.keys.count();
        self.write(count, Some(&pad), |at| spread(at, count))?;
        let content = BASE64_STANDARD.encode(MODULE);
        self.tell(&format!("udf-put:filename=asd_bench.lua;content-len={};content={content};", content.len()))
    }

    fn index_name(&self, name: &str) -> String {
        format!("{}-{name}", self.set)
    }

    fn drop_index(&mut self, name: &str) -> Result<(), String> {
        let (namespace, set, index) = (self.namespace, self.set.clone(), self.index_name(name));
        self.tell(&format!("sindex-delete:namespace={namespace};set={set};indexname={index}"))
    }

    fn create_index(&mut self, name: &str, key_type: &str) -> Result<(), String> {
        let (namespace, set, index) = (self.namespace, self.set.clone(), self.index_name(name));
        self.tell(&format!(
            "sindex-create:namespace={namespace};set={set};indexname={index};indexdata={name},{key_type}"
        ))?;
        let start = Instant::now();
        while self.ask("sindex-list")?.contains("state=WO") {
            if start.elapsed() > BUILD_TIME_MAX {
                return Err(format!("{}: index {index} is not built", self.target.label));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Runs a query for numbers in `range`, or for all. Returns the number of records.
    fn query(&mut self, range: Option<(u64, u64)>, without_bins: bool) -> Result<u64, String> {
        let mut request = Template::scan(self.record_target(), 10_000);
        if without_bins {
            request[PROTO_SIZE + 1] = info::INFO1_READ | info::INFO1_GET_NO_BINS;
        }
        if let Some((low, high)) = range {
            add_range(&mut request, low, high);
        }
        self.link.write_all(&request).map_err(|error| self.lost(&error))?;
        let mut count = 0;
        loop {
            self.buffer.clear();
            read_frame(&mut self.link, &mut self.buffer).map_err(|error| self.lost(&error))?;
            let (rows, end) = rows_of(&self.buffer[PROTO_SIZE..])?;
            count += rows;
            match end {
                Some(0) => return Ok(count),
                Some(code) => return Err(format!("{}: a query has result {code}", self.target.label)),
                None => {}
            }
        }
    }

    /// The cost per record of `times` queries, and the time of one query.
    fn measure_query(
        &mut self,
        range: Option<(u64, u64)>,
        without_bins: bool,
        (expected, times): (u64, u64),
    ) -> Result<(Option<f64>, Option<f64>), String> {
        let span = self.span();
        for _ in 0..times {
            let count = self.query(range, without_bins)?;
            if count != expected {
                return Err(format!("{}: {count} records where {expected} are", self.target.label));
            }
        }
        let (cpu, ms) = self.since(&span, expected * times);
        Ok((cpu, ms.map(|ms| ms / times as f64)))
    }

    fn call_functions(&mut self, count: u64) -> Result<(), String> {
        let header = Header { info2: info::INFO2_WRITE, ..Header::default() };
        let call = Template::new(header, self.record_target()).with_udf("asd_bench", "twice", &[0x90]);
        let (mut out, mut at) = (Vec::new(), 0);
        while at < count {
            for (caller, link) in self.callers.iter_mut().enumerate() {
                out.clear();
                call.append(&self.keys.digest((at + caller as u64) % self.keys.count()), 0, &mut out);
                link.write_all(&out).map_err(|error| error.to_string())?;
            }
            for link in &mut self.callers {
                self.buffer.clear();
                read_frame(link, &mut self.buffer).map_err(|error| error.to_string())?;
                let reply = reply::parse(&self.buffer)?.ok_or("half a reply")?;
                if reply.code != 0 {
                    return Err(format!("{}: a call has result {}", self.target.label, reply.code));
                }
            }
            at += CALLERS as u64;
        }
        Ok(())
    }

    fn round(&mut self, round: u64) -> Result<Sample, String> {
        let count = self.keys.count();
        let mut sample = [None; FIGURES.len()];
        let per_second = |count: u64, ms: Option<f64>| ms.map(|ms| count as f64 * 1000.0 / ms);
        (sample[0], sample[1]) = self.measure_query(None, false, (count, 2))?;
        (sample[2], sample[3]) = self.measure_query(None, true, (count, 2))?;
        let span = self.span();
        self.create_index("n", "numeric")?;
        (sample[5], sample[4]) = self.since(&span, count);
        let (namespace, index) = (self.namespace, self.index_name("n"));
        let stat = self.ask(&format!("sindex-stat:namespace={namespace};indexname={index}"))?;
        let figure = |name: &str| -> Option<f64> {
            stat.split(';').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        };
        sample[6] =
            figure("used_bytes").zip(figure("entries")).map(|(bytes, entries)| bytes / entries.max(1.0));
        let (low, tenth) = (count / 3, (count / 10).max(1));
        (sample[7], sample[8]) = self.measure_query(Some((low, low + tenth - 1)), false, (tenth, 10))?;
        self.create_index("m", "numeric")?;
        self.create_index("s", "string")?;
        // All values of these records change.
        let writes = (count / 4).max(1);
        let span = self.span();
        self.write(writes, None, |at| spread(at, count) + count * (1 + round) + 7 * (1 + round))?;
        let ms;
        (sample[9], ms) = self.since(&span, writes);
        sample[10] = per_second(writes, ms);
        for name in ["n", "m", "s"] {
            self.drop_index(name)?;
        }
        self.write(writes, None, |at| spread(at, count))?;
        let calls = (count / 10).max(1).next_multiple_of(CALLERS as u64);
        let span = self.span();
        self.call_functions(calls)?;
        let ms;
        (sample[11], ms) = self.since(&span, calls);
        sample[12] = per_second(calls, ms);
        Ok(sample)
    }
}

/// Maps each number below `count` to another one, so that neighbours are far apart.
fn spread(at: u64, count: u64) -> u64 {
    // The factor is odd and has no common factor with a decimal count.
    at.wrapping_mul(7_368_787) % count
}

/// Adds the field of a range of numbers in bin `n`.
fn add_range(request: &mut Vec<u8>, low: u64, high: u64) {
    const INDEX_RANGE: u8 = 22;
    let mut value = vec![INDEX_RANGE, 1, 1, b'n', particle_type::INTEGER];
    for bound in [low, high] {
        value.extend_from_slice(&8u32.to_be_bytes());
        value.extend_from_slice(&bound.to_be_bytes());
    }
    let field_count_at = PROTO_SIZE + 18;
    let count = u16::from_be_bytes([request[field_count_at], request[field_count_at + 1]]) + 1;
    request[field_count_at..field_count_at + 2].copy_from_slice(&count.to_be_bytes());
    request.extend_from_slice(&(value.len() as u32).to_be_bytes());
    request.extend_from_slice(&value);
    let size = (request.len() - PROTO_SIZE) as u64;
    request[2..PROTO_SIZE].copy_from_slice(&size.to_be_bytes()[2..]);
}

/// Appends the next frame of the link to `out`.
fn read_frame(link: &mut Link, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.resize(start + PROTO_SIZE, 0);
    link.read_exact(&mut out[start..])?;
    let mut header = [0; PROTO_SIZE];
    header.copy_from_slice(&out[start..]);
    let size = (u64::from_be_bytes(header) & 0xFFFF_FFFF_FFFF) as usize;
    if size > info_protocol::BODY_SIZE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    out.resize(start + PROTO_SIZE + size, 0);
    link.read_exact(&mut out[start + PROTO_SIZE..])
}

/// The number of records in a frame's body, and the result of the last message if the frame has it.
fn rows_of(mut body: &[u8]) -> Result<(u64, Option<u8>), String> {
    let cut = || "half a message".to_owned();
    let mut rows = 0;
    while !body.is_empty() {
        let header = body.get(..MESSAGE_SIZE).ok_or_else(cut)?;
        if header[5] != 0 || header[3] & LAST != 0 {
            return Ok((rows, Some(header[5])));
        }
        let mut at = MESSAGE_SIZE;
        let parts = usize::from(u16::from_be_bytes([header[18], header[19]]))
            + usize::from(u16::from_be_bytes([header[20], header[21]]));
        for _ in 0..parts {
            let size = body.get(at..at + 4).and_then(|size| size.try_into().ok()).ok_or_else(cut)?;
            at += 4 + u32::from_be_bytes(size) as usize;
        }
        body = body.get(at..).ok_or_else(cut)?;
        rows += 1;
    }
    Ok((rows, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_that_are_not_held_are_named() {
        let sample = |cpu: f64| {
            let mut sample = [None; FIGURES.len()];
            sample[0] = Some(cpu);
            sample[2] = Some(0.5);
            sample
        };
        let text = render(&["ours", "theirs"], &[vec![sample(0.9)], vec![sample(1.0)]]);
        assert!(text.starts_with("| | ours | theirs | ratio |\n"), "{text}");
        assert!(
            text.contains("| query with bins: server CPU per record, µs | 0.900 | 1.000 | 0.90 |"),
            "{text}"
        );
        assert!(
            text.contains(
                "- not held beside theirs: query with bins: server CPU per record, µs, 0.90 where 0.70"
            ),
            "{text}"
        );
        assert!(text.contains("query without bins: server CPU per record, µs, 1.00 where 0.80"), "{text}");
    }

    #[test]
    fn numbers_are_spread_and_unique() {
        for count in [1, 10, 1_000, 30_000] {
            let mut all: Vec<u64> = (0..count).map(|at| spread(at, count)).collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..count));
        }
    }

    #[test]
    fn rows_are_counted_up_to_the_last_message() {
        let mut row = vec![0; MESSAGE_SIZE];
        row[0] = MESSAGE_SIZE as u8;
        row[19] = 1;
        row.extend_from_slice(&[0, 0, 0, 2, 9, 9]);
        let mut last = vec![0; MESSAGE_SIZE];
        last[3] = LAST;
        let body = [row.clone(), row, last].concat();
        assert_eq!(rows_of(&body), Ok((2, Some(0))));
        assert_eq!(rows_of(&body[..56]), Ok((2, None)));
        assert!(rows_of(&body[..30]).is_err());
    }
}
