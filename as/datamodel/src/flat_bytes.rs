//! Code shared by readers and writers of flat records: varying numbers, and errors.

/// The reason why bytes are not a readable record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlatError {
    /// The magic is missing.
    Magic,
    /// The stated size goes beyond the given bytes, or the parts go beyond the stated size.
    Size,
    /// Generation 0; or a set name, key, number of bins or bin name out of range.
    Metadata,
    /// The record has parts that only another or newer version knows.
    Unsupported,
    /// The checksum shows that a packed record is not what was stored.
    Checksum,
    /// A bin's particle is damaged.
    Particle,
    /// The end mark does not match digest and last-update-time.
    EndMark,
}

impl std::fmt::Display for FlatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FlatError::Magic => "no record magic",
            FlatError::Size => "record size does not fit",
            FlatError::Metadata => "bad record metadata",
            FlatError::Unsupported => "unsupported record features",
            FlatError::Checksum => "checksum does not fit",
            FlatError::Particle => "bad particle",
            FlatError::EndMark => "bad end mark",
        })
    }
}

#[inline]
pub(crate) fn take<'a>(rest: &mut &'a [u8], size: usize) -> Result<&'a [u8], FlatError> {
    let (taken, after) = rest.split_at_checked(size).ok_or(FlatError::Size)?;
    *rest = after;
    Ok(taken)
}

#[inline]
pub(crate) fn take_chunk<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], FlatError> {
    let (taken, after) = rest.split_first_chunk().ok_or(FlatError::Size)?;
    *rest = after;
    Ok(taken)
}

pub(crate) fn take_varying(rest: &mut &[u8]) -> Result<usize, FlatError> {
    let mut value = 0usize;
    for _ in 0..5 {
        let [byte] = *take_chunk(rest)?;
        value = value << 7 | usize::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(FlatError::Metadata)
}

pub(crate) fn varying_size(value: usize) -> usize {
    let bits = usize::BITS - value.leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

pub(crate) fn write_varying(value: usize, out: &mut Vec<u8>) {
    for at in (0..varying_size(value)).rev() {
        let more = if at == 0 { 0 } else { 0x80 };
        out.push((value >> (7 * at)) as u8 & 0x7F | more);
    }
}
