//! Hostile expressions.

use proptest::prelude::*;

use super::packed::{Packed, bin, exp, list, name, quoted};
use super::{bins, filter, modify, read, record};
use crate::budget::Budget;
use crate::exp::{Filter, flags};

/// Operators with one operand each, nested.
fn nested(code: u8, depth: usize, innermost: &[u8]) -> Vec<u8> {
    let mut expression = [0x92, code].repeat(depth);
    expression.extend_from_slice(innermost);
    expression
}

#[test]
fn depth_is_limited_and_costs_no_stack() {
    assert!(filter(&nested(18, 4_096, &[0xc3])).is_some());
    assert!(filter(&nested(18, 4_097, &[0xc3])).is_none());
    assert!(filter(&nested(18, 500_000, &[0xc3])).is_none());
    assert!(filter(&nested(16, 10_000, &[])).is_none());
    let literal = [&[0x93, 1][..], &nested(126, 1, &[0x91].repeat(100_000)), &[0x90], &[0x92, 126, 0x90]];
    assert!(filter(&literal.concat()).is_some(), "a literal may be as deep as it likes");
}

#[test]
fn size_is_limited() {
    let mut sum: Vec<Packed> = vec![20.into()];
    sum.resize(60_000, 1.into());
    assert!(filter(&exp!(1, list(&sum), 59_999).0).is_some_and(|(_, matches)| matches));
    sum.resize(70_000, 1.into());
    assert!(filter(&exp!(1, list(&sum), 69_999).0).is_none(), "1 MiB when compiled");
    let many: Vec<Packed> =
        std::iter::once(16.into()).chain((0..300).map(|_| exp!(7, 0, name("a"), "a"))).collect();
    assert!(filter(&list(&many).0).is_none(), "too many regular expressions");
}

#[test]
fn many_variables_take_linear_time() {
    let mut elements: Vec<Packed> = vec![125.into()];
    for at in 0..40_000 {
        elements.extend([name(&format!("v{at}")), 1.into()]);
    }
    elements.push(exp!(1, exp!(124, name("v39999")), 1));
    assert!(filter(&list(&elements).0).is_some_and(|(_, matches)| matches));
}

#[test]
fn values_that_double_are_given_up() {
    let items = |of: Packed, to: Packed| exp!(127, 4, 0x40, list(&[2.into(), of]), to);
    let variable = |at: usize| exp!(124, name(&format!("v{at}")));
    let mut elements: Vec<Packed> = vec![125.into(), name("v0"), quoted(&vec![Packed::from(1); 15])];
    for at in 0..60 {
        elements.extend([name(&format!("v{}", at + 1)), items(variable(at), variable(at))]);
    }
    elements.push(exp!(127, 2, 0, list(&[16.into()]), variable(60)));
    record(&bins(), |record| {
        assert!(read(record, &list(&[list(&elements)]).0).is_err(), "a list of 15 * 2^60 elements");
    });
}

#[test]
fn wrong_lengths_are_errors() {
    for bytes in [
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 16, 0xc3][..],
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 123, 0xc3],
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 125, 0xa1, b'x', 1],
        &[0xdf, 0xff, 0xff, 0xff, 0xff, 1],
        &[0xdb, 0xff, 0xff, 0xff, 0xff, 3],
        &[0x93, 81, 1, 0xdb, 0, 0, 0, 9, b't'],
        &[0x95, 127, 2, 0, 0xdd, 0xff, 0xff, 0xff, 0xff, 16, 0xc3],
        &[0xc1],
        &[0x91],
        &[0x92, 0xd3, 0x80],
    ] {
        assert_eq!(filter(bytes), None, "{bytes:x?}");
    }
}

/// An expression with every kind of element.
fn rich() -> Vec<u8> {
    let size = exp!(127, 2, 0, list(&[16.into()]), bin(4, "l"));
    let append = exp!(127, 4, 0x40, list(&[1.into(), exp!(20, size, 1), 0.into()]), bin(4, "l"));
    let body = exp!(
        16,
        exp!(1, exp!(124, name("x")), append),
        exp!(17, exp!(7, 1, name("^a+b|c$"), bin(3, "s")), exp!(18, exp!(71))),
        exp!(123, exp!(3, exp!(69), 10), bin(1, "t"), exp!(0)),
        exp!(19, exp!(1, exp!(80, 3), "me"), exp!(5, exp!(64, 7), exp!(23, 9, 2, 2))),
        exp!(4, bin(7, "f"), exp!(24, 2.0, exp!(31, exp!(82, name("b")))))
    );
    exp!(125, name("x"), quoted(&[1.into(), "two".into()]), body).0
}

proptest! {
    #[test]
    fn any_bytes_are_an_expression_or_none(bytes: Vec<u8>) {
        let _ = filter(&bytes);
    }

    #[test]
    fn every_truncated_expression_is_refused(at in 0usize..1_000) {
        let expression = rich();
        prop_assert!(filter(&expression).is_some());
        prop_assert_eq!(filter(&expression[..at % expression.len()]), None);
    }

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((0usize..1_000, any::<u8>()), 1..4)) {
        let mut expression = rich();
        for (at, byte) in changes {
            let at = at % expression.len();
            expression[at] = byte;
        }
        let _ = filter(&expression);
        let payload = [&[0x92][..], &expression, &[flags::EVAL_NO_FAIL as u8]].concat();
        record(&bins(), |record| {
            let _ = read(record, &payload);
            let _ = modify(record, false, &payload);
        });
        if let Ok(filter) = Filter::compile(&expression, &Budget::unlimited()) {
            record(&crate::Bins::new(), |record| assert!(matches!(filter.matches(record, &Budget::unlimited()), true | false)));
        }
    }
}
