//! Tests of record messages: which are parsed and which are refused.

use proptest::prelude::*;

use super::*;

fn push_field(body: &mut Vec<u8>, field_type: u8, value: &[u8]) {
    body.extend_from_slice(&(u32::try_from(value.len()).unwrap() + 1).to_be_bytes());
    body.push(field_type);
    body.extend_from_slice(value);
}

fn push_op(body: &mut Vec<u8>, code: u8, name: &[u8], value: &[u8]) {
    body.extend_from_slice(&(u32::try_from(4 + name.len() + value.len()).unwrap()).to_be_bytes());
    body.extend_from_slice(&[code, 1, 0, u8::try_from(name.len()).unwrap()]);
    body.extend_from_slice(name);
    body.extend_from_slice(value);
}

fn sample() -> Vec<u8> {
    let mut body = vec![22, 1, 2, 3, 4, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 4, 0, 2];
    push_field(&mut body, field::NAMESPACE, b"test");
    push_field(&mut body, 200, b"unknown");
    push_field(&mut body, field::DIGEST, &[9; 20]);
    push_field(&mut body, field::FILTER_EXPRESSION, &[1, 2]);
    push_op(&mut body, op_code::READ, b"a", b"");
    push_op(&mut body, op_code::WRITE, b"bb", b"12345678");
    body
}

#[test]
fn a_request_is_taken_apart() {
    let body = sample();
    let request = Request::parse(&body).unwrap();
    assert_eq!((request.info1, request.info2, request.info3, request.info4), (1, 2, 3, 4));
    assert_eq!((request.generation, request.record_ttl, request.transaction_ttl_ms), (5, 6, 7));
    assert_eq!(request.namespace, Some(&b"test"[..]));
    assert_eq!(request.set_name(), b"");
    assert_eq!(request.record_digest(), Some(Digest([9; 20])));
    assert_eq!(request.field(field::FILTER_EXPRESSION), Some(&[1u8, 2][..]));
    assert_eq!(request.field(field::KEY), None);
    let ops: Vec<Op<'_>> = request.ops().collect();
    assert_eq!(ops.len(), 2);
    assert_eq!((ops[1].code, ops[1].name, ops[1].value), (op_code::WRITE, &b"bb"[..], &b"12345678"[..]));
}

#[test]
fn a_request_is_put_together_again() {
    let body = sample();
    let request = Request::parse(&body).unwrap();
    assert_eq!(request.to_body(None, None), body);
    let more = request.to_body(Some((field::SET, b"demo")), None);
    let with_set = Request::parse(&more).unwrap();
    assert_eq!((with_set.set_name(), with_set.namespace), (&b"demo"[..], Some(&b"test"[..])));
    assert_eq!(with_set.ops().collect::<Vec<_>>(), request.ops().collect::<Vec<_>>());
    let less = request.to_body(None, Some(field::DIGEST));
    let without_digest = Request::parse(&less).unwrap();
    assert_eq!((without_digest.digest, without_digest.namespace), (None, Some(&b"test"[..])));
    assert_eq!(without_digest.field(field::FILTER_EXPRESSION), Some(&[1u8, 2][..]));
    assert_eq!(without_digest.ops().collect::<Vec<_>>(), request.ops().collect::<Vec<_>>());
}

#[test]
fn every_cut_and_every_extra_byte_is_an_error() {
    let body = sample();
    for cut in 0..body.len() {
        assert!(Request::parse(&body[..cut]).is_err(), "cut at {cut}");
    }
    let mut longer = body;
    longer.push(0);
    assert_eq!(Request::parse(&longer).unwrap_err(), MessageError::TrailingBytes(1));
}

/// A batch message with these fields; `extra` is added to the length of the one at `at`.
fn batch_body(fields: &[(u8, &[u8])], at: usize, extra: i32, count: u16) -> Vec<u8> {
    let mut body = vec![22, info1::BATCH, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7];
    body.extend(count.to_be_bytes());
    body.extend([0, 0]);
    for (n, (field_type, value)) in fields.iter().enumerate() {
        let size = value.len() as i32 + 1 + if n == at { extra } else { 0 };
        body.extend(size.to_be_bytes());
        body.push(*field_type);
        body.extend(*value);
    }
    body
}

#[test]
fn fields_of_a_batch_need_only_start_in_it() {
    let fields: [(u8, &[u8]); 2] = [(field::FILTER_EXPRESSION, b"filter"), (field::BATCH, b"rows of it")];
    for extra in [-10, -3, 0, 7, i32::MAX - 20] {
        let body = batch_body(&fields, 1, extra, 2);
        let request = Request::parse(&body).unwrap();
        assert_eq!(request.batch(), Some(&b"rows of it"[..]), "length and {extra}");
        assert_eq!(request.last_field(field::FILTER_EXPRESSION), Some(&b"filter"[..]));
    }
    // A filter at the end must be complete.
    let fields_turned: [(u8, &[u8]); 2] = [fields[1], fields[0]];
    assert!(Request::parse(&batch_body(&fields_turned, 1, 0, 2)).is_ok());
    assert_eq!(Request::parse(&batch_body(&fields_turned, 1, 1, 2)).unwrap_err(), MessageError::Field(1));
    // A field before the last one that ends beyond the message leaves no room for the next.
    let others: [(u8, &[u8]); 2] = [(9, b"others"), fields[1]];
    let body = batch_body(&others, 0, 100, 2);
    assert_eq!(Request::parse(&body).unwrap_err(), MessageError::Field(1));
    assert_eq!(Request::parse(&body[..body.len() - 17]).unwrap_err(), MessageError::Field(1));
    // Rows extend to the end of the message, even over fields that the message counts.
    let body = batch_body(&[(field::BATCH, b"old"), (field::BATCH_WITH_SET, b"new"), (9, b"!")], 9, 0, 2);
    let request = Request::parse(&body).unwrap();
    assert_eq!(request.batch().unwrap(), b"new\0\0\0\x02\x09!");
    assert!(!request.has_field(9) && request.op_count() == 0);
    // A field of length 0 still has a type.
    let body = batch_body(&[(9, b""), (field::BATCH, b"rows")], 0, -1, 2);
    assert_eq!(Request::parse(&body).unwrap().batch(), None);
}

#[test]
fn the_last_filter_counts_in_batches_and_the_first_in_other_messages() {
    let twice: [(u8, &[u8]); 3] =
        [(field::FILTER_EXPRESSION, b"1"), (field::BATCH, b"rows"), (field::FILTER_EXPRESSION, b"2")];
    let body = batch_body(&twice, 9, 0, 3);
    let request = Request::parse(&body).unwrap();
    assert_eq!(request.last_field(field::FILTER_EXPRESSION), Some(&b"2"[..]));
    assert_eq!(request.field(field::FILTER_EXPRESSION), Some(&b"1"[..]));
}

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(request) = Request::parse(&bytes) {
            prop_assert_eq!(request.ops().count(), usize::from(request.op_count()));
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0usize..150, byte in any::<u8>()) {
        let mut body = sample();
        let at = at % body.len();
        body[at] = byte;
        if let Ok(request) = Request::parse(&body) {
            let _ = request.ops().map(|op| op.value.len()).sum::<usize>();
            for wanted in 0..=255 {
                let _ = request.field(wanted);
            }
        }
    }
}
