//! The gain of compression, as moving averages over recent attempts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Number of attempts at which all counts are halved.
const ATTEMPTS_MAX: u64 = 100_000;

/// Attempts to compress data of one kind. Threads that compress share its cache line, which costs far less than
/// compressing.
#[derive(Default)]
pub(crate) struct CompressionFigures {
    attempts: AtomicU64,
    /// Attempts that did not make the data smaller.
    vain: AtomicU64,
    /// Bytes that were compressed, before and after.
    original_size: AtomicU64,
    compressed_size: AtomicU64,
}

impl CompressionFigures {
    /// Notes an attempt on `original_size` bytes, with the compressed size if it succeeded.
    pub(crate) fn note(&self, original_size: usize, compressed_size: Option<usize>) {
        match compressed_size {
            Some(size) => {
                self.original_size.fetch_add(original_size as u64, Relaxed);
                self.compressed_size.fetch_add(size as u64, Relaxed);
            }
            None => {
                self.vain.fetch_add(1, Relaxed);
            }
        }
        if self.attempts.fetch_add(1, Relaxed) + 1 == ATTEMPTS_MAX {
            for figure in [&self.attempts, &self.vain, &self.original_size, &self.compressed_size] {
                figure.fetch_sub(figure.load(Relaxed) / 2, Relaxed);
            }
        }
    }

    /// Percentage of the attempts that did not make the data smaller.
    pub(crate) fn uncompressed_pct(&self) -> f64 {
        let attempts = self.attempts.load(Relaxed);
        if attempts == 0 { 0.0 } else { self.vain.load(Relaxed) as f64 * 100.0 / attempts as f64 }
    }

    /// Compressed size as a share of the original size; 1 if nothing was compressed.
    pub(crate) fn ratio(&self) -> f64 {
        let original = self.original_size.load(Relaxed);
        if original == 0 { 1.0 } else { self.compressed_size.load(Relaxed) as f64 / original as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_recent_attempts() {
        let figures = CompressionFigures::default();
        assert_eq!((figures.uncompressed_pct(), figures.ratio()), (0.0, 1.0));
        figures.note(1000, Some(250));
        figures.note(1000, None);
        assert_eq!((figures.uncompressed_pct(), figures.ratio()), (50.0, 0.25));
        for _ in 0..ATTEMPTS_MAX * 20 {
            figures.note(1000, Some(500));
        }
        assert!(figures.uncompressed_pct() < 0.01);
        assert!((0.4999..=0.5).contains(&figures.ratio()));
    }
}
