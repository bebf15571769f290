//! Compares each operation with the same operation on a vector of bools, and tests edge cases.

use proptest::prelude::*;

use super::*;
use crate::budget::unlimited;
use crate::change::Change;

/// The operation, with and without a limit of its budget.
fn read(bin: Option<&Particle<'_>>, payload: &[u8]) -> Result<Option<Particle<'static>>, ResultCode> {
    unlimited(|budget| super::read(bin, payload, budget))
}

/// The operation, with and without a limit of its budget.
fn modify(bin: Option<&Particle<'_>>, payload: &[u8]) -> Result<Modified, ResultCode> {
    unlimited(|budget| super::modify(bin, payload, budget))
}

/// Msgpack of a request, in the forms that clients use.
struct Request(Vec<u8>);

impl Request {
    fn new(code: u64) -> Self {
        Request(vec![0x91]).integer_without_count(code.cast_signed())
    }

    fn integer_without_count(mut self, value: i64) -> Self {
        cf::msgpack::put_integer(&mut self.0, value);
        self
    }

    fn integer(mut self, value: i64) -> Self {
        self.0[0] += 1;
        self.integer_without_count(value)
    }

    fn unsigned(mut self, value: u64) -> Self {
        self.0[0] += 1;
        cf::msgpack::put_unsigned(&mut self.0, value);
        self
    }

    fn wanted(mut self, value: bool) -> Self {
        self.0[0] += 1;
        self.0.push(0xc2 | u8::from(value));
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0[0] += 1;
        cf::msgpack::put_raw_header(&mut self.0, bytes.len() as u32 + 1);
        self.0.push(4);
        self.0.extend_from_slice(bytes);
        self
    }
}

fn blob(bytes: &[u8]) -> Particle<'static> {
    Particle::owned(BytesType::Blob, bytes.to_vec())
}

fn modified(old: Option<&[u8]>, request: &Request) -> Result<Option<Vec<u8>>, ResultCode> {
    let old = old.map(blob);
    let modified = modify(old.as_ref(), &request.0)?;
    assert_eq!(modified.result, None);
    Ok(match modified.bin {
        Change::Unchanged => None,
        Change::Set(Particle::Bytes(BytesType::Blob, bytes)) => Some(bytes.into_owned()),
        other => panic!("{other:?}"),
    })
}

fn answered(bytes: &[u8], request: &Request) -> Result<Particle<'static>, ResultCode> {
    read(Some(&blob(bytes)), &request.0).map(|answer| answer.expect("a blob answers"))
}

fn bits_of(bytes: &[u8]) -> Vec<bool> {
    (0..bytes.len() * 8).map(|at| bytes[at / 8] & 0x80 >> (at % 8) != 0).collect()
}

fn bytes_of(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8)
        .map(|byte| byte.iter().enumerate().fold(0, |sum, (at, &bit)| sum | u8::from(bit) << (7 - at)))
        .collect()
}

fn number_of(bits: &[bool]) -> u128 {
    bits.iter().fold(0, |sum, &bit| sum << 1 | u128::from(bit))
}

const SET: u64 = 3;
const ADD: u64 = 10;
const SUBTRACT: u64 = 11;
const SIGNED: i64 = 1;
const SATURATE: i64 = 2;
const WRAP: i64 = 4;

#[test]
fn flags_determine_whether_the_bin_may_exist() {
    let insert = |flags| Request::new(1).integer(0).bytes(b"x").integer(flags);
    assert_eq!(modified(Some(b"a"), &insert(1)), Err(ResultCode::BinExists));
    assert_eq!(modified(Some(b"a"), &insert(1 | 4)), Ok(None));
    assert_eq!(modified(None, &insert(2)), Err(ResultCode::BinNotFound));
    assert_eq!(modified(None, &insert(2 | 4)), Ok(None));
    assert_eq!(modified(None, &insert(0)), Ok(Some(b"x".to_vec())));
    assert_eq!(modified(None, &insert(3)), Err(ResultCode::Parameter));
    assert_eq!(modified(None, &insert(8)), Err(ResultCode::Parameter));
    let not = Request::new(7).integer(0).integer(8);
    assert_eq!(modified(None, &not), Err(ResultCode::BinNotFound));
    assert_eq!(read(None, &[0xc0]), Ok(None), "a missing bin is not even asked");
    assert_eq!(modify(Some(&Particle::Integer(1)), &not.0), Err(ResultCode::IncompatibleType));
    assert_eq!(modify(Some(&Particle::Integer(1)), &insert(1).0), Err(ResultCode::BinExists));
}

#[test]
fn sizes_change_at_either_end() {
    let resize = |size, flags, subflags| Request::new(0).integer(size).integer(flags).integer(subflags);
    assert_eq!(modified(Some(b"abc"), &resize(5, 0, 0)), Ok(Some(b"abc\0\0".to_vec())));
    assert_eq!(modified(Some(b"abc"), &resize(5, 0, 1)), Ok(Some(b"\0\0abc".to_vec())));
    assert_eq!(modified(Some(b"abc"), &resize(1, 0, 0)), Ok(Some(b"a".to_vec())));
    assert_eq!(modified(Some(b"abc"), &resize(1, 0, 1)), Ok(Some(b"c".to_vec())));
    assert_eq!(modified(Some(b"abc"), &resize(3, 0, 0)), Ok(None));
    assert_eq!(modified(Some(b"abc"), &resize(1, 0, 2)), Err(ResultCode::Parameter));
    assert_eq!(modified(Some(b"abc"), &resize(1, 4, 2)), Ok(None));
    assert_eq!(modified(Some(b"abc"), &resize(5, 0, 4)), Err(ResultCode::Parameter));
    assert_eq!(modified(Some(b"abc"), &resize(5, 0, 6)), Err(ResultCode::Parameter));
    assert_eq!(modified(None, &resize(2, 0, 1)), Ok(Some(vec![0, 0])));
    assert_eq!(modified(None, &resize(0, 0, 0)), Ok(None));
    assert_eq!(modified(Some(b"abc"), &resize(0, 0, 0)), Ok(Some(vec![])));
    assert_eq!(modified(None, &resize(128 << 20, 4, 0)), Err(ResultCode::Parameter));
    assert_eq!(modified(None, &resize((128 << 20) + 1, 0, 0)), Err(ResultCode::Parameter));
}

#[test]
fn bytes_are_inserted_beyond_the_end_too_but_removed_only_within() {
    let insert = |offset| Request::new(1).integer(offset).bytes(b"xy");
    assert_eq!(modified(Some(b"abc"), &insert(1)), Ok(Some(b"axybc".to_vec())));
    assert_eq!(modified(Some(b"abc"), &insert(-1)), Ok(Some(b"abxyc".to_vec())));
    assert_eq!(modified(Some(b"abc"), &insert(5)), Ok(Some(b"abc\0\0xy".to_vec())));
    assert_eq!(modified(Some(b"abc"), &insert(-4)), Err(ResultCode::Parameter));
    assert_eq!(modified(None, &insert(-1)), Err(ResultCode::Parameter));
    assert_eq!(modified(None, &insert(128 << 20)), Err(ResultCode::Parameter));
    assert_eq!(modified(None, &insert(i64::MIN + 1)), Err(ResultCode::Parameter));
    assert_eq!(
        modified(Some(b"abc"), &insert(i64::MIN)),
        Ok(Some(b"xyabc".to_vec())),
        "as the reference does"
    );
    let remove = |offset, size, flags| Request::new(2).integer(offset).integer(size).integer(flags);
    assert_eq!(modified(Some(b"abc"), &remove(1, 1, 0)), Ok(Some(b"ac".to_vec())));
    assert_eq!(modified(Some(b"abc"), &remove(-1, 1, 0)), Ok(Some(b"ab".to_vec())));
    assert_eq!(modified(Some(b"abc"), &remove(1, 3, 0)), Err(ResultCode::Parameter));
    assert_eq!(modified(Some(b"abc"), &remove(1, 3, 4)), Ok(None));
    assert_eq!(modified(Some(b"abc"), &remove(1, 3, 8)), Ok(Some(b"a".to_vec())));
    assert_eq!(modified(Some(b"abc"), &remove(3, 1, 8)), Err(ResultCode::Parameter));
    assert_eq!(modified(Some(b"abc"), &remove(0, 0, 0)), Err(ResultCode::Parameter));
    assert_eq!(modified(Some(b"abc"), &Request::new(1).integer(0).bytes(b"")), Err(ResultCode::Parameter));
}

#[test]
fn subflags_determine_the_overflow_of_integers() {
    let apply = |code, bytes: &[u8], value: i64, subflags| {
        let request = Request::new(code).integer(0).integer(8).integer(value).integer(0).integer(subflags);
        modified(Some(bytes), &request).map(|bytes| bytes.unwrap()[0])
    };
    assert_eq!(apply(ADD, &[250], 5, 0), Ok(255));
    assert_eq!(apply(ADD, &[250], 6, 0), Err(ResultCode::OpNotApplicable));
    assert_eq!(apply(ADD, &[250], 6, SATURATE), Ok(255));
    assert_eq!(apply(ADD, &[250], 6, WRAP), Ok(0));
    assert_eq!(apply(SUBTRACT, &[5], 6, 0), Err(ResultCode::OpNotApplicable));
    assert_eq!(apply(SUBTRACT, &[5], 6, SATURATE), Ok(0));
    assert_eq!(apply(SUBTRACT, &[5], 6, WRAP), Ok(255));
    assert_eq!(apply(ADD, &[127], 1, SIGNED), Err(ResultCode::OpNotApplicable));
    assert_eq!(apply(ADD, &[127], 1, SIGNED | SATURATE), Ok(127));
    assert_eq!(apply(SUBTRACT, &[0x81], 2, SIGNED | SATURATE), Ok(0x80));
    assert_eq!(apply(ADD, &[127], 1, SIGNED | WRAP), Ok(128));
    assert_eq!(apply(ADD, &[0x80], -128, SIGNED), Ok(0), "a sum of zero is no overflow");
    assert_eq!(apply(SUBTRACT, &[1], -128, SIGNED), Ok(0x81), "the least value has no negative");
    assert_eq!(apply(ADD, &[0], 0, SATURATE | WRAP), Err(ResultCode::Parameter));
    let no_fail = Request::new(ADD).integer(0).integer(8).integer(6).integer(4).integer(0);
    assert_eq!(modified(Some(&[250]), &no_fail), Ok(None));
}

#[test]
fn a_scan_from_the_right_continues_to_the_start_of_the_byte() {
    let scan = |bytes: &[u8], offset, size, wanted| {
        answered(bytes, &Request::new(53).integer(offset).integer(size).wanted(wanted))
    };
    assert_eq!(scan(&[0b0100_0000], 5, 3, true), Ok(Particle::Integer(-4)));
    assert_eq!(scan(&[0xff, 0b0100_0000, 0], 13, 10, true), Ok(Particle::Integer(-4)));
    assert_eq!(scan(&[0xff, 0, 0], 13, 10, true), Ok(Particle::Integer(-1)));
    assert_eq!(scan(&[0xff, 0b0000_0100, 1], 13, 10, true), Ok(Particle::Integer(0)));
}

#[test]
fn malformed_requests_are_refused() {
    for payload in [
        &[][..],
        &[0x90],
        &[0xc0],
        &[0x91, 0xc0],
        &[0x91, 13],
        &[0x91, 49],
        &[0x91, 55],
        &[0x93, 3, 0, 8],
        &[0x94, 3, 0, 8, 0xa0],
        &[0x94, 3, 0, 9, 0xa2, 4, 1],
        &[0x95, 7, 0, 8, 0, 0],
        &[0x93, 7, 0, 0],
        &[0x93, 50, 0],
        &[0x93, 54, 0, 65],
        &[0x94, 52, 0, 8, 1],
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 7, 0, 8, 0],
    ] {
        assert_eq!(read(Some(&blob(b"ab")), payload), Err(ResultCode::Parameter), "{payload:x?}");
        assert_eq!(modify(Some(&blob(b"ab")), payload), Err(ResultCode::Parameter), "{payload:x?}");
    }
    // Numbers may have any width; bytes after the list are ignored.
    let wide = [0x93, 0xd1, 0, 50, 0xcf, 0, 0, 0, 0, 0, 0, 0, 8, 0xd3, 0, 0, 0, 0, 0, 0, 0, 4, 0xc1];
    assert_eq!(read(Some(&blob(b"ab")), &wide), Ok(Some(blob(&[0x60]))));
}

/// A blob and a region mostly within it: offset (negative or not), size in bits, operand bytes, shift.
fn cases() -> impl Strategy<Value = (Vec<u8>, i64, u64, Vec<u8>, u64)> {
    prop::collection::vec(any::<u8>(), 0..60).prop_flat_map(|bytes| {
        let bits = bytes.len() as i64 * 8;
        let offsets = prop_oneof![8 => -bits..bits.max(1), 1 => -bits - 20..bits + 20];
        let sizes = prop_oneof![4 => 1..bits.max(1) as u64 + 1, 2 => 1..70u64];
        let operand = prop::collection::vec(any::<u8>(), 0..70);
        (Just(bytes), offsets, sizes, operand, 0..520u64)
    })
}

/// The region, computed in another way: its first bit and its end.
fn region(bytes: &[u8], offset: i64, size: u64, partial: bool) -> Result<(usize, usize), ResultCode> {
    let bits = bytes.len() as i64 * 8;
    let first = if offset < 0 { bits + offset } else { offset };
    let end = first + size.cast_signed();
    match () {
        () if first < 0 => Err(ResultCode::Parameter),
        () if first >= bits || end > bits && !partial => Err(ResultCode::OpNotApplicable),
        () => Ok((first as usize, end.min(bits) as usize)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn regions_are_rewritten_as_bools_are(case in cases(), code in 3..10u64, flags in prop::sample::select(vec![0i64, 4, 8, 12])) {
        let (bytes, offset, size, operand, shift) = case;
        let request = Request::new(code).integer(offset).unsigned(size);
        let request = match code {
            3..=6 => request.bytes(&operand),
            8 | 9 => request.unsigned(shift),
            _ => request,
        }.integer(flags);
        let expected = if code <= 6 && (operand.len() as u64 * 8 < size || operand.is_empty()) {
            Err(ResultCode::Parameter)
        } else {
            region(&bytes, offset, size, flags & 8 != 0).map(|(first, end)| {
                let operand = bits_of(&operand);
                let old = bits_of(&bytes);
                let mut new = old.clone();
                for at in first..end {
                    let given = || operand[at - first];
                    new[at] = match code {
                        3 => given(),
                        4 => old[at] | given(),
                        5 => old[at] ^ given(),
                        6 => old[at] & given(),
                        7 => !old[at],
                        8 => at + (shift as usize) < end && old[at + shift as usize],
                        _ => at >= first + shift as usize && old[at - shift as usize],
                    };
                }
                Some(bytes_of(&new))
            })
        };
        let expected = if flags & 4 != 0 && expected == Err(ResultCode::OpNotApplicable) { Ok(None) } else { expected };
        prop_assert_eq!(modified(Some(&bytes), &request), expected);
    }

    #[test]
    fn regions_are_read_as_bools_are(case in cases(), wanted: bool) {
        let (bytes, offset, size, _, _) = case;
        let ask = |code| Request::new(code).integer(offset).unsigned(size);
        let region = region(&bytes, offset, size, false);
        let bits = bits_of(&bytes);
        let of = |f: &dyn Fn(usize, &[bool]) -> Particle<'static>| region.map(|(first, end)| f(first, &bits[first..end]));
        let position = |at: Option<usize>| Particle::Integer(at.map_or(-1, |at| at as i64));
        prop_assert_eq!(answered(&bytes, &ask(50)), of(&|_, bits| blob(&bytes_of(bits))));
        prop_assert_eq!(answered(&bytes, &ask(51)), of(&|_, bits| Particle::Integer(bits.iter().filter(|&&bit| bit).count() as i64)));
        prop_assert_eq!(answered(&bytes, &ask(52).wanted(wanted)), of(&|_, bits| position(bits.iter().position(|&bit| bit == wanted))));
        let last = of(&|first, found| match found.iter().rposition(|&bit| bit == wanted) {
            None => {
                let before = bits[first / 8 * 8..first].iter().rposition(|&bit| bit == wanted);
                Particle::Integer(before.map_or(-1, |at| at as i64 - (first % 8) as i64))
            }
            at => position(at),
        });
        prop_assert_eq!(answered(&bytes, &ask(53).wanted(wanted)), last);
    }

    #[test]
    fn integers_are_read_and_added_as_wide_ones_are(case in cases(), size in 1..65u64, value: u64, subflags in prop::sample::select(vec![0i64, 1, 2, 3, 4, 5]), code in 10..13u64) {
        let (bytes, offset, ..) = case;
        let region = region(&bytes, offset, size, false);
        let bits = bits_of(&bytes);
        let signed = |number: u128| if subflags & SIGNED != 0 && number >> (size - 1) & 1 == 1 { number.cast_signed() - (1 << size) } else { number.cast_signed() };
        let read = Request::new(54).integer(offset).unsigned(size).integer(subflags & SIGNED);
        let expected = region.map(|(first, end)| Particle::Integer(signed(number_of(&bits[first..end])) as i64));
        prop_assert_eq!(answered(&bytes, &read), expected);

        let request = Request::new(code).integer(offset).unsigned(size).unsigned(value).integer(0);
        let request = if code == 12 { request } else { request.integer(subflags) };
        let mask = (1u128 << size) - 1;
        let expected = region.and_then(|(first, end)| {
            let left = signed(number_of(&bits[first..end]));
            let right = signed(u128::from(value) & mask);
            let exact = match code { 10 => left + right, 11 => left - right, _ => right };
            let (least, largest) = match subflags & SIGNED {
                0 => (0, mask.cast_signed()),
                _ => (-(1i128 << (size - 1)), (1i128 << (size - 1)) - 1),
            };
            // The C server does not count these as overflows.
            let zero = exact.cast_unsigned() & mask == 0;
            let least_negated = code == 11 && right == least;
            let unnoticed = code == 12 || subflags & WRAP != 0 || subflags & SIGNED != 0 && (zero || least_negated);
            let result = match () {
                () if unnoticed => exact,
                () if exact > largest && subflags & SATURATE != 0 => largest,
                () if exact < least && subflags & SATURATE != 0 => least,
                () if exact > largest || exact < least => return Err(ResultCode::OpNotApplicable),
                () => exact,
            };
            let mut new = bits.clone();
            for (at, bit) in new[first..end].iter_mut().enumerate() {
                *bit = result.cast_unsigned() >> (end - first - 1 - at) & 1 == 1;
            }
            Ok(Some(bytes_of(&new)))
        });
        if subflags & SIGNED == 0 || code != 11 || signed(u128::from(value) & mask) != -(1i128 << (size - 1)) {
            prop_assert_eq!(modified(Some(&bytes), &request), expected);
        }
    }

    #[test]
    fn any_payload_is_answered(payload in prop::collection::vec(prop_oneof![0..16u8, any::<u8>()], 0..24), bytes: Vec<u8>, count in 0..6u8, code in prop_oneof![0..13u8, 50..55u8]) {
        let particle = blob(&bytes);
        let list = [&[0x90 | count, code], &payload[..]].concat();
        for payload in [&payload, &list] {
            let _ = read(Some(&particle), payload);
            let _ = modify(Some(&particle), payload);
            let _ = modify(None, payload);
        }
    }
}

#[test]
fn large_values_are_written_across_words() {
    let old = vec![0u8; 100_000];
    let value: Vec<u8> = (0..99_999u32).map(|at| (at * 7) as u8).collect();
    let request = Request::new(SET).integer(3).unsigned(99_999 * 8).bytes(&value);
    let new = modified(Some(&old), &request).unwrap().unwrap();
    assert_eq!(answered(&new, &Request::new(50).integer(3).unsigned(99_999 * 8)), Ok(blob(&value)));
    assert_eq!(new[0] & 0xe0, 0);
    assert_eq!(new[99_999] & 0x1f, 0);
}
