//! What goes wrong in a run.

use cluster::time::Random;

use crate::network::Choice;

/// A fault, as it is chosen; which host is chosen with it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Fault {
    /// One host is cut off in both directions.
    Cut,
    /// One host hears nobody, or nobody hears it.
    OneWayCut {
        is_deaf: bool,
    },
    /// One pair of hosts does not hear each other.
    PairCut {
        other: usize,
    },
    Crash {
        keeps_disk: bool,
    },
    Pause,
    ClockStep {
        ms: i64,
    },
}

/// A fault with its host and how long it lasts.
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
        let fault = match random.below(12) {
            0..=2 => Fault::Cut,
            3 => Fault::OneWayCut { is_deaf: random.chance(50) },
            4 => Fault::PairCut { other },
            5 | 6 => Fault::Crash { keeps_disk: true },
            7 | 8 => Fault::Crash { keeps_disk: false },
            9 | 10 => Fault::Pause,
            _ => Fault::ClockStep { ms: random.range(0, 40_000).cast_signed() - 20_000 },
        };
        // From a blink to longer than everything that waits.
        let lasts_ms = match random.below(4) {
            0 => random.range(50, 600),
            1 => random.range(600, 2500),
            _ => random.range(2500, 9000),
        };
        Planned { fault, host, lasts_ms }
    }
}
