//! `asbench`: loads a server with record requests and reports the results.
//!
//! Options and progress lines are those of the official tool where both tools have them. The tool talks to
//! one node over a fixed number of connections; a node of a cluster forwards requests for partitions that it
//! does not own. The exit code is 1 when the connection to the server was lost or any request failed, 2 when
//! the options are wrong.

mod options;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::load::{self, Plan, Progress, Run, StartError};
use crate::record::load::RecordLoad;
use crate::report;

pub use options::{Options, command, parse_arguments};

/// Runs with `options`. Progress and the summary go to `out`; with `--json` only the JSON object goes to
/// `out`, and everything else to `errors`.
///
/// # Errors
/// Only when `out` or `errors` cannot be written.
pub fn run(options: &Options, out: &mut impl Write, errors: &mut impl Write) -> io::Result<ExitCode> {
    for option in &options.without_effect {
        writeln!(errors, "asbench: --{option} has no effect here")?;
    }
    let (plan, protocols) = match prepare(options) {
        Ok(prepared) => prepared,
        Err(what) => {
            writeln!(errors, "asbench: {what}")?;
            return Ok(ExitCode::from(2));
        }
    };
    if options.debug {
        writeln!(errors, "{plan:#?}")?;
    }
    let measured = if options.json {
        measure(options, &plan, protocols, errors)
    } else {
        measure(options, &plan, protocols, out)
    };
    let run = match measured {
        Ok(run) => run,
        Err(what) => {
            writeln!(errors, "asbench: {what}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    if options.json {
        writeln!(out, "{:#}", report::summary_json(&run))?;
    } else {
        write!(out, "{}", report::summary(&run))?;
    }
    out.flush()?;
    if let Some(fault) = &run.first_fault {
        writeln!(errors, "asbench: not all requests had the expected answer; the first: {fault}")?;
    }
    if let Some(failure) = &run.failure {
        writeln!(errors, "asbench: {failure}")?;
    }
    Ok(if run.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn prepare(options: &Options) -> Result<(Plan, Vec<RecordLoad>), String> {
    let protocols = RecordLoad::for_threads(&options.records()?, options.thread_count(), options.seed)?;
    Ok((options.plan()?, protocols))
}

fn measure(
    options: &Options,
    plan: &Plan,
    protocols: Vec<RecordLoad>,
    progress_to: &mut impl Write,
) -> Result<Run, StartError> {
    let mut before = load::counters::Totals::sum(std::iter::empty());
    let mut seconds = 0;
    load::run(plan, protocols, &mut |progress: &Progress| {
        if options.quiet {
            return;
        }
        // If the output is closed, there are no further progress lines, but the measurement continues.
        drop(writeln!(progress_to, "{}", report::progress_line(progress, &before)));
        seconds += 1;
        if options.latency && seconds % options.output_period_s.max(1) == 0 {
            for line in report::latency_lines(progress, &options.percentiles) {
                drop(writeln!(progress_to, "{line}"));
            }
        }
        drop(progress_to.flush());
        before.clone_from(&progress.totals);
    })
}
