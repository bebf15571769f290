//! `asd-bench`: measures a server, optionally together with another server and with Redis, and prints tables
//! for the README: throughput and cost ([`phase`]), latency by number of clients ([`latency`]), the effect of
//! a hostile client on other clients ([`neighbour`]), queries and indexes ([`queries`]), the cost of access
//! control, TLS and encryption ([`protection`]).
//!
//! All servers get the same load from the same client ([`crate::load`]) in turns: every round runs every
//! phase on every server. The order of the servers changes from round to round, so that other load on the
//! machine affects all of them. A column shows the median over the rounds; a ratio is the median of the
//! ratios within a round.

mod latency;
mod neighbour;
mod options;
mod phase;
mod protection;
mod queries;
mod redis_benchmark;
mod scenario;
mod startup;
mod syscalls;
mod table;
mod target;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use phase::{Phase, Sample, Settings};
use table::{Column, Memory};
use target::Target;

pub use options::Options;
use options::{Command, CompareOptions};

/// Longest unmeasured run before the first measurement of a phase.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs with `options`. The table goes to `out`, progress to `progress`.
///
/// # Errors
/// Only when `out` or `progress` cannot be written.
pub fn run(options: &Options, out: &mut impl Write, progress: &mut impl Write) -> io::Result<ExitCode> {
    let result = match &options.command {
        Some(Command::Startup(startup)) => startup::measure(startup, progress),
        Some(Command::Latency(latency)) => latency::measure(latency, progress),
        Some(Command::Neighbour(neighbour)) => neighbour::measure(neighbour, progress),
        Some(Command::Query(query)) => queries::measure(query, progress),
        Some(Command::Protection(protection)) => protection::measure(protection, progress),
        None => compare(&options.compare, progress),
    };
    match result {
        Ok(text) => {
            write!(out, "{text}")?;
            out.flush()?;
            Ok(ExitCode::SUCCESS)
        }
        Err(what) => {
            writeln!(progress, "asd-bench: {what}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn compare(options: &CompareOptions, progress: &mut impl Write) -> Result<String, String> {
    let settings = options.settings();
    let targets = options.targets()?;
    for target in &targets {
        say(progress, &target.describe());
    }
    let mut columns = Vec::new();
    for target in &targets {
        columns.push(load(target, &settings, progress)?);
    }
    let phases = options.phases();
    for target in &targets {
        for phase in phases.iter().filter(|phase| phase.is_for(target)) {
            phase.prepare(target, &settings)?;
            phase.run(target, &settings, WARM_UP.min(settings.duration), None, 0)?;
        }
    }
    for round in 0..options.rounds {
        for &phase in &phases {
            for turn in 0..targets.len() {
                let at = (turn + round) % targets.len();
                if !phase.is_for(&targets[at]) {
                    continue;
                }
                phase.prepare(&targets[at], &settings)?;
                let run = phase.run(&targets[at], &settings, settings.duration, None, 1 + round as u64)?;
                let sample = Sample::of(&run, phase);
                say(
                    progress,
                    &format!("round {}: {}, {}: {sample}", round + 1, targets[at].label, phase.name()),
                );
                columns[at].samples.push((phase, sample));
            }
        }
    }
    if options.redis_benchmark
        && let Some((target, column)) = targets.iter().zip(&mut columns).find(|(target, _)| target.is_redis())
    {
        column.notes.push(redis_benchmark::measure(target, &settings)?);
    }
    if options.syscalls {
        for (target, column) in targets.iter().zip(&mut columns) {
            column.notes.extend(syscalls::measure(target, &settings)?);
        }
    }
    Ok(table::render(&columns, &phases, &settings))
}

/// Writes the records of the keys to `target` and starts its column.
fn load(target: &Target, settings: &Settings, progress: &mut impl Write) -> Result<Column, String> {
    let was_empty = phase::is_empty(target, settings)?;
    let run = Phase::Load.run(target, settings, Duration::MAX, None, 0)?;
    let sample = Sample::of(&run, Phase::Load);
    say(progress, &format!("{}, {}: {sample}", target.label, Phase::Load.name()));
    let memory = run.server.map(|(before, after)| Memory {
        before_kib: before.resident_kib,
        after_kib: after.resident_kib,
        records: settings.keys,
        was_empty,
    });
    Ok(Column {
        label: target.label.clone(),
        about: target.describe(),
        samples: vec![(Phase::Load, sample)],
        memory,
        notes: Vec::new(),
    })
}

/// Prints progress. A closed output is not an error.
fn say(progress: &mut impl Write, line: &str) {
    drop(writeln!(progress, "{line}").and_then(|()| progress.flush()));
}
