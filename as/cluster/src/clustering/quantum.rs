//! Quantum intervals: the times when the cluster may change. A quantum start handles faults that are close to
//! each other together. For this, each kind of fault has a waiting time, and two changes are at least half a
//! quantum interval apart. A quantum start is postponed by at most two intervals.

use crate::time::{Now, Timing};

/// Number of starts that may be skipped while faults continue.
const SKIPS_MAX: u64 = 2;

/// A reason for a change of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    NodeArrived,
    NodeDeparted,
    PrincipalDeparted,
    /// The set of nodes that a member sees changed.
    PeerAdjacencyChanged,
    /// A node has asked to join.
    JoinAccepted,
    /// A cluster with a lower principal may merge with ours.
    MergeCandidateSeen,
    /// A member left the cluster without departing, for instance by a quick restart.
    MemberOrphaned,
}

const FAULTS: [Fault; 7] = [
    Fault::NodeArrived,
    Fault::NodeDeparted,
    Fault::PrincipalDeparted,
    Fault::PeerAdjacencyChanged,
    Fault::JoinAccepted,
    Fault::MergeCandidateSeen,
    Fault::MemberOrphaned,
];

/// First and last time that a fault was seen since the last quantum start.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first_ms: u64,
    last_ms: u64,
}

impl Seen {
    /// The waiting time from the first occurrence of the fault.
    fn waiting_ms(self, fault: Fault, timing: &Timing) -> u64 {
        let quantum = timing.quantum_ms();
        let told = timing.told_by_pulse_ms();
        let spread = self.last_ms - self.first_ms;
        let joining = (spread + 2 * timing.interval_ms + timing.latency_ms + timing.interval_ms).min(quantum);
        let wait = match fault {
            Fault::NodeArrived => spread / 2 + 2 * told + quantum / 2,
            Fault::NodeDeparted => timing.node_timeout_ms() + 2 * told + quantum / 4,
            // The other members are orphans too and will ask to join.
            Fault::PrincipalDeparted => timing.node_timeout_ms() + 2 * told + joining.max(quantum / 4),
            Fault::PeerAdjacencyChanged => told,
            // Other nodes may ask too, and each of them must send a pulse first.
            Fault::JoinAccepted => joining,
            Fault::MergeCandidateSeen | Fault::MemberOrphaned => quantum,
        };
        wait.min(quantum)
    }
}

/// Decides when a quantum starts.
#[derive(Clone, Debug)]
pub(super) struct Quantum {
    seen: [Option<Seen>; FAULTS.len()],
    /// Set if there is a cluster with a higher principal: merge candidates then postpone nothing.
    ignores_merge_candidates: bool,
    last_start_ms: u64,
    last_interval_ms: u64,
    is_postponed: bool,
    /// The first quantum starts without a wait.
    starts_at_once: bool,
}

impl Quantum {
    /// The first quantum starts after a quantum interval, or at once with `starts_at_once`.
    pub(super) fn new(now: Now, timing: &Timing, starts_at_once: bool) -> Self {
        Quantum {
            starts_at_once,
            seen: [None; FAULTS.len()],
            ignores_merge_candidates: false,
            last_start_ms: now.monotonic_ms,
            last_interval_ms: timing.quantum_ms(),
            is_postponed: false,
        }
    }

    /// Notes a fault seen at `at_ms`.
    pub(super) fn fault(&mut self, fault: Fault, at_ms: u64, timing: &Timing) {
        if fault == Fault::MergeCandidateSeen && self.ignores_merge_candidates {
            return;
        }
        let seen = &mut self.seen[fault as usize];
        match seen {
            // A fault seen more than half a quantum later counts as another event.
            Some(seen) if at_ms.saturating_sub(seen.first_ms) <= timing.quantum_ms() / 2 => {
                seen.last_ms = seen.last_ms.max(at_ms);
            }
            _ => *seen = Some(Seen { first_ms: at_ms, last_ms: at_ms }),
        }
    }

    /// Ignores merge candidates, because ours will merge into a cluster with a higher principal.
    pub(super) fn ignore_merge_candidates(&mut self) {
        self.ignores_merge_candidates = true;
        self.seen[Fault::MergeCandidateSeen as usize] = None;
    }

    /// Whether one of the faults was seen since the last start.
    pub(super) fn has_seen(&self, faults: &[Fault]) -> bool {
        faults.iter().any(|fault| self.seen[*fault as usize].is_some())
    }

    fn earliest_start_ms(&self, timing: &Timing) -> u64 {
        let starts = FAULTS.iter().filter_map(|fault| {
            let seen = self.seen[*fault as usize]?;
            Some(seen.first_ms + seen.waiting_ms(*fault, timing))
        });
        match starts.max() {
            Some(start_ms) => start_ms.max(self.last_start_ms + timing.quantum_ms() / 2),
            None => self.last_start_ms + timing.quantum_ms(),
        }
    }

    /// Whether a quantum starts now: `None` if not, otherwise whether this start may still be skipped.
    pub(super) fn poll(&self, now: Now, timing: &Timing) -> Option<bool> {
        if self.starts_at_once {
            return Some(true);
        }
        let earliest = self.earliest_start_ms(timing);
        let expected = self.last_start_ms + self.last_interval_ms;
        let buffer = earliest.saturating_sub(expected).min(self.last_interval_ms / 2);
        let forced_ms = self.last_start_ms + (SKIPS_MAX + 1) * self.last_interval_ms + buffer;
        let is_skippable = forced_ms > now.monotonic_ms;
        (earliest <= now.monotonic_ms || !is_skippable).then_some(is_skippable)
    }

    /// Leaves the work of this quantum start to the next one; the faults stay.
    pub(super) fn postpone(&mut self) {
        self.is_postponed = true;
    }

    /// Ends this quantum start.
    pub(super) fn started(&mut self, now: Now) {
        let was_at_once = std::mem::take(&mut self.starts_at_once);
        if !std::mem::take(&mut self.is_postponed) {
            if !was_at_once {
                self.last_interval_ms = now.monotonic_ms - self.last_start_ms;
            }
            self.last_start_ms = now.monotonic_ms;
            self.seen = [None; FAULTS.len()];
            self.ignores_merge_candidates = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantum_starts_when_faults_have_waited() {
        let timing = Timing::default();
        let at = |monotonic_ms| Now { monotonic_ms, wall_ms: 0 };
        let mut quantum = Quantum::new(at(0), &timing, false);
        assert_eq!(quantum.poll(at(1809), &timing), None);
        assert_eq!(quantum.poll(at(1810), &timing), Some(true));
        quantum.started(at(1810));
        quantum.fault(Fault::JoinAccepted, 1900, &timing);
        // The earliest start is half a quantum after the last one.
        assert_eq!(quantum.poll(at(2714), &timing), None);
        assert_eq!(quantum.poll(at(2715), &timing), Some(true));
        // Continuing faults postpone the start, but not for ever.
        for ms in (1900..9000).step_by(75) {
            quantum.fault(Fault::NodeDeparted, ms, &timing);
            if quantum.poll(at(ms), &timing).is_some() {
                return assert!(ms > 3 * 1810);
            }
        }
        panic!("never started");
    }

    #[test]
    fn the_first_quantum_may_start_at_once() {
        let timing = Timing::default();
        let at = |monotonic_ms| Now { monotonic_ms, wall_ms: 0 };
        let mut quantum = Quantum::new(at(10), &timing, true);
        assert_eq!(quantum.poll(at(10), &timing), Some(true));
        quantum.started(at(10));
        // The next ones have their usual times.
        assert_eq!(quantum.poll(at(1819), &timing), None);
        assert_eq!(quantum.poll(at(1820), &timing), Some(true));
    }
}
