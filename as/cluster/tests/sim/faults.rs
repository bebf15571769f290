//! The faults of a run.

use cluster::time::Random;

use crate::network::Choice;

/// A kind of fault; its host is chosen separately.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Fault {
    /// One host is cut off in both directions.
    Cut,
    /// One host hears no other, or no other hears it.
    OneWayCut {
        is_deaf: bool,
    },
    /// Two hosts do not hear each other.
    PairCut {
        other: usize,
    },
    Crash {
        keeps_disk: bool,
    },
    /// The process stops cleanly: it hands its partitions over first.
    Stop {
        keeps_disk: bool,
    },
    Pause,
    ClockStep {
        ms: i64,
    },
}

/// A fault with its host and duration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    pub(crate) host: usize,
    pub(crate) lasts_ms: u64,
}

impl Planned {
    pub(crate) fn choose(hosts: usize, random: &mut Random) -> Self {
        let host = random.below(hosts as u64) as usize;
        let other = (host + 1 + random.below(hosts as u64 - 1) as usize) % hosts;
        let fault = match random.below(14) {
            0..=2 => Fault::Cut,
            3 => Fault::OneWayCut { is_deaf: random.chance(50) },
            4 => Fault::PairCut { other },
            5 | 6 => Fault::Crash { keeps_disk: true },
            7 | 8 => Fault::Crash { keeps_disk: false },
            9 | 10 => Fault::Pause,
            11 | 12 => Fault::Stop { keeps_disk: random.chance(50) },
            _ => Fault::ClockStep { ms: random.range(0, 40_000).cast_signed() - 20_000 },
        };
        // Durations from an instant to longer than every timeout.
        let lasts_ms = match random.below(4) {
            0 => random.range(50, 600),
            1 => random.range(600, 2500),
            _ => random.range(2500, 9000),
        };
        Planned { fault, host, lasts_ms }
    }
}
