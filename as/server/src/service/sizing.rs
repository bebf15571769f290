//! The rule for the number of service threads over which connections are spread, without threads or clocks.
//!
//! Connections are spread over as many threads as there are processors: a thread that is woken on the
//! processor of its client answers soonest, and with one thread for all every other client would wait for it.
//! More threads help when requests are long, because of work or of waiting for a device, or when threads are
//! busy while processors are idle. Otherwise they only divide the requests. When those conditions end,
//! connections are therefore gathered again on as many threads as there are processors.
//!
//! Fewer threads than processors can be better in one case: no processor is idle, because clients on the same
//! machine or other work use them. If each thread finds the requests of several connections whenever it wakes
//! up, fewer threads are certainly better: a thread that finds twice as many requests needs half the
//! processor time for each, and every client is answered sooner. This ends as soon as a thread finds few
//! requests at a time. Otherwise fewer threads are tried ([`Trial`]), and kept only if more requests are
//! answered, or as many with less work for each.

use std::cell::LazyCell;
use std::time::Duration;

use super::activity::WorkerStats;

/// A thread that works this share of the time counts as always busy.
const BUSY: f64 = 0.7;
/// Half of the threads are enough if they would work at most this share of the time.
const ROOMY: f64 = 0.45;
/// Another thread is useful while this many processors are idle, because it will take most of one.
const SPARE_PROCESSORS: f64 = 0.75;
/// While fewer processors are idle, threads with work wait for a processor.
const SCARCE_PROCESSORS: f64 = 0.25;
/// While fewer processors are idle, a larger number of threads than necessary may slow each other down.
const FEW_PROCESSORS: f64 = 0.5;
/// Share of the current work that half of the threads would have with the same requests.
const LEFT_BY_GATHERING: f64 = 0.8;
/// Gathering connections does not make requests above this average length faster. They only wait for each
/// other, if there are enough of them to [delay each other](IN_THE_WAY).
const LONG_REQUEST: Duration = Duration::from_micros(30);
/// Gathering connections makes requests up to this average length faster.
const SHORT_REQUEST: Duration = Duration::from_micros(20);
/// Requests that keep one thread working for this share of the time delay each other.
const IN_THE_WAY: f64 = 0.1;
/// Requests that keep one thread working for at most this share do not delay each other.
const FAR_BETWEEN: f64 = 0.05;
/// With this many requests at a time there may be fewer threads than processors.
const MANY_AT_A_TIME: f64 = 4.0;
/// Number of samples in a row that must find that many before there are fewer threads than processors.
const MANY_SAMPLES: u32 = 3;
/// With at most this many requests at a time there are as many threads as processors.
const FEW_AT_A_TIME: f64 = 2.0;
/// A trial of fewer threads succeeds if this many times as many requests are answered.
const TRIAL_GAIN: f64 = 1.1;
/// It also succeeds if as many are answered as before it, and each takes at most this many times as much work.
const TRIAL_SAVING: f64 = 0.95;
/// A trial ends when at most this many times as many requests are answered as before it.
const TRIAL_LOSS: f64 = 0.95;
/// Number of samples of a trial that count. The first sample does not, because connections are still moving.
const TRIAL_SAMPLES: u32 = 3;
/// Number of samples in a row that must agree before connections are gathered on fewer threads.
const PATIENCE_MIN: u32 = 10;
const PATIENCE_MAX: u32 = 640;

/// The work of all threads in a period.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Sample {
    /// Share of the period for which the busiest thread worked.
    busiest: f64,
    /// The work of all threads, as a number of threads that would have worked all the time.
    workers: f64,
    /// Average time of a request; zero if there was none.
    request: Duration,
    /// Requests that a thread found on average when it woke up; zero if there was none.
    at_a_time: f64,
    /// Requests per second.
    rate: f64,
}

impl Sample {
    pub(super) fn new(stats: &[WorkerStats], period: Duration) -> Self {
        let share = |worked: Duration| worked.as_secs_f64() / period.as_secs_f64().max(f64::MIN_POSITIVE);
        let worked: Duration = stats.iter().map(|stats| stats.worked).sum();
        let requests: u64 = stats.iter().map(|stats| stats.requests).sum();
        let wake_ups: u64 = stats.iter().map(|stats| stats.wake_ups).sum();
        Sample {
            busiest: stats.iter().map(|stats| share(stats.worked)).fold(0.0, f64::max),
            workers: share(worked),
            request: match u32::try_from(requests) {
                Ok(0) => Duration::ZERO,
                Ok(requests) => worked / requests,
                Err(_) => Duration::ZERO,
            },
            at_a_time: if wake_ups == 0 { 0.0 } else { requests as f64 / wake_ups as f64 },
            rate: requests as f64 / period.as_secs_f64().max(f64::MIN_POSITIVE),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    More,
    Same,
    Fewer,
}

/// The judgement from a sample on fewer threads than processors, or than are active now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathering {
    Certain,
    WorthATrial,
    No,
}

/// Judges whether half of `active_count` threads could do the same work, while there are too few processors
/// for all runnable threads.
fn gathering(
    active_count: usize,
    sample: &Sample,
    idle_processors: impl FnOnce() -> Option<f64>,
) -> Gathering {
    if sample.request > SHORT_REQUEST
        || sample.workers * LEFT_BY_GATHERING >= half_of(active_count) as f64
        || active_count < 2
    {
        return Gathering::No;
    }
    match idle_processors() {
        Some(idle) if idle < SCARCE_PROCESSORS && sample.at_a_time >= MANY_AT_A_TIME => Gathering::Certain,
        Some(idle) if idle < FEW_PROCESSORS && sample.rate > 0.0 => Gathering::WorthATrial,
        _ => Gathering::No,
    }
}

/// The wish that follows from a sample while `active_count` threads are active. `idle_processors` is called
/// only if it matters.
fn wish(active_count: usize, sample: &Sample, idle_processors: impl FnOnce() -> Option<f64>) -> Wish {
    if sample.request > LONG_REQUEST && sample.workers > IN_THE_WAY {
        return Wish::More;
    }
    let half = half_of(active_count) as f64;
    let may_wait = sample.request <= SHORT_REQUEST || sample.workers <= FAR_BETWEEN;
    let fewer = if may_wait { Wish::Fewer } else { Wish::Same };
    let is_busy = sample.busiest >= BUSY;
    if !is_busy && sample.workers <= half * ROOMY {
        return fewer;
    }
    let may_be_crowded = sample.workers * LEFT_BY_GATHERING < half;
    if !is_busy && !may_be_crowded {
        return Wish::Same;
    }
    match idle_processors() {
        Some(idle) if is_busy && idle >= SPARE_PROCESSORS => Wish::More,
        Some(idle) if may_be_crowded && idle < SCARCE_PROCESSORS => fewer,
        _ => Wish::Same,
    }
}

/// The next lower power of two; 0 below 1.
fn half_of(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// Fewer threads than processors, tried because processors are contended.
struct Trial {
    /// The count to return to if the trial fails.
    count_before: usize,
    before: Pace,
    samples: u32,
    /// Sum of the samples that count.
    sum: Pace,
}

/// How many requests are answered per second, and the seconds of work that they take. It may be the sum of
/// several samples' figures.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Pace {
    rate: f64,
    work: f64,
}

impl Pace {
    fn add(&mut self, sample: &Sample) {
        self.rate += sample.rate;
        self.work += sample.workers;
    }

    /// The average of `samples` samples whose sum is this.
    fn average(self, samples: u32) -> Pace {
        Pace { rate: self.rate / f64::from(samples), work: self.work / f64::from(samples) }
    }

    /// Whether this pace is worth having fewer threads than with pace `before`.
    fn has_paid(self, before: Pace) -> bool {
        self.rate >= before.rate * TRIAL_GAIN
            || (self.rate >= before.rate && self.work * before.rate <= before.work * self.rate * TRIAL_SAVING)
    }
}

/// The state of a trial after a sample.
enum TrialResult {
    GoesOn,
    Failed,
    Over,
}

impl Trial {
    fn new(count_before: usize, before: Pace) -> Self {
        Trial { count_before, before, samples: 0, sum: Pace::default() }
    }

    fn judge(&mut self, sample: &Sample, idle_processors: Option<f64>) -> TrialResult {
        if idle_processors.is_none_or(|idle| idle >= SPARE_PROCESSORS) {
            return TrialResult::Over;
        }
        self.samples += 1;
        if self.samples > TRIAL_SAMPLES + 1 {
            // The trial has succeeded.
            return if sample.rate < self.before.rate * TRIAL_LOSS {
                TrialResult::Over
            } else {
                TrialResult::GoesOn
            };
        }
        if self.samples > 1 {
            self.sum.add(sample);
        }
        let is_decided = self.samples > TRIAL_SAMPLES;
        if is_decided && !self.sum.average(TRIAL_SAMPLES).has_paid(self.before) {
            TrialResult::Failed
        } else {
            TrialResult::GoesOn
        }
    }
}

/// Chooses the count of active threads from sample to sample.
pub(super) struct Chooser {
    processors: usize,
    /// Samples in a row in favour of fewer threads.
    agreeing: u32,
    /// Number of such samples needed. Doubled each time that fewer threads have turned out to be too few.
    patience: u32,
    was_reduced: bool,
    trial: Option<Trial>,
    /// Samples in a row in favour of a trial, and their sum.
    contended: (u32, Pace),
    /// Number of such samples needed. Doubled by each failed trial.
    trial_patience: u32,
}

impl Chooser {
    pub(super) fn new(processors: usize) -> Self {
        Chooser {
            processors,
            agreeing: 0,
            patience: PATIENCE_MIN,
            was_reduced: false,
            trial: None,
            contended: (0, Pace::default()),
            trial_patience: MANY_SAMPLES,
        }
    }

    /// The count that follows `active_count` after a sample: at most `limit`, and at least the number of
    /// processors, unless `limit` is lower or fewer threads pay. `idle_processors` tells how many processors
    /// had nothing to do, if that is known.
    pub(super) fn choose(
        &mut self,
        active_count: usize,
        limit: usize,
        sample: &Sample,
        idle_processors: impl FnOnce() -> Option<f64>,
    ) -> usize {
        let usual = self.processors.min(limit);
        let idle_processors = LazyCell::new(idle_processors);
        if let Some(next) = self.follow_trial(active_count, usual, sample, &idle_processors) {
            return next;
        }
        let may_be_few = sample.at_a_time >= FEW_AT_A_TIME || self.trial.is_some();
        let least = if may_be_few { 1 } else { usual };
        if !(least..=limit).contains(&active_count) {
            return active_count.clamp(least, limit);
        }
        let (wish, fewer, patience) = match wish(active_count, sample, || *idle_processors) {
            Wish::Fewer if active_count > usual => {
                (Wish::Fewer, half_of(active_count).max(usual), self.patience)
            }
            Wish::More => (Wish::More, active_count, 0),
            _ if active_count > usual => (Wish::Same, active_count, 0),
            _ => match gathering(active_count, sample, || *idle_processors) {
                Gathering::Certain => (Wish::Fewer, half_of(active_count).max(1), MANY_SAMPLES),
                Gathering::WorthATrial => return self.consider_trial(active_count, sample),
                Gathering::No => (Wish::Same, active_count, 0),
            },
        };
        self.contended = (0, Pace::default());
        self.agreeing = if wish == Wish::Fewer { self.agreeing + 1 } else { 0 };
        if wish == Wish::More && active_count < limit {
            if std::mem::take(&mut self.was_reduced) {
                self.patience = (self.patience * 2).min(PATIENCE_MAX);
            }
            (active_count * 2).min(limit)
        } else if wish == Wish::Fewer && self.agreeing >= patience && fewer < active_count {
            self.agreeing = 0;
            self.was_reduced = true;
            fewer
        } else {
            active_count
        }
    }

    /// The count according to the trial in progress, if the trial is still undecided or has ended.
    fn follow_trial(
        &mut self,
        active_count: usize,
        usual: usize,
        sample: &Sample,
        idle_processors: &Option<f64>,
    ) -> Option<usize> {
        let trial = self.trial.as_mut()?;
        if active_count >= usual {
            self.trial = None;
            return None;
        }
        match trial.judge(sample, *idle_processors) {
            TrialResult::GoesOn if trial.samples <= TRIAL_SAMPLES => Some(active_count),
            TrialResult::GoesOn => {
                self.trial_patience = MANY_SAMPLES;
                None
            }
            TrialResult::Over => {
                self.trial = None;
                Some(usual)
            }
            TrialResult::Failed => {
                self.trial_patience = (self.trial_patience * 2).min(PATIENCE_MAX);
                self.trial.take().map(|trial| trial.count_before.min(usual))
            }
        }
    }

    /// The count after one more contended sample: half, if there were enough such samples.
    fn consider_trial(&mut self, active_count: usize, sample: &Sample) -> usize {
        self.agreeing = 0;
        self.contended.0 += 1;
        self.contended.1.add(sample);
        let (samples, sum) = self.contended;
        if samples < self.trial_patience {
            return active_count;
        }
        self.contended = (0, Pace::default());
        self.trial = Some(Trial::new(active_count, sum.average(samples)));
        half_of(active_count).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(busiest: f64, workers: f64, request_us: u64) -> Sample {
        Sample { busiest, workers, request: Duration::from_micros(request_us), at_a_time: 1.0, rate: 0.0 }
    }

    /// A sample of two threads with this rate of requests, of which they find few at a time.
    fn at_rate(rate: f64) -> Sample {
        Sample { at_a_time: 1.5, rate, ..sample(0.5, 0.9, 8) }
    }

    /// A sample of two threads that work half of the time on short requests, of which they find this many at
    /// a time.
    fn at_a_time(at_a_time: f64) -> Sample {
        Sample { at_a_time, ..sample(0.55, 1.1, 8) }
    }

    /// The count after this many equal samples.
    fn after(samples: u32, active_count: usize, limit: usize, sample: &Sample, idle: f64) -> usize {
        let mut chooser = Chooser::new(1);
        (0..samples)
            .fold(active_count, |active_count, _| chooser.choose(active_count, limit, sample, || Some(idle)))
    }

    #[test]
    fn a_sample_sums_up_the_work_of_threads() {
        let stats = |worked_ms, requests| WorkerStats {
            worked: Duration::from_millis(worked_ms),
            requests,
            wake_ups: requests / 5,
        };
        let period = Duration::from_secs(1);
        assert_eq!(Sample::new(&[], period), Sample { at_a_time: 0.0, ..sample(0.0, 0.0, 0) });
        assert!((Sample::new(&[stats(500, 50_000)], period / 2).rate - 100_000.0).abs() < 1e-6);
        let sum = Sample::new(&[stats(500, 50_000), stats(0, 0), stats(250, 25_000)], period);
        assert!((sum.busiest - 0.5).abs() < 1e-9 && (sum.workers - 0.75).abs() < 1e-9, "{sum:?}");
        assert_eq!(sum.request, Duration::from_micros(10));
        assert!((sum.at_a_time - 5.0).abs() < 1e-9, "{sum:?}");
        assert_eq!(Sample::new(&[stats(1_000, 0)], period), Sample { at_a_time: 0.0, ..sample(1.0, 1.0, 0) });
    }

    #[test]
    fn a_busy_thread_gets_help_while_processors_are_idle() {
        assert_eq!(after(1, 1, 10, &sample(0.9, 0.9, 7), 1.0), 2);
        assert_eq!(after(4, 1, 10, &sample(0.9, 8.0, 7), 1.0), 10);
        assert_eq!(after(9, 10, 10, &sample(0.9, 9.0, 7), 1.0), 10);
        assert_eq!(after(100, 1, 10, &sample(0.9, 0.9, 7), 0.2), 1);
        assert_eq!(after(100, 1, 10, &sample(0.6, 0.6, 7), 2.0), 1);
        assert_eq!(after(100, 1, 1, &sample(1.0, 1.0, 7), 2.0), 1);
    }

    #[test]
    fn nothing_follows_from_unknown_idle_processors() {
        let mut chooser = Chooser::new(1);
        for _ in 0..100 {
            assert_eq!(chooser.choose(1, 10, &sample(1.0, 1.0, 7), || None), 1);
            assert_eq!(chooser.choose(4, 10, &sample(0.3, 1.1, 7), || None), 4);
        }
    }

    #[test]
    fn long_requests_are_spread() {
        assert_eq!(after(4, 1, 10, &sample(0.2, 0.2, 100), 0.0), 10);
        // The requests are too few to delay each other.
        assert_eq!(after(100, 1, 10, &sample(0.05, 0.05, 100), 2.0), 1);
        assert_eq!(after(100, 4, 10, &sample(0.05, 0.05, 100), 2.0), 1);
        // The requests are neither long nor short, or neither many nor few, so the count stays.
        assert_eq!(after(100, 4, 10, &sample(0.1, 0.3, 25), 2.0), 4);
        assert_eq!(after(100, 4, 10, &sample(0.1, 0.1, 100), 2.0), 4);
    }

    #[test]
    fn connections_are_gathered_when_fewer_threads_have_been_enough_for_long() {
        let quiet = sample(0.1, 0.3, 8);
        assert_eq!(after(PATIENCE_MIN - 1, 10, 10, &quiet, 1.0), 10);
        assert_eq!(after(PATIENCE_MIN, 10, 10, &quiet, 1.0), 8);
        assert_eq!(after(4 * PATIENCE_MIN, 10, 10, &quiet, 1.0), 1);
        assert_eq!(after(9 * PATIENCE_MIN, 8, 10, &sample(0.3, 1.5, 8), 1.0), 4);
        assert_eq!(after(9 * PATIENCE_MIN, 8, 10, &sample(0.0, 0.0, 0), 1.0), 1);
    }

    #[test]
    fn threads_that_compete_for_processors_are_gathered() {
        assert_eq!(after(PATIENCE_MIN, 2, 10, &sample(0.55, 1.1, 8), 0.0), 1);
        assert_eq!(after(9 * PATIENCE_MIN, 2, 10, &sample(0.55, 1.1, 8), 0.4), 2);
        assert_eq!(after(9 * PATIENCE_MIN, 2, 10, &sample(0.7, 1.4, 8), 0.0), 2);
    }

    #[test]
    fn gathering_that_did_not_last_is_tried_less_often() {
        let mut chooser = Chooser::new(1);
        let mut samples_until_fewer = || {
            let quiet = sample(0.3, 0.4, 8);
            let samples = (1..).find(|_| chooser.choose(2, 10, &quiet, || Some(1.0)) == 1);
            assert_eq!(chooser.choose(1, 10, &sample(0.8, 0.8, 8), || Some(1.0)), 2);
            samples.expect("fewer")
        };
        let samples: Vec<u32> = (0..8).map(|_| samples_until_fewer()).collect();
        assert_eq!(samples, [10, 20, 40, 80, 160, 320, 640, 640]);
    }

    #[test]
    fn there_are_as_many_as_processors_unless_the_limit_is_lower() {
        let mut chooser = Chooser::new(4);
        let quiet = sample(0.0, 0.0, 0);
        assert_eq!(chooser.choose(1, 10, &quiet, || Some(4.0)), 4);
        assert_eq!(chooser.choose(1, 2, &quiet, || Some(4.0)), 2);
        for (count, expected) in [(10, 8), (8, 4), (5, 4), (4, 4)] {
            let next = (0..PATIENCE_MIN).map(|_| chooser.choose(count, 10, &quiet, || Some(4.0))).last();
            assert_eq!(next, Some(expected), "after {count}");
        }
        assert_eq!(chooser.choose(4, 10, &sample(0.3, 1.0, 100), || Some(0.0)), 8);
    }

    #[test]
    fn fewer_threads_than_processors_are_for_many_requests_at_a_time() {
        let mut chooser = Chooser::new(2);
        let mut after = |samples, active_count, sample: &Sample, idle| {
            (0..samples).fold(active_count, |count, _| chooser.choose(count, 10, sample, || Some(idle)))
        };
        assert_eq!(after(100, 2, &at_a_time(3.9), 0.0), 2);
        assert_eq!(after(MANY_SAMPLES - 1, 2, &at_a_time(4.0), 0.0), 2);
        assert_eq!(after(1, 2, &at_a_time(4.0), 0.0), 1);
        assert_eq!(after(100, 1, &at_a_time(2.0), 0.0), 1, "as it is");
        assert_eq!(after(1, 1, &at_a_time(1.9), 0.0), 2);
        assert_eq!(after(100, 2, &at_a_time(50.0), 0.3), 2, "not all are busy");
        assert_eq!(after(100, 2, &Sample { request: Duration::from_micros(21), ..at_a_time(50.0) }, 0.0), 2);
        assert_eq!(after(100, 2, &Sample { workers: 1.3, ..at_a_time(50.0) }, 0.0), 2, "too much for one");
        assert_eq!(
            after(1, 1, &Sample { busiest: 0.9, ..at_a_time(50.0) }, 0.8),
            2,
            "a processor is idle again"
        );
    }

    #[test]
    fn fewer_threads_than_processors_are_tried_and_kept_if_more_is_answered() {
        let mut chooser = Chooser::new(2);
        let mut step = |count, rate, idle| chooser.choose(count, 10, &at_rate(rate), || Some(idle));
        assert_eq!([2, 2, 2].map(|count| step(count, 100.0, 0.0)), [2, 2, 1], "after three samples");
        // The first sample of the trial does not count.
        assert_eq!([20.0, 120.0, 120.0, 120.0].map(|rate| step(1, rate, 0.0)), [1; 4]);
        assert_eq!([120.0; 50].map(|rate| step(1, rate, 0.0)), [1; 50], "it lasts");
        assert_eq!(step(1, 120.0, 0.8), 2, "until a processor is idle");
        assert_eq!([2, 2, 2].map(|count| step(count, 100.0, 0.0)), [2, 2, 1]);
        assert_eq!([120.0; 5].map(|rate| step(1, rate, 0.0)), [1; 5]);
        assert_eq!(step(1, 94.0, 0.0), 2, "or less is answered than before");
    }

    #[test]
    fn fewer_threads_than_processors_are_kept_if_as_much_is_answered_with_less_work() {
        let trial = |rate, work| {
            let mut chooser = Chooser::new(2);
            let mut step =
                |count, sample: &Sample| chooser.choose(count, 10, sample, || Some(SCARCE_PROCESSORS / 2.0));
            assert_eq!([2, 2, 2].map(|count| step(count, &at_rate(100.0))), [2, 2, 1]);
            [(); 4].map(|()| step(1, &Sample { workers: work, ..at_rate(rate) })).last().copied()
        };
        let work = at_rate(100.0).workers;
        assert_eq!(trial(100.0, work * 0.94), Some(1));
        assert_eq!(trial(105.0, work * 0.98), Some(1), "each takes less");
        assert_eq!(trial(100.0, work * 0.96), Some(2), "too little is saved");
        assert_eq!(trial(99.0, work * 0.5), Some(2), "less is answered");
    }

    #[test]
    fn trials_that_do_not_pay_become_rare() {
        let mut chooser = Chooser::new(2);
        let mut samples_until_trial = || {
            let samples = (1..).find(|_| chooser.choose(2, 10, &at_rate(100.0), || Some(0.0)) == 1);
            let counts: Vec<usize> =
                (0..4).map(|_| chooser.choose(1, 10, &at_rate(105.0), || Some(0.0))).collect();
            assert_eq!(counts, [1, 1, 1, 2]);
            samples.expect("a trial")
        };
        let samples: Vec<u32> = (0..10).map(|_| samples_until_trial()).collect();
        assert_eq!(samples, [3, 6, 12, 24, 48, 96, 192, 384, 640, 640]);
    }

    #[test]
    fn a_lower_limit_holds_at_once() {
        assert_eq!(after(1, 10, 3, &sample(1.0, 9.0, 100), 1.0), 3);
    }
}
