//! Invalid bytes from clients or storage lead to errors and do no harm.

use proptest::collection::vec;
use proptest::prelude::*;
use proto::ResultCode;

use super::value::{Random, Value};
use super::{list_from_wire, map_from_wire, modify, read};
use crate::budget::Budget;
use crate::cdt::{list_to_wire, value_at};
use crate::change::Change;
use crate::particle::{BytesType, Particle};

/// Calls with every code, few arguments and short contexts. Most are of the right kind.
fn random_call(random: &mut Random) -> Value {
    let argument = |random: &mut Random| match random.below(6) {
        0 => Value::list((0..random.below(3)).map(|_| Value::random(random, 1)).collect()),
        1 => Value::random_key(random),
        2 => Value::random_container(random),
        _ => Value::Int(random.integer(-3, 20)),
    };
    let code = *random.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 17, 18]);
    let code = if random.chance(50) { code } else { random.integer(0, 127) };
    let mut call = vec![Value::Int(code)];
    call.extend((0..random.below(5)).map(|_| argument(random)));
    if random.chance(60) {
        return Value::list(call);
    }
    let mut context = Vec::new();
    for _ in 0..=random.below(2) {
        let step = random.integer(0, 3)
            + *random.pick(&[0, 0x10, 0x20])
            + *random.pick(&[0, 0x40, 0x80, 0xc0, 0x180]);
        context.extend([Value::Int(step), argument(random)]);
    }
    Value::list(vec![Value::Int(0xff), Value::list(context), Value::list(call)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_damaged_container_never_harms(seed: u64, damage in vec((any::<usize>(), any::<u8>()), 0..4), cut: u8) {
        let mut random = Random::new(seed);
        let Particle::Bytes(bytes_type, bytes) = Value::random_container(&mut random).stored(&mut random) else {
            unreachable!("a container is bytes");
        };
        let mut bytes = bytes.into_owned();
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if cut < 20 {
            bytes.truncate(bytes.len().saturating_sub(usize::from(cut)));
        }
        let bin = Particle::owned(bytes_type, bytes);
        for _ in 0..4 {
            let call = random_call(&mut random).packed();
            let _ = read(Some(&bin), &call);
            if let Ok(modified) = modify(Some(&bin), &call)
                && let Change::Set(particle) = &modified.bin
            {
                let _ = read(Some(particle), &[0x91, 16]);
            }
        }
    }

    #[test]
    fn any_call_ends_in_an_answer_or_a_code(payload in vec(any::<u8>(), 0..24), seed: u64) {
        let mut random = Random::new(seed);
        let bin = Value::random_container(&mut random).stored(&mut random);
        let mut call = random_call(&mut random).packed();
        let at = random.below(call.len());
        call[at] = payload.first().copied().unwrap_or(0xc1);
        for bin in [Some(&bin), None] {
            for payload in [&payload, &call] {
                let _ = read(bin, payload);
                let _ = modify(bin, payload);
            }
        }
        let _ = value_at(&bin, &payload, &Budget::unlimited());
        let _ = list_from_wire(&payload);
        let _ = map_from_wire(&payload);
    }
}

fn list(bytes: &[u8]) -> Particle<'static> {
    Particle::owned(BytesType::List, list_from_wire(bytes).unwrap().into_owned())
}

#[test]
fn a_far_index_does_not_become_memory() {
    let bin = list(&[0x90]);
    for index in [[0xce, 0x7f, 0xff, 0xff, 0xf0], [0xce, 0x3f, 0xff, 0xff, 0xff]] {
        let call = [&[0x93, 3], &index[..], &[1]].concat();
        assert_eq!(modify(Some(&bin), &call), Err(ResultCode::RecordTooBig));
        let set = [&[0x93, 9], &index[..], &[1]].concat();
        assert_eq!(modify(Some(&bin), &set), Err(ResultCode::RecordTooBig));
        let create = [&[0x93, 0xcc, 0xff, 0x92, 0xcc, 0x90], &index[..], &[0x92, 1, 1]].concat();
        assert_eq!(modify(Some(&bin), &create), Err(ResultCode::RecordTooBig));
        assert_eq!(modify(None, &create), Err(ResultCode::RecordTooBig));
    }
    assert_eq!(
        modify(Some(&bin), &[0x93, 3, 0xce, 0x80, 0, 0, 0, 1]),
        Err(ResultCode::OpNotApplicable),
        "beyond 31 bits there is nothing"
    );
}

#[test]
fn many_wildcards_do_not_become_memory() {
    let mut items = vec![0xdc, 0xff, 0xff];
    items.extend([0xd4, 0xff, 0].repeat(0xffff));
    let mut bytes = vec![0xdc, 0x27, 0x11, 0xc7, 0, 1];
    bytes.extend([5; 10_000]);
    let bin = list(&bytes);
    let call = [&[0x93, 23, 7], &items[..]].concat();
    assert_eq!(read(Some(&bin), &call), Err(ResultCode::Parameter));
}

#[test]
fn deep_values_are_neither_stored_nor_a_danger() {
    let mut deep = vec![0x91; 10_000];
    deep.push(1);
    assert_eq!(list_from_wire(&deep), Err(ResultCode::Unknown));
    let append = [&[0x92, 1], &deep[..]].concat();
    assert_eq!(modify(Some(&list(&[0x90])), &append), Err(ResultCode::Parameter));
    // Another server may have stored this value.
    let stored = Particle::owned(BytesType::List, deep.clone());
    assert_eq!(read(Some(&stored), &[0x91, 16]), Ok(Some(Particle::Integer(1))));
    let by_value = [&[0x93, 20, 1], &deep[1..]].concat();
    assert_eq!(read(Some(&stored), &by_value), Ok(Some(Particle::Integer(0))));
    assert_eq!(list_to_wire(&deep).len(), deep.len());
    let mut context = vec![0x93, 0xcc, 0xff, 0xdc, 0x27, 0x10];
    context.extend([0x10, 0].repeat(5_000));
    context.extend([0x91, 16]);
    assert_eq!(read(Some(&stored), &context), Ok(Some(Particle::Integer(1))));
}

/// The C server makes such lists, and then takes their first element for flags and an index.
#[test]
fn no_operation_makes_a_list_that_would_be_misread() {
    const EXTENSION: [u8; 3] = [0xd4, 5, 6];
    let refused: [(&[u8], &[u8]); 12] = [
        // The operations are append, insert, set, and the same with items.
        (&[0x90], &[0x92, 1, 0xd4, 5, 6]),
        (&[0x90], &[0x92, 2, 0x92, 0xc7, 0, 0, 0xd4, 5, 6]),
        (&[0x91, 1], &[0x93, 3, 0, 0xd4, 5, 6]),
        (&[0x91, 1], &[0x93, 4, 0, 0x93, 0xc7, 0, 1, 0xd4, 5, 6, 0xd4, 5, 7]),
        (&[0x91, 1], &[0x93, 9, 0, 0xd4, 5, 6]),
        (&[0x91, 0x91, 1], &[0x93, 0xcc, 0xff, 0x92, 0x10, 0, 0x93, 9, 0, 0xd4, 5, 6]),
        (&[0x90], &[0x92, 1, 0x92, 0xc7, 0, 0, 0xd4, 5, 6]),
        // The operations are remove, pop, trim, and removal by value.
        (&[0x92, 1, 0xd4, 5, 6], &[0x92, 7, 0]),
        (&[0x92, 1, 0xd4, 5, 6], &[0x92, 5, 0]),
        (&[0x92, 1, 0xd4, 5, 6], &[0x93, 10, 1, 1]),
        (&[0x92, 1, 0xd4, 5, 6], &[0x93, 35, 0, 1]),
        // The flag for order is dropped, the one for the index stays.
        (&[0x92, 0xc7, 0, 1, 0xd4, 5, 6], &[0x92, 0, 0x10]),
    ];
    for (stored, call) in refused {
        assert_eq!(modify(Some(&list(stored)), call), Err(ResultCode::Parameter), "{call:x?} on {stored:x?}");
    }
    assert_eq!(list_from_wire(&[0x92, 0xc7, 0, 0, 0xd4, 5, 6]), Err(ResultCode::Parameter));
    let append = [&[0x92, 1], &EXTENSION[..]].concat();
    for stored in [&[0x91, 1][..], &[0x91, 0xc7, 0, 1]] {
        let modified = modify(Some(&list(stored)), &append).unwrap();
        assert_eq!(modified.result, Some(Particle::Integer(if stored.len() == 2 { 2 } else { 1 })));
    }
}

/// The C server does this too, as the recorded operations show. No client may write such a map.
#[test]
fn a_context_makes_a_pair_of_any_key() {
    let call = |key: &[u8]| [&[0x93, 0xcc, 0xff, 0x92, 0x62], key, &[0x93, 67, 1, 1]].concat();
    for key in [&[0xc0][..], &[0xc3], &[0x90], &[0xcb, 0, 0, 0, 0, 0, 0, 0, 0], &[0xa2, 0x14, 0x22]] {
        let Change::Set(bin) = modify(None, &call(key)).unwrap().bin else { panic!("{key:x?}") };
        let inner = [&[0x81], key, &[0x81, 1, 1]].concat();
        assert_eq!(bin, Particle::owned(BytesType::Map, inner.clone()));
        assert_eq!(map_from_wire(&inner), Err(ResultCode::Unknown), "{key:x?}");
        let size = [&[0x93, 0xcc, 0xff, 0x92, 0x22], key, &[0x91, 96]].concat();
        assert_eq!(read(Some(&bin), &size), Ok(Some(Particle::Integer(1))), "{key:x?}");
    }
}

#[test]
fn keys_that_repeat_are_refused() {
    assert_eq!(map_from_wire(&[0x82, 1, 1, 1, 2]), Err(ResultCode::Unknown));
    let map = Particle::owned(BytesType::Map, map_from_wire(&[0x80]).unwrap().into_owned());
    assert_eq!(modify(Some(&map), &[0x92, 68, 0x82, 1, 1, 1, 2]), Err(ResultCode::Parameter));
    assert_eq!(modify(Some(&map), &[0x93, 67, 1, 0x82, 1, 1, 1, 2]), Err(ResultCode::Parameter));
}
