//! Redis measured by its own benchmark.

use std::process::Command;

use super::phase::Settings;
use super::target::Target;
use crate::process;

/// Number of requests of one measurement.
const REQUESTS: u64 = 3_000_000;

/// Runs pipelined GETs with `redis-benchmark`. Returns a line with requests per second and server CPU for
/// each.
///
/// # Errors
/// When it is not installed or its output is unexpected.
pub(super) fn measure(target: &Target, settings: &Settings) -> Result<String, String> {
    let usage = || target.pid.and_then(|pid| process::usage(pid).ok());
    let before = usage();
    let output = Command::new("redis-benchmark")
        .args(["-h", &target.host.name, "-p", &target.host.port.to_string()])
        .args(["-t", "get", "--csv", "-n", &REQUESTS.to_string(), "-r", &settings.keys.to_string()])
        .args(["-d", &settings.value_size.to_string(), "-c", &settings.connections.to_string()])
        .args(["-P", &settings.pipeline.to_string()])
        .output()
        .map_err(|error| format!("cannot run redis-benchmark: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let per_second =
        requests_per_second(&text).ok_or_else(|| format!("redis-benchmark gave no rate of GET: {text}"))?;
    let mut line = format!("redis-benchmark, pipelined GET: {per_second:.0} per second");
    if let Some((before, after)) = before.zip(usage()) {
        let cpu_us = (after.cpu_us - before.cpu_us) as f64 / REQUESTS as f64;
        line.push_str(&format!(", server CPU {cpu_us:.2} us each"));
    }
    Ok(line)
}

/// The rate in a line like `"GET","784313.75",…`.
fn requests_per_second(csv: &str) -> Option<f64> {
    let line = csv.lines().find(|line| line.starts_with("\"GET\""))?;
    line.split(',').nth(1)?.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"GET\",\"784313.75\",\"0.2\"\n";
        assert_eq!(requests_per_second(csv), Some(784_313.75));
        assert_eq!(requests_per_second("Could not connect"), None);
    }
}
