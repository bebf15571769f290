//! Clients' requests in the form in which nodes forward them: with numbers in the byte order of the sender's
//! machine, which is little-endian.
//!
//! The C server converts the numbers of a request on receipt and forwards it in that form: the size in the
//! frame's header, the numbers of the message's header, the sizes of fields and ops, and an op's
//! last-update-time if it has one. Values do not change. Replies are forwarded in the form that the client
//! gets.

use super::fields::PeerError;
use crate::frame::{FrameType, HEADER_SIZE, VERSION};
use crate::message::MESSAGE_HEADER_SIZE;

/// The field of a proxy message that holds the request.
const FRAME_FIELD: u16 = 4;
/// Positions of the numbers in a message's header.
const HEADER_NUMBERS: [std::ops::Range<usize>; 5] = [6..10, 10..14, 14..18, 18..20, 20..22];
const FIELD_COUNT_AT: usize = 18;
const OP_COUNT_AT: usize = 20;
const SIZE_BYTES: usize = 4;
/// Offsets after the size of an op: of the flags, of the name's size, and of the name.
const OP_FLAGS_AT: usize = 2;
const OP_NAME_SIZE_AT: usize = 3;
const OP_NAME_AT: usize = 4;
const OP_FLAG_LAST_UPDATE_TIME: u8 = 1;

/// The byte order of the numbers before the conversion.
#[derive(Clone, Copy)]
enum Order {
    Wire,
    Host,
}

impl Order {
    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if matches!(self, Order::Wire) { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn size(self, bytes: &[u8], at: usize) -> Option<usize> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        let size =
            if matches!(self, Order::Wire) { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        usize::try_from(size).ok()
    }
}

/// Converts the numbers in the body of a message; `None` if fields and ops do not fill it exactly.
fn turn_around(body: &mut [u8], order: Order) -> Option<()> {
    if body.len() < MESSAGE_HEADER_SIZE {
        return None;
    }
    let (field_count, op_count) = (order.u16(body, FIELD_COUNT_AT)?, order.u16(body, OP_COUNT_AT)?);
    for number in HEADER_NUMBERS {
        body.get_mut(number)?.reverse();
    }
    let mut rest = body.get_mut(MESSAGE_HEADER_SIZE..)?;
    for _ in 0..field_count {
        (_, rest) = split_sized(rest, order)?;
    }
    for _ in 0..op_count {
        let op;
        (op, rest) = split_sized(rest, order)?;
        let (flags, name_size) = (*op.get(OP_FLAGS_AT)?, *op.get(OP_NAME_SIZE_AT)?);
        let value = op.get_mut(OP_NAME_AT + usize::from(name_size)..)?;
        if flags & OP_FLAG_LAST_UPDATE_TIME != 0 {
            value.get_mut(..size_of::<u64>())?.reverse();
        }
    }
    rest.is_empty().then_some(())
}

/// Converts the size at the start of `bytes`. Returns the part with this size, and the rest.
fn split_sized(bytes: &mut [u8], order: Order) -> Option<(&mut [u8], &mut [u8])> {
    let size = order.size(bytes, 0)?;
    let (number, rest) = bytes.split_at_mut_checked(SIZE_BYTES)?;
    number.reverse();
    rest.split_at_mut_checked(size)
}

/// The frame of a request in the machine's byte order, made from its body as a client sends it. `None` if the
/// body is not a request for a single record.
#[must_use]
pub fn to_host_order(body: &[u8]) -> Option<Vec<u8>> {
    let mut frame = vec![VERSION, FrameType::Message as u8];
    let [size @ .., _, _] = (body.len() as u64).to_le_bytes();
    frame.extend_from_slice(&size);
    frame.extend_from_slice(body);
    turn_around(frame.get_mut(HEADER_SIZE..)?, Order::Wire)?;
    Some(frame)
}

/// The body of a request as a client sends it, made from its frame in the machine's byte order.
///
/// # Errors
/// When the frame is invalid.
pub fn from_host_order(frame: &[u8]) -> Result<Vec<u8>, PeerError> {
    let invalid = PeerError::Invalid(FRAME_FIELD);
    let (header, body) = frame.split_first_chunk::<HEADER_SIZE>().ok_or(invalid)?;
    let [version, frame_type, size @ ..] = *header;
    let size = size.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    if (version, frame_type, size) != (VERSION, FrameType::Message as u8, body.len() as u64) {
        return Err(invalid);
    }
    let mut body = body.to_vec();
    turn_around(&mut body, Order::Host).ok_or(invalid)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Request;

    /// A message with one field, and one op that has a last-update-time.
    fn body() -> Vec<u8> {
        let mut body = vec![22, 1, 2, 3, 4, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 1, 0, 1];
        body.extend([0, 0, 0, 5, 0]);
        body.extend(b"test");
        body.extend([0, 0, 0, 15, 2, 1, 1, 1, b'n', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        body
    }

    #[test]
    fn numbers_are_turned_around_and_back() {
        let body = body();
        let frame = to_host_order(&body).unwrap();
        assert_eq!(frame[..8], [2, 3, body.len() as u8, 0, 0, 0, 0, 0]);
        assert_eq!(frame[8 + 14..8 + 18], [7, 0, 0, 0], "the time that it may take");
        assert_eq!(frame[8 + 22..8 + 26], [5, 0, 0, 0], "the size of the field");
        assert_eq!(frame[frame.len() - 10..], [8, 7, 6, 5, 4, 3, 2, 1, 9, 10], "last-update-time and value");
        let again = from_host_order(&frame).unwrap();
        assert_eq!(again, body);
        assert_eq!(Request::parse(&again).unwrap().transaction_ttl_ms, 7);
        for cut in 0..frame.len() {
            assert!(from_host_order(&frame[..cut]).is_err(), "cut at {cut}");
        }
        for cut in 0..body.len() {
            assert!(to_host_order(&body[..cut]).is_none(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(body) = from_host_order(&bytes) {
                prop_assert_eq!(to_host_order(&body).unwrap(), bytes);
            } else {
                let _ = to_host_order(&bytes);
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(at in 0usize..60, byte in any::<u8>()) {
            let mut frame = to_host_order(&body()).unwrap();
            let at = at % frame.len();
            frame[at] = byte;
            if let Ok(body) = from_host_order(&frame) {
                let _ = Request::parse(&body);
            }
        }
    }
}
