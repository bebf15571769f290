//! The two values of a pair of a map.

use cf::msgpack::{BLOB, Head, Reader};
use proto::ResultCode;

/// Key and value of the pair at the start of `bytes`, which may go on.
#[inline]
pub(crate) fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), ResultCode> {
    let mut reader = Reader::new(bytes);
    reader.value().map(|key| (key, reader.rest())).ok_or(ResultCode::Parameter)
}

/// The value of the pair that is `bytes`.
#[inline]
pub(crate) fn value_of(bytes: &[u8]) -> Result<&[u8], ResultCode> {
    split(bytes).map(|(_, value)| value)
}

/// Whether a value may be the key of a stored pair: integers, text and plain bytes may.
#[inline]
pub(crate) const fn is_key(head: &Head<'_>) -> bool {
    match head {
        Head::Unsigned(_) | Head::Negative(_) => true,
        Head::Raw([first, ..]) => *first == cf::msgpack::TEXT || *first == BLOB,
        _ => false,
    }
}
