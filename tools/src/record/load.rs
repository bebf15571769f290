//! Record requests as load: a [`Protocol`] for the load generator.

use std::sync::Arc;

use super::keys::Keys;
use super::object_spec::ObjectSpec;
use super::particle_type;
use super::query::Queries;
use super::reply::{self, BatchReply, Expectation, ReplyMessage};
use super::request::{BinWrites, Header, Target, Template, info};
use super::value::append_particle;
use super::workload::{Mix, Rest, Workload, Writes};
use crate::load::random::Random;
use crate::load::{Kind, Outcome, Protocol, Reply};

/// Longest bin name of the server, in bytes.
const BIN_NAME_SIZE_MAX: usize = 15;

/// Seed of the values that stay the same for a whole run.
const FIXED_VALUES_SEED: u64 = 0xA5;

/// Result codes.
mod result {
    pub(super) const OK: u8 = 0;
    pub(super) const NOT_FOUND: u8 = 2;
    pub(super) const TIMEOUT: u8 = 9;
    pub(super) const NO_NAMESPACE: u8 = 20;
    pub(super) const NOT_AUTHENTICATED: u8 = 80;
}

/// The requests of a run. The defaults are those of the official tool.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// Namespace name.
    pub namespace: String,
    /// Set name; empty for none.
    pub set: String,
    /// Name of the first bin; the others get `_2`, `_3`, …
    pub bin: String,
    pub first_key: i64,
    pub key_count: u64,
    /// Bins of a record.
    pub spec: ObjectSpec,
    /// Whether to generate values for every write, and not only once.
    pub random_values: bool,
    /// Kinds of requests.
    pub workload: Workload,
    /// Bins that reads request, from 0; empty for all.
    pub read_bins: Vec<usize>,
    /// Bins that writes set, from 0; empty for all.
    pub write_bins: Vec<usize>,
    /// Time to live of written records in seconds, or one of the special values 0, −1, −2.
    pub record_ttl: i32,
    /// Time after which the server may give up a read, in milliseconds; 0 means its default.
    pub read_timeout_ms: u32,
    /// Time after which the server may give up any other request, in milliseconds; 0 means its default.
    pub write_timeout_ms: u32,
    /// Whether to send the key with its digest.
    pub send_key: bool,
    /// Whether the server answers when only the master has written.
    pub commit_master: bool,
    /// Whether reads ask all replicas.
    pub read_all_replicas: bool,
    /// Whether deletes leave tombstones.
    pub durable_delete: bool,
    /// Module, function and arguments of UDF requests.
    pub udf: Option<(String, String, Option<ObjectSpec>)>,
    /// Whether to compare the bins of replies with the object spec.
    pub check_replies: bool,
}

impl Default for RecordOptions {
    fn default() -> Self {
        RecordOptions {
            namespace: "test".to_owned(),
            set: "testset".to_owned(),
            bin: "testbin".to_owned(),
            first_key: 0,
            key_count: 1_000_000,
            spec: ObjectSpec { bins: vec![super::object_spec::ValueSpec::Integer(4)] },
            random_values: false,
            workload: Workload::Insert,
            read_bins: Vec::new(),
            write_bins: Vec::new(),
            record_ttl: 0,
            read_timeout_ms: 0,
            write_timeout_ms: 0,
            send_key: false,
            commit_master: false,
            read_all_replicas: false,
            durable_delete: false,
            udf: None,
            check_replies: true,
        }
    }
}

/// State that all threads of a run share.
#[derive(Debug)]
struct Shared {
    keys: Keys,
    workload: Workload,
    read: Template,
    write: Template,
    delete: Template,
    udf: Option<Template>,
    /// The queries of a workload of queries.
    queries: Option<Queries>,
    /// The writes with new values each time; `None` if the values are in the template.
    fresh: Option<BinWrites>,
    expectation: Option<Expectation>,
}

/// Record requests of one thread.
#[derive(Debug)]
pub struct RecordLoad {
    shared: Arc<Shared>,
    random: Random,
    /// Indexes of the remaining keys of this thread in a finite workload.
    left: std::ops::Range<u64>,
    first_fault: Option<String>,
}

impl RecordLoad {
    /// One load for each of `threads`. The keys are divided among them.
    ///
    /// # Errors
    /// A sentence for the user when the options contradict each other.
    pub fn for_threads(options: &RecordOptions, threads: usize, seed: u64) -> Result<Vec<Self>, String> {
        let shared = Arc::new(Shared::new(options)?);
        let (threads, count) = (threads as u64, options.key_count);
        let share = |thread: u64| (u128::from(count) * u128::from(thread) / u128::from(threads)) as u64;
        let load = |thread: u64| RecordLoad {
            shared: shared.clone(),
            random: Random::new(seed ^ (thread + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            left: share(thread)..share(thread + 1),
            first_fault: None,
        };
        Ok((0..threads).map(load).collect())
    }

    /// The next request of the workload: its kind and key.
    #[inline]
    fn choose(&mut self) -> Option<(Kind, u64)> {
        match self.shared.workload {
            Workload::Insert => Some((Kind::Write, self.left.next()?)),
            Workload::DeleteBins => Some((Kind::Delete, self.left.next()?)),
            // Queries are not about one key.
            Workload::Query(_) => None,
            Workload::Random(mix) => {
                let key = self.random.below(self.shared.keys.count());
                Some((self.roll(&mix), key))
            }
        }
    }

    #[inline]
    fn roll(&mut self, mix: &Mix) -> Kind {
        if mix.read_pct >= 100.0 {
            return Kind::Read;
        }
        let die = (self.random.next_u64() >> 11) as f64 * (100.0 / (1u64 << 53) as f64);
        match mix.rest {
            _ if die < mix.read_pct => Kind::Read,
            Rest::Delete if die >= mix.read_pct + mix.write_pct => Kind::Delete,
            Rest::Udf if die >= mix.read_pct + mix.write_pct => Kind::Udf,
            _ => Kind::Write,
        }
    }

    /// The outcome of a reply, and its fault if there is one.
    fn judge(&mut self, kind: Kind, reply: &ReplyMessage<'_>) -> Outcome {
        let fault = match (kind, reply.code) {
            (Kind::Read, result::OK) => match &self.shared.expectation {
                Some(expectation) if !expectation.is_met_by(reply) => expectation.explain(reply),
                _ => return Outcome::Hit,
            },
            (_, result::OK) => return Outcome::Hit,
            (Kind::Read | Kind::Delete, result::NOT_FOUND) => return Outcome::Miss,
            (_, result::TIMEOUT) => return Outcome::Timeout,
            (_, code) => {
                let text = reply::result_text(code);
                format!("a {} got result {code}, {text}{}", kind.name(), udf_error(reply))
            }
        };
        self.first_fault.get_or_insert(fault);
        match reply.code {
            result::OK => Outcome::Wrong,
            code => outcome_of_refusal(code),
        }
    }

    /// The outcome of the answer to a query, and its fault if there is one.
    fn judge_query(&mut self, answer: &BatchReply) -> Outcome {
        match answer.code {
            result::OK if answer.op_count > 0 => Outcome::Hit,
            result::OK => Outcome::Miss,
            result::TIMEOUT => Outcome::Timeout,
            code => {
                let fault = format!("a query got result {code}, {}", reply::result_text(code));
                self.first_fault.get_or_insert(fault);
                outcome_of_refusal(code)
            }
        }
    }
}

fn outcome_of_refusal(code: u8) -> Outcome {
    match code {
        result::NO_NAMESPACE | result::NOT_AUTHENTICATED => Outcome::Fatal,
        _ => Outcome::Error,
    }
}

impl Protocol for RecordLoad {
    #[inline]
    fn next_request(&mut self, out: &mut Vec<u8>) -> Option<Kind> {
        let shared = &*self.shared;
        if let Some(queries) = &shared.queries {
            queries.append(&mut self.random, out);
            return Some(Kind::Query);
        }
        let (kind, index) = self.choose()?;
        let shared = &*self.shared;
        let (digest, key) = (shared.keys.digest(index), shared.keys.key(index));
        match (kind, &shared.fresh, &shared.udf) {
            (Kind::Read | Kind::Query, ..) => shared.read.append(&digest, key, out),
            (Kind::Write, Some(writes), _) => {
                shared.write.append_with_writes(&digest, key, writes, &mut self.random, out);
            }
            (Kind::Write, None, _) | (Kind::Udf, _, None) => shared.write.append(&digest, key, out),
            (Kind::Delete, ..) => shared.delete.append(&digest, key, out),
            (Kind::Udf, _, Some(udf)) => udf.append(&digest, key, out),
        }
        Some(kind)
    }

    #[inline]
    fn reply(&mut self, kind: Kind, bytes: &[u8]) -> Result<Option<Reply>, String> {
        if kind == Kind::Query {
            let Some(answer) = reply::parse_query(bytes)? else { return Ok(None) };
            let outcome = self.judge_query(&answer);
            return Ok(Some(Reply { size: answer.size, code: answer.code, outcome }));
        }
        let Some(reply) = reply::parse(bytes)? else { return Ok(None) };
        let outcome = self.judge(kind, &reply);
        Ok(Some(Reply { size: reply.size, code: reply.code, outcome }))
    }

    fn first_fault(&self) -> Option<String> {
        self.first_fault.clone()
    }
}

impl Shared {
    fn new(options: &RecordOptions) -> Result<Self, String> {
        let names = bin_names(&options.bin, options.spec.bins.len())?;
        let read_bins = checked_bins(&options.read_bins, &names)?;
        let write_bins = checked_bins(&options.write_bins, &names)?;
        if options.key_count == 0 {
            return Err("--keys must be at least 1".to_owned());
        }
        let mut keys = Keys::new(&options.set, options.first_key, options.key_count);
        if matches!(options.workload, Workload::Random(_)) {
            keys = keys.with_table();
        }
        let writes = BinWrites::new(options.spec.clone(), names.clone(), write_bins.clone());
        let is_fresh = options.random_values && !options.spec.is_constant();
        let expected = read_bins.iter().map(|at| (names[*at].as_str(), &options.spec.bins[*at]));
        let all = options.write_bins.is_empty();
        let queries = match options.workload {
            Workload::Query(asked) => {
                let first = (names.first().map_or("", String::as_str), &options.spec);
                Some(Queries::new(asked, target(options), first, options.read_timeout_ms)?)
            }
            _ => None,
        };
        Ok(Shared {
            keys,
            workload: options.workload,
            read: read_template(options, &names, &read_bins),
            write: write_template(options, &writes, is_fresh),
            delete: delete_template(options, &names, &write_bins),
            udf: udf_template(options)?,
            queries,
            fresh: is_fresh.then_some(writes),
            expectation: options.check_replies.then(|| Expectation::new(expected, all)),
        })
    }
}

/// The error of a failed function: the value of the only bin in the reply.
fn udf_error(reply: &ReplyMessage<'_>) -> String {
    match reply.bins().next() {
        Some(Ok(bin)) if bin.name == b"FAILURE" => format!(": {}", String::from_utf8_lossy(bin.value)),
        _ => String::new(),
    }
}

fn target(options: &RecordOptions) -> Target<'_> {
    Target { namespace: &options.namespace, set: &options.set, send_key: options.send_key }
}

fn read_template(options: &RecordOptions, names: &[String], bins: &[usize]) -> Template {
    let all_bins = if options.read_bins.is_empty() { info::INFO1_GET_ALL } else { 0 };
    let all_replicas = if options.read_all_replicas { info::INFO1_CONSISTENCY_LEVEL_ALL } else { 0 };
    let header = Header {
        info1: info::INFO1_READ | all_bins | all_replicas,
        timeout_ms: options.read_timeout_ms,
        ..Header::default()
    };
    let template = Template::new(header, target(options));
    if options.read_bins.is_empty() {
        return template;
    }
    bins.iter().fold(template, |template, at| template.with_read(&names[*at]))
}

fn write_header(options: &RecordOptions) -> Header {
    Header {
        info2: info::INFO2_WRITE | if options.durable_delete { info::INFO2_DURABLE_DELETE } else { 0 },
        info3: if options.commit_master { info::INFO3_COMMIT_LEVEL_MASTER } else { 0 },
        record_ttl: options.record_ttl as u32,
        timeout_ms: options.write_timeout_ms,
        ..Header::default()
    }
}

fn write_template(options: &RecordOptions, writes: &BinWrites, is_fresh: bool) -> Template {
    let mut header = write_header(options);
    if let Workload::Random(Mix { writes: Writes::Replace, .. }) = options.workload {
        header.info3 |= info::INFO3_CREATE_OR_REPLACE;
    }
    let template = Template::new(header, target(options));
    if is_fresh {
        template.expecting_writes(writes)
    } else {
        template.with_writes(writes, &mut Random::new(FIXED_VALUES_SEED))
    }
}

/// A delete of the record, or of the bins that writes would set.
fn delete_template(options: &RecordOptions, names: &[String], bins: &[usize]) -> Template {
    let mut header = write_header(options);
    if options.workload == Workload::DeleteBins {
        let template = Template::new(header, target(options));
        return bins.iter().fold(template, |template, at| template.with_removal(&names[*at]));
    }
    header.info2 |= info::INFO2_DELETE;
    Template::new(header, target(options))
}

fn udf_template(options: &RecordOptions) -> Result<Option<Template>, String> {
    let Workload::Random(Mix { rest: Rest::Udf, .. }) = options.workload else { return Ok(None) };
    let Some((module, function, arguments)) = &options.udf else {
        return Err("workload RUF needs --udf-package-name and --udf-function-name".to_owned());
    };
    let bins = arguments.iter().flat_map(|spec| &spec.bins).map(|bin| (1, bin.clone())).collect();
    let list = super::object_spec::ValueSpec::List(bins);
    debug_assert_eq!(list.particle_type(), particle_type::LIST);
    let mut packed = Vec::new();
    append_particle(&list, &mut Random::new(FIXED_VALUES_SEED), &mut packed);
    let header = Header { record_ttl: 0, ..write_header(options) };
    Ok(Some(Template::new(header, target(options)).with_udf(module, function, &packed)))
}

/// `name`, `name_2`, `name_3` …
fn bin_names(base: &str, count: usize) -> Result<Vec<String>, String> {
    let name = |at| if at == 0 { base.to_owned() } else { format!("{base}_{}", at + 1) };
    let names: Vec<String> = (0..count).map(name).collect();
    match names.iter().find(|name| name.is_empty() || name.len() > BIN_NAME_SIZE_MAX) {
        Some(wrong) => Err(format!("bin name \"{wrong}\" is not 1 to {BIN_NAME_SIZE_MAX} bytes long")),
        None => Ok(names),
    }
}

/// The chosen bins, or all bins.
fn checked_bins(chosen: &[usize], names: &[String]) -> Result<Vec<usize>, String> {
    if chosen.is_empty() {
        return Ok((0..names.len()).collect());
    }
    match chosen.iter().find(|at| **at >= names.len()) {
        Some(wrong) => Err(format!("there is no bin {}; the object spec has {}", wrong + 1, names.len())),
        None => Ok(chosen.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn options(workload: &str) -> RecordOptions {
        RecordOptions {
            workload: Workload::parse(workload).unwrap(),
            key_count: 100,
            ..RecordOptions::default()
        }
    }

    fn kinds(workload: &str, requests: usize) -> HashMap<&'static str, usize> {
        let mut counts = HashMap::new();
        let options = RecordOptions { udf: Some(("m".into(), "f".into(), None)), ..options(workload) };
        let mut out = Vec::new();
        for load in &mut RecordLoad::for_threads(&options, 3, 1).unwrap() {
            for _ in 0..requests {
                let Some(kind) = load.next_request(&mut out) else { break };
                *counts.entry(kind.name()).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn finite_workloads_do_every_key_once() {
        assert_eq!(kinds("I", 1000), HashMap::from([("write", 100)]));
        assert_eq!(kinds("DB", 1000), HashMap::from([("delete", 100)]));
    }

    #[test]
    fn random_workloads_keep_their_shares() {
        assert_eq!(kinds("RU,100", 50), HashMap::from([("read", 150)]));
        assert_eq!(kinds("RR,0", 50), HashMap::from([("write", 150)]));
        for (workload, rest) in [("RUD,20,30", "delete"), ("RUF,20,30", "udf")] {
            let counts = kinds(workload, 10_000);
            for (kind, expected) in [("read", 6000), ("write", 9000), (rest, 15_000)] {
                assert!(counts[kind].abs_diff(expected) < 600, "{workload}: {counts:?}");
            }
        }
    }

    #[test]
    fn options_that_do_not_fit_are_named() {
        let error = |options: &RecordOptions| RecordLoad::for_threads(options, 1, 0).unwrap_err();
        assert!(error(&RecordOptions { read_bins: vec![1], ..options("RU") }).contains("no bin 2"));
        assert!(error(&RecordOptions { bin: "a".repeat(16), ..options("RU") }).contains("1 to 15"));
        assert!(error(&RecordOptions { key_count: 0, ..options("RU") }).contains("--keys must be"));
        assert!(error(&options("RUF")).contains("--udf-package-name"));
    }

    #[test]
    fn replies_are_judged_by_kind() {
        let mut load = RecordLoad::for_threads(&options("RU"), 1, 0).unwrap().remove(0);
        let reply = |code: u8| {
            let mut frame = b"\x02\x03\0\0\0\0\0\x16\x16".to_vec();
            frame.resize(30, 0);
            frame[13] = code;
            frame
        };
        let mut outcome = |kind, code| load.reply(kind, &reply(code)).unwrap().unwrap().outcome;
        assert_eq!(outcome(Kind::Write, 0), Outcome::Hit);
        assert_eq!(outcome(Kind::Read, 2), Outcome::Miss);
        assert_eq!(outcome(Kind::Delete, 2), Outcome::Miss);
        assert_eq!(outcome(Kind::Write, 9), Outcome::Timeout);
        assert_eq!(outcome(Kind::Write, 2), Outcome::Error);
        assert_eq!(outcome(Kind::Read, 0), Outcome::Wrong);
        assert_eq!(outcome(Kind::Read, 20), Outcome::Fatal);
        assert_eq!(load.first_fault().unwrap(), "a write got result 2, record not found");
        // A refused query has one message. Other answers have a last message, after the rows.
        let mut outcome = |kind, code| load.reply(kind, &reply(code)).unwrap().unwrap().outcome;
        assert_eq!(outcome(Kind::Query, 201), Outcome::Error);
        assert_eq!(outcome(Kind::Query, 9), Outcome::Timeout);
        let mut last = reply(0);
        assert_eq!(load.reply(Kind::Query, &last), Ok(None));
        last[11] = 1;
        let ended = load.reply(Kind::Query, &[reply(0), last].concat()).unwrap().unwrap();
        assert_eq!((ended.size, ended.outcome), (60, Outcome::Miss));
        assert!(load.reply(Kind::Read, &reply(0)[..29]).unwrap().is_none());
        assert!(load.reply(Kind::Read, b"HTTP/1.1").is_err());
    }
}
