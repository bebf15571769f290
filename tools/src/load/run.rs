//! A whole run: connects, starts the threads, reports progress, and collects the measurements.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cf::clock::monotonic_nanos;
use cf::sys::facts;
use cf::threads;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::counters::{ThreadCounters, Totals};
use super::pause::Pause;
use super::protocol::{KIND_COUNT, Protocol};
use super::worker::{Task, Worker};
use crate::link::{Access, Link};
use crate::process::{self, Usage};

/// Number of file descriptors besides those of connections; it is generous.
const OTHER_DESCRIPTORS: u64 = 64;

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The address of the server.
    pub address: SocketAddr,
    /// The access data for each connection.
    pub access: Access,
    /// Connections over all threads, at least 1.
    pub connections: usize,
    /// Requests in flight on each connection, at least 1.
    pub pipeline: usize,
    /// Time for which new requests are started; `None` means until the protocol has no more.
    pub duration: Option<Duration>,
    /// Maximum number of requests of all threads.
    pub requests_max: Option<u64>,
    /// Requests per second of all threads.
    pub rate: Option<u64>,
    /// Pause of each connection between an answer and its next request, for one request in flight.
    pub pause: Option<Pause>,
    /// Longest wait for the server to accept a connection.
    pub connect_timeout: Duration,
    /// Time without any reply after which the run ends with an error.
    pub silence_max: Duration,
    /// Longest wait for a reply by kind of request; longer waits count as timeouts.
    pub timeouts: [Option<Duration>; KIND_COUNT],
    /// Process whose processor time and memory are measured.
    pub server_pid: Option<u32>,
}

/// The progress of a run.
#[derive(Debug)]
pub struct Progress {
    /// Time since the first request.
    pub elapsed: Duration,
    /// Time since the previous progress report.
    pub interval: Duration,
    /// Counts since the first request.
    pub totals: Totals,
}

/// Measurements of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Counts of all threads.
    pub totals: Totals,
    /// Time from the first request to the last reply.
    pub elapsed: Duration,
    /// Usage of the server's process before and after, if its pid was given.
    pub server: Option<(Usage, Usage)>,
    /// Use of this process before and after.
    pub client: (Usage, Usage),
    /// The reason why the run ended early, if it did.
    pub failure: Option<String>,
    /// The first invalid or refused reply.
    pub first_fault: Option<String>,
}

/// The reason why nothing was measured: a sentence for the user.
pub type StartError = String;

/// Result of a thread.
struct Ended {
    finished_ns: u64,
    failure: Option<String>,
    first_fault: Option<String>,
}

/// Runs `plan` with one thread for each of `protocols`, and reports progress to `observe` every second.
///
/// # Errors
/// When the run could not start. If the server is lost during the run, the [`Run::failure`] says so, beside
/// the measurements so far.
pub fn run<P: Protocol>(
    plan: &Plan,
    protocols: Vec<P>,
    observe: &mut dyn FnMut(&Progress),
) -> Result<Run, StartError> {
    raise_descriptor_limit(plan.connections as u64 + OTHER_DESCRIPTORS);
    let threads = protocols.len();
    let streams = connect_all(plan, threads)?;
    let counters: Vec<Arc<ThreadCounters>> = (0..threads).map(|_| Arc::default()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let server_before = plan.server_pid.map(server_usage).transpose()?;
    let client_before = client_usage();
    let start_ns = monotonic_nanos();
    let (sender, receiver) = channel();
    let mut handles = Vec::with_capacity(threads);
    for (index, (protocol, streams)) in protocols.into_iter().zip(streams).enumerate() {
        let task = task_of(plan, index, threads, start_ns);
        let mut worker = Worker::new(task, protocol, streams, counters[index].clone(), stop.clone())
            .map_err(|error| format!("cannot set up a thread: {error}"))?;
        let (sender, stop) = (sender.clone(), stop.clone());
        let body = move || {
            let failure = worker.run().err();
            if failure.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
            let ended = Ended { finished_ns: monotonic_nanos(), failure, first_fault: worker.first_fault() };
            drop(sender.send(ended));
        };
        let handle = threads::spawn(&format!("load-{index}"), body);
        handles.push(handle.map_err(|error| format!("cannot start a thread: {error}"))?);
    }
    drop(sender);
    let ended = wait(&receiver, observe, || Totals::sum(counters.iter().map(Arc::as_ref)));
    let panicked = handles.into_iter().map(threads::Handle::join).filter(Result::is_err).count();
    let finished_ns = ended.iter().map(|ended| ended.finished_ns).max().unwrap_or(start_ns);
    let failure = ended.iter().find_map(|ended| ended.failure.clone());
    Ok(Run {
        totals: Totals::sum(counters.iter().map(Arc::as_ref)),
        elapsed: Duration::from_nanos(finished_ns - start_ns),
        server: server_before.zip(plan.server_pid.and_then(|pid| process::usage(pid).ok())),
        client: (client_before, client_usage()),
        failure: failure.or((panicked > 0).then(|| format!("{panicked} load threads panicked"))),
        first_fault: ended.into_iter().find_map(|ended| ended.first_fault),
    })
}

/// Reports to `observe` every second until all threads have ended.
fn wait(
    receiver: &Receiver<Ended>,
    observe: &mut dyn FnMut(&Progress),
    totals: impl Fn() -> Totals,
) -> Vec<Ended> {
    let start = Instant::now();
    let mut last = start;
    let mut ended = Vec::new();
    loop {
        let until_next = (last + Duration::from_secs(1)).saturating_duration_since(Instant::now());
        match receiver.recv_timeout(until_next) {
            Ok(one) => ended.push(one),
            Err(RecvTimeoutError::Disconnected) => return ended,
            Err(RecvTimeoutError::Timeout) => {
                let now = Instant::now();
                observe(&Progress { elapsed: now - start, interval: now - last, totals: totals() });
                last = now;
            }
        }
    }
}

/// The task of thread `index`: its share of the plan.
fn task_of(plan: &Plan, index: usize, threads: usize, start_ns: u64) -> Task {
    let share = |total: u64| {
        let (index, threads) = (index as u64, threads as u64);
        total / threads + u64::from(index < total % threads)
    };
    Task {
        address: plan.address,
        depth: plan.pipeline.max(1),
        start_ns,
        deadline_ns: plan.duration.map(|duration| start_ns.saturating_add(nanos(duration))),
        requests_max: plan.requests_max.map(share),
        rate: plan.rate.map(share),
        pause: plan.pause,
        seed: index as u64 + 1,
        access: plan.access.clone(),
        connect_timeout: plan.connect_timeout,
        silence_max_ns: nanos(plan.silence_max),
        timeout_ns: plan.timeouts.map(|timeout| timeout.map(nanos)),
    }
}

/// Opens the plan's connections, and deals them out to the threads in turn.
fn connect_all(plan: &Plan, threads: usize) -> Result<Vec<Vec<Link>>, StartError> {
    let mut streams: Vec<Vec<Link>> = (0..threads).map(|_| Vec::new()).collect();
    for index in 0..plan.connections.max(threads) {
        let stream = Link::connect(&plan.address, plan.connect_timeout, &plan.access)
            .map_err(|error| format!("cannot connect to {}: {error}", plan.address))?;
        streams[index % threads].push(stream);
    }
    Ok(streams)
}

/// Raises the soft limit of file descriptors to `needed`, or as near as possible. If descriptors are missing,
/// connecting fails.
fn raise_descriptor_limit(needed: u64) {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < needed
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard);
    }
}

fn server_usage(pid: u32) -> Result<Usage, StartError> {
    process::usage(pid).map_err(|error| format!("cannot read the usage of process {pid}: {error}"))
}

/// Usage of this process. It is known even without `/proc`, as in a bare container.
fn client_usage() -> Usage {
    Usage { cpu_us: facts::process_cpu_nanos() / 1000, resident_kib: facts::resident_size() / 1024 }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
