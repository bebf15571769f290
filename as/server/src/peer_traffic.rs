//! Traffic on the connections with other nodes: connections opened and closed, bytes sent and received.
//!
//! Counters only grow. A rate is the difference between two turns of the ticker.
//!
//! # Threads
//! Heartbeat and fabric threads count, the ticker measures, info threads read. The rates have one mutex,
//! which only the ticker and info threads take.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use parking_lot::Mutex;
use proto::peer::hello::Channel;

const CHANNEL_COUNT: usize = Channel::ALL.len();

/// Counts connections.
#[derive(Default)]
pub(crate) struct ConnectionCounter {
    opened: AtomicU64,
    closed: AtomicU64,
}

impl ConnectionCounter {
    pub(crate) fn note_opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    pub(crate) fn note_closed(&self) {
        self.closed.fetch_add(1, Release);
    }

    pub(crate) fn figures(&self) -> ConnectionFigures {
        // Closed connections are read before opened ones, so that no connection counts as closed but not as
        // opened.
        let closed = self.closed.load(Acquire);
        ConnectionFigures { opened: self.opened.load(Relaxed), closed }
    }
}

/// Connections that were opened and closed since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionFigures {
    pub(crate) opened: u64,
    pub(crate) closed: u64,
}

impl ConnectionFigures {
    /// Number of open connections.
    pub(crate) fn open(self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }
}

/// Counts of the heartbeat.
#[derive(Default)]
pub(crate) struct HeartbeatTraffic {
    pub(crate) connections: ConnectionCounter,
    received_self: AtomicU64,
    received_foreign: AtomicU64,
}

impl HeartbeatTraffic {
    /// Counts a received pulse, from this node itself or another one.
    pub(crate) fn note_pulse(&self, is_own: bool) {
        let counter = if is_own { &self.received_self } else { &self.received_foreign };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn figures(&self) -> HeartbeatFigures {
        HeartbeatFigures {
            connections: self.connections.figures(),
            received_self: self.received_self.load(Relaxed),
            received_foreign: self.received_foreign.load(Relaxed),
        }
    }
}

/// The heartbeat's counts since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct HeartbeatFigures {
    pub(crate) connections: ConnectionFigures,
    pub(crate) received_self: u64,
    pub(crate) received_foreign: u64,
}

/// Numbers of bytes sent and received, in total or per second.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Bytes {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

#[derive(Default)]
struct ByteCounter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl ByteCounter {
    fn get(&self) -> Bytes {
        Bytes { sent: self.sent.load(Relaxed), received: self.received.load(Relaxed) }
    }
}

/// Totals at the last measurement of the rates, and those rates, by channel.
#[derive(Default)]
struct Measured {
    totals: [Bytes; CHANNEL_COUNT],
    rates: [Bytes; CHANNEL_COUNT],
}

/// Counts of the fabric.
#[derive(Default)]
pub(crate) struct FabricTraffic {
    pub(crate) connections: ConnectionCounter,
    bytes: [ByteCounter; CHANNEL_COUNT],
    measured: Mutex<Measured>,
}

impl FabricTraffic {
    pub(crate) fn note_sent(&self, channel: Channel, size: usize) {
        self.bytes[channel as usize].sent.fetch_add(size as u64, Relaxed);
    }

    pub(crate) fn note_received(&self, channel: Channel, size: usize) {
        self.bytes[channel as usize].received.fetch_add(size as u64, Relaxed);
    }

    /// Measures the rates over the `span` since the last call.
    pub(crate) fn measure(&self, span: Duration) {
        let seconds = span.as_secs_f64().max(1e-3);
        let a_second = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        let mut measured = self.measured.lock();
        for channel in Channel::ALL {
            let at = channel as usize;
            let (now, before) = (self.bytes[at].get(), measured.totals[at]);
            measured.rates[at] = Bytes {
                sent: a_second(now.sent, before.sent),
                received: a_second(now.received, before.received),
            };
            measured.totals[at] = now;
        }
    }

    pub(crate) fn figures(&self) -> FabricFigures {
        FabricFigures { connections: self.connections.figures(), rates: self.measured.lock().rates }
    }
}

/// The fabric's counts since the start, and its rates as last measured.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct FabricFigures {
    pub(crate) connections: ConnectionFigures,
    rates: [Bytes; CHANNEL_COUNT],
}

impl FabricFigures {
    /// Bytes per second of a channel.
    pub(crate) fn rate(&self, channel: Channel) -> Bytes {
        self.rates[channel as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_between_two_measurements() {
        let traffic = FabricTraffic::default();
        traffic.note_sent(Channel::Bulk, 3_000);
        traffic.note_received(Channel::Bulk, 500);
        traffic.note_received(Channel::Metadata, 20);
        assert_eq!(traffic.figures(), FabricFigures::default(), "nothing is measured yet");
        traffic.measure(Duration::from_secs(2));
        let figures = traffic.figures();
        assert_eq!(figures.rate(Channel::Bulk), Bytes { sent: 1_500, received: 250 });
        assert_eq!(figures.rate(Channel::Metadata), Bytes { sent: 0, received: 10 });
        assert_eq!(figures.rate(Channel::Control), Bytes::default());
        traffic.note_sent(Channel::Bulk, 100);
        traffic.measure(Duration::from_secs(1));
        assert_eq!(traffic.figures().rate(Channel::Bulk), Bytes { sent: 100, received: 0 });
    }

    #[test]
    fn connections_and_pulses_are_counted() {
        let traffic = HeartbeatTraffic::default();
        traffic.connections.note_opened();
        traffic.connections.note_opened();
        traffic.connections.note_closed();
        traffic.note_pulse(true);
        traffic.note_pulse(false);
        traffic.note_pulse(false);
        let figures = traffic.figures();
        assert_eq!((figures.connections.open(), figures.connections.closed), (1, 1));
        assert_eq!((figures.received_self, figures.received_foreign), (1, 2));
    }
}
