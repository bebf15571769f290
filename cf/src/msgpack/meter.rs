//! Work of a length that nobody knows beforehand, counted as it goes.

/// What such work draws on.
pub trait Meter {
    /// Nothing is counted.
    const IS_FREE: bool = false;

    /// Takes so many steps, each of about a nanosecond. `None` if they are not to be had: then the work ends without a
    /// result.
    fn draw(&self, steps: usize) -> Option<()>;
}

/// Counts nothing.
impl Meter for () {
    const IS_FREE: bool = true;

    #[inline]
    fn draw(&self, _steps: usize) -> Option<()> {
        Some(())
    }
}
