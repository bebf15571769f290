//! The result of a comparison as a Markdown table.

use std::fmt::Write as _;

use super::phase::{Phase, Sample, Settings};

/// The measurements of one server.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) label: String,
    /// A line about the server.
    pub(super) about: String,
    /// Samples in the order of the measurements, so the rounds of a phase are in order.
    pub(super) samples: Vec<(Phase, Sample)>,
    pub(super) memory: Option<Memory>,
    /// Lines below the table.
    pub(super) notes: Vec<String>,
}

/// Resident memory before and after the load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) before_kib: u64,
    pub(super) after_kib: u64,
    pub(super) records: u64,
    /// Whether there were no records before. Otherwise the difference is meaningless.
    pub(super) was_empty: bool,
}

impl Memory {
    fn bytes_per_record(&self) -> Option<f64> {
        let grown_kib = self.after_kib.saturating_sub(self.before_kib);
        self.was_empty.then_some(grown_kib as f64 * 1024.0 / self.records as f64)
    }
}

/// A row: its name, the format of its numbers, and the values of one column by round.
struct Row {
    name: String,
    decimals: usize,
    values: fn(&Column, Phase) -> Vec<f64>,
    phase: Phase,
}

/// The table with a column for each server. Each server except the first also has a column for the ratio of
/// the first to it.
pub(super) fn render(columns: &[Column], phases: &[Phase], settings: &Settings) -> String {
    let mut text = String::new();
    append_header(&mut text, &columns.iter().map(|column| column.label.as_str()).collect::<Vec<_>>());
    for row in rows(phases, settings) {
        append_row(&mut text, &row, columns);
    }
    let _ = writeln!(
        text,
        "\n{} records of one {}-byte value; {} client thread(s); median of {} rounds of {:.1} s; ratio: {} to the \
         server on its left.",
        settings.keys,
        settings.value_size,
        settings.threads,
        settings.rounds,
        settings.duration.as_secs_f64(),
        columns.first().map_or("", |column| &column.label)
    );
    for column in columns {
        let _ = writeln!(text, "- {}", column.about);
        for note in &column.notes {
            let _ = writeln!(text, "- {}: {note}", column.label);
        }
    }
    text
}

fn rows(phases: &[Phase], settings: &Settings) -> Vec<Row> {
    let mut rows = Vec::new();
    for &phase in phases {
        let concurrency = if phase.is_pipelined() {
            format!("{} connections × {} deep", settings.connections, settings.pipeline)
        } else {
            format!("{} connections", settings.connections)
        };
        let name = |what: &str| format!("{}, {concurrency}: {what}", phase.name());
        rows.push(Row { name: name("server CPU per request, µs"), decimals: 2, values: cpu_us, phase });
        rows.push(Row { name: name("requests per second"), decimals: 0, values: ops_per_second, phase });
        rows.push(Row { name: name("p99 latency, µs"), decimals: 0, values: p99_us, phase });
    }
    let phase = Phase::Load;
    let concurrency = format!("{} connections × {} deep", settings.connections, settings.pipeline);
    let name = |what: &str| format!("load, {concurrency}: {what}");
    rows.push(Row { name: name("server CPU per request, µs"), decimals: 2, values: cpu_us, phase });
    rows.push(Row { name: name("requests per second"), decimals: 0, values: ops_per_second, phase });
    let name = "resident memory per record, bytes".to_owned();
    rows.push(Row { name, decimals: 0, values: bytes_per_record, phase });
    let name = "resident memory with all records, MiB".to_owned();
    rows.push(Row { name, decimals: 0, values: resident_mib, phase });
    rows
}

fn append_row(text: &mut String, row: &Row, columns: &[Column]) {
    let values: Vec<Vec<f64>> = columns.iter().map(|column| (row.values)(column, row.phase)).collect();
    append_values(text, &row.name, row.decimals, &values);
}

/// The head of a table with a column for each of `labels`, and a ratio column for each except the first.
pub(super) fn append_header(text: &mut String, labels: &[&str]) {
    text.push_str("| |");
    for (at, label) in labels.iter().enumerate() {
        let _ = write!(text, " {label} |");
        if at > 0 {
            text.push_str(" ratio |");
        }
    }
    text.push_str("\n|---|");
    for at in 0..labels.len() {
        text.push_str(if at == 0 { "---:|" } else { "---:|---:|" });
    }
    text.push('\n');
}

/// A row: the median over the rounds for each server, and the median of the ratios to the first within a
/// round.
pub(super) fn append_values(text: &mut String, name: &str, decimals: usize, values: &[Vec<f64>]) {
    let _ = write!(text, "| {name} |");
    for (at, of_column) in values.iter().enumerate() {
        append_cell(text, median(of_column.clone()), decimals);
        if at > 0 {
            let ratios = values[0].iter().zip(of_column).map(|(first, other)| first / other);
            append_cell(text, median(ratios.filter(|ratio| ratio.is_finite()).collect()), 2);
        }
    }
    text.push('\n');
}

fn append_cell(text: &mut String, value: Option<f64>, decimals: usize) {
    match value {
        Some(value) => {
            let _ = write!(text, " {value:.decimals$} |");
        }
        None => text.push_str(" – |"),
    }
}

fn of_phase(column: &Column, phase: Phase) -> impl Iterator<Item = &Sample> {
    column.samples.iter().filter(move |(of, _)| *of == phase).map(|(_, sample)| sample)
}

fn cpu_us(column: &Column, phase: Phase) -> Vec<f64> {
    of_phase(column, phase).filter_map(|sample| sample.cpu_us).collect()
}

fn ops_per_second(column: &Column, phase: Phase) -> Vec<f64> {
    of_phase(column, phase).map(|sample| sample.ops_per_second).collect()
}

fn p99_us(column: &Column, phase: Phase) -> Vec<f64> {
    of_phase(column, phase).map(|sample| sample.p99_us).collect()
}

fn bytes_per_record(column: &Column, _: Phase) -> Vec<f64> {
    column.memory.iter().filter_map(Memory::bytes_per_record).collect()
}

fn resident_mib(column: &Column, _: Phase) -> Vec<f64> {
    column.memory.iter().map(|memory| memory.after_kib as f64 / 1024.0).collect()
}

/// The middle of `values`, or the mean of the two values in the middle.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some(f64::midpoint(values[middle - 1], upper)) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn column(label: &str, cpu_us: &[f64], memory: Option<Memory>) -> Column {
        let sample = |cpu_us: &f64| {
            let sample = Sample {
                ops_per_second: 1e6 / cpu_us,
                cpu_us: Some(*cpu_us),
                p99_us: 7.0,
                client_cpu_pct: 1.0,
            };
            (Phase::Read, sample)
        };
        Column {
            label: label.to_owned(),
            about: format!("{label}: build 1"),
            samples: cpu_us.iter().map(sample).collect(),
            memory,
            notes: vec!["a note".to_owned()],
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn the_table_has_medians_and_ratios_within_rounds() {
        let settings = Settings {
            keys: 1024,
            value_size: 100,
            connections: 16,
            pipeline: 8,
            threads: 1,
            pause: None,
            timeout: None,
            duration: Duration::from_secs(5),
            rounds: 3,
        };
        let memory =
            |after_kib, was_empty| Some(Memory { before_kib: 100, after_kib, records: 1024, was_empty });
        let ours = column("ours", &[1.0, 2.0, 40.0], memory(164, true));
        let theirs = column("theirs", &[2.0, 8.0, 80.0], memory(228, false));
        let text = render(&[ours, theirs], &Phase::TIMED, &settings);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("| | ours | theirs | ratio |"));
        assert_eq!(lines.next(), Some("|---|---:|---:|---:|"));
        assert_eq!(
            lines.next(),
            Some("| read, 16 connections: server CPU per request, µs | 2.00 | 8.00 | 0.50 |")
        );
        assert!(text.contains("| write, 16 connections: p99 latency, µs | – | – | – |"));
        assert!(text.contains("× 8 deep"));
        assert!(text.contains("| resident memory per record, bytes | 64 | – | – |"));
        assert!(text.contains("- theirs: a note"));
    }
}
