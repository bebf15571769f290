//! Collecting the histograms over the records of a namespace: one sprig lock at a time, shared.

use std::fmt::Write;

use cf::linear_histogram::LinearHistogram;

use super::expiry::survey;
use super::record_histograms::Texts;
use crate::index::{Element, PartitionId};
use crate::namespace::{Namespace, stored_size};

/// Buckets of the times to live.
const TTL_BUCKETS: u32 = 100;
/// Buckets of equal width of the sizes.
const SIZE_BUCKETS: u32 = 1024;
/// Buckets of doubling width of the sizes: one for 0, one for each highest bit of 32.
const DOUBLING_BUCKETS: usize = 33;

/// Makes all histograms again, if there are records.
pub(super) fn collect_histograms(namespace: &Namespace, now_seconds: u32) {
    if namespace.object_count() == 0 {
        return;
    }
    cf::info!(Nsup, "{{{}}} collecting ttl & object size info ...", namespace.name());
    for partition in PartitionId::all().filter(|partition| namespace.expiry.is_dirty(*partition)) {
        survey(namespace, partition);
    }
    let range = namespace.expiry.latest().saturating_sub(now_seconds);
    let size_max = namespace.config().params.max_record_size.get();
    // The first tally is the namespace's.
    let mut all: Vec<Tally> =
        (0..=namespace.sets.iter().count()).map(|_| Tally::new(now_seconds, range, size_max)).collect();
    for partition in PartitionId::all() {
        namespace.index.for_each(partition, |element| {
            if element.is_tombstone() {
                return;
            }
            let of_set = usize::from(element.set_id.0);
            // A set that was made meanwhile is counted the next time.
            let tallies = [Some(0), (of_set != 0).then_some(of_set)];
            for at in tallies.into_iter().flatten() {
                if let Some(tally) = all.get_mut(at) {
                    tally.add(element);
                }
            }
        });
    }
    namespace.record_histograms.replace(all.iter().map(Tally::texts).collect());
    cf::info!(Nsup, "{{{}}} ... done collecting ttl & object size info", namespace.name());
}

/// Histograms being filled.
struct Tally {
    ttl: LinearHistogram,
    sizes: [u64; DOUBLING_BUCKETS],
    sizes_linear: LinearHistogram,
}

impl Tally {
    fn new(now_seconds: u32, range_seconds: u32, size_max: u32) -> Self {
        Tally {
            ttl: LinearHistogram::new(now_seconds, range_seconds, TTL_BUCKETS),
            sizes: [0; DOUBLING_BUCKETS],
            sizes_linear: LinearHistogram::new(0, size_max, SIZE_BUCKETS),
        }
    }

    fn add(&mut self, element: &Element) {
        let size = u32::try_from(stored_size(element)).unwrap_or(u32::MAX);
        self.ttl.add(element.void_time, 1);
        self.sizes[(u32::BITS - size.leading_zeros()) as usize] += 1;
        self.sizes_linear.add(size, 1);
    }

    fn texts(&self) -> Texts {
        let mut size = String::from("units=bytes");
        for (at, count) in self.sizes.iter().enumerate().filter(|(_, count)| **count != 0) {
            let low = if at == 0 { 0 } else { 1 << (at - 1) };
            let _ = write!(size, ":[{}-{})={count}", short_size(low), short_size(1 << at));
        }
        Texts {
            ttl: linear_text("seconds", &self.ttl),
            size,
            size_linear: linear_text("bytes", &self.sizes_linear),
        }
    }
}

fn linear_text(units: &str, histogram: &LinearHistogram) -> String {
    let mut text = format!(
        "units={units}:hist-width={}:bucket-width={}:buckets=",
        histogram.width(),
        histogram.bucket_width()
    );
    for (at, (_, count)) in histogram.buckets().enumerate() {
        let _ = write!(text, "{}{count}", if at == 0 { "" } else { "," });
    }
    text
}

/// A power of two with the suffix of its magnitude.
fn short_size(size: u64) -> String {
    match size {
        0..1024 => size.to_string(),
        0x400..0x10_0000 => format!("{}K", size >> 10),
        0x10_0000..0x4000_0000 => format!("{}M", size >> 20),
        _ => format!("{}G", size >> 30),
    }
}
