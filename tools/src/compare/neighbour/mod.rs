//! The effect of a hostile client on ordinary clients: their latencies without it and beside it, and the
//! memory of an answer that the client does not read.
//!
//! The ordinary clients read and write small records, each with short pauses. Between two measurements a
//! server gets time to finish the work of hostile clients, so that each is measured separately. The table has
//! plain percentiles, in which a stall of a second counts as one long wait of each client, and the
//! percentiles of clients that send requests at a fixed rate, answered or not
//! ([`Snapshot::corrected`](crate::load::histogram::Snapshot::corrected)).

mod connection;
mod hostile;
mod table;
mod work;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cf::threads;

use self::connection::Connection;
use self::hostile::{Hostile, Tally};
use self::table::{Latencies, Measured};
use self::work::Work;
use super::options::NeighbourOptions;
use super::phase::{Phase, Settings};
use super::target::{Target, TargetKind};
use super::{WARM_UP, load, say};
use crate::{process, record::reply};

/// The name of the memory measurement among the hostile clients.
const UNREAD: &str = "unread batch";
/// Longest time for which the memory of an unread answer is observed.
const UNREAD_WATCH: Duration = Duration::from_secs(6);
const WATCH_INTERVAL: Duration = Duration::from_millis(10);
/// Time between the start of a hostile client and that of the ordinary clients.
const HEAD_START: Duration = Duration::from_millis(50);
/// Longest wait for a server to finish a hostile client's work.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(60);
/// A server is idle if it uses less processor time than this in one interval, in microseconds.
const IDLE_CPU_US: u64 = 50_000;
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Measures and returns the table.
///
/// # Errors
/// When the connection to a server is lost, or requests of ordinary clients fail while no hostile client
/// runs.
pub(super) fn measure(options: &NeighbourOptions, progress: &mut impl Write) -> Result<String, String> {
    let settings = options.settings();
    let mut targets = options.servers.targets()?;
    targets.retain(|target| !target.is_redis());
    if targets.iter().any(|target| !target.access.is_open()) {
        return Err("hostile clients neither log in nor speak TLS: name a clear port without access control"
            .to_owned());
    }
    let mut all = Vec::new();
    for target in &targets {
        say(progress, &target.describe());
        let work = prepare(target, options, &settings, progress)?;
        let unread_mib = if options.wants(UNREAD) { measure_unread(target, &work)? } else { None };
        if let Some(mib) = unread_mib {
            say(progress, &format!("{}: an unread batch takes {mib:.0} MiB", target.label));
        }
        all.push((work, Measured::new(&target.label, target.describe(), unread_mib)));
    }
    let hostile: Vec<Hostile> = Hostile::ALL.into_iter().filter(|one| options.wants(one.name())).collect();
    let neighbours: Vec<Option<Hostile>> =
        std::iter::once(None).chain(hostile.iter().copied().map(Some)).collect();
    for round in 0..options.rounds {
        for &neighbour in &neighbours {
            for turn in 0..targets.len() {
                let at = (turn + round) % targets.len();
                let (target, (work, measured)) = (&targets[at], &mut all[at]);
                let (latencies, tally) = beside(target, neighbour, work, &settings, 1 + round as u64)?;
                let who = neighbour.map_or("alone", Hostile::name);
                say(progress, &format!("round {}: {}, {who}: {latencies}", round + 1, target.label));
                measured.add(neighbour, latencies, tally);
                if neighbour.is_some() && !wait_until_idle(target) {
                    let seconds = IDLE_WAIT_MAX.as_secs();
                    measured.note(format!("{who}: {seconds} s later the server was still busy with it"));
                }
            }
        }
    }
    let all: Vec<Measured> = all.into_iter().map(|(_, measured)| measured).collect();
    Ok(table::render(&all, &hostile, &settings, &work_of(&targets, options)))
}

/// Writes the records of all clients.
fn prepare(
    target: &Target,
    options: &NeighbourOptions,
    settings: &Settings,
    progress: &mut impl Write,
) -> Result<Work, String> {
    load(target, &Settings { pause: None, timeout: None, ..*settings }, progress)?;
    let work = work_of(std::slice::from_ref(target), options);
    let stop = AtomicBool::new(false);
    let lost = |error: std::io::Error| format!("{}, while records are brought in: {error}", target.label);
    let mut connection = Connection::open(target.address, None, &stop).map_err(lost)?;
    let mut frame = Vec::new();
    for request in work.preparing_requests() {
        connection.send(&request).map_err(lost)?;
        connection.receive(&mut frame).map_err(lost)?;
        let reply = reply::parse(&frame)?.ok_or("an incomplete answer")?;
        if reply.code != 0 {
            let (label, size, text) = (&target.label, request.len(), reply::result_text(reply.code));
            return Err(format!(
                "{label}: a write of {size} bytes got result {}, {text}; is max-record-size 8M?",
                reply.code
            ));
        }
    }
    ordinary(target, &Settings { duration: WARM_UP.min(settings.duration), ..*settings }, 0)?;
    Ok(work)
}

/// The hostile work. All servers have the same namespace and set.
fn work_of(targets: &[Target], options: &NeighbourOptions) -> Work {
    let (namespace, set) = match targets.first().map(|target| &target.kind) {
        Some(TargetKind::Aerospike { namespace, set }) => (namespace.as_str(), set.as_str()),
        _ => ("", ""),
    };
    Work::new(namespace, set, options.scale)
}

/// The latencies of the ordinary clients beside `neighbour`.
fn beside(
    target: &Target,
    neighbour: Option<Hostile>,
    work: &Work,
    settings: &Settings,
    seed: u64,
) -> Result<(Latencies, Tally), String> {
    let Some(hostile) = neighbour else { return Ok((ordinary(target, settings, seed)?, Tally::default())) };
    let stop = Arc::new(AtomicBool::new(false));
    let (address, work, stopped) = (target.address, work.clone(), Arc::clone(&stop));
    let (sender, receiver) = std::sync::mpsc::channel();
    let body = move || drop(sender.send(hostile.run(address, &work, &stopped)));
    let handle =
        threads::spawn("hostile", body).map_err(|error| format!("cannot start a thread: {error}"))?;
    thread::sleep(HEAD_START.min(settings.duration));
    let latencies = ordinary(target, settings, seed);
    stop.store(true, Ordering::Relaxed);
    let ended = handle.join();
    let tally = receiver.recv().map_err(|_| format!("the client of {} panicked", hostile.name()))?;
    ended.map_err(|_| "a thread panicked".to_owned())?;
    Ok((latencies?, tally))
}

/// The latencies of the ordinary clients. A request without an answer counts with the time that it waited.
fn ordinary(target: &Target, settings: &Settings, seed: u64) -> Result<Latencies, String> {
    let run = Phase::Mixed.run_unchecked(target, settings, settings.duration, None, seed)?;
    if let Some(fault) = run.failure.or(run.first_fault) {
        return Err(format!("{}, ordinary clients: {fault}", target.label));
    }
    let mut latency_ns = run.totals.latency_ns();
    let timeout_ns = settings.timeout.map_or(0, |timeout| timeout.as_nanos() as u64);
    let timeouts = run.totals.failed();
    (0..timeouts).for_each(|_| latency_ns.record(timeout_ns));
    let interval = settings.pause.map_or(Duration::ZERO, |pause| pause.mean);
    Ok(Latencies::of(&latency_ns, interval).with_timeouts(timeouts))
}

/// The growth of the server's memory while its answer to a small batch stays unread, in MiB.
fn measure_unread(target: &Target, work: &Work) -> Result<Option<f64>, String> {
    let Some(pid) = target.pid else { return Ok(None) };
    let resident_kib =
        || process::usage(pid).map(|usage| usage.resident_kib).map_err(|error| error.to_string());
    let before_kib = resident_kib()?;
    let stop = Arc::new(AtomicBool::new(false));
    let (address, request, stopped) =
        (target.address, work.batch_request(work.unread_rows), Arc::clone(&stop));
    let body = move || drop(hostile::leave_unread(address, &request, &stopped));
    let handle = threads::spawn("unread", body).map_err(|error| format!("cannot start a thread: {error}"))?;
    let (start, mut most_kib, mut grew_at) = (Instant::now(), before_kib, Instant::now());
    // The loop ends once the memory has not grown for a third of the time.
    while start.elapsed() < UNREAD_WATCH && grew_at.elapsed() < UNREAD_WATCH / 3 {
        thread::sleep(WATCH_INTERVAL);
        let now_kib = resident_kib()?;
        if now_kib > most_kib {
            (most_kib, grew_at) = (now_kib, Instant::now());
        }
    }
    stop.store(true, Ordering::Relaxed);
    handle.join().map_err(|_| "a thread panicked".to_owned())?;
    wait_until_idle(target);
    Ok(Some((most_kib - before_kib) as f64 / 1024.0))
}

/// Waits until the server is idle. Returns `false` if it does not become idle in time.
fn wait_until_idle(target: &Target) -> bool {
    let Some(pid) = target.pid else {
        thread::sleep(IDLE_POLL_INTERVAL);
        return true;
    };
    let start = Instant::now();
    let cpu_us = || process::usage(pid).map_or(0, |usage| usage.cpu_us);
    let mut before_us = cpu_us();
    while start.elapsed() < IDLE_WAIT_MAX {
        thread::sleep(IDLE_POLL_INTERVAL);
        let now_us = cpu_us();
        if now_us.saturating_sub(before_us) < IDLE_CPU_US {
            return true;
        }
        before_us = now_us;
    }
    false
}
