//! A thread's buffer for the flat record that it makes, in plain and packed form.

use datamodel::Bins;
use datamodel::flat::NewRecord;
use datamodel::packing::{Method, PackSettings, Packer};

use crate::metrics::CompressionFigures;

/// The flat record that was made last.
#[derive(Default)]
pub(super) struct FlatBuffer {
    plain: Vec<u8>,
    /// Whether to store the form in `packer`.
    is_packed: bool,
    packer: Packer,
}

impl FlatBuffer {
    /// Makes the flat form of `record` with `bins`, which has `size` bytes, and packs it according to `settings`.
    pub(super) fn encode(
        &mut self,
        record: &NewRecord<'_>,
        (bins, size): (&Bins<'_>, usize),
        settings: Option<&PackSettings>,
        figures: &CompressionFigures,
    ) {
        record.encode(bins, size, &mut self.plain);
        self.is_packed = false;
        let Some(settings) = settings else { return };
        self.is_packed = self.packer.pack(&self.plain, size, settings);
        if settings.method != Method::None {
            let stored = self.packed().unwrap_or(&self.plain).len();
            figures.note(self.plain.len(), Some(stored.min(self.plain.len())));
        }
    }

    /// The flat record.
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// The form to be stored, if it differs from the flat record.
    pub(super) fn packed(&self) -> Option<&[u8]> {
        self.is_packed.then(|| self.packer.packed())
    }

    /// Room for a record without bins, which is not packed.
    pub(super) fn for_tombstone(&mut self) -> &mut Vec<u8> {
        self.is_packed = false;
        &mut self.plain
    }
}
