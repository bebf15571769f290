//! Latency by number of clients, with and without pauses between their requests.
//!
//! A client is a connection with one request in flight. Without pauses, the clients keep the servers as busy
//! as they can; with pauses of about a millisecond, the servers are mostly idle, and the time to wake up
//! dominates.

use std::fmt::{self, Write as _};
use std::io::Write;

use super::options::LatencyOptions;
use super::phase::{Phase, Settings};
use super::table::{append_header, append_values, median};
use super::target::Target;
use super::{WARM_UP, load, say};
use crate::load::{Pause, Run};

/// Number of clients, and whether they pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Clients {
    clients: usize,
    pause: Option<Pause>,
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients =
            if self.clients == 1 { "1 client".to_owned() } else { format!("{} clients", self.clients) };
        match self.pause {
            None => write!(f, "{clients} without pauses"),
            Some(pause) => write!(f, "{clients} with pauses of {} µs", pause.mean.as_micros()),
        }
    }
}

/// The results of a server for a setup in one round.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Sample {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    ops_per_second: f64,
    cpu_us: Option<f64>,
}

/// A row of the table: its name, decimals and value.
type Figure = (&'static str, usize, fn(&Sample) -> Option<f64>);

const FIGURES: [Figure; 5] = [
    ("p50, µs", 1, |sample| Some(sample.p50_us)),
    ("p99, µs", 1, |sample| Some(sample.p99_us)),
    ("p99.9, µs", 1, |sample| Some(sample.p999_us)),
    ("requests per second", 0, |sample| Some(sample.ops_per_second)),
    ("server CPU per request, µs", 2, |sample| sample.cpu_us),
];
/// Number of figures, from the first on, that must not be higher than those of the other server.
const BARRED_FIGURES: usize = 2;

/// All measurements of a setup, by server, then by round.
struct Measured {
    setup: Clients,
    samples: Vec<Vec<Sample>>,
}

/// Measures and returns the table.
///
/// # Errors
/// When the connection to a server is lost, or a request fails.
pub(super) fn measure(options: &LatencyOptions, progress: &mut impl Write) -> Result<String, String> {
    let settings = options.settings();
    let targets = options.servers.targets()?;
    let phase = if options.writes { Phase::Write } else { Phase::Read };
    for target in &targets {
        say(progress, &target.describe());
        load(target, &settings, progress)?;
        phase.run(target, &settings, WARM_UP.min(settings.duration), None, 0)?;
    }
    let pauses = [None, Some(options.pause())];
    let setups = pauses.iter().flat_map(|&pause| {
        options.clients.iter().filter(|clients| **clients > 0).map(move |&clients| Clients { clients, pause })
    });
    let mut all: Vec<Measured> =
        setups.map(|setup| Measured { setup, samples: vec![Vec::new(); targets.len()] }).collect();
    for round in 0..options.rounds {
        for measured in &mut all {
            for turn in 0..targets.len() {
                let at = (turn + round) % targets.len();
                let setup = measured.setup;
                let sample = of_one(&targets[at], phase, setup, &settings, 1 + round as u64)?;
                say(progress, &format!("round {}: {}, {setup}: {sample}", round + 1, targets[at].label));
                measured.samples[at].push(sample);
            }
        }
    }
    Ok(render(&targets.iter().map(|target| target.label.as_str()).collect::<Vec<_>>(), &all)
        + &footer(&targets, phase, &settings))
}

fn of_one(
    target: &Target,
    phase: Phase,
    setup: Clients,
    settings: &Settings,
    seed: u64,
) -> Result<Sample, String> {
    let threads = settings.threads.min(setup.clients);
    let settings = Settings { connections: setup.clients, threads, pause: setup.pause, ..*settings };
    let run = phase.run(target, &settings, settings.duration, None, seed)?;
    Ok(Sample::of(&run))
}

impl Sample {
    fn of(run: &Run) -> Self {
        let latency_ns = run.totals.latency_ns();
        let percentile_us = |percent| latency_ns.percentile(percent) as f64 / 1000.0;
        Sample {
            p50_us: percentile_us(50.0),
            p99_us: percentile_us(99.0),
            p999_us: percentile_us(99.9),
            ops_per_second: run.ops_per_second(),
            cpu_us: run.server_cost().map(|cost| cost.cpu_us_per_op),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sample { p50_us, p99_us, p999_us, ops_per_second, cpu_us } = self;
        write!(
            f,
            "p50 {p50_us:.1} us, p99 {p99_us:.1} us, p99.9 {p999_us:.1} us, {ops_per_second:.0} per second"
        )?;
        cpu_us.map_or(Ok(()), |cpu_us| write!(f, ", server CPU {cpu_us:.2} us each"))
    }
}

/// The table. Below it are the figures in which the first server is behind another.
fn render(labels: &[&str], all: &[Measured]) -> String {
    let mut text = String::new();
    append_header(&mut text, labels);
    for Measured { setup, samples } in all {
        for (name, decimals, value) in FIGURES {
            append_values(&mut text, &format!("{setup}: {name}"), decimals, &values(samples, value));
        }
    }
    for (at, label) in labels.iter().enumerate().skip(1) {
        append_bars(&mut text, all, (at, label));
    }
    text
}

fn values(samples: &[Vec<Sample>], value: fn(&Sample) -> Option<f64>) -> Vec<Vec<f64>> {
    samples.iter().map(|of_server| of_server.iter().filter_map(value).collect()).collect()
}

fn append_bars(text: &mut String, all: &[Measured], (other, label): (usize, &str)) {
    let (mut count, mut missed) = (0, Vec::new());
    for Measured { setup, samples } in all {
        for (name, _, value) in FIGURES.into_iter().take(BARRED_FIGURES) {
            let values = values(samples, value);
            let (Some(own), Some(others)) = (median(values[0].clone()), median(values[other].clone())) else {
                continue;
            };
            count += 1;
            if own > others {
                missed.push(format!("{setup}: {name} {own:.1} against {others:.1}"));
            }
        }
    }
    let held = count - missed.len();
    let _ = writeln!(text, "\nBar, p50 and p99 not above those of {label}: held in {held} of {count} cases.");
    for case in missed {
        let _ = writeln!(text, "- not held: {case}");
    }
}

fn footer(targets: &[Target], phase: Phase, settings: &Settings) -> String {
    let mut text = format!(
        "\nEach request is a {} of one of {} records of one {}-byte value; {} client thread(s); median of {} rounds of \
         {:.1} s; ratio: {} to the server on its left.\n",
        phase.name(),
        settings.keys,
        settings.value_size,
        settings.threads,
        settings.rounds,
        settings.duration.as_secs_f64(),
        targets.first().map_or("", |target| &target.label)
    );
    for target in targets {
        let _ = writeln!(text, "- {}", target.describe());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(p50_us: f64, cpu_us: Option<f64>) -> Sample {
        Sample { p50_us, p99_us: 100.0, p999_us: 200.0, ops_per_second: 1e6 / p50_us, cpu_us }
    }

    #[test]
    fn the_table_has_a_line_for_each_figure_and_names_those_behind() {
        let pause = Some(Pause { mean: Duration::from_millis(1) });
        let all = [
            Measured {
                setup: Clients { clients: 1, pause: None },
                samples: vec![
                    vec![sample(10.0, Some(2.0)), sample(12.0, Some(2.0))],
                    vec![sample(20.0, None); 2],
                ],
            },
            Measured {
                setup: Clients { clients: 16, pause },
                samples: vec![vec![sample(40.0, None)], vec![sample(20.0, None)]],
            },
        ];
        let text = render(&["ours", "theirs"], &all);
        assert!(text.starts_with("| | ours | theirs | ratio |\n|---|---:|---:|---:|\n"), "{text}");
        for line in [
            "| 1 client without pauses: p50, µs | 11.0 | 20.0 | 0.55 |",
            "| 1 client without pauses: server CPU per request, µs | 2.00 | – | – |",
            "| 16 clients with pauses of 1000 µs: p99.9, µs | 200.0 | 200.0 | 1.00 |",
            "Bar, p50 and p99 not above those of theirs: held in 3 of 4 cases.",
            "- not held: 16 clients with pauses of 1000 µs: p50, µs 40.0 against 20.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!render(&["ours"], &all).contains("Bar"), "nothing to compare with");
    }
}
