//! What compression gains, as moving averages: of what was compressed lately.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// After so many attempts the past counts half.
const ATTEMPTS_MAX: u64 = 100_000;

/// Attempts to compress something of one kind. Its cache line is shared by those who compress, which costs far more than that.
#[derive(Default)]
pub(crate) struct CompressionFigures {
    attempts: AtomicU64,
    /// Those that did not help.
    vain: AtomicU64,
    /// Bytes of what was compressed, before and after.
    original_size: AtomicU64,
    compressed_size: AtomicU64,
}

impl CompressionFigures {
    /// Something of `original_size` bytes was compressed to so many, or could not be.
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

    /// Percentage of the attempts that did not help.
    pub(crate) fn uncompressed_pct(&self) -> f64 {
        let attempts = self.attempts.load(Relaxed);
        if attempts == 0 { 0.0 } else { self.vain.load(Relaxed) as f64 * 100.0 / attempts as f64 }
    }

    /// Size of what was compressed as a share of its original size; 1 if nothing was.
    pub(crate) fn ratio(&self) -> f64 {
        let original = self.original_size.load(Relaxed);
        if original == 0 { 1.0 } else { self.compressed_size.load(Relaxed) as f64 / original as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_what_was_compressed_lately() {
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
