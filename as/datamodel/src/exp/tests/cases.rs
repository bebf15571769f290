//! Tests of each operator, and of invalid expressions.

use super::packed::{NIL, Packed, bin, exp, list, name, quoted, raw};
use super::{CIRCLE, FAR_CIRCLE, POINT, Truth, filter};
use crate::exp::Expression;

/// The value is known even before the record is read.
#[track_caller]
fn known(expression: &Packed, value: bool) {
    let truth = if value { Truth::True } else { Truth::False };
    assert_eq!(filter(&expression.0), Some((truth, value)), "{expression:x?}");
}

/// The value is known when the record has been read.
#[track_caller]
fn found(expression: &Packed, value: bool) {
    assert_eq!(filter(&expression.0), Some((Truth::Unknown, value)), "{expression:x?}");
}

/// The value is unknown even then: neither the expression nor its negation is true.
#[track_caller]
fn unknown(expression: &Packed) {
    assert_eq!(filter(&expression.0), Some((Truth::Unknown, false)), "{expression:x?}");
    let opposite = exp!(18, expression.clone());
    assert_eq!(filter(&opposite.0), Some((Truth::Unknown, false)), "not {expression:x?}");
}

#[track_caller]
fn refused(expression: &Packed) {
    assert_eq!(filter(&expression.0), None, "{expression:x?}");
}

fn nil() -> Packed {
    Packed(NIL.to_vec())
}

fn equal(left: Packed, right: impl Into<Packed>) -> Packed {
    exp!(1, left, right.into())
}

#[test]
fn comparisons() {
    for (code, less, same, greater) in [
        (1, false, true, false),
        (2, true, false, true),
        (3, false, false, true),
        (4, false, true, true),
        (5, true, false, false),
        (6, true, true, false),
    ] {
        for (low, high) in [
            (Packed::from(-1), Packed::from(5)),
            (Packed::from(-0.5), Packed::from(1e300)),
            (Packed::from(false), Packed::from(true)),
            (Packed::from("ab"), Packed::from("abc")),
            (raw(4, &[1]), raw(4, &[2])),
            (quoted(&[1.into(), 9.into()]), quoted(&[2.into()])),
        ] {
            known(&exp!(code, low.clone(), high.clone()), less);
            known(&exp!(code, low.clone(), low.clone()), same);
            known(&exp!(code, high, low), greater);
        }
        known(&exp!(code, nil(), nil()), same);
    }
}

#[test]
fn comparisons_are_between_values_of_one_type() {
    refused(&exp!(1, 1, 1.0));
    refused(&exp!(1, bin(2, "i"), bin(7, "f")));
    refused(&exp!(1, bin(9, "h"), bin(9, "h")));
    refused(&exp!(1, bin(8, "g"), bin(8, "g")));
    refused(&exp!(1, 1));
    refused(&exp!(1, 1, 1, 1));
    let wildcard = Packed(vec![0xd4, 0xff, 0]);
    known(&equal(wildcard.clone(), Packed(vec![0xd4, 0xff, 1])), true);
    refused(&equal(wildcard, 1));
    refused(&equal(Packed(vec![0xd4, 1, 1]), Packed(vec![0xd4, 1, 1])));
}

#[test]
fn maps_compare_if_their_pairs_have_an_order() {
    let ordered = Packed(vec![0x82, 0xc7, 0, 1, 0xc0, 0xa2, 3, b'a', 1]);
    found(&equal(bin(5, "m"), ordered.clone()), true);
    unknown(&equal(bin(5, "u"), Packed(vec![0x81, 1, 2])));
    known(&equal(Packed(vec![0x80]), Packed(vec![0x80])), true);
    let filter = filter(&equal(Packed(vec![0x81, 1, 2]), Packed(vec![0x81, 1, 2])).0);
    assert_eq!(filter, Some((Truth::Unknown, false)), "unknown before and after");
}

#[test]
fn bins_of_another_type_or_none_are_unknown() {
    found(&equal(bin(2, "i"), 5), true);
    found(&equal(bin(7, "f"), 1.5), true);
    found(&bin(1, "t"), true);
    found(&equal(bin(3, "s"), "abc"), true);
    found(&equal(bin(6, "b"), raw(4, &[0xf0, 0x0f])), true);
    found(&equal(bin(4, "l"), quoted(&[1.into(), 2.into(), 3.into()])), true);
    unknown(&equal(bin(2, "f"), 5));
    unknown(&equal(bin(2, "none"), 5));
    unknown(&equal(bin(0, "i"), nil()));
    refused(&equal(bin(10, "i"), 5));
    refused(&equal(bin(2, "sixteen bytes - "), 5));
    for (bin, number) in
        [("i", 1), ("f", 2), ("s", 3), ("b", 4), ("t", 17), ("m", 19), ("l", 20), ("none", 0)]
    {
        found(&equal(exp!(82, name(bin)), number), true);
    }
}

#[test]
fn unknown_is_neither_true_nor_false_and_connectives_look_past_it() {
    let unknown_value = || exp!(0);
    unknown(&unknown_value());
    known(&exp!(16, unknown_value(), false), false);
    unknown(&exp!(16, unknown_value(), true));
    known(&exp!(17, unknown_value(), true), true);
    unknown(&exp!(17, unknown_value(), false));
    unknown(&exp!(19, true, unknown_value(), true));
    known(&exp!(19, true, true, unknown_value()), false);
    known(&exp!(19, false, true, false), true);
    known(&exp!(19, false, false), false);
    known(&exp!(16, true, true, true), true);
    known(&exp!(17, false, false), false);
    found(&exp!(16, exp!(17, bin(1, "none"), bin(1, "t")), exp!(18, exp!(16, bin(1, "none"), false))), true);
    refused(&exp!(16, true));
    refused(&exp!(16, true, 1));
    refused(&exp!(18, true, true));
}

#[test]
fn arithmetic() {
    for (expression, value) in [
        (exp!(20, 1, 2, 3), 6),
        (exp!(21, 1, 2, 3), -4),
        (exp!(21, 7), -7),
        (exp!(22, 2, 3, 4), 24),
        (exp!(23, 100, 5, 2), 10),
        (exp!(23, 1), 1),
        (exp!(26, -7, 4), -3),
        (exp!(27, -7), 7),
        (exp!(30, -1.9), -1),
        (exp!(32, 12, 10), 8),
        (exp!(33, 12, 10), 14),
        (exp!(34, 12, 10, 1), 7),
        (exp!(35, 0), -1),
        (exp!(36, 1, 4), 16),
        (exp!(37, -1, 60), 15),
        (exp!(38, -16, 2), -4),
        (exp!(39, 255), 8),
        (exp!(40, 1, true), 63),
        (exp!(41, 8, true), 60),
        (exp!(50, 3, -1, 2), -1),
        (exp!(51, 3, -1, 9), 9),
        (exp!(20, i64::MAX, 1), i64::MIN),
    ] {
        known(&equal(expression, value), true);
    }
    for (expression, value) in [
        (exp!(20, 1.5, 2.0), 3.5),
        (exp!(21, 1.5), -1.5),
        (exp!(23, 9.0, 2.0, 3.0), 1.5),
        (exp!(23, 4.0), 0.25),
        (exp!(24, 2.0, 10.0), 1024.0),
        (exp!(25, 8.0, 2.0), 3.0),
        (exp!(27, -2.5), 2.5),
        (exp!(28, -2.5), -3.0),
        (exp!(29, -2.5), -2.0),
        (exp!(31, -2), -2.0),
        (exp!(51, 1.0, 2.5), 2.5),
    ] {
        known(&equal(expression, value), true);
    }
    unknown(&equal(exp!(23, 1, 0), 1));
    unknown(&equal(exp!(26, 1, 0), 1));
    refused(&equal(exp!(20), 1));
    refused(&equal(exp!(20, 1, 1.0), 1));
    refused(&equal(exp!(24, 2, 10), 1));
    refused(&equal(exp!(28, 1), 1));
    refused(&equal(exp!(40, 1, 1), 1));
}

#[test]
fn metadata_is_known_before_the_record_is_read() {
    for (code, value) in [
        (65, 0i64),
        (66, 1_262_304_900_000_000_000),
        (67, 100_000),
        (68, 1_262_305_060_000_000_000),
        (69, 60),
        (73, 112),
        (74, 112),
    ] {
        known(&equal(exp!(code), value), true);
    }
    known(&equal(exp!(70), "people"), true);
    known(&exp!(71), true);
    known(&exp!(72), false);
    known(&equal(exp!(64, 10), i64::from(0x0707_0707 % 10)), true);
    refused(&equal(exp!(64, 0), 0));
    refused(&exp!(71, 1));
}

#[test]
fn the_key_is_known_by_its_type() {
    found(&equal(exp!(80, 3), "me"), true);
    unknown(&equal(exp!(80, 2), 1));
    unknown(&equal(exp!(80, 6), raw(4, b"me")));
    refused(&equal(exp!(80, 1), true));
}

#[test]
fn regular_expressions() {
    found(&exp!(7, 1, name("^a.c$"), bin(3, "s")), true);
    found(&exp!(7, 0, name("B"), bin(3, "s")), false);
    found(&exp!(7, 2, name("B"), bin(3, "s")), true);
    unknown(&exp!(7, 0, name("b"), bin(3, "i")));
    refused(&exp!(7, 1, name("("), bin(3, "s")));
    refused(&exp!(7, 1, name("a"), bin(2, "i")));
    refused(&exp!(7, 1, 1, bin(3, "s")));
}

#[test]
fn points_and_regions() {
    let geo = |text: &[u8]| raw(23, text);
    known(&exp!(8, geo(POINT), geo(CIRCLE)), true);
    known(&exp!(8, geo(CIRCLE), geo(POINT)), true);
    known(&exp!(8, geo(FAR_CIRCLE), geo(POINT)), false);
    known(&exp!(8, geo(CIRCLE), geo(CIRCLE)), false);
    known(&exp!(8, geo(POINT), geo(POINT)), false);
    found(&exp!(8, bin(8, "g"), geo(CIRCLE)), true);
    found(&exp!(8, geo(FAR_CIRCLE), bin(8, "g")), false);
    unknown(&exp!(8, bin(8, "s"), geo(CIRCLE)));
    // Values out of a list and into a list.
    let append = exp!(127, 4, 0x40, list(&[1.into(), bin(8, "g")]), quoted(&[geo(CIRCLE), "no".into()]));
    let element = |index: i32| exp!(127, 8, 0, list(&[19.into(), 7.into(), index.into()]), append.clone());
    found(&exp!(8, element(0), element(2)), true);
    unknown(&exp!(8, element(1), element(2)));
    let bad = exp!(127, 8, 0, list(&[19.into(), 7.into(), 0.into()]), quoted(&[geo(b"{}")]));
    unknown(&exp!(8, bad, geo(CIRCLE)));
    found(&equal(exp!(82, name("g")), 23), true);
    refused(&exp!(8, geo(b"{}"), geo(POINT)));
    refused(&exp!(8, geo(b""), geo(POINT)));
    refused(&exp!(8, geo(POINT), "text"));
    refused(&exp!(8, geo(POINT)));
}

#[test]
fn conditions() {
    let sign = |of: Packed| exp!(123, exp!(3, of.clone(), 0), "+", exp!(5, of, 0), "-", "0");
    known(&equal(sign(7.into()), "+"), true);
    known(&equal(sign((-7).into()), "-"), true);
    known(&equal(sign(0.into()), "0"), true);
    unknown(&equal(sign(bin(2, "none")), "0"));
    known(&equal(exp!(123, true, 1, exp!(0)), 1), true);
    unknown(&equal(exp!(123, false, 1, exp!(0)), 1));
    unknown(&equal(exp!(123, true, exp!(0), 1), 1));
    unknown(&exp!(123, true, exp!(0), exp!(0)));
    unknown(&equal(exp!(123, true, exp!(125, name("x"), 1, exp!(0)), 1), 1));
    refused(&exp!(123, true, true));
    refused(&exp!(123, 1, true, true));
    refused(&exp!(123, true, 1, true));
    let extension = || Packed(vec![0xc7, 0, 5]);
    known(&equal(exp!(123, false, extension(), 5), 5), true);
    known(&equal(exp!(123, false, extension(), false, exp!(0), 5), 5), true);
    unknown(&equal(exp!(123, true, extension(), 5), 5));
    assert_eq!(filter(&exp!(123, true, extension(), true).0), Some((Truth::False, false)));
    refused(&equal(exp!(123, true, 5, extension()), 5));
    refused(&equal(exp!(123, true, 5, true, extension(), 5), 5));
    refused(&exp!(123, true, extension(), extension()));
    refused(&exp!(1, exp!(123, true, extension(), extension()), extension()));
}

#[test]
fn variables() {
    let x = || exp!(124, name("x"));
    known(
        &equal(exp!(125, name("x"), 3, name("y"), exp!(20, x(), 1), exp!(22, x(), exp!(124, name("y")))), 12),
        true,
    );
    known(
        &equal(
            exp!(
                125,
                name("x"),
                exp!(125, name("y"), 2, exp!(124, name("y"))),
                name("y"),
                5,
                exp!(20, x(), exp!(124, name("y")))
            ),
            7,
        ),
        true,
    );
    known(&exp!(125, name("x"), exp!(0), true), true);
    unknown(&exp!(125, name("x"), exp!(0), x()));
    let long = quoted(&vec![Packed::from(1); 20]);
    known(
        &exp!(
            125,
            name("_x1"),
            exp!(127, 4, 0x40, list(&[1.into(), 7.into()]), long),
            equal(exp!(124, name("_x1")), exp!(124, name("_x1")))
        ),
        true,
    );
    refused(&x());
    refused(&exp!(125, name("x"), true, exp!(125, name("x"), false, true)));
    refused(&exp!(125, name("x"), x(), true));
    refused(&exp!(16, exp!(125, name("x"), true, x()), x()));
    for bad in ["", "1x", "x y", "x-"] {
        refused(&exp!(125, name(bad), 1, true));
    }
    refused(&exp!(125, name("x"), 1));
    refused(&exp!(125, name("x"), 1, name("y"), true));
    refused(&exp!(125, name("x"), Packed(vec![0xd4, 0xff, 0]), equal(x(), x())));
}

#[test]
fn calls() {
    let size = |of: Packed| exp!(127, 2, 0, list(&[16.into()]), of);
    let append = |value: Packed, to: Packed| exp!(127, 4, 0x40, list(&[1.into(), value]), to);
    found(&equal(size(bin(4, "l")), 3), true);
    known(&equal(size(append(7.into(), quoted(&[1.into()]))), 2), true);
    known(&equal(append(exp!(20, 3, 4), quoted(&[1.into()])), quoted(&[1.into(), 7.into()])), true);
    found(&equal(append(bin(3, "s"), quoted(&[])), quoted(&["abc".into()])), true);
    unknown(&equal(append(bin(3, "none"), quoted(&[])), quoted(&[])));
    unknown(&equal(size(bin(4, "none")), 0));
    // The bin itself is unchanged.
    found(&exp!(16, equal(size(append(4.into(), bin(4, "l"))), 4), equal(size(bin(4, "l")), 3)), true);
    // This counts the bits of a blob that was inverted first.
    let blob = exp!(127, 6, 0x41, list(&[7.into(), 0.into(), 4.into(), 0.into()]), bin(6, "b"));
    found(&equal(exp!(127, 2, 1, list(&[51.into(), 0.into(), 16.into()]), blob), 4), true);
    // The elements have another type than the call declares.
    let first = |result: i32| exp!(127, result, 0, list(&[19.into(), 7.into(), 0.into()]), bin(4, "l"));
    found(&equal(first(2), 1), true);
    unknown(&equal(first(3), "1"));
    // The call has a context. The value of the key "a" is not a list.
    let context = list(&[0x22.into(), "a".into()]);
    let inside = exp!(127, 2, 0, list(&[0xff.into(), context, list(&[16.into()])]), bin(5, "m"));
    unknown(&equal(inside, 1));
}

#[test]
fn calls_are_checked() {
    let size = list(&[16.into()]);
    refused(&equal(exp!(127, 2, 0, size.clone(), bin(2, "i")), 3));
    refused(&equal(exp!(127, 2, 1, size.clone(), bin(4, "l")), 3));
    refused(&equal(exp!(127, 2, 3, size.clone(), bin(4, "l")), 3));
    refused(&equal(exp!(127, 10, 0, size.clone(), bin(4, "l")), 3));
    refused(&equal(exp!(127, 2, 0, list(&[]), bin(4, "l")), 3));
    refused(&equal(exp!(127, 2, 0, 16, bin(4, "l")), 3));
    refused(&equal(exp!(127, 2, 0, size.clone()), 3));
    refused(&equal(exp!(127, 2, 0, list(&[0xff.into(), size.clone()]), bin(4, "l")), 3));
    let append_items = |items: usize| {
        let mut operation: Vec<Packed> = vec![2.into()];
        operation.resize(items + 1, quoted(&[]));
        exp!(16, true, equal(exp!(127, 4, 0x40, list(&operation), quoted(&[])), quoted(&[])))
    };
    assert!(filter(&append_items(16).0).is_some());
    refused(&append_items(17));
}

#[test]
fn calls_on_nil_are_of_the_type_of_nil() {
    let append = exp!(127, 4, 0x40, list(&[1.into(), 7.into()]), nil());
    refused(&equal(append.clone(), quoted(&[7.into()])));
    unknown(&equal(append, nil()));
    refused(&equal(exp!(127, 4, 9, list(&[1.into(), 7.into()]), nil()), nil()));
}

#[test]
fn filters_are_truth_values() {
    known(&true.into(), true);
    for value in [1.into(), "a".into(), nil(), quoted(&[]), Packed(vec![0xd4, 0xff, 0]), bin(2, "i")] {
        refused(&value);
    }
    refused(&exp!(9, 1));
    refused(&exp!(128, 1));
    refused(&list(&[]));
    refused(&Packed(Vec::new()));
    refused(&Packed(vec![0xc3, 0xc3]));
    refused(&equal(raw(5, b""), raw(5, b"")));
    refused(&equal(Packed(vec![0xa0]), Packed(vec![0xa0])));
}

/// Whether a filter requires that every record is read.
fn is_open(expression: &Packed) -> bool {
    Expression::compile(&expression.0, &crate::Budget::unlimited()).unwrap().is_open
}

#[test]
fn a_filter_that_needs_the_record_is_known_as_one() {
    let has = || equal(bin(2, "i"), 5);
    let alive = || exp!(3, exp!(69), 7);
    let variable = || exp!(124, name("v"));
    let with = |value: Packed, body: Packed| exp!(125, name("v"), value, body);
    let open = [
        has(),
        equal(exp!(82, name("i")), 1),
        equal(exp!(80, 3), "me"),
        exp!(0),
        exp!(18, has()),
        exp!(3, exp!(20, exp!(69), bin(2, "i")), 7),
        exp!(7, 0, name("a"), bin(3, "s")),
        exp!(8, bin(8, "g"), raw(23, CIRCLE)),
        exp!(16, has(), has(), has()),
        exp!(17, has(), has()),
        exp!(19, has(), alive()),
        exp!(123, has(), true, false),
        with(has(), variable()),
        with(1.into(), has()),
        equal(exp!(127, 2, 0, list(&[16.into()]), bin(4, "l")), 3),
        equal(exp!(127, 2, 0, list(&[19.into(), 7.into(), bin(2, "i")]), quoted(&[1.into()])), 3),
    ];
    for expression in open {
        assert!(is_open(&expression), "{expression:x?}");
        assert_eq!(filter(&expression.0).unwrap().0, Truth::Unknown, "{expression:x?}");
    }
    let to_be_asked = [
        true.into(),
        alive(),
        exp!(16, has(), alive()),
        exp!(17, alive(), has()),
        exp!(19, alive(), has()),
        exp!(123, alive(), has(), true, has(), false),
        with(has(), alive()),
        with(alive(), variable()),
        equal(exp!(127, 2, 0, list(&[16.into()]), quoted(&[1.into()])), 3),
    ];
    for expression in to_be_asked {
        assert!(!is_open(&expression), "{expression:x?}");
    }
}
