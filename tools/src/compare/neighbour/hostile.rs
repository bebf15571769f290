//! Hostile clients. Each overloads a server in one way; one uses only the processors, for comparison.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::work::{Record, Work};
use crate::record::reply;
use crate::record::request::PROTO_SIZE;

/// Time after which the client of the batch disconnects.
const GOES_AFTER: Duration = Duration::from_millis(200);
/// Result of a read whose filter does not match. The regular expression never matches.
const FILTERED_OUT: u8 = 27;
/// Number of bytes that the slow reader reads at a time, and the interval between two reads.
const SLOW_BYTES: usize = 16 << 10;
const SLOW_INTERVAL: Duration = Duration::from_millis(10);
/// Receive buffer of a client that does not read, in bytes.
const SMALL_BUFFER: usize = 4096;
/// Pause before a connection that the server closed is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(10);
/// How often an idle client checks the stop flag.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hostile {
    /// Sends no request. It shows the effect of the scheduler when no processor is idle.
    BusyProcessors,
    ListOperations,
    WideRecord,
    Regex,
    GoneBatch,
    SlowReader,
    Scan,
    Churn,
}

/// The results of a hostile client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    /// Number of answered requests. For a client that does not wait for answers, number of sent requests.
    pub(super) requests: u64,
    /// The first result code that was not 0.
    pub(super) refusal: Option<u8>,
    /// The error of the first broken connection.
    pub(super) broken: Option<String>,
}

impl Hostile {
    pub(super) const ALL: [Hostile; 8] = [
        Hostile::BusyProcessors,
        Hostile::ListOperations,
        Hostile::WideRecord,
        Hostile::Regex,
        Hostile::GoneBatch,
        Hostile::SlowReader,
        Hostile::Scan,
        Hostile::Churn,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Hostile::BusyProcessors => "busy processors",
            Hostile::ListOperations => "list operations",
            Hostile::WideRecord => "wide record",
            Hostile::Regex => "regex",
            Hostile::GoneBatch => "gone batch",
            Hostile::SlowReader => "slow reader",
            Hostile::Scan => "scan",
            Hostile::Churn => "churn",
        }
    }

    /// A description of the client for the text below the table.
    pub(super) fn describe(self, work: &Work) -> String {
        match self {
            Hostile::BusyProcessors => {
                "a thread for each processor that does nothing but use it; the server has no part in it"
                    .to_owned()
            }
            Hostile::ListOperations => {
                let Work { list_operations, list_bytes, .. } = work;
                format!(
                    "requests of {list_operations} operations on a list of {list_bytes} bytes, one after the other"
                )
            }
            Hostile::WideRecord => {
                let Work { wide_reads, wide_bins, .. } = work;
                format!(
                    "requests of {wide_reads} reads of bins of a record with {wide_bins} bins, one after the other"
                )
            }
            Hostile::Regex => {
                let Work { text_bytes, .. } = work;
                format!(
                    "reads with a filter that explodes on a text of {text_bytes} bytes, one after the other"
                )
            }
            Hostile::GoneBatch => {
                let Work { batch_rows, large_bytes, .. } = work;
                let after_ms = GOES_AFTER.as_millis();
                format!(
                    "one batch of {batch_rows} rows of a record of {large_bytes} bytes, whose client goes after {after_ms} ms"
                )
            }
            Hostile::SlowReader => {
                let Work { large_bytes, .. } = work;
                format!(
                    "reads of a record of {large_bytes} bytes without end, whose answers are read at 1.6 MB/s"
                )
            }
            Hostile::Scan => {
                "queries for all records of the ordinary clients, one after the other".to_owned()
            }
            Hostile::Churn => "a connection for each read, one after the other".to_owned(),
        }
    }

    /// Whether it does not use the server. The server then does not cause its effect.
    pub(super) fn is_control(self) -> bool {
        self == Hostile::BusyProcessors
    }

    /// Runs until the stop flag is set.
    pub(super) fn run(self, address: SocketAddr, work: &Work, stop: &AtomicBool) -> Tally {
        let mut tally = Tally::default();
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = self.until_broken(address, work, stop, &mut tally) {
                tally.broken.get_or_insert_with(|| error.to_string());
                wait(REOPEN_AFTER, stop);
            }
        }
        tally
    }

    fn until_broken(
        self,
        address: SocketAddr,
        work: &Work,
        stop: &AtomicBool,
        tally: &mut Tally,
    ) -> io::Result<()> {
        match self {
            Hostile::BusyProcessors => {
                spin(stop);
                tally.requests += 1;
                Ok(())
            }
            Hostile::ListOperations => repeat(address, &work.list_request(), stop, tally),
            Hostile::WideRecord => repeat(address, &work.wide_request(), stop, tally),
            Hostile::Regex => repeat(address, &work.regex_request(), stop, tally),
            Hostile::GoneBatch => go_away(address, &work.batch_request(work.batch_rows), stop, tally),
            Hostile::SlowReader => read_slowly(address, &work.read_request(Record::Large), stop, tally),
            Hostile::Scan => scan(address, &work.scan_request(), stop, tally),
            Hostile::Churn => churn(address, &work.read_request(Record::Small), stop, tally),
        }
    }
}

/// Keeps all processors busy.
fn spin(stop: &AtomicBool) {
    let busy = || {
        while !stop.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        (1..cf::threads::cpu_count()).for_each(|_| drop(scope.spawn(busy)));
        busy();
    });
}

/// Sends one request after another. Each is answered by one frame.
fn repeat(address: SocketAddr, request: &[u8], stop: &AtomicBool, tally: &mut Tally) -> io::Result<()> {
    let mut connection = Connection::open(address, None, stop)?;
    let mut frame = Vec::new();
    while connection.send(request)? && connection.receive(&mut frame)? {
        note(&frame, tally)?;
        tally.requests += 1;
    }
    Ok(())
}

/// Sends a batch and disconnects. It does so only once, because the batch may occupy the server for long.
fn go_away(address: SocketAddr, request: &[u8], stop: &AtomicBool, tally: &mut Tally) -> io::Result<()> {
    if tally.requests == 0 {
        let mut connection = Connection::open(address, None, stop)?;
        connection.send(request)?;
        tally.requests += 1;
        wait(GOES_AFTER, stop);
    }
    wait(Duration::MAX, stop);
    Ok(())
}

/// Sends as many requests as the server takes, and reads only few bytes of the answers.
fn read_slowly(address: SocketAddr, request: &[u8], stop: &AtomicBool, tally: &mut Tally) -> io::Result<()> {
    let mut connection = Connection::open(address, Some(SMALL_BUFFER), stop)?;
    let many = request.repeat(100);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let count = connection.send_some(&many[sent % many.len()..])?;
        tally.requests += ((sent + count) / request.len() - sent / request.len()) as u64;
        sent += count;
        connection.trickle(SLOW_BYTES)?;
        wait(SLOW_INTERVAL, stop);
    }
    Ok(())
}

fn scan(address: SocketAddr, request: &[u8], stop: &AtomicBool, tally: &mut Tally) -> io::Result<()> {
    let mut connection = Connection::open(address, None, stop)?;
    let mut frame = Vec::new();
    while connection.send(request)? {
        loop {
            if !connection.receive(&mut frame)? {
                return Ok(());
            }
            if note(&frame, tally)? {
                break;
            }
        }
        tally.requests += 1;
    }
    Ok(())
}

fn churn(address: SocketAddr, request: &[u8], stop: &AtomicBool, tally: &mut Tally) -> io::Result<()> {
    let mut frame = Vec::new();
    loop {
        let mut connection = Connection::open(address, None, stop)?;
        if !connection.send(request)? || !connection.receive(&mut frame)? {
            return Ok(());
        }
        connection.reset();
        note(&frame, tally)?;
        tally.requests += 1;
    }
}

/// Sends a batch, does not read the answer, and waits for the stop flag.
pub(super) fn leave_unread(address: SocketAddr, request: &[u8], stop: &AtomicBool) -> io::Result<()> {
    let mut connection = Connection::open(address, Some(SMALL_BUFFER), stop)?;
    connection.send(request)?;
    wait(Duration::MAX, stop);
    connection.reset();
    Ok(())
}

/// Notes the first refusal in a frame. Returns whether the frame is the last of its answer.
fn note(frame: &[u8], tally: &mut Tally) -> io::Result<bool> {
    let body = frame.get(PROTO_SIZE..).unwrap_or_default();
    let see = |code: u8, _| {
        if code != 0 && code != FILTERED_OUT && tally.refusal.is_none() {
            tally.refusal = Some(code);
        }
    };
    reply::for_each_message(body, see).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Waits for `longest`, or until the stop flag is set.
fn wait(longest: Duration, stop: &AtomicBool) {
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        match longest.saturating_sub(start.elapsed()) {
            Duration::ZERO => return,
            left => thread::sleep(left.min(POLL_INTERVAL)),
        }
    }
}
