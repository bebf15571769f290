//! The output of a load run: progress lines, and the summary as text or JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::load::counters::{KindTotals, Totals};
use crate::load::histogram::Snapshot;
use crate::load::{Kind, Progress, Run};
use crate::record::reply::result_text;
use crate::wall_clock::Moment;

/// Percentiles of summaries, and the default of periodic latency lines.
pub const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// The progress line, in the format of the official tool: rates since the previous line, for the kinds of
/// request that occur.
#[must_use]
pub fn progress_line(progress: &Progress, before: &Totals) -> String {
    let seconds = progress.interval.as_secs_f64().max(1e-9);
    let rate = |count: u64| (count as f64 / seconds).round() as u64;
    let mut line = format!("{} INFO ", Moment::now());
    let mut sum = (0, 0, 0, 0);
    for kind in Kind::ALL {
        let (now, then) = (progress.totals.of(kind), before.of(kind));
        if now.ended() == 0 {
            continue;
        }
        let (hits, misses) = (rate(now.hits - then.hits), rate(now.misses - then.misses));
        let timeouts = now.timeouts - then.timeouts;
        let errors = now.errors + now.wrong - then.errors - then.wrong;
        append_rates(&mut line, kind.name(), (hits, misses, timeouts, errors));
        line.push(' ');
        sum = (sum.0 + hits, sum.1 + misses, sum.2 + timeouts, sum.3 + errors);
    }
    append_rates(&mut line, "total", sum);
    line
}

fn append_rates(line: &mut String, name: &str, (hits, misses, timeouts, errors): (u64, u64, u64, u64)) {
    let tps = hits + misses;
    let _ = write!(line, "{name}(tps={tps} (hit={hits} miss={misses}) timeouts={timeouts} errors={errors})");
}

/// The latency lines, in the format of the official tool's `-L`, one for each kind of request: name, time,
/// seconds of the run, number of requests, and then min, max and `percentiles` in microseconds.
#[must_use]
pub fn latency_lines(progress: &Progress, percentiles: &[f64]) -> Vec<String> {
    Kind::ALL
        .into_iter()
        .filter_map(|kind| {
            let latency = &progress.totals.of(kind).latency_ns;
            if latency.count() == 0 {
                return None;
            }
            let mut line = format!(
                "hdr: {:<5} {}, {}, {}, {}, {}",
                kind.name(),
                Moment::now(),
                progress.elapsed.as_secs(),
                latency.count(),
                latency.min() / 1000,
                latency.max() / 1000
            );
            for percentile in percentiles {
                let _ = write!(line, ", {}", latency.percentile(*percentile) / 1000);
            }
            Some(line)
        })
        .collect()
}

/// Processor time and memory of a server during a run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ServerCost {
    /// Processor time per successful request, in microseconds.
    pub cpu_us_per_op: f64,
    /// Processor use of the server, in percent of one processor.
    pub cpu_pct: f64,
    /// Resident memory before the run, in KiB.
    pub resident_before_kib: u64,
    /// Resident memory after the run, in KiB.
    pub resident_after_kib: u64,
}

impl Run {
    /// Successful requests per second.
    #[must_use]
    pub fn ops_per_second(&self) -> f64 {
        self.totals.done() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The cost of the run for the server, if its process is known and any request was successful.
    #[must_use]
    pub fn server_cost(&self) -> Option<ServerCost> {
        let (before, after) = self.server.filter(|_| self.totals.done() > 0)?;
        let cpu_us = after.cpu_us.saturating_sub(before.cpu_us) as f64;
        Some(ServerCost {
            cpu_us_per_op: cpu_us / self.totals.done() as f64,
            cpu_pct: cpu_us / self.elapsed.as_micros().max(1) as f64 * 100.0,
            resident_before_kib: before.resident_kib,
            resident_after_kib: after.resident_kib,
        })
    }

    /// Processor use of this program, in percent of one processor. A use near 100 for each thread means that
    /// this program, and not the server, was the limit.
    #[must_use]
    pub fn client_cpu_pct(&self) -> f64 {
        let cpu_us = self.client.1.cpu_us.saturating_sub(self.client.0.cpu_us);
        cpu_us as f64 / self.elapsed.as_micros().max(1) as f64 * 100.0
    }

    /// Whether all requests were successful.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failure.is_none() && self.totals.failed() == 0
    }
}

/// The summary as text.
#[must_use]
pub fn summary(run: &Run) -> String {
    let mut text = String::new();
    let seconds = run.elapsed.as_secs_f64();
    let _ = writeln!(
        text,
        "{} requests in {seconds:.2} s: {:.0} per second (client CPU {:.0} %)",
        run.totals.done(),
        run.ops_per_second(),
        run.client_cpu_pct()
    );
    for kind in Kind::ALL {
        let totals = run.totals.of(kind);
        if totals.ended() > 0 {
            append_kind(&mut text, kind, totals, seconds);
        }
    }
    let refused = run.totals.codes.iter().enumerate().filter(|(code, count)| **count > 0 && *code != 0);
    for (code, count) in refused {
        let _ = writeln!(text, "result {code:<3} {count} ({})", result_text(code as u8));
    }
    if let Some(cost) = run.server_cost() {
        let _ = writeln!(
            text,
            "server     CPU {:.2} us per request ({:.0} %), resident {} MiB before, {} MiB after",
            cost.cpu_us_per_op,
            cost.cpu_pct,
            cost.resident_before_kib / 1024,
            cost.resident_after_kib / 1024
        );
    }
    text
}

fn append_kind(text: &mut String, kind: Kind, totals: &KindTotals, seconds: f64) {
    let latency = &totals.latency_ns;
    let us = |ns: u64| ns as f64 / 1000.0;
    let _ = writeln!(
        text,
        "{:<10} {} ({:.0} per second), hits {}, misses {}, timeouts {}, errors {}, wrong answers {}",
        kind.name(),
        totals.done(),
        totals.done() as f64 / seconds.max(1e-9),
        totals.hits,
        totals.misses,
        totals.timeouts,
        totals.errors,
        totals.wrong
    );
    if latency.count() == 0 {
        return;
    }
    let _ = write!(text, "  latency  us: min {:.1}, mean {:.1}", us(latency.min()), latency.mean() / 1000.0);
    for percentile in PERCENTILES {
        let _ = write!(text, ", p{percentile} {:.1}", us(latency.percentile(percentile)));
    }
    let _ = writeln!(text, ", max {:.1}", us(latency.max()));
}

/// The summary as JSON. Latencies are in microseconds.
#[must_use]
pub fn summary_json(run: &Run) -> Value {
    let seconds = run.elapsed.as_secs_f64();
    let mut object = json!({
        "elapsed_s": seconds,
        "requests": run.totals.requests,
        "done": run.totals.done(),
        "ops_per_second": run.ops_per_second(),
        "failed": run.totals.failed(),
        "client_cpu_pct": run.client_cpu_pct(),
        "failure": run.failure,
        "first_fault": run.first_fault,
    });
    for kind in Kind::ALL {
        let totals = run.totals.of(kind);
        if totals.ended() > 0 {
            object[kind.name()] = json!({
                "done": totals.done(),
                "ops_per_second": totals.done() as f64 / seconds.max(1e-9),
                "hits": totals.hits,
                "misses": totals.misses,
                "timeouts": totals.timeouts,
                "errors": totals.errors,
                "wrong": totals.wrong,
                "latency_us": latency_json(&totals.latency_ns),
            });
        }
    }
    let codes = run.totals.codes.iter().enumerate().filter(|(_, count)| **count > 0);
    object["result_codes"] = codes.map(|(code, count)| (code.to_string(), json!(count))).collect();
    if let Some(cost) = run.server_cost() {
        object["server"] = json!({
            "cpu_us_per_op": cost.cpu_us_per_op,
            "cpu_pct": cost.cpu_pct,
            "resident_before_kib": cost.resident_before_kib,
            "resident_after_kib": cost.resident_after_kib,
        });
    }
    object
}

fn latency_json(latency: &Snapshot) -> Value {
    let us = |ns: u64| ns as f64 / 1000.0;
    let mut object = json!({
        "min": us(latency.min()),
        "mean": latency.mean() / 1000.0,
        "max": us(latency.max()),
    });
    for percentile in PERCENTILES {
        object[format!("p{percentile}")] = json!(us(latency.percentile(percentile)));
    }
    object
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Outcome;
    use crate::load::counters::ThreadCounters;
    use crate::process::Usage;

    fn totals() -> Totals {
        let counters = ThreadCounters::default();
        for _ in 0..3 {
            counters.replied(Kind::Read, Outcome::Hit, 0, 50_000);
        }
        counters.replied(Kind::Read, Outcome::Miss, 2, 150_000);
        counters.replied(Kind::Write, Outcome::Error, 8, 1);
        Totals::sum([&counters].into_iter())
    }

    fn run() -> Run {
        let usage = |cpu_us, resident_kib| Usage { cpu_us, resident_kib };
        Run {
            totals: totals(),
            elapsed: Duration::from_secs(2),
            server: Some((usage(100, 1024), usage(140, 4096))),
            client: (usage(0, 0), usage(1_000_000, 0)),
            failure: None,
            first_fault: Some("a write got result 8".to_owned()),
        }
    }

    #[test]
    fn progress_covers_the_time_since_the_last_report() {
        let progress =
            Progress { elapsed: Duration::from_secs(9), interval: Duration::from_secs(2), totals: totals() };
        let line = progress_line(&progress, &Totals::sum(std::iter::empty()));
        let (_, rates) = line.split_once(" INFO ").unwrap();
        assert_eq!(
            rates,
            "write(tps=0 (hit=0 miss=0) timeouts=0 errors=1) read(tps=3 (hit=2 miss=1) timeouts=0 errors=0) \
             total(tps=3 (hit=2 miss=1) timeouts=0 errors=1)"
        );
        assert!(progress_line(&progress, &totals()).contains("read(tps=0 (hit=0 miss=0)"));
        let latency = latency_lines(&progress, &[50.0]);
        assert_eq!(latency.len(), 1);
        assert!(latency[0].starts_with("hdr: read  ") && latency[0].ends_with(", 9, 4, 50, 150, 50"));
    }

    #[test]
    fn the_summary_has_rates_codes_and_cost() {
        let text = summary(&run());
        for part in [
            "4 requests in 2.00 s: 2 per second (client CPU 50 %)",
            "hits 3, misses 1",
            "result 8   1 (out of space",
            "CPU 10.00 us per request",
            "1 MiB before, 4 MiB after",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn json_has_the_same_figures() {
        let object = summary_json(&run());
        assert_eq!(object["read"]["hits"], 3);
        assert_eq!(object["result_codes"], json!({"0": 3, "2": 1, "8": 1}));
        assert_eq!(object["server"]["cpu_us_per_op"], 10.0);
        assert_eq!(object["read"]["latency_us"]["max"], 150.0);
        assert_eq!(object["failed"], 1);
        assert!(object.get("udf").is_none());
    }
}
