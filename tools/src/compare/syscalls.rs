//! System calls per request, counted by `strace -c`.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::phase::{Phase, Settings};
use super::target::Target;

/// Number of counted requests.
const REQUESTS: u64 = 20_000;

/// Time for strace to attach to all threads.
const ATTACH_TIME: Duration = Duration::from_secs(1);

/// A line for reads and one for writes. Each has the calls per request by name, if there is more than one in
/// a hundred requests.
///
/// # Errors
/// When strace cannot trace the server.
pub(super) fn measure(target: &Target, settings: &Settings) -> Result<Vec<String>, String> {
    let Some(pid) = target.pid else { return Ok(Vec::new()) };
    [Phase::Read, Phase::Write]
        .into_iter()
        .map(|phase| {
            let mut tracer = start(pid)?;
            let run = phase.run(target, settings, Duration::from_secs(600), Some(REQUESTS), 1);
            let table = stop(&mut tracer);
            let done = run?.totals.done();
            Ok(format!("system calls per {}: {}", phase.name(), per_request(&table?, done)))
        })
        .collect()
}

fn start(pid: u32) -> Result<Child, String> {
    let mut tracer = Command::new("strace")
        .args(["-f", "-c", "-U", "calls,name", "-p", &pid.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run strace: {error}"))?;
    std::thread::sleep(ATTACH_TIME);
    match tracer.try_wait() {
        Ok(None) => Ok(tracer),
        _ => Err(format!("strace cannot trace process {pid}")),
    }
}

/// Interrupts strace. It then detaches and prints its table.
fn stop(tracer: &mut Child) -> Result<String, String> {
    let pid = Pid::from_raw(tracer.id().cast_signed());
    kill(pid, Signal::SIGINT).map_err(|error| format!("cannot stop strace: {error}"))?;
    let mut table = String::new();
    if let Some(mut stderr) = tracer.stderr.take() {
        std::io::Read::read_to_string(&mut stderr, &mut table).map_err(|error| format!("strace: {error}"))?;
    }
    tracer.wait().map_err(|error| format!("strace: {error}"))?;
    Ok(table)
}

/// The counts in a table of strace, divided by `done`. The largest comes first.
fn per_request(table: &str, done: u64) -> String {
    let mut counts: Vec<(f64, &str)> = table
        .lines()
        .filter_map(|line| {
            let (count, name) = line.trim().split_once(char::is_whitespace)?;
            let count: u64 = count.parse().ok()?;
            Some((count as f64 / done.max(1) as f64, name.trim()))
        })
        .filter(|(count, name)| *count >= 0.01 && *name != "total")
        .collect();
    counts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let sum = counts.iter().fold(0.0, |sum, (count, _)| sum + count);
    let parts: Vec<String> = counts.iter().map(|(count, name)| format!("{name} {count:.2}")).collect();
    format!("{sum:.2} ({})", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_divided_and_sorted() {
        let table = "strace: Process 1 attached\n    calls syscall\n--------- ----------------\n      900 epoll_wait\n\
            \x20    2000 recvfrom\n        3 futex\n--------- ----------------\n     2903 total\n";
        assert_eq!(per_request(table, 1000), "2.90 (recvfrom 2.00, epoll_wait 0.90)");
        assert_eq!(per_request("", 0), "0.00 ()");
    }
}
