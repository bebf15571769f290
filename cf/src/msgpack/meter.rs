//! Meters for work whose length is not known in advance.

/// A meter that work draws on.
pub trait Meter {
    /// Whether nothing is counted.
    const IS_FREE: bool = false;

    /// Takes `steps` steps, each of about a nanosecond. `None` if no steps are left: the work then ends
    /// without a result.
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
