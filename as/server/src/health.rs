//! The health check: disks that are slower than comparable ones are outliers.
//!
//! The check is on with `enable-health-check`. It compares the disks of each namespace by the average time of
//! reading a record. It does not compare nodes.
//!
//! # Threads
//! The ticker measures; info threads read its results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::Config;
use crate::namespace::Namespace;

/// Time between two evaluations, and the interval of the averages.
const INTERVAL: Duration = Duration::from_secs(60);
/// An outlier exceeds the third quartile by more than this many times the distance between the first and the
/// third.
const SPREADS: f64 = 3.0;
/// Minimum confidence, in percent, with which a disk counts as an outlier.
const CONFIDENCE_PCT_MIN: u32 = 50;
/// Minimum number of disks for one to be an outlier.
const COMPARED_MIN: usize = 3;

/// Name of the averages.
pub(crate) const DEVICE_READ_LATENCY: &str = "device_read_latency";

/// A disk that is slower than comparable ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outlier {
    pub(crate) namespace: String,
    pub(crate) path: String,
    pub(crate) confidence_pct: u32,
}

/// Results of the check.
#[derive(Default)]
pub(crate) struct Health {
    is_on: AtomicBool,
    outliers: Mutex<Vec<Outlier>>,
}

impl Health {
    /// Whether the check is on.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Outliers found by the last evaluation.
    pub(crate) fn outliers(&self) -> Vec<Outlier> {
        self.outliers.lock().clone()
    }

    fn switch(&self, namespaces: &[Arc<Namespace>], is_on: bool) {
        namespaces.iter().for_each(|namespace| namespace.storage.switch_health(is_on));
        self.outliers.lock().clear();
        self.is_on.store(is_on, Relaxed);
    }

    fn judge(&self, namespaces: &[Arc<Namespace>]) {
        let mut found = Vec::new();
        for namespace in namespaces {
            let averages = namespace.storage.read_health();
            namespace.storage.move_health_window();
            found.extend(outliers(averages).into_iter().map(|(path, confidence_pct)| Outlier {
                namespace: namespace.name().to_owned(),
                path,
                confidence_pct,
            }));
        }
        for Outlier { namespace, path, confidence_pct } in &found {
            cf::warning!(
                Health,
                "outlier {path}: namespace {namespace} confidence-pct {confidence_pct} reason {DEVICE_READ_LATENCY}"
            );
        }
        *self.outliers.lock() = found;
    }
}

/// The part of the check that the ticker runs.
#[derive(Default)]
pub(crate) struct HealthMonitor {
    /// Time of the last evaluation, or when the check was switched on.
    judged: Option<Instant>,
}

impl HealthMonitor {
    /// Follows the configuration, and evaluates the averages when it is time.
    pub(crate) fn check(&mut self, config: &Config, namespaces: &[Arc<Namespace>], health: &Health) {
        match (config.service.enable_health_check.get(), self.judged) {
            (true, None) => {
                health.switch(namespaces, true);
                self.judged = Some(Instant::now());
            }
            (true, Some(before)) if before.elapsed() >= INTERVAL => {
                health.judge(namespaces);
                self.judged = Some(Instant::now());
            }
            (false, Some(_)) => {
                health.switch(namespaces, false);
                self.judged = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}

/// Members of `averages` that are far above the others, with the confidence in percent.
fn outliers(mut averages: Vec<(String, f64)>) -> Vec<(String, u32)> {
    if averages.len() < COMPARED_MIN {
        return Vec::new();
    }
    averages.sort_by(|a, b| a.1.total_cmp(&b.1));
    let last = averages.len() - 1;
    let median_at = last / 2;
    let median = averages[median_at].1;
    let (first_quarter, third_quarter) =
        (averages[(median_at - 1) / 2].1, averages[(median_at + last) / 2].1);
    let bound = third_quarter + SPREADS * (third_quarter - first_quarter);
    averages
        .into_iter()
        .filter(|(_, average)| *average > bound && *average > 0.0)
        .map(|(name, average)| (name, ((average - median) * 100.0 / average + 0.5) as u32))
        .filter(|(_, confidence_pct)| *confidence_pct >= CONFIDENCE_PCT_MIN)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(averages: &[f64]) -> Vec<(String, u32)> {
        outliers(averages.iter().enumerate().map(|(at, average)| (at.to_string(), *average)).collect())
    }

    #[test]
    fn outliers_are_far_above_the_others() {
        assert_eq!(found(&[100.0, 110.0, 5000.0, 90.0, 100.0]), [("2".to_owned(), 98)]);
        assert!(found(&[100.0, 5000.0]).is_empty(), "two cannot be told apart");
        assert!(found(&[100.0, 110.0, 120.0, 130.0]).is_empty());
        assert!(found(&[100.0, 100.0, 100.0, 150.0]).is_empty(), "half as much again is not sure enough");
        assert!(found(&[0.0; 5]).is_empty(), "nobody reads");
        assert!(found(&[]).is_empty());
    }

    /// The numbers are computed by hand from the C server's rule, just above and just below each bound.
    #[test]
    fn the_bounds_are_those_of_the_established_server() {
        let none: [(&str, u32); 0] = [];
        // The quartiles 100 and 112 make a bound of 148; from 214 on the confidence is enough, as 49.53 is rounded.
        check(&[112.0, 100.0, 213.0, 108.0, 104.0], &none);
        check(&[112.0, 100.0, 214.0, 108.0, 104.0], &[("2", 50)]);
        // The quartiles 10 and 190 make a bound of 730; a value of 730 is not above it.
        check(&[10.0, 10.0, 100.0, 190.0, 730.0], &none);
        check(&[10.0, 10.0, 100.0, 190.0, 731.0], &[("4", 86)]);
        // The quartiles of three are the lower two.
        check(&[100.0, 100.0, 400.0], &[("2", 75)]);
        check(&[100.0, 50.0, 251.0], &[("2", 60)]);
        check(&[100.0, 50.0, 250.0], &none);
        // The third quartile of four is the third.
        check(&[1.0, 2.0, 3.0, 9.0], &none);
        check(&[1.0, 2.0, 3.0, 9.1], &[("3", 78)]);
        // There may be several outliers.
        check(&[60.0, 1.0, 1.0, 1.0, 50.0, 1.0], &[("4", 98), ("0", 98)]);
    }

    fn check(averages: &[f64], expected: &[(&str, u32)]) {
        let expected: Vec<_> = expected.iter().map(|(name, pct)| ((*name).to_owned(), *pct)).collect();
        assert_eq!(found(averages), expected, "{averages:?}");
    }
}
