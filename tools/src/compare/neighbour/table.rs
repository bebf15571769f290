//! Measurements beside hostile clients, as a Markdown table with the bars below it.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::super::phase::Settings;
use super::super::table::{append_header, append_values, median};
use super::hostile::{Hostile, Tally};
use super::work::Work;
use crate::load::histogram::Snapshot;
use crate::record::reply;

/// Largest growth of p99.9 beside a hostile client, in milliseconds.
const GROWTH_MS_MAX: f64 = 5.0;
/// Largest memory of an unread answer, in MiB.
const UNREAD_MIB_MAX: f64 = 150.0;

/// Latencies of the ordinary clients in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Latencies {
    p50: f64,
    p99: f64,
    p999: f64,
    /// p99.9 of clients that send requests at a fixed rate, answered or not.
    corrected_p999: f64,
    longest: f64,
    /// Requests that were not answered in time. They count with the time that they waited.
    timeouts: u64,
}

impl Latencies {
    /// Makes these from the latencies of clients that send a request every `interval`.
    pub(super) fn of(latency_ns: &Snapshot, interval: Duration) -> Self {
        let ms = |ns: u64| ns as f64 / 1e6;
        let corrected = latency_ns.corrected(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX));
        Latencies {
            p50: ms(latency_ns.percentile(50.0)),
            p99: ms(latency_ns.percentile(99.0)),
            p999: ms(latency_ns.percentile(99.9)),
            corrected_p999: ms(corrected.percentile(99.9)),
            longest: ms(latency_ns.max()),
            timeouts: 0,
        }
    }

    /// The same latencies with this number of timeouts.
    pub(super) fn with_timeouts(self, timeouts: u64) -> Self {
        Latencies { timeouts, ..self }
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latencies { p50, p99, p999, corrected_p999, longest, timeouts } = self;
        write!(
            f,
            "p50 {p50:.3} ms, p99 {p99:.3} ms, p99.9 {p999:.3} ms ({corrected_p999:.3} ms corrected), \
             longest {longest:.3} ms, {timeouts} without an answer"
        )
    }
}

/// A row of the table: its name and value.
type Figure = (&'static str, fn(&Latencies) -> f64);

const P999: Figure = ("p99.9, ms", |latencies| latencies.p999);
const FIGURES: [Figure; 5] = [
    ("p50, ms", |latencies| latencies.p50),
    ("p99, ms", |latencies| latencies.p99),
    P999,
    ("p99.9 corrected, ms", |latencies| latencies.corrected_p999),
    ("longest, ms", |latencies| latencies.longest),
];

/// The measurements of one server.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    label: String,
    about: String,
    unread_mib: Option<f64>,
    /// The latencies for each hostile client, in the order of the rounds; `None` is no hostile client.
    samples: Vec<(Option<Hostile>, Latencies)>,
    notes: Vec<String>,
}

impl Measured {
    pub(super) fn new(label: &str, about: String, unread_mib: Option<f64>) -> Self {
        Measured { label: label.to_owned(), about, unread_mib, samples: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn add(&mut self, neighbour: Option<Hostile>, latencies: Latencies, tally: Tally) {
        self.samples.push((neighbour, latencies));
        let name = neighbour.map_or("alone", Hostile::name);
        if latencies.timeouts > 0 {
            self.note(format!(
                "{name}: {} requests of ordinary clients got no answer in time",
                latencies.timeouts
            ));
        }
        if neighbour.is_none() {
            return;
        }
        if tally.requests == 0 {
            self.note(format!("{name}: no request was answered in time"));
        }
        if let Some(code) = tally.refusal {
            self.note(format!("{name}: answered with result {code}, {}", reply::result_text(code)));
        }
        if let Some(why) = tally.broken {
            self.note(format!("{name}: connection lost: {why}"));
        }
    }

    /// Adds a line below the table, unless the line is there already.
    pub(super) fn note(&mut self, line: String) {
        if !self.notes.contains(&line) {
            self.notes.push(line);
        }
    }

    fn values(&self, neighbour: Option<Hostile>, figure: Figure) -> Vec<f64> {
        let of = self.samples.iter().filter(|(beside, _)| *beside == neighbour);
        of.map(|(_, latencies)| figure.1(latencies)).collect()
    }

    /// The growth of `figure` beside `hostile`, by round.
    fn growth(&self, hostile: Hostile, figure: Figure) -> Vec<f64> {
        let (alone, beside) = (self.values(None, figure), self.values(Some(hostile), figure));
        beside.iter().zip(alone).map(|(beside, alone)| beside - alone).collect()
    }
}

/// The table with a column for each server. Below it are the bars and the results of the hostile clients.
pub(super) fn render(all: &[Measured], hostile: &[Hostile], settings: &Settings, work: &Work) -> String {
    let mut text = String::new();
    append_header(&mut text, &all.iter().map(|measured| measured.label.as_str()).collect::<Vec<_>>());
    let neighbours = std::iter::once(None).chain(hostile.iter().copied().map(Some));
    for neighbour in neighbours {
        let beside = neighbour.map_or("alone".to_owned(), |hostile| format!("beside {}", hostile.name()));
        for figure in FIGURES {
            let values: Vec<_> = all.iter().map(|measured| measured.values(neighbour, figure)).collect();
            append_values(&mut text, &format!("{beside}: {}", figure.0), 3, &values);
        }
        if let Some(hostile) = neighbour {
            let growth: Vec<_> = all.iter().map(|measured| measured.growth(hostile, P999)).collect();
            append_values(&mut text, &format!("{beside}: p99.9 grows by, ms"), 3, &growth);
        }
    }
    let unread: Vec<_> = all.iter().map(|measured| measured.unread_mib.into_iter().collect()).collect();
    append_values(&mut text, "unread batch: memory grows by, MiB", 0, &unread);
    for measured in all {
        append_bars(&mut text, measured, hostile);
    }
    let _ = writeln!(
        text,
        "\n{} ordinary clients with pauses of {} µs read and write {} records of one {}-byte value; median of {} rounds \
         of {:.1} s; ratio: {} to the server on its left.",
        settings.connections,
        settings.pause.map_or(0, |pause| pause.mean.as_micros()),
        settings.keys,
        settings.value_size,
        settings.rounds,
        settings.duration.as_secs_f64(),
        all.first().map_or("", |measured| &measured.label)
    );
    for hostile in hostile {
        let _ = writeln!(text, "- {}: {}", hostile.name(), hostile.describe(work));
    }
    for measured in all {
        let _ = writeln!(text, "- {}", measured.about);
        for note in &measured.notes {
            let _ = writeln!(text, "- {}: {note}", measured.label);
        }
    }
    text
}

fn append_bars(text: &mut String, measured: &Measured, hostile: &[Hostile]) {
    let _ = writeln!(text, "\nBars, {}:", measured.label);
    let mut line = |what: String, value: f64, max: f64, unit: &str| {
        let verdict = if value <= max { "held" } else { "not held" };
        let _ = writeln!(text, "- {what} {value:.1} {unit}, at most {max:.0}: {verdict}");
    };
    for &hostile in hostile.iter().filter(|hostile| !hostile.is_control()) {
        if let Some(growth_ms) = median(measured.growth(hostile, P999)) {
            line(format!("beside {}: p99.9 grows by", hostile.name()), growth_ms, GROWTH_MS_MAX, "ms");
        }
    }
    if let Some(mib) = measured.unread_mib {
        line("unread batch: memory grows by".to_owned(), mib, UNREAD_MIB_MAX, "MiB");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Pause;
    use crate::load::histogram::Histogram;

    fn latencies(p999: f64) -> Latencies {
        Latencies { p50: 0.1, p99: 1.0, p999, corrected_p999: 2.0 * p999, longest: 90.0, timeouts: 2 }
    }

    #[test]
    fn a_stall_shows_in_the_corrected_percentile() {
        let histogram = Histogram::default();
        (0..9999).for_each(|_| histogram.record(100_000));
        histogram.record(500_000_000);
        let mut snapshot = Snapshot::default();
        snapshot.add(&histogram);
        let found = Latencies::of(&snapshot, Duration::from_millis(1));
        assert!((found.p999 - 0.1).abs() < 0.001 && (found.longest - 500.0).abs() < 0.001, "{found}");
        assert!(found.corrected_p999 > 450.0, "{found}");
    }

    #[test]
    fn the_table_shows_the_growth_and_the_bars() {
        let mut ours = Measured::new("ours", "ours: build 1".into(), Some(151.0));
        let mut theirs = Measured::new("theirs", "theirs: build 2".into(), None);
        for (measured, beside) in [(&mut ours, 3.0), (&mut theirs, 12.0)] {
            measured.add(None, latencies(2.0), Tally::default());
            let tally = Tally { requests: 1, refusal: Some(9), broken: None };
            measured.add(Some(Hostile::Scan), latencies(beside), tally);
        }
        let settings = Settings {
            keys: 10,
            value_size: 100,
            connections: 16,
            pipeline: 1,
            threads: 1,
            pause: Some(Pause { mean: Duration::from_millis(1) }),
            timeout: None,
            duration: Duration::from_secs(1),
            rounds: 1,
        };
        let text = render(&[ours, theirs], &[Hostile::Scan], &settings, &Work::new("test", "s", 1.0));
        for line in [
            "| | ours | theirs | ratio |",
            "| alone: p99.9, ms | 2.000 | 2.000 | 1.00 |",
            "| beside scan: p99.9, ms | 3.000 | 12.000 | 0.25 |",
            "| beside scan: p99.9 grows by, ms | 1.000 | 10.000 | 0.10 |",
            "| unread batch: memory grows by, MiB | 151 | – | – |",
            "- beside scan: p99.9 grows by 1.0 ms, at most 5: held",
            "- beside scan: p99.9 grows by 10.0 ms, at most 5: not held",
            "- unread batch: memory grows by 151.0 MiB, at most 150: not held",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("- ours: scan: answered with result 9"), "{text}");
        assert!(
            text.contains("- ours: alone: 2 requests of ordinary clients got no answer in time"),
            "{text}"
        );
    }
}
