//! Operations on values that no client can write: values of a record that was damaged on its device.

use cf::msgpack::{put_integer, put_unsigned};
use proptest::collection::vec;
use proptest::prelude::*;
use proto::ResultCode;

use super::{modify, read};
use crate::cdt::call::codes;
use crate::change::{Change, Modified};
use crate::particle::{BytesType, Particle};

/// Bytes that only a damaged record can hold. Some headers are wrong about the bytes that follow.
fn raw_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => (0u8..0xa4).prop_map(|byte| vec![byte]),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        // Headers with large counts, and descriptions with all flags and an index of any content.
        1 => prop::sample::select(vec![0xdcu8, 0xde]).prop_map(|marker| vec![marker, 0xff, 0xff]),
        1 => prop::sample::select(vec![0xddu8, 0xdf]).prop_map(|marker| vec![marker, 0xff, 0xff, 0xff, 0xff]),
        1 => (0u8..0x14, vec(any::<u8>(), 0..8))
            .prop_map(|(flags, index)| [&[0xc7, index.len() as u8, flags][..], &index, &[0xc0]].concat()),
    ];
    let head = prop_oneof![
        (0u8..16).prop_map(|count| vec![0x90 | count]),
        (0u8..16).prop_map(|count| vec![0x80 | count]),
        (0u8..16, 0u8..0x20).prop_map(|(count, flags)| vec![0x90 | count, 0xc7, 0, flags]),
        (0u8..8, 0u8..0x20, vec(any::<u8>(), 0..10)).prop_map(|(count, flags, index)| {
            [&[0x80 | count, 0xc7, index.len() as u8, flags][..], &index, &[0xc0]].concat()
        }),
        any::<u32>().prop_map(|count| [&[0xdd][..], &count.to_be_bytes()].concat()),
        any::<u32>().prop_map(|count| [&[0xdf][..], &count.to_be_bytes()].concat()),
    ];
    (head, vec(piece, 0..20)).prop_map(|(head, pieces)| [head, pieces.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn operations_on_damaged_values_are_answered(
        bytes in raw_bytes(), numbers in vec(-3i64..20, 3), value in 0u8..20, depth in any::<bool>(),
    ) {
        for bytes_type in [BytesType::List, BytesType::Map] {
            let bin = Particle::owned(bytes_type, bytes.clone());
            for code in codes() {
                let mut call = Vec::new();
                // Calls have one to three arguments. The last one is a number, a list or a map.
                for count in 1u8..4 {
                    call.clear();
                    if depth {
                        call.extend_from_slice(&[0x93, 0xcc, 0xff, 0x92, 0x00, 0x00]);
                    }
                    call.push(0x91 + count);
                    put_unsigned(&mut call, code.into());
                    numbers.iter().take(usize::from(count) - 1).for_each(|number| put_integer(&mut call, *number));
                    let last: &[u8] = match value {
                        0..10 => &[value],
                        10..13 => &[0x92, 1, 2],
                        13..16 => &[0x82, 1, 2, 2, 1],
                        16..18 => &[0xa2, 3, b'a'],
                        _ => &[0xd4, 0xff, 0],
                    };
                    call.extend_from_slice(last);
                    let _ = read(Some(&bin), &call);
                    if let Ok(Modified { bin: Change::Set(changed), .. }) = modify(Some(&bin), &call) {
                        let _ = read(Some(&changed), &call);
                    }
                }
            }
        }
    }
}

#[test]
fn a_header_that_promises_too_much_is_refused() {
    for bytes in [
        &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2],
        &[0x93, 1, 2],
        &[0x94, 0xc7, 0, 1, 1, 2],
    ] {
        let bin = Particle::owned(BytesType::List, bytes.to_vec());
        assert_eq!(read(Some(&bin), &[0x91, 16]), Err(ResultCode::IncompatibleType), "{bytes:x?}");
        assert_eq!(modify(Some(&bin), &[0x92, 1, 5]), Err(ResultCode::Parameter), "{bytes:x?}");
        assert_eq!(modify(Some(&bin), &[0x93, 35, 5, 5]), Err(ResultCode::Parameter), "{bytes:x?}");
    }
    for bytes in
        [&[0xdf, 0x7f, 0xff, 0xff, 0xff, 1, 2][..], &[0xdf, 0xff, 0xff, 0xff, 0xff], &[0x82, 1, 2, 3]]
    {
        let bin = Particle::owned(BytesType::Map, bytes.to_vec());
        assert_eq!(read(Some(&bin), &[0x91, 96]), Err(ResultCode::Parameter), "{bytes:x?}");
        assert_eq!(modify(Some(&bin), &[0x93, 67, 1, 1]), Err(ResultCode::Parameter), "{bytes:x?}");
    }
}
