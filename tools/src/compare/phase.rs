//! The loads for the comparison of servers, and the results that are kept of each.

use std::fmt;
use std::time::Duration;

use super::scenario::{Scenario, ScenarioLoad};
use super::target::{Target, TargetKind};
use crate::load::{self, KIND_COUNT, Kind, Pause, Plan, Run};
use crate::record::load::{RecordLoad, RecordOptions};
use crate::record::object_spec::{ObjectSpec, ValueSpec};
use crate::record::workload::{Mix, Rest, Workload, Writes};
use crate::redis::{RedisLoad, RedisWork};

/// Time without any reply after which a server counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Number of records that are read to find out whether a server is empty.
const EMPTINESS_SAMPLE: u64 = 2000;

/// Settings that all phases on all servers share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) keys: u64,
    pub(super) value_size: u32,
    pub(super) connections: usize,
    /// Requests in flight on each connection in the pipelined phases.
    pub(super) pipeline: usize,
    /// Threads of the client.
    pub(super) threads: usize,
    /// Pause of each connection between an answer and its next request.
    pub(super) pause: Option<Pause>,
    /// Longest wait for an answer. A longer wait counts as a timeout.
    pub(super) timeout: Option<Duration>,
    pub(super) duration: Duration,
    pub(super) rounds: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Writes every record once, pipelined.
    Load,
    Read,
    Write,
    PipelinedRead,
    PipelinedWrite,
    /// As many reads as writes.
    Mixed,
    /// A load that Redis does not support.
    Scenario(Scenario),
}

impl Phase {
    /// The phases of a round.
    pub(super) const TIMED: [Phase; 10] = [
        Phase::Read,
        Phase::Write,
        Phase::PipelinedRead,
        Phase::PipelinedWrite,
        Phase::Scenario(Scenario::BatchRead),
        Phase::Scenario(Scenario::BatchWrite),
        Phase::Scenario(Scenario::ListAppend),
        Phase::Scenario(Scenario::MapPut),
        Phase::Scenario(Scenario::MapGet),
        Phase::Scenario(Scenario::Filter),
    ];

    /// Whether the phase can run on `target`.
    pub(super) fn is_for(self, target: &Target) -> bool {
        !matches!(self, Phase::Scenario(_)) || !target.is_redis()
    }

    /// Whether a connection sends requests without waiting for replies.
    pub(super) fn is_pipelined(self) -> bool {
        matches!(self, Phase::Load | Phase::PipelinedRead | Phase::PipelinedWrite)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Load => "load",
            Phase::Read => "read",
            Phase::Write => "write",
            Phase::PipelinedRead => "pipelined read",
            Phase::PipelinedWrite => "pipelined write",
            Phase::Mixed => "read or write",
            Phase::Scenario(scenario) => scenario.name(),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Phase::Read | Phase::PipelinedRead | Phase::Mixed => Kind::Read,
            Phase::Load | Phase::Write | Phase::PipelinedWrite => Kind::Write,
            Phase::Scenario(scenario) => scenario.kind(),
        }
    }

    /// Prepares the records of the phase for the measurement, except those that the load phase writes.
    ///
    /// # Errors
    /// When the connection to the server is lost, or a request fails.
    pub(super) fn prepare(self, target: &Target, settings: &Settings) -> Result<(), String> {
        let (Phase::Scenario(scenario), TargetKind::Aerospike { namespace, set }) = (self, &target.kind)
        else {
            return Ok(());
        };
        if scenario.own_records() == 0 {
            return Ok(());
        }
        let plan = Phase::Load.plan(target, settings, Duration::MAX, None);
        let protocol = ScenarioLoad::preparing(scenario, namespace, set);
        let run = load::run(&plan, vec![protocol], &mut |_| {})?;
        check(&run).map_err(|what| format!("{}, before {}: {what}", target.label, self.name()))
    }

    /// Runs the phase on `target` for `duration`, or until `requests_max` are sent.
    ///
    /// # Errors
    /// When the connection to the server is lost, or a request fails.
    pub(super) fn run(
        self,
        target: &Target,
        settings: &Settings,
        duration: Duration,
        requests_max: Option<u64>,
        seed: u64,
    ) -> Result<Run, String> {
        let run = self.run_unchecked(target, settings, duration, requests_max, seed)?;
        check(&run).map_err(|what| format!("{}, {}: {what}", target.label, self.name()))?;
        Ok(run)
    }

    /// As [`run`](Self::run), but also if requests fail.
    ///
    /// # Errors
    /// When the run could not start.
    pub(super) fn run_unchecked(
        self,
        target: &Target,
        settings: &Settings,
        duration: Duration,
        requests_max: Option<u64>,
        seed: u64,
    ) -> Result<Run, String> {
        let plan = self.plan(target, settings, duration, requests_max);
        match &target.kind {
            TargetKind::Aerospike { namespace, set } if let Phase::Scenario(scenario) = self => {
                let Settings { keys, value_size, threads, .. } = *settings;
                let names = (namespace.as_str(), set.as_str());
                let protocols = ScenarioLoad::measuring(scenario, names, (keys, value_size), threads, seed);
                load::run(&plan, protocols, &mut |_| {})
            }
            TargetKind::Aerospike { namespace, set } => {
                let options = self.record_options(namespace, set, settings);
                let protocols = RecordLoad::for_threads(&options, settings.threads, seed)?;
                load::run(&plan, protocols, &mut |_| {})
            }
            TargetKind::Redis => load::run(&plan, self.redis_protocols(settings, seed), &mut |_| {}),
        }
    }

    fn plan(
        self,
        target: &Target,
        settings: &Settings,
        duration: Duration,
        requests_max: Option<u64>,
    ) -> Plan {
        Plan {
            address: target.address,
            access: target.access.clone(),
            connections: settings.connections,
            pipeline: if self.is_pipelined() { settings.pipeline } else { 1 },
            duration: (self != Phase::Load).then_some(duration),
            requests_max,
            rate: None,
            pause: settings.pause,
            connect_timeout: Duration::from_secs(2),
            silence_max: SILENCE_MAX,
            timeouts: [settings.timeout; KIND_COUNT],
            server_pid: target.pid,
        }
    }

    fn record_options(self, namespace: &str, set: &str, settings: &Settings) -> RecordOptions {
        let mix = |read_pct| {
            let write_pct = 100.0 - read_pct;
            Workload::Random(Mix { read_pct, write_pct, writes: Writes::Update, rest: Rest::None })
        };
        RecordOptions {
            namespace: namespace.to_owned(),
            set: set.to_owned(),
            key_count: settings.keys,
            spec: ObjectSpec { bins: vec![ValueSpec::Blob(settings.value_size)] },
            workload: match self {
                Phase::Load => Workload::Insert,
                Phase::Read | Phase::PipelinedRead => mix(100.0),
                Phase::Write | Phase::PipelinedWrite | Phase::Scenario(_) => mix(0.0),
                Phase::Mixed => mix(50.0),
            },
            ..RecordOptions::default()
        }
    }

    /// One protocol for each thread. Only the first thread writes the records of the load phase.
    fn redis_protocols(self, settings: &Settings, seed: u64) -> Vec<RedisLoad> {
        let (work, threads) = match self {
            Phase::Load => (RedisWork::Fill, 1),
            Phase::Read | Phase::PipelinedRead | Phase::Mixed => (RedisWork::Get, settings.threads),
            Phase::Write | Phase::PipelinedWrite | Phase::Scenario(_) => (RedisWork::Set, settings.threads),
        };
        let seeds = (0..threads as u64).map(|thread| seed.wrapping_mul(1000) + thread);
        seeds.map(|seed| RedisLoad::new(work, settings.keys, settings.value_size as usize, seed)).collect()
    }
}

/// Whether `target` has no records of the load. A sample of keys decides.
///
/// # Errors
/// When the connection to the server is lost.
pub(super) fn is_empty(target: &Target, settings: &Settings) -> Result<bool, String> {
    let run = Phase::Read.run_unchecked(target, settings, SILENCE_MAX, Some(EMPTINESS_SAMPLE), 0)?;
    match run.failure {
        Some(failure) => Err(format!("{}: {failure}", target.label)),
        None => Ok(run.totals.kinds.iter().all(|kind| kind.done() == kind.misses)),
    }
}

/// Checks a measurement, which is valid only if all requests were done and all records existed.
fn check(run: &Run) -> Result<(), String> {
    if let Some(failure) = &run.failure {
        return Err(failure.clone());
    }
    if let Some(fault) = &run.first_fault {
        return Err(format!("{} requests failed; first: {fault}", run.totals.failed()));
    }
    let misses: u64 = run.totals.kinds.iter().map(|kind| kind.misses).sum();
    match (run.totals.failed(), misses) {
        (0, 0) if run.totals.done() > 0 => Ok(()),
        (0, 0) => Err("nothing was done".to_owned()),
        (0, misses) => Err(format!("{misses} records were not there; were they evicted?")),
        (failed, _) => Err(format!("{failed} requests failed")),
    }
}

/// The part of a phase's result that is kept.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sample {
    pub(super) ops_per_second: f64,
    /// Server CPU per request in microseconds.
    pub(super) cpu_us: Option<f64>,
    pub(super) p99_us: f64,
    /// CPU use of the client, in percent of one processor.
    pub(super) client_cpu_pct: f64,
}

impl Sample {
    pub(super) fn of(run: &Run, phase: Phase) -> Self {
        Sample {
            ops_per_second: run.ops_per_second(),
            cpu_us: run.server_cost().map(|cost| cost.cpu_us_per_op),
            p99_us: run.totals.of(phase.kind()).latency_ns.percentile(99.0) as f64 / 1000.0,
            client_cpu_pct: run.client_cpu_pct(),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} per second", self.ops_per_second)?;
        if let Some(cpu_us) = self.cpu_us {
            write!(f, ", server CPU {cpu_us:.2} us each")?;
        }
        write!(f, ", p99 {:.0} us, client CPU {:.0} %", self.p99_us, self.client_cpu_pct)
    }
}
