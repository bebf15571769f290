//! Histograms over the records of a namespace and of each of its sets: times to live and sizes.
//!
//! They are kept as the texts that tools ask for and made anew every `nsup-hist-period` seconds. Formats:
//! `units=seconds:hist-width=<w>:bucket-width=<w>:buckets=<n>,<n>,…` with buckets of equal width, and
//! `units=bytes:[64-128)=<n>:[128-256)=<n>…` with the non-empty buckets of doubling width.
//!
//! # Locks
//! The texts are replaced as a whole; their lock is held only to read or replace them.

use parking_lot::Mutex;

use crate::index::SetId;

/// The property that a histogram counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordHistogram {
    /// Seconds to live. Records that never expire count as 0 seconds.
    Ttl,
    /// Bytes in storage, in buckets of doubling width.
    ObjectSize,
    /// Bytes in storage, in buckets of equal width up to `max-record-size`.
    ObjectSizeLinear,
}

impl RecordHistogram {
    /// The histogram that tools call `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "ttl" => Some(RecordHistogram::Ttl),
            "object-size" => Some(RecordHistogram::ObjectSize),
            "object-size-linear" => Some(RecordHistogram::ObjectSizeLinear),
            _ => None,
        }
    }
}

/// The texts of the last histograms.
pub(crate) struct RecordHistograms(Mutex<Vec<Texts>>);

/// The texts of a namespace or set.
pub(super) struct Texts {
    pub(super) ttl: String,
    pub(super) size: String,
    pub(super) size_linear: String,
}

impl RecordHistograms {
    pub(in crate::namespace) fn new() -> Self {
        RecordHistograms(Mutex::new(Vec::new()))
    }

    /// The histogram of a set, or with [`SetId::NONE`] of the namespace; `None` if none was made yet.
    pub(crate) fn text(&self, histogram: RecordHistogram, set: SetId) -> Option<String> {
        let all = self.0.lock();
        let texts = all.get(usize::from(set.0))?;
        Some(match histogram {
            RecordHistogram::Ttl => texts.ttl.clone(),
            RecordHistogram::ObjectSize => texts.size.clone(),
            RecordHistogram::ObjectSizeLinear => texts.size_linear.clone(),
        })
    }

    /// Replaces the texts: of the namespace, then of each set.
    pub(super) fn replace(&self, texts: Vec<Texts>) {
        *self.0.lock() = texts;
    }
}
