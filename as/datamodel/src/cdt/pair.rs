//! The two values of a map's pair.

use cf::msgpack::{BLOB, Head, Reader};
use proto::ResultCode;

use crate::budget::Budget;

/// Key and value of the pair at the start of `bytes`, which may be followed by more bytes.
#[inline]
pub(crate) fn split<'b>(bytes: &'b [u8], budget: &Budget<'_>) -> Result<(&'b [u8], &'b [u8]), ResultCode> {
    // Small integers and short texts need no walk.
    let key_len = match bytes {
        [0x00..=0x7f | 0xe0..=0xff, ..] => 1,
        [marker @ 0xa0..=0xbf, ..] => 1 + usize::from(marker & 0x1f),
        [0xcd, ..] => 3,
        _ => return split_by_walk(bytes, budget),
    };
    bytes.split_at_checked(key_len).ok_or(ResultCode::Parameter)
}

#[inline(never)]
fn split_by_walk<'b>(bytes: &'b [u8], budget: &Budget<'_>) -> Result<(&'b [u8], &'b [u8]), ResultCode> {
    let mut reader = Reader::new(bytes);
    let key = reader.value_metered(budget);
    key.map(|key| (key, reader.rest())).ok_or(ResultCode::Parameter)
}

/// The value of the pair `bytes`.
#[inline]
pub(crate) fn value_of<'b>(bytes: &'b [u8], budget: &Budget<'_>) -> Result<&'b [u8], ResultCode> {
    split(bytes, budget).map(|(_, value)| value)
}

/// Whether a value may be the key of a stored pair: an integer, text or plain bytes.
#[inline]
pub(crate) const fn is_key(head: &Head<'_>) -> bool {
    match head {
        Head::Unsigned(_) | Head::Negative(_) => true,
        Head::Raw([first, ..]) => *first == cf::msgpack::TEXT || *first == BLOB,
        _ => false,
    }
}
